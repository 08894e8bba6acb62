"""The merge of the rings: time order within the hold, late ones marked, and gaps counted whatever the order."""

import random

from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tracer.model import Kind
from tracer.pipeline.order import Order, RingRun
from tracer.probes.records import CPU, KIND, KIND_AT, RING, SEQ, TIME, Record

SLACK = 1000


def numbered(time: int, seq: int, cpu: int = 0, ring: int = 0) -> bytes:
    """A record of this time with this number in its ring."""
    return wire.forked(time=time, seq=seq, cpu=cpu, ring=ring)


def as_it_is(record: Record, _late: bool) -> Record:
    """A handler that makes nothing of a record."""
    return record


AS_THEY_ARE = [as_it_is] * len(Kind)


def decoded(order: Order, drained_at: int | None) -> list[Record]:
    """What is released now."""
    return order.handled(order.release(drained_at)[0], AS_THEY_ARE)


def times(order: Order, drained_at: int | None) -> list[int]:
    """The times of what is released now."""
    return [record[TIME] for record in decoded(order, drained_at)]


def test_merges_rings_of_several_cpus() -> None:
    """Records of two CPUs and two rings come out by time, whichever ring was read first."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(50, 0, 1), numbered(70, 1, 1), cpu=1))
    order.add(wire.ring_run(numbered(40, 0), numbered(60, 1), numbered(80, 2)))
    order.add(wire.ring_run(numbered(45, 0, 0, 1), cpu=0, ring=1))
    assert times(order, None) == [40, 45, 50, 60, 70, 80]
    assert order.missing == 0


def test_holds_what_another_ring_may_still_precede() -> None:
    """A record stays until every ring was drained later than its time by the hold, and no longer."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(5000, 0), numbered(5001, 1)))
    assert times(order, 5000 + SLACK) == []
    assert order.holds
    assert order.held_by_kind() == {Kind.FORK: 2}
    assert times(order, 5001 + SLACK) == [5000]
    assert order.held_by_kind() == {Kind.FORK: 1}
    assert times(order, 5002 + SLACK) == [5001]
    assert not order.holds


def test_everything_at_the_end() -> None:
    """Without a time all that is held goes on, in order."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(9000, 0)))
    order.add(wire.ring_run(numbered(8000, 0, 1), cpu=1))
    assert times(order, None) == [8000, 9000]
    assert not order.holds


def test_late_ones_come_first_and_are_told() -> None:
    """What comes after its time has gone on is released at once, in order, and counted as late; the rest isn't."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(5000, 0)))
    assert times(order, 9000 + SLACK) == [5000]
    order.add(wire.ring_run(numbered(4000, 0, 1), numbered(8999, 1, 1), numbered(9000, 2, 1), cpu=1))
    records, late = order.release(10_000 + SLACK)
    assert [record[TIME] for record in records] == [4000, 8999, 9000]
    assert late == 2


def test_time_never_goes_back() -> None:
    """A turn whose rings were not drained releases nothing more, and does not open what was closed."""
    order = Order(SLACK)
    order.release(9000 + SLACK)
    order.add(wire.ring_run(numbered(9500, 0)))
    assert order.release(2000) == ([], 0)
    order.add(wire.ring_run(numbered(8000, 1)))
    records, late = order.release(2000)
    assert ([record[TIME] for record in records], late) == ([8000], 1)


def test_gap_is_loss() -> None:
    """Numbers that never come are missing, per ring and CPU, those before the first one too."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(1, 2), numbered(2, 5)))  # 0, 1, 3, 4
    order.add(wire.ring_run(numbered(1, 0, 0, 1), numbered(2, 2, 0, 1), ring=1))  # 1
    order.add(wire.ring_run(numbered(1, 1, 1), cpu=1))  # 0
    assert order.missing == 6


def test_reordering_within_a_ring_is_no_loss() -> None:
    """A probe that was interrupted writes its number after higher ones, in this turn or the next: none is missing."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(3, 2), numbered(1, 0), numbered(2, 1)))
    assert order.missing == 0
    order.add(wire.ring_run(numbered(5, 4), numbered(6, 5)))
    assert order.missing == 1
    order.add(wire.ring_run(numbered(4, 3)))
    assert order.missing == 0
    assert times(order, None) == [1, 2, 3, 4, 5, 6]


def test_gap_behind_a_reordering_is_loss() -> None:
    """Numbers 0, 5, 2 in this order are three that came and three that didn't."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(1, 0), numbered(3, 5), numbered(2, 2)))
    assert order.missing == 3


def nested(level: int, number: int) -> int:
    """A sequence number as bpf/tracer.h composes it: a probe that interrupted others has a level of its own."""
    return level << 62 | number


def test_each_level_has_numbers_of_its_own() -> None:
    """Levels count apart: the numbers of a probe that interrupted another are no gap, and theirs are found too."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(1, 0), numbered(3, 1), numbered(2, nested(1, 0)), numbered(4, nested(3, 0))))
    assert order.missing == 0
    order.add(wire.ring_run(numbered(5, nested(1, 2))))  # 1 of level 1
    assert order.missing == 1
    order.add(wire.ring_run(numbered(6, nested(2, 1)), numbered(7, 3)))  # 0 of level 2, 2 of level 0
    assert order.missing == 3
    assert times(order, None) == [1, 2, 3, 4, 5, 6, 7]


def test_level_of_its_own_only() -> None:
    """A turn in which only an interrupting probe wrote says nothing of level 0."""
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(1, nested(1, 0)), numbered(2, nested(1, 1))))
    assert order.missing == 0
    order.add(wire.ring_run(numbered(3, 1)))
    assert order.missing == 1


def test_undecodable_is_counted_by_its_kind() -> None:
    """A record that can't be decoded is counted, hides none of its neighbours, and is no gap."""
    broken = bytearray(numbered(2, 1))
    broken[KIND_AT] = 77
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(1, 0), bytes(broken), numbered(3, 2)))
    assert times(order, None) == [1, 3]
    assert order.undecodable == {77: 1}
    assert order.missing == 0


def test_undecodable_record_hides_no_gap_of_another_ring() -> None:
    """A broken last record in one ring does not make up for one that another ring lost."""
    broken = bytearray(numbered(2, 1))
    broken[KIND_AT] = 77
    order = Order(SLACK)
    order.add(wire.ring_run(numbered(1, 0), bytes(broken)))
    order.add(wire.ring_run(numbered(1, 0, 1), numbered(3, 2, 1), cpu=1))
    assert order.missing == 1


@st.composite
def arrivals(draw: st.DrawFn) -> list[tuple[int, int, int, int, int]]:
    """Records as (arrival, time, cpu, ring, seq): each arrives within the hold, and has its ring's next number."""
    found = []
    for cpu, ring in ((0, 0), (0, 1), (1, 0)):
        begun = sorted(draw(st.lists(st.integers(0, 20 * SLACK), max_size=12)))
        delays = [draw(st.integers(0, SLACK)) for _ in begun]
        found += [(at + delay, at, cpu, ring, i) for i, (at, delay) in enumerate(zip(begun, delays, strict=True))]
    return sorted(found)


@given(arrivals(), st.lists(st.integers(0, 25 * SLACK), max_size=15))
def test_any_interleaving_comes_out_in_time_order(
    waiting: list[tuple[int, int, int, int, int]], looks: list[int]
) -> None:
    """What arrives within the hold comes out by time, each once, none late and none missing, as soon as it may."""
    order = Order(SLACK)
    seen: list[tuple[int, int, int, int]] = []
    remaining = list(waiting)
    for now in [*sorted(looks), None]:
        ready = [each for each in remaining if now is None or each[0] <= now]
        remaining = remaining[len(ready) :]
        for place in ((0, 0), (0, 1), (1, 0)):
            items = [numbered(time, seq, cpu, ring) for _, time, cpu, ring, seq in ready if (cpu, ring) == place]
            order.add(wire.ring_run(*items, cpu=place[0], ring=place[1]))
        released, late = order.release(now)
        records = order.handled(released, AS_THEY_ARE)
        assert late == 0
        seen += [(record[TIME], record[CPU], record[RING], record[SEQ]) for record in records]
        if now is not None:
            due = {(time, cpu, ring, seq) for _, time, cpu, ring, seq in waiting if time < now - SLACK}
            assert due == set(seen)
    assert [time for time, *_ in seen] == sorted(time for _, time, *_ in waiting)
    assert sorted(seen) == sorted((time, cpu, ring, seq) for _, time, cpu, ring, seq in waiting)
    assert order.missing == 0


@given(st.integers(1, 30), st.sets(st.integers(0, 29)), st.randoms(use_true_random=False), st.integers(1, 6))
def test_gaps_are_counted_in_any_order(count: int, dropped: set[int], rng: random.Random, batches: int) -> None:
    """Whatever the order in which numbers come and the turns they come in, missing is what is below the highest."""
    came = [seq for seq in range(count) if seq not in dropped]
    rng.shuffle(came)
    order = Order(SLACK)
    size = max(1, len(came) // batches)
    for at in range(0, len(came), size):
        order.add(wire.ring_run(*(numbered(seq, seq) for seq in came[at : at + size])))
        so_far = came[: at + size]
        assert order.missing == max(so_far) + 1 - len(so_far)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
    st.integers(1, 6),
)
def test_gaps_are_counted_in_every_level(given_out: list[tuple[int, bool]], rng: random.Random, batches: int) -> None:
    """However levels are mixed, shuffled and cut into turns, missing is what each level lost below its highest."""
    following = [0] * 4
    came = []
    for level, arrives in given_out:
        if arrives:
            came.append((level, following[level]))
        following[level] += 1
    rng.shuffle(came)
    order = Order(SLACK)
    size = max(1, len(came) // batches)
    for at in range(0, len(came), size):
        order.add(wire.ring_run(*(numbered(number, nested(level, number)) for level, number in came[at : at + size])))
        so_far = came[: at + size]
        below = sum(max(number for of, number in so_far if of == level) + 1 for level in {of for of, _ in so_far})
        assert order.missing == below - len(so_far)


@given(st.lists(st.binary(max_size=120), max_size=10), st.integers(0, 255))
def test_any_bytes_are_records_or_undecodable(payloads: list[bytes], kind: int) -> None:
    """Payloads of any bytes raise nothing: each is released as a record or counted as undecodable."""
    order = Order(SLACK)
    items = [item[:KIND_AT] + bytes([kind]) + item[KIND_AT + 1 :] if i % 2 else item for i, item in enumerate(payloads)]
    order.add(wire.ring_run(*items))
    records = decoded(order, None)
    assert len(records) + order.undecodable.total() == len(payloads)
    assert all(record[KIND] in set(Kind) for record in records)


def test_offsets_outside_the_data_are_undecodable() -> None:
    """A position behind the data's end is an undecodable record, not an error."""
    order = Order(SLACK)
    order.add(RingRun(0, 0, b"short", 0, True, [2, 90]))
    assert order.release(None) == ([], 0)
    assert order.undecodable.total() == 2
