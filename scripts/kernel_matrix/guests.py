"""Runs guests, several at once: reads what they report, bounds their time, tells a lost guest from one that ended."""

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

BOOTS = 5  # in all, while a guest is lost before its first program runs
LAST_WORDS_S = 20  # for switching off after the last line
TAIL = 25  # lines of a lost guest's console that are kept

_FATAL = re.compile(r"Kernel panic|BUG:|Oops|general protection|Unable to handle|soft lockup|rcu.*stall|init: no disk")
_TIME = re.compile(r"^\[ *\d+\.\d+\] ")

Line = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """Seconds: until the guest is ready, without a sign of life after that, and in all."""

    ready_s: float = 180
    silent_s: float = 120
    total_s: float = 1500


@dataclass(frozen=True)
class Job:
    """A guest to run: its name, the memory it takes, and its command, which is told where to write the console.

    `reruns` is how often it is run again from the start when it is lost after it was ready.
    """

    name: str
    memory_mib: int
    command: Callable[[Path], Sequence[str]]
    limits: Limits = Limits()
    reruns: int = 0


@dataclass
class Outcome:
    """What a guest left. `lost` is empty when it came to its end, else why it did not; times are in seconds.

    `crashes` are the reasons of the runs before this one that were lost after they were ready.
    """

    name: str
    lines: list[Line] = field(default_factory=list)
    lost: str = ""
    console: str = ""
    boots: int = 0
    ready_s: float = 0.0
    seconds: float = 0.0
    crashes: list[str] = field(default_factory=list)

    @property
    def was_ready(self) -> bool:
        """Whether the guest's own program ran."""
        return any(line.get("guest") == "ready" for line in self.lines)


Tell = Callable[[Job, Line], None]


def why_in(console: str) -> str:
    """The line of a console that tells why a kernel died, empty if none does."""
    for line in console.splitlines():
        if _FATAL.search(line):
            return _TIME.sub("", line).strip()
    return ""


class _Running:
    """One boot of a guest."""

    def __init__(self, job: Job, place: Path, boots: int, crashes: list[str]) -> None:
        self.job = job
        self.console = place / f"{job.name.replace('/', '-')}.{boots}.{len(crashes)}.console"
        self.outcome = Outcome(job.name, boots=boots, crashes=crashes)
        self.began = self.heard = time.monotonic()
        self.ended = 0.0
        self._rest = b""
        # A file and not a pipe, which somebody would have to empty.
        self._said = self.console.with_suffix(".stderr")
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                job.command(self.console),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=said,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self.results = self.process.stdout.fileno()
        os.set_blocking(self.results, False)

    def read(self, tell: Tell) -> bool:
        """Take in what is there; False at the end of the results."""
        try:
            data = os.read(self.results, 1 << 16)
        except BlockingIOError:
            return True
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            self._take(text, tell)
        return bool(data)

    def _take(self, text: bytes, tell: Tell) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            return
        if not isinstance(line, dict):
            return
        self.heard = time.monotonic()
        kind = line.get("guest")
        if kind == "alive":
            return
        if kind == "ready":
            self.outcome.ready_s = self.heard - self.began
        elif kind == "end":
            self.ended = self.heard
        self.outcome.lines.append(line)
        tell(self.job, line)

    def overdue(self, now: float) -> str:
        """Why there is nothing to wait for any more, or an empty string."""
        limits = self.job.limits
        if self.ended:
            return "it did not switch itself off" if now > self.ended + LAST_WORDS_S else ""
        if now > self.began + limits.total_s:
            return f"it did not end within {limits.total_s:.0f} s"
        if not self.outcome.was_ready:
            return f"it was not ready within {limits.ready_s:.0f} s" if now > self.began + limits.ready_s else ""
        return f"it gave no sign of life for {limits.silent_s:.0f} s" if now > self.heard + limits.silent_s else ""

    def deadline(self) -> float:
        """The earliest moment at which it can be overdue."""
        limits = self.job.limits
        if self.ended:
            return self.ended + LAST_WORDS_S
        next_word = self.heard + limits.silent_s if self.outcome.was_ready else self.began + limits.ready_s
        return min(self.began + limits.total_s, next_word)

    def kill(self) -> None:
        """End the emulator and whatever it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def finish(self, why: str) -> Outcome:
        """Wait for the end, by force if there is a reason, and say how it went."""
        if why:
            self.kill()
        else:
            try:
                self.process.wait(LAST_WORDS_S)
            except subprocess.TimeoutExpired:
                self.kill()
        said = self._said.read_text(errors="backslashreplace").strip()
        self.close()
        console = self.console.read_text(errors="backslashreplace") if self.console.exists() else ""
        outcome = self.outcome
        outcome.seconds = time.monotonic() - self.began
        outcome.console = "\n".join(console.splitlines()[-TAIL:])
        if not self.ended:
            outcome.lost = why_in(console) or why or said.rpartition("\n")[2] or "it ended without a word"
        return outcome

    def close(self) -> None:
        """Close the pipes."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


class Guests:
    """Runs jobs, as many at once as `slots` and `memory_mib` allow; as a context, which kills what still runs.

    `tell` is called for every line of a guest, `over` when a boot is over: with True when the guest is tried again.
    """

    def __init__(self, place: Path, slots: int, memory_mib: int, tell: Tell) -> None:
        self._place = place
        self._slots = slots
        self._memory_mib = memory_mib
        self._tell = tell
        self._running: list[_Running] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for running in self._running:
            running.kill()
            running.close()

    def run(self, jobs: Iterable[Job], over: Callable[[Outcome, bool], None], *, boots: int = BOOTS) -> list[Outcome]:
        """Run all jobs and return their outcomes in the order of the jobs.

        A guest that is lost before its program runs is booted again, `boots` times in all: emulation itself crashes
        some kernels while they boot. What is lost later is run again only as often as its job says, and the outcome has
        the reasons.
        """
        none: list[str] = []
        waiting = deque((job, 1, none) for job in jobs)
        order = [job.name for job, _, _ in waiting]
        done: dict[str, Outcome] = {}
        while waiting or self._running:
            while waiting and self._fits(waiting[0][0]):
                self._running.append(_Running(waiting[0][0], self._place, *waiting[0][1:]))
                waiting.popleft()
            for running in self._turn():
                outcome = running.outcome
                unbooted = bool(outcome.lost) and not outcome.was_ready and outcome.boots < boots
                crashed = bool(outcome.lost) and outcome.was_ready and len(outcome.crashes) < running.job.reruns
                over(outcome, unbooted or crashed)
                if unbooted:
                    waiting.appendleft((running.job, outcome.boots + 1, outcome.crashes))
                elif crashed:
                    waiting.appendleft((running.job, 1, [*outcome.crashes, outcome.lost]))
                else:
                    done[outcome.name] = outcome
        return [done[name] for name in order]

    def _fits(self, job: Job) -> bool:
        used = sum(running.job.memory_mib for running in self._running)
        # One alone always may: better slow than never.
        return not self._running or (len(self._running) < self._slots and used + job.memory_mib <= self._memory_mib)

    def _turn(self) -> list[_Running]:
        """Wait until something happens, take it in, and return those that are over."""
        with selectors.DefaultSelector() as selector:
            for running in self._running:
                selector.register(running.results, selectors.EVENT_READ, running)
            patience = min(running.deadline() for running in self._running) - time.monotonic()
            ready = {key.fd for key, _ in selector.select(max(0.0, patience) + 0.01)}
        over = []
        for running in [*self._running]:
            more = running.read(self._tell) if running.results in ready else True
            why = running.overdue(time.monotonic())
            if not more or why:
                self._running.remove(running)
                running.finish(why)
                over.append(running)
        return over
