"""Render events as JSON Lines in the Elastic Common Schema 9.4, with our own fields under ``tracer``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from tracer.formats.ecs_process import Parts, Processes
from tracer.formats.ecs_socket import Sockets
from tracer.formats.ecs_values import dumps, members, stamp
from tracer.formats.shorten import LINE_MOST, shortened
from tracer.model import Event, ExecFailed, Notice, ProcessEvent, ProcessExited, Session, SocketEvent

__all__ = ["ECS_VERSION", "SCHEMA", "Ecs"]

ECS_VERSION: Final = "9.4.0"
SCHEMA: Final = 1  # of what is under `tracer`


class Ecs:
    """A line an event: render(event, wall clock minus CLOCK_BOOTTIME in ns, the line's number)."""

    def __init__(self, session: Session) -> None:
        """Lines carry the session's host and agent."""
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
        processes = Processes(session)
        self._parts: Final[dict[type, Callable[[Any, int, str], Parts]]] = {
            ProcessEvent: processes.started,
            ExecFailed: processes.failed,
            ProcessExited: processes.exited,
            SocketEvent: Sockets(processes).parts,
            Notice: self._notice,
        }

    def render(self, event: Event, offset: int, sequence: int) -> bytes:
        """One line, its newline included, under LINE_MOST bytes."""
        return self.lines([event], offset, sequence)[0]

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event, in their order, numbered from ``sequence`` on.

        Rendered kind by kind: a processor runs the same way again much faster than one way after another.
        """
        found = [b""] * len(events)
        places: defaultdict[int | str, list[int]] = defaultdict(list)
        for place, event in enumerate(events):
            places[event[0]].append(place)
        fixed, end = self._tracer, self._end
        for alike in places.values():
            parts = self._parts[type(events[alike[0]])]
            for place in alike:
                event = events[place]
                when = stamp(event[_TIME] + offset)
                told, owner, document, tracer = parts(event, offset, when)
                late = ',"late":true' if event[_LATE] is True else ""
                line = (
                    f'{{"@timestamp":"{when}","event":{{{told},"sequence":{sequence + place}}}'
                    f"{owner}{document},{fixed}{late},{tracer}{end}"
                )
                encoded = line.encode()
                found[place] = encoded if len(encoded) <= LINE_MOST else shortened(encoded)
        return found

    @staticmethod
    def header() -> bytes:
        """Nothing: each line stands for itself."""
        return b""

    @staticmethod
    def _notice(event: Notice, offset: int, _when: str) -> Parts:
        fields = {"kind": event.event_kind, "category": ["process"], "type": ["info"], "action": event.action}
        body = event.body
        for name in _INTERVALS & body.keys():
            told = body[name]
            ends = {end: stamp(told[end] + offset) for end in ("first", "last") if end in told}
            body = {name: {**told, **ends}}
        return dumps(fields)[1:-1], "", "", dumps(body)[1:-1]


_INTERVALS: Final = {"loss", "change"}  # notices about a time
_TIME: Final = 1  # the position of the time in every event but notices, where it is the third
_LATE: Final = 2  # the position of `late` in every event that can be
