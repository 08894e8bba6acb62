"""An hour of events in minutes: whether memory stays where it is, of a replay and of `tracer export` in service.

The replay has the hour in its records, so everything that is kept for a time is kept and forgotten as in an hour. The
exporter takes as many events through its own rings in a fraction of the time, which keeps more at once, and rotates,
chains, compresses, deletes and is sent SIGHUP meanwhile.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final

from scripts.bench.exported import Exporter, feed, wrong_with
from scripts.bench.feeder import compiled
from scripts.bench.figures import Row, Spread
from scripts.bench.mix import Mix, make
from scripts.bench.programs import BenchError
from scripts.bench.throughput import HOUR, replay
from scripts.bench.throughput import wrong_with as wrong_with_mix
from tracer.probes.libbpf_binding import BpfError

__all__ = ["GROUP", "grown", "soak"]

GROUP: Final = "an hour's soak: as many events as 278 a second make in an hour, and what memory does meanwhile"
QUICK: Final = Mix(100_000, 28)
_RATE: Final = 12_000  # events/s of what is fed: 86 s for the hour
_HANG_UPS: Final = 10
_GROWN_MOST: Final = 1.0  # MiB
_MEBI: Final = 1 << 20
_FILES: Final = ("--rotate-size", "4M", "--keep", "4", "--compress", "gzip", "--fsync", "second")


def grown(samples: Sequence[int]) -> tuple[float, float, float]:
    """Of samples in bytes, in MiB: the median of the second quarter and of the last, and by how much that is more.

    What a stall takes for a moment is in neither; what it leaves for good is. Raises ValueError for fewer than eight
    samples: they tell nothing.
    """
    if len(samples) < 8:
        raise ValueError(f"{len(samples)} samples tell nothing")
    quarter = len(samples) // 4
    before, after = median(samples[quarter : 2 * quarter]) / _MEBI, median(samples[-quarter:]) / _MEBI
    return before, after, after - before


def _row(what: str, samples: Sequence[int], note: str, wrong: list[str]) -> Row:
    before, after, more = grown(samples)
    return Row(
        f"PSS grown from the 2nd to the last quarter, {what}",
        GROUP,
        Spread.of([more]),
        _GROWN_MOST,
        form=".2f",
        unit=" MiB",
        note=f"{before:.1f} MiB, then {after:.1f}, at most {max(samples) / _MEBI:.1f}; {note}",
        wrong=wrong,
        facts={"samples": list(samples)},
    )


def _replayed(directory: Path, mix: Mix) -> Iterator[str | Row]:
    recording, output = make(mix, directory / "soak"), directory / "soak.ndjson"
    yield "recording made"
    took = replay(recording, output, watch=True)
    wrong = wrong_with_mix(output, mix)
    recording.unlink()
    output.unlink()
    note = f"{'' if wrong else '0 lost; '}{mix.events:,} events, an hour of record time in {took.seconds:.0f} s"
    yield _row("replayed", took.memory, note, wrong)


def _exported(directory: Path, mix: Mix) -> Iterator[str | Row]:
    made = compiled(directory)
    output = directory / "soaked"
    output.mkdir()
    total, seconds = 0, 0.0
    try:
        with Exporter(output, *_FILES) as exporter:
            for _ in range(_HANG_UPS):
                fed, took = feed(made, exporter, _RATE, mix.events / _RATE / _HANG_UPS, total)
                total, seconds = total + fed, seconds + took
                os.kill(exporter.pid, signal.SIGHUP)
                yield f"{total:,} events fed"
            exporter.mark()
        count = len(list(output.iterdir()))
    finally:
        shutil.rmtree(output)
    wrong = wrong_with(exporter.ledger, total)
    note = (
        f"{'' if wrong else '0 lost; '}{total:,} events in {seconds:.0f} s through rotation at 4 MiB, chain, gzip "
        f"and {_HANG_UPS} SIGHUPs; {count} files were left; all processes of the exporter"
    )
    yield _row("tracer export", exporter.memory, note, wrong)


def soak(directory: Path, *, quick: bool) -> Iterator[str | Row]:
    """A row of the replay, and one of the exporter; yields a word now and then. Raises BenchError."""
    mix = QUICK if quick else HOUR
    yield from _replayed(directory, mix)
    try:
        yield from _exported(directory, mix)
    except (BenchError, BpfError) as failed:
        yield Row("tracer export", GROUP, None, note=f"can't run here: {failed}")
