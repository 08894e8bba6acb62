"""Who a process is, where it comes from and what came of it: itself as events tell it, lineage, and descendants."""

from __future__ import annotations

import uuid
from collections import defaultdict, deque
from typing import Any, Final

import orjson

from tracer.fallback import stat
from tracer.fallback.files import DirectFiles
from tracer.fallback.procfs import ProcFinder
from tracer.fallback.stat import Stat
from tracer.formats.ecs import Ecs
from tracer.formats.ecs_values import stamp
from tracer.formats.redact import Redactor
from tracer.investigate.pinned import Pinned
from tracer.investigate.values import text
from tracer.model import NS_PER_TICK, Kind, Process, ProcessEvent, Session, entity_id
from tracer.pipeline.processes import ProcessTable
from tracer.probes.records import START, decode
from tracer.probes.source import boottime

__all__ = ["CHILDREN_MOST", "STATES", "People"]

CHILDREN_MOST: Final = 2048
"""Descendants that are told of."""
LINEAGE_MOST: Final = 256
"""Ancestors that are told of."""

_ARGS_MOST: Final = 4096  # bytes of a descendant's arguments
STATES: Final = {  # task_state_array of fs/proc/array.c
    b"R": "running",
    b"S": "sleeping",
    b"D": "waiting for a disk or the like",
    b"T": "stopped",
    b"t": "stopped by a tracer",
    b"Z": "zombie",
    b"X": "dead",
    b"I": "idle",
    b"P": "parked",
}
"""What a process is doing, by the letter of its stat."""


class People:
    """The processes around one, of this boot."""

    def __init__(self, session: Session, offset: int, redactor: Redactor | None) -> None:
        """``offset`` is wall clock minus CLOCK_BOOTTIME, ns. Without a ``redactor`` secrets are told."""
        self._session = session
        self._boot = uuid.UUID(session.host.boot_id).bytes
        self._offset = offset
        self._redactor = redactor
        self._files = DirectFiles()
        self._finder = ProcFinder(self._files)

    def close(self) -> None:
        """Let go of what is open."""
        self._files.close()

    def itself(self, process: Pinned) -> dict[str, Any]:
        """The ECS object that events of it have as ``process``. Raises OSError."""
        finder, table = self._finder, ProcessTable(self._boot)
        table.clock = self._offset
        seen = process.stat()
        record = finder.record(process.pid)
        if record is None:  # a zombie has nothing any more but its name
            known = Process(process.pid, self._start(seen), self._entity(process.pid, seen), seen.comm)
            known.clock = self._offset
        else:
            above = finder.record(seen.parent) if seen.parent else None
            if above is not None:
                table.executed(decode(above, 0))
            told = decode(record, 0)
            if told[START] != self._start(seen):
                raise ProcessLookupError
            known = table.executed(told)
        event = ProcessEvent(Kind.PROCESS_FOUND, boottime(), False, known, process.pid)
        line = orjson.loads(Ecs(self._session, self._redactor).render(event, self._offset, 0))
        found: dict[str, Any] = line["process"]
        found.pop("thread", None)
        return found

    def lineage(self, process: Pinned) -> tuple[list[dict[str, Any]], bool]:
        """Its parent, that one's parent, up to the first; and whether executables could not be looked at.

        Raises OSError.
        """
        found: list[dict[str, Any]] = []
        refused = False
        child, pid = process.stat(), 0
        while child.parent and len(found) < LINEAGE_MOST:
            pid = child.parent
            try:
                with Pinned(pid) as above:
                    told = above.stat()
                    if told.start > child.start:
                        break  # not the one that there was when the child was asked
                    person, denied = self._person(above, told)
            except OSError:
                break  # it ends, or is hidden
            refused |= denied
            found.append(person)
            child = told
        return found, refused

    def _person(self, process: Pinned, told: Stat) -> tuple[dict[str, Any], bool]:
        person, refused = self._named(process.pid, told), False
        if not told.flags & stat.KTHREAD:
            try:
                person["executable"] = text(process.link("exe"))
            except PermissionError:
                refused = True
            except OSError:
                pass  # it ends
        return person, refused

    def _named(self, pid: int, told: Stat) -> dict[str, Any]:
        start = self._start(told)
        return {
            "pid": pid,
            "entity_id": entity_id(self._boot, pid, start),
            "start": stamp(start + self._offset),
            "name": text(told.comm),
        }

    def _entity(self, pid: int, told: Stat) -> str:
        return entity_id(self._boot, pid, self._start(told))

    def _start(self, told: Stat) -> int:
        return told.start * NS_PER_TICK - self._finder.ahead

    def children(self, process: Pinned) -> tuple[list[dict[str, Any]], int]:
        """Its descendants as a tree, the nearest first where there are more than CHILDREN_MOST, and how many more.

        Raises OSError.
        """
        below: defaultdict[int, list[tuple[int, Stat]]] = defaultdict(list)
        for pid, content in sorted(self._files.read_each(self._files.pids(), "stat").items()):
            if content is not None:
                told = stat.parse(content)
                below[told.parent].append((pid, told))
        tree: list[dict[str, Any]] = []
        waiting = deque([(process.pid, tree)])
        count = cut = 0
        while waiting:
            pid, place = waiting.popleft()
            for child, told in below.pop(pid, ()):
                under: list[dict[str, Any]] = []
                if count < CHILDREN_MOST:
                    person = self._child(child, told)
                    if child in below:
                        person["children"] = under
                    place.append(person)
                    count += 1
                else:
                    cut += 1
                waiting.append((child, under))
        return tree, cut

    def _child(self, pid: int, told: Stat) -> dict[str, Any]:
        person = self._named(pid, told)
        try:
            person["executable"] = text(self._files.link(pid, "exe", start=told.start))
            args = self._files.read(pid, "cmdline", _ARGS_MOST, start=told.start).removesuffix(b"\0")
            if args and self._redactor is not None:
                args = self._redactor.args(args)
            if args:
                person["args"] = [text(each) for each in args.split(b"\0")]
        except OSError:
            pass  # it has ended, or may not be looked into
        return person
