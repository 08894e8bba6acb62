"""What is fuzzed: each target takes any bytes, gives them to a parser and looks whether what comes out can be.

Beside what may never happen (an exception, endless work) a parser must hold to this: what the beginning of an input
tells is in what the whole of it tells. So a name is never a part of another one.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from aioquic.quic.crypto import CryptoPair

from tests.names.makers import QUIC_V1, QUIC_V2, varint, vector
from tracer.names import dns, http, quic, recognise, tls

_NAME_MOST: Final = 1024
_PORTS: Final = (443, 80, 53, 5353, 5355, 8080)
_TRANSPORTS: Final = ("tcp", "udp", "tcp", "udp", "mptcp", "udp", "tcp", "sctp")
_CONNECTIONS: Final = (b"\x83\x94\xc8\xf0\x3e\x51\x57\x08", b"", b"another", b"c" * 20)


class BrokenError(AssertionError):
    """What came out of a parser can't be."""


def _must(true: bool, what: str) -> None:
    if not true:
        raise BrokenError(what)


def _cuts(data: bytes, name: bytes = b"") -> tuple[int, ...]:
    """Lengths to cut an input at, one of them in the name; they follow from the input, so a finding can be repeated."""
    size = len(data)
    cuts = (size * sum(data[-8:]) // 2048, size - 1) if size else ()
    end = data.find(name) + len(name)
    return (*cuts, end - 1) if name and end >= len(name) else cuts


def _dns(data: bytes) -> None:
    message = dns.parse(data)
    if message is not None:
        _must(len(message.questions) <= dns.QUESTIONS_MOST, "too many questions")
        _must(len(message.answers) <= min(dns.ANSWERS_MOST, message.answers_total), "too many answers")
        for question in message.questions:
            _must(0 < len(question.name) <= _NAME_MOST, "length of a name")
        for answer in message.answers:
            _must(0 < len(answer.name) <= _NAME_MOST and len(answer.data) <= _NAME_MOST, "length of a record")
            _must(answer.type in {dns.A, dns.AAAA} or not answer.address, "address of another type")
            _must(not answer.address or ip_address(answer.address).packed == answer.data, "address")
            _must(0 <= answer.ttl < 1 << 31 or answer.type == 41, "time to live")
    for length in _cuts(data):
        part = dns.parse(data[:length], whole=False)
        if part is not None:
            questions, answers = (message.questions, message.answers) if message is not None else ((), ())
            _must(part.questions == questions[: len(part.questions)], "questions of a part")
            _must(part.answers == answers[: len(part.answers)], "answers of a part")
    messages, rest = dns.split(data)
    _must(b"".join(vector(one) for one in messages) + rest == data, "split")
    _must(len(rest) < 2 or len(rest) < 2 + int.from_bytes(rest[:2], "big"), "rest of a split")


def _hello(parse: Callable[[bytes], tls.Hello | None], data: bytes) -> None:
    hello = parse(data)
    name, protocols = (hello.server_name, hello.protocols) if hello is not None else (b"", ())
    _must(len(name) <= tls.NAME_MOST and len(protocols) <= tls.PROTOCOLS_MOST, "bounds of a hello")
    _must(all(0 < len(protocol) < 256 for protocol in protocols), "length of a protocol")
    for length in _cuts(data, name):
        part = parse(data[:length])
        if part is not None:
            _must(part.server_name in {b"", name}, "name of a part")
            _must(part.protocols == protocols[: len(part.protocols)], "protocols of a part")


def _tls(data: bytes) -> None:
    _hello(tls.stream, data)


def _handshake(data: bytes) -> None:
    _hello(tls.handshake, data)


def _http(data: bytes) -> None:
    request = http.parse(data)
    if request is not None:
        _must(len(request.host) <= http.HOST_MOST and 0 <= request.port < 65_536, "bounds of a request")
        _must(b"\n" not in request.host, "line in a host")
        _must(http.may_begin(data), "a request that may not begin so")
        for length in _cuts(data, request.host):
            part = http.parse(data[:length])
            _must(part is None or part.host in {b"", request.host}, "host of a part")


def _quic(data: bytes) -> None:
    """Datagrams as they are, each with its length before it."""
    initials = quic.Initials()
    for datagram in dns.split(data)[0] or [data]:
        initials.add(datagram, whole=bool(sum(datagram[-2:]) & 3))
        _bounded(initials)


@lru_cache(maxsize=8)
def _pair(version: int, connection: bytes) -> CryptoPair:
    pair = CryptoPair()
    pair.setup_initial(connection, is_client=True, version=version)
    return pair


def _sealed(data: bytes) -> None:
    """Packets that are sealed here, so that what is changed at random is what they carry.

    Each is a byte that chooses version, keys and how it is joined to the one before, its length and its frames.
    """
    datagrams = [b""]
    at = packets = 0
    while at + 3 <= len(data) and at < 6000:
        choice, size = data[at], int.from_bytes(data[at + 1 : at + 3], "big")
        version = QUIC_V2 if choice & 1 else QUIC_V1
        connection = _CONNECTIONS[choice >> 1 & 3]
        payload = data[at + 3 : at + 3 + size].ljust(4, b"\0")
        header = bytes([0xD0 if choice & 1 else 0xC0]) + version.to_bytes(4, "big") + vector(connection, 1) + b"\0\0"
        header += varint(1 + len(payload) + 16) + bytes([at & 0xFF])
        packet = _pair(version, connection).encrypt_packet(header, payload, at & 0xFF)
        if choice & 8:
            datagrams[-1] += packet
        else:
            datagrams.append(packet)
        at += 3 + size
        packets += 1
    initials = quic.Initials()
    for datagram in datagrams[1:]:
        initials.add(datagram)
        _bounded(initials)
    if packets == 1 and len(datagrams) == 2:
        hello = initials.hello()
        name = hello.server_name if hello is not None else b""
        for length in _cuts(datagrams[1]):
            initials = quic.Initials()
            initials.add(datagrams[1][:length], whole=False)
            part = initials.hello()
            _must(part is None or part.server_name in {b"", name}, "name of a part")


def _bounded(initials: quic.Initials) -> None:
    hello = initials.hello()
    _must(hello is None or len(hello.server_name) <= tls.NAME_MOST, "bounds of a hello")
    _must(len(initials._pieces) <= quic.PIECES_MOST, "number of pieces")
    _must(len(initials._joined()) <= quic.HELLO_MOST, "size of a hello")


def _flows(data: bytes) -> None:
    """Pieces of several flows: each is two bytes that choose flow, direction and port, two of length, and its data."""
    recogniser = recognise.Recogniser()
    numbers: dict[tuple[int, bool], int] = {}
    at = 0
    while at + 4 <= len(data):
        choice, kind, size = data[at], data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        key = (choice & 3, bool(choice & 4))
        number = numbers[key] = numbers.get(key, -1) + 1 + (choice >> 3 == 31)
        part = data[at + 4 : at + 4 + size]
        at += 4 + size
        length = len(part) + (kind >> 6 == 3)
        transport, port = _TRANSPORTS[kind & 7], _PORTS[(kind >> 3 & 7) % len(_PORTS)]
        named = recogniser.feed(recognise.Piece(*key, transport, 40_000, port, number, length, part))
        if choice >> 3 == 30:
            named += recogniser.end(key[0])
        for one in named:
            _must(one.name == one.name.lower() and len(one.name) <= _NAME_MOST, "name of a flow")
            _must(one.flow in range(4), "another flow")
        _must(len(recogniser) <= 8, "flows")
        _must(recogniser._kept == sum(state.size for state in recogniser._open.values()), "count of what is kept")
    for flow in range(4):
        recogniser.end(flow)
    _must(len(recogniser) == 0 and recogniser._kept == 0, "something stays")


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "dns": _dns,
    "tls": _tls,
    "handshake": _handshake,
    "http": _http,
    "quic": _quic,
    "sealed": _sealed,
    "flows": _flows,
}
