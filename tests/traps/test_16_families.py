"""Trap 16: sockets that are neither of TCP nor of UDP."""

import pytest

from tests.tracing import find
from tests.traps.checks import lines, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import TELLING, check_flows, check_no_strangers, end, flow_id, moved, need_counting, need_module

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_16_families")


@pytest.mark.parametrize("label", ["packet-raw", "packet-datagram"])
def test_packets(seen: Seen, label: str) -> None:
    """Frames of a packet socket are who sent them's, and who took them's, by as many bytes as the calls returned."""
    skip_missing(seen.truth, "packet sockets")
    assert len(check_flows(*seen, label=label)) == 2


@pytest.mark.parametrize("label", ["raw-icmp", "raw-icmp6", "ping", "ping6"])
def test_echo(seen: Seen, label: str) -> None:
    """Echo requests and replies, by raw and by ping sockets: one flow with who answers, both ways counted."""
    assert len(check_flows(*seen, label=label)) == 1


@pytest.mark.parametrize("label", ["raw-ip", "raw-ip6", "raw-header"])
def test_raw_ip(seen: Seen, label: str) -> None:
    """A protocol without a name, whoever made the header: what the calls returned, with it where they had it."""
    assert len(check_flows(*seen, label=label)) == 2


@pytest.mark.parametrize("label", ["sctp", "sctp6"])
@pytest.mark.may_skip("SCTP is a module of most kernels, and not of all")
def test_sctp(seen: Seen, label: str) -> None:
    """An association is a flow, with both ends and all bytes."""
    skip_missing(seen.truth, "SCTP")
    assert len(check_flows(*seen, label=label)) == 2


@pytest.mark.may_skip("SCTP is a module of most kernels, and not of all")
def test_sctp_with_many_peers(seen: Seen) -> None:
    """Of one socket with many peers all bytes are its process's: to the right peer or, where they waited, to nobody."""
    skip_missing(seen.truth, "SCTP")
    truth, events = seen
    need_counting(events)
    for line in lines(truth, "flow", label="sctp-many"):
        last = {}
        for event in find(events, pid=line["pid"], network__transport="sctp", tracer__netns=line["netns"]):
            near = end(event, near=True).get("port")
            if event["event"]["action"] in TELLING and near == line["local_port"]:
                last[flow_id(event)] = event
        told = tuple(map(sum, zip(*map(moved, last.values()), strict=True)))
        assert told == (line["sent"], line["received"], line["sent_packets"], line["received_packets"]), line
        assert {end(event, near=False).get("port") for event in last.values()} <= {None, line["remote_port"]}, line


@pytest.mark.may_skip("UDP-Lite was taken out of the kernel in 7.1")
def test_udplite(seen: Seen) -> None:
    """UDP-Lite is told as what it is."""
    skip_missing(seen.truth, "UDP-Lite")
    assert len(check_flows(*seen, label="udplite")) == 2


@pytest.mark.may_skip("a kernel may be built without MPTCP")
def test_mptcp(seen: Seen) -> None:
    """The bytes of an MPTCP connection are its process's once, not again on the TCP connections beneath."""
    truth, events = seen
    skip_missing(truth, "MPTCP")
    assert len(check_flows(truth, events, label="mptcp")) == 2
    for line in lines(truth, "flow", label="mptcp"):
        beneath = [
            event
            for event in find(events, pid=line["pid"], network__transport="tcp")
            if event["event"]["action"] in TELLING
        ]
        assert not any(event["network"].get("bytes") for event in beneath)


@pytest.mark.may_skip("most machines have no loopback of vsock")
def test_vsock(seen: Seen) -> None:
    """A connection between virtual machine and host, or of one with itself."""
    skip_missing(seen.truth, "vsock")
    skip_missing(seen.truth, "vsock loopback")
    need_module(seen.events, "vsock")
    assert len(check_flows(*seen, label="vsock")) == 2


def test_nothing_else(seen: Seen) -> None:
    """The kernel's own answers are nobody's."""
    check_no_strangers(*seen)
