"""What the proof looks at in a line, whichever format it is in: the one place that knows where each format has it."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

__all__ = ["Facts", "NoEventError", "facts"]


class NoEventError(Exception):
    """A line that is no event of ours; the message says why."""


class Facts(NamedTuple):
    """Of a line: its number, the session it is of, its action and kind as ECS has them, when, and what is ours."""

    sequence: int
    session: str
    action: str
    kind: str
    time: str
    own: dict[str, Any]


def facts(line: bytes) -> Facts:
    """Read a line. Raises NoEventError."""
    try:
        found: Any = orjson.loads(line)
    except orjson.JSONDecodeError as odd:
        raise NoEventError(f"this is no JSON ({odd})") from odd
    try:
        event = found["event"]
        told = Facts(
            event["sequence"],
            found["agent"]["ephemeral_id"],
            event["action"],
            event["kind"],
            found["@timestamp"],
            found["tracer"],
        )
    except (KeyError, TypeError) as missing:
        raise NoEventError("this is no event of tracer") from missing
    if type(told.sequence) is not int or not all(type(text) is str for text in told[1:5]) or type(told.own) is not dict:
        raise NoEventError("this is no event of tracer")
    return told
