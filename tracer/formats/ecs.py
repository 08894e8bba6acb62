"""Render events as JSON Lines in the Elastic Common Schema 9.4, with our own fields under ``tracer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from tracer.formats.ecs_names import Answers
from tracer.formats.ecs_process import Processes
from tracer.formats.ecs_socket import Sockets
from tracer.formats.ecs_values import dumps, members, stamp
from tracer.formats.lines import Parts, Render, lines_of
from tracer.formats.places import Places
from tracer.formats.redact import Redactor
from tracer.model import MOVED_KINDS, Event, Kind, Notice, Session

__all__ = ["ECS_VERSION", "SCHEMA", "Ecs", "told_of_notice"]

ECS_VERSION: Final = "9.4.0"
SCHEMA: Final = 1  # of what is under `tracer`


class Ecs:
    """A line an event: render(event, wall clock minus CLOCK_BOOTTIME in ns, the line's number)."""

    def __init__(self, session: Session, redactor: Redactor | None = None, places: Places | None = None) -> None:
        """Lines carry the session's host and agent; ``redactor`` takes secrets out of arguments, if there is one.

        The ends of flows carry what ``places`` know of their addresses.
        """
        host = session.host
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
        constant = members({"host": told, "agent": agent, "ecs": {"version": ECS_VERSION}})
        self._tracer = f'"tracer":{{"schema":{SCHEMA},"backend":{dumps(session.backend)}'
        self._end = f"}}{constant}}}\n"
        processes = Processes(session, self._tracer, self._end, redactor)
        sockets = Sockets(processes, places)
        self._redactor = redactor
        self._renders: Final[dict[int | str, Render]] = {
            **dict.fromkeys(Kind, sockets.parts),
            **dict.fromkeys((*MOVED_KINDS, Kind.AGGREGATE), sockets.moved),
            **dict.fromkeys((Kind.EXEC, Kind.FORK, Kind.PROCESS_FOUND), processes.started),
            Kind.EXEC_FAILED: processes.failed,
            Kind.EXIT: processes.exited,
            Kind.PAYLOAD: Answers(processes, places).parts,
        }

    def render(self, event: Event, offset: int, sequence: int) -> bytes:
        """One line, its newline included, under LINE_MOST bytes."""
        return self.lines([event], offset, sequence)[0]

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event, in their order, numbered from ``sequence`` on; a piece may hold several."""
        return lines_of(events, self._renders, self._notice, offset, sequence)

    @staticmethod
    def header() -> bytes:
        """Nothing: each line stands for itself."""
        return b""

    def _notice(self, event: Notice, offset: int, when: str, number: int) -> Parts:
        fields = {
            "kind": event.event_kind,
            "category": [_CATEGORIES.get(event.action, "process")],
            "type": ["info"],
            "action": event.action,
        }
        told = dumps(told_of_notice(event, offset, self._redactor))[1:-1]
        return (
            f'{{"@timestamp":"{when}","event":{{{dumps(fields)[1:-1]},"sequence":{number}}}',
            "",
            f",{self._tracer},{told}",
            self._end,
        )


def told_of_notice(event: Notice, offset: int, redactor: Redactor | None, above: str = "") -> dict[str, Any]:
    """What a notice tells under ``tracer``: its body, with the ends of an interval as dates, and without secrets.

    ``above`` is what the name of that member begins with, and what is redacted is told with.
    """
    body = event.body
    if redactor is not None and "command_line" in body.get("session", ()):
        line = body["session"]["command_line"]
        told = redactor.texts(line)
        if told is not line:
            body = {**body, "session": {**body["session"], "command_line": told}}
            body["redacted"] = [f"{above}tracer.session.command_line"]
    for name in _INTERVALS & body.keys():
        told = body[name]
        ends = {end: stamp(told[end] + offset) for end in ("first", "last") if end in told}
        body = {name: {**told, **ends}}
    return body


_CATEGORIES: Final = {"tracer-wire": "network"}
_INTERVALS: Final = {"loss", "change", "gap", "flood"}  # notices about a time
