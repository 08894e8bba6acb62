"""Make one record of short flows that are alike: of one executable, to or from one peer, with one outcome.

The opening of a flow is held back. If the flow ends within the interval it joins those that are like it, and at the end
of the interval, counted from when the first of them ended, there is one record of all; a flow that was the only one is
told as it was. What is open for longer is told then, and its end by itself.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from tracer.model import Flag, Kind, KindEvent, Merged, Process, Role, SocketEvent
from tracer.pipeline.flows import FlowTable

__all__ = ["Aggregator"]

PENDING_MOST: Final = 16_384
GROUPS_MOST: Final = 4096
_SNAPSHOT: Final = 1  # SOCK_SNAPSHOT of bpf/tracer.h
_ENDS: Final = frozenset({Kind.CLOSE, Kind.FLOW_END})
_OPENINGS: Final = frozenset({Kind.CONNECT, Kind.ACCEPT, Kind.FLOW})
_OTHERS: Final = frozenset({Kind.ATTEMPT, Kind.OWNER, Kind.UPDATE, Kind.TAIL})
_OURS: Final = _ENDS | _OPENINGS | _OTHERS
_TAKEN: Final = frozenset({int(Role.ACCEPT), int(Role.RECEIVED)})
_KNOWN: Final = _TAKEN | {int(Role.CONNECT), int(Role.SENT)}
_NO_TOTALS: Final = int(Flag.NO_TOTALS)
_NOWHERE: Final = "0.0.0.0"  # noqa: S104 - an address that is not told

_Key = tuple[Any, ...]


class _Group:
    """Flows that are alike."""

    __slots__ = ("deadline", "like", "local", "longest", "merged", "originals", "process", "totals", "via")

    def __init__(self, originals: list[SocketEvent], deadline: int) -> None:
        end = originals[-1]
        self.originals = originals  # as long as it is the only one
        self.deadline = deadline
        self.like = end
        self.process: Process | None = end.process
        self.local = end.local
        self.totals = _totals(end)
        self.longest = _lasted(end)
        self.via = end.via
        self.merged = Merged(1, end.opened or end.time, end.time, 0)

    def add(self, end: SocketEvent) -> None:
        self.originals = []
        if self.process is not None and (end.process is None or end.process.entity_id != self.process.entity_id):
            self.process = None
        if end.local != self.local:
            self.local = _NOWHERE
        self.totals = tuple(one + other for one, other in zip(self.totals, _totals(end), strict=True))
        self.longest = max(self.longest, _lasted(end))
        self.via |= end.via
        flows, first, last, *_ = self.merged
        self.merged = Merged(flows + 1, min(first, end.opened or end.time), max(last, end.time), 0)

    def event(self) -> SocketEvent:
        """The one record."""
        like = self.like
        out, into, calls_out, calls_in, retransmits = self.totals
        inward = like.role in _TAKEN
        return like._replace(
            kind=Kind.AGGREGATE,
            time=self.merged.last,
            late=False,
            process=self.process,
            tid=0,
            flow=0,
            socket=0,
            local=self.local,
            local_port=like.local_port if inward else 0,
            remote_port=0 if inward else like.remote_port,
            community_id="",
            opened=self.merged.first,
            established=0,
            rtt_us=0,
            retransmits=retransmits,
            moved_out=-1 if like.kind is Kind.CONNECT else out,
            moved_in=-1 if like.kind is Kind.CONNECT else into,
            calls_out=calls_out,
            calls_in=calls_in,
            via=self.via,
            merged=self.merged._replace(longest=self.longest, owner=like.process),
        )


def _totals(end: SocketEvent) -> tuple[int, ...]:
    """Bytes out and in, calls out and in, segments sent again."""
    out, into = end.moved_out, end.moved_in
    if end.kind is Kind.CLOSE and (out < 0 or end.flags & _SNAPSHOT):
        out, into = end.sent, end.received
    return out, into, end.calls_out, end.calls_in, end.retransmits


def _lasted(end: SocketEvent) -> int:
    return end.time - end.opened if end.opened else 0


class Aggregator:
    """Feed it what is to be shown; it gives back what is left of that. Bounded: what there is no room for is told."""

    def __init__(self, interval_ns: int, flows: FlowTable, aggregated: Counter[int], found: Counter[int]) -> None:
        """``aggregated`` counts the events that went into records of several, ``found`` those records."""
        self._interval = interval_ns
        self._flows = flows
        self._aggregated = aggregated
        self._found = found
        self._pending: dict[int, SocketEvent] = {}  # openings, by flow
        self._groups: dict[_Key, _Group] = {}

    def take(self, events: list[KindEvent]) -> list[KindEvent]:
        """What of these is told now, with what they bring to its end."""
        told: list[KindEvent] = []
        tails = {event.flow for event in events if isinstance(event, SocketEvent) and event.kind is Kind.TAIL}
        for event in events:
            if event.kind not in _OURS or not isinstance(event, SocketEvent):
                told.append(event)
            elif event.kind in _OPENINGS and not event.error:
                if _key(event) is None:
                    told.append(event)
                    continue
                self._pending[event.flow] = event
                if len(self._pending) > PENDING_MOST:
                    told.append(self._pending.pop(next(iter(self._pending))))
            elif event.kind is Kind.CONNECT:
                told += self._join([event])
            else:
                opening = self._pending.pop(event.flow, None)
                if opening is None:
                    told.append(event)
                elif event.kind in _ENDS and event.flow not in tails and self._is_short(opening, event):
                    told += self._join([opening, event])
                else:
                    told += [opening, event]
        return told

    def _is_short(self, opening: SocketEvent, end: SocketEvent) -> bool:
        # What a process still holds may move more: that is told later, and of this flow alone.
        return end.time - opening.time <= self._interval and not self._flows.is_held(end.flow)

    def _join(self, originals: list[SocketEvent]) -> list[KindEvent]:
        """Put a flow to those that are like it; what has to be told to make room."""
        end = originals[-1]
        key = _key(end)
        if key is None:
            return list[KindEvent](originals)
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = _Group(originals, end.time + self._interval)
            return self._told(next(iter(self._groups))) if len(self._groups) > GROUPS_MOST else []
        self._aggregated.update([each.kind for each in (*group.originals, *originals)])
        group.add(end)
        return []

    def _told(self, key: _Key) -> list[KindEvent]:
        group = self._groups.pop(key)
        if group.originals:
            return list[KindEvent](group.originals)
        self._found[Kind.AGGREGATE] += 1
        return [group.event()]

    def due(self, now: int | None) -> list[KindEvent]:
        """What is to be told by ``now`` (boottime ns); with None everything."""
        told: list[KindEvent] = []
        for key in list(self._groups):
            if now is not None and self._groups[key].deadline > now:
                break  # those behind it began later
            told += self._told(key)
        for flow, opening in list(self._pending.items()):
            if now is not None and opening.time + self._interval > now:
                break
            told.append(self._pending.pop(flow))
        return told

    def held(self) -> Counter[int]:
        """How many events of each kind wait."""
        held = Counter[int](event.kind for event in self._pending.values())
        for group in self._groups.values():
            held.update([event.kind for event in group.originals])
        return held


def _key(event: SocketEvent) -> _Key | None:
    """What flows that are alike have in common. None where that is not known, or not exact."""
    process = event.process
    if process is None or process.image is None or not process.image.executable or event.role not in _KNOWN:
        return None
    if event.marks & _NO_TOTALS or event.late:
        return None
    image, inward = process.image, event.role in _TAKEN
    return (
        *(image.executable, image.dev, image.inode, process.uid, process.cgroup),
        *(event.netns, event.transport, event.protocol, event.role, event.ipv6, event.mapped, event.remote),
        event.local_port if inward else event.remote_port,
        event.local if inward else "",
        *(event.error, event.kind, event.marks),
        event.names.domain if event.names is not None else b"",
        event.names.protocol if event.names is not None else "",
    )
