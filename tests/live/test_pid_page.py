"""`tracer pid --html`: a page of a process as it is now, and of one that was followed, made by a confined process."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import run
from tests.report.test_html import Page
from tests.tracing import BACKEND, PATIENCE

pytestmark = pytest.mark.live

# Waits to be told, then runs a program with a name that would be a script in a page.
PROGRAM = """
import subprocess, sys
sys.stdin.readline()
subprocess.run(["<script>alert(1)</script>", "-c", "sleep 0.5; exit 7"], executable="/bin/sh")
"""


def test_a_page_of_now(tmp_path: Path) -> None:
    """It has the process and what it has open; others than owner and group can't read it."""
    page = tmp_path / "now.html"
    with subprocess.Popen(["/bin/sleep", "60"]) as process:
        try:
            told = run("pid", str(process.pid), "--now", "--html", page)
        finally:
            process.kill()
    assert told.returncode == 0, told.stderr
    text = Page(page.read_text()).text
    for words in (f"sleep ({process.pid})", "sleep 60", "Open files", "Capabilities, effective"):
        assert words in text
    assert page.stat().st_mode & 0o777 == 0o640


def test_a_page_of_what_was_followed(tmp_path: Path) -> None:
    """What the tree did is in it, with the bundle; hostile names are text."""
    page, lines = tmp_path / "page.html", tmp_path / "lines.jsonl"
    options = ["--backend", BACKEND] if BACKEND else []
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", PROGRAM], stdin=subprocess.PIPE) as process:
        command = ["pid", str(process.pid), "--json", "--output", str(lines), "--html", str(page)]
        watching = subprocess.Popen(
            [sys.executable, "-m", "tracer", *command, "--duration", str(4 * PATIENCE), *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        with watching:
            assert watching.stderr is not None
            while "ready" not in (said := watching.stderr.readline()):
                assert said, "it ended before it was ready"
            process.communicate(b"go\n", timeout=30)
            assert watching.wait(timeout=60) == 0
    made = Page(page.read_text())
    assert f"({process.pid})" in made.text
    assert "<script>alert(1)</script>' -c 'sleep 0.5; exit 7'" in made.text
    if BACKEND != "procfs":  # which is told of no exit's code
        assert "code 7" in made.text
    if BACKEND not in ("netlink", "procfs"):
        assert "Complete: the ledger" in made.text
    assert "script" not in {tag for tag, _ in made.tags}
