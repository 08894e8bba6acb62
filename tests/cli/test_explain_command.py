"""`tracer explain` as people call it: by number, by run, by line, from files and stdin; and what it refuses."""

import gzip
import json
import subprocess
from pathlib import Path

from tests.cli.commands import DEADLINE, ROOT, TRACER, assert_refused, run
from tracer.cli.errors import Exit

SESSION = ROOT / "tests/data/session.jsonl"


def test_an_event_of_a_file_is_explained() -> None:
    """Stdout has the chain in words, with the numbers of the events that say so; stderr is empty."""
    told = run("explain", "5", "--from", SESSION)
    assert told.returncode == Exit.OK, told.stderr
    assert told.stderr == ""
    assert "process-exited: code 0 [event 5]" in told.stdout
    assert "its parent made it [event 3]" in told.stdout
    assert "nothing was lost [event 28]" in told.stdout
    assert max(map(len, told.stdout.splitlines()[1:])) <= 100


def test_json_has_the_same() -> None:
    """One object, whose links have the numbers."""
    told = run("explain", "5", "--from", SESSION, "--json")
    found = json.loads(told.stdout)
    assert found["sure"] is True
    assert found["process"]["pid"] == 11431
    assert {"about": "beginning", "says": "its parent made it", "sequence": 3} in found["chain"]


def test_a_line_is_explained_alone_and_in_its_stream() -> None:
    """Alone nothing is certain but what it says itself; with its file it is as by its number."""
    line = SESSION.read_text().splitlines()[5]
    alone = run("explain", line)
    assert alone.returncode == Exit.OK, alone.stderr
    assert "only this line was looked at" in alone.stdout
    assert run("explain", line, "--from", SESSION).stdout == run("explain", "5", "--from", SESSION).stdout
    other = json.dumps(json.loads(line) | {"@timestamp": "2020-01-01T00:00:00Z"})
    assert_refused(run("explain", other, "--from", SESSION), Exit.FAILURE, "not in these files")


def test_a_directory_and_stdin_are_read(tmp_path: Path) -> None:
    """A directory of tracer export, with compressed files; and what comes through a pipe, of either format."""
    lines = SESSION.read_bytes().splitlines(keepends=True)
    (tmp_path / "events-00000000000000000000.jsonl.gz").write_bytes(gzip.compress(b"".join(lines[:20])))
    (tmp_path / "events-00000000000000000020.jsonl").write_bytes(b"".join(lines[20:]))
    by_directory = run("explain", "21", "--from", tmp_path)
    whole = run("explain", "21", "--from", SESSION)
    assert by_directory.stdout.splitlines()[1:] == whole.stdout.splitlines()[1:]
    raw = ROOT / "tests/data/session.raw"
    ocsf = subprocess.run(
        [*TRACER, "replay", "--format", "ocsf", raw], capture_output=True, check=True, timeout=DEADLINE, cwd=ROOT
    )
    piped = subprocess.run(
        [*TRACER, "explain", "21", "--from", "-"],
        input=ocsf.stdout,
        capture_output=True,
        check=True,
        timeout=DEADLINE,
        cwd=ROOT,
    )
    assert piped.stdout.decode().splitlines()[1:] == whole.stdout.splitlines()[1:]


def test_several_runs_are_listed(tmp_path: Path) -> None:
    """Where two runs have the number both are named, as they are to be given; then one is explained."""
    path = tmp_path / "two.jsonl"
    text = SESSION.read_text()
    path.write_text(text + text.replace('"ephemeral_id":"run"', '"ephemeral_id":"later"'))
    assert_refused(run("explain", "5", "--from", path), Exit.USAGE, "run:5", "later:5")
    told = run("explain", "later:5", "--from", path)
    assert told.returncode == Exit.OK
    assert told.stdout.startswith("event 5 of run later")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    """What is no number and no line, what is not there, and files that are none."""
    assert_refused(run("explain", "nginx", "--from", SESSION), Exit.USAGE, "event.sequence", "RUN:NUMBER")
    assert_refused(run("explain", "{broken", "--from", SESSION), Exit.USAGE, "no JSON")
    assert_refused(run("explain", '{"a": 1}'), Exit.USAGE, "no event of tracer")
    assert_refused(run("explain", "4711", "--from", SESSION), Exit.FAILURE, "no event 4711")
    assert_refused(run("explain", "1", "--from", tmp_path / "none"), Exit.FAILURE, "No such file")
    assert_refused(run("explain", "1", "--from", tmp_path), Exit.USAGE, "events-*.jsonl")
    assert_refused(run("explain", "1", "--from", "-", "--from", "-"), Exit.USAGE, "stdin can be read once")
    odd = tmp_path / "odd.gz"
    odd.write_bytes(gzip.compress(SESSION.read_bytes())[:-20])
    assert_refused(run("explain", "1", "--from", odd), Exit.FAILURE, "cut short")


def test_a_hostile_name_does_not_drive_the_terminal(tmp_path: Path) -> None:
    """Escapes in an argument come out as text."""
    path = tmp_path / "evil.jsonl"
    path.write_text(SESSION.read_text().replace('"one"', '"\\u001b[2J\\u202e"'))
    told = run("explain", "4", "--from", path)
    assert told.returncode == Exit.OK
    assert "\x1b" not in told.stdout
    assert "\u202e" not in told.stdout
    assert "\\x1b[2J" in told.stdout.replace("\\\\", "\\")
