"""DNS messages are read as dnspython wrote them, and hostile ones are cut off, flagged or refused."""

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns.wire import Parser

from tests.names.makers import dns_answer, dns_query
from tracer.names.dns import ANSWERS_MOST, MESSAGE_MOST, Answer, Message, parse, rcode_name, split, type_name

ALIAS = [
    ("www.example.org.", 300, "CNAME", "cdn.example.net."),
    ("cdn.example.net.", 60, "A", "192.0.2.1"),
    ("cdn.example.net.", 61, "AAAA", "2001:db8::1"),
]


def parsed(data: bytes, whole: bool = True) -> Message:
    """The message, which must be one."""
    message = parse(data, whole)
    assert message is not None
    return message


def header(asked: int = 0, answered: int = 0, bits: int = 0x8180) -> bytes:
    """A header of an answer that has these counts."""
    return struct.pack(">6H", 4711, bits, asked, answered, 0, 0)


def test_query() -> None:
    """A question has its name, type, flags and the size of EDNS."""
    message = parsed(dns_query("www.Example.ORG.", "AAAA", 17, 1400))
    assert message.id == 17
    assert not message.response
    assert message.flags == ("RD",)
    assert [(question.name, type_name(question.type)) for question in message.questions] == [
        (b"www.Example.ORG", "AAAA")
    ]
    assert message.udp_size == 1400
    assert not message.cut
    assert not message.malformed


def test_answer() -> None:
    """An answer has each record, with its chain of names, addresses as text and times to live."""
    message = parsed(dns_answer(ALIAS))
    assert message.response
    assert message.flags == ("RD", "RA")
    assert message.answers_total == 3
    assert [(a.name, type_name(a.type), a.ttl, a.address) for a in message.answers] == [
        (b"www.example.org", "CNAME", 300, ""),
        (b"cdn.example.net", "A", 60, "192.0.2.1"),
        (b"cdn.example.net", "AAAA", 61, "2001:db8::1"),
    ]
    assert message.answers[0].data == b"cdn.example.net"
    assert not message.malformed


@pytest.mark.parametrize("kind", ["MX", "TXT", "SRV", "CAA", "SOA"])
def test_other_types(kind: str) -> None:
    """A record of another type is kept as bytes, and what follows it is read."""
    text = {
        "MX": "10 mail.example.org.",
        "TXT": '"v=spf1 -all"',
        "SRV": "0 5 5060 sip.example.org.",
        "CAA": '0 issue "ca.example.net"',
        "SOA": "ns.example.org. host.example.org. 1 2 3 4 5",
    }[kind]
    message = parsed(dns_answer([("example.org.", 9, kind, text), ("example.org.", 9, "A", "192.0.2.9")]))
    assert type_name(message.answers[0].type) == kind
    assert message.answers[0].data
    assert message.answers[0].address == ""
    assert message.answers[1].address == "192.0.2.9"


@pytest.mark.parametrize("name", ["NOERROR", "SERVFAIL", "NXDOMAIN", "BADVERS", "BADCOOKIE"])
def test_rcode(name: str) -> None:
    """The code of an answer includes the bits that EDNS adds."""
    message = parsed(dns_answer([], rcode=int(dns.rcode.from_text(name))))
    assert rcode_name(message.rcode) == name
    assert message.questions


def test_names_of_numbers() -> None:
    """Types and codes without a name are told by their number."""
    assert type_name(65) == "HTTPS"
    assert type_name(4711) == "TYPE4711"
    assert rcode_name(4000) == "RCODE4000"


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        ((b"",), b"."),
        ((b"a.b", b"c", b""), b"a\\.b.c"),
        ((b"a\\b", b"c", b""), b"a\\\\b.c"),
        ((b"\xff\n\x1b[31m", b"c", b""), b"\xff\n\x1b[31m.c"),
        ((b"x" * 63, b"y" * 63, b"z" * 63, b"w" * 61, b""), b".".join([b"x" * 63, b"y" * 63, b"z" * 63, b"w" * 61])),
    ],
)
def test_hostile_names(labels: tuple[bytes, ...], name: bytes) -> None:
    """The bytes of a name are kept; only a dot or a backslash inside a label is told apart."""
    wire = dns.name.Name(labels).to_wire()
    assert wire is not None
    message = parsed(header(1) + wire + b"\0\1\0\1")
    assert message.questions[0].name == name
    assert not message.malformed


def test_tcp() -> None:
    """Messages on a stream are split by their lengths; what is not whole stays."""
    first, second = dns_query(number=1), dns_answer(ALIAS)
    data = b"".join(struct.pack(">H", len(message)) + message for message in (first, second))
    assert split(data) == ([first, second], b"")
    assert split(data[:-1]) == ([first], data[2 + len(first) : -1])
    assert split(b"\0") == ([], b"\0")
    assert split(b"\0\0\0") == ([b""], b"\0")


def test_every_cut() -> None:
    """However short the capture is, what it has is told, marked as cut, and never more than there was."""
    data = dns_answer(ALIAS)
    whole = parsed(data)
    counts = []
    for length in range(len(data)):
        message = parse(data[:length], whole=False)
        if length < 12:
            assert message is None
            continue
        assert message is not None
        assert message.cut
        assert not message.malformed
        assert whole.questions[: len(message.questions)] == message.questions
        assert whole.answers[: len(message.answers)] == message.answers
        counts.append(len(message.answers))
    assert counts == sorted(counts)
    assert counts[-1] == 3  # only the EDNS record is missing
    assert parsed(data, whole=False) == whole


def test_truncated_but_whole() -> None:
    """A message that ends early although the capture has all of it is malformed."""
    message = parsed(dns_answer(ALIAS)[:60])
    assert message.malformed
    assert not message.cut
    assert parsed(dns_answer([], flags="QR TC")).flags == ("TC",)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(b"\xc0\x0c", id="itself"),
        pytest.param(b"\xc0\x0e\xc0\x0c", id="forwards"),
        pytest.param(b"\1a\xc0\x0c", id="its own beginning"),
        pytest.param(b"\x40abc", id="label of another kind"),
        pytest.param(b"\xc0", id="half a pointer"),
        pytest.param(b"\x3fabc", id="label beyond the end"),
        pytest.param(b"\1a" * 200 + b"\0", id="too long"),
    ],
)
def test_bad_names(name: bytes) -> None:
    """Loops and names that can't be are no message; after a good question they are a malformed one."""
    assert parse(header(1) + name + b"\0\1\0\1") is None
    message = parsed(header(1, 1) + b"\1a\0\0\1\0\1" + name.replace(b"\x0c", b"\x13").replace(b"\x0e", b"\x15"))
    assert message.malformed
    assert message.questions[0].name == b"a"
    assert message.answers == ()


def test_pointer_chains_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message of nothing but pointers to pointers costs no more than one of names."""
    reads = 0
    get_bytes = Parser.get_bytes

    def counted(self: Parser, size: int) -> bytes:
        nonlocal reads
        reads += 1
        return get_bytes(self, size)

    monkeypatch.setattr(Parser, "get_bytes", counted)
    # In the data of the first record, at 23: the root, a pointer to it, and then each to the one before.
    chain = b"\0" + b"".join(struct.pack(">H", 0xC000 | max(23, at - 2)) for at in range(24, 4000, 2))
    holder = b"\0" + struct.pack(">HHIH", 16, 1, 5, len(chain)) + chain
    for depth, malformed in ((14, False), (1000, True)):
        record = struct.pack(">HHHIH", 0xC000 | 24 + 2 * depth, 1, 1, 5, 4) + b"\xc0\0\2\1"
        reads = 0
        message = parsed(header(0, 3) + holder + 2 * record)
        assert message.malformed == malformed
        assert len(message.answers) == (1 if malformed else 3)
        assert 10 < reads < 120


@pytest.mark.parametrize(("kind", "size"), [(1, 3), (1, 16), (28, 4), (5, 9)])
def test_misfits(kind: int, size: int) -> None:
    """A record whose data does not fit its type is malformed, and what is before it is kept."""
    data = header(0, 2) + b"\1a\0\0\1\0\1\0\0\0\5\0\4\xc0\0\2\1" + b"\1b\0" + struct.pack(">HHIH", kind, 1, 5, size)
    message = parsed(data + b"\1c\0" + bytes(size))
    assert message.malformed
    assert message.answers == (Answer(b"a", 1, 1, 5, b"\xc0\0\2\1", "192.0.2.1"),)


def test_bounds() -> None:
    """What is beyond the bounds is left out, and the message is marked as cut."""
    record = b"\1a\0\0\1\0\1\0\0\0\5\0\4\xc0\0\2\1"
    message = parsed(header(0, 200) + 200 * record)
    assert len(message.answers) == ANSWERS_MOST
    assert message.answers_total == 200
    assert message.cut
    assert parsed(header(20) + b"\1a\0\0\1\0\1" * 20).cut
    assert parsed(struct.pack(">6H", 1, 0x8180, 0, 1, 0, 200) + 201 * record).cut
    large = parsed(header(0, 2) + b"\1a\0\0\x10\0\1\0\0\0\5" + struct.pack(">H", 5000) + bytes(5000) + record)
    assert large.cut
    assert large.answers == ()
    text = parsed(header(0, 1) + b"\1a\0\0\x10\0\1\0\0\0\5" + struct.pack(">H", 3000) + bytes(3000))
    assert len(text.answers[0].data) == 256
    assert len(header() + bytes(5000)) > MESSAGE_MOST


def test_mdns() -> None:
    """The top bit of a class, which mDNS gives a meaning, is not part of the class."""
    data = header(1, 1) + b"\4host\5local\0\0\1\x80\1" + b"\xc0\x0c\0\1\x80\1\0\0\0\x78\0\4\xc0\0\2\1"
    message = parsed(data)
    assert message.questions[0].class_ == 1
    assert message.answers[0] == Answer(b"host.local", 1, 1, 120, b"\xc0\0\2\1", "192.0.2.1")


def test_time_to_live() -> None:
    """A time to live with the top bit set is 0 (RFC 2181, 8)."""
    data = header(0, 1) + b"\1a\0\0\1\0\1\x80\0\0\5\0\4\xc0\0\2\1"
    assert parsed(data).answers[0].ttl == 0


@pytest.mark.parametrize(
    "data", [b"", bytes(11), bytes(12), bytes(100), header(bits=0x9800) + bytes(50), b"GET / HTTP/1.1\r\n\r\n"]
)
def test_not_dns(data: bytes) -> None:
    """What is no message is none."""
    assert parse(data) is None
