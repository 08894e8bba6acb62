"""Trap 21: a thread is not a process."""

import pytest

from tests.tracing import actions, find
from tests.traps.checks import ACCEPTED, OPENED, check_network, lines, only, thread_id
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def test_threads(trace: MakeTrace, run: Run) -> None:
    """What threads do is their process's: its pid, the leader's name, and the thread's id beside."""
    truth, events = see(trace, run, "trap_21_threads")
    check_network(truth, events)
    pid = only(truth, "program")["pid"]
    tids = {OPENED: only(truth, "connect")["tid"], ACCEPTED: only(truth, "accept")["tid"]}
    assert len({pid, *tids.values()}) == 3
    for action, tid in tids.items():
        (event,) = find(events, action, pid)
        assert thread_id(event) == tid
        assert event["process"]["name"] == "trap_21_threads"
    # No thread comes as a process, neither by its id nor by its name.
    assert not [event for tid in tids.values() for event in find(events, pid=tid)]
    assert {event["process"]["name"] for event in find(events, pid=pid)} <= {"trap_21_threads"}
    assert actions(events, pid) == {
        "process-executed": 1,
        "socket-listening": 1,
        "connection-opened": 1,
        "connection-accepted": 1,
        "connection-closed": 2,
        "process-exited": 1,
    }
    assert len(lines(truth, "connect")) == len(lines(truth, "accept")) == 1
