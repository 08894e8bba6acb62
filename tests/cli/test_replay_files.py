"""Replay of files that are good, cut, foreign or hostile: their lines or one line, and the documented code."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import wire
from tests.cli.commands import (
    DEADLINE,
    ENDS,
    FOUND,
    RECORDS,
    ROOT,
    TRACER,
    WHOLE,
    actions,
    assert_refused,
    last,
    run,
    shell,
    start,
)
from tests.wire import NOW as T
from tracer.cli.errors import CommandError, Exit
from tracer.cli.replay import replay
from tracer.model import Kind
from tracer.pipeline.turns import FRAME, MAGIC, Start, pack


def test_replay_gives_the_lines(recording: Path) -> None:
    """The recorded session's lines come out, from coverage to the final ledger, which is complete; the code is 0."""
    finished = run("replay", recording)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert actions(finished.stdout) == [
        "tracer-coverage",
        "tracer-session-start",
        "process-running",
        "process-executed",
        "process-exited",
        "tracer-ledger",
    ]
    lines = [json.loads(line) for line in finished.stdout.splitlines()]
    assert [line["event"]["sequence"] for line in lines] == list(range(6))
    ledger = lines[-1]["tracer"]["ledger"]
    assert ledger["final"]
    assert ledger["complete"]
    assert run("replay", recording, "--json").stdout == finished.stdout


def test_replay_in_another_format(recording: Path) -> None:
    """The same recording gives the view for people."""
    finished = run("replay", recording, "--format", "pretty")
    assert finished.returncode == 0
    assert "program" in finished.stdout
    assert not finished.stdout.startswith("{")


def test_replay_into_a_file(recording: Path, tmp_path: Path) -> None:
    """--output takes the lines, and stdout has none."""
    finished = run("replay", recording, "--output", tmp_path / "lines")
    assert (finished.returncode, finished.stdout) == (0, "")
    assert (tmp_path / "lines").read_text() == run("replay", recording).stdout


def test_replay_does_not_overwrite_its_input(recording: Path) -> None:
    """A recording that is named as the output too is refused and stays whole."""
    assert_refused(run("replay", recording, "--output", recording), Exit.FAILURE, str(recording))
    assert recording.read_bytes() == WHOLE


def test_replay_fails_on_loss(tmp_path: Path) -> None:
    """--fail-on-loss ends with 5 where the recorded session lost something, and with 0 where it did not."""
    path = tmp_path / "lossy"
    failed = {"attempts": 2, "emitted": 1, "failed": 1, "no_space": 1, "failed_first": T, "failed_last": T}
    path.write_bytes(start() + last(RECORDS[0], exec=failed))
    finished = run("replay", path, "--fail-on-loss")
    assert finished.returncode == Exit.LOSS
    assert actions(finished.stdout)[-2:] == ["tracer-loss", "tracer-ledger"]
    assert run("replay", path).returncode == 0
    path.write_bytes(WHOLE)
    assert run("replay", path, "--fail-on-loss").returncode == 0


@pytest.mark.parametrize("form", ["ecs", "pretty"])
def test_replay_into_a_closed_pipe(recording: Path, form: str) -> None:
    """A reader that went away is a normal end, in every format, and nothing is said."""
    reader, writer = os.pipe()
    os.close(reader)
    finished = subprocess.run(
        [*TRACER, "replay", recording, "--format", form],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=ROOT,
        timeout=DEADLINE,
    )
    os.close(writer)
    assert (finished.returncode, finished.stderr) == (0, "")


@pytest.mark.parametrize("form", ["ecs", "pretty"])
def test_replay_onto_a_full_disk(recording: Path, form: str) -> None:
    """No space left is a failure of the output, not of the recording."""
    finished = shell('"$@" >/dev/full', "replay", recording, "--format", form)
    assert_refused(finished, Exit.FAILURE, "No space left", "stdout")


def test_replay_of_what_is_not_there(tmp_path: Path) -> None:
    """A file that can't be read is named, with the system's reason."""
    assert_refused(run("replay", tmp_path / "none"), Exit.FAILURE, str(tmp_path / "none"), "No such file")
    assert_refused(run("replay", tmp_path), Exit.FAILURE, str(tmp_path), "directory")


def test_replay_into_no_directory(recording: Path, tmp_path: Path) -> None:
    """An output that can't be opened is named."""
    place = tmp_path / "no" / "lines"
    assert_refused(run("replay", recording, "--output", place), Exit.FAILURE, str(place), "No such file")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b'{"event": 1}\n',
        MAGIC[:-1],
        MAGIC,
        MAGIC + b"\0",
        MAGIC + FRAME.pack(0, 1 << 31),
        MAGIC + FRAME.pack(0, 100),
        MAGIC + FRAME.pack(9, 0),
        MAGIC + FRAME.pack(0, 2) + b"{}",
        MAGIC + FRAME.pack(0, 2) + b"[]",
        MAGIC + FRAME.pack(0, 100_000) + b"[" * 100_000,
        MAGIC + last(),
    ],
    ids=[
        "empty",
        "text",
        "json",
        "short-magic",
        "only-magic",
        "cut-frame",
        "huge",
        "cut-content",
        "type",
        "no-facts",
        "list",
        "nested",
        "no-start",
    ],
)
def test_replay_of_what_is_no_recording(tmp_path: Path, content: bytes) -> None:
    """Foreign and broken files end with 1 and one line that names the file."""
    path = tmp_path / "file"
    path.write_bytes(content)
    assert_refused(run("replay", path), Exit.FAILURE, str(path))


def test_replay_of_a_cut_recording(tmp_path: Path) -> None:
    """A recording that was cut inside a frame ends with 1 and says so, after the lines that are before the cut."""
    path = tmp_path / "file"
    path.write_bytes(WHOLE[:-10])
    finished = run("replay", path)
    assert_refused(finished, Exit.FAILURE, str(path), "cut")
    assert actions(finished.stdout) == ["tracer-coverage", "tracer-session-start", "process-running"]


@pytest.mark.parametrize("end", ENDS, ids=["start", "found", "turn"])
def test_replay_of_a_recording_without_its_end(tmp_path: Path, end: int) -> None:
    """A recording that was cut between frames has no final ledger: that is said too, and is no success."""
    path = tmp_path / "file"
    path.write_bytes(WHOLE[:end])
    finished = run("replay", path)
    assert_refused(finished, Exit.FAILURE, str(path), "cut")
    assert actions(finished.stdout)[:2] == ["tracer-coverage", "tracer-session-start"]


def outcome(data: bytes, path: Path) -> Exit | str:
    """What a replay of these bytes ends with: an exit code, or the message of a CommandError; nothing else may come."""
    path.write_bytes(data)
    try:
        return replay(path, "ecs", Path(os.devnull))
    except CommandError as error:
        message = str(error)
    assert "\n" not in message
    return message


def test_replay_cut_anywhere(tmp_path: Path) -> None:
    """Cut at any length, a recording is refused; only the whole one is a success."""
    path = tmp_path / "file"
    lengths = sorted({*range(0, len(WHOLE), 97), *range(len(MAGIC) + 10), *ENDS, len(WHOLE) - 1})
    assert [length for length in lengths if outcome(WHOLE[:length], path) == Exit.OK] == []
    assert outcome(WHOLE, path) == Exit.OK


@pytest.fixture(scope="module", name="place")
def _place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that examples may write one after the other."""
    return tmp_path_factory.mktemp("hostile") / "file"


FACTS = wire.start().facts
HOSTILE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([1 << 62, 1 << 63, 1 << 64, 10**30, -(10**30), 1e300, float("nan")]),
    st.floats(),
    st.text(max_size=5),
    st.just("\ud800"),
    st.just([]),
    st.just({}),
    st.just([[1]]),
    st.just({"x": {"y": "\ud800"}}),
)


@settings(deadline=None)
@given(st.sampled_from(sorted(FACTS)), HOSTILE)
def test_replay_of_hostile_facts(place: Path, name: str, value: Any) -> None:
    """Whatever stands in place of one of the facts, the replay ends with a code or one line."""
    outcome(MAGIC + pack(Start(FACTS | {name: value})) + FOUND + last(*RECORDS), place)


@settings(deadline=None)
@given(st.sampled_from(sorted(FACTS["session"])), st.sampled_from(sorted(FACTS["session"]["host"])), HOSTILE)
def test_replay_of_hostile_session(place: Path, name: str, part: str, value: Any) -> None:
    """The same for the parts of the session and of the host."""
    session = FACTS["session"]
    host = session["host"] | {part: value}
    for facts in (session | {name: value}, session | {"host": host}):
        outcome(MAGIC + pack(Start(FACTS | {"session": facts})) + FOUND + last(*RECORDS), place)


@settings(deadline=None, max_examples=200)
@given(st.integers(len(MAGIC), len(WHOLE) - 1), st.integers(1, 255))
def test_replay_of_a_changed_recording(place: Path, at: int, by: int) -> None:
    """With one byte changed, anywhere, the replay ends with a code or one line."""
    changed = bytearray(WHOLE)
    changed[at] ^= by
    outcome(bytes(changed), place)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.binary(max_size=300)), max_size=4))
def test_replay_of_hostile_frames(place: Path, frames: list[tuple[int, bytes]]) -> None:
    """Frames of any content behind a good beginning end with a code or one line."""
    data = b"".join(FRAME.pack(kind, len(content)) + content for kind, content in frames)
    outcome(start() + data, place)


@settings(deadline=None)
@given(st.sampled_from(sorted(Kind)), st.binary(min_size=300, max_size=600))
def test_replay_of_hostile_records(place: Path, kind: Kind, data: bytes) -> None:
    """Records of any content, in the ring and from the iterators, end with a code or one line."""
    record = data[:34] + bytes([kind]) + data[35:]
    outcome(start() + last(record), place)
    outcome(start() + pack(wire.found(wire.framed(record), wire.framed(record))) + last(), place)
