"""The stand-in for the rings: what goes in comes out numbered, filtered and counted, and what does not fit is loss."""

from typing import Any

import pytest

from tests import wire
from tracer.fallback.lane import Lane
from tracer.model import RING_KINDS, SOCKET_KINDS, Kind
from tracer.pipeline.ledger import Ledger
from tracer.pipeline.order import Order, RingRun
from tracer.probes.perf_event import split
from tracer.probes.records import CPU, KIND, RING, SEQ, TGID, Tally, decode, read_tallies
from tracer.probes.rings import Run
from tracer.probes.source import KernelFilters

ALL = KernelFilters(SOCKET_KINDS, frozenset(), False, frozenset(), frozenset(), frozenset(), [])
RECORDS = [
    wire.forked(),
    wire.executed(),
    wire.socket(Kind.CONNECT),
    wire.executed(args=[b"x" * 5000]),
    wire.socket(Kind.CLOSE),
    wire.exited(),
]


def lane(most: int = 1 << 20, excluded: tuple[int, ...] = (), **filters: Any) -> Lane:
    """A lane with these filters alone."""
    return Lane(ALL._replace(**filters), excluded, most)


def told(runs: list[Run]) -> list[tuple[Any, ...]]:
    """The records in some runs."""
    return [decode(run.data, at) for run in runs for at in run.offsets]


def counted(of: Lane, kind: Kind) -> Tally:
    """The counters of a kind."""
    ((*kinds,),) = read_tallies(of.tallies(), len(RING_KINDS))
    return kinds[kind]


def test_comes_out_as_it_went_in() -> None:
    """Each record comes out once, with all its content, in its ring, numbered from 0 without a gap."""
    ring = lane()
    assert all(ring.put(record) for record in RECORDS)
    runs, _, settled = ring.cut()
    assert settled
    found = told(runs)
    before = [decode(record, 0) for record in RECORDS]
    by_ring = [[record for record in before if (record[KIND] in SOCKET_KINDS) is of] for of in (False, True)]
    for index, wanted in enumerate(by_ring):
        got = [record for record in found if record[RING] == index]
        assert [record[SEQ] for record in got] == list(range(len(wanted)))
        assert [(*r[:SEQ], *r[SEQ + 1 : RING], *r[RING + 1 :]) for r in got] == [
            (*r[:SEQ], *r[SEQ + 1 : RING], *r[RING + 1 :]) for r in wanted
        ]
        assert {record[CPU] for record in got} == {0}
    assert ring.read(1 << 20) == []


def test_runs_are_perf_records() -> None:
    """A recording keeps the bytes alone: split() finds the same records in them."""
    ring = lane()
    for record in RECORDS:
        ring.put(record)
    for run in ring.read(1 << 20):
        assert split(run.data) == (run.offsets, 0, len(run.data))


def test_read_in_portions() -> None:
    """A limit gives whole records, at least one, and says that there is more; nothing is lost or told twice."""
    ring = lane()
    for _ in range(5):
        ring.put(wire.exited())
    sizes = []
    while runs := ring.read(1):
        (run,) = runs
        sizes.append((len(run.offsets), run.drained))
    assert sizes == [(1, False)] * 4 + [(1, True)]


def test_full_is_counted_loss() -> None:
    """What does not fit is counted as attempted and failed for want of room, and its number never comes.

    The other ring is not touched by it; what is read makes room again.
    """
    ring = lane(4096)
    for _ in range(100):
        ring.put(wire.socket(Kind.CONNECT))
    assert ring.put(wire.exited())
    ring.read(1 << 20)
    assert ring.put(wire.socket(Kind.CONNECT))
    tally = counted(ring, Kind.CONNECT)
    assert (tally.attempts, tally.filtered) == (101, 0)
    assert 0 < tally.emitted < 20
    assert tally.failed == tally.no_space == 101 - tally.emitted
    assert 0 < tally.failed_first <= tally.failed_last
    assert told(ring.read(1 << 20))[0][SEQ] == 100


def test_ledger_of_it_balances() -> None:
    """The pipeline's own account of a lane that lost and filtered: it balances, and the gaps are explained."""
    ring = lane(4096, pids=frozenset({4242}))
    order, ledger = Order(), Ledger()
    for _ in range(50):
        ring.put(wire.socket(Kind.CLOSE))
        ring.put(wire.socket(Kind.CLOSE, tgid=1))
    kept = [ring.read(1 << 20)]
    ring.put(wire.socket(Kind.CLOSE))
    runs, tallies, _ = ring.cut()
    for run in [*kept[0], *runs]:
        order.add(RingRun(run.cpu, run.ring, run.data, run.records_lost, run.drained, run.offsets))
    ledger.tallies(tallies)
    released, _ = order.release(None)
    ledger.delivered[Kind.CLOSE] += len(released)
    body = ledger.statement(
        in_flight=order.held_by_kind(),
        undecodable=order.undecodable,
        missing=order.missing,
        missed={},
        evicted={},
        final=True,
    )
    close = body["by_kind"]["close"]
    assert body["balanced"]
    assert not body["complete"]
    assert close["attempts"] == 101
    assert close["filtered"] == 50
    assert close["lost"] == close["lost_by_stage"]["emit"] == body["total"]["lost"] == 51 - len(released) > 0


SIX = bytes.fromhex("20010db8000000000000000000000001")


@pytest.mark.parametrize(
    ("filters", "wanted", "unwanted"),
    [
        ({"pids": frozenset({4242})}, {}, {"tgid": 4243}),
        ({"pids": frozenset({4242})}, {}, {"tgid": 0}),
        ({"uids": frozenset({33})}, {"uid": 33}, {"uid": 0}),
        ({"netns": frozenset({7})}, {"netns": 7}, {"netns": 8}),
        ({"ports": frozenset({443})}, {"dport": 443, "sport": 1}, {"dport": 1, "sport": 1}),
        ({"ports": frozenset({443})}, {"dport": 1, "sport": 443}, {"dport": 1, "sport": 1}),
        ({"cidrs": ["10.0.0.2/32"]}, {}, {"daddr": wire.DEFAULTS["saddr"]}),
        ({"cidrs": ["10.0.0.0/8"]}, {}, {"saddr": SIX, "daddr": SIX}),
        ({"cidrs": ["2001:db8::/32"]}, {"daddr": SIX}, {}),
        ({"cidrs": ["::/0"]}, {}, None),
        ({"kinds": frozenset({Kind.CLOSE})}, None, {}),
    ],
)
def test_filters_of_sockets(
    filters: dict[str, Any], wanted: dict[str, Any] | None, unwanted: dict[str, Any] | None
) -> None:
    """Each filter lets through what it names, from either end of a connection, and counts the rest as filtered."""
    ring = lane(**filters)
    for fields, passes in ((wanted, True), (unwanted, False)):
        if fields is not None:
            assert ring.put(wire.socket(Kind.CONNECT, **fields)) is passes
    tally = counted(ring, Kind.CONNECT)
    assert (tally.emitted, tally.filtered) == (wanted is not None, unwanted is not None)


def test_children_are_followed() -> None:
    """With follow a child of a wanted process is wanted, and so are its children, until it ends."""
    ring = lane(pids=frozenset({10}), follow=True)
    assert ring.put(wire.forked(tgid=11, parent_tgid=10))
    assert ring.put(wire.forked(tgid=12, parent_tgid=11))
    assert ring.put(wire.socket(Kind.CONNECT, tgid=12))
    assert not ring.put(wire.forked(tgid=13, parent_tgid=1))
    assert ring.put(wire.exited(tgid=11))
    assert not ring.put(wire.forked(tgid=11, parent_tgid=1)), "the pid came again"
    ring.follow({50})
    assert ring.put(wire.executed(tgid=50))
    assert {record[TGID] for record in told(ring.read(1 << 20))} == {11, 12, 50}


def test_without_follow_no_child() -> None:
    """A filter for pids alone lets no child through."""
    ring = lane(pids=frozenset({10}))
    assert not ring.put(wire.forked(tgid=11, parent_tgid=10))
    assert not ring.put(wire.executed(tgid=11))


def test_excluded_is_never_told() -> None:
    """Neither an excluded process, nor its sockets, nor that it forked."""
    ring = lane(excluded=(10,))
    assert not ring.put(wire.executed(tgid=10))
    assert not ring.put(wire.socket(Kind.CONNECT, tgid=10))
    assert not ring.put(wire.forked(tgid=11, parent_tgid=10))
    assert counted(ring, Kind.FORK).filtered == 1
