"""Read what people type of how files are kept, on the command line or in a file of settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tracer.cli import options
from tracer.cli.errors import CommandError, Exit
from tracer.cli.keeping import Limits
from tracer.sinks.durable import Fsync
from tracer.sinks.place import Packing

__all__ = ["fsync", "limits"]

_SIZE_LEAST: Final = 64 << 10
_KEEP_MOST: Final = 1_000_000


def limits(typed: Mapping[str, Any]) -> Limits:
    """When files are done, and what becomes of them. Raises CommandError."""
    size, age = typed["rotate_size"], typed["rotate_age"]
    return Limits(
        size=0 if size == "0" else options.size("--rotate-size", size, _SIZE_LEAST, 1 << 40),
        age=0.0 if age == "0" else options.duration("--rotate-age", age),
        keep=_keep(typed["keep"]),
        compress=_compress(typed["compress"]),
    )


def fsync(text: str) -> Fsync:
    """When what was written is synced. Raises CommandError."""
    if text not in list(Fsync):
        raise CommandError(f"--fsync {text!r}: give one of {', '.join(Fsync)}", Exit.USAGE)
    return Fsync(text)


def _keep(text: str) -> int:
    if not text.isdecimal() or int(text[:10]) > _KEEP_MOST:
        raise CommandError(f"--keep {text!r}: give a number of files up to {_KEEP_MOST:,}, 0 for all", Exit.USAGE)
    return int(text)


def _compress(text: str) -> Packing:
    if text not in list(Packing):
        raise CommandError(f"--compress {text!r}: give one of {', '.join(Packing)}", Exit.USAGE)
    return Packing(text)
