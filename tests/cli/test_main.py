"""The command line: each command's end has the documented code, and every known error is one line on stderr."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import tracer
from tests.cli.commands import (
    DEADLINE,
    ROOT,
    TRACER,
    assert_refused,
    run,
    shell,
)
from tracer.cli.errors import Exit
from tracer.cli.live import BACKENDS


def test_version() -> None:
    """`tracer version` prints the version, and nothing else."""
    finished = run("version")
    assert (finished.returncode, finished.stdout, finished.stderr) == (0, f"tracer {tracer.__version__}\n", "")


def test_module_and_script_are_the_same() -> None:
    """The installed script does what the module does."""
    script = subprocess.run(
        [Path(sys.executable).with_name("tracer"), "version"], capture_output=True, text=True, check=True
    )
    assert script.stdout == run("version").stdout


@pytest.mark.parametrize("arguments", [("--help",), ("live", "--help"), ("replay", "--help"), ("doctor", "--help")])
def test_help(arguments: tuple[str, ...]) -> None:
    """Help goes to stdout and is a normal end."""
    finished = run(*arguments)
    assert finished.returncode == 0
    assert "Usage: tracer" in finished.stdout
    assert finished.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bogus",), ("bogus",)),
        (("--bogus",), ("--bogus",)),
        (("live", "--bogus"), ("--bogus",)),
        (("live", "stray"), ("stray",)),
        (("live", "--pid"), ("--pid",)),
        (("live", "--pid", "x"), ("--pid", "x")),
        (("live", "--port", "99999"), ("--port", "65535")),
        (("live", "--uid", "nosuch"), ("--uid", "nosuch")),
        (("live", "--cidr", "10.0.0.0/33"), ("--cidr", "10.0.0.0/33")),
        (("live", "--event", "bogus"), ("--event", "exec-failed")),
        (("live", "--event", "exec,dns", "--no-payload"), ("--event", "--no-payload")),
        (("live", "--netns", "x"), ("--netns", "lsns")),
        (("live", "--children"), ("--children", "--pid")),
        (("live", "--duration", "-1"), ("--duration",)),
        (("live", "--count", "0"), ("--count",)),
        (("live", "--count", "x"), ("--count",)),
        (("live", "--buffer", "lots"), ("--buffer", "8M")),
        (("live", "--buffer", "9" * 5000), ("--buffer", "8M")),
        (("live", "--backend", "bogus"), ("--backend", "core")),
        (("live", "--format", "bogus"), ("--format", "pretty", "ecs")),
        (("live", "--json", "--format", "pretty"), ("--json", "--format")),
        (("live", "--comm", ""), ("--comm",)),
        (("replay",), ("FILE",)),
        (("replay", "a", "b"), ("b",)),
        (("replay", "a", "--format", "bogus"), ("--format",)),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_usage_errors(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    """What can't be meant ends with 2 and one line that says what, before anything else happens."""
    finished = run(*arguments)
    assert_refused(finished, Exit.USAGE, *words)
    assert finished.stdout == ""


@pytest.mark.parametrize("arguments", [("version",), ("bogus",)])
def test_nobody_listens(arguments: tuple[str, ...]) -> None:
    """With stderr closed the code still tells."""
    expected = run(*arguments).returncode
    assert shell('"$@" 2>&-', *arguments).returncode == expected


def test_closed_stderr_ends_no_session() -> None:
    """A session whose stderr is closed, or full, goes on to the end that was asked for."""
    live = ("live", "--backend", "procfs", "--json", "--count", "1")
    for script in ('"$@" 2>&-', '"$@" 2>/dev/full'):
        finished = shell(script, *live)
        assert finished.returncode == Exit.OK
        assert json.loads(finished.stdout.splitlines()[-1])["event"]["action"] == "tracer-ledger"


def test_no_command_is_one_line() -> None:
    """Without a command the fix is told in one line, with the code for wrong use."""
    assert_refused(run(), Exit.USAGE, "missing command; see tracer --help")


def test_help_names_every_backend() -> None:
    """The help of live has the backends that it takes."""
    told = " ".join(run("live", "--help").stdout.split())
    for name in BACKENDS:
        assert re.search(rf"--backend NAME [^\[]*\b{name}\b", told), name


def test_record_that_can_not_be_written_names_its_option(tmp_path: Path) -> None:
    """A recording that can't be opened or written is one line that says which option to mend."""
    live = ("live", "--backend", "procfs", "--count", "1", "--record")
    for file in (tmp_path / "none" / "file", Path("/dev/full")):
        finished = run(*live, file)
        assert_refused(finished, Exit.FAILURE, str(file), "name another file with --record")
        assert "--output" not in finished.stderr
        assert "Errno" not in finished.stderr


def test_closed_stdout_is_one_line(recording: Path) -> None:
    """A stdout that is not open at all is a failure that is said, not a traceback."""
    for arguments in (("version",), ("replay", str(recording), "--json")):
        assert_refused(shell('"$@" >&-', *arguments), Exit.FAILURE, "stdout")


def test_full_stdout_of_version() -> None:
    """The same for one that is full."""
    assert_refused(shell('"$@" >/dev/full', "version"), Exit.FAILURE, "No space left")


def test_command_line_is_quoted_in_messages(tmp_path: Path) -> None:
    """A file name with a newline and an escape does not break the one line of its error."""
    name = "a\nb\x1b[31m"
    finished = run("replay", tmp_path / name)
    assert_refused(finished, Exit.FAILURE)
    assert "\x1b" not in finished.stderr, shlex.quote(finished.stderr)


def test_closed_pipe_of_version() -> None:
    """A reader that went away is a normal end here too."""
    reader, writer = os.pipe()
    os.close(reader)
    finished = subprocess.run(
        [*TRACER, "version"], stdout=writer, stderr=subprocess.PIPE, check=False, cwd=ROOT, timeout=DEADLINE
    )
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (0, b"")
