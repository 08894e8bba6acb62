"""A live session by itself: how soon it tells of the first event, what it takes while idle, and its memory."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from scripts.bench.figures import Row, Spread
from scripts.bench.programs import BenchError
from scripts.bench.session import Tracer
from scripts.bench.throughput import MEMORY_GROUP, pss

__all__ = ["family", "first_event", "idle", "is_event", "map_ids", "map_memory", "memory"]

GROUP: Final = "a session by itself"
BUDGET_MS: Final = 250
IDLE_S: Final = 10
_WITHIN_S: Final = 30
_IMPORTS: Final = "import tracer.cli.main, tracer.cli.live"


def is_event(line: bytes) -> bool:
    """Whether an ECS line tells of a process or socket, not of the tracer itself."""
    action = line.partition(b'"action":"')[2]
    return bool(action) and not action.startswith(b"tracer-")


def _first_event_ms(*options: str) -> float:
    """From before the exec of `tracer live` until the first event is read from its stdout, ms."""
    command = [sys.executable, "-m", "tracer", "live", "--json", *options]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as live:
        assert live.stdout is not None
        data = b""
        try:
            while True:
                if not select.select([live.stdout], [], [], _WITHIN_S)[0]:
                    raise BenchError(f"no event within {_WITHIN_S} s of the start")
                chunk = os.read(live.stdout.fileno(), 1 << 20)
                took = (time.perf_counter() - begin) * 1e3
                data += chunk
                if any(is_event(line) for line in data.split(b"\n")[:-1]):
                    return took
                if not chunk:
                    raise BenchError("it ended before the first event")
        finally:
            live.send_signal(signal.SIGTERM)
            live.stdout.close()  # it may be writing: a closed pipe is a normal end


def _imports_ms() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
    return (time.perf_counter() - begin) * 1e3


def first_event(runs: int) -> Iterator[str | Row]:
    """The time to the first event; yields a word after each run, and the row in the end. Raises BenchError."""
    _first_event_ms()
    _imports_ms()
    starts, imports, unconfined = [], [], []
    for number in range(runs):
        starts.append(_first_event_ms())
        unconfined.append(_first_event_ms("--no-sandbox"))
        imports.append(_imports_ms())
        yield f"start {number + 1} of {runs}"
    part = Spread.of(imports).median
    yield Row(
        "start to first event",
        GROUP,
        Spread.of(starts),
        BUDGET_MS,
        form=".0f",
        unit=" ms",
        note=f"of it {part:.0f} ms for the interpreter and its imports",
        facts={"starts_ms": starts, "imports_ms": imports},
    )
    yield Row("the same without the sandbox", GROUP, Spread.of(unconfined), form=".0f", unit=" ms")


def idle(directory: Path, seconds: float) -> Row:
    """CPU share while the benchmark does nothing. Raises BenchError."""
    output = directory / "idle.ndjson"
    with Tracer(output) as tracer:
        before = output.stat().st_size
        time.sleep(seconds)
        grown = output.stat().st_size - before
        tracer.mark()
    delivered = tracer.ledger["total"]["delivered"]
    output.unlink()
    return Row(
        "CPU share while idle",
        GROUP,
        Spread.of([tracer.cpu / tracer.seconds * 100]),
        form=".2f",
        unit=" %",
        note=f"of one CPU over {seconds:.0f} s; others made {grown / 1000:,.0f} kB of lines meanwhile",
        facts={"delivered": delivered},
    )


def map_memory(fdinfos: list[str]) -> dict[int, int]:
    """What the BPF maps among a process's descriptors take: bytes by map id, each map once however often it is open."""
    found = {}
    for text in fdinfos:
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if "map_id" in facts and "memlock" in facts:
            found[int(facts["map_id"])] = int(facts["memlock"])
    return found


def map_ids(pid: int) -> list[int]:
    """The ids of the BPF maps that a process holds. Raises OSError."""
    return sorted(map_memory(_fdinfos(pid)))


def _fdinfos(pid: int) -> list[str]:
    found = []
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed, as a file is that was rotated
            found.append(entry.read_text())
    return found


def _coverage(output: Path) -> dict[str, Any]:
    with output.open("rb") as lines:
        found: dict[str, Any] = json.loads(next(lines))["tracer"]["coverage"]
    return found


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    found = [pid]
    for each in found:
        for task in Path(f"/proc/{each}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory(directory: Path) -> list[Row]:
    """PSS of a live session, and beside it what its maps and rings take in the kernel. Raises BenchError."""
    output = directory / "live.ndjson"
    with Tracer(output) as tracer:
        processes = family(tracer.pid)
        size = sum(map(pss, processes))
        maps = map_memory(_fdinfos(tracer.pid))
        tracer.mark()
    rings = _coverage(output)["buffer"]
    output.unlink()
    mebi = 1 << 20
    told = " and ".join(f"{name} {size / mebi:.0f}" for name, size in rings.items())
    return [
        Row(
            "PSS of a live session, just started",
            MEMORY_GROUP,
            Spread.of([size / mebi]),
            form=".1f",
            unit=" MiB",
            note=f"{len(processes)} process(es)",
        ),
        Row(
            "BPF maps, in the kernel",
            MEMORY_GROUP,
            Spread.of([sum(maps.values()) / mebi]),
            form=".1f",
            unit=" MiB",
            note=f"{len(maps)} maps, the most they can take",
            facts={"by_id": maps},
        ),
        Row(
            "rings, in the kernel",
            MEMORY_GROUP,
            Spread.of([sum(rings.values()) / mebi]),
            form=".1f",
            unit=" MiB",
            note=f"{told} MiB over all CPUs (--buffer)",
        ),
    ]
