"""Find where a chain ends on disk, so that the next session goes on behind it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tracer.integrity.chain import BEGIN, END, Tail
from tracer.integrity.fields import NoEventError, facts
from tracer.integrity.read import Lines, UnreadableError

__all__ = ["tail_of"]


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
    chain, number, newest = "", 0, b""
    for line in lines:
        if not newest:
            try:
                segment = facts(line).own["segment"]
                chain, number = segment["chain"], segment["number"]
            except (NoEventError, KeyError, TypeError):
                return None
            if type(chain) is not str or type(number) is not int or facts(line).action != BEGIN:
                return None
        digest.update(line + b"\n")
        newest = line
    if not newest:
        return None
    digest.update(lines.torn)
    try:
        last = facts(newest)
    except NoEventError as odd:
        raise UnreadableError(f"its last line can't be read: {odd}") from odd
    size = lines.offset + len(lines.torn)
    return Tail(chain, number, digest.hexdigest(), size, last.action == END, len(lines.torn), last.sequence)
