"""Trap 53: whose a process is, by every way into a control group."""

from typing import Any

import pytest

from tests.tracing import Event, actions, one
from tests.traps.checks import EXECUTED, EXITED, OPENED, Line, lines, only, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live

ID = "3f2a1b4c5d6e7089" * 4
UID = "0ad5f9a2-6a7e-4c1c-9b55-1d2c3b4a5f60"
CONTAINERS = {
    "docker": {"id": ID, "runtime": "docker"},
    "pod": {"id": ID, "runtime": "cri-o"},
    "hidden": {"id": ID, "runtime": "docker"},
    "moved": {"id": ID, "runtime": "cri-o"},
    "born": {"id": ID, "runtime": "docker"},
}
NAMES_MOST = 24  # of a path


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    """The program's truth and the stream."""
    return see(trace, run, "trap_53_cgroups")


def member(seen: Seen, label: str) -> Line:
    """The truth about one process. Skips the test where this kernel has no such thing."""
    skip_missing(seen.truth, "cgroup v2")
    return only(seen.truth, "member", label=label)


def check(event: Event, line: Line) -> None:
    """The event has the whole path, the id, and the container that the path tells."""
    told: dict[str, Any] = event["tracer"]["cgroup"]
    assert told["path"] == line["path"]
    assert told["id"] == line["id"]
    assert event["container"] == CONTAINERS[line["label"]]
    pod = event.get("orchestrator", {}).get("resource", {}).get("id")
    assert pod == (UID if "kubepods" in line["path"] else None)


@pytest.mark.parametrize("label", ["docker", "pod", "hidden"])
def test_executed_there(seen: Seen, label: str) -> None:
    """Who executes in a group has all of its path, also where a cgroup namespace shows itself nothing but the root."""
    line = member(seen, label)
    if label == "hidden":
        skip_missing(seen.truth, "cgroup namespaces")
    executed = one(seen.events, EXECUTED, line["pid"])
    assert executed["process"]["args"] == ["member", label]
    check(executed, line)
    check(one(seen.events, EXITED, line["pid"]), line)


@pytest.mark.parametrize("label", ["moved", "born"])
def test_there_without_an_exec(seen: Seen, label: str) -> None:
    """Who goes to a group, or is made there, and executes nothing: what an exec told of it before is told again."""
    if label == "born":
        skip_missing(seen.truth, "CLONE_INTO_CGROUP")
    line = member(seen, label)
    check(
        one(seen.events, OPENED, line["pid"], source__port=only(seen.truth, "connect", label=label)["local_port"]), line
    )
    check(one(seen.events, EXITED, line["pid"]), line)
    assert EXECUTED not in actions(seen.events, line["pid"])


def test_group_of_which_nothing_is_known(seen: Seen) -> None:
    """A group in which nobody executed is told by its id alone: not with the path of the one before."""
    line = member(seen, "silent")
    for event in (one(seen.events, OPENED, line["pid"]), one(seen.events, EXITED, line["pid"])):
        assert event["tracer"]["cgroup"] == {"id": line["id"]}
        assert "container" not in event


def test_deeper_than_there_is_room(seen: Seen) -> None:
    """Of a group too deep the names nearest to it are told, the container among them; that it was cut is said."""
    line = member(seen, "deep")
    executed = one(seen.events, EXECUTED, line["pid"])
    names = line["path"].split("/")
    assert executed["tracer"]["cgroup"] == {"id": line["id"], "path": "/" + "/".join(names[-NAMES_MOST:])}
    assert executed["tracer"]["truncated"] == ["tracer.cgroup.path"]
    assert executed["container"] == {"id": ID, "runtime": "docker"}


def test_all_ways_were_gone(seen: Seen) -> None:
    """The program told of each way, or that this kernel has none of it."""
    skip_missing(seen.truth, "cgroup v2")
    told = {line["label"] for line in lines(seen.truth, "member")}
    gone = {"born"} if lines(seen.truth, "missing", facility="CLONE_INTO_CGROUP") else set()
    assert told == CONTAINERS.keys() - gone | {"silent", "deep"}
