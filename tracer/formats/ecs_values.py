"""The small values that ECS lines are made of: times, texts, errno and signal names, and bytes kept as they were."""

from __future__ import annotations

import time
from base64 import b64encode
from functools import lru_cache
from signal import SIGRTMAX, SIGRTMIN, Signals
from typing import Any

__all__ = ["joined", "keep_raw", "signal_name", "stamp", "text"]


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def stamp(ns: int) -> str:
    """A wall-clock time in ns since 1970 as RFC 3339 in UTC."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest:09d}Z"


def text(raw: bytes) -> str:
    """The bytes as UTF-8, what isn't as backslash escapes."""
    return raw.decode(errors="backslashreplace")


def keep_raw(tracer: dict[str, Any], name: str, raw: bytes) -> None:
    """Put bytes that are not UTF-8 beside the field that shows them with escapes: base64 under tracer.raw."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        tracer.setdefault("raw", {})[name] = b64encode(raw).decode()


def signal_name(number: int) -> str:
    """The name of a signal; real-time signals by their distance from the first."""
    if SIGRTMIN < number <= SIGRTMAX:
        return f"SIGRTMIN+{number - SIGRTMIN}"
    try:
        return Signals(number).name
    except ValueError:
        return str(number)


def joined(one: bytes, other: bytes) -> bytes:
    """Two JSON objects as one that has the members of both; neither is empty."""
    return one[:-1] + b"," + other[1:]
