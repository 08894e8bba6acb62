"""Bring the records of all rings into the order in which they happened, and count what never came."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import repeat
from operator import itemgetter
from typing import Final, NamedTuple, TypeVar

from tracer.probes.records import DECODERS, KIND_AT, TIME, DecodeError, Record

__all__ = ["Order", "RingCount", "RingRun"]

# A record takes its time first and its place in the ring last; in between, whatever interrupts the probe may run.
SLACK_NS: Final = 20_000_000
_HEAD_SIZE: Final = 16
_NEVER: Final = 1 << 64
_LEVEL_SHIFT: Final = 62  # SEQ_LEVEL_SHIFT of bpf/tracer.h: a number is level << 62 | number in the level
_NEXT_LEVEL: Final = 1 << _LEVEL_SHIFT
_Made = TypeVar("_Made")
Held = tuple[int, bytes, int]  # time, what the record is in, and where
_head = struct.Struct("=QQ").unpack_from  # of struct header: time, seq
_time = itemgetter(TIME)


class RingRun(NamedTuple):
    """What one ring gave in one turn: payload positions ``offsets`` in ``data``, oldest first."""

    cpu: int
    ring: int
    data: bytes
    lost: int
    drained: bool
    offsets: list[int]


class RingCount:
    """The sequence numbers seen of one ring on one CPU.

    Each level has numbers of its own from 0 up: level 0 is nearly every record's, the others are given to a probe that
    interrupts another just as that one takes its number.
    """

    __slots__ = ("highest", "nested", "received")

    def __init__(self) -> None:
        """Nothing seen: the first number is 0."""
        self.highest = -1
        self.nested: dict[int, int] = {}  # level -> highest number, of the levels above 0
        self.received = 0

    def see(self, numbers: Sequence[int]) -> None:
        """Take note of the numbers of some records, in any order."""
        # Not the last one's: a probe that was interrupted writes its number behind higher ones.
        highest = max(numbers)
        if highest >= _NEXT_LEVEL:
            for number in numbers:
                level, of_level = number >> _LEVEL_SHIFT, number & _NEXT_LEVEL - 1
                if level:
                    self.nested[level] = max(self.nested.get(level, -1), of_level)
            highest = max((number for number in numbers if number < _NEXT_LEVEL), default=-1)
        self.highest = max(self.highest, highest)

    @property
    def missing(self) -> int:
        """Numbers below the highest of their level that were not seen, whatever their order."""
        given = self.highest + 1 + sum(highest + 1 for highest in self.nested.values())
        return max(0, given - self.received)  # an undecodable record was received, but tells no number


class Order:
    """Merge by kernel time with a short hold.

    All rings were drained after the moment T, so what happened before T - slack is in: it can go on. Within a ring,
    numbers out of order are legal (a probe interrupted by another); a gap in a level is loss.
    """

    def __init__(self, slack_ns: int = SLACK_NS) -> None:
        """Hold records back for ``slack_ns`` nanoseconds."""
        self.slack_ns = slack_ns
        self.rings: dict[tuple[int, int], RingCount] = {}
        self.undecodable: Counter[int] = Counter()  # by the kind's byte
        self._held: list[list[Held]] = []  # what each run gave, by time
        self._cut = 0  # everything before it has gone on

    def add(self, run: RingRun) -> None:
        """Take in what a ring gave, not decoded yet: decoded records take several times the memory."""
        if not run.offsets:
            return
        data, offsets = run.data, run.offsets
        try:
            heads = [_head(data, at) for at in offsets]
        except struct.error:
            offsets = self._whole(run)
            heads = [_head(data, at) for at in offsets]
        count = self.rings.get((run.cpu, run.ring))
        if count is None:
            count = self.rings[run.cpu, run.ring] = RingCount()
        count.received += len(run.offsets)
        if heads:
            times, numbers = zip(*heads, strict=True)
            count.see(numbers)
            batch = list(zip(times, repeat(data), offsets, strict=False))
            batch.sort(key=_time)  # nearly so already: linear
            self._held.append(batch)

    def _whole(self, run: RingRun) -> list[int]:
        """Where the records are of which at least time and number are there; the others are counted."""
        whole = [at for at in run.offsets if at + _HEAD_SIZE <= len(run.data)]
        self.undecodable[255] += len(run.offsets) - len(whole)
        return whole

    def release(self, drained_at: int | None) -> tuple[list[Held], int]:
        """Let go of what is certainly complete, in order, and tell how many of the first came too late for theirs.

        ``drained_at`` is a time (CLOCK_BOOTTIME, ns) after which every ring was read to its end; None lets go of all.
        """
        cut = max(self._cut, drained_at - self.slack_ns) if drained_at is not None else _NEVER
        released: list[Held] = []
        held = []
        for batch in self._held:  # most are before or behind the cut as a whole, and not looked through
            if batch[-1][0] < cut:
                released += batch
            elif batch[0][0] >= cut:
                held.append(batch)
            else:
                end = bisect_left(batch, cut, key=_time)
                released += batch[:end]
                held.append(batch[end:])
        self._held = held
        released.sort(key=_time)  # stable, and quick with what is sorted in pieces
        late = bisect_left(released, self._cut, key=_time)
        if drained_at is not None:
            self._cut = cut
        elif released:
            self._cut = max(self._cut, released[-1][0])
        return released, late

    def handled(
        self, released: list[Held], handlers: Sequence[Callable[[Record, bool], _Made]], *, late: bool = False
    ) -> list[_Made]:
        """What the handlers, by kind, make of the records; of those that can't be decoded the kind's byte is counted.

        One by one, so that all records come to lie in the same memory, which a processor has at hand.
        """
        decoders = DECODERS
        made: list[_Made] = []
        append = made.append
        for _, data, at in released:
            try:
                kind = data[at + KIND_AT]
                record = decoders[kind](data, at)  # type: ignore[misc]
            except (TypeError, IndexError, struct.error, DecodeError):
                self.undecodable[data[at + KIND_AT] if at + KIND_AT < len(data) else 255] += 1
                continue
            append(handlers[kind](record, late))
        return made

    @property
    def cut(self) -> int:
        """Everything before this time (boottime ns) has gone on."""
        return self._cut

    @property
    def holds(self) -> bool:
        """Whether anything is held back."""
        return bool(self._held)

    def held_by_kind(self) -> Counter[int]:
        """How many records of each kind are held back."""
        return Counter(data[at + KIND_AT] for batch in self._held for _, data, at in batch)

    @property
    def missing(self) -> int:
        """Records that were given a number and never came, over all rings."""
        return sum(count.missing for count in self.rings.values())
