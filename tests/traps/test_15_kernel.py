"""Trap 15: bytes that the kernel moves, on sockets of its own or of a process."""

import pytest

from tests.tracing import ABSENT, find, one, shorten, value
from tests.traps.checks import CLOSED, lines, only, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import TELLING, check_flow, check_flows, check_no_strangers, fits, moved, need_counting, telling

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_15_kernel")


def test_tunnel(seen: Seen) -> None:
    """What goes into a tunnel is the sender's, once; the tunnel's own datagrams are of no process."""
    truth, events = seen
    skip_missing(truth, "vxlan")
    check_flows(truth, events, label="tunnel")
    tunnel = only(truth, "tunnel")
    outside = find(events, destination__port=tunnel["port"], tracer__netns=tunnel["netns"])
    owned = [event for event in outside if value(event, "process.pid") is not ABSENT]
    assert not owned, [shorten(event) for event in owned]


def test_relay(seen: Seen) -> None:
    """A thread of the kernel carries bytes from one connection to another: those of the sockets' owner, or of nobody.

    The stream has them all, and so have the processes at either end. What a thread of the kernel or a softirq moves is
    never told of the process that it is or that it interrupted, and went by no call.
    """
    truth, events = seen
    skip_missing(truth, "sockmap")
    need_counting(events)
    relay = only(truth, "relay")
    flows = lines(truth, "flow", label="relay-in") + lines(truth, "flow", label="relay-out")
    for line in flows:
        if line["pid"] != relay["pid"]:
            check_flow(events, line)
            continue
        told = telling(events, line)
        assert told
        assert sum(moved(told[-1])[:2]) in {0, relay["count"]}, shorten(told[-1])
        assert value(told[-1], "tracer.via") is ABSENT, shorten(told[-1])
        strangers = [
            event
            for event in events
            if event["event"]["action"] in TELLING
            and fits(event, line)
            and value(event, "process.pid") not in {ABSENT, relay["pid"]}
        ]
        assert not strangers, [shorten(event) for event in strangers]
    out = one(events, CLOSED, relay["pid"], source__port=relay["port"], network__direction="egress")
    assert out["tracer"]["tcp"]["bytes_sent"] == relay["count"], shorten(out)


@pytest.mark.may_skip("a kernel may be built without kTLS")
def test_tls(seen: Seen) -> None:
    """What a process sends by kTLS is counted once, as it sent it; what the kernel made of that is in the stream."""
    truth, events = seen
    skip_missing(truth, "kTLS")
    check_flows(truth, events, label="tls")
    line = only(truth, "flow", label="tls", egress=True)
    closed = one(events, CLOSED, line["pid"], source__port=line["local_port"], network__direction="egress")
    assert closed["tracer"]["tcp"]["bytes_sent"] > line["sent"], shorten(closed)


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else, but of nobody."""
    truth, events = seen
    check_no_strangers(truth, events, nobody=True)
