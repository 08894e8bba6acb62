"""Trap 46: a CPU that goes and comes back under load has no ring, or one that stopped: counted, never silent."""

import json
import time
from collections import Counter
from typing import Any

import pytest

from tests.tracing import BACKEND, TERMS, Event, Trace, disrupt, find, one, shorten
from tests.traps.checks import EXECUTED, EXITED, Line, check_exit, lines, only, skip_missing
from tests.traps.conftest import RUN_WITHIN_S, MakeTrace, Start, Started

pytestmark = [pytest.mark.live, pytest.mark.may_skip("disturbs the machine")]

BLIPS, AFTER = 426, 101
CAUSES = {"no_ring", "no_space"}


def wait_heard(seen: Trace, program: Started) -> None:
    """Wait until the stream has told of one of the processes that knock on the CPU which came back."""
    deadline = time.monotonic() + RUN_WITHIN_S
    while time.monotonic() < deadline:
        knocked = {line["pid"] for line in lines(program.wait_for("knock"), "knock")}
        whole = seen.output.read_bytes().rpartition(b"\n")[0]
        told = (json.loads(line) for line in whole.splitlines() if EXITED.encode() in line)
        if any(event["process"]["pid"] in knocked for event in told if "process" in event):
            return
        time.sleep(0.2)
    pytest.fail("no process on the CPU that came back was ever told")


@pytest.fixture(name="session", scope="module")
def _session(trace: MakeTrace, start: Start) -> tuple[Trace, list[Line]]:
    disrupt()
    # Under bcc a confined tracer counts what happens there as lost, and no more.
    options = ["--no-sandbox"] if BACKEND == "bcc" else []
    with trace("--buffer", "32M", *options) as seen, start("trap_46_hotplug") as program:
        truth = program.wait_for("knock")
        if not lines(truth, "missing"):
            wait_heard(seen, program)
            program.go()
        truth = program.finish()
    skip_missing(truth, "CPU that can be taken offline")
    return seen, truth


def told(events: list[Event], line: Line) -> Counter[str]:
    """What the stream says of one short process."""
    return Counter(event["event"]["action"] for event in find(events, pid=line["pid"]))


def test_nothing_is_silent(session: tuple[Trace, list[Line]]) -> None:
    """Each exec and exit is told once, or is counted in the ledger as lost, in intervals with the reason."""
    seen, truth = session
    blips = lines(truth, "blip")
    assert len(blips) == BLIPS
    assert lines(truth, "away")
    absent: Counter[str] = Counter()
    for line in blips + lines(truth, "knock"):
        found = told(seen.events, line)
        assert set(found) <= {EXECUTED, EXITED}, found
        assert max(found.values(), default=0) <= 1, found
        absent.update(action for action in (EXECUTED, EXITED) if action not in found)
        if EXITED in found:
            check_exit(truth, seen.events, line)
    # Newer kernels may skip a probe, when its process is taken off the CPU that goes while it runs: counted by program.
    skipped = sum(seen.ledger["missed"]["programs"].values())
    for action, kind in ((EXECUTED, "exec"), (EXITED, "exit")):
        assert absent[action] <= seen.ledger["by_kind"][kind]["lost"] + skipped, (absent, seen.ledger)
    for kind, terms in seen.ledger["by_kind"].items():
        intervals = [event["tracer"]["loss"] for event in find(seen.events, "tracer-loss", tracer__loss__kind=kind)]
        assert sum(loss["count"] for loss in intervals) == terms["lost"], (kind, intervals)
        for loss in intervals:
            check_reason(loss)


def check_reason(loss: dict[str, Any]) -> None:
    """A loss tells on which CPUs, and why each record was lost."""
    assert loss["stage"] == "emit", loss
    assert loss["cpus"], loss
    assert set(loss["causes"]) <= CAUSES, loss
    assert sum(loss["causes"].values()) == loss["count"], loss


def test_ledger_balances(session: tuple[Trace, list[Line]]) -> None:
    """Attempts are the sum of what became of them, and the stream is complete only if nothing was lost."""
    ledger = session[0].ledger
    assert ledger["balanced"] is True, ledger
    for kind, terms in ledger["by_kind"].items():
        assert terms["attempts"] == sum(terms[term] for term in TERMS), (kind, terms)
        assert terms["in_flight"] == 0, (kind, terms)
    assert ledger["complete"] is (ledger["total"]["lost"] == 0 and not any(ledger["missed"].values())), ledger


def test_a_cpu_that_came_back_is_heard(session: tuple[Trace, list[Line]]) -> None:
    """Once one process on that CPU was told, all 101 that follow there are told whole."""
    seen, truth = session
    after = lines(truth, "after")
    assert len(after) == AFTER
    parent = only(truth, "program")["pid"]
    for line in after:
        executed = one(seen.events, EXECUTED, line["pid"])
        assert executed["process"]["args"] == ["blip", str(line["number"])], shorten(executed)
        assert executed["process"]["parent"]["pid"] == parent
        check_exit(truth, seen.events, line)
        assert told(seen.events, line) == {EXECUTED: 1, EXITED: 1}
