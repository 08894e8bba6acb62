"""The first bytes of flows, as the probes take them: what is taken, of whom, how much, and what is left alone."""

import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import wire
from tests.probes.test_core import EVERYTHING, records, totals
from tracer.model import Kind
from tracer.probes.core import Core
from tracer.probes.records import IN, KIND, OUT, TGID, Record
from tracer.probes.rings import Run

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FIRST_BYTES, FIRST_SEGMENTS, FIRST_INITIALS = 4096, 4, 3  # of bpf/tracer.h
MESSAGES_MOST = 1000  # of bpf/names.bpf.c, in a second, on one CPU
TCP, UDP = 6, 17
QUERIES = 3001
ANSWER = b"\x12\x34\x81\x80" + bytes(20)
QUERY = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + b"\x07example\x03org\x00\x00\x01\x00\x01"

# What a program in a network namespace of its own does, by name.
PROGRAM = r"""
import os, socket, sys, threading, time
HOST = "127.0.0.1"

def conversation(pieces, replies=(), port=0, host=HOST):
    '''One connection: each piece is sent by itself, then each reply comes back likewise; both its ports.'''
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family) as listener:
        client = socket.create_connection(listener.getsockname()[:2])
        server, _ = listener.accept()
    with client, server:
        for one, other, sent in ((client, server, pieces), (server, client, replies)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in sent:
                one.sendall(piece)
                got = 0
                while got < len(piece):
                    got += len(other.recv(1 << 20))
        return client.getsockname()[1], server.getsockname()[1]

def datagrams(pieces, replies=(), port=0, host=HOST, rounds=1):
    '''One pair of sockets: each piece goes to the server, then each reply back; both their ports.'''
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as server, socket.socket(family, socket.SOCK_DGRAM) as client:
        server.bind((host, port))
        for _ in range(rounds):
            for piece in pieces:
                client.sendto(piece, server.getsockname()[:2])
                server.recv(1 << 16)
            for reply in replies:
                server.sendto(reply, client.getsockname()[:2])
                client.recv(1 << 16)
        return client.getsockname()[1], server.getsockname()[1]

os.system("ip link set lo up")
print("ready", flush=True)
for line in sys.stdin:
    print(repr(eval(line)), flush=True)
"""


class Payload(NamedTuple):
    """What a PAYLOAD record holds behind its header, and whose it is."""

    tgid: int
    flow: int
    cookie: int
    cgroup: int
    netns: int
    uid: int
    offset: int
    length: int
    sport: int
    dport: int
    family: int
    protocol: int
    direction: int
    segment: int
    header_len: int
    data_len: int
    reserved: int
    saddr: bytes
    daddr: bytes
    comm: bytes
    data: bytes


class Peer:
    """A process in a network namespace of its own that talks to itself."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self.process.pid
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        self.netns = Path(f"/proc/{self.pid}/ns/net").stat().st_ino

    def do(self, call: str, *args: Any, **named: Any) -> Any:
        """Has it call one of its functions, and gives what that returns."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in named.items())])
        self.process.stdin.write(f"{call}({given})\n")
        self.process.stdin.flush()
        answer: str = self.process.stdout.readline()
        return eval(answer)  # noqa: S307  # our own process's repr of numbers


@pytest.fixture(name="peer")
def _peer() -> Iterator[Peer]:
    """Such a process."""
    peer = Peer()
    yield peer
    peer.process.communicate(timeout=20)


CONNECTIONS = frozenset({Kind.CONNECT, Kind.ATTEMPT, Kind.ACCEPT})


def make(**filters: Any) -> Core:
    """A backend with these filters in the kernel; by itself bytes are not counted."""
    given = {"kinds": CONNECTIONS | {Kind.PAYLOAD}} | filters
    return Core(EVERYTHING._replace(**given), 4 << 20, 64 << 10, hooks="tracepoints")


@pytest.fixture(name="core")
def _core() -> Iterator[Core]:
    """A backend that is attached, with the programs for payload."""
    with make() as backend:
        coverage = backend.start()
        assert coverage.hooks["payload_out"] == "cgroup_skb/egress"
        assert coverage.hooks["payload_in"] == "cgroup_skb/ingress"
        yield backend


def heard(runs: list[Run], peer: Peer) -> tuple[list[Payload], list[Record]]:
    """The payload in a peer's namespace, in order, and the other records of that process."""
    found = records(runs)
    payloads = [Payload(each[TGID], *each[9:]) for each in found if each[KIND] == Kind.PAYLOAD]
    return (
        [each for each in payloads if each.netns == peer.netns],
        [each for each in found if each[KIND] != Kind.PAYLOAD and each[TGID] == peer.pid],
    )


def sent(payloads: list[Payload]) -> list[Payload]:
    """Those that left their socket."""
    return [each for each in payloads if each.direction == OUT]


def received(payloads: list[Payload]) -> list[Payload]:
    """Those that came to theirs."""
    return [each for each in payloads if each.direction == IN]


def hello(name: str, protocols: tuple[str, ...] = ()) -> bytes:
    """What OpenSSL says first to a server."""
    context = ssl.create_default_context()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def test_a_hello_is_taken_at_both_ends_with_their_owners(core: Core, peer: Peer) -> None:
    """A ClientHello in one piece: a record of the client's flow and one of the server's, with its bytes and no more."""
    said = hello("first.example")
    client, server = peer.do("conversation", [said, b"more that nobody takes"], [b"\x16\x03\x03\0\5\2\0\0\1\0"])
    payloads, others = heard(core.cut().runs, peer)
    flows = {Kind(each[KIND]): each[9] for each in others if each[KIND] in (Kind.CONNECT, Kind.ACCEPT)}
    assert [(each.direction, each.sport, each.dport) for each in payloads] == [
        (OUT, client, server),
        (IN, server, client),
    ]
    assert [each.flow for each in payloads] == [flows[Kind.CONNECT], flows[Kind.ACCEPT]]
    for each in payloads:
        assert each.data == said
        assert (each.length, each.offset, each.segment) == (len(said), 0, 0)
        assert (each.family, each.protocol) == (socket.AF_INET, TCP)
        assert each.saddr == each.daddr == bytes(10) + b"\xff\xff" + socket.inet_aton("127.0.0.1")
        assert each.cookie
    # The connection was accepted before the hello was sent.
    assert [each.tgid for each in payloads] == [peer.pid, peer.pid]
    assert {each.uid for each in payloads} == {0}


@pytest.mark.parametrize("sizes", [[1], [5, 1], [200], [7, 100, 60]], ids=str)
def test_a_split_hello_is_taken_in_order(core: Core, peer: Peer, sizes: list[int]) -> None:
    """A hello in pieces comes in as many records, in order and numbered: until it is whole, if the first tells that."""
    said = hello("split.example")
    pieces = []
    at = 0
    for size in sizes:
        pieces.append(said[at : at + size])
        at += size
    pieces += [said[at:], b"what comes then"]
    peer.do("conversation", pieces)
    taken = pieces[:-1] if sizes[0] >= 8 else pieces[:FIRST_SEGMENTS]
    payloads, _ = heard(core.cut().runs, peer)
    for side in (sent(payloads), received(payloads)):
        assert [each.data for each in side] == taken
        assert [each.segment for each in side] == list(range(len(taken)))
        assert [each.offset for each in side] == [len(b"".join(taken[:number])) for number in range(len(taken))]


def test_no_more_than_the_bounds(core: Core, peer: Peer) -> None:
    """Four segments are taken of what never ends, and 4 KiB of what is longer; what was cut is counted."""
    before = totals(core.tallies())[Kind.PAYLOAD]
    begin = b"\x16\x03\x01\x3f\x00\x01\x00\x3e\xfc"
    peer.do("conversation", [begin, *[b"x" * 100] * 9])
    payloads, _ = heard(core.cut().runs, peer)
    assert [each.data for each in sent(payloads)] == [begin, *[b"x" * 100] * (FIRST_SEGMENTS - 1)]
    assert [each.data for each in received(payloads)] == [each.data for each in sent(payloads)]
    peer.do("conversation", [begin + b"y" * 20_000, b"z" * 100])
    cut = core.cut()
    payloads, _ = heard(cut.runs, peer)
    (each,) = sent(payloads)
    assert each.data == (begin + b"y" * 20_000)[:FIRST_BYTES]
    assert each.length == len(begin) + 20_000
    peer.do("conversation", [begin + b"y" * 3000, b"z" * 3000, b"never"])
    payloads, _ = heard(core.cut().runs, peer)
    assert [each.data for each in sent(payloads)] == [begin + b"y" * 3000, b"z" * (FIRST_BYTES - 3009)]
    assert [each.length for each in sent(payloads)] == [3009, 3000]
    after = totals(core.tallies())[Kind.PAYLOAD]
    assert after.truncated - before.truncated >= 4
    assert after.attempts == after.filtered + after.emitted
    assert after.map_full == 0


@pytest.mark.parametrize(
    ("request_", "taken"),
    [
        ([b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", b"GET /second HTTP/1.1\r\n\r\n"], 1),
        ([b"GET / HTTP/1.1\r\n", b"Host: a.example\r\n\r\n", b"body"], 3),
        ([b"POST /form HTTP/1.1\r\nHost: a.example\r\nContent-Length: 4\r\n\r\nbody", b"more"], 2),
        ([b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"], 1),
        ([b"G", b"ET / HTTP/1.0\r\n\r\n"], 2),
    ],
    ids=lambda value: str(value)[:30],
)
def test_requests_of_http(core: Core, peer: Peer, request_: list[bytes], taken: int) -> None:
    """A request is taken up to its head's end where that ends a segment, else up to the bounds; the answer is not."""
    peer.do("conversation", request_, [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
    payloads, _ = heard(core.cut().runs, peer)
    assert [each.data for each in sent(payloads)] == request_[:taken]
    assert [each.data for each in received(payloads)] == request_[:taken]


@pytest.mark.parametrize(
    "first",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x16\x02" + bytes(60),
        b"\x16\x03\x03\x00\x40\x02" + bytes(60),
        b"\x17\x03\x03\x00\x40\x01" + bytes(60),
        b"GOAWAY and more",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\x00",
        b"x" * 100_000,
    ],
    ids=lambda first: str(first[:12]),
)
def test_what_has_no_name_in_it_is_left_alone(core: Core, peer: Peer, first: bytes) -> None:
    """Of other protocols not a byte is taken, at no end and neither way, whatever comes later."""
    peer.do("conversation", [first, hello("late.example")], [first])
    peer.do("datagrams", [first[:1400], hello("late.example")], [first[:1400]])
    payloads, _ = heard(core.cut().runs, peer)
    assert payloads == []


def test_over_ipv6(core: Core, peer: Peer) -> None:
    """Addresses of IPv6 come whole, of connections and of datagrams."""
    said = hello("six.example")
    peer.do("conversation", [said], host="::1")
    peer.do("datagrams", [QUERY], port=53, host="::1")
    payloads, _ = heard(core.cut().runs, peer)
    assert [each.data for each in payloads] == [said, said, QUERY, QUERY]
    for each in payloads:
        assert each.family == socket.AF_INET6
        assert each.saddr == each.daddr == socket.inet_pton(socket.AF_INET6, "::1")


@pytest.mark.parametrize("port", [53, 5353, 5355])
def test_messages_of_dns(core: Core, peer: Peer, port: int) -> None:
    """Each message is taken at both ends, both ways, whatever is in it; the sender's is the sender's."""
    client, server = peer.do("datagrams", [QUERY, b"no DNS"], [ANSWER], port=port)
    payloads, _ = heard(core.cut().runs, peer)
    assert [(each.direction, each.sport, each.data) for each in payloads] == [
        (OUT, client, QUERY),
        (IN, server, QUERY),
        (OUT, client, b"no DNS"),
        (IN, server, b"no DNS"),
        (OUT, server, ANSWER),
        (IN, client, ANSWER),
    ]
    assert {each.protocol for each in payloads} == {UDP}
    assert {each.tgid for each in sent(payloads)} == {peer.pid}
    # Nothing is known of a socket whose bytes are not counted.
    assert {each.tgid for each in received(payloads)} == {0}
    assert {each.flow for each in payloads} == {0}


def test_datagrams_are_those_of_the_flows(peer: Peer) -> None:
    """Where bytes are counted, a message is of the same socket as the flow that it is counted in."""
    with make(kinds=EVERYTHING.kinds) as core:
        core.start()
        client, server = peer.do("datagrams", [QUERY], [ANSWER], port=53, rounds=2)
        payloads, others = heard(core.cut().runs, peer)
    sport, number = wire.SOCKET.index("sport"), wire.SOCKET.index("socket")
    flows = {each[sport]: each[number] for each in others if each[KIND] == Kind.FLOW}
    assert flows.keys() == {client, server}
    # A socket is not known before its first message has come through.
    first = [
        (client, peer.pid, 0),
        (server, 0, 0),
        (server, peer.pid, flows[server]),
        (client, peer.pid, flows[client]),
    ]
    later = [(port, peer.pid, flows[port]) for port in (client, server, server, client)]
    assert [(each.sport, each.tgid, each.flow) for each in payloads] == first + later


def test_messages_of_dns_over_tcp(core: Core, peer: Peer) -> None:
    """On port 53 both directions of a connection are taken, in pieces as they were sent."""
    pieces, replies = [b"\0\x1d", QUERY, b"x" * 50], [b"\0\x18" + ANSWER, b"\0\x18" + ANSWER]
    client, server = peer.do("conversation", pieces, replies, port=53)
    payloads, _ = heard(core.cut().runs, peer)
    for direction, of, said in (
        (OUT, client, pieces),
        (IN, server, pieces),
        (OUT, server, replies),
        (IN, client, replies),
    ):
        side = [each for each in payloads if (each.direction, each.sport) == (direction, of)]
        assert [each.data for each in side] == said
        assert [each.segment for each in side] == list(range(len(said)))


def initial(number: int, version: int = 1, first: int = 0xC3) -> bytes:
    """A datagram that looks like one with an Initial."""
    return bytes([first]) + struct.pack(">I", version) + bytes([8, number]) + bytes(1193)


@pytest.mark.parametrize(("version", "first"), [(1, 0xC3), (0x6B3343CF, 0xD3)], ids=["QUIC 1", "QUIC 2"])
def test_initials_of_quic(core: Core, peer: Peer, version: int, first: int) -> None:
    """The client's first three Initials are taken at both ends, the server's are not, nor is anything shorter."""
    said = [initial(number, version, first) for number in range(5)]
    client, server = peer.do("datagrams", [b"\x40short", *said], [initial(9, version, first)])
    payloads, _ = heard(core.cut().runs, peer)
    assert [(each.direction, each.sport, each.segment, each.data) for each in payloads] == [
        (direction, port, number, said[number])
        for number in range(FIRST_INITIALS)
        for direction, port in ((OUT, client), (IN, server))
    ]
    assert {each.tgid for each in sent(payloads)} == {peer.pid}


@pytest.mark.parametrize(
    "datagram",
    [initial(0, version=0), initial(0, version=2), initial(0, first=0x43), initial(0, first=0xE3), initial(0)[:1199]],
    ids=["negotiation", "other version", "short header", "handshake", "too short"],
)
def test_other_datagrams_are_no_initials(core: Core, peer: Peer, datagram: bytes) -> None:
    """What is not an Initial of a known version, in a datagram as long as those are, is left alone."""
    peer.do("datagrams", [datagram], [datagram])
    payloads, _ = heard(core.cut().runs, peer)
    assert payloads == []


def test_each_flow_has_its_own_initials(core: Core, peer: Peer) -> None:
    """Two clients of one port have three Initials each, though a server's socket is the same for both."""
    for _ in range(2):
        peer.do("datagrams", [initial(number) for number in range(4)], port=443)
    payloads, _ = heard(core.cut().runs, peer)
    assert len(payloads) == 2 * 2 * FIRST_INITIALS


def test_a_busy_resolver_is_bounded_and_the_rest_is_counted(core: Core, peer: Peer) -> None:
    """Of many messages those within the budget come; each of the others is counted as one that did not fit."""
    before = totals(core.tallies())[Kind.PAYLOAD]
    peer.do("datagrams", [QUERY], port=53, rounds=QUERIES)
    after = totals(core.cut().tallies)[Kind.PAYLOAD]
    told = after.attempts - before.attempts
    assert MESSAGES_MOST <= told < 2 * QUERIES
    assert told + after.map_full - before.map_full == 2 * QUERIES
    assert after.emitted + after.filtered == after.attempts


@pytest.mark.parametrize("what", ["pids", "uids", "netns", "ports", "cidrs"])
def test_filters_hold(peer: Peer, what: str) -> None:
    """A filter that the process, its user, namespace, port or network passes lets its payload through; another not."""
    passing = {
        "pids": frozenset({peer.pid}),
        "uids": frozenset({0}),
        "netns": frozenset({peer.netns}),
        "ports": frozenset({53}),
        "cidrs": ["127.0.0.0/8"],
    }
    other = {
        "pids": frozenset({1}),
        "uids": frozenset({4711}),
        "netns": frozenset({1}),
        "ports": frozenset({54}),
        "cidrs": ["192.0.2.0/24"],
    }
    for given, expected in ((passing, {QUERY, ANSWER}), (other, set())):
        with make(**{what: given[what]}) as backend:
            backend.start()
            peer.do("datagrams", [QUERY], [ANSWER], port=53)
            cut = backend.cut()
            payloads, _ = heard(cut.runs, peer)
            # What has no owner yet is for user space to sort out.
            assert {each.data for each in payloads if each.tgid} == expected
            tally = totals(cut.tallies)[Kind.PAYLOAD]
            assert tally.attempts >= 4
            assert tally.attempts == tally.emitted + tally.filtered


def test_tracers_own_bytes_are_left_out(core: Core) -> None:
    """This process is the tracer: what it sends itself is filtered, where its owner is known."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        client.sendall(b"GET /own HTTP/1.0\r\n\r\n")
        server.recv(100)
    found = [each for each in records(core.cut().runs) if each[KIND] == Kind.PAYLOAD]
    assert not any(b"/own" in each[-1] for each in found)


def test_switched_off_nothing_is_loaded() -> None:
    """Without the kind the programs are not there at all, and what can't be seen is told."""
    with make(kinds=CONNECTIONS) as backend:
        coverage = backend.start()
        assert not {"payload_out", "payload_in"} & {*coverage.hooks, *coverage.refused}
        assert any("DNS, TLS, HTTP and QUIC" in each for each in coverage.blind)
    with make() as backend:
        assert not any("DNS" in each for each in backend.start().blind)


def test_without_a_cgroup_there_are_no_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no cgroup v2 to attach to the rest works, with the reason and the blind spots told."""
    monkeypatch.setattr("tracer.probes.cgroup._places", lambda *_: [])
    monkeypatch.setattr("tracer.probes.cgroup.open_detached", lambda *_: None)
    with make() as backend:
        coverage = backend.start()
    assert "no cgroup v2" in coverage.refused["payload_out"]
    assert any("DNS, TLS, HTTP and QUIC" in each for each in coverage.blind)
    assert "socket_state_change" in coverage.hooks


def test_nothing_is_left_attached_and_the_descriptors_are_closed() -> None:
    """After the end no descriptor is open that was not before."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with make() as backend:
        backend.start()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
