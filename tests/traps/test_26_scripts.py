"""Trap 26: what is executed is not what is named."""

import pytest

from tests.tracing import ABSENT, Event, actions, value
from tests.traps.checks import Line, check_exec, only, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_26_scripts")


def executed(seen: Seen, label: str) -> tuple[Event, Line]:
    """The exec event of a case, compared with what the image says of itself, and what was asked for."""
    truth, events = seen
    asked = only(truth, "asked", label=label)
    event = check_exec(truth, events, only(truth, "exec", label=label))
    assert event["process"]["executable"] == asked["interpreter"]
    assert actions(events, asked["pid"]) == {"process-executed": 1, "process-exited": 1}
    return event, asked


def test_script(seen: Seen) -> None:
    """A #! script: the script, the interpreter it names, and the interpreter's file."""
    event, asked = executed(seen, "script")
    assert value(event, "tracer.process.script") == asked["path"]
    assert value(event, "tracer.process.interpreter") == asked["interpreter"]
    assert event["process"]["args"][:3] == [asked["interpreter"], "interpreting", asked["path"]]


def test_script_of_a_script(seen: Seen) -> None:
    """A script whose interpreter is a script: the one that was asked for, and the program at the end of the chain."""
    event, asked = executed(seen, "nested")
    assert value(event, "tracer.process.script") == asked["path"]
    assert value(event, "tracer.process.interpreter") == asked["interpreter"]


def test_binfmt_misc(seen: Seen) -> None:
    """A file handed to an interpreter by binfmt_misc: the file, and the interpreter."""
    skip_missing(seen.truth, "binfmt_misc")
    event, asked = executed(seen, "binfmt-misc")
    assert value(event, "tracer.process.script") == asked["path"]
    assert value(event, "tracer.process.interpreter") == asked["interpreter"]
    assert event["process"]["args"][1] == asked["path"]


def test_execveat(seen: Seen) -> None:
    """execveat of a descriptor without a path: the file's own path, and no script."""
    event, _ = executed(seen, "execveat")
    assert value(event, "tracer.process.script") is ABSENT
    assert value(event, "tracer.process.interpreter") is ABSENT
    assert event["process"]["args"] == ["given", "one", "two"]


def test_fexecve_of_a_script(seen: Seen) -> None:
    """fexecve of a script: the name the kernel gave it for the interpreter to open, the interpreter, and its file."""
    event, asked = executed(seen, "fexecve-script")
    assert value(event, "tracer.process.script") in {asked["path"], f"/dev/fd/{asked['descriptor']}"}
    assert value(event, "tracer.process.interpreter") == asked["interpreter"]
