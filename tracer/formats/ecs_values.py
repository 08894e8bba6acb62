"""The small values that ECS lines are made of: times, JSON texts, signal names, and bytes kept as they were."""

from __future__ import annotations

import time
from base64 import b64encode
from functools import lru_cache
from signal import SIGRTMAX, SIGRTMIN, Signals
from typing import Any, Final

import orjson

from tracer.model import QUALITIES

__all__ = ["MARKS", "dumps", "keep_raw", "members", "quality", "quoted", "second_of", "signal_name", "stamp", "text"]

MARKS: Final = int(sum(QUALITIES))  # the flags of which quality() tells

_QUOTED_MOST: Final = 8192  # texts kept as JSON; commands, paths and names come again and again
_QUOTED_TEXT_MOST: Final = 256  # bytes of a text that is kept: long ones seldom come again
_quoted: dict[bytes, str] = {}


class _Second:
    """The second that was written last: the next time is mostly in it too."""

    __slots__ = ("begin", "text")

    def __init__(self) -> None:
        self.begin = 0
        self.text = "1970-01-01T00:00:00."


_second = _Second()


def second_of(ns: int) -> tuple[int, str]:
    """The second that a wall-clock time (ns since 1970) is in: when it began, and how it is told up to its dot."""
    if not 0 <= ns - _second.begin < 1_000_000_000:
        seconds = ns // 1_000_000_000
        _second.begin = seconds * 1_000_000_000
        _second.text = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(seconds))
    return _second.begin, _second.text


def stamp(ns: int) -> str:
    """A wall-clock time in ns since 1970 as RFC 3339 in UTC."""
    rest = ns - _second.begin
    if not 0 <= rest < 1_000_000_000:
        rest = ns - second_of(ns)[0]
    return f"{_second.text}{str(rest).zfill(9)}Z"  # quicker than a format that pads


def text(raw: bytes) -> str:
    """The bytes as UTF-8, what isn't as backslash escapes."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")


def dumps(value: Any) -> str:
    """JSON. A text that UTF-8 can't carry (a lone surrogate) can't come from text()."""
    return orjson.dumps(value).decode()


def quoted(raw: bytes) -> str:
    """The bytes as a JSON string; kept, so for texts that come often."""
    found = _quoted.get(raw)
    if found is None:
        found = orjson.dumps(text(raw)).decode()
        if len(raw) <= _QUOTED_TEXT_MOST:
            if len(_quoted) >= _QUOTED_MOST:
                _quoted.clear()
            _quoted[raw] = found
    return found


def members(found: dict[str, Any]) -> str:
    """The members of a JSON object without its braces, behind a comma; nothing for an empty one."""
    return "," + orjson.dumps(found).decode()[1:-1] if found else ""


def keep_raw(raw_fields: dict[str, str], name: str, raw: bytes) -> None:
    """Keep bytes that are not UTF-8, in base64, beside the field that shows them with escapes."""
    if raw.isascii():
        return
    try:
        raw.decode()
    except UnicodeDecodeError:
        raw_fields[name] = b64encode(raw).decode()


@lru_cache(64)
def quality(flags: int) -> str:
    """The member of ``tracer`` that tells what of a record is not exact or not known, behind a comma."""
    return members({"quality": [name for flag, name in QUALITIES.items() if flags & flag]}) if flags & MARKS else ""


@lru_cache(128)
def signal_name(number: int) -> str:
    """The name of a signal; real-time signals by their distance from the first."""
    if SIGRTMIN < number <= SIGRTMAX:
        return f"SIGRTMIN+{number - SIGRTMIN}"
    try:
        return Signals(number).name
    except ValueError:
        return str(number)
