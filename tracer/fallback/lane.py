"""An in-memory stand-in for the probes' rings: it filters, numbers and counts records as the probes do.

What goes in are records as bpf/tracer.h lays them out, from whatever found them out; what comes out are Runs, as from a
perf ring. Everything is of one CPU, number 0, and of one moment: a cut is always settled.
"""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from struct import Struct
from typing import Final

from tracer.model import RING_KINDS, SOCKET_KINDS, Kind
from tracer.probes.perf_event import PAYLOAD_OFFSET
from tracer.probes.records import HEADER, KIND_AT, SOCKET, TALLY
from tracer.probes.rings import Run
from tracer.probes.source import Cut, KernelFilters, boottime

__all__ = ["RINGS", "Lane"]

RINGS: Final = ("lifecycle", "bulk")  # enum ring of bpf/tracer.h
_SAMPLE: Final = 9  # PERF_RECORD_SAMPLE of include/uapi/linux/perf_event.h
_QUIET_NS: Final = 250_000_000  # ends a burst of failures, as in bpf/common.bpf.h
_TGID: Final = 3  # positions in struct header
_parent: Final = Struct(f"={HEADER.size + 16}xI").unpack_from  # parent_tgid, behind parent_start and cgroup
_number: Final = Struct("=Q")
_NUMBER_AT: Final = 8  # byte offset of seq in struct header
_RING_AT: Final = KIND_AT + 1
_sample: Final = Struct("=IHHI").pack
# Positions in struct socket_record.
_NETNS: Final = 17
_UID: Final = 18
_SPORT: Final = 21
_DPORT: Final = 22
_SADDR: Final = 27
_DADDR: Final = 28


class _Tally:
    """struct tally of one kind; only ever added to."""

    __slots__ = ("attempts", "failed", "failed_first", "failed_last", "filtered", "no_space", "passed", "truncated")

    def __init__(self) -> None:
        self.attempts = self.filtered = self.passed = self.failed = self.no_space = 0
        self.failed_first = self.failed_last = self.truncated = 0

    def pack(self) -> bytes:
        return TALLY.pack(
            self.attempts,
            self.filtered,
            self.passed,
            self.failed,
            self.no_space,
            0,
            0,
            self.failed_first,
            self.failed_last,
            self.truncated,
            0,
            0,
        )


class _Ring:
    """Records that wait for their reader, oldest first."""

    __slots__ = ("bytes", "number", "waiting")

    def __init__(self) -> None:
        self.waiting: list[bytes] = []
        self.bytes = 0
        self.number = 0  # of the next record


class Lane:
    """Two rings, one for processes and one for sockets, so that sockets can't push out a process.

    A record that does not fit is counted as lost, and its number is missing in the ring.
    """

    def __init__(self, filters: KernelFilters, excluded: Iterable[int], most: int) -> None:
        """``excluded`` are pids that are never told of; the rings share ``most`` bytes."""
        self._filters = filters
        self._pids = set(filters.pids)
        self._excluded = set(excluded)
        self._networks = [_prefix(text) for text in filters.cidrs]
        self._most = most // len(RINGS)
        self._rings = [_Ring() for _ in RINGS]
        self._tallies = [_Tally() for _ in RING_KINDS]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each ring, by name."""
        return dict.fromkeys(RINGS, self._most)

    @property
    def waiting(self) -> int:
        """Bytes of the records that nobody has read yet."""
        return sum(ring.bytes for ring in self._rings)

    @property
    def room(self) -> int:
        """Bytes that are left in the fuller of the rings."""
        return self._most - max(ring.bytes for ring in self._rings)

    def follow(self, pids: Iterable[int]) -> None:
        """These pids are told of too (with a filter for pids)."""
        self._pids.update(pids)

    def put(self, record: bytes, *, truncated: bool = False) -> bool:
        """Take in a record, which needs no number; False when it was filtered or does not fit."""
        kind = Kind(record[KIND_AT])
        header = HEADER.unpack_from(record)
        tally = self._tallies[kind]
        tally.attempts += 1
        if not self._is_wanted(kind, header[_TGID], record):
            tally.filtered += 1
            return False
        tally.truncated += truncated
        index = int(kind in SOCKET_KINDS)
        ring = self._rings[index]
        size = PAYLOAD_OFFSET + len(record) + 7 & -8  # as the kernel pads a perf record
        number, ring.number = ring.number, ring.number + 1
        if ring.bytes + size > self._most:
            now = boottime()
            if now - tally.failed_last > _QUIET_NS:
                tally.failed_first = now
            tally.failed_last = now
            tally.failed += 1
            tally.no_space += 1
            return False
        numbered = bytearray(record)
        _number.pack_into(numbered, _NUMBER_AT, number)
        numbered[_RING_AT] = index
        raw = size - PAYLOAD_OFFSET
        ring.waiting.append(_sample(_SAMPLE, 0, size, raw) + numbered.ljust(raw, b"\0"))
        ring.bytes += size
        tally.passed += 1
        return True

    def _is_wanted(self, kind: Kind, tgid: int, record: bytes) -> bool:
        filters, pids = self._filters, self._pids
        if kind in SOCKET_KINDS:
            return self._is_wanted_socket(kind, tgid, record)
        parent = _parent(record)[0]
        if kind is Kind.FORK and filters.follow and parent in pids:
            pids.add(tgid)
        wanted = tgid not in self._excluded and (not filters.pids or tgid in pids)
        if kind is Kind.FORK:
            return wanted and parent not in self._excluded
        if kind is Kind.EXIT and filters.follow:
            pids.discard(tgid)
        return wanted

    def _is_wanted_socket(self, kind: Kind, tgid: int, record: bytes) -> bool:
        filters = self._filters
        if tgid in self._excluded or kind not in filters.kinds or (filters.pids and tgid not in self._pids):
            return False
        told = SOCKET.unpack_from(record)
        if filters.uids and told[_UID] not in filters.uids:
            return False
        if filters.netns and told[_NETNS] not in filters.netns:
            return False
        if filters.ports and told[_SPORT] not in filters.ports and told[_DPORT] not in filters.ports:
            return False
        if not self._networks:
            return True
        ends = [int.from_bytes(told[at]) for at in (_SADDR, _DADDR)]
        return any(end >> rest == prefix for rest, prefix in self._networks for end in ends)

    def read(self, limit: int) -> list[Run]:
        """What waits, at most ``limit`` bytes of each ring but at least a record."""
        return [self._take(index, limit) for index, ring in enumerate(self._rings) if ring.waiting]

    def _take(self, index: int, limit: int) -> Run:
        ring = self._rings[index]
        offsets: list[int] = []
        at = 0
        for record in ring.waiting:
            if offsets and at + len(record) > limit:
                break
            offsets.append(at + PAYLOAD_OFFSET)
            at += len(record)
        data = b"".join(ring.waiting[: len(offsets)])
        del ring.waiting[: len(offsets)]
        ring.bytes -= at
        return Run(0, index, data, 0, not ring.waiting, offsets)

    def tallies(self) -> bytes:
        """The counters (struct tally by kind)."""
        return b"".join(tally.pack() for tally in self._tallies)

    def cut(self) -> Cut:
        """Everything that waits, and the counters of that moment."""
        return Cut(self.read(1 << 62), self.tallies(), True)


def _prefix(text: str) -> tuple[int, int]:
    """A network as bits that don't matter and the number above them, of addresses as socket records have them."""
    network = ip_network(text, strict=False)
    number = int(network.network_address)
    if network.version == 4:
        number |= 0xFFFF << 32  # ::ffff:a.b.c.d
    rest = network.max_prefixlen - network.prefixlen
    return rest, number >> rest
