"""Several flows in one record: only what is alike and whole, with exact sums, and each event accounted for."""

from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tests.wire import NOW as T
from tests.wire import SECOND
from tracer.model import RING_KINDS, Event, Kind, Role, SocketEvent
from tracer.pipeline import aggregate
from tracer.pipeline.engine import Engine
from tracer.pipeline.view import Filters

MS: Final = 1_000_000
INTERVAL: Final = SECOND
SHELL: Final[dict[str, Any]] = {"tgid": 4242, "start": T - SECOND, "comm": b"curl"}
OTHER: Final[dict[str, Any]] = {"tgid": 4243, "start": T - SECOND, "comm": b"curl"}


class Machine:
    """An engine that puts flows together, with two processes of one program."""

    def __init__(self) -> None:
        """Both processes run."""
        self.engine = Engine(wire.BOOT_ID, Filters(kinds=frozenset(RING_KINDS)), aggregate_ns=INTERVAL)
        self.engine.feed(wire.start(coverage={"moved": True}))
        self.records = 0
        self.flow = 0
        self.turn(*(wire.executed(b"/usr/bin/curl", time=T, **who) for who in (SHELL, OTHER)), now=T)

    def turn(self, *records: bytes, now: int, last: bool = False) -> list[Event]:
        """A turn with these records, and all of them let go."""
        self.records += len(records)
        return self.engine.feed(wire.turn(wire.ring_run(*records), now=now + 20 * MS, last=last))

    def flow_of(self, time: int, *, lasts: int = MS, **fields: Any) -> list[bytes]:
        """A connection that is made and ends, with 7 bytes out and 11 in."""
        self.flow += 1
        ends: dict[str, Any] = {"flow": self.flow, "opened": time, "sport": 40_000 + self.flow} | SHELL | fields
        ended = {"error": ends.pop("error", 0)}
        moved = {"moved_out": 7, "moved_in": 11, "calls_out": 1, "calls_in": 2, "retransmits": 1, "via": 1}
        if ends.get("role", Role.CONNECT) == Role.ACCEPT:
            ends["sport"], ends["dport"] = 80, ends["sport"]
        first = Kind.ACCEPT if ends.get("role") == Role.ACCEPT else Kind.CONNECT
        return [
            wire.socket(first, time=time, **ends),
            wire.socket(Kind.CLOSE, time=time + lasts, **ends | moved | ended),
        ]

    def last(self, now: int) -> tuple[list[Event], dict[str, Any]]:
        """What the last turn gives, and the ledger's rows once all of that was written."""
        turn = wire.turn(now=now, last=True)
        events = self.engine.feed(turn)
        return events, self.engine.statement(turn).body["ledger"]["by_kind"]


@pytest.fixture(name="machine")
def _machine() -> Machine:
    """With both processes running."""
    return Machine()


def sockets(events: list[Event]) -> list[SocketEvent]:
    """Those of sockets."""
    return [event for event in events if isinstance(event, SocketEvent)]


def kinds(events: list[Event]) -> list[Kind]:
    """Their kinds."""
    return [event.kind for event in sockets(events)]


def test_flows_that_are_alike_are_one_record(machine: Machine) -> None:
    """23 flows of two processes that run the same are one record with the sums and the time they took."""
    for number in range(23):
        who = OTHER if number % 2 else SHELL
        assert kinds(machine.turn(*machine.flow_of(T + number * MS, **who), now=T + number * MS + MS)) == []
    (event,) = sockets(machine.turn(now=T + 2 * SECOND))
    assert event.kind is Kind.AGGREGATE
    assert event.merged is not None
    assert (event.merged.flows, event.merged.first, event.merged.last, event.merged.longest) == (
        *(23, T, T + 23 * MS, MS),
    )
    assert (event.moved_out, event.moved_in, event.calls_out, event.calls_in) == (23 * 7, 23 * 11, 23, 46)
    assert event.retransmits == 23
    assert event.process is None
    assert event.merged.owner is not None
    assert event.merged.owner.image is not None
    assert event.merged.owner.image.executable == b"/usr/bin/curl"
    assert (event.remote, event.remote_port, event.local, event.local_port) == ("10.0.0.2", 443, "10.0.0.1", 0)
    assert (event.time, event.opened) == (T + 23 * MS, T)


def test_flows_of_one_process_keep_it(machine: Machine) -> None:
    """The record is the process's where all of them are."""
    for number in range(2):
        machine.turn(*machine.flow_of(T + number * MS), now=T + number * MS + MS)
    (event,) = sockets(machine.turn(now=T + 2 * SECOND))
    assert event.process is not None
    assert event.process.tgid == 4242


@pytest.mark.parametrize(
    "change",
    [
        {"dport": 444},
        {"daddr": bytes(10) + b"\xff\xff\x0a\x00\x00\x03"},
        {"netns": 5},
        {"uid": 5},
        {"cgroup": 5},
        {"error": 104},
        {"role": Role.ACCEPT},
    ],
    ids=str,
)
def test_what_differs_is_told_apart(machine: Machine, change: dict[str, Any]) -> None:
    """Another port, peer, namespace, user, group, outcome or direction: each flow has its own events."""
    one, other = machine.flow_of(T), machine.flow_of(T + 5 * MS, **change)
    machine.turn(*one, *other, now=T + 9 * MS)
    found = kinds(machine.turn(now=T + 3 * SECOND))
    assert Kind.AGGREGATE not in found
    assert len(found) == 4


def test_accepted_are_by_their_own_port_and_the_peer(machine: Machine) -> None:
    """The port that the peer's kernel chose is nobody's."""
    for number in range(3):
        machine.turn(*machine.flow_of(T + number * MS, role=Role.ACCEPT), now=T + number * MS + MS)
    (event,) = sockets(machine.turn(now=T + 2 * SECOND))
    assert event.kind is Kind.AGGREGATE
    assert (event.local_port, event.remote_port, event.remote) == (80, 0, "10.0.0.2")


def test_failed_connects_are_alike_by_their_error(machine: Machine) -> None:
    """Five that were refused and one that timed out are one record, and one event."""
    failed = [
        wire.socket(Kind.CONNECT, time=T + at, flow=at, error=110 if at == 3 else 111, **SHELL) for at in range(1, 7)
    ]
    machine.turn(*failed, now=T + MS)
    events = sockets(machine.turn(now=T + 2 * SECOND))
    assert sorted((event.kind, event.error) for event in events) == [(Kind.CONNECT, 110), (Kind.AGGREGATE, 111)]
    (merged,) = [event.merged for event in events if event.merged is not None]
    assert merged.flows == 5


def test_flow_that_is_open_for_longer_is_told(machine: Machine) -> None:
    """Its opening comes when the interval is over, with the time that it had, and its end by itself."""
    opened, closed = machine.flow_of(T, lasts=3 * SECOND)
    assert kinds(machine.turn(opened, now=T)) == []
    (event,) = sockets(machine.turn(now=T + 2 * SECOND))
    assert (event.kind, event.time) == (Kind.CONNECT, T)
    assert kinds(machine.turn(closed, now=T + 3 * SECOND)) == []
    assert kinds(machine.turn(now=T + 4 * SECOND)) == [Kind.CLOSE]


def test_what_is_still_held_is_not_put_together(machine: Machine) -> None:
    """A process may read on after the close: the sums would not be exact."""
    told = []
    for number in range(2):
        told += kinds(machine.turn(*machine.flow_of(T + number * MS, slot=5), now=T + number * MS + MS))
    told += kinds(machine.turn(now=T + 2 * SECOND))
    assert told == [Kind.CONNECT, Kind.CLOSE] * 2


def test_what_runs_is_unknown(machine: Machine) -> None:
    """Of a process whose program nobody knows nothing is put together."""
    told = []
    for number in range(2):
        stranger: dict[str, Any] = {"tgid": 77, "start": T, "comm": b"x"}
        told += kinds(machine.turn(*machine.flow_of(T + number * MS, **stranger), now=T + number * MS + MS))
    assert told + kinds(machine.turn(now=T + 2 * SECOND)) == [Kind.CONNECT, Kind.CLOSE] * 2


def test_end_lets_go_of_everything(machine: Machine) -> None:
    """With the last turn nothing waits any more, and each event is accounted for."""
    for number in range(3):
        machine.turn(*machine.flow_of(T + number * MS), now=T + number * MS + MS)
    machine.turn(machine.flow_of(T + 5 * MS, dport=5)[0], now=T + 5 * MS)
    events, rows = machine.last(T + 50 * MS)
    assert sorted(kinds(events)) == [Kind.CONNECT, Kind.AGGREGATE]
    assert (rows["connect"]["aggregated"], rows["close"]["aggregated"]) == (3, 3)
    assert (rows["connect"]["in_flight"], rows["aggregate"]["in_flight"]) == (1, 1)  # handed over, not written
    assert rows["aggregate"]["attempts"] == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(1, 1500), st.booleans()), max_size=30))
def test_nothing_is_lost(flows: list[tuple[int, int, int, bool]]) -> None:
    """Whatever comes: openings and ends are told or part of a record, and all bytes are in one of them."""
    machine = Machine()
    events: list[Event] = []
    at = T
    for port, who, lasts, failed in flows:
        at += 100 * MS
        owner = (SHELL, OTHER, {"tgid": 77, "start": T, "comm": b"x"})[who]
        if failed:
            machine.flow += 1
            records = [wire.socket(Kind.CONNECT, time=at, flow=machine.flow, error=111, dport=port, **owner)]
        else:
            records = machine.flow_of(at, lasts=lasts * MS, dport=port, **owner)
        events += machine.turn(*records, now=at + 2 * SECOND)
    events += machine.last(at + 9 * SECOND)[0]
    found = sockets(events)
    whole = [event for event in found if event.kind is Kind.AGGREGATE]
    ends = [event for event in found if event.kind is Kind.CLOSE]
    several = sum(event.merged.flows for event in whole if event.merged is not None and not event.error)
    refused = sum(event.merged.flows for event in whole if event.merged is not None and event.error)
    connects = [event for event in found if event.kind is Kind.CONNECT]
    expected = sum(not failed for *_, failed in flows)
    assert several + len(ends) == expected
    assert several + len([event for event in connects if not event.error]) == expected
    assert refused + len([event for event in connects if event.error]) == len(flows) - expected
    moved = sum(event.moved_out for event in (*whole, *ends) if event.moved_out > 0)
    assert moved == 7 * expected


def test_tables_are_bounded(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What there is no room for is told as it is."""
    monkeypatch.setattr(aggregate, "PENDING_MOST", 3)
    monkeypatch.setattr(aggregate, "GROUPS_MOST", 2)
    openings = [machine.flow_of(T + at, dport=at)[0] for at in range(1, 6)]
    told = kinds(machine.turn(*openings, now=T + MS)) + kinds(machine.turn(now=T + 100 * MS))
    assert told == [Kind.CONNECT] * 2
    for port in range(10, 14):
        machine.turn(*machine.flow_of(T + 200 * MS + port, dport=port), now=T + 250 * MS)
    held = machine.engine._aggregator
    assert held is not None
    assert len(held._pending) <= 3
    assert len(held._groups) <= 2
