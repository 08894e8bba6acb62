"""Trap 20: pids come again."""

import pytest

from tests.tracing import Event, actions, find, one
from tests.traps.checks import (
    ACCEPTED,
    CLOSED,
    EXECUTED,
    EXITED,
    OPENED,
    Line,
    check_exec,
    check_exit,
    lines,
    skip_missing,
)
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event]) -> None:
    """Three lives of one pid are three entities, each with its own exec, connection, bytes and exit."""
    lives = lines(truth, "life")
    pid = lives[0]["pid"]
    assert [line["pid"] for line in lives] == [pid] * 3
    assert actions(events, pid) == {EXECUTED: 3, OPENED: 3, CLOSED: 3, EXITED: 3}
    entities = []
    for number, (line, told, connect) in enumerate(
        zip(lives, lines(truth, "exec"), lines(truth, "connect"), strict=True)
    ):
        executed = check_exec(truth, events, told)
        entity = executed["process"]["entity_id"]
        entities.append(entity)
        exited = check_exit(truth, events, line, entity=entity)
        ends = {"source__port": connect["local_port"], "process__entity_id": entity}
        opened = one(events, OPENED, pid, **ends)
        closed = one(events, CLOSED, pid, **ends)
        assert closed["source"]["bytes"] == number + 1
        assert opened["process"]["executable"] == executed["process"]["executable"]
        # Its end comes after all it did, though its last connection may outlive it.
        places = [events.index(event) for event in (executed, opened, exited)]
        assert places == sorted(places)
    assert len(set(entities)) == 3
    assert not [event for event in find(events, ACCEPTED) if event["process"]["pid"] == pid]


def test_pid_reuse(trace: MakeTrace, run: Run) -> None:
    """A pid that is used three times is three processes."""
    truth, events = see(trace, run, "trap_20_pid_reuse")
    skip_missing(truth, "clone3 set_tid")
    check(truth, events)
