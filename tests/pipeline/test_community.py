"""Community ids: those of the reference implementation, from either end, for every protocol."""

import ipaddress

import communityid
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.pipeline.community import ICMP, ICMPV6, SCTP, TCP, UDP, community_id

PORTS = st.integers(0, 65535)
BYTES = st.integers(0, 255)
UDPLITE = 136
GRE = 47


def oracle(protocol: int, one: bytes, other: bytes, one_port: int | None, other_port: int | None) -> str:
    """The community id as the reference implementation has it."""
    texts = [str(ipaddress.ip_address(raw)) for raw in (one, other)]
    ends = communityid.FlowTuple(protocol, *texts, one_port, other_port)
    return str(communityid.CommunityID().calc(ends))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """Two addresses of one family, now and then the same."""
    size = draw(st.sampled_from([4, 16]))
    one = draw(st.binary(min_size=size, max_size=size))
    return one, draw(st.one_of(st.just(one), st.binary(min_size=size, max_size=size)))


@given(st.sampled_from([TCP, UDP, SCTP]), pairs(), PORTS, PORTS)
def test_ports(protocol: int, ends: tuple[bytes, bytes], one_port: int, other_port: int) -> None:
    """For any two ends of one family the id is that of the reference implementation, from either side."""
    one, other = ends
    wanted = oracle(protocol, one, other, one_port, other_port)
    assert community_id(one, one_port, other, other_port, protocol) == wanted
    assert community_id(other, other_port, one, one_port, protocol) == wanted


@given(st.sampled_from([ICMP, ICMPV6]), pairs(), BYTES, BYTES)
def test_messages(protocol: int, ends: tuple[bytes, bytes], kind: int, code: int) -> None:
    """For a message of any type and code, answered or not, the id is that of the reference implementation."""
    one, other = ends
    assert community_id(one, kind, other, code, protocol) == oracle(protocol, one, other, kind, code)


ECHOES = [(ICMP, 8, 0), (ICMP, 13, 14), (ICMPV6, 128, 129), (ICMPV6, 135, 136)]


@pytest.mark.parametrize(("protocol", "request_type", "reply_type"), ECHOES)
def test_question_and_answer(protocol: int, request_type: int, reply_type: int) -> None:
    """An echo and its reply from the other end are one flow; a message that nobody answers has another name back."""
    size = 4 if protocol == ICMP else 16
    one, other = bytes(size), b"\1" * size
    assert community_id(one, request_type, other, 0, protocol) == community_id(other, reply_type, one, 0, protocol)
    assert community_id(one, 3, other, 1, protocol) != community_id(other, 3, one, 1, protocol)


@given(st.integers(0, 255).filter(lambda number: number not in {ICMP, TCP, UDP, ICMPV6, SCTP}), pairs(), PORTS)
def test_protocols_without_ports(protocol: int, ends: tuple[bytes, bytes], port: int) -> None:
    """Of any other protocol the addresses and the number are all that counts, whichever end is first."""
    one, other = ends
    wanted = oracle(protocol, one, other, None, None)
    assert community_id(one, port, other, 0, protocol) == community_id(other, 0, one, port, protocol) == wanted


def test_known_values() -> None:
    """Examples of the specification's own baseline."""
    one, other = (ipaddress.ip_address(text).packed for text in ("128.232.110.120", "66.35.250.204"))
    assert community_id(one, 34855, other, 80) == "1:LQU9qZlK+B5F3KDmev6m5PMibrg="
    one, other = (ipaddress.ip_address(text).packed for text in ("192.168.1.52", "8.8.8.8"))
    assert community_id(one, 54585, other, 53, UDP) == "1:d/FP5EW3wiY1vCndhwleRRKHowQ="
    one, other = (ipaddress.ip_address(text).packed for text in ("192.168.0.89", "192.168.0.1"))
    assert community_id(one, 8, other, 0, ICMP) == "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="
