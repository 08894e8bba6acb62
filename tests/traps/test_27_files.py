"""Trap 27: executables whose path says nothing, or lies."""

import pytest

from tests.tracing import actions, find, one, value
from tests.traps.checks import OPENED, check_exec, lines, only, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_27_files")


@pytest.mark.parametrize(
    ("label", "flags"),
    [("memfd", {"memfd", "deleted"}), ("deleted", {"deleted"}), ("deleted-later", set()), ("overlay", set())],
)
def test_executable(seen: Seen, label: str, flags: set[str]) -> None:
    """Path, device and inode as stat tells them from outside, flagged when there is no such file, on every record."""
    truth, events = seen
    skip_missing(truth, label)
    told, outside = only(truth, "exec", label=label), only(truth, "outside", label=label)
    if label == "memfd":  # the kernel shows it as if it lay in the root directory
        told = told | {"exe_hex": outside["path"].encode().hex()}
    assert (told["dev"], told["inode"]) == (outside["dev"], outside["inode"])
    event = check_exec(truth, events, told)
    shown = value(event, "tracer.process.flags")
    marks = set(shown) & {"memfd", "deleted"} if isinstance(shown, list) else set()
    # A memfd never had a name, so that "deleted" says nothing more of it.
    assert marks == flags or (label == "memfd" and marks == {"memfd"})
    opened = one(events, OPENED, told["pid"])
    for path in ("process.executable", "process.entity_id"):
        assert value(opened, path) == value(event, path)
    assert actions(events, told["pid"])["process-executed"] == 1


def test_files_are_told_apart(seen: Seen) -> None:
    """The same path with another file is another inode, and no two cases share device and inode."""
    truth, events = seen
    found = [find(events, "process-executed", line["pid"])[0] for line in lines(truth, "exec")]
    files = [tuple(sorted(event["tracer"]["process"]["exe"].items())) for event in found]
    gone = {line["label"]: (line["dev"], line["inode"]) for line in lines(truth, "exec")}
    # An inode number may be given again once its file is gone: then the truth says so too.
    assert len(set(files)) == len(set(gone.values()))
