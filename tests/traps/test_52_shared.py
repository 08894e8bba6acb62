"""Trap 52: sockets that several processes use at the same time."""

import pytest

from tests.tracing import find
from tests.traps.checks import check_accepted, check_opened, lines, only
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import TELLING, check_flows, check_no_strangers, fits, flow_id, moved

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_52_shared")


def test_connection(seen: Seen) -> None:
    """Three processes send on one connection, in turn: each has its own part, together they have it all."""
    truth, events = seen
    check_flows(truth, events, label="connection")
    connect = only(truth, "connect", label="connection")
    opened = check_opened(truth, events, connect)
    check_accepted(truth, events, only(truth, "accept", label="connection"))
    parts = lines(truth, "flow", label="connection", egress=True)
    assert len(parts) == 3
    # All is one flow: who opened it moved nothing of it.
    mine = [event for event in find(events, pid=connect["pid"]) if flow_id(event) == flow_id(opened)]
    assert not any(any(moved(event)) for event in mine)
    for line in parts:
        told = [event for event in find(events, pid=line["pid"]) if event["event"]["action"] in TELLING]
        assert {flow_id(event) for event in told if fits(event, line)} == {flow_id(opened)}


def test_server(seen: Seen) -> None:
    """Three processes take from one socket and answer by it: each has what it took, and what it answered."""
    truth, events = seen
    assert len(check_flows(truth, events, label="server")) == 4


def test_both_ends(seen: Seen) -> None:
    """One process at both ends of a connection has two flows, in each of which every byte is counted once."""
    truth, events = seen
    last = check_flows(truth, events, label="both")
    assert len({flow_id(event) for event in last}) == 2


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    check_no_strangers(*seen)
