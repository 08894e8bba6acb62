"""Runs the tracer for the tests of its command line, and makes small recordings for it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests import wire
from tests.wire import NOW as T
from tracer.cli.errors import Exit
from tracer.model import Kind
from tracer.pipeline.turns import MAGIC, pack

TRACER = (sys.executable, "-m", "tracer")
ROOT = Path(__file__).parents[2]
DEADLINE = 60
Finished = subprocess.CompletedProcess[str]


def run(*arguments: str | Path, **environment: str) -> Finished:
    """Runs the tracer to its end."""
    return subprocess.run(
        [*TRACER, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        cwd=ROOT,
        env=os.environ | environment,
    )


def shell(script: str, *arguments: str | Path) -> Finished:
    """Runs a shell script, in which "$@" is the tracer with these arguments."""
    return subprocess.run(
        ["sh", "-c", script, "sh", *TRACER, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        cwd=ROOT,
    )


def assert_refused(finished: Finished, code: Exit, *words: str) -> None:
    """It ended with the code, and stderr is one line from the tracer that has the words."""
    assert finished.returncode == code, finished.stderr
    assert finished.stderr.startswith("tracer: "), finished.stderr
    assert finished.stderr.count("\n") == 1, finished.stderr
    assert "Traceback" not in finished.stderr
    for word in words:
        assert word.lower() in finished.stderr.lower()


def start(**changes: Any) -> bytes:
    """The beginning of a recording."""
    return MAGIC + pack(wire.start(**changes))


def last(*items: bytes, **counts: dict[str, int]) -> bytes:
    """The end of a recording: a last turn, with the kernel's counters of kinds."""
    counters = wire.tallies({(0, Kind[name.upper()]): count for name, count in counts.items()})
    return pack(wire.turn(wire.ring_run(*items), last=True, counters=counters))


RECORDS = (wire.executed(seq=0, time=T), wire.exited(seq=1, time=T + 1))
ONE = {"attempts": 1, "emitted": 1}
FOUND = pack(wire.found(wire.framed(wire.executed(kind=Kind.PROCESS_FOUND, tgid=9)), b""))
WHOLE = start() + FOUND + pack(wire.turn()) + last(*RECORDS, exec=ONE, exit=ONE)
# Where frames end: a file cut here has lost only whole frames.
ENDS = [len(start()), len(start() + FOUND), len(start() + FOUND + pack(wire.turn()))]


def actions(text: str) -> list[str]:
    """The actions of the lines."""
    return [json.loads(line)["event"]["action"] for line in text.splitlines()]
