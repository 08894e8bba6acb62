"""Trap 11: bytes that are only looked at, and what error queues give."""

import pytest

from tests.tracing import find, shorten
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import TELLING, check_flows, check_no_strangers

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_11_peek")


def test_stream(seen: Seen) -> None:
    """Bytes of a stream that are looked at are counted once, when they are taken; so are those that are thrown away."""
    truth, events = seen
    check_flows(truth, events, label="stream")


def test_who_only_looks(seen: Seen) -> None:
    """A process that only looks at what another receives has no part in it."""
    truth, events = seen
    peekers = [line["pid"] for line in truth if line["what"] == "peeker"]
    assert len(peekers) == 2
    for pid in peekers:
        told = [event for event in find(events, pid=pid) if event["event"]["action"] in TELLING]
        assert not told, [shorten(event) for event in told]


def test_datagrams(seen: Seen) -> None:
    """Datagrams are counted when they are taken, and those that stay in the queue never."""
    truth, events = seen
    check_flows(truth, events, label="datagrams")


def test_timestamps(seen: Seen) -> None:
    """What was sent and comes back from the error queue with its time was not received."""
    truth, events = seen
    check_flows(truth, events, label="timestamps")


def test_refused(seen: Seen) -> None:
    """A datagram that nobody took, and that came back with the error, was sent once and received never."""
    truth, events = seen
    check_flows(truth, events, label="refused")


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    check_no_strangers(*seen)
