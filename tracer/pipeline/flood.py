"""Tell of storms that were collapsed into counts, and what they leave unknown of the processes in them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from tracer.model import SOCKET_KINDS, Kind, Notice
from tracer.pipeline.processes import ProcessTable
from tracer.pipeline.turns import Collapsed
from tracer.probes.records import COUNTED, NOTED

__all__ = ["FloodTable"]

FLOODS: Final = 1024  # of bpf/tracer.h, as is the next
UNSEEN: Final = 8192
_PID_MOST: Final = 1 << 22  # PID_MAX_LIMIT of a 64-bit kernel


class _Row(NamedTuple):
    """The number of a place, and struct flood."""

    place: int
    began: int
    last: int
    count_now: int
    hash: int
    cgroup: int
    inode: int
    start: int
    dev: int
    uid: int
    kind: int
    busy: int
    ready: int
    tgid: int
    comm: bytes


class FloodTable:
    """The counts as they were told last, and what processes did unseen, until what was before is dealt with."""

    def __init__(self, processes: ProcessTable) -> None:
        """Who did something unseen is marked in ``processes``."""
        self._processes = processes
        self._told: dict[int, tuple[int, int, int]] = {}  # by place: began, last, count
        self._changes: dict[int, int] = {}  # by place
        self._marks: list[tuple[int, int, int, int]] = []  # by time: place, tgid (-1: any of that place), start
        self._looked = 0  # when unseen was looked at last, boottime ns

    def take(self, item: Collapsed) -> list[Notice]:
        """Take in what was collapsed; what there is to tell of it."""
        for place, start, time, tgid, changes in NOTED.iter_unpack(item.unseen):
            more = changes - self._changes.get(place, 0) & 0xFFFFFFFF
            self._changes[place] = changes
            if more > 2 and place < UNSEEN:
                # Another has done so as well since the last look, whenever that was: before or after what was told.
                insort(self._marks, (self._looked, place, -1, 0))
                insort(self._marks, (item.now, place, -1, 0))
            insort(self._marks, (time, place, tgid, start))
        self._looked = item.now
        return list(self._notices(item))

    @property
    def waiting(self) -> bool:
        """Whether there is anything for due()."""
        return bool(self._marks)

    def due(self, until: int) -> Iterator[int]:
        """The times before ``until`` at which something was done unseen; each is done when the next is asked for."""
        while self._marks and self._marks[0][0] < until:
            time, place, tgid, start = self._marks.pop(0)
            yield time
            if tgid < 0:
                self._processes.executed_any_unseen(range(place, _PID_MOST, UNSEEN), time)
            elif place < UNSEEN:
                self._processes.executed_unseen(tgid, start, time)
            else:
                self._processes.exited_unseen(tgid, start, time)

    def _notices(self, item: Collapsed) -> Iterator[Notice]:
        for row in map(_Row._make, COUNTED.iter_unpack(item.counts)):
            before = self._told.get(row.place)
            first, new = row.began, row.count_now
            if before is not None and before[0] == row.began:
                first, new = before[1], row.count_now - before[2]
            self._told[row.place] = row.began, row.last, row.count_now
            if new <= 0:
                continue
            body: dict[str, Any] = {"kind": Kind(row.kind).label, "count": new}
            body |= {"first": first, "last": max(first, row.last)}
            body |= self._who(row) if row.place < FLOODS else {"other": True}
            yield Notice("tracer-flood", item.now, "metric", {"flood": body})

    def _who(self, row: _Row) -> dict[str, Any]:
        found: dict[str, Any] = {"uid": row.uid}
        name = row.comm.partition(b"\0")[0]
        path = b""
        if name:
            found["name"] = _text(name)
        if row.tgid:
            found["pid"] = row.tgid
        if row.dev:
            found["exe"] = {"dev": f"{row.dev >> 20}:{row.dev & 0xFFFFF}", "inode": row.inode}
            path = self._processes.path_of(row.dev, row.inode)
        elif row.kind in SOCKET_KINDS:
            known = self._processes.find(row.tgid, row.start)
            if known is not None and known.image is not None and known.image.time <= row.began:
                path = known.image.executable
        if path:
            found["executable"] = _text(path)
        if row.cgroup:
            group = self._processes.group(row.cgroup)
            found["cgroup"] = {"id": row.cgroup} | ({"path": _text(group.path)} if group is not None else {})
        return found


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
