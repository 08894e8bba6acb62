"""Render events as JSON Lines in the Open Cybersecurity Schema Framework 1.8, our own under ``unmapped.tracer``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tracer.formats.ecs import SCHEMA, told_of_notice
from tracer.formats.ecs_values import dumps, members
from tracer.formats.lines import Parts, Render, lines_of
from tracer.formats.ocsf_names import OcsfAnswers
from tracer.formats.ocsf_process import MS, OcsfProcesses, activity
from tracer.formats.ocsf_socket import OcsfSockets
from tracer.formats.places import Places
from tracer.formats.redact import Redactor
from tracer.model import MOVED_KINDS, Event, Kind, Notice, Session

__all__ = ["OCSF_VERSION", "PROFILES", "Ocsf"]

OCSF_VERSION: Final = "1.8.0"
PROFILES: Final = ("container", "datetime", "host", "linux/linux_users")
_UPDATE: Final = Kind.UPDATE
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
        processes = OcsfProcesses(session, self._tracer, self._begin, self._end, redactor)
        sockets = OcsfSockets(processes, host.name, places)
        self._redactor = redactor
        self._renders: Final[dict[int | str, Render]] = {
            **dict.fromkeys(Kind, sockets.parts),
            **dict.fromkeys((*MOVED_KINDS, Kind.AGGREGATE), sockets.moved),
            **dict.fromkeys((Kind.EXEC, Kind.FORK, Kind.PROCESS_FOUND), processes.started),
            Kind.EXEC_FAILED: processes.failed,
            Kind.EXIT: processes.exited,
            Kind.PAYLOAD: OcsfAnswers(processes, places).parts,
        }

    def render(self, event: Event, offset: int, sequence: int) -> bytes:
        """One line, its newline included, under LINE_MOST bytes."""
        return self.lines([event], offset, sequence)[0]

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line for each event, in their order, numbered from ``sequence`` on; a piece may hold several.

        What flows have moved so far is rendered first, because it comes before their end.
        """
        return lines_of(events, self._renders, self._notice, offset, sequence, first=_UPDATE)

    @staticmethod
    def header() -> bytes:
        """Nothing: each line stands for itself."""
        return b""

    def _notice(self, event: Notice, offset: int, when: str, number: int) -> Parts:
        severity = "Medium" if event.action in _MEDIUM else "Informational"
        body = told_of_notice(event, offset, self._redactor, "unmapped.")
        told = activity("Base Event", 99, event.action, event.action, severity=severity)
        return (
            f'{self._begin}{number}{told},"time":{(event.time + offset) // MS},"time_dt":"{when}"',
            "",
            f',"unmapped":{{{self._tracer},{dumps(body)[1:-1]}',
            self._end,
        )
