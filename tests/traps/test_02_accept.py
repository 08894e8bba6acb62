"""Trap 2: on loopback the client is current when the accepted socket becomes established."""

import pytest

from tests.tracing import Event, actions
from tests.traps.checks import Line, check_exit, check_network, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event]) -> None:
    """Every accept is the server's, every connect the client's, and the third process on that CPU has neither."""
    check_network(truth, events)
    roles = only(truth, "roles")
    rounds = roles["rounds"]
    assert actions(events, roles["server"]) == {
        "connection-accepted": rounds,
        "connection-closed": rounds,
        "process-exited": 1,
    }
    assert actions(events, roles["client"]) == {
        "connection-opened": rounds,
        "connection-closed": rounds,
        "process-exited": 1,
    }
    assert actions(events, roles["noise"]) == {"process-exited": 1}
    check_exit(truth, events, {"pid": roles["noise"], "status": 9})


def test_accept_on_loopback(trace: MakeTrace, run: Run) -> None:
    """31 connections between two processes on one CPU: the acceptor is who accepted."""
    truth, events = see(trace, run, "trap_02_accept")
    check(truth, events)
