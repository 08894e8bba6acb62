"""Trap 45: a connection on which nothing happens is still open."""

import pytest

from tests.tracing import actions, find
from tests.traps.checks import CLOCK_SLACK_NS, CLOSED, boot_ns, check_network, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def test_idle_connection(trace: MakeTrace, run: Run) -> None:
    """Eight seconds of silence end nothing: each end closes once, when it is closed, after all of its life."""
    truth, events = see(trace, run, "trap_45_idle")
    check_network(truth, events)
    silence = only(truth, "silence")
    closes = find(events, CLOSED, silence["pid"])
    assert len(closes) == 2
    for event in closes:
        assert boot_ns(truth, event) > silence["until_ns"] - CLOCK_SLACK_NS
        assert event["event"]["duration"] > 8_000_000_000
    assert actions(events, silence["pid"]) == {
        "process-executed": 1,
        "socket-listening": 1,
        "connection-opened": 1,
        "connection-accepted": 1,
        "connection-closed": 2,
        "process-exited": 1,
    }
