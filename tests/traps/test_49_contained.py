"""Trap 49: the tracer itself in a pid namespace."""

import pytest

from tests.tracing import Trace, find, one, shorten, value
from tests.traps.checks import Line, lines, only
from tests.traps.conftest import MakeTrace, Program, Run
from tests.traps.test_19_pidns import check

pytestmark = pytest.mark.live


@pytest.fixture(name="session", scope="module")
def _session(trace: MakeTrace, program: Program, run: Run) -> tuple[Trace, list[Line]]:
    with trace("--buffer", "32M", prefix=(str(program("trap_49_contain")),)) as seen:
        truth = run("trap_19_pidns")
    return seen, truth


def test_it_is_said(session: tuple[Trace, list[Line]]) -> None:
    """The coverage record says that the tracer is not in the first pid namespace, and who it is inside and outside."""
    seen, _ = session
    coverage = one(seen.events, "tracer-coverage")["tracer"]["coverage"]
    assert coverage["pid_namespace"]["own_pid"] == 1
    assert "not in the initial pid namespace" in coverage["pid_namespace"]["note"]
    assert coverage["pid"] == seen.pid
    assert seen.pid in coverage["excluded"]


def test_host_pids_are_told(session: tuple[Trace, list[Line]]) -> None:
    """Processes outside its namespace, and in others, are told as ever: with the machine's pids."""
    seen, truth = session
    check(truth, seen.events)
    program = only(truth, "program")
    executed = one(seen.events, "process-executed", program["pid"])
    assert executed["process"]["executable"] == program["exe"]
    assert executed["process"]["parent"]["pid"] == program["ppid"]
    assert len(lines(truth, "inmate")) == 2
    seen.assert_complete()


def test_own_process_is_excluded(session: tuple[Trace, list[Line]]) -> None:
    """It knows itself by the machine's pid, though it has another: nothing in the stream is about its own process."""
    seen, _ = session
    own = [event for event in find(seen.events, pid=seen.pid) if not event["event"]["action"].startswith("tracer-")]
    assert not own, [shorten(event) for event in own]
    assert not [event for event in seen.events if value(event, "process.parent.pid") == seen.pid]
