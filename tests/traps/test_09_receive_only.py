"""Trap 9: who only receives."""

import pytest

from tests.tracing import find, shorten, value
from tests.traps.checks import only
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import TELLING, check_flows, check_no_strangers, check_unasked

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_09_receive_only")


@pytest.mark.parametrize("label", ["read", "recv", "recvmsg", "recvfrom", "short"])
def test_sender(seen: Seen, label: str) -> None:
    """The senders' side of it: each has what it sent."""
    check_flows(*seen, label=label, egress=True)


def test_receiver(seen: Seen) -> None:
    """Who asks where datagrams come from has a flow with each sender, with as many bytes as its calls returned."""
    assert len(check_flows(*seen, label="recvfrom", egress=False)) == 2


@pytest.mark.parametrize("label", ["read", "recv", "recvmsg", "short"])
def test_unasked(seen: Seen, label: str) -> None:
    """Who does not ask has all that its calls returned, from no other than who sent it."""
    truth, events = seen
    check_unasked(events, only(truth, "unasked", label=label))


def test_nothing_came(seen: Seen) -> None:
    """A socket that nobody sent to has no flow."""
    truth, events = seen
    nothing = only(truth, "nothing")
    told = [event for event in find(events, pid=nothing["pid"]) if event["event"]["action"] in TELLING]
    assert not told, [shorten(event) for event in told]
    assert not [event for event in events if value(event, "destination.port") == nothing["port"]]


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    check_no_strangers(*seen)
