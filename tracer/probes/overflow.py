"""Read the overflow: a BPF ring buffer that takes the records of CPUs which have no ring of their own.

The layout is that of the kernel's kernel/bpf/ringbuf.c: a page with the consumer's position, one with the producer's,
and the data, mapped twice in a row so that no record is cut. One thread reads it.
"""

from __future__ import annotations

import mmap
import struct
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from tracer.probes.rings import Run, fence

__all__ = ["Overflow"]

_BUSY: Final = 1 << 31  # BPF_RINGBUF_BUSY_BIT: being written
_DISCARD: Final = 1 << 30
_HEADER: Final = 8  # length with the two bits, and an offset that is the kernel's own
_length = struct.Struct("=I").unpack_from
_place = struct.Struct("=32xHxB").unpack_from  # cpu and ring of struct header in bpf/tracer.h
# As a perf SAMPLE record: type, misc, size, and the payload's size, as struct perf_event_header and perf_eventheader.
_perf = struct.Struct("=IHHI").pack
_SAMPLE: Final = 9
_TRIES: Final = 200
_EVERYTHING: Final = (1 << 64) - 1

_Record = tuple[int, int, int, bytes]  # position, cpu, ring, the record


class Overflow:
    """The mapped ring buffer; what it gives looks as if it came from the rings of those CPUs."""

    def __init__(self, fd: int, size: int) -> None:
        """Map the buffer with descriptor ``fd``, which has ``size`` bytes of data. Raises OSError."""
        page = mmap.PAGESIZE
        self._size = size
        self._own = mmap.mmap(fd, page, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data = mmap.mmap(fd, page + 2 * size, mmap.MAP_SHARED, mmap.PROT_READ, offset=page)
        self._consumer = memoryview(self._own).cast("Q")
        self._producer = memoryview(self._data)[:page].cast("Q")
        self._tail = self._consumer[0]
        self._held: list[_Record] = []  # of after the moment that was asked for

    def head(self) -> int:
        """Where the kernel writes next: bytes written since it was made, ever growing."""
        return self._producer[0]

    def read(self, before: Mapping[int, int] | None = None) -> list[Run]:
        """The records, those of each CPU as one Run for each ring.

        ``before`` are positions, by CPU: of such a CPU nothing that is at or behind its position, and of others
        everything; what is held back comes next time.
        """
        records = self._held + self._taken()
        for _ in range(_TRIES):  # a CPU that writes keeps the reader from what others have written behind it
            if not before or self._tail >= max(before.values()):
                break
            time.sleep(0)
            records += self._taken()
        if before is None:
            self._held = []
        else:
            self._held = [each for each in records if each[0] >= before.get(each[1], _EVERYTHING)]
            records = [each for each in records if each[0] < before.get(each[1], _EVERYTHING)]
        parts: defaultdict[tuple[int, int], list[bytes]] = defaultdict(list)
        for _, cpu, ring, record in records:
            parts[cpu, ring].append(record)
        return [_run(cpu, ring, found) for (cpu, ring), found in parts.items()]

    def _taken(self) -> list[_Record]:
        found: list[_Record] = []
        page, mask = mmap.PAGESIZE, self._size - 1
        head = self.head()
        fence()  # the head is read before the records
        while self._tail < head:
            at = page + (self._tail & mask)
            length = _length(self._data, at)[0]
            if length & _BUSY:
                break  # reserved, and not written yet; so are those behind it, for the reader
            size = length & ~_DISCARD
            if not length & _DISCARD:
                record = self._data[at + _HEADER : at + _HEADER + size]
                cpu, ring = _place(record)
                found.append((self._tail, cpu, ring, record))
            self._tail += _HEADER + size + 7 & -8
        if self._tail != self._consumer[0]:
            fence()  # the records are read before the kernel may write over them
            self._consumer[0] = self._tail
        return found

    def close(self) -> None:
        """Unmap it; idempotent."""
        self._consumer.release()
        self._producer.release()
        self._own.close()
        self._data.close()


def _run(cpu: int, ring: int, records: list[bytes]) -> Run:
    data, offsets = bytearray(), []
    for record in records:
        size = 12 + len(record) + 7 & -8
        offsets.append(len(data) + 12)
        data += _perf(_SAMPLE, 0, size, size - 12) + record + bytes(size - 12 - len(record))
    return Run(cpu, ring, bytes(data), 0, True, offsets)
