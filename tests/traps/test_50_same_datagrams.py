"""Trap 50: the same four numbers of UDP in two network namespaces."""

import pytest

from tests.traps.checks import lines
from tests.traps.conftest import MakeTrace, Run, see
from tests.traps.flows import check_flows, check_no_strangers, flow_id

pytestmark = pytest.mark.live


def test_two_namespaces(trace: MakeTrace, run: Run) -> None:
    """Four sockets on two ports, four flows: each with a process, a namespace and bytes of its own."""
    truth, events = see(trace, run, "trap_50_same_datagrams")
    last = check_flows(truth, events)
    check_no_strangers(truth, events)
    assert len(last) == len({flow_id(event) for event in last}) == 4
    assert len({line["netns"] for line in lines(truth, "flow")}) == 2
    assert len({event["network"]["community_id"] for event in last}) == 1
