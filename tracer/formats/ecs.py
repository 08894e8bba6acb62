"""Render events as JSON Lines in the Elastic Common Schema 9.4, with our own fields under ``tracer``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import orjson

from tracer.formats.ecs_process import Processes
from tracer.formats.ecs_socket import Sockets
from tracer.formats.ecs_values import stamp
from tracer.formats.shorten import LINE_MOST, shortened
from tracer.model import Event, ExecFailed, Notice, ProcessEvent, ProcessExited, Session, SocketEvent

__all__ = ["ECS_VERSION", "SCHEMA", "Ecs"]

ECS_VERSION: Final = "9.4.0"
SCHEMA: Final = 1  # of what is under `tracer`

_dumps = orjson.dumps
_Fragment = orjson.Fragment


class Ecs:
    """A line an event: render(event, wall clock minus CLOCK_BOOTTIME in ns, the line's number)."""

    def __init__(self, session: Session) -> None:
        """Lines carry the session's host and agent."""
        host = session.host
        self._tracer = b'{"schema":%d,"backend":%b,' % (SCHEMA, _dumps(session.backend))
        told = {
            "id": host.id,
            "name": host.name,
            "hostname": host.name,
            "architecture": host.architecture,
            "boot": {"id": host.boot_id},
            "os": {"type": "linux", "kernel": host.kernel},
        }
        agent = {
            "id": session.agent_id,
            "name": host.name,
            "type": "tracer",
            "version": session.version,
            "ephemeral_id": session.ephemeral_id,
        }
        constant = {"host": told, "agent": agent, "ecs": {"version": ECS_VERSION}}
        self._constant = b"," + _dumps(constant)[1:] + b"\n"
        processes = Processes(session)
        self._documents: Final[dict[type, Callable[[Any, int, int], dict[str, Any]]]] = {
            ProcessEvent: processes.started,
            ExecFailed: processes.failed,
            ProcessExited: processes.exited,
            SocketEvent: Sockets(processes).document,
            Notice: self._notice,
        }

    def render(self, event: Event, offset: int, sequence: int) -> bytes:
        """One line, its newline included, under LINE_MOST bytes."""
        document = self._documents[type(event)](event, offset, sequence)
        # `tracer` comes as the JSON of an object without what every line has.
        document["tracer"] = _Fragment(self._tracer + document["tracer"][1:])
        line = _dumps(document)[:-1] + self._constant
        return line if len(line) <= LINE_MOST else shortened(line)

    @staticmethod
    def _notice(event: Notice, offset: int, sequence: int) -> dict[str, Any]:
        fields: dict[str, Any] = {"kind": event.event_kind, "action": event.action, "sequence": sequence}
        if event.event_kind == "event":
            fields |= {"category": ["process"], "type": ["info"]}
        body = event.body
        if "loss" in body:
            loss = body["loss"]
            body = {"loss": {**loss, "first": stamp(loss["first"] + offset), "last": stamp(loss["last"] + offset)}}
        return {"@timestamp": stamp(event.time + offset), "event": fields, "tracer": _dumps(body)}
