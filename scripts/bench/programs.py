"""Builds the benchmark's own C programs, and runs what is measured."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["STAT", "BenchError", "Programs", "Took", "build", "busy_seconds", "run"]

_HERE: Final = Path(__file__).parent
_WITHIN_S: Final = 120
STAT: Final = Path("/proc/stat")


class BenchError(Exception):
    """Something could not be measured: one line that says what and why."""


class Programs(NamedTuple):
    """Where the compiled programs are."""

    workloads: Path
    nop: Path


class Took(NamedTuple):
    """One run: elapsed and CPU time in seconds (its children's included), and what the program said of itself.

    ``others`` is how many CPUs everything else on the machine kept busy meanwhile.
    """

    pid: int
    seconds: float
    cpu: float
    said: dict[str, Any]
    others: float = 0.0


def build(directory: Path) -> Programs:
    """Compile the workloads into ``directory``. Raises BenchError."""
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise BenchError("no C compiler: install gcc or clang")
    found = Programs(directory / "workloads", directory / "nop")
    for program, flags in ((found.workloads, ["-pthread"]), (found.nop, ["-static"])):
        source = _HERE / f"{program.name}.c"
        command = [
            compiler,
            "-std=gnu17",
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            *flags,
            "-o",
            str(program),
            str(source),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"{source.name} does not build: {done.stderr.strip()}")
    return found


def run(command: Sequence[str | Path]) -> Took:
    """Run a program to its end. A line of JSON with ``ns`` on its stdout replaces the time measured from outside.

    Raises BenchError when it fails or takes too long.
    """
    cpu, busy = _children_cpu(), busy_seconds(STAT.read_text())
    begin = time.perf_counter()
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            out, err = process.communicate(timeout=_WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise BenchError(f"{command[0]}: not done within {_WITHIN_S} s") from None
        seconds = time.perf_counter() - begin
        busy = busy_seconds(STAT.read_text()) - busy
    if process.returncode:
        raise BenchError(f"{' '.join(map(str, command))} ended with {process.returncode}: {err.strip()[-400:]}")
    said = _last_json(out)
    used = _children_cpu() - cpu
    told = said["ns"] / 1e9 if "ns" in said else seconds
    return Took(int(said.get("pid", process.pid)), told, used, said, max(0.0, busy - used) / seconds)


def busy_seconds(stat: str) -> float:
    """What all CPUs have worked since the start, from the text of /proc/stat: all but idle and waiting for disks."""
    ticks = list(map(int, stat.split("\n", 1)[0].split()[1:9]))
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


def _children_cpu() -> float:
    """CPU time of all children that were waited for, and of theirs, s."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _last_json(text: str) -> dict[str, Any]:
    last = text.strip().rpartition("\n")[2]
    if not last.startswith("{"):
        return {}
    found = json.loads(last)
    return found if isinstance(found, dict) else {}
