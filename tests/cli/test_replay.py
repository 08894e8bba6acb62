"""A recording gives the lines of its session again, byte for byte: one that is kept here, and one made by the test."""

import json
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.data import make
from tests.tracing import Trace
from tracer.cli import options

ROOT = Path(__file__).parents[2]
DEADLINE = 60
# What the recorded tree did (PROGRAM in make.py).
DID = {
    "process-forked": 4,
    "process-executed": 3,
    "process-exec-failed": 1,
    "process-exited": 5,
    "socket-listening": 1,
    "connection-opened": 3,  # with two flows of datagrams
    "connection-accepted": 1,
    "connection-closed": 4,
    "connection-update": 1,  # what the client read after it had shut down
    "connection-failed": 2,
    "tracer-coverage": 1,
    "tracer-session-start": 1,
    "tracer-confinement": 1,
    "tracer-ledger": 1,
}


def replayed(path: Path, *options: str) -> bytes:
    """What a replay of a recording writes to stdout."""
    command = [sys.executable, "-m", "tracer", "replay", str(path), "--json", *options]
    return subprocess.run(command, check=True, capture_output=True, timeout=DEADLINE, cwd=ROOT).stdout


def test_kept_recording_gives_the_kept_lines() -> None:
    """The recording of tests/data gives exactly its lines; after a wanted change: python -m tests.data.make --lines."""
    lines, kept = replayed(make.RECORDING).splitlines(), make.LINES.read_bytes().splitlines()
    for line, wanted in zip(lines, kept, strict=True):
        assert json.loads(line) == json.loads(wanted)
        assert line == wanted


def test_kept_recording_is_what_it_should_be() -> None:
    """It has what the recorded tree did and is complete, is small, and names neither this machine nor its user."""
    lines = [json.loads(line) for line in make.LINES.read_bytes().splitlines()]
    assert Counter(line["event"]["action"] for line in lines) == DID
    ledger = lines[-1]["tracer"]["ledger"]
    assert ledger["final"]
    assert ledger["complete"]
    assert make.RECORDING.stat().st_size < make.BYTES_MOST
    assert {line["host"]["name"] for line in lines} == {"box"}
    data = make.RECORDING.read_bytes()
    for own in (platform.node(), platform.release(), str(ROOT)):
        assert len(own) < 4 or own.encode() not in data


@pytest.mark.live
def test_recording_made_now_gives_its_lines(tmp_path: Path) -> None:
    """What live wrote is what a replay of its recording writes, snapshot and ledger included."""
    recording = tmp_path / "raw"
    with Trace("--record", str(recording), "--event", ",".join(_names())) as trace:
        done = subprocess.run(["/bin/sh", "-c", "/bin/true; /no/such; exit 7"], check=False, capture_output=True)
        assert done.returncode == 7
    assert recording.stat().st_mode & 0o777 == 0o600
    again = replayed(recording).splitlines()
    assert [json.loads(line)["event"] for line in again] == [event["event"] for event in trace.events]
    assert again == trace.lines
    actions = Counter(event["event"]["action"] for event in trace.events)
    assert actions["process-running"] > 1
    assert actions["process-executed"] >= 2
    assert actions["process-exec-failed"] >= 1


@pytest.mark.live
def test_recorded_filters_are_applied_again(tmp_path: Path) -> None:
    """A replay shows what the session showed: its filters and its count are in the recording."""
    recording = tmp_path / "raw"
    with Trace("--record", str(recording), "--event", "exec", "--comm", "tru*", "--no-snapshot") as trace:
        for _ in range(3):
            subprocess.run(["/bin/true"], check=True)
            subprocess.run(["/bin/false"], check=False)
    assert replayed(recording).splitlines() == trace.lines
    assert {event["process"]["name"] for event in trace.events if "process" in event} == {"true"}


def _names() -> list[str]:
    return [*options._EVENTS]
