"""Find out where an earlier run has stopped, from the files that it left: what comes next, and how it ended."""

from __future__ import annotations

import errno
import os
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from tracer.integrity.read import Lines, UnreadableError
from tracer.sinks.place import PACKED, number_of

__all__ = ["Left", "look"]

_LINE_MOST: Final = 64 << 10  # twice what a line has at most
_TAIL_MOST: Final = 4 * _LINE_MOST
_AT_THE_END: Final = 8  # lines of a compressed file that are looked at
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


def look(path: Path | None, done: list[Path]) -> Left:
    """What was left in the file ``path``, or if that has no line in the newest of ``done``, which sort by age.

    What is no line of ours there has been one, so that later files are called by higher numbers than that one. Raises
    OSError when a file is there and can't be read.
    """
    left = None if path is None else _look(path)
    if left is not None:
        return left
    least = 0
    for each in reversed(done):
        left = _look(each)
        if left is not None:
            return left._replace(first=None, following=max(left.following, least))
        if _has_lines(each):
            least = max(least, number_of(each) + 1)
    return Left(least)


def _has_lines(path: Path) -> bool:
    """Whether there is a whole line, or what can't be read."""
    if path.suffix in PACKED:
        return True
    with path.open("rb") as file:
        return file.readline(_LINE_MOST).endswith(b"\n")


def _look(path: Path) -> Left | None:
    """None if the file is not there, or has no line of ours."""
    try:
        first, lines = _ends_packed(path) if path.suffix in PACKED else (_first(path), _last(path))
    except FileNotFoundError:
        return None
    known = [document for line in lines if (document := _document(line)) is not None]
    if not known:
        return None
    newest = max(_sequence(document) for document in known)
    ended = any(_tracer(document).get("ledger", {}).get("final") is True for document in known[-_ENDING:])
    boot = known[-1].get("host", {}).get("boot", {}).get("id") or known[-1].get("device", {}).get("boot_uid", "")
    return Left(newest + 1, first if first is not None else newest + 1, _time(known[-1]), ended, boot)


def _last(path: Path) -> list[bytes]:
    """The last whole lines of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _TAIL_MOST))
        data = file.read(_TAIL_MOST)
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    return lines[1:] if size > _TAIL_MOST else lines


def _ends_packed(path: Path) -> tuple[int | None, list[bytes]]:
    """The number of the first line of a compressed file, and its last lines; none of one that is damaged.

    Raises FileNotFoundError; OSError where there is nothing that unpacks it.
    """
    try:
        lines = Lines(path)
    except UnreadableError as refused:
        raise FileNotFoundError(str(refused)) from refused
    try:
        every = iter(lines)
        first = next(every, b"")
        return _number(first), list(deque((first, *every), _AT_THE_END))
    except UnreadableError as odd:
        if isinstance(odd.__cause__, ImportError):
            raise OSError(errno.ENOPKG, f"{path.name} {odd}") from odd
        return None, []
    finally:
        lines.close()


def _first(path: Path) -> int | None:
    with path.open("rb") as file:
        return _number(file.readline(_LINE_MOST))


def _number(line: bytes) -> int | None:
    document = _document(line)
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
