"""Trap 36: more records than the buffer holds."""

import signal
from typing import Any

import pytest

from tests.tracing import TERMS, Event, find
from tests.traps.checks import CLOCK_SLACK_NS, FAILED, Line, only, stamp_ns
from tests.traps.conftest import MakeTrace, Start

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event], ledger: dict[str, Any]) -> None:
    """Delivered and lost are what the storm made; the lines are the delivered ones; the intervals sum to the lost."""
    storm, stormed = only(truth, "storm"), only(truth, "stormed")
    terms = ledger["by_kind"]["connect"]
    assert terms["lost"] > 0, "the storm was too small to show anything"
    assert terms["attempts"] == sum(terms[term] for term in TERMS)
    assert terms["lost"] == sum(terms["lost_by_stage"].values())
    assert terms["in_flight"] == 0
    assert terms["delivered"] + terms["aggregated"] + terms["lost"] == storm["count"]
    delivered = find(events, FAILED, destination__port=storm["port"], tracer__netns=storm["netns"])
    assert len(delivered) == terms["delivered"]
    assert {event["process"]["pid"] for event in delivered} <= set(stormed["pids"])
    assert ledger["balanced"] is True
    assert ledger["complete"] is False

    clock = only(truth, "clock")
    offset = clock["wall_ns"] - clock["boot_ns"]
    # Other kinds are the rest of the machine's, whose processes have to be known too.
    losses = [event["tracer"]["loss"] for event in find(events, "tracer-loss", tracer__loss__kind="connect")]
    assert sum(loss["count"] for loss in losses) == terms["lost"]
    for loss in losses:
        assert loss["count"] > 0
        assert loss["stage"] in terms["lost_by_stage"]
        first, last = stamp_ns(loss["first"]) - offset, stamp_ns(loss["last"]) - offset
        assert stormed["before_ns"] - CLOCK_SLACK_NS <= first <= last <= stormed["after_ns"] + CLOCK_SLACK_NS
        assert loss["cpus"]
        assert loss["cpus"] == sorted(set(loss["cpus"]))


def test_burst(trace: MakeTrace, start: Start) -> None:
    """10,006 records while nobody reads a buffer of 16 KiB: each is delivered or counted, and the exit code says so."""
    with start("trap_36_burst") as storm:
        netns = str(only(storm.wait_for("storm"), "storm")["netns"])
        # Without budgets: else what this user has no room for is counted, and not lost (trap 47).
        options = ("--buffer", "16K", "--flood-budget", "0", "--netns", netns, "--event", "connect", "--fail-on-loss")
        with trace(*options, code=5) as seen:
            # Stopped, it reads nothing, whatever the speed of this machine.
            seen.process.send_signal(signal.SIGSTOP)
            try:
                storm.go()
                truth = storm.finish()
            finally:
                seen.process.send_signal(signal.SIGCONT)
    check(truth, seen.events, seen.ledger)
