"""Trap 10: sockets that go from one process to the next."""

import pytest

from tests.tracing import find, one
from tests.traps.checks import CLOSED, Line, check_accepted, check_opened, lines, only, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import CHANGED, check_flows, check_no_strangers, check_owner, flow_id

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_10_handed")


def check(seen: Seen, label: str, *, egress: bool = True) -> None:
    """Each process has its own bytes of one connection, whose stream has them all; the new owner is told once."""
    truth, events = seen
    for line in lines(truth, "connect", label=label):
        check_opened(truth, events, line)
    for line in lines(truth, "accept", label=label):
        check_accepted(truth, events, line)
    check_flows(truth, events, label=label)
    parts = [line for line in lines(truth, "flow", label=label) if line["egress"] is egress]
    owner = only(truth, "owner", label=label)
    mine: Line = only(truth, "flow", label=label, pid=owner["to"], egress=egress)
    flow = flow_id(check_owner(truth, events, owner, mine))
    assert len([event for event in find(events, CHANGED) if flow_id(event) == flow]) == 1
    stream = one([event for event in events if flow_id(event) == flow], CLOSED)["tracer"]["tcp"]
    sent, received = (sum(line[way] for line in parts) for way in ("sent", "received"))
    assert (stream["bytes_sent"], stream["bytes_received"]) == (sent, received)


def test_passed(seen: Seen) -> None:
    """SCM_RIGHTS: what was sent before is the first process's, what came after the other's, who never connected."""
    check(seen, "passed")


def test_inherited(seen: Seen) -> None:
    """A child sends on what it inherited, then its parent again: each has its own bytes."""
    check(seen, "inherited")


def test_fetched(seen: Seen) -> None:
    """pidfd_getfd: whoever took the descriptor has what it sent."""
    skip_missing(seen.truth, "pidfd_getfd")
    check(seen, "fetched")


def test_accepted(seen: Seen) -> None:
    """Who accepts and hands on has the accept, who works has the bytes."""
    check(seen, "accepted", egress=False)


def test_datagrams(seen: Seen) -> None:
    """Two processes send to one peer from one socket: each has what it sent itself."""
    truth, events = seen
    check_flows(truth, events, label="datagrams")


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    check_no_strangers(*seen)
