"""Find out where an earlier run has stopped, from the files that it left: what comes next, and how it ended."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

__all__ = ["Left", "look"]

_LINE_MOST: Final = 64 << 10  # twice what a line has at most
_TAIL_MOST: Final = 4 * _LINE_MOST
_ENDING: Final = 2  # lines: behind the last ledger there may be a record that ends the file
_SECOND_NS: Final = 1_000_000_000
_DIGITS: Final = 9  # of a second


class Left(NamedTuple):
    """What an earlier run has left.

    ``following`` is the number of the next line, ``first`` that of the first line of the file that was written last
    (None: there is none with a line). ``time`` is that of the last whole line, ns of the wall clock, 0 if it can't be
    read; ``ended``: it was the last ledger, so nothing was lost at the end; ``boot``: the id of the boot it was in.
    """

    following: int = 0
    first: int | None = None
    time: int = 0
    ended: bool = False
    boot: str = ""


def look(path: Path, done: list[Path]) -> Left:
    """What was left in the file ``path``, or if that has no line in the newest of ``done``, which sort by age.

    Raises OSError when a file is there and can't be read.
    """
    left = _look(path)
    if left is not None:
        return left
    for each in reversed(done):
        left = _look(each)
        if left is not None:
            return left._replace(first=None)
    return Left()


def _look(path: Path) -> Left | None:
    """None if the file is not there, or has no line of ours."""
    try:
        lines = list(_last_packed(path) if path.suffix == ".gz" else _last(path))
        first = _first(path)
    except (FileNotFoundError, EOFError, gzip.BadGzipFile, zlib.error):
        return None
    known = [document for line in lines if (document := _document(line)) is not None]
    if not known:
        return None
    newest = max(_sequence(document) for document in known)
    ended = any(_tracer(document).get("ledger", {}).get("final") is True for document in known[-_ENDING:])
    boot = known[-1].get("host", {}).get("boot", {}).get("id") or known[-1].get("device", {}).get("boot_uid", "")
    return Left(newest + 1, first if first is not None else newest + 1, _time(known[-1]), ended, boot)


def _last(path: Path) -> Iterator[bytes]:
    """The last whole lines of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_MOST))
        data = file.read(_TAIL_MOST)
    yield from _whole(data, size > _TAIL_MOST)


def _last_packed(path: Path) -> Iterator[bytes]:
    data = b""
    with gzip.open(path) as file:
        while chunk := file.read(_TAIL_MOST):
            data = (data + chunk)[-_TAIL_MOST:]
    yield from _whole(data, len(data) == _TAIL_MOST)


def _whole(data: bytes, cut: bool) -> list[bytes]:
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return lines[1:] if cut else lines


def _first(path: Path) -> int | None:
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        document = _document(file.readline(_LINE_MOST))
    return None if document is None else _sequence(document)


def _document(line: bytes) -> dict[str, Any] | None:
    """A line that is an event with a number, in whichever format."""
    try:
        document = orjson.loads(line)
        _sequence(document)
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
        return None
    return dict(document)


def _sequence(document: dict[str, Any]) -> int:
    return int(document["event"]["sequence"] if "event" in document else document["metadata"]["sequence"])


def _tracer(document: dict[str, Any]) -> dict[str, Any]:
    found = document.get("tracer") or document.get("unmapped", {}).get("tracer") or {}
    return dict(found)


def _time(document: dict[str, Any]) -> int:
    """Nanoseconds of the wall clock."""
    stamp = str(document.get("@timestamp") or document.get("time_dt") or "")
    try:
        whole = datetime.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        return int(whole.timestamp()) * _SECOND_NS + int(stamp[20:].rstrip("Z").ljust(_DIGITS, "0"))
    except ValueError:
        return 0
