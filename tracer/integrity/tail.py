"""Find where a chain ends on disk, so that the next session goes on behind it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from tracer.integrity.chain import BEGIN, END, Tail
from tracer.integrity.fields import NoEventError, facts
from tracer.integrity.read import Lines, UnreadableError

__all__ = ["tail_of"]

_BEGINS: Final = f'"{BEGIN}"'.encode()


def tail_of(path: Path) -> Tail | None:
    """The end of the newest segment, which nobody writes any more; None for an empty file, or one without a chain.

    It reads all of the file once, so call it before anything has to be quick. Raises UnreadableError, also for a line
    that is no event: such a file is no end that anything could go on behind.
    """
    lines = Lines(path)
    try:
        return _tail(lines)
    finally:
        lines.close()


def _tail(lines: Lines) -> Tail | None:
    digest = hashlib.sha256()
    begun: tuple[str, int] | None = None
    base, newest = 0, b""
    for line in lines:
        # Every line is looked at for the word alone: to read them all would take much longer.
        if (begun is None or _BEGINS in line) and (found := _begun(line)) is not None:
            begun, base, digest = found, lines.offset, hashlib.sha256()
        if begun is None:
            return None
        digest.update(line + b"\n")
        newest = line
    if begun is None:
        return None
    digest.update(lines.torn)
    try:
        last = facts(newest)
    except NoEventError as odd:
        raise UnreadableError(f"its last line can't be read: {odd}") from odd
    size = lines.offset - base + len(lines.torn)
    return Tail(*begun, digest.hexdigest(), size, last.action == END, len(lines.torn), last.sequence)


def _begun(line: bytes) -> tuple[str, int] | None:
    """The chain and the number of the segment that this line begins."""
    try:
        told = facts(line)
        chain, number = told.own["segment"]["chain"], told.own["segment"]["number"]
    except (NoEventError, KeyError, TypeError):
        return None
    if told.action != BEGIN or type(chain) is not str or type(number) is not int:
        return None
    return chain, number
