"""Name a flow the same from both of its ends, as other tools do: Community ID version 1 with seed 0.

The specification (github.com/corelight/community-id-spec) names what has ports: TCP, UDP, SCTP, and ICMP, whose types
and codes stand for them. Any other protocol is named by its addresses and its number.
"""

from __future__ import annotations

from binascii import b2a_base64
from hashlib import sha1
from struct import Struct
from typing import Final

__all__ = ["ICMP", "ICMPV6", "SCTP", "TCP", "UDP", "community_id"]

# Numbers that IANA assigned.
ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17
ICMPV6: Final = 58
SCTP: Final = 132

_HAVE_PORTS: Final = frozenset({TCP, UDP, SCTP})
# Types of messages that answer each other, from the specification; of these the answer's type stands for the second
# port. All others go one way: the ends are not put in order, and the second port is the code.
_PAIRS: Final = {
    ICMP: ((8, 0), (13, 14), (15, 16), (10, 9), (17, 18)),
    ICMPV6: ((128, 129), (130, 131), (133, 134), (135, 136), (139, 140), (144, 145)),
}
_ANSWERS: Final = {
    (protocol, kind): answer
    for protocol, pairs in _PAIRS.items()
    for pair in pairs
    for kind, answer in (pair, pair[::-1])
}
_with_ports: Final = Struct(">BBHH").pack


def community_id(one: bytes, one_port: int, other: bytes, other_port: int, protocol: int = TCP) -> str:
    """The name of a flow between two addresses (4 or 16 bytes in network order, both of one length).

    For ICMP and ICMPv6 ``one`` sent a message of type ``one_port`` and code ``other_port``. For protocols without ports
    both ports are ignored.
    """
    if protocol in _HAVE_PORTS:
        if one > other or (one == other and one_port > other_port):
            one, one_port, other, other_port = other, other_port, one, one_port
    elif protocol in _PAIRS:
        answer = _ANSWERS.get((protocol, one_port))
        if answer is not None:
            other_port = answer
            if one > other or (one == other and one_port > other_port):
                one, one_port, other, other_port = other, other_port, one, one_port
    else:
        first, second = (one, other) if one < other else (other, one)
        return _digest(b"\0\0" + first + second + bytes((protocol, 0)))
    return _digest(b"\0\0" + one + other + _with_ports(protocol, 0, one_port, other_port))


def _digest(named: bytes) -> str:
    return "1:" + b2a_base64(sha1(named, usedforsecurity=False).digest(), newline=False).decode()
