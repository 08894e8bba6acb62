"""What the Python side handles: recordings of the reference mix replayed on one core, into a file on tmpfs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from scripts.bench.crowd import Crowd, make_crowd
from scripts.bench.figures import Row, Spread
from scripts.bench.mix import KINDS, Mix, make
from scripts.bench.overhead import mistakes
from scripts.bench.programs import BenchError
from scripts.bench.session import ledger_of, problems

__all__ = ["Replayed", "crowd", "hour", "pss", "rate", "replay", "wrong_with"]

RATE_GROUP: Final = "the Python side: the reference mix replayed on one core, to tmpfs"
MEMORY_GROUP: Final = "memory"
RATE: Final = Mix(400_000, 200_000)
HOUR: Final = Mix(1_000_000, 278)
QUICK_HOUR: Final = Mix(250_000, 69)
BUDGET: Final = 200_000
_WITHIN_S: Final = 300
_SAMPLE_S: Final = 0.05


class Replayed(NamedTuple):
    """One replay: seconds, CPU seconds of the process, and its PSS over time (bytes; only where asked for)."""

    seconds: float
    cpu: float
    memory: list[int]


def core() -> int:
    """The core to use alone: the last of those allowed, since interrupts tend to go to the first."""
    return max(os.sched_getaffinity(0))


def pss(pid: int) -> int:
    """The memory of a process, shared pages by halves, in bytes; 0 when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def replay(recording: Path, output: Path, *, watch: bool = False) -> Replayed:
    """Replay a recording as ECS on one core; with ``watch`` its memory is sampled meanwhile. Raises BenchError."""
    command = ["taskset", "-c", str(core()), sys.executable, "-m", "tracer", "replay", str(recording), "--json"]
    command += ["--output", str(output), "--fail-on-loss"]
    memory: list[int] = []
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while watch and process.returncode is None:
        size = pss(process.pid)
        if size:
            memory.append(size)
        if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            break
        if time.perf_counter() - begin > _WITHIN_S:
            process.kill()
            break
        time.sleep(_SAMPLE_S)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - begin
    process.returncode = code = os.waitstatus_to_exitcode(status)
    with process:
        said = process.stderr.read() if process.stderr is not None else ""
    if code:
        raise BenchError(f"the replay ended with {code}: {said.strip()[-400:]}")
    return Replayed(seconds, used.ru_utime + used.ru_stime, memory)


def wrong_with(output: Path, mix: Mix) -> list[str]:
    """How the ledger of a replayed mix differs from what was recorded."""
    ledger = ledger_of(output)
    delivered = {kind.label: ledger["by_kind"][kind.label]["delivered"] for kind in KINDS}
    return problems(ledger) + mistakes({kind.label: mix.events // len(KINDS) for kind in KINDS}, delivered)


def rate(directory: Path, runs: int) -> Iterator[str | Row]:
    """Events a second, start-up taken off; yields a word after each run, and the rows in the end. Raises BenchError."""
    recording, empty = make(RATE, directory / "mix"), make(Mix(0, RATE.rate), directory / "nothing")
    output = directory / "replayed.ndjson"
    yield "recordings made"
    replay(empty, output)
    by_cpu, by_clock, whole, shares = [], [], [], []
    wrong: set[str] = set()
    size = 0
    for number in range(runs):
        start = replay(empty, output)
        took = replay(recording, output)
        wrong |= set(wrong_with(output, RATE))
        size = output.stat().st_size
        by_cpu.append(RATE.events / (took.cpu - start.cpu))
        by_clock.append(RATE.events / (took.seconds - start.seconds))
        whole.append(RATE.events / took.cpu)
        shares.append(took.cpu / took.seconds)
        output.unlink()
        yield f"run {number + 1} of {runs}"
    recording.unlink()
    share, each = Spread.of(shares).median, 1e6 / Spread.of(by_cpu).median
    line = size / RATE.events
    yield Row(
        "events/s, by its CPU time",
        RATE_GROUP,
        Spread.of(by_cpu),
        BUDGET,
        at_least=True,
        form=",.0f",
        note="; ".join(
            [
                *([] if wrong else ["0 lost"]),
                f"start-up taken off, {Spread.of(whole).median:,.0f} with it",
                f"{each:.2f} µs each, lines of {line:,.0f} bytes on average",
                f"{share:.0%} of the core",
            ]
        ),
        wrong=sorted(wrong),
        facts={"events": RATE.events, "bytes_per_line": line, "with_start_up": whole, "cpu_share": shares},
    )
    yield Row("events/s, by the clock", RATE_GROUP, Spread.of(by_clock), form=",.0f", note="start-up taken off")


def hour(directory: Path, mix: Mix) -> Iterator[str | Row]:
    """PSS while an hour of record time is replayed: at its end and at its highest. Raises BenchError."""
    recording, output = make(mix, directory / "hour"), directory / "hour.ndjson"
    yield "recording made"
    took = replay(recording, output, watch=True)
    wrong = wrong_with(output, mix)
    recording.unlink()
    output.unlink()
    end, most = took.memory[-1] / (1 << 20), max(took.memory) / (1 << 20)
    quarters = [took.memory[len(took.memory) * part // 4] / (1 << 20) for part in (1, 2, 3)]
    yield Row(
        "PSS at its highest, an hour replayed",
        MEMORY_GROUP,
        Spread.of([most]),
        45,
        form=".1f",
        unit=" MiB",
        note=f"{'' if wrong else '0 lost; '}{mix.events:,} events at {mix.rate}/s of record time; "
        f"a quarter, half, three quarters through {', '.join(f'{size:.1f}' for size in quarters)}, last {end:.1f}",
        wrong=wrong,
        facts={"samples": took.memory},
    )


def crowd(directory: Path, many: Crowd) -> Iterator[str | Row]:
    """PSS while many flows come and go, and many connections stay open. Raises BenchError."""
    recording, output = directory / "crowd", directory / "crowd.ndjson"
    moved = make_crowd(many, recording)
    yield "recording made"
    took = replay(recording, output, watch=True)
    ledger = ledger_of(output)
    wrong = [*problems(ledger), *([] if ledger["bytes"]["flows"] == moved else ["not all bytes are told"])]
    recording.unlink()
    output.unlink()
    yield Row(
        "PSS at its highest, many flows",
        MEMORY_GROUP,
        Spread.of([max(took.memory) / (1 << 20)]),
        64 if not many.connections else None,
        form=".1f",
        unit=" MiB",
        note=f"{many.flows:,} flows in {many.seconds:,} s of record time, {many.connections:,} connections open",
        wrong=wrong,
        facts={"samples": took.memory},
    )
