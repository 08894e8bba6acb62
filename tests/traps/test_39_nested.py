"""Trap 39: scratch memory that is overwritten while it is in use."""

import pytest

from tests.tracing import Event, find, one
from tests.traps.checks import EXECUTED, Line, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live

RUNNERS, EXECS = 4, 101


def checksum(arguments: list[str]) -> str:
    """FNV-1a, 64 bits, over the arguments with their end marks."""
    total = 0xCBF29CE484222325
    for byte in b"".join(argument.encode() + b"\0" for argument in arguments):
        total = (total ^ byte) * 0x100000001B3 % (1 << 64)
    return f"{total:016x}"


def check(truth: list[Line], events: list[Event]) -> None:
    """Every exec of the storm is there once, and its arguments have the checksum that is the last of them."""
    program = only(truth, "program")
    told = lines(truth, "storm")
    assert len(told) == RUNNERS * EXECS
    for line in told:
        event = one(events, EXECUTED, line["pid"])
        arguments = event["process"]["args"]
        assert "truncated" not in event["tracer"]
        assert arguments[:3] == ["storm", str(line["runner"]), str(line["number"])]
        assert event["process"]["args_count"] == len(arguments) == 20
        assert checksum(arguments[1:-1]) == arguments[-1] == line["checksum"]
        assert event["process"]["command_line"] == " ".join(arguments)
        assert event["process"]["executable"] == program["exe"]
        assert event["process"]["name"] == "trap_39_nested"
    for made in lines(truth, "made"):
        for action, count in (("connection-opened", 1), ("connection-accepted", 1), ("connection-closed", 2)):
            assert len(find(events, action, made["pid"])) == count * made["connections"]


def test_nested_contexts(trace: MakeTrace, run: Run) -> None:
    """404 execs with a kilobyte of arguments each, among softirqs and real-time processes: every record is intact."""
    truth, events = see(trace, run, "trap_39_nested")
    check(truth, events)
