"""What is said of a process of the past, and where: text, JSON Lines and a page of HTML; and what is refused."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import DEADLINE, ROOT, assert_refused, run
from tests.history.test_past import PARENT, used_twice, written
from tracer.cli import past
from tracer.cli.errors import CommandError, Exit
from tracer.history.past import Wanted

SESSION = ROOT / "tests/data/session.jsonl"
TELL = """
import sys
from pathlib import Path
from tracer.cli.past import Asked, past, wanted
chosen, words = wanted(None, sys.argv[2], None, None)
past(Asked([Path(sys.argv[1])], chosen, words))
"""


def ask(tmp_path: Path, wanted: Wanted, source: Path = SESSION, **how: bool) -> str:
    """What is written of a process."""
    out = tmp_path / "out"
    assert past.past(past.Asked([source], wanted, "it", output=out, **how)) == Exit.OK  # type: ignore[arg-type]
    return out.read_text()


def test_text_for_people(tmp_path: Path) -> None:
    """Who it was, its tree, its flows, and how much was read."""
    told = ask(tmp_path, Wanted(pid=11393))
    for words in (
        "python3.11 11393",
        "unshare 11392",
        "/bin/true one",
        "(killed by SIGKILL)",
        "ECONNREFUSED",
        "29 lines",
    ):
        assert words in told, words
    assert "not complete: it began before the first line" in told


def test_json_is_a_bundle_and_the_events(tmp_path: Path) -> None:
    """The first line is the bundle, all others are the lines of the file as they were."""
    first, *rest = ask(tmp_path, Wanted(entity=PARENT), json=True).splitlines()
    bundle = json.loads(first)
    assert bundle["event"]["action"] == "tracer-bundle"
    assert bundle["tracer"]["bundle"]["target"]["entity_id"] == PARENT
    assert bundle["host"]["name"] == "box"
    every = SESSION.read_text().splitlines()
    assert rest == [each for each in every if '"process":{"pid"' in each]


def test_a_page_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With --html alone the page is all there is, and stderr says where."""
    page = tmp_path / "report.html"
    assert past.past(past.Asked([SESSION], Wanted(pid=11393), "it", html=page)) == Exit.OK
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert "127.0.0.1:8080" in page.read_text()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert str(page) in captured.err
    nowhere = past.Asked([SESSION], Wanted(pid=11393), "it", html=tmp_path / "none" / "report.html")
    with pytest.raises(CommandError, match="No such file"):
        past.past(nowhere)


def test_several_that_fit_are_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each with its entity id and its times, then one line with what to give."""
    path = written(tmp_path / "events.jsonl", used_twice())
    with pytest.raises(CommandError, match="fits 2 processes: name one by --entity, or a time by --at") as refused:
        past.past(past.Asked([path], Wanted(pid=4242), "pid 4242"))
    assert refused.value.code == Exit.USAGE
    listed = capsys.readouterr().err
    assert "--entity P0: 4242 /bin/parent0" in listed
    assert "--entity P1: 4242 /bin/parent1" in listed


def test_nothing_found_says_what_was_read() -> None:
    """How many lines there were, and from when to when."""
    with pytest.raises(CommandError, match=r"no such process in 29 lines from 2026-11-23T03:37:59") as refused:
        past.past(past.Asked([SESSION], Wanted(pid=1), "pid 1"))
    assert refused.value.code == Exit.FAILURE


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, None, None, None), "name one process"),
        (("1", "x", None, None), "name one process"),
        (("nginx", None, None, None), "give a pid"),
        (("1", None, None, "yesterday"), "--at 'yesterday'"),
        (("1", None, None, "2026-13-01"), "2026-05-01T12:00:00Z"),
    ],
)
def test_what_is_asked_for_is_checked(given: tuple[str | None, ...], words: str) -> None:
    """One line with the fix, as for any wrong option."""
    with pytest.raises(CommandError, match=words) as refused:
        past.wanted(*given)
    assert refused.value.code == Exit.USAGE


@pytest.mark.parametrize(
    ("at", "kept"),
    [
        ("2026-05-01T12:00:00Z", "2026-05-01T12:00:00.000000000Z"),
        ("2026-05-01 12:00:00.5", "2026-05-01T12:00:00.500000000Z"),
        ("2026-05-01T14:00:00.123456789+02:00", "2026-05-01T12:00:00.123456789Z"),
        ("2026-05-01", "2026-05-01T00:00:00.000000000Z"),
    ],
)
def test_times_are_taken_in_any_zone(at: str, kept: str) -> None:
    """A time is compared as the lines have it: in UTC to the nanosecond."""
    assert past.wanted("7", None, None, at)[0] == Wanted(pid=7, at=kept)


def test_without_duckdb_the_fix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line that names what to install."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(CommandError, match=r"pip install 'tracer\[past\]'"):
        past.past(past.Asked([SESSION], Wanted(pid=1), "pid 1"))


def test_a_bar_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    """With stderr on a terminal there is a bar, and stdout is the same as without."""
    command = [sys.executable, "-c", TELL, str(SESSION), PARENT]
    plain = subprocess.run(command, capture_output=True, timeout=DEADLINE, check=True, cwd=ROOT)
    assert plain.stderr == b""
    ours, theirs = pty.openpty()
    try:
        shown = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=theirs,
            timeout=DEADLINE,
            check=True,
            cwd=ROOT,
            env=os.environ | {"TERM": "xterm"},
        )
        os.close(theirs)
        assert b"reading" in os.read(ours, 1 << 16)
    finally:
        os.close(ours)
    assert shown.stdout == plain.stdout


def test_the_command_finds_them(tmp_path: Path) -> None:
    """By pid, by entity id and by program, each with its words in the bundle; a page beside the lines."""
    page = tmp_path / "page.html"
    given = (["11393"], ["--entity", PARENT], ["--exe", "/usr/bin/python3.11"])
    asked = []
    for each in given:
        told = run("pid", *each, "--from", SESSION, "--json", "--html", page)
        assert told.returncode == Exit.OK, told.stderr
        first, *rest = told.stdout.splitlines()
        assert len(rest) == 25
        asked.append(json.loads(first)["tracer"]["bundle"]["target"]["asked"])
        assert page.read_text().endswith("</html>\n")
    assert asked == ["pid 11393", f"--entity {PARENT}", "--exe /usr/bin/python3.11"]
    assert "ECONNREFUSED" in run("pid", "11393", "--from", SESSION).stdout


def test_what_the_command_refuses(tmp_path: Path) -> None:
    """Options of the one in the other, files that are none, and times that are none: one line with the fix."""
    assert_refused(run("pid", "1", "--from", SESSION, "--backend", "core"), Exit.USAGE, "--backend", "leave it out")
    assert_refused(run("pid", "1", "--from", SESSION, "--show-env"), Exit.USAGE, "--show-env")
    assert_refused(run("pid", "1", "--at", "2026-01-01"), Exit.USAGE, "--from")
    assert_refused(run("pid", "--exe", "/bin/sh"), Exit.USAGE, "--from")
    assert_refused(run("pid", "1", "--html", tmp_path / "x.html"), Exit.USAGE, "--now", "--json --output FILE")
    assert_refused(run("pid"), Exit.USAGE, "name a process")
    assert_refused(run("pid", "--from", SESSION), Exit.USAGE, "name one process")
    assert_refused(run("pid", "1", "--from", tmp_path), Exit.USAGE, "events-*.jsonl")
    assert_refused(run("pid", "1", "--from", tmp_path / "none"), Exit.FAILURE, "No such file")
    assert_refused(run("pid", "1", "--from", ROOT / "README.md"), Exit.FAILURE, "README.md", "no JSON")
    assert_refused(run("pid", "1", "--from", SESSION), Exit.FAILURE, "no such process")


def test_a_bundle_in_the_files_is_taken_up(tmp_path: Path) -> None:
    """What `tracer pid` has written of the process itself is in the bundle of the past, and that of another is not."""
    looked = {
        "@timestamp": "2026-11-23T03:37:59Z",
        "event": {"action": "tracer-bundle", "sequence": 0},
        "tracer": {"bundle": {"target": {"entity_id": PARENT}, "working_directory": "/srv", "lineage": 7}},
    }
    other = json.loads(json.dumps(looked).replace(PARENT, "other").replace("/srv", "/wrong"))
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in (looked, other)) + SESSION.read_text())
    bundle = json.loads(ask(tmp_path, Wanted(entity=PARENT), path, json=True).splitlines()[0])["tracer"]["bundle"]
    assert bundle["working_directory"] == "/srv"
    assert len(bundle["children"]) == 4
    assert [each["name"] for each in bundle["lineage"]] == ["unshare"]
