"""Trap 24: execs that fail, and one that seccomp kills."""

import errno

import pytest

from tests.tracing import ABSENT, actions, find, one, shorten, value
from tests.traps.checks import EXEC_FAILED, check_exit, check_time, only, thread_id
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live

LABELS = [
    "missing",
    "not-executable",
    "no-format",
    "no-interpreter",
    "not-a-directory",
    "loop",
    "bad-pointer",
]
ANSWERED = "seccomp-errno"


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_24_failed_exec")


@pytest.mark.parametrize("label", LABELS)
def test_failed_exec(seen: Seen, label: str) -> None:
    """One failure with the errno, by the process that goes on as what it was, and no exec."""
    check_failed(seen, label)


def test_exec_that_seccomp_answers(trace: MakeTrace, run: Run, seen: Seen) -> None:
    """The same where seccomp answers for the system call: with its tracepoint, else it is a blind spot that is told."""
    check_failed(see(trace, run, "trap_24_failed_exec", "--hooks", "tracepoints"), ANSWERED)
    (coverage,) = find(seen.events, "tracer-coverage")
    if any("seccomp filter answers" in each for each in coverage["tracer"]["coverage"]["blind"]):
        assert find(seen.events, EXEC_FAILED, only(seen.truth, "failed", label=ANSWERED)["pid"]) == []
    else:
        check_failed(seen, ANSWERED)


def check_failed(seen: Seen, label: str) -> None:
    """One failure of a case, as it should be."""
    truth, events = seen
    line = only(truth, "failed", label=label)
    program = only(truth, "program")
    event = one(events, EXEC_FAILED, line["pid"])
    assert event["event"]["outcome"] == "failure"
    assert event["event"]["type"] == ["start"]
    assert event["error"]["code"] == errno.errorcode[line["errno"]]
    assert event["tracer"]["exec"]["errno"] == line["errno"]
    # What it asked for: unless seccomp answered, in which case the arguments were perhaps never seen.
    requested = value(event, "tracer.exec.requested")
    assert requested == line["path"] or (label in {"bad-pointer", ANSWERED} and requested in {ABSENT, ""})
    assert event["process"]["executable"] == program["exe"], shorten(event)
    assert event["process"]["parent"]["pid"] == program["pid"]
    assert thread_id(event) == line["pid"]
    check_time(truth, event, line)
    check_exit(truth, events, only(truth, "ended", label=label))
    assert actions(events, line["pid"]) == {EXEC_FAILED: 1, "process-exited": 1}


@pytest.mark.parametrize("label", ["seccomp-kill", "seccomp-kill-at", "seccomp-kill-at-0"])
def test_exec_killed_by_seccomp(seen: Seen, label: str) -> None:
    """No exec happened; the failure says so without an errno, and the one exit has the signal.

    Where the kernel has no means to tell of it (before 5.16, without fexit), that is a blind spot that is told.
    """
    truth, events = seen
    ended = only(truth, "ended", label=label)
    check_exit(truth, events, ended)
    assert one(events, "process-exited", ended["pid"])["tracer"]["process"]["signal_name"] == "SIGSYS"
    if any("seccomp killed" in each for each in one(events, "tracer-coverage")["tracer"]["coverage"]["blind"]):
        assert actions(events, ended["pid"]) == {"process-exited": 1}
        return
    failed = one(events, EXEC_FAILED, ended["pid"])
    assert failed["event"]["outcome"] == "failure"
    assert value(failed, "error.code") is ABSENT
    assert failed["tracer"]["exec"]["seccomp_killed"] is True
    assert actions(events, ended["pid"]) == {EXEC_FAILED: 1, "process-exited": 1}
    assert events.index(failed) < events.index(one(events, "process-exited", ended["pid"]))
