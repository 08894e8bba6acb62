"""Trap 48: time namespaces shift what a process sees of time, and pids wrap."""

import time
from typing import NamedTuple

import pytest

from tests.tracing import Event, actions, find, one, shorten
from tests.traps.checks import (
    CLOCK_SLACK_NS,
    CLOSED,
    EXECUTED,
    EXITED,
    NS_PER_TICK,
    OPENED,
    Line,
    check_exit,
    check_time,
    lines,
    only,
    skip_missing,
    wall_ns,
)
from tests.traps.conftest import MakeTrace, Run, Seen, see_by_softirq

pytestmark = pytest.mark.live


class Session(NamedTuple):
    """What a program says it did, what the stream says, and the wall-clock time in ns around both."""

    truth: list[Line]
    events: list[Event]
    begun: int
    ended: int


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Session:
    begun = time.time_ns()
    truth, events = see_by_softirq(trace, run, "trap_48_clocks", _all_closed)
    return Session(truth, events, begun, time.time_ns())


def _all_closed(seen: Seen) -> bool:
    """Whether the connection of each life has its end, which may come by softirq when the process is gone."""
    return all(find(seen.events, CLOSED, line["pid"]) for line in lines(seen.truth, "life"))


def check_life(truth: list[Line], events: list[Event], line: Line) -> str:
    """One life as the first namespaces see it: start in ticks, both pids, connection and end. Returns the entity."""
    executed = one(events, EXECUTED, line["pid"])
    process = executed["process"]
    assert executed["tracer"]["process"]["start_ns"] // NS_PER_TICK == line["start_ticks"]
    assert process["vpid"] == line["vpid"]
    assert process["args"] == ["life", line["label"], str(line["remote_port"]), str(line["code"])]
    check_time(truth, executed, line)
    ends = {"source__port": line["local_port"], "destination__port": line["remote_port"]}
    opened, closed = one(events, OPENED, line["pid"], **ends), one(events, CLOSED, line["pid"], **ends)
    check_time(truth, opened, line)
    gone = only(truth, "ended", label=line["label"], pid=line["pid"])["gone_ns"]
    exited = check_exit(truth, events, {"pid": line["pid"], "status": line["code"] << 8, "gone_ns": gone})
    assert {event["process"]["entity_id"] for event in (opened, closed, exited)} == {process["entity_id"]}
    assert {event["process"]["start"] for event in (opened, closed, exited)} == {process["start"]}
    assert actions(events, line["pid"]) == {EXECUTED: 1, OPENED: 1, CLOSED: 1, EXITED: 1}
    entity: str = process["entity_id"]
    return entity


def test_time_namespace(seen: Session) -> None:
    """A process whose clocks are eleven days ahead is told with the start and the times of the machine."""
    truth, events, *_ = seen
    skip_missing(truth, "time namespaces")
    check_life(truth, events, only(truth, "life", label="time"))


def test_pid_wrap(seen: Session) -> None:
    """Seven processes that are all number 5,000 in a namespace whose pids wrap, among 64 others, are seven entities."""
    truth, events, *_ = seen
    lives = lines(truth, "life", label="wrap")
    assert len(lives) == 7
    assert {line["vpid"] for line in lives} == {5000}
    assert len({check_life(truth, events, line) for line in lives}) == 7


def test_every_line_is_of_this_time(seen: Session) -> None:
    """Every line of the stream, those about the tracer itself too, is on the wall clock between start and end."""
    strange = [
        shorten(event)
        for event in seen.events
        if not seen.begun - CLOCK_SLACK_NS <= wall_ns(event) <= seen.ended + CLOCK_SLACK_NS
    ]
    assert not strange, strange[:3]
