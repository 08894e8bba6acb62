"""Read what was beyond a user's budget from the counts of bpf/flood.bpf.h, and tell the kernel how full its rings are.

Takes no privilege once it is made: the counts lie in memory that the kernel shares, read-only for this process, and the
levels of the rings in memory that it may write.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from struct import Struct
from typing import Final

from tracer.probes.bpf_map import Map
from tracer.probes.records import FLOOD, UNSEEN
from tracer.probes.rings import Ring
from tracer.probes.source import Flooded

__all__ = ["Floods"]

_NUMBERS: Final = Struct("=4Q4IQQQ16x")  # struct numbers of bpf/common.bpf.h
_PUT: Final = 48  # byte offset in it
_RINGS: Final = 2
_BLOCK: Final = 128 * UNSEEN.size  # bytes that are compared at once
_KEY: Final = slice(24, 68)  # what it counts, in struct flood
_COUNT_AT: Final = 16  # byte offset in struct flood
_count: Final = Struct("=Q").unpack_from
_levels: Final = Struct("=QQ").pack_into
_number: Final = Struct("=I").pack
_ready: Final = Struct("=72xI").unpack_from
_changes: Final = Struct("=20xI").unpack_from


class Floods:
    """The counts by who, what and kind, and the processes that did something unseen."""

    def __init__(self, maps: dict[str, Map]) -> None:
        """Map the maps ``floods``, ``unseen`` and ``sequences``. Raises BpfError."""
        self._maps: list[mmap.mmap] = []
        self._counts = self._map(maps["floods"])
        self._unseen = self._map(maps["unseen"])
        self._sequences = maps["sequences"].mmap(writable=True)
        self._maps.append(self._sequences)
        self._all_at = (maps["floods"].max_entries - 1) * FLOOD.size + _COUNT_AT
        self._counts_end = (maps["floods"].max_entries - 1) * FLOOD.size
        self._unseen_end = maps["unseen"].max_entries * UNSEEN.size
        self._all = self._told = 0  # how many were collapsed, as of the last look, and with counts
        self._seen_counts: dict[int, bytes] = {}  # by place
        self._seen_blocks: dict[int, bytes] = {}  # of unseen, by offset
        self._seen_changes: dict[int, int] = {}  # by place

    def _map(self, which: Map) -> mmap.mmap:
        mapped = which.mmap()
        self._maps.append(mapped)
        return mapped

    def close(self) -> None:
        """Unmap."""
        for mapped in self._maps:
            mapped.close()

    def level(self, rings: Iterable[Ring]) -> None:
        """Say how much of what was put into each ring was taken out, and how large it is."""
        sequences = self._sequences
        for ring in rings:
            at = (ring.cpu * _RINGS + ring.index) * _NUMBERS.size + _PUT
            put = _count(sequences, at)[0]
            _levels(sequences, at + 8, max(0, put - (ring.head() - ring.tail)), ring.size)

    def take(self, *, counts: bool) -> Flooded | None:
        """What was collapsed since the last call, as Source.collapsed() says."""
        now = _count(self._counts, self._all_at)[0]
        new, untold = now != self._all, counts and now != self._told
        if not new and not untold:
            return None
        self._all = now
        rows = b""
        if untold:
            self._told = now
            rows = self._changed_counts()
        return Flooded(rows, self._newly_unseen() if new else b"")

    def _changed_counts(self) -> bytes:
        found = []
        data = self._counts[: self._counts_end]
        for place, at in enumerate(range(0, len(data), FLOOD.size)):
            row = data[at : at + FLOOD.size]
            if row == self._seen_counts.get(place, _FREE):
                continue
            # Its place may just be given to another: then it is told of next time.
            again = self._counts[at : at + FLOOD.size]
            if not _ready(row)[0] or again[:8] != row[:8] or again[_KEY] != row[_KEY]:
                self._told = -1
                continue
            self._seen_counts[place] = row
            found.append(_number(place) + row)
        return b"".join(found)

    def _newly_unseen(self) -> bytes:
        found = []
        for begin in range(0, self._unseen_end, _BLOCK):
            block = self._unseen[begin : begin + _BLOCK]
            if block == self._seen_blocks.get(begin, _NOTHING):
                continue
            self._seen_blocks[begin] = block
            for at in range(0, _BLOCK, UNSEEN.size):
                each = block[at : at + UNSEEN.size]
                place, changes = (begin + at) // UNSEEN.size, _changes(each)[0]
                if changes == self._seen_changes.get(place, 0):
                    continue
                if changes & 1 or self._unseen[begin + at : begin + at + UNSEEN.size] != each:
                    self._seen_blocks[begin] = _NOTHING  # it is being written: next time
                    self._all = -1
                    continue
                self._seen_changes[place] = changes
                found.append(_number(place) + each)
        return b"".join(found)


_FREE: Final = bytes(FLOOD.size)
_NOTHING: Final = bytes(_BLOCK)
