"""Tell which protocol a flow speaks, and the names in it, from the first bytes that it moves each way.

Give a Recogniser the pieces of payload in order. It keeps the beginning of a flow only until it is known what that is,
at most PIECES_MOST pieces and BYTES_MOST bytes a flow and direction, and of all flows FLOWS_MOST and KEPT_MOST bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.names import dns, http, tls

if TYPE_CHECKING:
    from tracer.names import quic  # else loaded only where it is wanted

__all__ = ["Flow", "Named", "Piece", "Recogniser"]

PIECES_MOST: Final = 4
BYTES_MOST: Final = 4096
FLOWS_MOST: Final = 1024
KEPT_MOST: Final = 1 << 20

# IANA's Service Name and Transport Protocol Port Number Registry.
_DNS_PORTS: Final = {53: "dns", 5353: "mdns", 5355: "llmnr"}

_TCP: Final = frozenset({"tcp", "mptcp"})
_UDP: Final = "udp"

# A datagram that has an Initial is never smaller (RFC 9000, 14.1), and has these two bits (17.2).
_INITIAL_LEAST: Final = 1200
_INITIAL_BITS: Final = 0xC0

Flow = int | tuple[int, str, int, str, int]
"""A flow by its number, or by its network namespace, transport, local port, remote address and port."""
_Facts = dns.Message | tls.Hello | http.Request


class Piece(NamedTuple):
    """What one call moved at the beginning of a flow.

    ``number`` counts the pieces of this flow and direction from 0. ``length`` is how many bytes were moved, of which
    ``data`` is the beginning. Of the transports ``tcp``, ``mptcp`` and ``udp`` are looked at.
    """

    flow: Flow
    outgoing: bool
    transport: str
    local_port: int
    remote_port: int
    number: int
    length: int
    data: bytes


class Named(NamedTuple):
    """What a flow was found to speak: ``protocol`` is dns, mdns, llmnr, tls, http or quic, as network.protocol has it.

    ``name`` is what was asked for or who is spoken to, in lower case; empty if that was not said. ``outgoing``: this
    end said it.
    """

    flow: Flow
    outgoing: bool
    protocol: str
    name: bytes
    facts: dns.Message | tls.Hello | http.Request


def _named(key: tuple[Flow, bool], protocol: str, facts: _Facts) -> Named:
    if isinstance(facts, dns.Message):
        name = facts.questions[0].name if facts.questions else facts.answers[0].name if facts.answers else b""
    elif isinstance(facts, tls.Hello):
        name = facts.server_name
    else:
        name = facts.host
    return Named(*key, protocol, name.lower(), facts)


class _Stream:
    """The beginning of one direction of a TCP flow."""

    __slots__ = ("data", "pieces", "port_protocol")

    def __init__(self, port_protocol: str) -> None:
        self.data = b""
        self.pieces = 0
        self.port_protocol = port_protocol

    @property
    def size(self) -> int:
        return len(self.data)

    def add(self, piece: Piece) -> bool:
        """Take in a piece, and return whether it is the last one that can be of use."""
        if piece.number != self.pieces:
            return True  # a piece between was lost: what comes now does not follow
        self.pieces += 1
        room = BYTES_MOST - len(self.data)
        self.data += piece.data[:room]
        return self.pieces >= PIECES_MOST or len(piece.data) >= room or len(piece.data) < piece.length

    def found(self, last: bool) -> tuple[list[tuple[str, _Facts]], bool]:
        """What it speaks as far as that is known, and whether there may be more to come."""
        if self.port_protocol:
            return self._messages(last)
        hello = tls.stream(self.data)
        if hello is not None:
            wait = hello.cut and not last
            return ([] if wait else [("tls", hello)]), wait
        request = http.parse(self.data)
        if request is not None:
            wait = request.cut and not last
            return ([] if wait else [("http", request)]), wait
        return [], not last and b"\n" not in self.data.lstrip(b"\r\n") and http.may_begin(self.data)

    def _messages(self, last: bool) -> tuple[list[tuple[str, _Facts]], bool]:
        whole, self.data = dns.split(self.data)
        messages = [dns.parse(data) for data in whole]
        if last and len(self.data) > 2:
            messages.append(dns.parse(self.data[2:], whole=False))
        return [(self.port_protocol, message) for message in messages if message], not last and None not in messages


class _Datagrams:
    """The first datagrams of one direction of a UDP flow, which may be QUIC."""

    __slots__ = ("initials", "size")

    def __init__(self, initials: quic.Initials) -> None:
        self.initials = initials
        self.size = 0

    def add(self, piece: Piece) -> bool:
        """Take in a datagram, and return whether it is the last one that is looked at."""
        data = piece.data[:BYTES_MOST]
        self.size += len(data)
        self.initials.add(data, len(data) >= piece.length)
        return self.initials.spent

    def found(self, last: bool) -> tuple[list[tuple[str, _Facts]], bool]:
        """What it speaks as far as that is known, and whether there may be more to come."""
        hello = self.initials.hello()
        wait = not last and (hello is None or hello.cut)
        return ([] if wait or hello is None else [("quic", hello)]), wait


class Recogniser:
    """Give it the pieces of all flows as they come; it gives what they were found to speak."""

    def __init__(self, with_quic: bool = True) -> None:
        """``with_quic`` loads `cryptography`, once. Raises ImportError without that."""
        self._initials: type[quic.Initials] | None = None
        if with_quic:
            from tracer.names.quic import Initials

            self._initials = Initials
        self._open: dict[tuple[Flow, bool], _Stream | _Datagrams] = {}
        self._kept = 0  # bytes
        self.dropped = 0  # flows given up before it was known what they are, because there were too many

    def __len__(self) -> int:
        """How many beginnings are kept."""
        return len(self._open)

    def feed(self, piece: Piece) -> list[Named]:
        """Take in a piece, and give what is now known; that may be of other flows too, which had to make room."""
        port_protocol = _DNS_PORTS.get(piece.remote_port) or _DNS_PORTS.get(piece.local_port, "")
        if port_protocol and piece.transport == _UDP:
            message = dns.parse(piece.data, len(piece.data) >= piece.length)
            return [_named((piece.flow, piece.outgoing), port_protocol, message)] if message else []
        key = (piece.flow, piece.outgoing)
        state = self._open.pop(key, None)
        if state is None:
            state = self._begin(piece, port_protocol)
            if state is None:
                return []
        self._kept -= state.size
        last = state.add(piece)
        results, wait = state.found(last)
        named = [_named(key, protocol, facts) for protocol, facts in results]
        if wait:
            self._open[key] = state
            self._kept += state.size
            while len(self._open) > FLOWS_MOST or self._kept > KEPT_MOST:
                self.dropped += 1
                named += self._give_up(next(iter(self._open)))
        return named

    def end(self, flow: Flow) -> list[Named]:
        """A flow is closed: give what there is of it, and keep nothing."""
        return [named for outgoing in (True, False) for named in self._give_up((flow, outgoing))]

    def _begin(self, piece: Piece, port_protocol: str) -> _Stream | _Datagrams | None:
        """What to keep of a flow, if it is worth it: the first piece of each direction decides."""
        if piece.number:
            return None
        if piece.transport in _TCP:
            return _Stream(port_protocol)
        if self._initials is None or piece.transport != _UDP or piece.length < _INITIAL_LEAST:
            return None
        begins = piece.data[:1] and piece.data[0] & _INITIAL_BITS == _INITIAL_BITS
        return _Datagrams(self._initials()) if begins else None

    def _give_up(self, key: tuple[Flow, bool]) -> list[Named]:
        state = self._open.pop(key, None)
        if state is None:
            return []
        self._kept -= state.size
        return [_named(key, protocol, facts) for protocol, facts in state.found(True)[0]]
