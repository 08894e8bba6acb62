"""Trap 47: one user's fork bomb, which would fill the ring and hide what others execute."""

import os
import signal
from collections import Counter
from typing import Any

import pytest

from tests.tracing import NO_FACILITY, PATIENCE, Event, actions, find, one
from tests.traps.checks import EXECUTED, EXITED, Line, lines, only
from tests.traps.conftest import MakeTrace, Start

pytestmark = pytest.mark.live

FORKED = "process-forked"
KINDS = {"fork": FORKED, "exec": EXECUTED, "exit": EXITED}
EVERYTHING = ("--children", "--event", "exec,fork,exit", "--no-snapshot")
# Of each CPU and kind of event: half of it is for processes.
RING_BYTES = 2 << 20
# Events a second. The other user makes three with each of 101 programs, with pauses of 25 ms times the patience between
# them: all on one CPU that is less than this, with what may be used at once. The storm makes some 3,200 on each of two.
BUDGET = int(100 / max(PATIENCE, 1)) + 10


def skip_without_budgets(events: list[Event]) -> None:
    """Skip the test where the backend has none, which its coverage record says."""
    if not one(events, "tracer-coverage")["tracer"]["coverage"]["flood_budget"]:
        pytest.skip(f"{NO_FACILITY}budgets in the backend")


def check_quiet(truth: list[Line], events: list[Event]) -> None:
    """Each of the other user's 101 programs was told in full: its fork, its exec and its exit, exactly once."""
    program, user = only(truth, "program"), str(only(truth, "users")["quiet"])
    for line in lines(truth, "quiet"):
        pid = line["pid"]
        assert actions(events, pid) == {FORKED: 1, EXECUTED: 1, EXITED: 1}
        executed = one(events, EXECUTED, pid)
        assert executed["process"]["args"] == ["quiet", str(line["number"])]
        assert executed["process"]["executable"] == program["exe"]
        assert executed["process"]["parent"]["pid"] == line["parent"]
        assert one(events, EXITED, pid)["process"]["exit_code"] == 0
        assert {event["process"]["user"]["id"] for event in find(events, pid=pid)} == {user}


def check_storm(truth: list[Line], events: list[Event], ledger: dict[str, Any]) -> None:
    """What was told of the storm and what was counted is what it did, kind by kind; the counts are its user's alone."""
    program, storm = only(truth, "program"), only(truth, "storm")
    user = only(truth, "users")["storm"]
    floods = [event["tracer"]["flood"] for event in find(events, "tracer-flood")]
    counted: Counter[str] = Counter()
    for flood in floods:
        assert flood["uid"] == user
        assert flood["first"] <= flood["last"]
        counted[flood["kind"]] += flood["count"]
        if flood["kind"] == "exit":
            assert "executable" not in flood
        else:
            assert flood["executable"] == program["exe"]
    told = Counter(event["event"]["action"] for event in find(events, process__user__id=str(user)))
    for kind, action in KINDS.items():
        assert told[action] + counted[kind] == storm[kind], (kind, told, counted)
        assert ledger["by_kind"][kind]["aggregated"] == counted[kind]
    assert sum(counted.values()) > 0, "the storm was too small to show anything"
    # The rest is the program's first process and those that it made, of which the quiet user has 101 in full.
    quiet = len(lines(truth, "quiet"))
    for kind, others in {"fork": 5 + quiet, "exec": quiet, "exit": 2 + quiet}.items():
        assert ledger["by_kind"][kind]["attempts"] - ledger["by_kind"][kind]["filtered"] == storm[kind] + others


def test_rate(trace: MakeTrace, start: Start) -> None:
    """Beyond a rate that both are held to the storm is counted, and of the other user's events not one is missing."""
    with start("trap_47_bomb") as bomb:
        pid = str(only(bomb.wait_for("users"), "program")["pid"])
        with trace("--pid", pid, *EVERYTHING, "--flood-budget", str(BUDGET)) as seen:
            bomb.go()
            truth = bomb.finish()
    skip_without_budgets(seen.events)
    seen.assert_complete()
    check_quiet(truth, seen.events)
    check_storm(truth, seen.events, seen.ledger)


def test_full_ring(trace: MakeTrace, start: Start) -> None:
    """The same where no rate is exceeded but nobody reads: the rest of the ring is not for who has filled it."""
    with start("trap_47_bomb") as bomb:
        pid = str(only(bomb.wait_for("users"), "program")["pid"])
        buffer = str(2 * RING_BYTES * (os.cpu_count() or 1))
        with trace("--pid", pid, *EVERYTHING, "--buffer", buffer) as seen:
            # Stopped, it reads nothing, as when a bomb leaves it no time to run.
            seen.process.send_signal(signal.SIGSTOP)
            try:
                bomb.go()
                truth = bomb.finish()
            finally:
                seen.process.send_signal(signal.SIGCONT)
    skip_without_budgets(seen.events)
    seen.assert_complete()
    check_quiet(truth, seen.events)
    check_storm(truth, seen.events, seen.ledger)
