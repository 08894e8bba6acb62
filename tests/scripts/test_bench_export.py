"""The benchmark of `tracer export`: how it tells what a collector lacks, and whether memory grows; nothing is timed."""

from pathlib import Path
from typing import Any

import pytest

from scripts.bench.exported import Arrived, arrived, wrong_with
from scripts.bench.mix import KINDS
from scripts.bench.soak import grown

MEBI = 1 << 20


def line(number: int, what: str = "x") -> bytes:
    """A line with that number."""
    return b'{"event":{"action":"a","sequence":%d},"message":"%s"}\n' % (number, what.encode())


@pytest.fixture(name="files")
def _files(tmp_path: Path) -> list[Path]:
    """Seven lines in two files."""
    paths = [tmp_path / "events-0.jsonl", tmp_path / "events-1.jsonl"]
    paths[0].write_bytes(b"".join(map(line, range(4))))
    paths[1].write_bytes(b"".join(map(line, range(4, 7))))
    return paths


@pytest.mark.parametrize(
    ("collected", "expected"),
    [
        ([line(number) for number in (0, 4, 5, 6, 1, 2, 3)], Arrived(7, 0, 0, 0)),
        ([line(number) for number in range(6)], Arrived(7, 1, 0, 0)),
        ([line(number) for number in (*range(7), 3)], Arrived(7, 0, 0, 1)),
        ([*map(line, range(6)), line(6, "y")], Arrived(7, 1, 1, 0)),
        ([*map(line, range(6)), line(6)[:-9] + b"\n"], Arrived(7, 1, 1, 0)),
        ([*map(line, range(7)), line(7)], Arrived(7, 0, 1, 0)),
        ([*map(line, range(7)), b"-- MARK --\n"], Arrived(7, 0, 1, 0)),
        ([], Arrived(7, 7, 0, 0)),
    ],
    ids=["all", "missing", "twice", "changed", "cut", "another", "none of ours", "nothing"],
)
def test_lines_that_arrived(files: list[Path], tmp_path: Path, collected: list[bytes], expected: Arrived) -> None:
    """Each line is known by its number and by all of its bytes, in whatever order they come."""
    place = tmp_path / "collected"
    place.write_bytes(b"".join(collected))
    assert arrived(files, place) == expected
    assert bool(expected.wrong) == (expected != Arrived(7, 0, 0, 0))


def ledger(delivered: int) -> dict[str, Any]:
    """A ledger that is complete, with so many of each kind."""
    by_kind = {kind.label: {"delivered": delivered} for kind in KINDS}
    return {"by_kind": by_kind, "total": {"lost": 0}, "balanced": True, "complete": True, "missed": {}}


def test_every_event_fed_is_delivered() -> None:
    """Others' events may come on top; one that is missing of any kind is told."""
    assert wrong_with(ledger(11), 40) == []
    assert wrong_with(ledger(9), 40) == [f"9 {kind.label} delivered of 10" for kind in KINDS]


def test_memory_that_grows_is_found() -> None:
    """The last quarter is held against the second: neither what a start takes nor a moment's peak is growth."""
    flat = [10 * MEBI, 30 * MEBI, *[50 * MEBI] * 10]
    assert grown(flat) == (50, 50, 0)
    assert grown([*flat[:4], 90 * MEBI, *flat[5:]]) == (50, 50, 0)
    assert grown([MEBI * number for number in range(16)]) == (5.5, 13.5, 8)
    with pytest.raises(ValueError, match="tell nothing"):
        grown(flat[:7])
