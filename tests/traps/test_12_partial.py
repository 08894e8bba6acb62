"""Trap 12: writes that take less than they were asked to."""

import pytest

from tests.traps.checks import only
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import check_flows, check_no_strangers, moved

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_12_partial")


@pytest.mark.parametrize("label", ["nonblocking", "timeout", "interrupted", "fault"])
def test_partial(seen: Seen, label: str) -> None:
    """What was sent is told, not what was asked for: a full buffer, a timeout, a signal, memory that is not there."""
    truth, events = seen
    last = check_flows(truth, events, label=label)
    asked = only(truth, "asked", label=label)
    assert asked["sent"] < asked["count"]
    assert asked["sent"] in {moved(event)[0] for event in last}


def test_broken(seen: Seen) -> None:
    """Writes after the end of a connection move nothing."""
    truth, events = seen
    check_flows(truth, events, label="broken")


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    check_no_strangers(*seen)
