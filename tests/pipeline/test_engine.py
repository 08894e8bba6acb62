"""The engine: records in, events out in order with the right owners, and an account of every one of them."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tests.wire import NOW as T
from tracer.model import RING_KINDS, Event, ExecFailed, Kind, Notice, ProcessEvent, ProcessExited, SocketEvent
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import Input, Known, Lost, Turn, Unheard
from tracer.pipeline.view import Filters
from tracer.probes.records import DecodeError

MS = 1_000_000
ALL = Filters(kinds=frozenset(RING_KINDS))


@pytest.fixture(name="engine")
def _engine() -> Engine:
    """An engine that shows everything."""
    return Engine(wire.BOOT_ID, ALL)


def feed(engine: Engine, item: Input) -> list[Event]:
    """All events of one input."""
    return list(engine.feed(item))


def last(*items: bytes, ring: int = 0, **options: Any) -> Turn:
    """A last turn with these records in one ring."""
    return wire.turn(wire.ring_run(*items, ring=ring), last=True, **options)


def counted(kind: Kind, count: int) -> bytes:
    """The kernel's counters after as many records of a kind, all of them emitted."""
    return wire.tallies({(0, kind): {"attempts": count, "emitted": count}})


def ledger(engine: Engine, turn: Turn) -> dict[str, Any]:
    """The ledger's body."""
    notice = engine.statement(turn)
    assert (notice.action, notice.event_kind) == ("tracer-ledger", "metric")
    body: dict[str, Any] = notice.body["ledger"]
    return body


def test_boot_id_must_be_one() -> None:
    """An engine can't be made without the boot id: entity ids would be wrong."""
    with pytest.raises(ValueError, match="UUID"):
        Engine("nonsense", ALL)


def test_session_begins_with_itself(engine: Engine) -> None:
    """The first events say what is covered and who started it, whatever the filters."""
    for made in (engine, Engine(wire.BOOT_ID, Filters(kinds=frozenset(), pids=frozenset({1})))):
        events = feed(made, wire.start(coverage={"blind": ["x"]}, started={"uid": 5}))
        assert sorted(event.action for event in events if isinstance(event, Notice)) == [
            "tracer-coverage",
            "tracer-session-start",
        ]
        bodies: dict[str, Any] = {}
        for event in events:
            assert isinstance(event, Notice)
            bodies |= event.body
        assert bodies == {"coverage": {"blind": ["x"]}, "session": {"uid": 5}}
        assert made.offset == wire.OFFSET


def test_lost_backend_is_told(engine: Engine) -> None:
    """A loss is a record with what was found and since when, and no ledger after it says that nothing is missing."""
    feed(engine, wire.start())
    assert ledger(engine, last())["complete"]
    (event,) = feed(engine, Lost(T + 9, T, "core", ["process_exec: its link is closed"]))
    assert isinstance(event, Notice)
    assert (event.action, event.time) == ("tracer-backend", T + 9)
    assert event.body["change"] == {
        "state": "lost",
        "backend": "core",
        "reasons": ["process_exec: its link is closed"],
        "first": T,
    }
    body = ledger(engine, last())
    assert body["balanced"]
    assert not body["complete"]
    assert body["missed"]["gaps"] == 1


def test_session_that_goes_on_says_so(engine: Engine) -> None:
    """A session after a loss begins with the interval of which nobody knows what is missing."""
    gap = {"backend": "netlink", "reasons": ["overrun"], "first": T - 5}
    (event,) = (each for each in feed(engine, wire.start(gap=gap)) if each[0] == "tracer-backend")
    assert isinstance(event, Notice)
    assert event.body["change"] == {**gap, "state": "restarted", "last": wire.NOW}
    assert ledger(engine, last())["missed"]["gaps"] == 1


def test_life_of_a_process(engine: Engine) -> None:
    """Fork, failed exec, exec and exit of one process: four events of one identity, with what each says."""
    common: dict[str, Any] = {"tgid": 20, "tid": 20, "start": T}
    events = feed(
        engine,
        last(
            wire.forked(seq=0, time=T, **common),
            wire.exec_failed(b"/no", [b"no", b"-x"], seq=1, time=T + 1, error=13, **common),
            wire.executed(b"/bin/x", seq=2, time=T + 2, **common),
            wire.exited(seq=3, time=T + 3, status=9, cpu_ns=5, max_rss=6, **common),
        ),
    )
    fork, failed, execution, end = events
    assert isinstance(fork, ProcessEvent)
    assert isinstance(failed, ExecFailed)
    assert isinstance(execution, ProcessEvent)
    assert isinstance(end, ProcessExited)
    assert [fork.kind, failed.kind, execution.kind, end.kind] == [Kind.FORK, Kind.EXEC_FAILED, Kind.EXEC, Kind.EXIT]
    assert [event.time for event in events] == [T, T + 1, T + 2, T + 3]
    assert len({event.process.entity_id for event in (fork, failed, execution, end)}) == 1
    assert [each.process.image and each.process.image.executable for each in (fork, execution, end)] == [
        None,
        b"/bin/x",
        b"/bin/x",
    ]
    assert (failed.error, failed.requested, failed.args) == (13, b"/no", b"no\0-x\0")
    assert (end.status, end.cpu_ns, end.max_rss) == (9, 5, 6)


def test_events_are_as_of_their_moment(engine: Engine) -> None:
    """While an event is looked at, its process is what it was then: the next exec has not happened yet."""
    records = [
        wire.executed(b"/bin/one", seq=0, time=T, comm=b"one"),
        wire.executed(b"/bin/two", seq=1, time=T + 1, comm=b"two"),
    ]
    seen = []
    for event in engine.feed(last(*records)):
        assert isinstance(event, ProcessEvent)
        assert event.process.image is not None
        seen.append((event.process.comm, event.process.image.executable))
    assert seen == [(b"one", b"/bin/one"), (b"two", b"/bin/two")]


def test_socket_events_have_the_process_of_the_exec(engine: Engine) -> None:
    """A connection's owner is the process known from its exec, though the records come from another ring."""
    events = feed(
        engine,
        wire.turn(
            wire.ring_run(wire.socket(Kind.CONNECT, time=T + 2), wire.socket(Kind.CLOSE, time=T + 4, seq=1), ring=1),
            wire.ring_run(wire.executed(b"/bin/nc", time=T + 1), wire.exited(time=T + 3, seq=1)),
            last=True,
        ),
    )
    execution, opened, end, closed = events
    assert isinstance(execution, ProcessEvent)
    assert isinstance(opened, SocketEvent)
    assert isinstance(end, ProcessExited)
    assert isinstance(closed, SocketEvent)
    assert execution.process is opened.process is end.process is closed.process


def test_turns_hold_and_order(engine: Engine) -> None:
    """A record of one turn waits for an earlier one of the next turn's ring."""
    first = wire.turn(wire.ring_run(wire.executed(time=T)), now=T)
    second = wire.turn(wire.ring_run(wire.executed(time=T - 5, cpu=1), cpu=1), now=T + 50 * MS)
    assert feed(engine, first) == []
    assert engine.order.holds
    assert [event.time for event in feed(engine, second)] == [T - 5, T]


def test_late_events_are_marked(engine: Engine) -> None:
    """What comes after its time has passed is shown, marked late, and the only one so marked; the ledger counts it."""
    feed(engine, wire.turn(now=T + 50 * MS))
    turn = wire.turn(
        wire.ring_run(wire.executed(time=T), wire.executed(time=T + 40 * MS, seq=1)), now=T + 100 * MS, last=True
    )
    events = feed(engine, turn)
    assert [event.late for event in events if isinstance(event, ProcessEvent)] == [True, False]
    assert ledger(engine, turn)["late"] == 1


def test_found_ones_are_shown_first(engine: Engine) -> None:
    """What the iterators found becomes events of the snapshot's kinds, which own later sockets."""
    processes = wire.framed(wire.executed(b"/bin/nc", kind=Kind.PROCESS_FOUND, comm=b"nc"))
    sockets = wire.framed(wire.socket(Kind.SOCKET_FOUND, opened=0, role=0, comm=b"nc"))
    running, found = feed(engine, wire.found(processes, sockets))
    assert isinstance(running, ProcessEvent)
    assert isinstance(found, SocketEvent)
    assert (running.kind, found.kind) == (Kind.PROCESS_FOUND, Kind.SOCKET_FOUND)
    assert found.process is running.process
    (closed,) = feed(engine, last(wire.socket(Kind.CLOSE, comm=b"nc"), ring=1))
    assert isinstance(closed, SocketEvent)
    assert closed.process is running.process


def test_filters_are_applied_and_counted(engine: Engine) -> None:
    """What is not wanted is not shown, and the ledger has it as filtered."""
    engine = Engine(wire.BOOT_ID, Filters(kinds=frozenset(RING_KINDS), comms=["nc"]))
    turn = last(
        wire.executed(comm=b"nc", tgid=1, seq=0),
        wire.executed(comm=b"x", tgid=2, seq=1),
        counters=counted(Kind.EXEC, 2),
    )
    assert len(feed(engine, turn)) == 1
    engine.delivered(Counter({int(Kind.EXEC): 1}))
    body = ledger(engine, turn)
    assert body["balanced"]
    assert body["complete"]
    assert (body["by_kind"]["exec"]["delivered"], body["by_kind"]["exec"]["filtered"]) == (1, 1)


def test_descendants_are_found_in_any_order() -> None:
    """With children the snapshot shows a wanted process's descendants, though the iterator gave them before it."""
    engine = Engine(wire.BOOT_ID, Filters(kinds=frozenset(RING_KINDS), pids=frozenset({10}), children=True))
    family = ((30, 20), (20, 10), (10, 1), (21, 11))
    found = [
        wire.executed(kind=Kind.PROCESS_FOUND, tgid=child, start=T, parent_tgid=parent, parent_start=T)
        for child, parent in family
    ]
    events = feed(engine, wire.found(wire.framed(*found)))
    assert [event.process.tgid for event in events if isinstance(event, ProcessEvent)] == [30, 20, 10]
    assert engine.ledger.filtered == {Kind.PROCESS_FOUND: 1}


@pytest.mark.parametrize("shown", [True, False])
def test_parents_are_known_before_their_children(shown: bool) -> None:
    """Where pids have started over a child is found before its parent, and has the parent's name all the same."""
    engine = Engine(wire.BOOT_ID, ALL)
    processes = wire.framed(
        wire.executed(kind=Kind.PROCESS_FOUND, tgid=5, start=T + MS, parent_tgid=40_000, parent_start=T),
        wire.executed(b"/bin/parent", kind=Kind.PROCESS_FOUND, tgid=40_000, start=T, comm=b"parent"),
    )
    feed(engine, wire.found(processes) if shown else Known(processes))
    child = engine.processes.find(5, T + MS)
    assert child is not None
    assert child.parent is not None
    assert (child.parent.name, child.parent.executable) == (b"parent", b"/bin/parent")


def test_learning_shows_nothing() -> None:
    """Processes that are learned quietly are known, give no event, and are no attempt; what is known better stays."""
    engine = Engine(wire.BOOT_ID, ALL)
    feed(engine, last(wire.executed(b"/bin/new", tgid=5, start=T, comm=b"new")))
    known = engine.processes.find(5, T)
    framed = wire.framed(
        wire.executed(b"/bin/old", kind=Kind.PROCESS_FOUND, tgid=5, start=T, comm=b"old"),
        wire.executed(b"/bin/other", kind=Kind.PROCESS_FOUND, tgid=6, start=T),
    )
    assert engine.feed(Known(framed)) == []
    assert known is engine.processes.find(5, T)
    assert known is not None
    assert known.comm == b"new"
    assert engine.processes.find(6, T) is not None
    assert engine.ledger.found == {}


def test_count_ends_what_is_shown() -> None:
    """After as many events as were asked for the rest is filtered; the tracer's own are beyond the count."""
    engine = Engine(wire.BOOT_ID, ALL, 3)
    assert len(feed(engine, wire.start())) == 2
    turn = last(*(wire.executed(seq=i, time=T + i) for i in range(5)), counters=counted(Kind.EXEC, 5))
    assert [event.time for event in feed(engine, turn)] == [T, T + 1, T + 2]
    assert engine.full is True
    engine.delivered(Counter({int(Kind.EXEC): 3}))
    body = ledger(engine, turn)
    assert body["balanced"]
    assert (body["by_kind"]["exec"]["delivered"], body["by_kind"]["exec"]["filtered"]) == (3, 2)


def test_ledger_follows_an_event_to_its_end(engine: Engine) -> None:
    """A record is in flight while it is held and while it is queued, then delivered, and balanced all the time."""
    turn = wire.turn(wire.ring_run(wire.executed(time=T)), now=T, cut=True, counters=counted(Kind.EXEC, 1))
    assert feed(engine, turn) == []
    body = ledger(engine, turn)
    assert (body["balanced"], body["final"], body["by_kind"]["exec"]["in_flight"]) == (True, False, 1)
    turn = wire.turn(now=T + 50 * MS, cut=True, counters=counted(Kind.EXEC, 1))
    assert len(feed(engine, turn)) == 1
    body = ledger(engine, turn)
    assert (body["balanced"], body["by_kind"]["exec"]["in_flight"]) == (True, 1)
    engine.delivered(Counter({int(Kind.EXEC): 1}))
    turn = wire.turn(now=T + 60 * MS, last=True, counters=counted(Kind.EXEC, 1))
    assert feed(engine, turn) == []
    body = ledger(engine, turn)
    assert (body["balanced"], body["final"], body["complete"]) == (True, True, True)
    assert (body["by_kind"]["exec"]["in_flight"], body["by_kind"]["exec"]["delivered"]) == (0, 1)


@pytest.mark.parametrize("more", [0, 3])
def test_end_of_a_held_socket_is_told_if_it_says_more(engine: Engine, more: int) -> None:
    """What a process still read of a closed connection is an update, between the ends it had; nothing is told twice."""
    feed(engine, wire.start(coverage={"backend": "core", "hooks": {}, "blind": [], "moved": True}))
    closed = wire.socket(Kind.CLOSE, seq=0, time=T, moved_in=7, slot=5)
    tail = wire.socket(Kind.TAIL, seq=1, time=T + 1, moved_in=7 + more, saddr=bytes(16), sport=0, dport=0)
    counters = wire.tallies({(0, kind): {"attempts": 1, "emitted": 1} for kind in (Kind.CLOSE, Kind.TAIL)})
    turn = last(closed, tail, ring=1, counters=counters)
    told = [event for event in feed(engine, turn) if isinstance(event, SocketEvent)]
    assert [event.kind for event in told] == [Kind.CLOSE, Kind.TAIL][: 2 if more else 1]
    engine.delivered(Counter(int(event.kind) for event in told))
    body = ledger(engine, turn)
    assert body["balanced"]
    assert body["by_kind"]["tail"]["aggregated"] == (0 if more else 1)
    if more:
        assert told[1].moved_in == 7 + more
        ends = ("process", "local", "local_port", "remote", "remote_port", "community_id")
        assert [getattr(told[1], end) for end in ends] == [getattr(told[0], end) for end in ends]


def test_lost_at_the_sink_is_told_and_balanced(engine: Engine) -> None:
    """What could not be written is a loss notice by kind, and lost in the ledger."""
    turn = last(wire.executed(seq=0), wire.executed(seq=1), counters=counted(Kind.EXEC, 2))
    assert len(feed(engine, turn)) == 2
    (notice,) = engine.lost(Counter({int(Kind.EXEC): 2}), T, T + 5)
    assert isinstance(notice, Notice)
    assert notice.action == "tracer-loss"
    loss = notice.body["loss"]
    assert (loss["kind"], loss["stage"], loss["count"], loss["first"], loss["last"]) == ("exec", "sink", 2, T, T + 5)
    body = ledger(engine, turn)
    assert body["balanced"]
    assert not body["complete"]
    assert body["by_kind"]["exec"]["lost_by_stage"]["sink"] == 2


def test_failures_in_the_kernel_are_told(engine: Engine) -> None:
    """Records that the ring refused are a loss notice with kind, count, interval, CPUs and causes."""
    counters = wire.tallies(
        {
            (1, Kind.CLOSE): {
                "attempts": 4,
                "failed": 4,
                "no_space": 4,
                "failed_first": T + 1,
                "failed_last": T + 2,
            }
        }
    )
    turn = wire.turn(counters=counters, last=True, now=T + 3)
    (notice,) = feed(engine, turn)
    assert isinstance(notice, Notice)
    assert notice.body["loss"] == {
        "kind": "close",
        "stage": "emit",
        "count": 4,
        "first": T + 1,
        "last": T + 2,
        "cpus": [1],
        "causes": {"no_space": 4},
    }
    body = ledger(engine, turn)
    assert (body["balanced"], body["complete"], body["total"]["lost"]) == (True, False, 4)


def test_gap_without_a_failure_is_not_complete(engine: Engine) -> None:
    """A number that never came, and that no failure explains, is lost in the ring."""
    turn = last(wire.executed(seq=0), wire.executed(seq=2), counters=counted(Kind.EXEC, 3))
    feed(engine, turn)
    engine.delivered(Counter({int(Kind.EXEC): 2}))
    body = ledger(engine, turn)
    assert not body["complete"]
    assert body["total"]["lost_by_stage"]["ring"] == 1


def test_unheard_messages_are_lost_of_no_kind(engine: Engine) -> None:
    """What had no room before it was a record is told as an interval, and lost in the total, of no kind."""
    (told,) = feed(engine, Unheard("proc_connector", 9, T, T + MS, [1]))
    assert isinstance(told, Notice)
    assert told.action == "tracer-loss"
    assert told.body["loss"] == {
        "kind": "unknown",
        "stage": "ring",
        "count": 9,
        "first": T,
        "last": T + MS,
        "cpus": [1],
        "causes": {"proc_connector": 9},
    }
    feed(engine, Unheard("proc_connector", 2, T, T + MS, [0]))
    turn = last()
    feed(engine, turn)
    body = ledger(engine, turn)
    assert body["total"]["lost"] == body["total"]["lost_by_stage"]["ring"] == 11
    assert all(not row["lost"] for row in body["by_kind"].values())
    assert (body["balanced"], body["complete"]) == (True, False)


def test_missed_programs_are_told(engine: Engine) -> None:
    """What the kernel skipped is named, and ends completeness."""
    turn = wire.turn(last=True, missed={"process_exec": 3})
    feed(engine, turn)
    body = ledger(engine, turn)
    assert not body["complete"]
    assert body["missed"]["programs"] == {"process_exec": 3}


def test_clock_step_is_followed(engine: Engine) -> None:
    """The offset between the clocks is that of the newest input."""
    feed(engine, wire.start())
    feed(engine, wire.turn()._replace(offset=77))
    assert engine.offset == 77


@given(
    st.lists(
        st.tuples(st.sampled_from(list(Kind)), st.binary(min_size=400, max_size=600), st.booleans()),
        max_size=6,
    )
)
def test_hostile_records_are_events_or_undecodable(items: list[tuple[Kind, bytes, bool]]) -> None:
    """Records of any content raise nothing: each is an event, or counted as undecodable, and the ledger can be made."""
    records = []
    for kind, data, known in items:
        at = 34
        records.append(data[:at] + bytes([kind]) + data[at + 1 :] if known else data)
    engine = Engine(wire.BOOT_ID, ALL)
    turn = last(*records)
    events = [event for event in engine.feed(turn) if not isinstance(event, Notice)]
    assert len(events) + engine.order.undecodable.total() == len(records)
    ledger(engine, turn)


@given(st.binary(max_size=300), st.binary(max_size=300))
def test_hostile_iterator_output_is_refused(processes: bytes, sockets: bytes) -> None:
    """What no iterator writes is a DecodeError, and nothing else."""
    engine = Engine(wire.BOOT_ID, ALL)
    try:
        events = feed(engine, wire.found(processes, sockets))
    except DecodeError:
        return
    assert not events or len(processes) + len(sockets) > 4
