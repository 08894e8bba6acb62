"""The ledger: it balances when everything is accounted for, and no counter can be wrong without its showing it."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tracer.model import RING_KINDS, Kind
from tracer.pipeline.ledger import Ledger, Loss

T = wire.NOW
MS = 1_000_000
TERMS = ("delivered", "aggregated", "filtered", "lost", "in_flight")


def state(ledger: Ledger, **changes: Any) -> dict[str, Any]:
    """The statement, with nothing held, missing or missed unless given."""
    given: dict[str, Any] = {
        "in_flight": Counter(),
        "undecodable": Counter(),
        "missing": 0,
        "missed": {},
        "evicted": {"processes": 0, "flows": 0},
        "final": True,
    }
    return ledger.statement(**(given | changes))


def accounted(**changes: int) -> Ledger:
    """A ledger of 20 execs on two CPUs: 12 delivered, 4 filtered (one by the view), 3 failed, and 1 the sink lost."""
    ledger = Ledger()
    one = {"attempts": 12, "filtered": 3, "emitted": 7, "failed": 2, "no_space": 2, "failed_first": T, "failed_last": T}
    two = {"attempts": 8, "emitted": 7, "failed": 1, "no_slot": 1, "failed_first": T, "failed_last": T}
    for name, more in changes.items():
        one[name] = one.get(name, 0) + more
    ledger.tallies(wire.tallies({(0, Kind.EXEC): one, (1, Kind.EXEC): two}))
    ledger.delivered[Kind.EXEC] = 12
    ledger.filtered[Kind.EXEC] = 1
    ledger.sink_lost[Kind.EXEC] = 1
    return ledger


def check_sums(body: dict[str, Any]) -> None:
    """The totals are the sums of the kinds, and each loss is that of its stages."""
    for term in ("attempts", *TERMS):
        assert body["total"][term] == sum(row[term] for row in body["by_kind"].values()), term
    for stage, count in body["total"]["lost_by_stage"].items():
        assert count == sum(row["lost_by_stage"][stage] for row in body["by_kind"].values()), stage
    for row in body["by_kind"].values():
        assert row["lost"] == sum(row["lost_by_stage"].values())


def test_nothing_is_complete() -> None:
    """A session in which nothing happened is balanced and complete, with a row for every kind."""
    body = state(Ledger())
    assert body["balanced"]
    assert body["complete"]
    assert set(body["by_kind"]) == {kind.label for kind in Kind}
    assert all(body["total"][term] == 0 for term in ("attempts", *TERMS))
    check_sums(body)


def test_everything_delivered_is_complete() -> None:
    """As many delivered and filtered as attempted, nothing lost: balanced and complete."""
    ledger = Ledger()
    ledger.tallies(wire.tallies({(1, Kind.CLOSE): {"attempts": 9, "filtered": 2, "emitted": 7}}))
    ledger.delivered[Kind.CLOSE] = 6
    ledger.filtered[Kind.CLOSE] = 1
    body = state(ledger)
    assert body["balanced"]
    assert body["complete"]
    row = body["by_kind"]["close"]
    assert {term: row[term] for term in ("attempts", *TERMS)} == {
        "attempts": 9,
        "delivered": 6,
        "aggregated": 0,
        "filtered": 3,
        "lost": 0,
        "in_flight": 0,
    }
    check_sums(body)


def test_accounted_loss_is_balanced_and_not_complete() -> None:
    """Losses that are counted balance the ledger by stage, and it does not call itself complete."""
    body = state(accounted())
    assert body["balanced"]
    assert not body["complete"]
    row = body["by_kind"]["exec"]
    assert (row["attempts"], row["delivered"], row["filtered"], row["lost"]) == (20, 12, 4, 4)
    assert row["lost_by_stage"] == {"emit": 3, "ring": 0, "late": 0, "decode": 0, "sink": 1}
    check_sums(body)


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("counter", ["attempts", "filtered", "failed"])
def test_doctored_kernel_counter_unbalances(counter: str, by: int) -> None:
    """One more or less in a counter of the kernel side, and the ledger no longer balances."""
    body = state(accounted(**{counter: by}))
    assert not body["balanced"]
    assert not body["complete"]


@pytest.mark.parametrize("by", [1, -1])
@pytest.mark.parametrize("counter", ["delivered", "filtered", "sink_lost", "found"])
def test_doctored_counter_of_ours_unbalances(counter: str, by: int) -> None:
    """One more or less in a counter of this side, and the ledger no longer balances."""
    ledger = accounted()
    getattr(ledger, counter)[Kind.EXEC] += by
    body = state(ledger)
    assert not body["balanced"]
    assert not body["complete"]


@pytest.mark.parametrize("term", ["in_flight", "undecodable"])
def test_doctored_term_unbalances(term: str) -> None:
    """One record too many in flight or undecodable unbalances the ledger."""
    assert not state(accounted(), **{term: Counter({int(Kind.EXEC): 1})})["balanced"]


@pytest.mark.parametrize("kind", [Kind.PROCESS_FOUND, Kind.SOCKET_FOUND])
def test_found_ones_balance_too(kind: Kind) -> None:
    """What the iterators found is accounted for like what happened."""
    ledger = Ledger()
    ledger.found[kind] = 5
    assert not state(ledger)["balanced"]
    ledger.delivered[kind], ledger.filtered[kind], ledger.sink_lost[kind] = 2, 1, 1
    assert not state(ledger)["balanced"]
    body = state(ledger, in_flight=Counter({int(kind): 1}))
    assert body["balanced"]
    assert not body["complete"]
    assert body["by_kind"][kind.label]["lost_by_stage"]["sink"] == 1
    check_sums(body)


@pytest.mark.parametrize(
    "change",
    [
        {"missing": 1},
        {"missed": {"process_exec": 1}},
        {"evicted": {"processes": 1, "flows": 0}},
        {"evicted": {"processes": 0, "flows": 1}},
        {"undecodable": Counter({200: 1})},
    ],
    ids="-".join,
)
def test_what_never_became_an_attempt_is_not_complete(change: dict[str, Any]) -> None:
    """A gap in the numbers, a skipped program, a full table and a record of no known kind each end completeness."""
    assert state(Ledger())["complete"]
    assert not state(Ledger(), **change)["complete"]


def test_map_full_is_not_complete() -> None:
    """State that did not fit into a kernel map is told by its kind."""
    ledger = Ledger()
    ledger.tallies(wire.tallies({(0, Kind.ACCEPT): {"map_full": 3}, (1, Kind.ACCEPT): {"map_full": 1}}))
    body = state(ledger)
    assert not body["complete"]
    assert body["missed"]["map_full"] == {"accept": 4}


def test_unexplained_gap_is_ring_loss() -> None:
    """Missing numbers beyond the failures that used one up were lost between ring and reader."""
    body = state(accounted(), missing=5)  # 3 failed, 1 of them without a number
    assert body["total"]["lost_by_stage"]["ring"] == 3
    assert body["total"]["lost"] == 4 + 3
    assert state(accounted(), missing=2)["total"]["lost_by_stage"]["ring"] == 0


def test_undecodable_of_no_known_kind_is_lost() -> None:
    """It belongs to no row, and counts in the total, as in its stage."""
    total = state(Ledger(), undecodable=Counter({200: 2}))["total"]
    assert total["lost_by_stage"]["decode"] == total["lost"] == 2


def test_undecodable_of_a_known_kind_is_lost_there() -> None:
    """An attempt that became an undecodable record is accounted for in its kind's row."""
    ledger = Ledger()
    ledger.tallies(wire.tallies({(0, Kind.EXIT): {"attempts": 1, "emitted": 1}}))
    body = state(ledger, undecodable=Counter({int(Kind.EXIT): 1}))
    assert body["balanced"]
    assert body["by_kind"]["exit"]["lost_by_stage"]["decode"] == body["total"]["lost"] == 1
    check_sums(body)


@given(
    st.dictionaries(
        st.tuples(st.integers(0, 1), st.sampled_from(RING_KINDS)),
        st.tuples(*[st.integers(0, 1000)] * 5),
        max_size=12,
    )
)
def test_any_honest_account_balances(counts: dict[tuple[int, Kind], tuple[int, int, int, int, int]]) -> None:
    """Whatever happens to the attempts, counted where it happens, adds up in every row and in the total."""
    ledger = Ledger()
    kernel = {}
    flight: Counter[int] = Counter()
    for (cpu, kind), (delivered, filtered, viewed, failed, held) in counts.items():
        emitted = delivered + viewed + held
        kernel[cpu, kind] = {
            "attempts": emitted + filtered + failed,
            "filtered": filtered,
            "emitted": emitted,
            "failed": failed,
        }
        ledger.delivered[kind] += delivered
        ledger.filtered[kind] += viewed
        flight[kind] += held
    ledger.tallies(wire.tallies(kernel))
    body = state(ledger, in_flight=flight, final=False)
    assert body["balanced"]
    assert body["complete"] is (body["total"]["lost"] == 0)
    assert body["total"]["attempts"] == sum(each["attempts"] for each in kernel.values())
    check_sums(body)


# Losses as intervals.


def fail(ledger: Ledger, count: int, first: int, last: int, cpu: int = 0, **causes: int) -> None:
    """The kernel's counters after ``count`` failures on a CPU, the newest burst from ``first`` to ``last``."""
    given = {"attempts": count, "failed": count, "failed_first": first, "failed_last": last} | causes
    ledger.tallies(wire.tallies({(cpu, Kind.EXEC): given}))


def test_no_failure_no_loss() -> None:
    """Counters without failures give nothing to tell."""
    ledger = Ledger()
    ledger.tallies(wire.tallies({(0, Kind.EXEC): {"attempts": 5, "emitted": 5}}))
    assert ledger.losses(T, False) == []
    assert ledger.losses(T, True) == []


def test_burst_is_told_once_it_is_over() -> None:
    """A burst is one interval, told after a quarter of a second of quiet, once, with cause and CPU."""
    ledger = Ledger()
    assert ledger.losses(T - 50 * MS, False) == []
    fail(ledger, 7, T, T + 10 * MS, cpu=1, no_space=5, no_slot=2)
    assert ledger.losses(T + 20 * MS, False) == []
    assert ledger.losses(T + 261 * MS, False) == [
        Loss("exec", "emit", 7, T, T + 10 * MS, [1], {"no_space": 5, "no_slot": 2})
    ]
    assert ledger.losses(T + 1000 * MS, False) == []
    assert ledger.losses(T + 1000 * MS, True) == []


def test_end_tells_what_is_still_going_on() -> None:
    """At the end a burst is told at once."""
    ledger = Ledger()
    fail(ledger, 7, T, T + 10 * MS)
    assert [loss.records for loss in ledger.losses(T + 11 * MS, True)] == [7]


def test_second_burst_is_an_interval_of_its_own() -> None:
    """After the first was told, the next burst has its own beginning, end and count."""
    ledger = Ledger()
    fail(ledger, 7, T, T + 10 * MS, no_space=7)
    for passed in (300, 500, 700):
        ledger.losses(T + passed * MS, False)
    fail(ledger, 9, T + 900 * MS, T + 950 * MS, no_space=8, no_ring=1)
    assert ledger.losses(T + 910 * MS, False) == []
    assert ledger.losses(T + 1300 * MS, False) == [
        Loss("exec", "emit", 2, T + 900 * MS, T + 950 * MS, [0], {"no_space": 1, "no_ring": 1})
    ]


def test_cpus_are_one_interval() -> None:
    """Bursts on several CPUs are told together: from the first of them to the last, with all the CPUs."""
    ledger = Ledger()
    one = {"attempts": 3, "failed": 3, "failed_first": T + 5, "failed_last": T + 6, "no_space": 3}
    two = {"attempts": 4, "failed": 4, "failed_first": T, "failed_last": T + 9, "no_ring": 4}
    ledger.losses(T - 50 * MS, False)
    ledger.tallies(wire.tallies({(0, Kind.EXEC): one, (1, Kind.EXEC): two, (1, Kind.CLOSE): one}))
    assert ledger.losses(T + 20 * MS, False) == []
    assert sorted(ledger.losses(T + 300 * MS, False)) == [
        Loss("close", "emit", 3, T + 5, T + 6, [1], {"no_space": 3}),
        Loss("exec", "emit", 7, T, T + 9, [0, 1], {"no_space": 3, "no_ring": 4}),
    ]


def test_interval_covers_a_burst_whose_beginning_was_overwritten() -> None:
    """A second burst before the first was told makes one interval, from the beginning of the first."""
    ledger = Ledger()
    ledger.losses(T - 50 * MS, False)
    fail(ledger, 7, T, T + 10 * MS)
    assert ledger.losses(T + 200 * MS, False) == []
    fail(ledger, 9, T + 261 * MS, T + 262 * MS)  # the kernel keeps the newest beginning only
    (loss,) = ledger.losses(T + 600 * MS, False)
    assert (loss.records, loss.first, loss.last) == (9, T, T + 262 * MS)


def test_interval_covers_what_happened_while_nobody_looked() -> None:
    """Where the reader stood still the failures may have begun any time since it last looked."""
    ledger = Ledger()
    ledger.losses(T, False)
    fail(ledger, 9, T + 4000 * MS, T + 4010 * MS)
    (loss,) = ledger.losses(T + 5000 * MS, False)
    assert (loss.records, loss.first, loss.last) == (9, T, T + 4010 * MS)


@given(st.lists(st.tuples(st.integers(1, 600), st.integers(0, 5)), max_size=20))
def test_intervals_add_up_to_the_failures(steps: list[tuple[int, int]]) -> None:
    """However failures and looks mix, the intervals sum to the count and lie in order, inside the time that passed."""
    ledger = Ledger()
    ledger.losses(T, False)
    now, failed, first, last = T, 0, 0, 0
    told: list[Loss] = []
    for wait, more in steps:
        now += wait * MS
        if more:
            if now - last > 250 * MS:
                first = now
            last = now
            failed += more
            fail(ledger, failed, first, last)
        told += ledger.losses(now, False)
    told += ledger.losses(now, True)
    assert sum(loss.records for loss in told) == failed
    bounds = [bound for loss in told for bound in (loss.first, loss.last)]
    assert bounds == sorted(bounds)
    assert not bounds or (bounds[0] >= T and bounds[-1] == last)


def test_sink_losses_are_told_once() -> None:
    """What the output could not take is told by kind, and each record once."""
    ledger = Ledger()
    ledger.sink_lost.update({Kind.EXEC: 3, Kind.CLOSE: 1})
    assert ledger.sink_losses(T, T + 5) == [
        Loss("exec", "sink", 3, T, T + 5, [], {}),
        Loss("close", "sink", 1, T, T + 5, [], {}),
    ]
    assert ledger.sink_losses(T, T + 5) == []
    ledger.sink_lost.update({Kind.EXEC: 2})
    assert [loss.records for loss in ledger.sink_losses(T, T + 9)] == [2]


def test_records_without_a_ring_are_told_at_once() -> None:
    """How many records had no ring is known with the first look at the counters, not when their burst is over."""
    ledger = Ledger()
    assert ledger.no_ring == 0
    failed = {"attempts": 9, "failed": 5, "no_ring": 3, "no_space": 2, "failed_first": T, "failed_last": T}
    ledger.tallies(wire.tallies({(0, Kind.EXEC): failed, (1, Kind.EXIT): failed}))
    assert ledger.losses(T, False) == []
    assert ledger.no_ring == 6
    assert ledger.losses(T + 1000 * MS, False) != []
    assert ledger.no_ring == 6
