"""Trap 28: processes that are gone before anybody could ask about them."""

import pytest

from tests.tracing import Event, actions, one
from tests.traps.checks import CLOSED, EXECUTED, OPENED, Line, check_exit, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event]) -> None:
    """Each of the processes has its full identity on its exec, its connect, its close and its exit."""
    program = only(truth, "program")
    entities = set()
    for line in lines(truth, "blip"):
        pid = line["pid"]
        executed = one(events, EXECUTED, pid)
        ends = {"source__port": line["local_port"], "destination__port": line["remote_port"]}
        opened = one(events, OPENED, pid, **ends)
        closed = one(events, CLOSED, pid, **ends)
        exited = check_exit(truth, events, line)
        assert executed["process"]["args"] == ["blip", str(line["number"]), str(line["remote_port"])]
        assert executed["process"]["args_count"] == 3
        assert closed["source"]["bytes"] == line["number"] + 1
        assert closed["destination"]["bytes"] == 0
        for event in (executed, opened, closed, exited):
            assert event["process"]["executable"] == program["exe"]
            assert event["process"]["parent"]["pid"] == program["pid"]
            assert event["process"]["parent"]["executable"] == program["exe"]
            assert event["process"]["user"]["id"] == "0"
            assert event["process"]["entity_id"] == executed["process"]["entity_id"]
        entities.add(executed["process"]["entity_id"])
        assert actions(events, pid) == {EXECUTED: 1, OPENED: 1, CLOSED: 1, "process-exited": 1}
    assert len(entities) == 211


def test_short_lives(trace: MakeTrace, run: Run) -> None:
    """211 of 211 processes that live a millisecond or so are told completely."""
    truth, events = see(trace, run, "trap_28_short")
    assert len(lines(truth, "blip")) == 211
    check(truth, events)
