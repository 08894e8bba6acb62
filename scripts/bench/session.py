"""Runs `tracer live` around a measurement, and reads what its output and its ledger say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from scripts.bench.programs import BenchError

__all__ = ["Tracer", "count_actions", "cpu_seconds", "ledger_of", "problems", "settle"]

_READY: Final = "tracer: ready"
_READY_S: Final = 30
_END_S: Final = 120
_SETTLE_S: Final = 0.15
_TAIL: Final = 64 << 10  # no line is longer than 32,000 bytes


def cpu_seconds(pid: int) -> float:
    """CPU time of all threads of a process up to now, from the scheduler's own nanoseconds. Raises OSError."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def settle(seconds: float = _SETTLE_S) -> None:
    """Let what just started or ended come to rest."""
    time.sleep(seconds)


class Tracer:
    """The whole system traced into a file while the block runs. Afterwards ``ledger`` is the last ledger's body.

    Raises BenchError when it does not get ready, or ends with anything but 0.
    """

    def __init__(self, output: Path, *arguments: str, prefix: tuple[str, ...] = ()) -> None:
        """Lines go to ``output``; ``arguments`` are more of them for `tracer live`, ``prefix`` a command before it."""
        self.output = output
        self.ledger: dict[str, Any] = {}
        self.seconds = self.cpu = 0.0  # of the block: elapsed, and CPU time of the tracer
        self._said = output.with_suffix(".stderr")
        live = [sys.executable, "-m", "tracer", "live", "--json", "--output", str(output)]
        live += ["--flood-budget", "0"]  # each event is to have its line, and to be counted
        self._command = [*prefix, *live, *arguments]

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready."""
        with self._said.open("w") as said:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=said)
        deadline = time.monotonic() + _READY_S
        while _READY not in self._said.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._kill()
                raise BenchError(f"the tracer did not get ready: {self._errors()}")
            time.sleep(0.01)
        settle()
        self._begin = time.monotonic()
        self._cpu_before = cpu_seconds(self.pid)
        return self

    @property
    def pid(self) -> int:
        """Its process: taskset, the only prefix there is, becomes the program it runs."""
        return self._process.pid

    def _errors(self) -> str:
        return self._said.read_text(errors="replace").strip()[-400:]

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def mark(self) -> None:
        """The end of what is measured: elapsed and CPU time are up to here."""
        self.seconds = time.monotonic() - self._begin
        self.cpu = cpu_seconds(self.pid) - self._cpu_before

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drain and end it."""
        try:
            if error is not None:
                return
            settle()
            os.kill(self.pid, signal.SIGTERM)
            code = self._process.wait(_END_S)
            if code:
                raise BenchError(f"the tracer ended with {code}: {self._errors()}")
            self.ledger = ledger_of(self.output)
        except subprocess.TimeoutExpired:
            raise BenchError(f"the tracer did not end within {_END_S} s of SIGTERM") from None
        finally:
            self._kill()


def ledger_of(output: Path) -> dict[str, Any]:
    """The body of the ledger that ends a file of ECS lines. Raises BenchError when it does not end in one."""
    with output.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL))
        last = file.read().rstrip(b"\n").rpartition(b"\n")[2]
    try:
        line = json.loads(last)
        if line["event"]["action"] != "tracer-ledger" or not line["tracer"]["ledger"]["final"]:
            raise BenchError(f"{output.name} does not end in the final ledger")
    except (ValueError, KeyError, TypeError) as error:
        raise BenchError(f"{output.name} does not end in a ledger: {error}") from error
    found: dict[str, Any] = line["tracer"]["ledger"]
    return found


def problems(ledger: dict[str, Any]) -> list[str]:
    """What a ledger says is wrong: losses, an imbalance, what the kernel skipped. Nothing: complete."""
    found = []
    if ledger["total"]["lost"]:
        found.append(f"{ledger['total']['lost']} lost")
    if not ledger["balanced"]:
        found.append("the ledger does not balance")
    if not ledger["complete"] and not found:
        found.append(f"not complete: {json.dumps(ledger['missed'])}")
    return found


def count_actions(output: Path, needle: bytes) -> Counter[str]:
    """How often each event.action comes among the lines that contain ``needle``."""
    found: Counter[str] = Counter()
    with output.open("rb") as file:
        for line in file:
            if needle in line:
                found[line.partition(b'"action":"')[2].partition(b'"')[0].decode()] += 1
    return found
