"""The input of the pipeline, as values that can be recorded and replayed: a start, what was found, and turns.

A recording is ``MAGIC`` and then frames: type (1 byte), length (4 bytes, little endian), content. It holds the probes'
records as they came, so it is as private as the machine itself.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from tracer.pipeline.order import RingRun
from tracer.probes.perf_event import RingError, split
from tracer.probes.records import COUNTED, NOTED, PLACED
from tracer.probes.source import Unheard
from tracer.probes.wire import SORTS

__all__ = [
    "MAGIC",
    "Accounted",
    "Collapsed",
    "Confined",
    "DeviceTotals",
    "Found",
    "Input",
    "Known",
    "Lost",
    "Moves",
    "RecordingError",
    "Start",
    "Turn",
    "Unheard",
    "pack",
    "unpack",
]

MAGIC: Final = b"tracer raw recording 2\n"
FRAME: Final = struct.Struct("<BI")
FRAME_MOST: Final = 1 << 30

_TURN = struct.Struct("<QqQBBHII")  # now, offset, drained_at, cut, last, runs, tallies' length, missed's length
_RUN = struct.Struct("<HBBII")  # cpu, ring, drained, lost, length
_NOW = struct.Struct("<Q")
_MOVES = struct.Struct("<QQQQQB")
_COLLAPSED = struct.Struct("<QI")  # now, length of the counts
_LOST = struct.Struct("<QQ")  # now, since
_FOUND = struct.Struct("<QqI")  # now, offset, length of the processes


class RecordingError(Exception):
    """The file is no recording, or was cut or changed."""


class Start(NamedTuple):
    """What is known before the first record: the session, the filters, the coverage and who started this."""

    facts: dict[str, Any]


class Found(NamedTuple):
    """What the iterators wrote; ``offset`` is wall clock minus CLOCK_BOOTTIME, both in ns."""

    now: int
    offset: int
    processes: bytes
    sockets: bytes


class Turn(NamedTuple):
    """What one look at all the rings gave.

    Every ring was read to its end after ``drained_at`` (ns; 0: not all were). ``tallies`` are the kernel's counters:
    with ``cut``, of exactly the moment to which the rings were read, so that a ledger can be made. ``missed`` counts by
    program what the kernel skipped. With ``last`` the probes are detached and nothing follows.
    """

    now: int
    offset: int
    drained_at: int
    runs: list[RingRun]
    tallies: bytes
    cut: bool
    last: bool
    missed: dict[str, int]


class Moves(NamedTuple):
    """Who has moved bytes since the last of these: ``parts`` are numbers of places (u32) each with its struct part.

    ``bytes`` are all that were moved so far, of which ``unplaced`` belong to no part, and of those of ended parts
    ``filtered`` and ``lost`` were not told by a record. With ``last`` nothing follows.
    """

    now: int
    parts: bytes
    bytes: int
    unplaced: int
    filtered: int
    lost: int
    last: bool


class Collapsed(NamedTuple):
    """What was beyond the budgets of who did it, since the last of these: comes before the turn that was read with it.

    ``counts`` are numbers of places (u32) each with its struct flood, ``unseen`` each with its struct unseen.
    """

    now: int
    counts: bytes
    unseen: bytes


class Known(NamedTuple):
    """What a later look of the process iterator wrote: to be known, not to be shown."""

    processes: bytes


class Confined(NamedTuple):
    """What this process can still do, and how that was found out, at ``now`` (boottime ns)."""

    now: int
    facts: dict[str, Any]


class DeviceTotals(NamedTuple):
    """What a network device has carried since the account was opened, each way: bytes by probes.wire.SORTS.

    ``headers`` are what it may count on top, ``counted`` its own counter; both are (out, in). ``counted`` is None, and
    ``name`` empty, where it can't be asked.
    """

    netns: int
    interface: int
    name: str
    out: list[int]
    into: list[int]
    headers: list[int]
    counted: list[int] | None


class Accounted(NamedTuple):
    """The devices that have carried something by ``now`` (boottime ns) since they were last told of."""

    now: int
    rows: list[DeviceTotals]


class Lost(NamedTuple):
    """The backend has died or fallen silent: since ``since`` (boottime ns) things may be missing, nobody knows what."""

    now: int
    since: int
    backend: str
    reasons: list[str]


Input = Start | Found | Turn | Moves | Collapsed | Known | Confined | Accounted | Lost | Unheard


def pack(item: Input) -> bytes:
    """The frame of a recording that holds the item."""
    if isinstance(item, Turn):
        missed = json.dumps(item.missed).encode() if item.missed else b""
        parts = [
            _TURN.pack(
                item.now,
                item.offset,
                item.drained_at,
                item.cut,
                item.last,
                len(item.runs),
                len(item.tallies),
                len(missed),
            ),
            item.tallies,
            missed,
        ]
        for run in item.runs:
            parts += _RUN.pack(run.cpu, run.ring, run.drained, run.lost, len(run.data)), run.data
        kind, content = 2, b"".join(parts)
    elif isinstance(item, Found):
        kind = 1
        content = _FOUND.pack(item.now, item.offset, len(item.processes)) + item.processes + item.sockets
    elif isinstance(item, Known):
        kind, content = 3, item.processes
    elif isinstance(item, Confined):
        kind, content = 4, _NOW.pack(item.now) + json.dumps(item.facts).encode()
    elif isinstance(item, Accounted):
        kind, content = 8, json.dumps(item._asdict()).encode()
    elif isinstance(item, Lost):
        why = {"backend": item.backend, "reasons": item.reasons}
        kind, content = 5, _LOST.pack(item.now, item.since) + json.dumps(why).encode()
    elif isinstance(item, Moves):
        told = item.now, item.bytes, item.unplaced, item.filtered, item.lost, item.last
        kind, content = 7, _MOVES.pack(*told) + item.parts
    elif isinstance(item, Collapsed):
        kind, content = 9, _COLLAPSED.pack(item.now, len(item.counts)) + item.counts + item.unseen
    elif isinstance(item, Unheard):
        kind, content = 6, json.dumps(item._asdict()).encode()
    else:
        kind, content = 0, json.dumps(item.facts).encode()
    return FRAME.pack(kind, len(content)) + content


def unpack(kind: int, content: bytes) -> Input:
    """The item that a frame holds. Raises RecordingError."""
    try:
        if kind == 0:
            return Start(_object(content))
        if kind == 1:
            now, offset, length = _FOUND.unpack_from(content)
            at = _FOUND.size + length
            return Found(now, offset, content[_FOUND.size : at], content[at:])
        if kind == 2:
            return _unpack_turn(content)
        if kind in _NOTICES:
            return _NOTICES[kind](content)
    except (struct.error, ValueError, IndexError, RecursionError, RingError) as bad:
        raise RecordingError(f"frame cut or changed: {bad}") from bad
    if kind == 3:
        return Known(content)
    raise RecordingError(f"unknown frame type {kind}")


def _object(content: bytes) -> dict[str, Any]:
    found = json.loads(content)
    if not isinstance(found, dict):
        raise RecordingError("no JSON object where one is due")
    return found


def _unpack_confined(content: bytes) -> Confined:
    return Confined(_NOW.unpack_from(content)[0], _object(content[_NOW.size :]))


def _unpack_lost(content: bytes) -> Lost:
    told = _object(content[_LOST.size :])
    backend, reasons = told.get("backend"), told.get("reasons")
    if not isinstance(backend, str) or not isinstance(reasons, list):
        raise RecordingError("what was lost is not told")
    now, since = _LOST.unpack_from(content)
    return Lost(now, since, backend, [str(reason) for reason in reasons])


def _unpack_unheard(content: bytes) -> Unheard:
    told = _object(content)
    what, cpus = told.get("what"), told.get("cpus")
    numbers = [told.get(name) for name in ("missing", "first", "last")]
    if not isinstance(what, str) or not isinstance(cpus, list):
        raise RecordingError("what was not heard is not told")
    if not all(isinstance(number, int) and number >= 0 for number in (*numbers, *cpus)):
        raise RecordingError("what was not heard is no count")
    missing, first, last = (int(number) for number in numbers if number is not None)
    return Unheard(what, missing, first, last, cpus)


def _unpack_moves(content: bytes) -> Moves:
    now, moved, unplaced, filtered, lost, last = _MOVES.unpack_from(content)
    parts = content[_MOVES.size :]
    if len(parts) % PLACED.size:
        raise RecordingError(f"{len(parts)} bytes are no whole number of parts")
    return Moves(now, parts, moved, unplaced, filtered, lost, bool(last))


def _unpack_collapsed(content: bytes) -> Collapsed:
    now, length = _COLLAPSED.unpack_from(content)
    end = _COLLAPSED.size + length
    counts, unseen = content[_COLLAPSED.size : end], content[end:]
    if len(counts) != length or length % COUNTED.size or len(unseen) % NOTED.size:
        raise RecordingError("no whole number of counts")
    return Collapsed(now, counts, unseen)


def _unpack_accounted(content: bytes) -> Accounted:
    told = _object(content)
    now, rows = told.get("now"), told.get("rows")
    if not isinstance(now, int) or not isinstance(rows, list):
        raise RecordingError("an account of the wire that is none")
    return Accounted(now, [_device(row) for row in rows])


def _device(row: object) -> DeviceTotals:
    if isinstance(row, list) and len(row) == len(DeviceTotals._fields):
        netns, interface, name, out, into, headers, counted = row
        pairs = ([netns, interface], headers, [0, 0] if counted is None else counted)
        are_pairs = all(_are_numbers(each, 2) for each in pairs)
        if are_pairs and all(_are_numbers(each, len(SORTS)) for each in (out, into)) and isinstance(name, str):
            return DeviceTotals(*row)
    raise RecordingError("the totals of a device that are none")


def _are_numbers(what: object, count: int) -> bool:
    return isinstance(what, list) and len(what) == count and all(type(each) is int for each in what)


_NOTICES: Final[dict[int, Callable[[bytes], Input]]] = {
    4: _unpack_confined,
    5: _unpack_lost,
    6: _unpack_unheard,
    7: _unpack_moves,
    8: _unpack_accounted,
    9: _unpack_collapsed,
}


def _unpack_turn(content: bytes) -> Turn:
    now, offset, drained_at, cut, last, count, tallies_size, missed_size = _TURN.unpack_from(content)
    at = _TURN.size
    tallies = content[at : at + tallies_size]
    at += tallies_size
    missed = _object(content[at : at + missed_size]) if missed_size else {}
    if not all(isinstance(count, int) for count in missed.values()):
        raise RecordingError("what the kernel missed is no count")
    at += missed_size
    runs = []
    for _ in range(count):
        cpu, ring, drained, lost, length = _RUN.unpack_from(content, at)
        at += _RUN.size
        data = content[at : at + length]
        at += length
        runs.append(RingRun(cpu, ring, data, lost, bool(drained), split(data).offsets))
    if at != len(content):
        raise RecordingError(f"frame of {len(content)} bytes ends at {at}")
    return Turn(now, offset, drained_at, runs, tallies, bool(cut), bool(last), missed)
