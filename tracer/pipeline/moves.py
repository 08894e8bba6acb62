"""Follow what every process moves through every socket: updates of long flows, ends of idle ones, the sum of all."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from struct import Struct
from typing import Any, Final

from tracer.model import Kind, Role, SocketEvent
from tracer.pipeline.flows import Ends, FlowTable
from tracer.pipeline.turns import Moves

__all__ = ["IDLE_NS", "UPDATE_NS", "MoveTable"]

UPDATE_NS: Final = 30_000_000_000
IDLE_NS: Final = 60_000_000_000  # as long as most resolvers, and connection tracking, wait for more of a datagram flow
_IDLE_LOOK_NS: Final = 5_000_000_000
_placed: Final = Struct("=IQ8x32sIIQ").iter_unpack  # PLACED with its counters in one
_counts: Final = Struct("=4Q").unpack
_NOTHING: Final = bytes(32)
_VIAS: Final = 0xFF
_DATAGRAM_ROLES: Final = frozenset({int(Role.SENT), int(Role.RECEIVED)})


class _Part:
    """What one process has moved through one socket, to one peer, as of the last look."""

    __slots__ = ("flow", "moved", "moved_at", "tgid", "told", "told_at", "via")

    def __init__(self, flow: int, tgid: int, now: int) -> None:
        self.flow = flow
        self.tgid = tgid
        self.moved = _NOTHING  # bytes out and in, calls out and in: as they lie in struct part, which takes less room
        self.moved_at = now
        self.told = _NOTHING
        self.told_at = now
        self.via = 0

    @property
    def bytes(self) -> int:
        """Both ways."""
        return sum(_counts(self.moved)[:2])


class _Retired:
    """The parts that were retired: in little room, as there are as many as there are places until those are reused."""

    def __init__(self) -> None:
        self._flows = array("Q")  # by place; 0: none
        self._tgids = array("I")
        self._bytes = array("Q")

    def add(self, place: int, part: _Part) -> None:
        """The part in this place is retired."""
        missing = place + 1 - len(self._flows)
        if missing > 0:
            for column in (self._flows, self._tgids, self._bytes):
                column.extend([0] * missing)
        self._flows[place], self._tgids[place], self._bytes[place] = part.flow, part.tgid, part.bytes

    def more(self, place: int, flow: int, tgid: int, moved: int) -> int | None:
        """Bytes that a part has moved since it was added, or since this was asked last; None if it is another."""
        if place >= len(self._flows) or not self._flows[place]:
            return None
        if self._flows[place] != flow or self._tgids[place] != tgid:
            self._flows[place] = 0
            return None
        more = max(0, moved - self._bytes[place])
        self._bytes[place] += more
        return more


class MoveTable:
    """The parts by their places. Events that come of it are the pipeline's own; no record stands for them."""

    def __init__(self, flows: FlowTable, update_ns: int = UPDATE_NS) -> None:
        """Whose the flows are is known by ``flows``; one that moves is told of every ``update_ns``."""
        self._flows = flows
        self._update = update_ns
        self._parts: dict[int, _Part] = {}
        self._moving: dict[int, None] = {}  # moved since they were told of
        self._others: dict[int, tuple[int, Ends]] = {}  # by place: parts of connections that are not their owners'
        # By socket: the parts that a record has told of, each a place and a flow. A place may be another part's already
        # when its records are read, and still be the one's before where it was looked at.
        self._places: dict[int, list[tuple[int, int]]] = {}
        self._ending: list[tuple[int, int]] = []
        self._retired = _Retired()
        self._gone = 0  # bytes of all parts that were retired
        self._tgids: dict[int, int] = {}  # one object for each number
        self._last: Moves | None = None
        self._look_for_idle = 0
        self.retired: list[int] = []  # places that may be given to others

    def placed(self, event: SocketEvent, slot: int, ends: Ends) -> None:
        """A record has told of a new part."""
        if not slot:
            return
        self._places.setdefault(event.socket, []).append((slot - 1, event.flow))
        if event.kind is Kind.OWNER:
            self._others[slot - 1] = event.flow, ends

    def ended(self, socket: int) -> None:
        """A socket is closed: the parts that its own last record did not tell of end with it."""
        places = self._places.pop(socket, None)
        if places is not None:
            self._ending += places

    def take(self, moves: Moves) -> Iterator[SocketEvent]:
        """The parts that have changed; what there is to tell of all. Take all of it before anything else is asked."""
        self._last, now = moves, moves.now
        self.retired.clear()
        parts, moving = self._parts, self._moving
        self._flows.age(now)
        for place, flow, moved, tgid, via, _socket in _placed(moves.parts):
            part = parts.get(place)
            if part is not None and (part.flow != flow or part.tgid != tgid):
                self._drop(place, part)
                part = None
            if part is None:
                more = self._retired.more(place, flow, tgid, sum(_counts(moved)[:2]))
                if more is not None:
                    self._gone += more
                    continue
            if not flow:
                continue
            if part is None:
                part = parts[place] = _Part(flow, self._tgids.setdefault(tgid, tgid), now)
            elif part.bytes > sum(_counts(moved)[:2]):
                continue  # caught while it was being made
            part.moved, part.moved_at, part.via = moved, now, via & _VIAS
            moving.pop(place, None)
            moving[place] = None
        yield from self._concluded(now)
        yield from self._updates(now, everything=moves.last)
        yield from self._idle(now)
        if len(self._tgids) > 2 * len(parts):
            self._tgids.clear()

    def _drop(self, place: int, part: _Part) -> None:
        """The part has ended, as a record tells or for what was found here."""
        self._moving.pop(place, None)
        self._forget(place, part)
        del self._parts[place]

    def _ends(self, place: int, part: _Part) -> Ends | None:
        flow, other = self._others.get(place, (0, None))
        if other is None or flow != part.flow:
            return self._flows.known(part.flow, part.tgid)
        names = self._flows.names_of(part.flow)
        if names is not None and names is not other.names:  # it was told after that process came
            other = other._replace(names=names)
            self._others[place] = flow, other
        return other

    def _forget(self, place: int, part: _Part) -> None:
        if self._others.get(place, (0, None))[0] == part.flow:
            del self._others[place]

    def _concluded(self, now: int) -> Iterator[SocketEvent]:
        for place, flow in self._ending:
            part = self._parts.get(place)
            if part is None or part.flow != flow:
                continue
            ends = self._ends(place, part)
            if ends is not None and ends.role in _DATAGRAM_ROLES:
                yield self._event(Kind.FLOW_END, now, part, ends)
                self._flows.forget(part.flow)
            elif ends is not None and part.moved != part.told:
                yield self._event(Kind.UPDATE, now, part, ends)
            self._retire(place, part)
        self._ending = []

    def _updates(self, now: int, *, everything: bool) -> Iterator[SocketEvent]:
        told = []
        for place in self._moving:
            part = self._parts[place]
            if not everything and now - part.told_at < self._update:
                continue
            ends = self._ends(place, part)
            if ends is None and not everything:
                continue  # its record may be on its way
            told.append(place)
            if ends is not None and part.moved != part.told:
                yield self._event(Kind.UPDATE, now, part, ends)
        for place in told:
            del self._moving[place]

    def _idle(self, now: int) -> Iterator[SocketEvent]:
        if now < self._look_for_idle:
            return
        found: list[tuple[int, _Part, Ends]] = []
        self._look_for_idle = now + _IDLE_LOOK_NS
        for place, part in self._parts.items():
            if now - part.moved_at < IDLE_NS:
                continue
            ends = self._flows.known(part.flow, part.tgid)
            if ends is None or ends.role not in _DATAGRAM_ROLES:
                continue
            found.append((place, part, ends))
        for place, part, ends in found:
            yield self._event(Kind.FLOW_END, part.moved_at, part, ends)
            self._flows.forget(part.flow)
            self._retire(place, part)
            others = self._places.get(ends.socket)
            if others is not None and (place, part.flow) in others:
                others.remove((place, part.flow))
                if not others:
                    del self._places[ends.socket]

    def _retire(self, place: int, part: _Part) -> None:
        self._drop(place, part)
        self._gone += part.bytes
        self._retired.add(place, part)
        self.retired.append(place)

    @staticmethod
    def _event(kind: Kind, now: int, part: _Part, ends: Ends) -> SocketEvent:
        part.told, part.told_at = part.moved, now
        return ends.event(kind, now, part.flow, _counts(part.moved), part.via)

    def statement(self, told: int) -> dict[str, Any] | None:
        """All bytes that were moved, and where they went: ``told`` are those of the parts whose end came by a record.

        None where the backend does not count them. Once it is the last word, ``balanced`` tells whether the terms add
        up, each from a counter of its own.
        """
        if self._last is None:
            return None
        flows, unknown = told + self._gone, 0
        for place, part in self._parts.items():
            if self._ends(place, part) is not None:
                flows += part.bytes
            else:
                unknown += part.bytes
        last = self._last
        body = {
            "moved": last.bytes,
            "flows": flows,
            "unplaced": last.unplaced,
            "filtered": last.filtered + unknown,
            "lost": last.lost,
        }
        if last.last:
            body["balanced"] = last.bytes == flows + last.unplaced + last.filtered + unknown + last.lost
        return body
