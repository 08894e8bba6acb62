"""Read members of an event in ECS that may hold anything: what is not of the expected type is as if it were absent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

__all__ = ["integer", "members", "moment", "number", "shown_time", "text", "texts", "value"]

_SECOND: Final = 1_000_000_000


def value(document: Any, path: str) -> Any:
    """The member at a dotted path, or None."""
    for name in path.split("."):
        if not isinstance(document, Mapping):
            return None
        document = document.get(name)
    return document


def text(document: Any, path: str) -> str:
    """A text, or an empty one."""
    found = value(document, path)
    return found if isinstance(found, str) else ""


def integer(document: Any, path: str) -> int | None:
    """A whole number, or None."""
    found = value(document, path)
    return found if isinstance(found, int) and not isinstance(found, bool) else None


def number(document: Any, path: str) -> int:
    """A whole number, or 0."""
    return integer(document, path) or 0


def texts(document: Any, path: str) -> list[str]:
    """The texts of an array, or of a single text."""
    found = value(document, path)
    if isinstance(found, str):
        return [found]
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def members(document: Any, path: str) -> Iterator[Mapping[str, Any]]:
    """The objects of an array."""
    found = value(document, path)
    if isinstance(found, list):
        yield from (each for each in found if isinstance(each, Mapping))


def moment(written: str) -> int | None:
    """Nanoseconds since 1970 of a time in ISO 8601; one without a zone is in UTC. None if it is none."""
    whole, dot, rest = written.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    try:
        found = datetime.fromisoformat(whole + rest[digits:] if dot else whole)
        if found.tzinfo is None:
            found = found.replace(tzinfo=UTC)
        seconds = int(found.timestamp())
    except (ValueError, OverflowError):
        return None
    return seconds * _SECOND + int(rest[:digits].ljust(9, "0")[:9] or 0)


def shown_time(nanoseconds: int) -> str:
    """A moment for people: in UTC to the millisecond."""
    try:
        found = datetime.fromtimestamp(nanoseconds // _SECOND, UTC)
    except (ValueError, OverflowError, OSError):
        return ""
    return f"{found:%Y-%m-%d %H:%M:%S}.{nanoseconds % _SECOND // 1_000_000:03} UTC"
