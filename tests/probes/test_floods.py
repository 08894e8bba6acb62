"""The counts of what was beyond a budget, as user space reads them from memory that a kernel writes meanwhile."""

import mmap
from typing import Any, cast

import pytest

from tracer.model import Kind
from tracer.probes.bpf_map import Map
from tracer.probes.floods import Floods
from tracer.probes.records import COUNTED, FLOOD, NOTED, UNSEEN
from tracer.probes.rings import Ring

ROWS, PLACES, CPUS = 16, 256, 2
NUMBERS = 88  # bytes of struct numbers


class Memory:
    """A map of so many elements, in memory of this process."""

    def __init__(self, count: int, size: int) -> None:
        self.max_entries = count
        self.memory = mmap.mmap(-1, count * size)

    def mmap(self, *, writable: bool = False) -> mmap.mmap:
        """The memory itself."""
        del writable
        return self.memory


class Kernel:
    """What the kernel side writes."""

    def __init__(self) -> None:
        self.floods = Memory(ROWS + 1, FLOOD.size)
        self.unseen = Memory(PLACES, UNSEEN.size)
        self.sequences = Memory(CPUS * 2, NUMBERS)
        maps = {name: cast(Map, getattr(self, name)) for name in ("floods", "unseen", "sequences")}
        self.reader = Floods(maps)
        self.all = 0

    def count(self, place: int, count: int, *, ready: int = 1, began: int = 1) -> None:
        """A row has this count, and so many more were counted in all."""
        self.all += 1
        row = FLOOD.pack(began, 2, count, 3, 4, 5, 6, 7, 1000, Kind.EXEC, 0, ready, 8, b"sh")
        self.floods.memory[place * FLOOD.size : (place + 1) * FLOOD.size] = row
        total = FLOOD.pack(0, 0, self.all, *[0] * 10, b"")
        self.floods.memory[ROWS * FLOOD.size : (ROWS + 1) * FLOOD.size] = total

    def note(self, place: int, changes: int, tgid: int = 9) -> None:
        """A process did something unseen."""
        self.unseen.memory[place * UNSEEN.size : (place + 1) * UNSEEN.size] = UNSEEN.pack(1, 2, tgid, changes)

    def rows(self) -> list[tuple[int, int]]:
        """Places and counts that are told."""
        taken = self.reader.take(counts=True)
        return [(row[0], row[3]) for row in COUNTED.iter_unpack(taken.counts)] if taken is not None else []

    def notes(self) -> list[tuple[int, int]]:
        """Places and pids that are told."""
        taken = self.reader.take(counts=False)
        return [(note[0], note[3]) for note in NOTED.iter_unpack(taken.unseen)] if taken is not None else []


@pytest.fixture(name="kernel")
def _kernel() -> Kernel:
    """Nothing was collapsed yet."""
    return Kernel()


def test_nothing_is_nothing(kernel: Kernel) -> None:
    """Where nothing was collapsed there is nothing to look at."""
    assert kernel.reader.take(counts=True) is None


def test_rows_are_told_when_they_change(kernel: Kernel) -> None:
    """A row is told with its count, again when that grows, and not in between."""
    kernel.count(3, 5)
    kernel.count(7, 1)
    assert kernel.rows() == [(3, 5), (7, 1)]
    assert kernel.rows() == []
    kernel.count(3, 6)
    assert kernel.rows() == [(3, 6)]


def test_row_that_is_not_whole_waits(kernel: Kernel) -> None:
    """What a row is about may be written after its count: it is told once it is whole, though nothing else happens."""
    kernel.count(3, 5, ready=0)
    assert kernel.rows() == []
    row = bytearray(kernel.floods.memory[3 * FLOOD.size : 4 * FLOOD.size])
    row[72:76] = (1).to_bytes(4, "little")
    kernel.floods.memory[3 * FLOOD.size : 4 * FLOOD.size] = bytes(row)
    assert kernel.rows() == [(3, 5)]


def test_counts_wait_until_they_are_asked_for(kernel: Kernel) -> None:
    """A look without counts does not take them away."""
    kernel.count(3, 5)
    taken = kernel.reader.take(counts=False)
    assert taken is not None
    assert taken.counts == b""
    assert kernel.rows() == [(3, 5)]


def test_unseen_is_told_once_and_when_it_is_whole(kernel: Kernel) -> None:
    """A note is told when its number is even and has changed; one that is being written is looked at again."""
    kernel.count(3, 1)
    kernel.note(5, 2)
    kernel.note(200, 1, 77)
    assert kernel.notes() == [(5, 9)]
    assert kernel.notes() == []
    kernel.note(200, 2, 78)
    assert kernel.notes() == [(200, 78)]
    assert kernel.notes() == []


class Level:
    """A ring that holds 300 bytes of 4096."""

    cpu, index, size, tail = 1, 1, 4096, 700

    def head(self) -> int:
        """Bytes written so far."""
        return 1000


def test_level_is_what_was_put_less_what_waits(kernel: Kernel) -> None:
    """The kernel is told, by its own count of bytes, how much was taken out, and how large the ring is."""
    at = 3 * NUMBERS + 48
    kernel.sequences.memory[at : at + 8] = (5000).to_bytes(8, "little")
    kernel.reader.level([cast(Ring, cast(Any, Level()))])
    words = [int.from_bytes(kernel.sequences.memory[at + 8 * each : at + 8 * each + 8], "little") for each in range(3)]
    assert words == [5000, 4700, 4096]
