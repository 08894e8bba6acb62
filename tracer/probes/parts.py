"""Read who has moved how many bytes from the mapped counters of bpf/parts.bpf.h, and say which are done with.

Takes no privilege once it is made: the counters lie in memory that the kernel shares, read-only for this process, and
the marks of parts that have ended in memory that it may write.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from struct import Struct
from typing import Final

from tracer.probes.bpf_map import Map
from tracer.probes.records import MOVED, PART

__all__ = ["Parts"]

_BLOCK: Final = 64  # parts that are compared at once: one page of counters
_BLOCK_BYTES: Final = _BLOCK * PART.size
_FIRST: Final = 256  # PARTS_FIRST of bpf/parts.bpf.h
_number: Final = Struct("=I").pack
_limit: Final = Struct("=Q").unpack_from


class Parts:
    """The counters of all parts: (socket, process, peer)."""

    def __init__(self, maps: dict[str, Map]) -> None:
        """Map the maps ``parts``, ``retired``, ``parts_limit`` and ``moved``. Raises BpfError."""
        self._maps: list[mmap.mmap] = []
        self._parts = self._map(maps["parts"])
        self._limit = self._map(maps["parts_limit"])
        self._moved = self._map(maps["moved"])
        self._retired = maps["retired"].mmap(writable=True)
        self._maps.append(self._retired)
        self._cpus = maps["moved"].max_entries
        self._seen: dict[int, bytes] = {}  # by block

    def _map(self, which: Map) -> mmap.mmap:
        mapped = which.mmap()
        self._maps.append(mapped)
        return mapped

    def close(self) -> None:
        """Unmap."""
        for mapped in self._maps:
            mapped.close()

    def changed(self) -> bytes:
        """The parts that are not as they were at the last call: the number of the place (u32) and the struct, each."""
        found: list[bytes] = []
        limit = max(_FIRST, *_limit(self._limit))
        for block in range(limit // _BLOCK):
            now = self._parts[block * _BLOCK_BYTES : (block + 1) * _BLOCK_BYTES]
            before = self._seen.get(block, _NOTHING)
            if now == before:
                continue
            self._seen[block] = now
            for at in range(0, _BLOCK_BYTES, PART.size):
                part = now[at : at + PART.size]
                if part != before[at : at + PART.size]:
                    found.append(_number(block * _BLOCK + at // PART.size) + part)
        return b"".join(found)

    def moved(self) -> tuple[int, int, int, int]:
        """Bytes that were moved, and of them unplaced, filtered and lost (struct moved), over all CPUs."""
        rows = MOVED.iter_unpack(self._moved[: self._cpus * MOVED.size])
        moved, unplaced, filtered, lost = (sum(column) for column in zip(*rows, strict=True))
        return moved, unplaced, filtered, lost

    def retire(self, places: Iterable[int]) -> None:
        """These places may be given to others."""
        for place in places:
            self._retired[place] = 1


_NOTHING: Final = bytes(_BLOCK_BYTES)
