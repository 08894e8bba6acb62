"""Builds the trap programs once, or takes them as they were built, and runs them."""

import hashlib
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.tracing import PATIENCE, Event, Trace, one
from tests.traps import compiling
from tests.traps.checks import Line, lines

# What a wheel carries in place of the sources, for machines without a compiler.
BUILT = Path(__file__).parent / "programs.tar.xz"
RUN_WITHIN_S = 75 * PATIENCE  # every program ends itself within 60, and has the same patience

MakeTrace = Callable[..., Trace]
Program = Callable[[str], Path]
Run = Callable[[str], list[Line]]
Start = Callable[[str], AbstractContextManager["Started"]]


@pytest.fixture(name="program", scope="session")
def _program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The executable of a trap program by its name, compiled unless the cache has one of the same source."""
    if BUILT.exists():
        return _unpacked(tmp_path_factory.mktemp("trap-programs"))
    cache = request.config.pluginmanager.hasplugin("cacheprovider")
    place = request.config.cache.mkdir("trap-programs") if cache else tmp_path_factory.mktemp("trap-programs")
    headers = [path.read_bytes() for path in sorted(compiling.PROGRAMS.glob("*.h"))]
    rules = Path(compiling.__file__).read_bytes()
    cc = compiling.compiler()

    def build(name: str) -> Path:
        source = compiling.PROGRAMS / f"{name}.c"
        parts = [source.read_bytes(), *headers, rules, *map(str.encode, cc)]
        key = hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]
        executable = place / key / name
        if not executable.exists():
            executable.parent.mkdir(exist_ok=True)
            fresh = executable.with_suffix(f".{os.getpid()}")
            compiling.compile_program(source, fresh, cc, "-g")
            fresh.rename(executable)
        return executable

    return build


def _unpacked(place: Path) -> Program:
    # As a stream: going back in a compressed file means to begin again.
    with tarfile.open(BUILT, "r|xz") as archive:
        # Not extractall: its filters came with a release of Python 3.11 that not everybody has.
        for entry in archive:
            data = archive.extractfile(entry)
            assert data is not None
            executable = place / Path(entry.name).name
            executable.write_bytes(data.read())
            executable.chmod(0o755)

    def built(name: str) -> Path:
        executable = place / name
        assert executable.exists(), f"{BUILT.name} has no {name}"
        return executable

    return built


class Seen(NamedTuple):
    """What a program says it did, and what the stream says."""

    truth: list[Line]
    events: list[Event]


def see(trace: MakeTrace, run: Run, name: str, *options: str) -> Seen:
    """Runs a program under a trace of its own; the stream must be complete.

    What the rest of the machine does meanwhile is in the stream too: the buffer has room for that.
    """
    with trace("--buffer", "32M", *options) as seen:
        truth = run(name)
    seen.assert_complete()
    return Seen(truth, seen.events)


TRIES: Final = 3


def see_by_softirq(trace: MakeTrace, run: Run, name: str, whole: Callable[[Seen], bool]) -> Seen:
    """As see(), for programs with connections that a softirq ends at a time of its own."""
    return again_by_softirq(lambda: see(trace, run, name), whole)


def again_by_softirq(watch: Callable[[], Seen], whole: Callable[[Seen], bool]) -> Seen:
    """What was watched, again where a softirq may have ended a connection unseen.

    Where the kernel hides process 1 from BPF, such an end is told by nobody if it interrupts that process, which the
    coverage record says. So there, and only there, a stream that is not ``whole`` is taken again, twice at most.
    """
    seen = watch()
    for _ in range(TRIES - 1):
        blind = one(seen.events, "tracer-coverage")["tracer"]["coverage"]["blind"]
        if whole(seen) or not any(spot.startswith("process 1,") for spot in blind):
            break
        seen = watch()
    return seen


class Started:
    """A program that runs. After `finish`, `truth` is what it said."""

    def __init__(self, name: str, command: list[str], place: Path) -> None:
        self.name = name
        self.output = place / "truth"
        self._errors = place / "errors"
        # Appending writes never mix, whatever their size and however many processes write.
        with self.output.open("ab") as output, self._errors.open("ab") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=errors)

    @property
    def truth(self) -> list[Line]:
        """The lines that were written up to now."""
        whole = self.output.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    def go(self) -> None:
        """Sends the line that some programs wait for."""
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        self.process.stdin.flush()

    def wait_for(self, what: str, **fields: Any) -> list[Line]:
        """Waits until there is a line of that sort, or one that says what is missing; returns the truth up to then."""
        deadline = time.monotonic() + RUN_WITHIN_S
        while time.monotonic() < deadline and self.process.poll() is None:
            truth = self.truth
            if lines(truth, what, **fields) or lines(truth, "missing"):
                return truth
            time.sleep(0.02)
        pytest.fail(f"{self.name} never said {what}: {self._errors.read_text(errors='backslashreplace')}")

    def finish(self) -> list[Line]:
        """Waits for the end, which must be a good one, and returns the truth."""
        self.process.wait(RUN_WITHIN_S)
        errors = self._errors.read_text(errors="backslashreplace")
        assert self.process.returncode == 0, f"{self.name}: code {self.process.returncode}: {errors}"
        return self.truth


@pytest.fixture(name="start", scope="session")
def _start(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Starts a trap program for a block; it does not outlive it."""

    @contextmanager
    def starting(name: str) -> Iterator[Started]:
        started = Started(name, [str(program(name))], tmp_path_factory.mktemp(name))
        try:
            yield started
        finally:
            if started.process.poll() is None:
                started.process.kill()
            started.process.wait()
            if started.process.stdin is not None:
                started.process.stdin.close()

    return starting


@pytest.fixture(name="run", scope="session")
def _run(start: Start) -> Run:
    """Runs a trap program to its end and returns its truth."""

    def running(name: str) -> list[Line]:
        with start(name) as started:
            return started.finish()

    return running
