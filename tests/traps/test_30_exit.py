"""Trap 30: ends that tracers miss, or tell twice."""

import pytest

from tests.tracing import actions
from tests.traps.checks import CLOCK_SLACK_NS, boot_ns, check_exit, lines, only
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live

LABELS = ["leader-first", "last-thread", "segv", "kill", "kill-leaderless", "term"]


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_30_exit")


@pytest.mark.parametrize("label", LABELS)
def test_one_exit(seen: Seen, label: str) -> None:
    """One exit, with the code or signal that the parent was told, when the process ended, not its leader."""
    truth, events = seen
    line = only(truth, "ended", label=label)
    event = check_exit(truth, events, line)
    assert actions(events, line["pid"]) == {"process-exited": 1}
    for leaving in lines(truth, "leader-leaves", label=label):
        # The other thread goes on for a tenth of a second.
        assert boot_ns(truth, event) > leaving["before_ns"] + 90_000_000 - CLOCK_SLACK_NS


def test_codes_are_what_the_cases_mean(seen: Seen) -> None:
    """The cases really are code 7 and signals 9, 11 and 15."""
    statuses = {label: only(seen.truth, "ended", label=label)["status"] for label in LABELS}
    del statuses["last-thread"]  # depends on the kernel
    assert statuses == {"leader-first": 7 << 8, "segv": 11, "kill": 9, "kill-leaderless": 9, "term": 15}
