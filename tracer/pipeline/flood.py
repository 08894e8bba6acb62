"""Tell of storms that were collapsed into counts, and what they leave unknown of the processes in them."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from typing import Any, Final

from tracer.model import Kind, Notice
from tracer.pipeline.processes import ProcessTable
from tracer.pipeline.turns import Collapsed
from tracer.probes.records import COUNTED, NOTED

__all__ = ["FloodTable"]

FLOODS: Final = 1024  # of bpf/tracer.h, as is the next
UNSEEN: Final = 8192
_PID_MOST: Final = 1 << 22  # PID_MAX_LIMIT of a 64-bit kernel


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
        for place, began, last, count, _, cgroup, inode, dev, uid, kind, _, _, _, comm in COUNTED.iter_unpack(
            item.counts
        ):
            before = self._told.get(place)
            first = began
            new = count
            if before is not None and before[0] == began:
                first, new = before[1], count - before[2]
            self._told[place] = began, last, count
            if new <= 0:
                continue
            body: dict[str, Any] = {"kind": Kind(kind).label, "count": new, "first": first, "last": max(first, last)}
            if place < FLOODS:
                body |= self._who(cgroup, uid, dev, inode, comm)
            else:
                body["other"] = True
            yield Notice("tracer-flood", item.now, "metric", {"flood": body})

    def _who(self, cgroup: int, uid: int, dev: int, inode: int, comm: bytes) -> dict[str, Any]:
        found: dict[str, Any] = {"uid": uid}
        name = comm.partition(b"\0")[0]
        if name:
            found["name"] = _text(name)
        if dev:
            found["exe"] = {"dev": f"{dev >> 20}:{dev & 0xFFFFF}", "inode": inode}
            path = self._processes.path_of(dev, inode)
            if path:
                found["executable"] = _text(path)
        if cgroup:
            group = self._processes.group(cgroup)
            found["cgroup"] = {"id": cgroup} | ({"path": _text(group.path)} if group is not None else {})
        return found


def _text(raw: bytes) -> str:
    return raw.decode(errors="backslashreplace")
