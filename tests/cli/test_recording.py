"""Recordings and outputs that a killed worker has left: what is whole stays, and what comes after it can be read."""

import json
import os
from pathlib import Path

import pytest

from tests import wire
from tests.cli.commands import ENDS, FOUND, WHOLE, actions, assert_refused, last, run, start
from tests.wire import NOW as T
from tracer.cli.errors import CommandError, Exit
from tracer.cli.recording import Recording, begin, items
from tracer.cli.stream import begin_line
from tracer.pipeline.turns import MAGIC, Found, Input, Lost, Start, Turn, pack

GAP = {"backend": "procfs", "reasons": ["killed"], "first": T}
SECOND = pack(wire.start(gap=GAP)) + last()


def inputs(path: Path) -> list[Input]:
    """What a recording holds."""
    with path.open("rb") as file:
        begin(file)
        return list(items(file))


def test_inputs_come_back(tmp_path: Path) -> None:
    """What was added is what is read, in order, and the file is its owner's alone."""
    recording = Recording(tmp_path / "file")
    added: list[Input] = [wire.start(), wire.found(b"", b""), Lost(2, 1, "core", ["dead"]), wire.turn(last=True)]
    for item in added:
        recording.add(item)
    recording.close()
    assert inputs(tmp_path / "file") == added
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_every_cut_is_mended(tmp_path: Path) -> None:
    """Wherever a worker was killed while it wrote, what it wrote whole stays, and what is added then can be read."""
    path = tmp_path / "file"
    for length in range(len(MAGIC), ENDS[-1] + 1):
        recording = Recording(path)
        os.write(recording._fd, WHOLE[len(MAGIC) : length])
        recording.mend()
        recording.add(wire.start(gap=GAP))
        recording.close()
        *kept, added = inputs(path)
        assert isinstance(added, Start)
        whole = sum(length >= end for end in ENDS)
        assert [type(item) for item in kept] == [Start, Found, Turn][:whole], length


def test_what_is_no_file_is_not_mended(tmp_path: Path) -> None:
    """A pipe takes what comes, and is left alone."""
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    recording = Recording(tmp_path / "pipe")
    recording.mend()
    recording.close()
    assert os.read(reader, 100) == MAGIC
    os.close(reader)


def test_replay_of_several_sessions(tmp_path: Path) -> None:
    """The lines of each session come, the gap between them is told, and the second is not complete."""
    path = tmp_path / "file"
    lost = pack(Lost(T + 5, T, "procfs", ["the broker was killed"]))
    for first, ends in ((WHOLE, ["tracer-ledger"]), (start() + FOUND + lost, ["process-running", "tracer-backend"])):
        path.write_bytes(first + SECOND)
        finished = run("replay", path)
        assert (finished.returncode, finished.stderr) == (0, "")
        seen = actions(finished.stdout)
        again = seen.index("tracer-coverage", 1)
        assert seen[again - len(ends) : again] == ends
        assert seen[again:] == ["tracer-coverage", "tracer-session-start", "tracer-backend", "tracer-ledger"]
        ledger = json.loads(finished.stdout.splitlines()[-1])["tracer"]["ledger"]
        assert (ledger["complete"], ledger["missed"]["gaps"]) == (False, 1)
        assert run("replay", path, "--fail-on-loss").returncode == Exit.LOSS


def test_last_session_must_be_whole(tmp_path: Path) -> None:
    """A recording that is cut in its last session is refused as any other, after the lines that there are."""
    path = tmp_path / "file"
    path.write_bytes(WHOLE + pack(wire.start(gap=GAP)))
    finished = run("replay", path)
    assert_refused(finished, Exit.FAILURE, "no last ledger")
    assert actions(finished.stdout)[-1] == "tracer-backend"


@pytest.mark.parametrize(
    ("left", "then"),
    [(b"", b""), (b"a line\n", b"a line\n"), (b"a line\nhalf", b"a line\nhalf\n"), (b"half", b"half\n")],
)
def test_lines_begin_anew(tmp_path: Path, left: bytes, then: bytes) -> None:
    """After a line that was left unfinished the next begins on its own; after a whole one nothing is added."""
    path = tmp_path / "output"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    os.write(fd, left)
    begin_line(fd, "output", path)
    os.close(fd)
    assert path.read_bytes() == then


def test_lines_begin_anew_in_a_pipe() -> None:
    """Where nobody can tell what was left, an empty line comes between; a reader that went away is no failure here."""
    reader, writer = os.pipe()
    begin_line(writer, "stdout", None)
    assert os.read(reader, 10) == b"\n"
    os.close(reader)
    begin_line(writer, "stdout", None)
    os.close(writer)
    with pytest.raises(CommandError, match="can't write stdout"):
        begin_line(writer, "stdout", None)
