"""Trap 5: a socket has no source port yet when its connect begins."""

import pytest

from tests.tracing import find
from tests.traps.checks import OPENED, check_network, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def test_source_port(trace: MakeTrace, run: Run) -> None:
    """Ports from the kernel and from bind, IPv4 and IPv6: each record has the real one, which the bytes count too."""
    truth, events = see(trace, run, "trap_05_source_port")
    check_network(truth, events)
    opened = find(events, OPENED, only(truth, "program")["pid"])
    assert len(opened) == len(lines(truth, "connect")) == 22
    assert all(event["source"]["port"] for event in opened)
    assert {event["network"]["type"] for event in opened} == {"ipv4", "ipv6"}
