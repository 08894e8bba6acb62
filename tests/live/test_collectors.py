"""Real collectors follow the files of a directory through many new ones: every line comes, once and whole."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.collectors import NAMES, following
from tests.tracing import END_WITHIN_S, READY, READY_WITHIN_S

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FILES = 20
LINES = 503  # of each file
PROCESSES = 1009
LONG = 31_000  # bytes of a line, some of the time: a line may have 32,000


def line(number: int) -> bytes:
    """A line by its number, of which every 101st is as long as lines get."""
    return json.dumps({"number": number, "more": "x" * (LONG if number % 101 == 0 else number % 997)}).encode() + b"\n"


def begin(directory: Path) -> list[bytes]:
    """One line in a file of its own: what syslog-ng does not see are files that are made at the moment it starts."""
    lines = [line(1)]
    (directory / "events-first.jsonl").write_bytes(lines[0])
    return lines


def write(directory: Path) -> list[bytes]:
    """Files one after another, as fast as they can be written, each line by itself."""
    lines = []
    for file in range(1, FILES + 1):
        fd = os.open(directory / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        for number in range(file * LINES, (file + 1) * LINES):
            lines.append(line(number))
            os.write(fd, lines[-1])
        os.close(fd)
        (directory / "events.jsonl").rename(directory / f"events-{file * LINES:020}.jsonl")
    return lines


@pytest.mark.parametrize("name", NAMES)
def test_every_line_comes_once(tmp_path: Path, name: str) -> None:
    """20 files of 503 lines, some of 31,000 bytes: what was collected are those lines, and nothing else."""
    directory, place = tmp_path / "log", tmp_path / "place"
    directory.mkdir()
    place.mkdir()
    with following(name, directory, place) as collector:
        written = begin(directory)
        assert collector.lines(1) == written
        written += write(directory)
        got = collector.lines(len(written))
    assert len(written) == 1 + FILES * LINES
    assert sorted(got) == sorted(written)


@pytest.mark.parametrize("name", NAMES)
def test_export_is_followed(tmp_path: Path, name: str) -> None:
    """tracer export goes through 20 rotations and more while 1,009 processes run: all their lines come once.

    Their numbers have no gap, and every process is among them.
    """
    directory, place = tmp_path / "log", tmp_path / "place"
    directory.mkdir()
    place.mkdir()
    pids = set()
    with following(name, directory, place) as collector:
        begun = begin(directory)
        assert collector.lines(1) == begun
        command = [sys.executable, "-m", "tracer", "export", "--output", str(directory), "--rotate-size", "64K"]
        command += ["--keep", "0", "--event", "exec,exit"]
        with (tmp_path / "errors").open("wb") as errors, subprocess.Popen(command, cwd=ROOT, stderr=errors) as process:
            deadline = time.monotonic() + READY_WITHIN_S
            while READY not in (tmp_path / "errors").read_text():
                assert time.monotonic() < deadline
                time.sleep(0.05)
            for _ in range(PROCESSES):
                with subprocess.Popen(["/bin/true"]) as child:
                    pids.add(child.pid)
            process.terminate()
            assert process.wait(END_WITHIN_S) == 0, (tmp_path / "errors").read_text()
        done = sorted(directory.glob("events-0*.jsonl"))
        written = [line for file in done for line in file.read_bytes().splitlines(keepends=True)]
        got = collector.lines(len(begun) + len(written))
    assert len(done) > FILES
    assert sorted(got) == sorted(begun + written)
    rest = (directory / "events.jsonl").read_bytes().splitlines()
    events = [json.loads(each) for each in (*written, *rest)]
    numbers = [event["event"]["sequence"] for event in events]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert pids <= {event["process"]["pid"] for event in events if event["event"]["action"] == "process-executed"}
