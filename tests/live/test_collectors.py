"""Real collectors follow the files of a directory through many new ones: every line comes, once and whole."""

import json
import os
from pathlib import Path

import pytest

from tests.collectors import NAMES, following

pytestmark = pytest.mark.live

FILES = 20
LINES = 503  # of each file
LONG = 31_000  # bytes of a line, some of the time: a line may have 32,000


def line(number: int) -> bytes:
    """A line by its number, of which every 101st is as long as lines get."""
    return json.dumps({"number": number, "more": "x" * (LONG if number % 101 == 0 else number % 997)}).encode() + b"\n"


def begin(directory: Path) -> list[bytes]:
    """One line in a file of its own: what syslog-ng does not see are files that are made at the moment it starts."""
    lines = [line(1)]
    (directory / f"events-{0:020}.jsonl").write_bytes(lines[0])
    return lines


def write(directory: Path) -> list[bytes]:
    """Files one after another, as fast as they can be written, each line by itself."""
    lines = []
    for file in range(1, FILES + 1):
        fd = os.open(directory / f"events-{file * LINES:020}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND)
        for number in range(file * LINES, (file + 1) * LINES):
            lines.append(line(number))
            os.write(fd, lines[-1])
        os.close(fd)
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
