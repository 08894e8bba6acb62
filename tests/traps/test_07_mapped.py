"""Trap 7: an AF_INET6 socket may speak IPv4."""

import pytest

from tests.tracing import ABSENT, find, one, value
from tests.traps.checks import CLOSED, check_network, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def test_mapped_addresses(trace: MakeTrace, run: Run) -> None:
    """The address is the IPv4 one on both ends, and the flag is on the ends whose socket is an IPv6 one."""
    truth, events = see(trace, run, "trap_07_mapped")
    check_network(truth, events)
    pid = only(truth, "program")["pid"]
    for label, mapped in {"client": "egress", "server": "ingress", "both": "egress ingress", "neither": ""}.items():
        line = only(truth, "connect", label=label)
        for direction in ("egress", "ingress"):
            ends = {"source__port": line["local_port"], "destination__port": line["remote_port"]}
            closed = one(events, CLOSED, pid, network__direction=direction, **ends)
            family = "ipv6" if label == "neither" else "ipv4"
            assert closed["network"]["type"] == family
            assert closed["source"]["ip"] == ("::1" if label == "neither" else "127.0.0.1")
            assert value(closed, "tracer.socket.mapped") is (True if direction in mapped.split() else ABSENT)
    assert len(lines(truth, "connect")) == 4
    assert not [event for event in find(events, pid=pid) if "::ffff:" in str(event.get("source"))]
