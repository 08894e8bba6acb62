"""Trap 18: the same four numbers in two network namespaces."""

import pytest

from tests.tracing import actions, find
from tests.traps.checks import CLOSED, OPENED, check_network, lines
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def test_two_namespaces(trace: MakeTrace, run: Run) -> None:
    """Two connections, four sockets, each with a process, namespace, flow and bytes of its own, on equal ports."""
    truth, events = see(trace, run, "trap_18_netns")
    check_network(truth, events)
    connects = lines(truth, "connect")
    assert len({line["netns"] for line in connects}) == len({line["pid"] for line in connects}) == 2
    for line in connects:
        assert actions(events, line["pid"]) == {
            "socket-listening": 1,
            "connection-opened": 1,
            "connection-accepted": 1,
            "connection-closed": 2,
            "process-exited": 1,
        }
        assert {event["tracer"]["netns"] for event in find(events, CLOSED, line["pid"])} == {line["netns"]}
    opened = [event for line in connects for event in find(events, OPENED, line["pid"])]
    assert len({event["network"]["community_id"] for event in opened}) == 1
    assert len({event["tracer"]["socket"]["id"] for event in opened}) == 2
