"""Trap 1: the task that a softirq interrupts owns nothing of what the softirq does."""

import pytest

from tests.tracing import Event, find
from tests.traps.checks import NS, OPENED, Line, check_exit, check_network, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event]) -> None:
    """The handshakes that ran in the interrupted process are the client's and the server's; that process has none."""
    check_network(truth, events)
    noise, client = only(truth, "noise"), only(truth, "client")
    assert {event["event"]["action"] for event in find(events, pid=noise["pid"])} == {"process-exited"}
    check_exit(truth, events, {"pid": noise["pid"], "status": 0})
    late = find(events, OPENED, client["pid"])
    assert len(late) == len(lines(truth, "connect", label="late")) == 3
    # The first SYN was dropped, so the handshake took until the second: the trap was really set.
    assert all(event["event"]["duration"] > 0.9 * NS for event in late)


def test_softirq(trace: MakeTrace, run: Run) -> None:
    """Connections that a timer establishes on top of a spinning process belong to who connected and who accepted."""
    truth, events = see(trace, run, "trap_01_softirq")
    check(truth, events)
