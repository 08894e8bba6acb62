"""Render events as JSON Lines in the Elastic Common Schema 9.4, with our own fields under ``tracer``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any, Final

from tracer.formats.ecs_names import Answers
from tracer.formats.ecs_process import Parts, Processes
from tracer.formats.ecs_socket import Sockets
from tracer.formats.ecs_values import dumps, members, second_of, stamp
from tracer.formats.places import Places
from tracer.formats.redact import Redactor
from tracer.formats.shorten import LINE_MOST, shortened
from tracer.model import Answered, Event, ExecFailed, Notice, ProcessEvent, ProcessExited, Session, SocketEvent

__all__ = ["BLOCK", "ECS_VERSION", "SCHEMA", "Ecs", "joined", "told_of_notice"]

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
        processes = Processes(session, self._tracer, redactor)
        self._redactor = redactor
        self._parts: Final[dict[type, Callable[[Any, int, str], Parts]]] = {
            ProcessEvent: processes.started,
            ExecFailed: processes.failed,
            ProcessExited: processes.exited,
            SocketEvent: Sockets(processes, places).parts,
            Answered: Answers(processes, places).parts,
            Notice: self._notice,
        }

    def render(self, event: Event, offset: int, sequence: int) -> bytes:
        """One line, its newline included, under LINE_MOST bytes."""
        return self.lines([event], offset, sequence)[0]

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event, in their order, numbered from ``sequence`` on; a piece may hold several.

        Rendered kind by kind: a processor runs the same way again much faster than one way after another.
        """
        found: list[tuple[str, ...]] = [()] * len(events)
        places: defaultdict[int | str, list[int]] = defaultdict(list)
        for place, event in enumerate(events):
            places[event[0]].append(place)
        end = self._end
        since, second = second_of(events[0][_TIME] + offset) if events else (0, "")
        since -= offset
        for alike in places.values():
            parts = self._parts[type(events[alike[0]])]
            for place in alike:
                event = events[place]
                rest = event[_TIME] - since
                if not 0 <= rest < 1_000_000_000:
                    since, second = second_of(event[_TIME] + offset)
                    since -= offset
                    rest = event[_TIME] - since
                when = f"{second}{str(rest).zfill(9)}Z"  # as stamp() does, without a call
                told, owner, document = parts(event, offset, when)
                found[place] = (
                    f'{{"@timestamp":"{when}","event":{{{told},"sequence":{sequence + place}}}',
                    owner,
                    document,
                    end,
                )
        blocks: list[bytes] = []
        for begin in range(0, len(found), BLOCK):
            blocks += joined(found[begin : begin + BLOCK])
        return blocks

    @staticmethod
    def header() -> bytes:
        """Nothing: each line stands for itself."""
        return b""

    def _notice(self, event: Notice, offset: int, _when: str) -> Parts:
        fields = {
            "kind": event.event_kind,
            "category": [_CATEGORIES.get(event.action, "process")],
            "type": ["info"],
            "action": event.action,
        }
        return dumps(fields)[1:-1], "", f",{self._tracer},{dumps(told_of_notice(event, offset, self._redactor))[1:-1]}"


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


def joined(lines: list[tuple[str, ...]]) -> list[bytes]:
    """The lines as bytes, all in one piece unless one may be too long.

    To put a line together by itself, and to copy that as bytes, takes longer, and more of a processor's cache.
    """
    pieces = list(chain.from_iterable(lines))
    text = "".join(pieces)
    most = max(map(len, pieces)) * len(lines[0])  # no line has more characters, most of them have far less
    if (most if text.isascii() else most * _BYTES_MOST) <= LINE_MOST:
        return [text.encode()]
    whole = ["".join(line).encode() for line in lines]
    return [line if len(line) <= LINE_MOST else shortened(line) for line in whole]


BLOCK: Final = 32  # lines put together at once: their memory is used again and again
_BYTES_MOST: Final = 4  # that a character takes in UTF-8
_CATEGORIES: Final = {"tracer-wire": "network"}
_INTERVALS: Final = {"loss", "change", "gap", "flood"}  # notices about a time
_TIME: Final = 1  # the position of the time in every event but notices, where it is the third
