"""Trap 13: bytes that move by other calls than send and receive."""

import pytest

from tests.traps.checks import only, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import check_flows, check_no_strangers

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_13_paths")


def test_sendfile(seen: Seen) -> None:
    """What sendfile sent, not what it was asked for, over IPv4 and IPv6."""
    truth, events = seen
    assert len(check_flows(truth, events, label="sendfile")) == 4


def test_splice_out(seen: Seen) -> None:
    """Bytes that a pipe gave to a socket are sent."""
    truth, events = seen
    check_flows(truth, events, label="splice-out")


def test_splice_in(seen: Seen) -> None:
    """Bytes that a socket gave to a pipe are received, though no call received them."""
    truth, events = seen
    check_flows(truth, events, label="splice-in")


def test_many_messages(seen: Seen) -> None:
    """Of sendmmsg and recvmmsg every message counts, with its own length; of one that was cut what was taken."""
    truth, events = seen
    check_flows(truth, events, label="mmsg")


def test_zerocopy(seen: Seen) -> None:
    """What was sent from the process's own pages is sent once, whatever the error queue says of it."""
    truth, events = seen
    skip_missing(truth, "MSG_ZEROCOPY")
    check_flows(truth, events, label="zerocopy")


def test_zerocopy_receive(seen: Seen) -> None:
    """What getsockopt took out of the stream is received."""
    truth, events = seen
    skip_missing(truth, "TCP_ZEROCOPY_RECEIVE")
    assert only(truth, "by-option")["count"] == 3001
    check_flows(truth, events, label="zerocopy-receive")


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    check_no_strangers(*seen)
