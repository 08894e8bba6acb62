"""The flow table: the right owner from the first record of a flow to its last, and names that other tools share."""

import ipaddress
import uuid
from typing import Any

import communityid
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tracer.model import Kind, Role, SocketEvent
from tracer.pipeline import flows, processes
from tracer.pipeline.flows import FlowTable
from tracer.pipeline.processes import ProcessTable
from tracer.probes.records import decode

BOOT = uuid.UUID(wire.BOOT_ID).bytes
T = wire.NOW
MAPPED = bytes(10) + b"\xff\xff"
ADDRESSES = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))


@pytest.fixture(name="table")
def _table() -> FlowTable:
    """An empty table over an empty table of processes."""
    return FlowTable(ProcessTable(BOOT))


def see(table: FlowTable, kind: Kind, *, late: bool = False, **fields: Any) -> SocketEvent:
    """Feeds a socket record."""
    return table.event(decode(wire.socket(kind, **fields), 0), late)


def oracle(one: str, one_port: int, other: str, other_port: int) -> str:
    """The community id as the reference implementation has it."""
    tuple_ = communityid.FlowTuple.make_tcp(one, other, one_port, other_port)
    return str(communityid.CommunityID().calc(tuple_))


def test_ipv4(table: FlowTable) -> None:
    """An IPv4 socket has dotted addresses and is neither IPv6 nor mapped."""
    event = see(table, Kind.CONNECT)
    assert (event.local, event.local_port, event.remote, event.remote_port) == ("10.0.0.1", 40_000, "10.0.0.2", 443)
    assert not event.ipv6
    assert not event.mapped
    assert event.community_id == oracle("10.0.0.1", 40_000, "10.0.0.2", 443)


def test_mapped_addresses_are_normalised(table: FlowTable) -> None:
    """An IPv6 socket that speaks IPv4 has the IPv4 addresses and id, and says that it is one."""
    event = see(table, Kind.CONNECT, family=10)
    assert (event.local, event.remote, event.ipv6, event.mapped) == ("10.0.0.1", "10.0.0.2", False, True)
    assert event.community_id == oracle("10.0.0.1", 40_000, "10.0.0.2", 443)


def test_ipv6(table: FlowTable) -> None:
    """An IPv6 socket has IPv6 addresses in their shortest form."""
    one, other = (ipaddress.ip_address(text).packed for text in ("::1", "2001:db8::5"))
    event = see(table, Kind.CONNECT, family=10, saddr=one, daddr=other)
    assert (event.local, event.remote, event.ipv6, event.mapped) == ("::1", "2001:db8::5", True, False)
    assert event.community_id == oracle("::1", 40_000, "2001:db8::5", 443)


@given(ADDRESSES, ADDRESSES)
def test_addresses_are_what_the_bytes_say(one: bytes, other: bytes) -> None:
    """Whatever the bytes, the text is the address that they are, with the mapped ones as IPv4."""
    raw = [MAPPED + each if len(each) == 4 else each for each in (one, other)]
    event = see(FlowTable(ProcessTable(BOOT)), Kind.CONNECT, family=10, saddr=raw[0], daddr=raw[1])
    for text, each in ((event.local, raw[0]), (event.remote, raw[1])):
        shown, meant = ipaddress.ip_address(text), ipaddress.IPv6Address(each)
        assert shown == (meant.ipv4_mapped or meant)


def test_every_field_lands_in_its_place(table: FlowTable) -> None:
    """Each number of the record is the event's number of the same meaning."""
    event = see(
        table,
        Kind.CLOSE,
        late=True,
        time=T + 5,
        tid=4343,
        flow=77,
        opened=T + 1,
        established=T + 2,
        sent=11,
        received=12,
        retransmits=13,
        rtt_us=14,
        netns=15,
        uid=16,
        error=104,
        backlog=17,
        role=Role.ACCEPT,
        state=9,
        sock_flags=3,
        comm=b"server",
    )
    assert event.process is not None
    assert (event.process.tgid, event.process.comm, event.process.uid) == (4242, b"server", 16)
    wanted = {
        "kind": Kind.CLOSE,
        "time": T + 5,
        "late": True,
        "tid": 4343,
        "flow": 77,
        "role": Role.ACCEPT,
        "netns": 15,
        "opened": T + 1,
        "established": T + 2,
        "sent": 11,
        "received": 12,
        "retransmits": 13,
        "rtt_us": 14,
        "error": 104,
        "backlog": 17,
        "state": 9,
        "flags": 3,
        "uid": 16,
    }
    assert {name: getattr(event, name) for name in wanted} == wanted


def test_owner_stays_after_its_exit(table: FlowTable) -> None:
    """A connection that is closed long after its process exited is still that process's, with all that is known."""
    known = processes.ProcessTable(BOOT)
    table = FlowTable(known)
    known.executed(decode(wire.executed(b"/bin/nc", comm=b"nc"), 0))
    opened = see(table, Kind.CONNECT, comm=b"nc")
    known.exited(decode(wire.exited(time=T + 1), 0))
    for tgid in range(5000, 5000 + processes.EXITED_MOST // 2):
        known.exited(decode(wire.exited(tgid=tgid, time=T + 2 * processes.GRACE_NS), 0))
    assert known.find(4242, T - wire.SECOND) is None
    closed = see(table, Kind.CLOSE, time=T + 3 * processes.GRACE_NS, comm=b"nc")
    assert closed.process is opened.process
    assert closed.process is not None
    assert closed.process.image is not None
    assert closed.process.image.executable == b"/bin/nc"
    assert len(table) == 0


def test_accept_tells_the_owner(table: FlowTable) -> None:
    """A flow that nobody owned yet belongs to who accepted it, from then on."""
    assert see(table, Kind.SOCKET_FOUND, tgid=0, role=Role.NONE).process is None
    accepted = see(table, Kind.ACCEPT, tgid=4300, tid=4301, comm=b"worker")
    assert accepted.process is not None
    assert accepted.process.tgid == 4300
    closed = see(table, Kind.CLOSE, tgid=4300, comm=b"worker")
    assert closed.process is accepted.process


def test_nobodys_socket_has_no_process(table: FlowTable) -> None:
    """A record without an owner gives none, rather than process 0."""
    assert see(table, Kind.CLOSE, tgid=0, start=0).process is None


@pytest.mark.parametrize("kind", [Kind.CLOSE, Kind.CONNECT])
def test_ended_flows_are_forgotten(table: FlowTable, kind: Kind) -> None:
    """A close and a failed connect end a flow; the same number afterwards is a new one with an owner of its own."""
    see(table, Kind.ATTEMPT)
    assert len(table) == 1
    see(table, kind, error=111)
    assert len(table) == 0
    again = see(table, Kind.CONNECT, tgid=4300)
    assert again.process is not None
    assert again.process.tgid == 4300


def test_failed_connect_and_listener_are_not_kept(table: FlowTable) -> None:
    """Neither leaves anything behind; a listener has no community id, a failed connect has."""
    failed = see(table, Kind.CONNECT, error=111)
    listening = see(table, Kind.LISTEN, flow=2, dport=0)
    assert len(table) == 0
    assert failed.community_id == oracle("10.0.0.1", 40_000, "10.0.0.2", 443)
    assert listening.community_id == ""
    assert listening.process is not None


def test_eviction_is_counted(table: FlowTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """More open flows than there is room for push out the oldest, each counted; its close still has an owner."""
    monkeypatch.setattr(flows, "FLOWS_MOST", 4)
    for flow in range(7):
        see(table, Kind.CONNECT, flow=flow, sport=1000 + flow)
    assert len(table) == 4
    assert table.evicted == 3
    closed = see(table, Kind.CLOSE, flow=0, sport=1000)
    assert closed.process is not None
    assert closed.process.tgid == 4242
    assert closed.community_id == oracle("10.0.0.1", 1000, "10.0.0.2", 443)
    assert len(table) == 4


NAMED = [
    (17, 2, {}, communityid.FlowTuple.make_udp("10.0.0.1", "10.0.0.2", 40_000, 443)),
    (132, 1, {}, communityid.FlowTuple.make_sctp("10.0.0.1", "10.0.0.2", 40_000, 443)),
    (1, 2, {"sport": 77, "dport": 0}, communityid.FlowTuple.make_icmp("10.0.0.1", "10.0.0.2", 8, 0)),
    (47, 3, {"sport": 47, "dport": 0}, communityid.FlowTuple(47, "10.0.0.1", "10.0.0.2")),
    (136, 2, {}, communityid.FlowTuple(136, "10.0.0.1", "10.0.0.2")),
]
UNNAMED = [
    (17, 2, {"saddr": bytes(10) + b"\xff\xff" + bytes(4)}),
    (17, 2, {"dport": 0}),
    (1, 3, {}),
    (255, 3, {}),
    (0, 3, {"family": 17}),
    (0, 1, {"family": 40}),
]


@pytest.mark.parametrize(("protocol", "kind", "fields", "known"), NAMED)
def test_flows_without_connections_are_named(
    table: FlowTable, protocol: int, kind: int, fields: dict[str, Any], known: Any
) -> None:
    """A flow of datagrams has the name that other tools give it; a ping socket's is that of its echo requests."""
    event = see(table, Kind.FLOW, protocol=protocol, type=kind, **fields)
    assert event.community_id == communityid.CommunityID().calc(known)


@pytest.mark.parametrize(("protocol", "kind", "fields"), UNNAMED)
def test_what_is_not_known_has_no_name(table: FlowTable, protocol: int, kind: int, fields: dict[str, Any]) -> None:
    """Without an own address, a port or a type of message no name is made up, nor for what is no flow of the net."""
    assert see(table, Kind.FLOW, protocol=protocol, type=kind, **fields).community_id == ""
