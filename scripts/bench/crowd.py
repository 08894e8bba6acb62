"""A recording of many flows: an hour in which a million of them come and go while 40,009 connections stay open."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final, NamedTuple

from scripts.bench.mix import BEGIN_NS, CPUS, IDLE_NS, Record, Rings, found_at_start, start_of
from tracer.model import Kind, Role
from tracer.pipeline.turns import MAGIC, Moves, pack
from tracer.probes.records import PLACED, SOCKET

__all__ = ["Crowd", "make_crowd"]

_SECOND: Final = 1_000_000_000
_LEDGER_SECONDS: Final = 10
_OPENING_SECONDS: Final = 20  # in which the connections are accepted
_MOVING: Final = 30  # one in so many of the connections moves something in a second
_SHELLS: Final = 16
_ADDRESS: Final = bytes(10) + b"\xff\xff"
_TCP, _UDP = (6, 1), (17, 2)  # protocol and type of socket


class Crowd(NamedTuple):
    """How many flows come and go, how many connections stay, in how many seconds of the record's own time."""

    flows: int
    connections: int
    seconds: int


def _record(kind: Kind, time: int, number: int, place: int, role: Role, sort: tuple[int, int]) -> Record:
    shell = number % _SHELLS
    cpu = number % CPUS
    header = time, 0, BEGIN_NS - 60 * _SECOND + shell, 1_000 + shell, 1_000 + shell, cpu, kind, 1, 0
    flow = number + 1 + (1 << 40) * (sort is _UDP)
    peer = _ADDRESS + struct.pack(">I", 0x0A000000 + number)
    values = (flow, time, time, 0, 0, 4_242, 0, 0, 4_026_531_840, 1_000, 0, 0)
    ends = (53, 1_024 + number % 60_000, 2, role, 0, 0, _ADDRESS + b"\x0a\x14\x1e\x28", peer, b"bash")
    rest = flow, 0, 0, 0, 0, place + 1, *sort, 1
    return Record(time, cpu, kind, bytearray(SOCKET.pack(*header, *values, *ends, *rest)))


def _part(place: int, number: int, size: int, sort: tuple[int, int]) -> bytes:
    shell = number % _SHELLS
    flow = number + 1 + (1 << 40) * (sort is _UDP)
    return PLACED.pack(place, flow, BEGIN_NS - 60 * _SECOND + shell, size, size, 1, 1, 1_000 + shell, 1, flow)


def make_crowd(crowd: Crowd, path: Path) -> int:
    """Write the recording; gives all bytes that were moved in it."""
    rings = Rings()
    bytes_moved = 0
    moved = [0] * crowd.connections
    rate = crowd.flows // crowd.seconds
    with path.open("wb") as file:
        file.write(MAGIC + pack(start_of(moved=True)) + pack(found_at_start()))
        made = opened = 0
        for second in range(crowd.seconds):
            now = BEGIN_NS + second * _SECOND
            parts = []
            records = []
            while opened < min(crowd.connections, (second + 1) * crowd.connections // _OPENING_SECONDS):
                records.append(_record(Kind.ACCEPT, now, opened, opened, Role.ACCEPT, _TCP))
                opened += 1
            for number in range(second % _MOVING, opened, _MOVING):
                size = second + 1
                bytes_moved += 2 * (size - moved[number])
                moved[number] = size
                parts.append(_part(number, number, size, _TCP))
            for number in range(made, made + rate):
                place = crowd.connections + number % (65_536 - crowd.connections)
                records.append(_record(Kind.FLOW, now, number, place, Role.RECEIVED, _UDP))
                parts.append(_part(place, number, 40, _UDP))
                bytes_moved += 80
            made += rate
            for record in records:
                if not rings.fits(record):
                    file.write(pack(rings.turn(now, cut=False, last=False)))
                rings.add(record)
            file.write(pack(rings.turn(now + IDLE_NS, cut=second % _LEDGER_SECONDS == 0, last=False)))
            file.write(pack(Moves(now + IDLE_NS, b"".join(parts), bytes_moved, 0, 0, 0, False)))
        end = BEGIN_NS + crowd.seconds * _SECOND
        file.write(pack(rings.turn(end, cut=True, last=True)))
        file.write(pack(Moves(end, b"", bytes_moved, 0, 0, 0, True)))
    return bytes_moved
