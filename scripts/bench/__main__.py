"""Measures what tracing costs, and prints it beside its budgets: `python -m scripts.bench`, or `make bench`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from scripts.bench import exported, feeder, history, overhead, programs, rendering, report, soak, startup, throughput
from scripts.bench.crowd import Crowd
from scripts.bench.figures import Row
from scripts.bench.programs import BenchError, Programs

_SCRATCH: Final = Path("/dev/shm")  # noqa: S108 - a tmpfs is what the budgets are about
_ROOM: Final = 4 << 30  # bytes: the lines of a run, its recording, and some to spare


class _Settings(NamedTuple):
    programs: Programs
    directory: Path
    quick: bool


_Part = Callable[[_Settings], Iterable["str | Row"]]


def _workload(workload: overhead.Workload, settings: _Settings) -> Iterator[str | Row]:
    pairs = workload.quick_pairs if settings.quick else workload.pairs
    yield from overhead.measure(workload, settings.programs, settings.directory, pairs)


def _sandbox(settings: _Settings) -> Iterator[str | Row]:
    for workload in overhead.WORKLOADS:
        if workload.key in ("spawn", "connect"):
            pairs = workload.quick_pairs if settings.quick else workload.pairs
            yield from overhead.sandbox(workload, settings.programs, settings.directory, pairs)


def _others(settings: _Settings) -> Iterator[str | Row]:
    for workload in overhead.WORKLOADS:
        for other in overhead.others_for(workload):
            yield overhead.compare(
                other, workload, settings.programs, settings.directory, 1 if settings.quick else other.pairs
            )


def _memory(settings: _Settings) -> Iterator[str | Row]:
    yield from throughput.hour(settings.directory, throughput.QUICK_HOUR if settings.quick else throughput.HOUR)
    seconds = 360 if settings.quick else 3_600
    for connections in (0, 40_009):
        yield from throughput.crowd(settings.directory, Crowd(seconds * 278, connections, seconds))
    yield from startup.memory(settings.directory)


_PARTS: Final[dict[str, _Part]] = {
    **{workload.key: partial(_workload, workload) for workload in overhead.WORKLOADS},
    "sandbox": _sandbox,
    "others": _others,
    "replay": lambda settings: throughput.rate(settings.directory, 3 if settings.quick else 7),
    "render": lambda settings: rendering.render(settings.directory, 5 if settings.quick else 15),
    "live": lambda settings: feeder.live_rate(
        settings.directory, feeder.RATES[-1:] if settings.quick else feeder.RATES
    ),
    "export": lambda settings: exported.export_rate(settings.directory, quick=settings.quick),
    "soak": lambda settings: soak.soak(settings.directory, quick=settings.quick),
    "past": lambda settings: history.look_back(settings.directory, 2 if settings.quick else 5),
    "memory": _memory,
    "start": lambda settings: startup.first_event(5 if settings.quick else 11),
    "idle": lambda settings: [startup.idle(settings.directory, 3 if settings.quick else 10)],
}


class _Progress:
    """One line on a terminal that says what is being measured; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._begin = time.monotonic()

    def say(self, words: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{time.monotonic() - self._begin:4.0f} s  {words}")
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _measure(wanted: Sequence[str], settings: _Settings, progress: _Progress) -> list[Row]:
    rows = []
    for name in wanted:
        progress.say(name)
        try:
            for found in _PARTS[name](settings):
                if isinstance(found, Row):
                    rows.append(found)
                    progress.say(f"{name}: {found.name}")
                else:
                    progress.say(f"{name}: {found}")
        except BenchError as failed:
            rows.append(Row(name, "failed", None, wrong=[str(failed)]))
    progress.clear()
    return rows


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs: three minutes at most instead of twelve")
    parser.add_argument("--only", action="append", choices=list(_PARTS), metavar="NAME", help=f"of {', '.join(_PARTS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    parser.add_argument("--markdown", action="store_true", help="print the section of the README instead of the table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; 0 when every budget holds and no event was lost or miscounted, 1 when not or when it can't be done."""
    options = _arguments(arguments)
    if os.geteuid() != 0:
        print("bench: the tracer and the other tools need root: run it with sudo", file=sys.stderr)
        return 1
    room = os.statvfs(_SCRATCH)
    if room.f_bavail * room.f_frsize < _ROOM:
        print(f"bench: less than {_ROOM >> 30} GiB free in {_SCRATCH}: make room there", file=sys.stderr)
        return 1
    facts = report.machine()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-", dir=_SCRATCH) as directory:
            settings = _Settings(programs.build(Path(directory)), Path(directory), options.quick)
            rows = _measure(options.only or list(_PARTS), settings, _Progress())
    except (BenchError, OSError) as failed:
        print(f"bench: {failed}", file=sys.stderr)
        return 1
    print(report.markdown(rows, facts) if options.markdown else report.text(rows, facts))
    if options.json is not None:
        options.json.write_text(json.dumps(report.as_json(rows, facts), indent=1) + "\n")
    return 0 if all(row.verdict in ("", "ok") for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
