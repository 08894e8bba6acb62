"""Trap 23: a thread that is not the leader executes, and takes the leader's place."""

import pytest

from tests.tracing import actions, find
from tests.traps.checks import boot_ns, check_exec, check_exit, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def test_exec_by_a_thread(trace: MakeTrace, run: Run) -> None:
    """One exec and one exit, both of the process; its threads, the one that executed among them, end without a word."""
    truth, events = see(trace, run, "trap_23_thread_exec")
    thread, ended = only(truth, "thread"), only(truth, "ended")
    assert thread["tid"] != thread["pid"]
    executed = check_exec(truth, events, only(truth, "exec"), tid=thread["tid"])
    exited = check_exit(truth, events, ended)
    assert boot_ns(truth, executed) >= thread["before_ns"] - 5_000_000
    assert exited["process"]["entity_id"] == executed["process"]["entity_id"]
    assert actions(events, thread["pid"]) == {"process-executed": 1, "process-exited": 1}
    for tid in range(thread["pid"] + 1, thread["tid"] + 1):
        assert not [
            event for event in find(events, pid=tid) if event["process"].get("parent", {}).get("pid") == thread["pid"]
        ]
    assert not find(events, pid=thread["tid"])
