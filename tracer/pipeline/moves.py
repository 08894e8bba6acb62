"""Follow what every process moves through every socket: updates of long flows, ends of idle ones, the sum of all."""

from __future__ import annotations

from typing import Any, Final

from tracer.model import Kind, Role, SocketEvent
from tracer.pipeline.flows import Ends, FlowTable
from tracer.pipeline.turns import Moves
from tracer.probes.records import PLACED

__all__ = ["IDLE_NS", "UPDATE_NS", "MoveTable"]

UPDATE_NS: Final = 30_000_000_000
IDLE_NS: Final = 60_000_000_000  # as long as most resolvers, and connection tracking, wait for more of a datagram flow
_IDLE_LOOK_NS: Final = 5_000_000_000
_DATAGRAM_ROLES: Final = frozenset({int(Role.SENT), int(Role.RECEIVED)})


class _Part:
    """What one process has moved through one socket, to one peer, as of the last look."""

    __slots__ = ("flow", "moved", "moved_at", "socket", "tgid", "told", "told_at", "via")

    def __init__(self, flow: int, tgid: int, socket: int, now: int) -> None:
        self.flow = flow
        self.tgid = tgid
        self.socket = socket
        self.moved = (0, 0, 0, 0)  # bytes out and in, calls out and in
        self.moved_at = now
        self.told = (0, 0, 0, 0)
        self.told_at = now
        self.via = 0

    @property
    def bytes(self) -> int:
        """Both ways."""
        return self.moved[0] + self.moved[1]


class MoveTable:
    """The parts by their places. Events that come of it are the pipeline's own; no record stands for them."""

    def __init__(self, flows: FlowTable, update_ns: int = UPDATE_NS) -> None:
        """Whose the flows are is known by ``flows``; one that moves is told of every ``update_ns``."""
        self._flows = flows
        self._update = update_ns
        self._parts: dict[int, _Part] = {}
        self._moving: dict[int, None] = {}  # moved since they were told of
        self._others: dict[int, Ends] = {}  # by place: parts of connections that are not their owners'
        self._places: dict[int, list[int]] = {}  # by socket: the parts that a record has told of
        self._ending: list[int] = []
        self._gone = 0  # bytes of parts that were retired, and their places taken by others
        self._last: Moves | None = None
        self._look_for_idle = 0
        self.retired: list[int] = []  # places that may be given to others

    def placed(self, event: SocketEvent, slot: int, ends: Ends) -> None:
        """A record has told of a new part."""
        if not slot:
            return
        self._places.setdefault(event.socket, []).append(slot - 1)
        if event.kind is Kind.OWNER:
            self._others[slot - 1] = ends

    def ended(self, socket: int) -> None:
        """A socket is closed: the parts that its own last record did not tell of end with it."""
        places = self._places.pop(socket, None)
        if places is not None:
            self._ending += places

    def take(self, moves: Moves) -> list[SocketEvent]:
        """The parts that have changed; what there is to tell of all."""
        self._last, now = moves, moves.now
        parts, moving = self._parts, self._moving
        for place, flow, _start, out, into, calls_out, calls_in, tgid, via, socket in PLACED.iter_unpack(moves.parts):
            part = parts.get(place)
            if part is not None and (part.flow != flow or part.tgid != tgid):
                self._drop(place, part)
                part = None
            if not flow:
                continue
            moved = out, into, calls_out, calls_in
            if part is None:
                part = parts[place] = _Part(flow, tgid, socket, now)
            elif part.bytes > out + into:
                continue  # caught while it was being made
            part.moved, part.moved_at, part.via = moved, now, via
            moving.pop(place, None)
            moving[place] = None
        found = self._concluded(now)
        found += self._updates(now, everything=moves.last)
        found += self._idle(now)
        return found

    def _drop(self, place: int, part: _Part) -> None:
        """The place is another's: its end was told by a record, or it was retired here."""
        self._moving.pop(place, None)
        self._others.pop(place, None)
        del self._parts[place]
        if part.told_at < 0:
            self._gone += part.bytes

    def _ends(self, place: int, part: _Part) -> Ends | None:
        other = self._others.get(place)
        return other if other is not None else self._flows.known(part.flow, part.tgid)

    def _concluded(self, now: int) -> list[SocketEvent]:
        found = []
        for place in self._ending:
            part = self._parts.get(place)
            if part is None or part.told_at < 0:
                continue
            ends = self._ends(place, part)
            if ends is not None and ends.role in _DATAGRAM_ROLES:
                found.append(self._event(Kind.FLOW_END, now, part, ends))
                self._flows.forget(part.flow)
            elif ends is not None and part.moved != part.told:
                found.append(self._event(Kind.UPDATE, now, part, ends))
            self._retire(place, part)
        self._ending = []
        return found

    def _updates(self, now: int, *, everything: bool) -> list[SocketEvent]:
        found, told = [], []
        for place in self._moving:
            part = self._parts[place]
            if not everything and now - part.told_at < self._update:
                continue
            ends = self._ends(place, part)
            if ends is None and not everything:
                continue  # its record may be on its way
            told.append(place)
            if ends is not None and part.moved != part.told:
                found.append(self._event(Kind.UPDATE, now, part, ends))
        for place in told:
            del self._moving[place]
        return found

    def _idle(self, now: int) -> list[SocketEvent]:
        found: list[tuple[int, _Part, Ends]] = []
        if now < self._look_for_idle:
            return []
        self._look_for_idle = now + _IDLE_LOOK_NS
        for place, part in self._parts.items():
            if part.told_at < 0 or now - part.moved_at < IDLE_NS:
                continue
            ends = self._flows.known(part.flow, part.tgid)
            if ends is None or ends.role not in _DATAGRAM_ROLES:
                continue
            found.append((place, part, ends))
        events = []
        for place, part, ends in found:
            events.append(self._event(Kind.FLOW_END, part.moved_at, part, ends))
            self._flows.forget(part.flow)
            self._retire(place, part)
            others = self._places.get(part.socket)
            if others is not None and place in others:
                others.remove(place)
                if not others:
                    del self._places[part.socket]
        return events

    def _retire(self, place: int, part: _Part) -> None:
        self._moving.pop(place, None)
        self._others.pop(place, None)
        part.told_at = -1
        self.retired.append(place)

    @staticmethod
    def _event(kind: Kind, now: int, part: _Part, ends: Ends) -> SocketEvent:
        part.told, part.told_at = part.moved, now
        return ends.event(kind, now, part.flow, part.moved, part.via)

    def statement(self, told: int) -> dict[str, Any] | None:
        """All bytes that were moved, and where they went: ``told`` are those of the parts whose end came by a record.

        None where the backend does not count them. Once it is the last word, ``balanced`` tells whether the terms add
        up, each from a counter of its own.
        """
        if self._last is None:
            return None
        flows, unknown = told + self._gone, 0
        for place, part in self._parts.items():
            if part.told_at < 0 or self._ends(place, part) is not None:
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
