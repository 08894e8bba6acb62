"""A flow is told for what it is from its first pieces, however they are cut, with bounded memory."""

import struct
import sys
from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest

from tests.names import makers
from tests.names.make_corpus import CORPUS
from tracer.names import dns, http, tls
from tracer.names.recognise import BYTES_MOST, FLOWS_MOST, KEPT_MOST, PIECES_MOST, Named, Piece, Recogniser

REQUEST = b"GET / HTTP/1.1\r\nHost: WWW.example.org\r\n\r\n"
HELLO = makers.records(makers.browser_hello(b"WWW.example.org"))


def pieces(
    *data: bytes, flow: int = 1, transport: str = "tcp", port: int = 443, outgoing: bool = True, first: int = 0
) -> list[Piece]:
    """One piece for each of ``data``."""
    return [
        Piece(flow, outgoing, transport, 40_000, port, first + number, len(part), part)
        for number, part in enumerate(data)
    ]


def fed(recogniser: Recogniser, items: Iterable[Piece]) -> list[Named]:
    """What comes of these pieces."""
    return [named for item in items for named in recogniser.feed(item)]


def found(*data: bytes, transport: str = "tcp", port: int = 443) -> tuple[str, bytes] | None:
    """The protocol and the name of one flow, which must keep nothing afterwards."""
    recogniser = Recogniser()
    named = fed(recogniser, pieces(*data, transport=transport, port=port)) + recogniser.end(1)
    assert len(recogniser) == 0
    assert recogniser._kept == 0
    assert len(named) <= 1
    return (named[0].protocol, named[0].name) if named else None


@pytest.mark.parametrize("port", [443, 8443, 80])
def test_tcp(port: int) -> None:
    """TLS and HTTP are told by what is said, on any port, with the name in lower case."""
    assert found(HELLO, port=port) == ("tls", b"www.example.org")
    assert found(REQUEST, port=port) == ("http", b"www.example.org")
    assert found(b"SSH-2.0-OpenSSH_9.2p1\r\n", port=port) is None


@pytest.mark.parametrize("cuts", [(1,), (5,), (100,), (1448,), (1, 2, 3), (1, 600, 1448)])
@pytest.mark.parametrize(("data", "protocol"), [(HELLO, "tls"), (REQUEST, "http"), (b"\r\n" + REQUEST, "http")])
def test_split(cuts: Sequence[int], data: bytes, protocol: str) -> None:
    """A hello or a head that comes in several pieces is waited for."""
    bounds = [0, *[cut for cut in cuts if cut < len(data)], len(data)]
    parts = [data[begin:end] for begin, end in pairwise(bounds)]
    recogniser = Recogniser(with_quic=False)
    first = fed(recogniser, pieces(*parts[:-1]))
    assert first == []
    (named,) = fed(recogniser, pieces(*parts)[-1:])
    assert (named.protocol, named.name, named.outgoing) == (protocol, b"www.example.org", True)
    assert isinstance(named.facts, tls.Hello | http.Request)
    assert not named.facts.cut
    assert len(recogniser) == 0
    assert fed(recogniser, pieces(b"more", first=len(parts))) == []
    assert len(recogniser) == 0


def test_given_up() -> None:
    """What is still not whole after four pieces, 4 KiB, a cut piece, a lost one or the close is told as it is."""
    ways = [
        pieces(*[HELLO[at : at + 10] for at in range(0, 40, 10)]),
        pieces(makers.records(makers.hello(makers.server_name(b"a.example"), makers.key_share((1, 8000))))),
        [pieces(HELLO[:700])[0]._replace(length=800)],
        [pieces(HELLO[:700])[0], pieces(HELLO[700:], first=2)[0]],
    ]
    for way in ways:
        recogniser = Recogniser(with_quic=False)
        (named,) = fed(recogniser, way)
        assert named.protocol == "tls"
        assert isinstance(named.facts, tls.Hello)
        assert named.facts.cut
        assert len(recogniser) == 0
    assert len(ways[0]) == PIECES_MOST
    assert len(ways[1][0].data) > BYTES_MOST
    recogniser = Recogniser(with_quic=False)
    assert fed(recogniser, pieces(REQUEST[:-2])) == []
    (named,) = recogniser.end(1)
    assert (named.protocol, named.name) == ("http", b"www.example.org")
    assert recogniser.end(1) == []
    assert fed(recogniser, pieces(b"GE")) == []
    assert recogniser.end(1) == []


def test_both_ways() -> None:
    """The two directions of a flow, and two flows, are kept apart: a server hears the hello, and says none."""
    recogniser = Recogniser()
    reply = b"\x16\x03\x03\0\x04\2\0\0\0"
    items = [
        *pieces(HELLO[:800], outgoing=False),
        *pieces(reply),
        *pieces(REQUEST[:9], flow=2),
        *pieces(HELLO[800:], outgoing=False, first=1),
        *pieces(REQUEST[9:], flow=2, first=1),
    ]
    assert [(named.flow, named.outgoing, named.protocol) for named in fed(recogniser, items)] == [
        (1, False, "tls"),
        (2, True, "http"),
    ]


@pytest.mark.parametrize(("port", "protocol"), [(53, "dns"), (5353, "mdns"), (5355, "llmnr")])
def test_dns(port: int, protocol: str) -> None:
    """Each datagram of DNS is a message, told by the port of either end."""
    recogniser = Recogniser()
    named = fed(recogniser, pieces(makers.dns_query(), makers.dns_query("b.example."), transport="udp", port=port))
    assert [(one.protocol, one.name) for one in named] == [(protocol, b"www.example.org"), (protocol, b"b.example")]
    answer = pieces(makers.dns_answer([]), transport="udp", port=40_000)[0]._replace(local_port=port, outgoing=True)
    (one,) = recogniser.feed(answer)
    assert one.protocol == protocol
    assert isinstance(one.facts, dns.Message)
    assert one.facts.response
    assert recogniser.feed(answer._replace(data=b"\xff" * 20)) == []


def test_cut_dns() -> None:
    """A datagram of which the capture has only the beginning is marked as cut."""
    data = makers.dns_answer([("www.example.org.", 1, "A", "192.0.2.1")])
    item = Piece(1, False, "udp", 40_000, 53, 0, len(data), data[:40])
    (named,) = Recogniser(with_quic=False).feed(item)
    assert isinstance(named.facts, dns.Message)
    assert named.facts.cut


def test_answer_without_a_question() -> None:
    """An answer that repeats no question, as mDNS has it, has the name of its first record."""
    record = b"\4Host\5local\0\0\1\x80\1\0\0\0\x78\0\4\xc0\0\2\1"
    data = struct.pack(">6H", 0, 0x8400, 0, 1, 0, 0) + record
    (named,) = fed(Recogniser(with_quic=False), pieces(data, transport="udp", port=5353))
    assert named.name == b"host.local"
    (named,) = fed(
        Recogniser(with_quic=False), [Piece(1, True, "udp", 1, 53, 0, 99, struct.pack(">6H", 0, 0, 1, 0, 0, 0))]
    )
    assert named.name == b""


@pytest.mark.parametrize("size", [1, 2, 20, 33, 1000])
def test_dns_over_tcp(size: int) -> None:
    """Messages on a stream are told when they are whole, however they are split; what is cut at the end is marked."""
    stream = b"".join(
        struct.pack(">H", len(data)) + data for data in (makers.dns_query(), makers.dns_query("b.example."))
    )
    parts = [stream[:size], stream[size : size + 40], stream[size + 40 :]]
    recogniser = Recogniser(with_quic=False)
    named = fed(recogniser, pieces(*[part for part in parts if part], port=53))
    assert [(one.protocol, one.name) for one in named] == [("dns", b"www.example.org"), ("dns", b"b.example")]
    cut = fed(recogniser, pieces(stream[:-20], port=53, flow=2))
    (last,) = recogniser.end(2)
    assert isinstance(last.facts, dns.Message)
    assert last.facts.cut
    assert len(cut) == 1
    assert fed(recogniser, pieces(b"\0\5hello", port=53, flow=3)) == []
    assert recogniser.end(1) == []
    assert len(recogniser) == 0


def test_quic() -> None:
    """QUIC is told on any port of UDP; of a hello in two datagrams the second is waited for."""
    datagrams = makers.quic_datagrams()
    assert found(*datagrams, transport="udp") == ("quic", b"quic.example.org")
    many = makers.quic_datagrams(protocols=[f"protocol-{number:04}" for number in range(100)])
    recogniser = Recogniser()
    (first, second) = pieces(*many, transport="udp", port=4433)
    assert recogniser.feed(first) == []
    (named,) = recogniser.feed(second)
    assert named.protocol == "quic"
    assert isinstance(named.facts, tls.Hello)
    assert not named.facts.cut
    assert recogniser.feed(first._replace(number=2)) == []
    assert recogniser.feed(first._replace(flow=2)) == []
    (named,) = recogniser.end(2)
    assert isinstance(named.facts, tls.Hello)
    assert named.facts.cut


def test_not_quic() -> None:
    """Small datagrams and others are not looked at, noise is given up after three, and without QUIC nothing is kept."""
    noise = b"\xc0\0\0\0\1\4abcd\4efgh\0\x44\x00" + bytes(1200)
    recogniser = Recogniser()
    for data in (noise[:1199], b"\x80" + noise[1:], b""):
        assert fed(recogniser, pieces(data, transport="udp")) == []
        assert len(recogniser) == 0
    assert fed(recogniser, pieces(noise, noise, transport="udp")) == []
    assert len(recogniser) == 1
    assert fed(recogniser, pieces(noise, transport="udp", first=2)) == []
    assert len(recogniser) == 0
    without = Recogniser(with_quic=False)
    assert fed(without, pieces(*makers.quic_datagrams(), transport="udp")) == []
    assert fed(without, pieces(HELLO, transport="sctp")) == []
    assert len(without) == 0


def test_many_flows() -> None:
    """However many flows begin and never go on, what is kept is bounded, and the oldest are told as they are."""
    recogniser = Recogniser(with_quic=False)
    named = []
    for flow in range(5000):
        named += fed(recogniser, pieces(HELLO[:1200], flow=flow))
        assert len(recogniser) <= FLOWS_MOST
        assert recogniser._kept <= KEPT_MOST
    assert recogniser.dropped == 5000 - len(recogniser)
    assert [one.flow for one in named] == list(range(recogniser.dropped))
    small = Recogniser(with_quic=False)
    assert fed(small, [item for flow in range(5000) for item in pieces(b"G", flow=flow)]) == []
    assert len(small) == FLOWS_MOST


# Read the whole corpus with nothing loaded but what a Recogniser loads, and tell what is opened or imported then.
CONFINED = """
import sys
from pathlib import Path
from tracer.names import dns, http, tls
from tracer.names.recognise import Recogniser

Recogniser()
from tracer.names import quic
corpus = [path.read_bytes() for path in Path(sys.argv[1]).rglob("*/*")]
late = []
sys.addaudithook(lambda event, args: late.append((event, args[0])) if event in {"open", "import"} else None)
for data in corpus:
    for parse in (dns.parse, tls.stream, tls.handshake, http.parse):
        parse(data)
    for datagram in dns.split(data)[0] + [data]:
        for part, whole in ((datagram, True), (datagram[:-1] + b"x", True), (datagram[:600], False)):
            initials = quic.Initials()
            initials.add(part, whole)
            initials.hello()
print(len(corpus), *late)
"""


def test_nothing_is_loaded_later(pytester: pytest.Pytester) -> None:
    """Once there is a Recogniser no parser opens or imports anything: a confined process could not."""
    files = len(list(CORPUS.rglob("*/*")))
    assert files > 50
    assert pytester.run(sys.executable, "-c", CONFINED, str(CORPUS)).outlines == [f"{files}"]


def test_quic_is_loaded_only_when_wanted(pytester: pytest.Pytester) -> None:
    """Without QUIC the library that opens its packets is not imported: it is the dearest of them."""
    code = (
        "import sys; from tracer.names.recognise import Recogniser; Recogniser(with_quic=False);"
        "print('cryptography' in sys.modules); Recogniser(); print('cryptography' in sys.modules)"
    )
    assert pytester.run(sys.executable, "-c", code).outlines == ["False", "True"]
