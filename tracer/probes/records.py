"""Decode the probes' records: the layouts of bpf/tracer.h as struct formats.

A record decodes to a flat tuple whose first items are the header's, time first, so that tuples sort by time. What a
process record tells of ids and name stays one item of bytes (TOLD): mostly it is only compared with what was told
before. Byte order is the machine's; there is no padding anywhere in tracer.h.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct, calcsize, error
from typing import Any, Final, NamedTuple

from tracer.model import IDS, Kind

__all__ = ["KIND_AT", "KNOBS", "DecodeError", "Tally", "decode", "frames", "only", "read_tallies", "without"]

_HEADER: Final = "QQQIIHBBI"
_TOLD: Final = f"{IDS.format[1:]}16s"
_IDENTITY: Final = f"QQI{_TOLD}"

HEADER: Final = Struct(f"={_HEADER}")
EXEC: Final = Struct(f"={_HEADER}{_IDENTITY}QQIIHHHHHHI")
EXEC_FAILED: Final = Struct(f"={_HEADER}{_IDENTITY}iHH")
FORK: Final = Struct(f"={_HEADER}{_IDENTITY}II")
EXIT: Final = Struct(f"={_HEADER}{_IDENTITY}QQII")
SOCKET: Final = Struct(f"={_HEADER}QQQQQQIIIIIIHHBBBB16s16s16sQQQQQIHBB")
PAYLOAD: Final = Struct(f"={_HEADER}QQQIIIIHHBBBBHHI16s16s16s")
PART: Final = Struct("=6QIIQ")
PLACED: Final = Struct("=I6QIIQ")  # the number of its place, and struct part
MOVED: Final = Struct("=4Q")
UNMOVED: Final = (0, 0, 0, 0, 0, 0, 6, 1, 0)  # the end of struct socket_record for TCP, where no bytes are counted
TALLY: Final = Struct("=12Q")
FLOOD: Final = Struct("=7Q6I16s")
UNSEEN: Final = Struct("=QQII")
COUNTED: Final = Struct("=I7Q6I16s")  # the number of its place, and struct flood
NOTED: Final = Struct("=IQQII")  # the number of its place, and struct unseen
KNOBS: Final = Struct("=4I")
SIZE: Final = Struct("=I")  # in front of every record of an iterator

# Positions in every decoded tuple.
TIME: Final = 0
SEQ: Final = 1
START: Final = 2
TGID: Final = 3
TID: Final = 4
CPU: Final = 5
KIND: Final = 6
RING: Final = 7
FLAGS: Final = 8
KIND_AT: Final = 34  # byte offset of the kind in a record

# Positions in the tuple of a process record; what is of its kind alone begins at FACTS.
PARENT_START: Final = 9
CGROUP: Final = 10
PARENT_TGID: Final = 11
TOLD: Final = 12
FACTS: Final = 13

SLOT: Final = 35  # in the tuple of a socket record
OUT: Final = 1  # enum direction
IN: Final = 2
_LENGTHS: Final = 22  # in the tuple of a payload record: of the headers in front, then of the data

name_told: Final = Struct("=4xI36x16s").unpack_from  # uid and name (NUL-padded) of TOLD

Record = tuple[Any, ...]


class DecodeError(Exception):
    """A record is not what the wire contract says."""


class Tally(NamedTuple):
    """The kernel side's own counters for one kind on one CPU (struct tally)."""

    attempts: int
    filtered: int
    emitted: int
    failed: int
    no_space: int
    no_ring: int
    no_slot: int
    failed_first: int
    failed_last: int
    truncated: int
    map_full: int
    collapsed: int


def _of_process(layout: Struct) -> Callable[[bytes, int], Record]:
    return Struct(layout.format.replace(_TOLD, f"{calcsize(_TOLD)}s")).unpack_from


_exec_head: Final = _of_process(EXEC)
_exec_failed_head: Final = _of_process(EXEC_FAILED)
_EXEC_SIZE: Final = EXEC.size


def _rest(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise DecodeError(f"record cut short: {len(data) - at} of {size} bytes of data")
    return data[at : at + size]


def _exec(data: bytes, at: int) -> Record:
    record = _exec_head(data, at)
    begin = at + _EXEC_SIZE
    end = begin + sum(record[-7:-1])
    # A sum of tuples: to unpack the one into the other goes by way of a list, and takes five times as long.
    return record + (data[begin:end] if end <= len(data) else _rest(data, begin, end - begin),)  # noqa: RUF005


def _exec_failed(data: bytes, at: int) -> Record:
    record = _exec_failed_head(data, at)
    return (*record, _rest(data, at + EXEC_FAILED.size, record[-2] + record[-1]))


def _payload(data: bytes, at: int) -> Record:
    record = PAYLOAD.unpack_from(data, at)
    headers, size = record[_LENGTHS], record[_LENGTHS + 1]
    return (*record, _rest(data, at + PAYLOAD.size, headers + size)[headers:])


_DECODERS: Final[dict[int, Callable[[bytes, int], Record]]] = {
    Kind.EXEC: _exec,
    Kind.EXEC_FAILED: _exec_failed,
    Kind.FORK: _of_process(FORK),
    Kind.EXIT: _of_process(EXIT),
    Kind.CONNECT: SOCKET.unpack_from,
    Kind.ATTEMPT: SOCKET.unpack_from,
    Kind.ACCEPT: SOCKET.unpack_from,
    Kind.LISTEN: SOCKET.unpack_from,
    Kind.CLOSE: SOCKET.unpack_from,
    Kind.FLOW: SOCKET.unpack_from,
    Kind.FLOW_END: SOCKET.unpack_from,
    Kind.OWNER: SOCKET.unpack_from,
    Kind.TAIL: SOCKET.unpack_from,
    Kind.PAYLOAD: _payload,
    Kind.PROCESS_FOUND: _exec,
    Kind.SOCKET_FOUND: SOCKET.unpack_from,
}
# Indexed by the kind's byte: a list is faster than a dict by the key's hash.
DECODERS: Final = [_DECODERS.get(number) for number in range(256)]


def decode(data: bytes, at: int) -> Record:
    """Decode the record whose payload starts at byte ``at``. Raises DecodeError."""
    try:
        decoder = DECODERS[data[at + KIND_AT]]
        if decoder is None:
            raise DecodeError(f"unknown record kind {data[at + KIND_AT]}")
        return decoder(data, at)
    except (error, IndexError) as short:
        raise DecodeError(f"record cut short: {short}") from short


def frames(data: bytes) -> Iterator[bytes]:
    """Split what an iterator wrote, each record behind its size. Raises DecodeError."""
    at = 0
    while at < len(data):
        try:
            (size,) = SIZE.unpack_from(data, at)
        except error as short:
            raise DecodeError(f"iterator output cut short: {short}") from short
        at += SIZE.size
        if at + size > len(data):
            raise DecodeError(f"iterator output cut short: {len(data) - at} of {size} bytes")
        yield data[at : at + size]
        at += size


def read_tallies(data: bytes, kinds: int) -> list[list[Tally]]:
    """Read the tallies map: a list by CPU of lists by kind."""
    flat = [Tally._make(values) for values in TALLY.iter_unpack(data[: len(data) // TALLY.size * TALLY.size])]
    return [flat[at : at + kinds] for at in range(0, len(flat) - kinds + 1, kinds)]


def only(data: bytes, kind: Kind) -> bytes:
    """Of what an iterator wrote the records of one kind, behind their sizes."""
    return _sorted_out(data, kind, keep=True)


def without(data: bytes, kind: Kind) -> bytes:
    """The rest."""
    return _sorted_out(data, kind, keep=False)


def _sorted_out(data: bytes, kind: Kind, *, keep: bool) -> bytes:
    kept = []
    at = 0
    while at < len(data):
        end = at + SIZE.size + SIZE.unpack_from(data, at)[0]
        if (data[at + SIZE.size + KIND_AT] == kind) is keep:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)
