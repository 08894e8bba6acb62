"""What `tracer export` takes at 50,000 events a second, and whether all of them arrive at a collector that follows.

The records of the reference mix are put into the exporter's own rings by a BPF program, so everything from the ring to
the rotated file is as it is in service; only the kernel's side of each event is left out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from scripts.bench.feeder import STEPS, Feeder, compiled, maps_of
from scripts.bench.figures import Paired, Row, Spread
from scripts.bench.mix import KINDS
from scripts.bench.programs import STAT, BenchError, busy_seconds
from scripts.bench.session import cpu_seconds, problems, settle
from scripts.bench.startup import family
from scripts.bench.throughput import pss
from tests.collectors import PLACE, following
from tracer.probes.libbpf_binding import BpfError

__all__ = ["GROUP", "Arrived", "Exporter", "arrived", "export_rate", "feed", "parts", "wrong_with"]

GROUP: Final = "tracer export: records of the mix put into its rings by a BPF program, to rotated and chained files"
RATE: Final = 50_000
SECONDS: Final = 60
QUICK_SECONDS: Final = 6
_PART_RATE: Final = 25_000
_PART_SECONDS: Final = 4.0
_CPU_BUDGET: Final = 40.0  # % of one core
_MEMORY_BUDGET: Final = 64.0  # MiB
_BUFFER: Final = "32M"  # what other programs need a core for meanwhile is not the exporter's to lose
_ROTATE_SIZE: Final = "16M"
_NETNS: Final = 4_026_531_840  # of all records of the mix, and of nobody here: what others do meanwhile is left out
_READY: Final = "tracer: ready"
_READY_S: Final = 30
_END_S: Final = 120
_ARRIVE_S: Final = 300
_QUIET_S: Final = 3.0
_SAMPLE_S: Final = 0.25
_LINE_BYTES: Final = 1_700  # of a line of the mix, and some to spare
_MEBI: Final = 1 << 20
_TAIL: Final = 128 << 10
_NUMBER: Final = b'"sequence":'


class Exporter:
    """`tracer export` while the block runs. Afterwards ``ledger`` is the body of the last one.

    ``cpu`` are the CPU seconds of all its processes between the block's begin and mark(), ``seconds`` what that took,
    ``others`` how many CPUs everything else kept busy meanwhile, ``memory`` samples of the PSS of them all in bytes.
    Raises BenchError.
    """

    def __init__(self, output: Path, *arguments: str) -> None:
        """Files go to the directory ``output``."""
        self.output = output
        self.ledger: dict[str, Any] = {}
        self.seconds = self.cpu = self.others = 0.0
        self.memory: list[int] = []
        self._said = output.with_name(f"{output.name}.stderr")
        self._command = [sys.executable, "-m", "tracer", "export", "--output", str(output), "--buffer", _BUFFER]
        self._command += ["--keep", "0", "--rotate-size", _ROTATE_SIZE, "--netns", str(_NETNS), *arguments]
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        """Start it, and wait until it is ready."""
        with self._said.open("w") as said:
            self._process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stderr=said)
        deadline = time.monotonic() + _READY_S
        while _READY not in self._said.read_text(errors="replace"):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._kill()
                raise BenchError(f"tracer export did not get ready: {self._errors()}")
            time.sleep(0.01)
        settle()
        self._family = family(self.pid)
        self._sampler = threading.Thread(target=self._sample)
        self._sampler.start()
        self._begin = time.monotonic()
        self._before = sum(map(cpu_seconds, self._family))
        self._busy = busy_seconds(STAT.read_text())
        return self

    @property
    def pid(self) -> int:
        """The process that holds the rings."""
        return self._process.pid

    def _sample(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self.memory.append(sum(map(pss, self._family)))

    def _errors(self) -> str:
        return self._said.read_text(errors="replace").strip()[-400:]

    def _kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def mark(self) -> None:
        """The end of what is measured."""
        self.seconds = time.monotonic() - self._begin
        self.cpu = sum(map(cpu_seconds, self._family)) - self._before
        self.others = max(0.0, busy_seconds(STAT.read_text()) - self._busy - self.cpu) / self.seconds

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Drain and end it."""
        try:
            self._stop.set()
            self._sampler.join()
            if error is not None:
                return
            os.kill(self.pid, signal.SIGTERM)
            code = self._process.wait(_END_S)
            if code:
                raise BenchError(f"tracer export ended with {code}: {self._errors()}")
            self.ledger = _last_ledger(self.output)
        except subprocess.TimeoutExpired:
            raise BenchError(f"tracer export did not end within {_END_S} s of SIGTERM") from None
        finally:
            self._kill()


def _last_ledger(output: Path) -> dict[str, Any]:
    """The body of the last ledger in a directory: records of the chain come behind it. Raises BenchError."""
    for path in sorted(output.glob("events*.jsonl"), reverse=True):
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            for line in reversed(file.read().splitlines()):
                if b'"action":"tracer-ledger"' in line:
                    found: dict[str, Any] = json.loads(line)["tracer"]["ledger"]
                    if found["final"]:
                        return found
    raise BenchError("tracer export has left no final ledger")


class Arrived(NamedTuple):
    """What a collector has, beside what was written: lines, and how many of them are missing, changed or double."""

    written: int
    missing: int
    changed: int
    double: int

    @property
    def wrong(self) -> list[str]:
        """What is not as it should be."""
        named = (("missing", self.missing), ("changed", self.changed), ("twice", self.double))
        return [f"{count:,} lines {what} at the collector" for what, count in named if count]


def _numbered(path: Path) -> Iterator[tuple[int, int]]:
    """(number, a hash of the whole line) of each line; the number is -1 where a line has none."""
    with path.open("rb") as lines:
        for line in lines:
            told = line.partition(_NUMBER)[2][:20]
            digits = told[: len(told) - len(told.lstrip(b"0123456789"))]
            yield int(digits) if digits and line.endswith(b"}\n") else -1, hash(line) & 0xFFFFFFFFFFFFFFFF


def arrived(files: list[Path], collected: Path) -> Arrived:
    """Hold every line that was collected against those that were written. Raises OSError."""
    hashes = array("Q")
    written = 0
    for path in files:
        for number, digest in _numbered(path):
            if number >= len(hashes):
                hashes.extend([0] * (number + 1 - len(hashes) + 4096))
            hashes[number] = digest
            written += 1
    seen = bytearray(len(hashes))
    changed = double = 0
    for number, digest in _numbered(collected):
        if not 0 <= number < len(hashes) or hashes[number] != digest:
            changed += 1
        elif seen[number]:
            double += 1
        else:
            seen[number] = 1
    return Arrived(written, written - sum(seen), changed, double)


def _wait(collected: Path, wanted: int) -> None:
    """Until so many bytes were collected, or nothing more comes."""
    deadline = time.monotonic() + _ARRIVE_S
    size, since = -1, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() < since + _QUIET_S:
        now = collected.stat().st_size if collected.exists() else 0
        if now != size:
            size, since = now, time.monotonic()
        if size == wanted:
            since = min(since, time.monotonic() - _QUIET_S + _SAMPLE_S)  # a moment more, for what comes twice
        time.sleep(_SAMPLE_S / 5)


def feed(made: Path, exporter: Exporter, rate: int, seconds: float, fed: int = 0) -> tuple[int, float]:
    """Feed at a rate; how many events, and for how long. ``fed`` is how many there were before."""
    with maps_of(exporter.pid) as maps:
        feeder = Feeder(made, maps, fed // STEPS)
        try:
            took = feeder.feed(rate, seconds)
        finally:
            feeder.close()
    return feeder.processes * STEPS, took


def wrong_with(ledger: dict[str, Any], fed: int) -> list[str]:
    """What the ledger says of what was fed: all of it delivered, and nothing lost."""
    each = fed // len(KINDS)
    short = [
        f"{ledger['by_kind'][kind.label]['delivered']:,} {kind.label} delivered of {each:,}"
        for kind in KINDS
        if ledger["by_kind"][kind.label]["delivered"] < each
    ]
    return problems(ledger) + short


def _followed(directory: Path, made: Path, seconds: float) -> Iterator[str | Row]:
    output, place = directory / "exported", directory / "collector"
    output.mkdir()
    place.mkdir()
    try:
        with ExitStack() as stack:
            collector = stack.enter_context(following("rsyslog", output, place))
            with Exporter(output) as exporter:
                fed, took = feed(made, exporter, RATE, seconds)
                exporter.mark()
                yield f"{fed:,} events fed"
            files = sorted(output.glob("events-*.jsonl"))
            _wait(collector.output, sum(path.stat().st_size for path in files))
            found = arrived(files, collector.output)
    finally:
        shutil.rmtree(output)
        shutil.rmtree(place)
    wrong = wrong_with(exporter.ledger, fed) + found.wrong
    most = max(exporter.memory) / _MEBI
    yield Row(
        "events/s through rotation, rsyslog following",
        GROUP,
        Spread.of([fed / took]),
        form=",.0f",
        unit="/s",
        note=f"for {took:.0f} s; {'' if wrong else '0 lost; '}{found.written:,} lines in {len(files)} files, "
        f"{found.written - found.missing:,} of them at the collector{'' if found.wrong else ', each once and whole'}; "
        f"everything else kept {exporter.others:.1f} CPUs busy",
        wrong=wrong,
        facts={"fed": fed, "seconds": took, "arrived": found._asdict()},
    )
    yield Row(
        "CPU of the exporter, all its processes",
        GROUP,
        Spread.of([exporter.cpu / exporter.seconds * 100]),
        _CPU_BUDGET,
        form=".0f",
        unit=" % of a core",
        note=f"{exporter.cpu / fed * 1e6:.2f} µs an event",
    )
    quarters = [exporter.memory[len(exporter.memory) * part // 4] / _MEBI for part in (1, 2, 3)]
    yield Row(
        "PSS of the exporter at its highest, all its processes",
        GROUP,
        Spread.of([most]),
        _MEMORY_BUDGET,
        form=".1f",
        unit=" MiB",
        note=f"a quarter, half, three quarters through {', '.join(f'{size:.1f}' for size in quarters)}",
        facts={"samples": exporter.memory},
    )


@contextmanager
def _on_disk() -> Iterator[Path]:
    """A directory on a disk: on a tmpfs there is nothing to sync."""
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/var/tmp") as place:
        yield Path(place)


def _each(place: Path, made: Path, *arguments: str) -> tuple[float, list[str]]:
    """CPU time an event, in µs, with these options, and what was wrong."""
    output = place / "part"
    output.mkdir()
    try:
        with Exporter(output, *arguments) as exporter:
            fed, _ = feed(made, exporter, _PART_RATE, _PART_SECONDS)
            exporter.mark()
    finally:
        shutil.rmtree(output)
    wrong = [f"{' '.join(arguments)}: {told}" for told in wrong_with(exporter.ledger, fed)]
    return exporter.cpu / fed * 1e6, wrong


def parts(directory: Path, made: Path, pairs: int) -> Iterator[str | Row]:
    """What the chain and each way of syncing cost by themselves: pairs of runs, without and with it."""
    plain = ("--no-chain", "--fsync", "never")
    for name, where, options in (
        ("the chain, to tmpfs", directory, ("--fsync", "never")),
        ("fsync each second, to a disk", None, ("--no-chain", "--fsync", "second")),
        ("fsync after each batch, to a disk", None, ("--no-chain", "--fsync", "batch")),
    ):
        with _on_disk() as disk:
            without: list[float] = []
            with_it: list[float] = []
            wrong: list[str] = []
            for number in range(pairs):
                for taken, how in ((without, plain), (with_it, options)):
                    each, told = _each(where or disk, made, *how)
                    taken.append(each)
                    wrong += told
                yield f"{name}: pair {number + 1} of {pairs}"
        paired = Paired(without, with_it)
        more = Spread.of([each - base for base, each in zip(without, with_it, strict=True)])
        yield Row(
            f"CPU with {name}, with / without",
            GROUP,
            paired.ratios,
            unit="x",
            note=f"{Spread.of(without).median:.2f} µs an event at {_PART_RATE:,}/s without, {more.median:+.2f} with",
            wrong=wrong,
            facts={"without": without, "with": with_it},
        )


def _prepared(directory: Path, seconds: float) -> None:
    """Raises BenchError where there is no rsyslog, or no room for what is written and for what is collected."""
    if not (PLACE / "done").exists():
        raise BenchError("rsyslog is missing: make setup-tests")
    room = os.statvfs(directory)
    wanted = 2 * RATE * seconds * _LINE_BYTES
    if room.f_bavail * room.f_frsize < wanted:
        raise BenchError(f"less than {wanted / 1e9:.0f} GB free in {directory.parent}")


def export_rate(directory: Path, *, quick: bool) -> Iterator[str | Row]:
    """The rows of `tracer export`; yields a word after each run. One row says why where it can't be done."""
    seconds = QUICK_SECONDS if quick else SECONDS
    try:
        _prepared(directory, seconds)
        made = compiled(directory)
        yield from _followed(directory, made, seconds)
        yield from parts(directory, made, 1 if quick else 5)
    except (BenchError, BpfError) as failed:
        yield Row("fed through tracer export", GROUP, None, note=f"can't run here: {failed}")
