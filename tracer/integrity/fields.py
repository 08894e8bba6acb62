"""What the proof looks at in a line, whichever format it is in: the one place that knows where each format has it."""

from __future__ import annotations

from typing import Any, NamedTuple

import orjson

__all__ = ["Facts", "NoEventError", "facts"]


class NoEventError(Exception):
    """A line that is no event of ours; the message says why."""


class Facts(NamedTuple):
    """Of a line: its number, the session it is of, what happened (event.action of ECS), when, and what is ours."""

    sequence: int
    session: str
    action: str
    time: str
    own: dict[str, Any]


def facts(line: bytes) -> Facts:
    """Read a line. Raises NoEventError."""
    if not line.startswith(b"{") or not line.endswith(b"}"):
        raise NoEventError("this line is no JSON object")
    try:
        found: Any = orjson.loads(line)
    except orjson.JSONDecodeError as odd:
        raise NoEventError(f"this is no JSON: {odd}") from odd
    try:
        told = _ocsf(found) if "metadata" in found else _ecs(found)
    except (KeyError, TypeError, IndexError) as missing:
        raise NoEventError("this is a JSON object, but no event of tracer") from missing
    sequence, session, action, time, own = told
    if (
        type(sequence) is not int
        or type(session) is not str
        or type(action) is not str
        or type(time) is not str
        or type(own) is not dict
    ):
        raise NoEventError("this is a JSON object, but no event of tracer")
    return told


def _ecs(found: Any) -> Facts:
    event = found["event"]
    return Facts(
        event["sequence"], found["agent"]["ephemeral_id"], event["action"], found["@timestamp"], found["tracer"]
    )


def _ocsf(found: Any) -> Facts:
    about, agent = found["metadata"], found["device"]["agent_list"][0]
    return Facts(
        about["sequence"], agent["uid_alt"], about["event_code"], found["time_dt"], found["unmapped"]["tracer"]
    )
