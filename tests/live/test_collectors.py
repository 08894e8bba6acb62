"""Real collectors follow files while they are written, and through many new ones: every line comes, once and whole."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.collectors import NAMES, following
from tests.tracing import END_WITHIN_S, READY, READY_WITHIN_S

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
FILES = 20
LINES = 503  # of each file
BURST = 20  # files of a line
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
    """Files one after another, as fast as they can be written, each line by itself, under one name for ever."""
    lines = []
    for file in range(1, FILES + 1):
        fd = os.open(directory / f"events-{file * LINES:020}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        for number in range(file * LINES, (file + 1) * LINES):
            lines.append(line(number))
            os.write(fd, lines[-1])
        os.close(fd)
    return lines


def burst(directory: Path) -> list[bytes]:
    """As many files again, of a line each: made and done in some milliseconds."""
    lines = []
    for number in range((FILES + 1) * LINES, (FILES + 1) * LINES + BURST):
        lines.append(line(number))
        (directory / f"events-{number:020}.jsonl").write_bytes(lines[-1])
    return lines


@contextmanager
def export(directory: Path, errors: Path, *arguments: str) -> Iterator[None]:
    """A `tracer export` that is ready; at the end it ends in order."""
    command = [sys.executable, "-m", "tracer", "export", "--output", str(directory), "--event", "exec,exit", *arguments]
    with errors.open("wb") as file, subprocess.Popen(command, cwd=ROOT, stderr=file) as process:
        try:
            deadline = time.monotonic() + READY_WITHIN_S
            while READY not in errors.read_text():
                assert time.monotonic() < deadline, errors.read_text()
                time.sleep(0.05)
            yield
            process.terminate()
            assert process.wait(END_WITHIN_S) == 0, errors.read_text()
        finally:
            process.kill()


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> Path:
    directory = tmp_path / "log"
    directory.mkdir()
    (tmp_path / "place").mkdir()
    return directory


@pytest.mark.parametrize("name", NAMES)
def test_every_line_comes_once(tmp_path: Path, directory: Path, name: str) -> None:
    """20 files of 503 lines, some of 31,000 bytes, and 20 more at once: what was collected are those lines alone."""
    with following(name, directory, tmp_path / "place") as collector:
        written = begin(directory)
        assert collector.lines(1) == written
        written += write(directory) + burst(directory)
        got = collector.lines(len(written))
    assert len(written) == 1 + FILES * LINES + BURST
    assert sorted(got) == sorted(written)


@pytest.mark.parametrize("name", NAMES)
def test_export_is_followed(tmp_path: Path, directory: Path, name: str) -> None:
    """tracer export goes through 20 rotations and more while 1,009 processes run: all its lines come once.

    Their numbers have no gap, and every process is among them.
    """
    pids = set()
    with following(name, directory, tmp_path / "place") as collector:
        begun = begin(directory)
        assert collector.lines(1) == begun
        with export(directory, tmp_path / "errors", "--rotate-size", "64K", "--keep", "0"):
            for _ in range(PROCESSES):
                with subprocess.Popen(["/bin/true"]) as child:
                    pids.add(child.pid)
        files = sorted(directory.glob("events-0*.jsonl"))
        written = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
        got = collector.lines(len(begun) + len(written))
    assert len(files) > FILES
    assert sorted(got) == sorted(begun + written)
    events = [json.loads(each) for each in written]
    assert [event["event"]["sequence"] for event in events] == list(range(len(events)))
    assert pids <= {event["process"]["pid"] for event in events if event["event"]["action"] == "process-executed"}


@pytest.mark.parametrize("name", NAMES)
def test_lines_come_while_a_file_is_written(tmp_path: Path, directory: Path, name: str) -> None:
    """The one file of a tracer export that goes on: what it has written is collected, and once what comes later."""
    with following(name, directory, tmp_path / "place") as collector:
        begun = begin(directory)
        assert collector.lines(1) == begun
        with export(directory, tmp_path / "errors"):
            for _ in range(3):
                with subprocess.Popen(["/bin/true"]) as child:
                    pass
                needle = f'"pid":{child.pid},'.encode()
                deadline = time.monotonic() + END_WITHIN_S
                while needle not in collector.output.read_bytes():
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            (file,) = directory.glob("events-0*.jsonl")
        written = file.read_bytes().splitlines(keepends=True)
        got = collector.lines(1 + len(written))
    assert sorted(got) == sorted(begun + written)
