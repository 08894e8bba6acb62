"""Trap 8: datagrams from sockets that have no peer, or another one."""

import pytest

from tests.traps.checks import lines
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import check_flows, check_no_strangers, flow_id, need_counting

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_08_unconnected")


@pytest.mark.parametrize("label", ["sendto", "sendmsg", "unbound", "sendmmsg", "elsewhere"])
def test_two_peers(seen: Seen, label: str) -> None:
    """One socket, two peers in turn: two flows, each with its own peer, datagrams and bytes."""
    truth, events = seen
    last = check_flows(truth, events, label=label)
    assert len({flow_id(event) for event in last}) == 2


@pytest.mark.parametrize("label", ["ipv6", "mapped", "empty"])
def test_one_peer(seen: Seen, label: str) -> None:
    """IPv6, IPv4 in IPv6, and datagrams with nothing in them: one flow, all of them counted."""
    truth, events = seen
    assert len(check_flows(truth, events, label=label)) == 1


def test_receivers(seen: Seen) -> None:
    """The receiver has a flow with every sender, with what it took of each."""
    truth, events = seen
    last = check_flows(truth, events, label="received")
    assert len(last) == len(lines(truth, "flow", label="received")) == 13
    assert len({flow_id(event) for event in last}) == 13


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else, and none with an address that nobody sent to."""
    truth, events = seen
    check_no_strangers(truth, events)
    need_counting(events)
    told = {
        (event["destination"]["ip"], event["destination"]["port"])
        for event in events
        if event.get("network", {}).get("transport") == "udp"
        and event["tracer"]["netns"] in {line["netns"] for line in lines(truth, "flow")}
    }
    wanted = {
        (line["remote_ip"].removeprefix("::ffff:"), line["remote_port"]) for line in lines(truth, "flow", egress=True)
    }
    assert told == wanted
