"""A process of the past as `tracer pid` tells of one that is there: a bundle, and the events of its tree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import orjson

from tracer.history.past import Extent, Known, Past
from tracer.report.fields import text, value

__all__ = ["Story"]

_BUNDLE: Final = "tracer-bundle"
_IN_MEMORY: Final = 64 << 20  # bytes of events; more are kept in a file without a name
_CHILDREN_MOST: Final = 2_048  # as of a process that is there
_DEEPEST: Final = 64
_MEMBERS: Final = ("pid", "entity_id", "start", "name", "executable", "args")


class Story:
    """All that files tell of one process and what came from it. ``bundle`` is what goes under `tracer.bundle`.

    It has `process`, `lineage` and `children` as that of a process that is there has them, and `past`: how many files
    and lines were read, how many of them are no events, their first and last time, how many processes and events the
    tree has, whether it began before the first line, and whether that is `complete`: nothing is said to be lost or
    missing while it was there, every line could be read, and nothing began before. Where the files have a bundle of
    this process, because `tracer pid` wrote them, what that says beside is taken from it.
    """

    def __init__(self, past: Past, root: Known, asked: str) -> None:
        """Read it. ``asked`` is what was asked for. Raises PastError and OSError."""
        self._spool = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - close() closes it
        self._processes: dict[str, dict[str, Any]] = {}
        self._missing = self._cut = 0
        self.count = 0
        try:
            self._bundle(past, root, asked)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Forget it. Idempotent."""
        self._spool.close()

    def lines(self) -> Iterator[bytes]:
        """The events of the tree as lines in ECS, newlines included."""
        self._spool.seek(0)
        while line := self._spool.readline():  # to iterate over it would close it together with this generator
            yield line

    def events(self) -> Iterator[dict[str, Any]]:
        """The same as objects."""
        yield from map(orjson.loads, self.lines())

    def _bundle(self, past: Past, root: Known, asked: str) -> None:
        extent = past.extent()
        tree = past.tree(root.entity)
        last = ""
        looked: dict[str, Any] = {}
        missing: list[Mapping[str, Any]] = []
        for event in past.events(tree):
            if text(event, "event.action") == _BUNDLE:
                looked = _looked(event, root.entity) or looked
                continue
            if value(event, "process") is None:
                missing.append(event)
                continue
            last = max(last, text(event, "@timestamp"))
            self._keep(event)
        begun = root.start or root.first
        for told in missing:
            if begun <= text(told, "@timestamp") and _first(told) <= last:
                self._missing += 1
                self._keep(told)
        process = _object(looked, "process") | self._processes.get(root.entity, {})
        above = past.above(root.entity)
        self.bundle: dict[str, Any] = {
            **looked,
            "version": 1,
            "made": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%fZ}",
            "target": {"pid": root.pid, "entity_id": root.entity, "asked": asked},
            "process": process,
            "lineage": max(_array(looked, "lineage"), above, key=len),
            "children": self._children(root.entity) or _array(looked, "children"),
            "past": self._past(extent, begun, len(tree)),
        }
        if self._cut:
            self.bundle["children_cut"] = self._cut

    def _past(self, extent: Extent, begun: str, processes: int) -> dict[str, Any]:
        before = begun < extent.first
        return {
            **extent._asdict(),
            "processes": processes,
            "events": self.count - self._missing,
            "begins_before": before,
            "complete": not (self._missing or extent.unreadable or before),
        }

    def _keep(self, event: Mapping[str, Any]) -> None:
        self._spool.write(orjson.dumps(event) + b"\n")
        self.count += 1
        told = value(event, "process")
        entity = text(told, "entity_id")
        if entity and isinstance(told, Mapping):
            # What is left out of an event has not changed: the program's arguments are in the one that ran it.
            self._processes.setdefault(entity, {}).update(told)

    def _children(self, root: str) -> list[dict[str, Any]]:
        """The tree below a process; what is too many or too deep is left out, and counted in `children_cut`."""
        below: dict[str, list[str]] = {}
        for entity, told in self._processes.items():
            below.setdefault(text(told, "parent.entity_id"), []).append(entity)
        top: list[dict[str, Any]] = []
        waiting = [(root, top, 1)]
        made = {root}
        while waiting:
            parent, into, depth = waiting.pop()
            for entity in below.get(parent, ()):
                if entity in made:
                    continue
                if len(made) > _CHILDREN_MOST or depth > _DEEPEST:
                    self._cut += 1
                    continue
                made.add(entity)
                inner: list[dict[str, Any]] = []
                of = self._processes[entity]
                into.append({name: of[name] for name in _MEMBERS if name in of} | {"children": inner})
                waiting.append((entity, inner, depth + 1))
        return top


def _looked(event: Mapping[str, Any], entity: str) -> dict[str, Any]:
    """The bundle in an event, if it is of that process."""
    found = _object(event, "tracer.bundle")
    return found if text(found, "target.entity_id") == entity else {}


def _object(told: Any, path: str) -> dict[str, Any]:
    found = value(told, path)
    return found if isinstance(found, dict) else {}


def _array(told: Any, path: str) -> list[Any]:
    found = value(told, path)
    return found if isinstance(found, list) else []


def _first(event: Mapping[str, Any]) -> str:
    """When what is told to be missing began to be."""
    found = (text(event, f"tracer.{name}.first") for name in ("loss", "gap", "change", "flood"))
    return next(filter(None, found), text(event, "@timestamp"))
