"""Bring the records of all rings into the order in which they happened, and count what never came."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections import Counter
from operator import itemgetter
from typing import Final, NamedTuple

from tracer.probes.records import DECODERS, KIND_AT, SEQ, TIME, DecodeError, Record, decode

__all__ = ["Order", "RingCount", "RingRun"]

# A record takes its time first and its place in the ring last; in between, whatever interrupts the probe may run.
SLACK_NS: Final = 20_000_000
Held = tuple[int, int, bytes, int]  # time, number in its ring, what the record is in, and where
_LEVEL_SHIFT: Final = 62  # SEQ_LEVEL_SHIFT of bpf/tracer.h: a number is level << 62 | number in the level
_NEXT_LEVEL: Final = 1 << _LEVEL_SHIFT
_head = struct.Struct("=QQ").unpack_from  # of struct header: time, seq
_seq = itemgetter(SEQ)
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

    def see(self, numbers: list[int]) -> None:
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
        self._held: list[Held] = []
        self._cut = 0  # everything before it has gone on

    def add(self, run: RingRun) -> None:
        """Take in what a ring gave, not decoded yet: decoded records take several times the memory."""
        if not run.offsets:
            return
        data = run.data
        try:
            batch = [(*_head(data, at), data, at) for at in run.offsets]
        except struct.error:
            batch = self._heads_of_each(run)
        count = self.rings.get((run.cpu, run.ring))
        if count is None:
            count = self.rings[run.cpu, run.ring] = RingCount()
        count.received += len(run.offsets)
        if batch:
            count.see(list(map(_seq, batch)))
        self._held += batch

    def _heads_of_each(self, run: RingRun) -> list[Held]:
        batch: list[Held] = []
        for at in run.offsets:
            try:
                batch.append((*_head(run.data, at), run.data, at))
            except struct.error:
                self.undecodable[255] += 1
        return batch

    def release(self, drained_at: int | None) -> tuple[list[Held], int]:
        """Let go of what is certainly complete, in order, and tell how many of the first came too late for theirs.

        ``drained_at`` is a time (CLOCK_BOOTTIME, ns) after which every ring was read to its end; None lets go of all.
        """
        held = self._held
        held.sort(key=_time)  # a stable sort of runs that are nearly in order already: almost linear
        late = bisect_left(held, self._cut, key=_time)
        if drained_at is None:
            self._held = []
            if held:
                self._cut = max(self._cut, held[-1][0])
            return held, late
        cut = max(self._cut, drained_at - self.slack_ns)
        end = bisect_left(held, cut, key=_time)
        self._held = held[end:]
        self._cut = cut
        return held[:end], late

    def decoded(self, released: list[Held]) -> list[Record]:
        """The records, without those that can't be decoded: they are counted, by their kind's byte."""
        decoders = DECODERS
        try:
            return [decoders[data[at + KIND_AT]](data, at) for _, _, data, at in released]  # type: ignore[misc]
        except (TypeError, IndexError, struct.error, DecodeError):
            return self._decoded_each(released)

    def _decoded_each(self, released: list[Held]) -> list[Record]:
        records = []
        for _, _, data, at in released:
            try:
                records.append(decode(data, at))
            except DecodeError:
                self.undecodable[data[at + KIND_AT] if at + KIND_AT < len(data) else 255] += 1
        return records

    @property
    def holds(self) -> bool:
        """Whether anything is held back."""
        return bool(self._held)

    def held_by_kind(self) -> Counter[int]:
        """How many records of each kind are held back."""
        return Counter(data[at + KIND_AT] for _, _, data, at in self._held)

    @property
    def missing(self) -> int:
        """Records that were given a number and never came, over all rings."""
        return sum(count.missing for count in self.rings.values())
