"""Which files a stream is in, and in what order: by what each begins with, not by its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tracer.integrity.chain import BEGIN
from tracer.integrity.fields import Facts, NoEventError, facts
from tracer.integrity.read import Lines, UnreadableError
from tracer.integrity.seals import Begin, SealError, begin_of

__all__ = ["Part", "arranged", "listed"]

_OPEN_MOST: Final = 256  # files at once: a process may mostly have 1,024
_NEWEST: Final = "events.jsonl"
_ROTATED: Final = re.compile(r"events-\d{20}\.jsonl(\.gz|\.zst)?|events\.jsonl[.-].+")  # the latter by logrotate


class Part(NamedTuple):
    """A file of the stream, its first line, and what that says of its segment; None where it can't be read.

    ``lines`` is the file itself, from its beginning on, where it is kept open.
    """

    path: Path
    size: int
    first: Facts | None
    begin: Begin | None
    empty: bool
    lines: Lines | None

    def open(self) -> Lines:
        """The file, which the caller closes. Raises UnreadableError."""
        return self.lines if self.lines is not None else Lines(self.path)


def listed(directory: Path) -> list[Path]:
    """What `tracer export` has written in a directory, oldest first by their names. Raises OSError."""
    names = sorted(entry.name for entry in directory.iterdir())
    found = [name for name in names if _ROTATED.fullmatch(name)]
    return [directory / name for name in [*found, *([_NEWEST] if _NEWEST in names else [])]]


def arranged(paths: Iterable[Path]) -> list[Part]:
    """The files in the order of the stream; as they were given, if that can't be read from them all.

    The last ones given are kept open: an exporter renames and compresses the newest files while older ones are read.
    """
    given = list(paths)
    parts = [_part(path, kept=number >= len(given) - _OPEN_MOST) for number, path in enumerate(given)]
    if all(part.begin is not None for part in parts):
        return sorted(parts, key=lambda part: -1 if part.begin is None else part.begin.number)
    if all(part.begin is None and (part.first is not None or part.empty) for part in parts):
        return _by_time(parts)
    return parts


def _by_time(parts: Sequence[Part]) -> list[Part]:
    """By the numbers of their first lines, those of one session together; sessions by the time of the first."""
    began: dict[str, str] = {}
    for part in parts:
        if part.first is not None:
            session, time = part.first.session, part.first.time
            began[session] = min(began.get(session, time), time)

    def key(part: Part) -> tuple[str, str, int]:
        if part.first is None:
            return "", "", 0
        return began[part.first.session], part.first.session, part.first.sequence

    return sorted(parts, key=key)


def _part(path: Path, *, kept: bool) -> Part:
    """A file; what is wrong with it is found again, and told, when it is read."""
    try:
        lines = Lines(path)
    except UnreadableError:
        return Part(path, 0, None, None, empty=False, lines=None)
    told, begin, empty = None, None, False
    try:
        line = next(iter(lines), None)
        if line is None:
            empty = not lines.torn
        else:
            told = facts(line)
            begin = begin_of(told.own) if told.action == BEGIN else None
    except (UnreadableError, NoEventError, SealError):
        told = None
    try:
        if kept:
            lines.rewind()
    except UnreadableError:
        kept = False
    if not kept:
        lines.close()
    return Part(path, lines.size, told, begin, empty, lines if kept else None)
