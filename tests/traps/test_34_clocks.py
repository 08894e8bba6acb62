"""Trap 34: the wall clock is stepped, and the machine sleeps: durations, order and identities know nothing of it."""

import time
from typing import Any

import pytest

from tests.tracing import Event, Trace, disrupt, find, one, shorten
from tests.traps.checks import (
    CLOSED,
    EXECUTED,
    EXITED,
    NS,
    OPENED,
    Line,
    check_closed,
    check_exit,
    check_network,
    check_time,
    lines,
    only,
    skip_missing,
    wall_ns,
)
from tests.traps.conftest import RUN_WITHIN_S, MakeTrace, Run, Seen, Start

pytestmark = [pytest.mark.live, pytest.mark.may_skip("disturbs the machine")]

STEP_NS = 3600 * NS
BLIPS = 11


def wait_seen(seen: Trace, pid: int) -> None:
    """Wait until the stream has told the end of a process."""
    wanted = f'"process":{{"pid":{pid},'.encode()
    deadline = time.monotonic() + RUN_WITHIN_S
    while time.monotonic() < deadline:
        if any(wanted in line and EXITED.encode() in line for line in seen.output.read_bytes().splitlines()):
            return
        time.sleep(0.05)
    pytest.fail(f"the stream never told the end of process {pid}")


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, start: Start) -> Seen:
    disrupt()
    with trace("--buffer", "32M") as seen, start("trap_34_clocks") as program:
        for number in range(2):
            truth = program.wait_for("phase", number=number)
            if lines(truth, "missing"):
                break
            # Only then: what is still to be read when the clock is set may be told with the time after it.
            wait_seen(seen, lines(truth, "blip", phase=number)[-1]["pid"])
            program.go()
        truth = program.finish()
    seen.assert_complete()
    skip_missing(truth, "clock that this process may set")
    return Seen(truth, seen.events)


def of_phase(truth: list[Line], number: int) -> list[Line]:
    """The truth with the clock of one phase."""
    clock = only(truth, "clock" if number == 0 else f"clock-{number}")
    return [clock | {"what": "clock"}]


def check_blip(clock: list[Line], events: list[Event], line: Line) -> tuple[Event, Event]:
    """A short process, told with the wall clock of its time. Returns how it began and ended."""
    executed = one(events, EXECUTED, line["pid"])
    check_time(clock, executed, {"before_ns": line["before_ns"], "after_ns": line["gone_ns"]})
    exited = check_exit(clock, events, line)
    assert executed["process"]["start"] == exited["process"]["start"]
    assert 0 < exited["event"]["duration"] <= line["gone_ns"] - line["before_ns"] + NS // 100
    return executed, exited


@pytest.mark.parametrize("number", [0, 1, 2])
def test_events_follow_the_clock(seen: Seen, number: int) -> None:
    """Before the step, after it and after the way back, each event has the wall clock of its moment, from the first."""
    truth, events = seen
    blips = lines(truth, "blip", phase=number)
    assert len(blips) == BLIPS
    for line in blips:
        check_blip(of_phase(truth, number), events, line)
    first, then = (only(of_phase(truth, phase), "clock") for phase in (0, number))
    stepped = (then["wall_ns"] - then["boot_ns"]) - (first["wall_ns"] - first["boot_ns"])
    assert abs(stepped - (STEP_NS if number == 1 else 0)) < 60 * NS


def test_order_is_not_that_of_the_wall_clock(seen: Seen) -> None:
    """The events come in the order in which they happened, though their times go back by an hour."""
    truth, events = seen
    pids = [line["pid"] for line in lines(truth, "blip")]
    told = [event for event in events if event["event"]["action"] == EXECUTED and event["process"]["pid"] in set(pids)]
    assert [event["process"]["pid"] for event in told] == pids
    numbers = [event["event"]["sequence"] for event in told]
    assert numbers == sorted(set(numbers))
    times = [wall_ns(event) for event in told]
    assert min(times[2 * BLIPS :]) < min(times[BLIPS : 2 * BLIPS]) - STEP_NS // 2
    assert not [event for event in told if event["tracer"].get("late")]


def test_identity_and_duration_stay(seen: Seen) -> None:
    """A process and a connection that live through both steps: one start, one entity, durations by the boot clock."""
    truth, events = seen
    check_network(truth, events)
    elder, program = only(truth, "elder"), only(truth, "program")
    ends = find(events, EXITED, elder["pid"])
    assert len(ends) == 1
    assert ends[0]["tracer"]["process"]["exit_status"] == elder["status"] == 5 << 8
    assert elder["least_ns"] <= ends[0]["event"]["duration"] <= elder["most_ns"]
    for line in lines(truth, "close"):
        check_closed(events, line)
    ours = [event for event in find(events, pid=program["pid"]) if event["event"]["action"] != EXECUTED]
    assert {event["event"]["action"] for event in ours} >= {OPENED, CLOSED, EXITED}
    for name in ("start", "entity_id"):
        assert len({event["process"][name] for event in find(events, pid=program["pid"])}) == 1, name


@pytest.fixture(name="slept", scope="module")
def _slept(trace: MakeTrace, run: Run) -> Seen:
    disrupt(sleep=True)
    with trace("--buffer", "32M") as seen:
        truth = run("trap_34_suspend")
    # The other CPUs were offline meanwhile: what they had no ring for is counted (trap 46).
    assert seen.ledger["balanced"] is True, seen.ledger
    losses = [event["tracer"]["loss"] for event in find(seen.events, "tracer-loss")]
    assert all(set(loss["causes"]) == {"no_ring"} and 0 not in loss["cpus"] for loss in losses), losses
    skip_missing(truth, "sleep from which a clock wakes it")
    skip_missing(truth, "sleep in which the monotonic clock stands still")
    return Seen(truth, seen.events)


def test_sleep_counts(slept: Seen) -> None:
    """The life of a connection includes the time asleep, and what comes after it has the wall clock of then."""
    truth, events = slept
    nap: Any = only(truth, "slept")["ns"]
    assert nap > NS
    for line in lines(truth, "close"):
        assert line["least_ns"] > nap
        assert check_closed(events, line)["event"]["duration"] > nap, shorten(events[-1])
    check_blip([only(truth, "awake") | {"what": "clock"}], events, only(truth, "blip"))
