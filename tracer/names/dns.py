"""Read DNS messages: what was asked and what was answered, by UDP or TCP, and as mDNS and LLMNR have it.

Names are read by dnspython's parser of the wire format, which follows compression backwards only and for at most 16
hops. Its class of messages is not used: that gives nothing of a message that is cut, takes four times as long, and
loads a module for each type of record, which a confined process can't. dnslib was tried too: it follows compression by
recursion, to whatever depth a message asks for.
"""

from __future__ import annotations

from socket import AF_INET, AF_INET6, inet_ntop
from struct import Struct
from typing import Final, NamedTuple

from dns.exception import DNSException, FormError
from dns.name import from_wire_parser
from dns.rcode import Rcode
from dns.rdatatype import RdataType
from dns.wire import Parser

__all__ = [
    "MESSAGE_MOST",
    "Answer",
    "Message",
    "Question",
    "class_name",
    "data_text",
    "parse",
    "rcode_name",
    "split",
    "type_name",
]

MESSAGE_MOST: Final = 4096  # bytes looked at; more is as if the capture had cut it
QUESTIONS_MOST: Final = 8  # mDNS asks several at once (RFC 6762, 5.3), nobody else does
ANSWERS_MOST: Final = 64
RECORDS_MOST: Final = 96  # of all sections
DATA_MOST: Final = 256  # bytes kept of a record that is no name and no address

_header = Struct(">6H")
_HEADER_SIZE: Final = _header.size
_QUESTION: Final = ">HH"
_RECORD: Final = ">HHIH"

# Numbers of record types, from IANA's registry "Domain Name System (DNS) Parameters".
A: Final = 1
CNAME: Final = 5
_TXT: Final = 16
AAAA: Final = 28
_OPT: Final = 41
_NAMES: Final = frozenset({2, CNAME, 12, 39})  # NS, CNAME, PTR, DNAME: all that they hold is a name

# The same registry: QUERY, IQUERY, STATUS, NOTIFY, UPDATE, DSO. What has another one is no DNS.
_OPCODES: Final = frozenset({0, 1, 2, 4, 5, 6})

# In mDNS the top bit of the class asks for an answer by unicast, or to forget older answers (RFC 6762, 10.2 and 18.12).
_CLASS_MASK: Final = 0x7FFF
_TTL_MOST: Final = 0x7FFFFFFF  # a time to live with the top bit set is 0 (RFC 2181, 8)

_FLAGS: Final = ((0x0400, "AA"), (0x0200, "TC"), (0x0100, "RD"), (0x0080, "RA"), (0x0020, "AD"), (0x0010, "CD"))


class Question(NamedTuple):
    """What was asked for. ``name`` has a dot between labels and none at its end; ``.`` is the root.

    A dot or backslash inside a label has a backslash before it; all other bytes are as they were.
    """

    name: bytes
    type: int
    class_: int


class Answer(NamedTuple):
    """One record of the answer section.

    ``data`` is the name that NS, CNAME, PTR and DNAME hold, written as in a question, and of other types the first
    DATA_MOST bytes as they were; ``address`` is the text of that of A and AAAA, else empty. ``ttl`` is in seconds.
    """

    name: bytes
    type: int
    class_: int
    ttl: int
    data: bytes
    address: str


class Message(NamedTuple):
    """One message, or as much of it as there was.

    ``rcode`` is with the upper bits that EDNS adds. ``udp_size`` is what the sender takes by UDP, -1 without EDNS.
    ``answers_total`` is how many answers the header promises. ``cut``: the capture, or a bound of ours, left something
    out; ``malformed``: something is not as it should be, and reading stopped there.
    """

    id: int
    response: bool
    opcode: int
    rcode: int
    flags: tuple[str, ...]
    questions: tuple[Question, ...]
    answers: tuple[Answer, ...]
    answers_total: int
    udp_size: int
    cut: bool
    malformed: bool


_TYPE_NAMES: Final = {int(member): member.name.replace("_", "-") for member in RdataType}
_CLASS_NAMES: Final = {1: "IN", 3: "CH", 4: "HS", 254: "NONE", 255: "ANY"}
_RCODE_NAMES: Final = {int(member): member.name for member in Rcode}


def type_name(number: int) -> str:
    """Return the name of a record type, ``AAAA`` of 28; ``TYPE4711`` of one that has none (RFC 3597, 5)."""
    return _TYPE_NAMES.get(number) or f"TYPE{number}"


def class_name(number: int) -> str:
    """Return the name of a class, ``IN`` of 1; ``CLASS4711`` of one that has none (RFC 3597, 5)."""
    return _CLASS_NAMES.get(number) or f"CLASS{number}"


def data_text(answer: Answer) -> bytes:
    """Return what a record holds as text: a name or an address, of TXT the strings in a row, else as RFC 3597, 5.

    A backslash in a string has another one before it, as in a name.
    """
    if answer.address:
        return answer.address.encode()
    data = answer.data
    if answer.type in _NAMES:
        return data
    if answer.type != _TXT:
        return b"\\# %d %s" % (len(data), data.hex().encode()) if data else b"\\# 0"
    strings = []
    at = 0
    while at < len(data):
        strings.append(data[at + 1 : at + 1 + data[at]].replace(b"\\", b"\\\\"))
        at += 1 + data[at]
    return b"".join(strings)


def rcode_name(number: int) -> str:
    """Return the name of a response code, ``NXDOMAIN`` of 3; ``RCODE4000`` of one that has none."""
    return _RCODE_NAMES.get(number) or f"RCODE{number}"


def split(stream: bytes) -> tuple[list[bytes], bytes]:
    """Return the whole messages at the beginning of a TCP stream (RFC 1035, 4.2.2), and what follows them."""
    messages = []
    begin = 0
    while begin + 2 <= len(stream):
        end = begin + 2 + int.from_bytes(stream[begin : begin + 2], "big")
        if end > len(stream):
            break
        messages.append(stream[begin + 2 : end])
        begin = end
    return messages, stream[begin:]


def _name(parser: Parser) -> bytes:
    labels = from_wire_parser(parser).labels
    if len(labels) == 1:
        return b"."
    name = b".".join(labels[:-1])
    if b"\\" in name or name.count(b".") != len(labels) - 2:
        name = b".".join(label.replace(b"\\", b"\\\\").replace(b".", b"\\.") for label in labels[:-1])
    return name


def _question(parser: Parser) -> Question:
    name = _name(parser)
    type_, class_ = parser.get_struct(_QUESTION)
    return Question(name, type_, class_ & _CLASS_MASK)


def _answer(parser: Parser) -> Answer:
    """One record, of any section. The class of an OPT record is a size, its time to live has flags."""
    name = _name(parser)
    type_, class_, ttl, size = parser.get_struct(_RECORD)
    end = parser.current + size
    if type_ in _NAMES:
        data, address = _name(parser), ""
        if parser.current != end:
            raise _MisfitError
    else:
        data, address = parser.get_bytes(size), ""
        if type_ == A and size == 4:
            address = inet_ntop(AF_INET, data)
        elif type_ == AAAA and size == 16:
            address = inet_ntop(AF_INET6, data)
        elif type_ in {A, AAAA}:
            raise _MisfitError
        data = data[:DATA_MOST]
    if type_ == _OPT:
        return Answer(name, type_, class_, ttl, data, address)
    return Answer(name, type_, class_ & _CLASS_MASK, ttl if ttl <= _TTL_MOST else 0, data, address)


class _MisfitError(DNSException):
    """The data of a record is not as long as the record says."""


class _Draft:
    """A message while it is read: what there is of it stays when the rest can't be read."""

    __slots__ = ("answers", "extended", "questions", "udp_size")

    def __init__(self) -> None:
        self.questions: list[Question] = []
        self.answers: list[Answer] = []
        self.extended = 0  # the upper bits of the response code
        self.udp_size = -1

    def read(self, parser: Parser, counts: tuple[int, int, int]) -> bool:
        """Read on, and return whether that was all. Raises DNSException where it can't be read."""
        asked, answered, others = counts
        for _ in range(min(asked, QUESTIONS_MOST)):
            self.questions.append(_question(parser))
        if asked > QUESTIONS_MOST:
            return False
        for _ in range(min(answered, ANSWERS_MOST)):
            self.answers.append(_answer(parser))
        if answered > ANSWERS_MOST:
            return False
        room = RECORDS_MOST - answered
        for _ in range(min(others, room)):
            record = _answer(parser)
            if record.type == _OPT and self.udp_size < 0:  # RFC 6891, 6.1.3
                self.udp_size = record.class_
                self.extended = record.ttl >> 24 << 4
        return others <= room


def parse(data: bytes, whole: bool = True) -> Message | None:
    """Return a message, without the length that TCP puts before it, or None if this is none.

    ``whole`` is False when the capture has only its first bytes.
    """
    if len(data) < _HEADER_SIZE:
        return None
    number, bits, asked, answered, authorities, additional = _header.unpack_from(data)
    opcode = bits >> 11 & 15
    if opcode not in _OPCODES:
        return None
    if len(data) > MESSAGE_MOST:
        data, whole = data[:MESSAGE_MOST], False
    parser = Parser(data, _HEADER_SIZE)
    draft = _Draft()
    cut = malformed = False
    try:
        cut = not draft.read(parser, (asked, answered, authorities + additional))
    except FormError as error:
        # The very class, and not one of those that name what is wrong: the data ended.
        cut = not whole and type(error) is FormError
        malformed = not cut
    except DNSException:
        malformed = True
    if not draft.questions and not draft.answers and (malformed or not (asked or answered)):
        return None
    return Message(
        number,
        bool(bits & 0x8000),
        opcode,
        bits & 15 | draft.extended,
        tuple(name for bit, name in _FLAGS if bits & bit),
        tuple(draft.questions),
        tuple(draft.answers),
        answered,
        draft.udp_size,
        cut,
        malformed,
    )
