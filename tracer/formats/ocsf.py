"""Render events as JSON Lines in the Open Cybersecurity Schema Framework 1.8, our own under ``unmapped.tracer``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final

from tracer.formats.ecs import BLOCK, SCHEMA, joined, told_of_notice
from tracer.formats.ecs_process import Parts
from tracer.formats.ecs_values import dumps, members, second_of
from tracer.formats.ocsf_names import OcsfAnswers
from tracer.formats.ocsf_process import MS, OcsfProcesses, activity
from tracer.formats.ocsf_socket import OcsfSockets
from tracer.formats.places import Places
from tracer.formats.redact import Redactor
from tracer.model import Answered, Event, ExecFailed, Kind, Notice, ProcessEvent, ProcessExited, Session, SocketEvent

__all__ = ["OCSF_VERSION", "PROFILES", "Ocsf"]

OCSF_VERSION: Final = "1.8.0"
PROFILES: Final = ("container", "datetime", "host", "linux/linux_users")
_UPDATE: Final = Kind.UPDATE
_TIME: Final = 1  # the position of the time in every event
_MEDIUM: Final = frozenset({"tracer-backend", "tracer-gap", "tracer-loss"})  # something is missing


class Ocsf:
    """A line an event: render(event, wall clock minus CLOCK_BOOTTIME in ns, the line's number)."""

    def __init__(self, session: Session, redactor: Redactor | None = None, places: Places | None = None) -> None:
        """Lines carry the session's host as ``device``, and us as its agent; the rest is as in ECS."""
        host = session.host
        agent = {
            "type_id": 4,  # Performance Monitoring & Observability
            "name": "tracer",
            "uid": session.agent_id,
            "uid_alt": session.ephemeral_id,
            "version": session.version,
        }
        device = {
            "type_id": 0,
            "uid": host.id,
            "hostname": host.name,
            "boot_uid": host.boot_id,
            "hw_info": {"cpu_architecture": host.architecture},
            "os": {"name": "Linux", "type": "Linux", "type_id": 200, "kernel_release": host.kernel},
            "agent_list": [agent],
        }
        product = {"name": "tracer", "vendor_name": "tracer", "version": session.version}
        metadata = {"version": OCSF_VERSION, "product": product, "profiles": PROFILES}
        self._begin = f'{{"metadata":{dumps(metadata)[:-1]},"sequence":'
        self._end = f"}}}}{members({'device': device})}}}\n"
        self._tracer = f'"tracer":{{"schema":{SCHEMA},"backend":{dumps(session.backend)}'
        processes = OcsfProcesses(session, self._tracer, redactor)
        self._redactor = redactor
        self._parts: Final[dict[type, Callable[[Any, int, str], Parts]]] = {
            ProcessEvent: processes.started,
            ExecFailed: processes.failed,
            ProcessExited: processes.exited,
            SocketEvent: OcsfSockets(processes, host.name, places).parts,
            Answered: OcsfAnswers(processes, places).parts,
            Notice: self._notice,
        }

    def render(self, event: Event, offset: int, sequence: int) -> bytes:
        """One line, its newline included, under LINE_MOST bytes."""
        return self.lines([event], offset, sequence)[0]

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event, in their order, numbered from ``sequence`` on; a piece may hold several.

        Rendered kind by kind: a processor runs the same way again much faster than one way after another. What flows
        have moved so far comes first, because it comes before their end.
        """
        found: list[tuple[str, ...]] = [()] * len(events)
        places: defaultdict[int | str, list[int]] = defaultdict(list)
        for place, event in enumerate(events):
            places[event[0]].append(place)
        begin, end = self._begin, self._end
        since, second = second_of(events[0][_TIME] + offset) if events else (0, "")
        since -= offset
        groups = [places.pop(_UPDATE), *places.values()] if _UPDATE in places else places.values()
        for alike in groups:
            parts = self._parts[type(events[alike[0]])]
            for place in alike:
                event = events[place]
                rest = event[_TIME] - since
                if not 0 <= rest < 1_000_000_000:
                    since, second = second_of(event[_TIME] + offset)
                    since -= offset
                    rest = event[_TIME] - since
                told, owner, document = parts(event, offset, f"{second}{str(rest).zfill(9)}Z")
                found[place] = f"{begin}{sequence + place}{told}", owner, document, end
        blocks: list[bytes] = []
        for first in range(0, len(found), BLOCK):
            blocks += joined(found[first : first + BLOCK])
        return blocks

    @staticmethod
    def header() -> bytes:
        """Nothing: each line stands for itself."""
        return b""

    def _notice(self, event: Notice, offset: int, when: str) -> Parts:
        severity = "Medium" if event.action in _MEDIUM else "Informational"
        body = told_of_notice(event, offset, self._redactor, "unmapped.")
        told = activity("Base Event", 99, event.action, event.action, severity=severity)
        return (
            f'{told},"time":{(event.time + offset) // MS},"time_dt":"{when}"',
            "",
            f',"unmapped":{{{self._tracer},{dumps(body)[1:-1]}',
        )
