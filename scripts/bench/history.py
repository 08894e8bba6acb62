"""What looking back costs: one process and its tree found in a million lines of the reference mix, on one core."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scripts.bench.figures import Row, Spread
from scripts.bench.mix import KINDS, Mix, make
from scripts.bench.programs import BenchError
from scripts.bench.throughput import core, replay

__all__ = ["look_back"]

_GROUP: Final = "the past: one process found in files of export, on one core"
_MIX: Final = Mix(1_000_000, 20_000)
_BUDGET: Final = 5.0  # s
_WITHIN_S: Final = 120
_TELL: Final = """
import sys
from pathlib import Path
from tracer.cli.past import Asked, past, wanted
chosen, words = wanted(None, sys.argv[2], None, None)
past(Asked([Path(sys.argv[1])], chosen, words, json=True))
"""


def look_back(directory: Path, runs: int) -> Iterator[str | Row]:
    """Seconds of the whole command; yields a word after each run, and the row in the end. Raises BenchError."""
    recording, output = make(_MIX, directory / "past"), directory / "past.jsonl"
    replay(recording, output)
    recording.unlink()
    yield "lines made"
    wanted = _one_in_the_middle(output)
    seconds, used = [], []
    wrong: set[str] = set()
    for number in range(runs):
        begin, before = time.perf_counter(), os.times()
        lines = _told(output, wanted)
        after = os.times()
        seconds.append(time.perf_counter() - begin)
        used.append(after.children_user + after.children_system - before.children_user - before.children_system)
        if len(lines) != 1 + len(KINDS):
            wrong.add(f"{len(lines)} lines instead of a bundle and {len(KINDS)} events")
        yield f"run {number + 1} of {runs}"
    size = output.stat().st_size
    output.unlink()
    yield Row(
        "a process by its entity id, a million lines",
        _GROUP,
        Spread.of(seconds),
        _BUDGET,
        form=".2f",
        unit=" s",
        note=f"{Spread.of(used).median:.2f} s of CPU time; {size / 1e9:.2f} GB, not compressed",
        wrong=sorted(wrong),
        facts={"bytes": size, "cpu": used},
    )


def _one_in_the_middle(output: Path) -> str:
    """The entity id of a process whose exec is in the middle of the file."""
    with output.open("rb") as lines:
        lines.seek(output.stat().st_size // 2)
        lines.readline()
        for line in lines:
            event = json.loads(line)
            if event["event"]["action"] == "process-executed":
                return str(event["process"]["entity_id"])
    raise BenchError("the replay has no exec in its second half")


def _told(output: Path, entity: str) -> list[str]:
    command = ["taskset", "-c", str(core()), sys.executable, "-c", _TELL, str(output), entity]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN_S)
    if done.returncode:
        raise BenchError(f"looking back ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return done.stdout.splitlines()
