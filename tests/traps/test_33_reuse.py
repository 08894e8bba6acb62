"""Trap 33: the memory of a socket is used again at once."""

import errno
from collections import Counter

import pytest

from tests.tracing import Event, find, one
from tests.traps.checks import ACCEPTED, CLOSED, OPENED, Line, check_time, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event]) -> None:
    """Each of the connections is two flows of its own, with its own port, bytes and end."""
    program = only(truth, "program")
    pairs = lines(truth, "pair")
    port = pairs[0]["remote_port"]
    by_port: dict[int, list[Event]] = {}
    for event in find(events, server__port=port):
        if event["event"]["action"] != "socket-listening":
            assert event["process"]["pid"] == program["pid"]
            by_port.setdefault(event["source"]["port"], []).append(event)
    used: Counter[int] = Counter(line["local_port"] for line in pairs)
    flows = set()
    for line in pairs:
        # The kernel may give a port again within a thousand connections: those are told apart by their bytes.
        ours = by_port[line["local_port"]]
        assert len(ours) == 4 * used[line["local_port"]]
        for direction, action in (("egress", OPENED), ("ingress", ACCEPTED)):
            sides = {"network__direction": direction, "source__bytes": line["number"], "destination__bytes": 0}
            closed = one(ours, CLOSED, **sides)
            flow = closed["tracer"]["socket"]["id"]
            assert flow not in flows
            flows.add(flow)
            assert [event["event"]["action"] for event in find(ours, tracer__socket__id=flow)] == [action, CLOSED]
            was_reset = line["reset"] and direction == "ingress"
            assert closed["tracer"]["tcp"].get("errno", 0) == (errno.ECONNRESET if was_reset else 0), (line, closed)
            check_time(truth, one(ours, action, tracer__socket__id=flow), line)
    assert len(flows) == 2 * len(pairs)


def test_reused_memory(trace: MakeTrace, run: Run) -> None:
    """1,009 connections, one after the other, are 1,009 connections."""
    truth, events = see(trace, run, "trap_33_reuse")
    assert len(lines(truth, "pair")) == 1009
    check(truth, events)
