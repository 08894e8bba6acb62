"""What was moved by whom: parts that come and go while their places are looked at, and the sum of all."""

from typing import Any

import pytest

from tests import wire
from tracer.model import Kind, Role, SocketEvent
from tracer.pipeline.flows import FlowTable
from tracer.pipeline.moves import MoveTable
from tracer.pipeline.processes import ProcessTable
from tracer.pipeline.turns import Moves
from tracer.probes.records import PLACED, SLOT, decode

SECOND = wire.SECOND
OWNER, OTHER = 4242, 4243
PLACE = 7


class Machine:
    """A table of moves, fed with the records and the looks of a kernel that is made up."""

    def __init__(self) -> None:
        """Nothing has moved."""
        self.flows = FlowTable(ProcessTable(bytes(16)))
        self.flows.counted = True
        self.moves = MoveTable(self.flows, 30 * SECOND)
        self.now = wire.NOW

    def record(self, kind: Kind, **fields: Any) -> SocketEvent:
        """A record of the probes: the first of a part in a place, or the last of a socket."""
        record = decode(wire.socket(kind, **fields), 0)
        event = self.flows.event(record, False)
        if kind in (Kind.FLOW, Kind.OWNER):
            assert self.flows.ends is not None
            self.moves.placed(event, record[SLOT], self.flows.ends)
        if kind in (Kind.CLOSE, Kind.FLOW_END):
            self.moves.ended(event.socket)
        return event

    def look(self, *parts: bytes, moved: int, last: bool = False) -> list[SocketEvent]:
        """A look at the parts that have changed, a second later; ``moved`` are all bytes so far."""
        self.now += SECOND
        return list(self.moves.take(Moves(self.now, b"".join(parts), moved, 0, 0, 0, last)))

    def statement(self) -> dict[str, Any]:
        """The account."""
        found = self.moves.statement(self.flows.told)
        assert found is not None
        return found


def part(flow: int, out: int, into: int = 0, *, tgid: int = OWNER, place: int = PLACE, socket: int = 0) -> bytes:
    """A part in its place."""
    return PLACED.pack(place, flow, wire.NOW, out, into, 1, 1, tgid, 1, socket or flow)


@pytest.fixture
def machine() -> Machine:
    """A connection, flow 1, of the owner."""
    found = Machine()
    found.record(Kind.CONNECT, flow=1, tgid=OWNER, socket=1)
    return found


def told(events: list[SocketEvent]) -> list[tuple[Kind, int, int, int]]:
    """Kind, pid, flow and bytes out of each event."""
    return [(event.kind, event.process.tgid if event.process else 0, event.flow, event.moved_out) for event in events]


def test_another_process_is_told_at_the_end_of_the_socket(machine: Machine) -> None:
    """What a process has moved of another's connection comes as its own update when the connection is closed."""
    machine.record(Kind.OWNER, flow=1, socket=1, tgid=OTHER, slot=PLACE + 1)
    machine.record(Kind.CLOSE, flow=1, socket=1, tgid=OWNER, moved_out=100)
    events = machine.look(part(1, 70, tgid=OTHER), moved=170, last=True)
    assert told(events) == [(Kind.UPDATE, OTHER, 1, 70)]
    assert machine.statement() == {
        "moved": 170,
        "flows": 170,
        "unplaced": 0,
        "filtered": 0,
        "lost": 0,
        "balanced": True,
    }


def test_a_place_that_was_another_part_s_a_moment_ago(machine: Machine) -> None:
    """The record of a new part may be read before its place is looked at again: it keeps its process all the same."""
    machine.look(part(9, 50), moved=50)  # an older connection's, whose own last record is on its way
    machine.record(Kind.CLOSE, flow=9, socket=9, tgid=OWNER, moved_out=50)
    machine.record(Kind.OWNER, flow=1, socket=1, tgid=OTHER, slot=PLACE + 1)
    assert machine.look(part(1, 70, tgid=OTHER), moved=120) == []
    machine.record(Kind.CLOSE, flow=1, socket=1, tgid=OWNER)
    assert told(machine.look(moved=120, last=True)) == [(Kind.UPDATE, OTHER, 1, 70)]
    assert machine.statement()["flows"] == 120


def test_a_place_that_is_another_part_s_already(machine: Machine) -> None:
    """The end of a socket concludes no part but its own, whoever has the place by the next look."""
    machine.record(Kind.OWNER, flow=1, socket=1, tgid=OTHER, slot=PLACE + 1)
    machine.look(part(1, 70, tgid=OTHER), moved=70)
    machine.record(Kind.CLOSE, flow=1, socket=1, tgid=OWNER)
    machine.record(Kind.CONNECT, flow=2, tgid=OWNER, socket=2, sport=40001)
    machine.look(part(2, 65_521), moved=70 + 65_521)
    assert not machine.moves.retired
    machine.record(Kind.CLOSE, flow=2, socket=2, tgid=OWNER, moved_out=100_000)
    machine.look(part(0, 0), moved=100_070, last=True)
    assert machine.statement()["flows"] == 100_000


def test_datagrams_end_with_their_socket(machine: Machine) -> None:
    """A part of a socket without connections that its last record does not tell of ends by an event of its own."""
    fields = {"flow": 5, "socket": 4, "tgid": OTHER, "protocol": 17, "role": Role.SENT, "slot": PLACE + 1}
    machine.record(Kind.FLOW, **fields)
    machine.look(part(5, 30, 11, tgid=OTHER, socket=4), moved=41)
    machine.record(Kind.FLOW_END, flow=6, socket=4, tgid=OTHER, protocol=17)
    (event,) = machine.look(moved=41, last=True)
    assert (event.kind, event.flow, event.moved_out, event.moved_in) == (Kind.FLOW_END, 5, 30, 11)
    assert machine.moves.retired == [PLACE]
    assert machine.statement()["balanced"]


def test_a_retired_part_stays_in_the_account(machine: Machine) -> None:
    """What a part has moved by its end, and still moves until its place is another's, is told once and counted."""
    fields = {"socket": 4, "tgid": OTHER, "protocol": 17, "role": Role.SENT, "slot": PLACE + 1}
    machine.record(Kind.FLOW, flow=5, **fields)
    machine.look(part(5, 30, 11, tgid=OTHER, socket=4), moved=41)
    machine.record(Kind.FLOW_END, flow=6, socket=4, tgid=OTHER, protocol=17)
    assert len(machine.look(moved=41)) == 1
    assert machine.look(part(5, 130, 11, tgid=OTHER, socket=4), moved=141) == []
    assert machine.look(part(5, 0, tgid=OTHER, socket=4), moved=141) == []  # caught while its place is emptied
    assert machine.statement()["flows"] == 141
    machine.record(Kind.FLOW, flow=8, **fields | {"socket": 7})
    machine.look(part(8, 1000, tgid=OTHER, socket=7), moved=1141)
    assert machine.statement()["flows"] == 1141
    machine.look(part(0, 0), moved=1141)
    assert machine.look(part(5, 9, tgid=OTHER, socket=4), moved=1150, last=True) == []  # nobody's any more
    assert (machine.statement()["flows"], machine.statement()["filtered"]) == (141, 9)


def test_bytes_of_nobody_known_are_filtered() -> None:
    """A part of which no record came is in the account, under what was not told."""
    machine = Machine()
    assert machine.look(part(77, 1000), moved=1000, last=True) == []
    assert (machine.statement()["flows"], machine.statement()["filtered"]) == (0, 1000)
    assert machine.statement()["balanced"]
