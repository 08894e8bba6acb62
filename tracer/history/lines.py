"""Read a line of a stream as an event in ECS, whichever of the two formats it was written in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import orjson

__all__ = ["NoEventError", "as_ecs", "event_of"]

_DIRECTIONS: Final = {1: "ingress", 2: "egress", 0: "unknown"}
_OUTCOMES: Final = {0: "unknown", 1: "success", 2: "failure"}
_VERSIONS: Final = {4: "ipv4", 6: "ipv6"}


class NoEventError(Exception):
    """A line is no event of ours; the message says why."""


def event_of(line: bytes | str) -> dict[str, Any]:
    """Read a line. Raises NoEventError."""
    try:
        found: Any = orjson.loads(line)
    except orjson.JSONDecodeError as odd:
        raise NoEventError(f"it is no JSON: {odd}") from odd
    made = as_ecs(found) if isinstance(found, dict) else {}
    event = made.get("event")
    if not isinstance(event, dict) or not isinstance(event.get("action"), str) or "tracer" not in made:
        raise NoEventError("it is JSON, but no event of tracer")
    return made


def as_ecs(document: dict[str, Any]) -> dict[str, Any]:
    """An event in ECS: the document itself, or, of one in OCSF, the fields that reports and explanations look at.

    docs/ocsf.md says where each of them is.
    """
    about = document.get("metadata")
    if not isinstance(about, Mapping) or "event" in document:
        return document
    own = _object(_object(document.get("unmapped")).get("tracer"))
    action = about.get("event_code")
    device = _object(document.get("device"))
    agents = device.get("agent_list")
    agent = _object(agents[0] if isinstance(agents, list) and agents else None)
    made: dict[str, Any] = {
        "@timestamp": document.get("time_dt"),
        "event": _some(
            action=action,
            sequence=about.get("sequence"),
            outcome=_OUTCOMES.get(_number(document.get("status_id"))),
            duration=own.get("duration_ns"),
        ),
        "tracer": own,
        "host": _some(name=device.get("hostname"), boot=_some(id=device.get("boot_uid")) or None),
        "agent": _some(ephemeral_id=agent.get("uid_alt"), type="tracer"),
    }
    told = _process_of(document)
    if told:
        made["process"] = _process(told, own, document.get("exit_code"))
    made |= _network(document)
    if document.get("status_code") is not None:
        made["error"] = {"code": document["status_code"]}
    question = _object(document.get("query"))
    if question or "rcode" in document:
        answered = _object(own.get("dns"))
        made["dns"] = _some(
            question=_some(name=question.get("hostname"), type=question.get("type")) or None,
            response_code=document.get("rcode"),
            resolved_ip=answered.get("resolved_ip"),
        )
    file, more = _object(document.get("file")), _object(own.get("file"))
    if file or more:
        made["file"] = {**more, **_some(path=file.get("path"), name=file.get("name"))}
    return made


def _process_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Whose event it is: the event's own process where there is one, beside who acts; else who acts."""
    found = document.get("process") or _object(document.get("unmapped")).get("process")
    return _object(found or _object(document.get("actor")).get("process"))


def _process(told: Mapping[str, Any], own: Mapping[str, Any], code: object) -> dict[str, Any]:
    parent = _object(told.get("parent_process"))
    extra = _object(own.get("process"))
    return _some(
        pid=told.get("pid"),
        vpid=told.get("namespace_pid"),
        entity_id=told.get("uid"),
        name=told.get("name"),
        start=told.get("created_time_dt"),
        end=told.get("terminated_time_dt"),
        executable=_object(told.get("file")).get("path"),
        args=extra.get("args"),
        args_count=extra.get("args_count"),
        command_line=told.get("cmd_line"),
        working_directory=told.get("working_directory"),
        exit_code=code,
        user=_named(told.get("user")),
        group=_named(told.get("group")),
        thread=_some(id=told.get("ptid")) or None,
        parent=_some(
            pid=parent.get("pid"),
            entity_id=parent.get("uid"),
            name=parent.get("name"),
            executable=_object(parent.get("file")).get("path"),
        )
        or None,
    )


def _network(document: Mapping[str, Any]) -> dict[str, Any]:
    about = _object(document.get("connection_info"))
    if not about:
        return {}
    moved = _object(document.get("cumulative_traffic"))
    ends = {}
    for name, endpoint, way in (("source", "src_endpoint", "out"), ("destination", "dst_endpoint", "in")):
        told = _object(document.get(endpoint))
        ends[name] = _some(
            ip=told.get("ip"),
            port=told.get("port"),
            domain=told.get("hostname") if name == "destination" else None,
            bytes=moved.get(f"bytes_{way}"),
            packets=moved.get(f"packets_{way}"),
        )
    ends["network"] = _some(
        transport=about.get("protocol_name"),
        direction=_DIRECTIONS.get(_number(about.get("direction_id"))),
        type=_VERSIONS.get(_number(about.get("protocol_ver_id"))),
        community_id=about.get("community_uid"),
        protocol=document.get("app_protocol_name"),
    )
    return ends


def _named(told: object) -> dict[str, Any] | None:
    found = _object(told)
    return _some(id=found.get("uid"), name=found.get("name")) or None


def _object(told: object) -> Mapping[str, Any]:
    return told if isinstance(told, dict) else {}


def _number(told: object) -> int:
    return told if isinstance(told, int) else -1


def _some(**members: object) -> dict[str, Any]:
    """The members that there are."""
    return {name: told for name, told in members.items() if told is not None}
