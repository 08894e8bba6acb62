"""The overflow: records come whole and in order, by CPU and ring, as the kernel's layout has them; moments are kept."""

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from tracer.probes.overflow import Overflow
from tracer.probes.perf_event import split

SIZE = mmap.PAGESIZE
BUSY, DISCARD = 1 << 31, 1 << 30
HEADER = 8


def record(cpu: int, ring: int, text: bytes) -> bytes:
    """The beginning of struct header, and something behind it."""
    return struct.pack("=QQQIIHBBI", 0, 0, 0, 1, 1, cpu, 0, ring, 0) + text


class Buffer:
    """A ring buffer as the kernel writes one, in a file that is mapped in its place."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.truncate(self.fd, 2 * mmap.PAGESIZE + 2 * SIZE)
        self.head = 0

    def _write(self, position: int, data: bytes) -> None:
        for number, byte in enumerate(data):
            at = (position + number) % SIZE
            for copy in (at, at + SIZE):  # the kernel maps the same memory twice
                os.pwrite(self.fd, bytes([byte]), 2 * mmap.PAGESIZE + copy)

    def put(self, data: bytes, flags: int = 0) -> int:
        """Write a record; its position."""
        position = self.head
        self._write(position, struct.pack("=II", len(data) | flags, 0) + data)
        self.head += HEADER + len(data) + 7 & -8
        os.pwrite(self.fd, struct.pack("=Q", self.head), mmap.PAGESIZE)
        return position

    def commit(self, position: int, size: int) -> None:
        """Take the busy bit away."""
        self._write(position, struct.pack("=I", size))

    def consumed(self) -> int:
        """How far the reader says it is."""
        return int(struct.unpack("=Q", os.pread(self.fd, 8, 0))[0])


@pytest.fixture(name="buffer")
def _buffer() -> Iterator[Buffer]:
    buffer = Buffer()
    yield buffer
    os.close(buffer.fd)


@pytest.fixture(name="overflow")
def _overflow(buffer: Buffer) -> Iterator[Overflow]:
    overflow = Overflow(buffer.fd, SIZE)
    yield overflow
    overflow.close()


def texts(overflow: Overflow, before: dict[int, int] | None = None) -> dict[tuple[int, int], list[bytes]]:
    """What it gives: behind the header, without what pads it, by CPU and ring."""
    found = {}
    for run in overflow.read(before):
        assert run.drained
        assert split(run.data).offsets == run.offsets  # as if a ring of that CPU had given it
        assert split(run.data).end == len(run.data)
        found[run.cpu, run.ring] = [run.data[at + 40 :].split(b"\0")[0] for at in run.offsets]
    return found


def test_by_cpu_and_ring(buffer: Buffer, overflow: Overflow) -> None:
    """Each record comes once, with those of its CPU and ring, in the order in which they were written."""
    assert texts(overflow) == {}
    for cpu, ring, text in ((3, 0, b"a"), (1, 1, b"bb"), (3, 0, b"ccc"), (3, 1, b"d" * 9)):
        buffer.put(record(cpu, ring, text))
    assert texts(overflow) == {(3, 0): [b"a", b"ccc"], (1, 1): [b"bb"], (3, 1): [b"d" * 9]}
    assert texts(overflow) == {}
    assert buffer.consumed() == buffer.head == overflow.head()


def test_around_the_end(buffer: Buffer, overflow: Overflow) -> None:
    """Where the buffer ends it goes on at its beginning, also in the middle of a record."""
    text = b"x" * 101
    for number in range(101):
        buffer.put(record(0, 0, text + b"%d" % number))
        assert texts(overflow) == {(0, 0): [text + b"%d" % number]}
    assert buffer.head > 3 * SIZE


def test_discarded_and_busy(buffer: Buffer, overflow: Overflow) -> None:
    """What was given up is left out; what is being written is waited for, with all that is behind it."""
    buffer.put(record(0, 0, b"no"), DISCARD)
    buffer.put(record(0, 0, b"one"))
    busy = buffer.put(record(0, 0, b"two"), BUSY)
    buffer.put(record(0, 0, b"three"))
    assert texts(overflow) == {(0, 0): [b"one"]}
    assert buffer.consumed() == busy
    buffer.commit(busy, len(record(0, 0, b"two")))
    assert texts(overflow) == {(0, 0): [b"two", b"three"]}


def test_up_to_a_moment(buffer: Buffer, overflow: Overflow) -> None:
    """Of each CPU only what is before its own moment comes; the rest comes next, first."""
    buffer.put(record(0, 0, b"a"))
    buffer.put(record(1, 0, b"b"))
    moment = buffer.put(record(0, 0, b"c"))
    end = buffer.put(record(1, 0, b"d"))
    assert texts(overflow, {0: moment, 1: end}) == {(0, 0): [b"a"], (1, 0): [b"b"]}
    buffer.put(record(0, 0, b"e"))
    assert texts(overflow) == {(0, 0): [b"c", b"e"], (1, 0): [b"d"]}


def test_close_is_idempotent(buffer: Buffer) -> None:
    """Closed twice is closed."""
    overflow = Overflow(buffer.fd, SIZE)
    overflow.close()
    overflow.close()
