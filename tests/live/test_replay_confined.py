"""`tracer replay` confines itself before it reads what is recorded, which may be hostile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import assert_refused
from tests.data.make import RECORDING
from tests.live.test_confinement import DAEMON, NO_SECCOMP, WHOLE
from tracer.cli.errors import Exit
from tracer.confine.escapes import ESCAPES, KILLED

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
# Code inside the replay that is not in the wheel: it tries every escape before the first session is shown.
INSIDE = """
import errno, json, os, sys
import tracer.cli.replay as replay
from tracer.confine.escapes import ESCAPES, KILLED
from tracer.confine.ground import ground
from tracer.cli.entry import run

play = replay._play_session
def playing(*arguments):
    found = {}
    for escape in ESCAPES:
        if escape.error != KILLED:
            try:
                escape.attempt(place)
                found[escape.name] = "succeeded"
            except OSError as refused:
                found[escape.name] = errno.errorcode[refused.errno]
    sys.stderr.write("FOUND " + json.dumps({"uid": os.getuid(), "answers": found}) + chr(10))
    return play(*arguments)
replay._play_session = playing
with ground() as place:
    run()
"""
LATE = """
import sys
import tracer.cli.replay as replay
play = replay._play
def playing(*arguments):
    known = set(sys.modules)
    result = play(*arguments)
    sys.stderr.write(f"LATE {sorted(set(sys.modules) - known)}" + chr(10))
    return result
replay._play = playing
from tracer.cli.entry import run
run()
"""


def replay(*arguments: object, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tracer replay` of the kept recording to its end, or a program that does."""
    begin = ["-m", "tracer"] if code is None else ["-c", code]
    command = [sys.executable, *begin, "replay", str(RECORDING), *map(str, arguments)]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env=os.environ | environment,
    )


def test_escapes_from_inside(tmp_path: Path) -> None:
    """Code that runs while the recording is read is refused every single escape; the lines are as without."""
    done = replay("--json", code=INSIDE, TMPDIR=str(tmp_path))
    assert done.returncode == Exit.OK, done.stderr
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("FOUND "))
    found = json.loads(told.removeprefix("FOUND "))["answers"]
    assert set(found) == {escape.name for escape in ESCAPES if escape.error != KILLED}
    assert [name for name, answer in found.items() if answer == "succeeded"] == []
    assert done.stdout == replay("--json", "--no-sandbox").stdout


def test_user_behind_sudo(tmp_path: Path) -> None:
    """Under sudo it becomes the caller where only stdout is written."""
    done = replay("--json", code=INSIDE, SUDO_UID=str(DAEMON), SUDO_GID=str(DAEMON), TMPDIR=str(tmp_path))
    assert done.returncode == Exit.OK, done.stderr
    assert f'"uid": {DAEMON}' in done.stderr


@pytest.mark.parametrize("form", ["ecs", "pretty"])
@pytest.mark.parametrize("sandbox", [(), ("--no-sandbox",)], ids=["confined", "not confined"])
def test_lines_are_the_same_both_ways(tmp_path: Path, form: str, sandbox: tuple[str, ...]) -> None:
    """Confined or not, to stdout or over a longer file, the lines are the same; nothing is imported late."""
    path = tmp_path / "output"
    path.write_text("x" * 1_000_000)
    there = replay("--format", form, "--output", path, *sandbox, code=LATE)
    here = replay("--format", form, *sandbox)
    assert (there.returncode, here.returncode) == (Exit.OK, Exit.OK), there.stderr + here.stderr
    assert "LATE []" in there.stderr
    assert here.stdout
    assert path.read_text() == here.stdout
    assert ("not confined, as --no-sandbox asks" in here.stderr) == bool(sandbox)


def test_strict() -> None:
    """With --sandbox-strict it ends with 6 where a layer is missing, before the first line; else it is a warning."""
    done = replay("--sandbox-strict", code=NO_SECCOMP)
    assert_refused(done, Exit.SANDBOX, "--sandbox-strict", "seccomp is absent")
    assert done.stdout == ""
    done = replay(code=NO_SECCOMP)
    assert done.returncode == Exit.OK, done.stderr
    assert "tracer: sandbox: seccomp is absent" in done.stderr
    assert done.stdout == replay("--json", "--no-sandbox").stdout
    assert replay("--sandbox-strict").returncode == (Exit.OK if WHOLE else Exit.SANDBOX)
    assert_refused(replay("--sandbox-strict", "--no-sandbox"), Exit.USAGE, "--no-sandbox", "--sandbox-strict")


def test_bad_recording_leaves_the_output(tmp_path: Path) -> None:
    """What is no recording, or has no beginning, does not cost what was in the output."""
    path, bad = tmp_path / "output", tmp_path / "bad"
    for content in (b"", b"no recording", RECORDING.read_bytes()[:100]):
        path.write_text("precious")
        bad.write_bytes(content)
        command = [sys.executable, "-m", "tracer", "replay", str(bad), "--output", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=ROOT)
        assert_refused(done, Exit.FAILURE, str(bad))
        assert path.read_text() == "precious"
