"""Read BPF perf buffers from their mapped rings in whole runs, without a callback per record.

The layout of a ring is that of the kernel's include/uapi/linux/perf_event.h. Only the descriptor of a
BPF_MAP_TYPE_PERF_EVENT_ARRAY is needed, so the same reader serves maps made by libbpf and by BCC. One thread reads a
ring.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import struct
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Final, NamedTuple, Self

from tracer.probes.libbpf_binding import online_cpus
from tracer.probes.perf_event import (
    BPF_MAP_DELETE_ELEM,
    BPF_MAP_UPDATE_ELEM,
    PAYLOAD_OFFSET,
    PERF_EVENT_IOC_ENABLE,
    RingError,
    Split,
    check_map,
    map_element,
    open_event,
    record_header,
    split,
)

__all__ = ["PAYLOAD_OFFSET", "Ring", "RingError", "RingSet", "Run", "Split", "fence", "ring_bytes", "split"]

# Fields of struct perf_event_mmap_page as positions in 64-bit words: data_head is at byte 1024.
_HEAD: Final = 128
_TAIL: Final = 129
_DATA_OFFSET: Final = 130

_times = struct.Struct("=8xQQ").unpack  # behind the event's value: time enabled, time running


class Run(NamedTuple):
    """What one ring held at one moment.

    ``ring`` is the position of the buffer's name in ``RingSet.names``. ``data`` is whole perf records as the kernel
    wrote them. ``records_lost`` is the sum of its LOST records. ``drained`` is True when nothing was left below the
    head that was asked for. ``offsets`` are the byte positions in ``data`` of the payloads of its SAMPLE records,
    oldest first; the kernel pads a payload to the end of its record, so the payload itself must tell its length.
    """

    cpu: int
    ring: int
    data: bytes
    records_lost: int
    drained: bool
    offsets: list[int]


def ring_bytes(total: int, cpus: int) -> int:
    """Bytes of one CPU's ring when ``total`` are shared by ``cpus``: a power of two of pages, rounded down, min 1."""
    pages = total // max(cpus, 1) // mmap.PAGESIZE
    return mmap.PAGESIZE << max(pages.bit_length() - 1, 0)


# CPython orders nothing between two plain memory accesses. Giving back a lock and taking it again is a release
# followed by an acquire, which keeps what is before it before what is after it on every machine named above.
_fence_lock = threading.Lock()
_fence_lock.acquire()


def fence() -> None:
    """Keep what is read or written before it before what is read or written after it."""
    _fence_lock.release()
    _fence_lock.acquire()


class Ring:
    """One CPU's ring of one perf buffer, mapped; made by RingSet."""

    def __init__(self, cpu: int, name: str, index: int, size: int, watermark: int) -> None:
        """Map ``size`` data bytes; a poller is woken each ``watermark`` bytes.

        Raises OSError (ENODEV: the CPU is offline) when there is no event, RingError when its memory is refused.
        """
        self.cpu = cpu
        self.name = name
        self.index = index
        self.size = size
        # A watermark near the ring's size would wake nobody before records are lost.
        self.fd = open_event(cpu, max(1, min(watermark, size // 2)))
        try:
            self._memory = mmap.mmap(self.fd, mmap.PAGESIZE + size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        except OSError as refused:
            os.close(self.fd)
            raise _memory_error(refused.errno or 0, cpu, name, size) from refused
        self._control = memoryview(self._memory)[: mmap.PAGESIZE].cast("Q")
        self._start = self._control[_DATA_OFFSET]
        self._tail = self._control[_TAIL]
        self._running = 0
        self._closed = False

    def head(self) -> int:
        """Where the kernel writes next: bytes written since the ring was opened, ever growing."""
        return 0 if self._closed else self._control[_HEAD]

    @property
    def tail(self) -> int:
        """Bytes read since the ring was opened."""
        return self._tail

    def read_to(self, head: int, limit: int | None = None) -> Run:
        """Take the records below ``head`` (a value of head()), at most ``limit`` bytes but at least one record."""
        tail = self._tail
        wanted = min(head, self.head()) - tail
        if wanted <= 0:
            return Run(self.cpu, self.index, b"", 0, True, [])
        fence()  # the head is read before the records
        take = wanted if limit is None else min(wanted, max(8, limit & -8))
        data = self._copy(tail, take)
        offsets, lost, end = split(data)
        if end == 0 and take < wanted:  # not even one record fits the limit
            take = min(wanted, record_header(data, 0)[1])
            data = self._copy(tail, take)
            offsets, lost, end = split(data)
        if end < take:
            if take == wanted:
                raise RingError(f"ring {self.name!r} of CPU {self.cpu}: a record is cut at byte {tail + end}")
            data = data[:end]
        fence()  # the records are read before the kernel may write over them
        self._tail = self._control[_TAIL] = tail + end
        return Run(self.cpu, self.index, data, lost, end == wanted, offsets)

    def _copy(self, tail: int, count: int) -> bytes:
        begin = tail & (self.size - 1)
        end = begin + count
        base = self._start
        memory = self._memory
        if end <= self.size:
            return memory[base + begin : base + end]
        return memory[base + begin : base + self.size] + memory[base : base + end - self.size]

    def enable(self) -> None:
        """Let the kernel write. Raises OSError."""
        fcntl.ioctl(self.fd, PERF_EVENT_IOC_ENABLE, 0)

    def advances(self) -> bool:
        """Whether the event ran since this was asked last: one whose CPU went away never runs again."""
        before, self._running = self._running, _times(os.read(self.fd, 24))[1]
        return self._running != before

    def close(self) -> None:
        """Unmap and close; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._control.release()
        self._memory.close()
        os.close(self.fd)


def _why(number: int) -> str:
    return f"{errno.errorcode.get(number, number)}: {os.strerror(number)}"


def _memory_error(number: int, cpu: int, name: str, size: int) -> RingError:
    what = f"ring {name!r} of CPU {cpu}: {size >> 10} KiB of locked memory refused ({_why(number)})"
    return RingError(f"{what}; ask for a smaller buffer, raise kernel.perf_event_mlock_kb, or add CAP_IPC_LOCK", number)


def _event_error(number: int, cpu: int, name: str) -> RingError:
    fixes = {
        errno.EPERM: "run as root, or add CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)",
        errno.EACCES: "run as root, or add CAP_PERFMON (before Linux 5.8: CAP_SYS_ADMIN)",
        errno.EMFILE: "raise the limit on open files (ulimit -n)",
        errno.ENOSYS: "this kernel has no perf events",
        errno.ENODEV: "this CPU is offline",
    }
    fix = fixes.get(number)
    return RingError(f"ring {name!r} of CPU {cpu}: {_why(number)}" + (f"; {fix}" if fix else ""), number)


class RingSet:
    """The rings of several perf buffers on several CPUs, read together; a context manager."""

    def __init__(self, names: Iterable[str]) -> None:
        """An empty set; use RingSet.open."""
        self.names = tuple(names)
        self.rings: list[Ring] = []
        self._active: dict[tuple[int, int], Ring] = {}
        self._retired: list[Ring] = []
        self._maps: list[int] = []
        self._sizes: list[int] = []
        self._watermark = 0
        self._epoll = select.epoll()

    @classmethod
    def open(
        cls,
        buffers: Mapping[str, int],
        *,
        bytes_total: Mapping[str, int],
        watermark: int,
        cpus: Iterable[int] | None = None,
    ) -> Self:
        """Open a ring for each buffer (name -> map descriptor) on each CPU (default: all that are online).

        ``bytes_total`` (by name) is over all CPUs; one ring gets its share rounded down to a power of two of pages,
        at least one page. ``watermark`` is in bytes of one ring, and is cut to half of it. A CPU that went offline
        meanwhile is left out. Raises RingError, and KeyError for a name without a size.
        """
        chosen = sorted(set(online_cpus() if cpus is None else cpus))
        self = cls(buffers)
        self._watermark = watermark
        self._sizes = [ring_bytes(bytes_total[name], len(chosen)) for name in self.names]
        try:
            self._fill(buffers, chosen)
        except BaseException:
            self.close()
            raise
        return self

    def _fill(self, buffers: Mapping[str, int], cpus: list[int]) -> None:
        for name in self.names:
            self._maps.append(_duplicate(buffers[name], name))
        for index in range(len(self.names)):
            for cpu in cpus:
                self._add(index, cpu)
        if cpus and self.names and not self.rings:
            raise _event_error(errno.ENODEV, cpus[0], self.names[0])

    def _add(self, index: int, cpu: int) -> Ring | None:
        """Open, install and enable one ring; None when its CPU is offline. Raises RingError."""
        name = self.names[index]
        try:
            ring = Ring(cpu, name, index, self._sizes[index], self._watermark)
        except OSError as refused:
            if refused.errno == errno.ENODEV:
                return None
            raise _event_error(refused.errno or 0, cpu, name) from refused
        try:
            map_element(BPF_MAP_UPDATE_ELEM, self._maps[index], cpu, ring.fd)
            ring.enable()
            ring.advances()
            self._epoll.register(ring.fd, select.EPOLLIN)
        except OSError as refused:
            ring.close()
            number = refused.errno or 0
            raise RingError(f"buffer {name!r} takes no ring for CPU {cpu} ({_why(number)})", number) from refused
        self._active[index, cpu] = ring
        self.rings.append(ring)
        return ring

    def add_missing_cpus(self, online: Iterable[int] | None = None) -> list[Ring]:
        """Open rings for CPUs that have none, or whose ring stopped because the CPU was away; return the new ones.

        ``online`` defaults to what the kernel says (read from /sys). A stopped ring is seen at the second call after
        its CPU came back; what it still holds is read first, then it is closed. New rings are as large as the others.
        Raises RingError.
        """
        opened: list[Ring] = []
        for cpu in sorted(set(online_cpus() if online is None else online)):
            for index in range(len(self.names)):
                old = self._active.get((index, cpu))
                if old is not None and old.advances():
                    continue
                new = self._add(index, cpu)
                if new is not None:
                    opened.append(new)
                    if old is not None:
                        self._unwatch(old.fd)
                        self._retired.append(old)
        return opened

    @property
    def fds(self) -> list[int]:
        """Descriptors that become readable when a ring passes its watermark, for a poller of the caller's."""
        return [ring.fd for ring in self.rings]

    @property
    def cpus(self) -> list[int]:
        """CPUs that have rings."""
        return sorted({cpu for _, cpu in self._active})

    @property
    def sizes(self) -> dict[str, int]:
        """Data bytes really mapped, by buffer name, over all CPUs."""
        return {
            name: sum(ring.size for ring in self.rings if ring.index == index) for index, name in enumerate(self.names)
        }

    def poll(self, timeout_ms: float) -> bool:
        """Wait until a ring passes its watermark or ``timeout_ms`` is over; True when one did.

        The kernel tells each passing once, and nothing about rings below their watermark: read them all after each
        call, whatever it returned.
        """
        events = self._epoll.poll(timeout_ms / 1000)
        for fd, event in events:
            if event & (select.EPOLLHUP | select.EPOLLERR):
                self._unwatch(fd)  # it would be reported for ever
        return bool(events)

    def _unwatch(self, fd: int) -> None:
        # While the ring is open: the kernel may hold on to the event after that, and go on to report its number.
        with suppress(FileNotFoundError):  # its end was reported before
            self._epoll.unregister(fd)

    def heads(self) -> list[tuple[Ring, int]]:
        """Each ring with its head of now, for a cut across all rings: read_to() each of them."""
        return [(ring, ring.head()) for ring in self.rings]

    def read_to(self, ring: Ring, head: int, limit: int | None = None) -> Run:
        """Take the records of ``ring`` below ``head``; see Ring.read_to."""
        return ring.read_to(head, limit)

    def read(self, limit_bytes_per_ring: int | None = None) -> list[Run]:
        """Take what each ring holds, at most ``limit_bytes_per_ring`` (but at least a record) from each.

        Rings that hold nothing give no Run. Raises RingError.
        """
        runs = [
            run
            for ring in self.rings
            if ring.head() != ring.tail and (run := ring.read_to(ring.head(), limit_bytes_per_ring)).data
        ]
        if self._retired:
            self._close_retired()
        return runs

    def _close_retired(self) -> None:
        for ring in [ring for ring in self._retired if ring.head() == ring.tail]:
            self._retired.remove(ring)
            self.rings.remove(ring)
            ring.close()

    def close(self) -> None:
        """Take the rings out of their maps and close them; idempotent. What they hold is gone."""
        for (index, cpu), ring in self._active.items():
            try:
                map_element(BPF_MAP_DELETE_ELEM, self._maps[index], cpu, ring.fd)
            except OSError:
                continue  # a confined process may not: closing the map's last descriptor does the same
        for ring in self.rings:
            ring.close()
        for fd in self._maps:
            os.close(fd)
        self._active.clear()
        self._retired.clear()
        self.rings.clear()
        self._maps.clear()
        self._epoll.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _duplicate(fd: int, name: str) -> int:
    """A descriptor of our own for a map: its owner may close the other one, and the number be given to another file."""
    try:
        check_map(fd)
        return os.dup(fd)
    except OSError as bad:
        number = bad.errno or 0
        raise RingError(f"buffer {name!r}: no perf event array ({_why(number)})", number) from bad
