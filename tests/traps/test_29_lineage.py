"""Trap 29: the parent now is not the parent at the fork."""

import pytest

from tests.tracing import actions, one
from tests.traps.checks import check_exec, only
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_29_lineage", "--event", "exec", "--event", "exit", "--event", "fork")


@pytest.mark.parametrize("label", ["vfork", "clone-parent", "orphan"])
def test_lineage(seen: Seen, label: str) -> None:
    """Fork, exec and exit all name the parent that the kernel gave the process at its fork, by pid and entity."""
    truth, events = seen
    line = only(truth, "lineage", label=label)
    executed = check_exec(truth, events, only(truth, "exec", label=label), parent=line["lineage"])
    forked = one(events, "process-forked", line["pid"])
    exited = one(events, "process-exited", line["pid"])
    for event in (forked, executed, exited):
        assert event["process"]["parent"]["pid"] == line["lineage"]
        assert event["process"]["parent"]["executable"] == only(truth, "program")["exe"]
        assert event["process"]["entity_id"] == executed["process"]["entity_id"]
    parent = one(events, "process-executed" if label == "clone-parent" else "process-forked", line["lineage"])
    assert executed["process"]["parent"]["entity_id"] == parent["process"]["entity_id"]
    assert actions(events, line["pid"]) == {"process-forked": 1, "process-executed": 1, "process-exited": 1}


def test_orphan_names_a_parent_that_is_gone(seen: Seen) -> None:
    """The orphan executed after its parent had exited: the parent ended first, and is the parent still."""
    truth, events = seen
    line = only(truth, "lineage", label="orphan")
    gone = one(events, "process-exited", line["lineage"])
    assert events.index(gone) < events.index(one(events, "process-executed", line["pid"]))
    assert gone["process"]["parent"]["pid"] == only(truth, "program")["pid"]
