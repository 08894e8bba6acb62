"""The procfs backend: look at /proc again and again, and tell what has changed, in the probes' own records.

It needs no privilege and no feature of the kernel, and it can't know what it misses: what begins and ends between two
looks. The time between them follows what happens, within bounds that the coverage record tells.
"""

from __future__ import annotations

import os
import struct
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tracer.fallback.files import SELF, DirectFiles, ProcFiles
from tracer.fallback.lane import Lane
from tracer.fallback.proc_net import SYN_SENT
from tracer.fallback.process_watch import ProcessWatch, Watched
from tracer.fallback.procfs import ProcFinder
from tracer.fallback.socket_watch import SocketWatch
from tracer.fallback.telling import executed, exited, forked, socket
from tracer.model import Flag, Kind
from tracer.probes.records import SIZE
from tracer.probes.rings import Run
from tracer.probes.source import Coverage, Cut, KernelFilters, SourceLostError, Unheard, boottime
from tracer.probes.unusable import UnusableError

__all__ = ["Procfs"]

SHORTEST_NS: Final = 20_000_000  # between two looks while something happens
LONGEST_NS: Final = 160_000_000  # and while nothing does
PROMISED_NS: Final = 250_000_000  # later is counted as missed: what a scheduler may add to the longest
SHARE: Final = 0.2  # of one CPU that looking may take, as long as the promise allows
_CALMER: Final = 1.5  # by which the time between two looks grows while nothing happens
_COSTS: Final = 4  # looks of which the quickest counts: the others were interrupted
_APPROXIMATE: Final = int(Flag.APPROXIMATE)
_INITIAL_PID_NAMESPACE: Final = 4026531836  # PROC_PID_INIT_INO of include/linux/proc_ns.h
_EPHEMERAL: Final = (32768, 60999)  # the kernel's own default (inet_init_net() in net/ipv4/af_inet.c)
# By name since 5.8 (commit 1c6c4d112e81), by number before.
_HIDEPID: Final = {"off": "", "0": "", "noaccess": "1", "invisible": "2", "ptraceable": "4"}
_FAILURES: Final = (OSError, ValueError, struct.error)  # what reads as nothing that procfs writes
_HOOKS: Final = {
    "processes": "/proc/PID/stat",
    "programs": "/proc/PID/exe, cmdline, status",
    "sockets": "/proc/PID/net/tcp, tcp6",
    "owners": "/proc/PID/fd",
}
_UNCOUNTED: Final = ("processes and connections that begin and end between two looks, and what is undone by the next",)
_BLIND: Final = (
    "execs that fail, and all but the last of those between two looks",
    "why connections failed or ended, their bytes, retransmits and round-trip times",
    "the status of an exit, but where a look finds the zombie",
    "sockets in network namespaces that no process is in",
)


class Procfs:
    """A Source that compares looks at /proc. One thread calls it."""

    name = "procfs"

    def __init__(
        self, filters: KernelFilters, buffer_bytes: int, files: ProcFiles | None = None, also: Iterable[int] = ()
    ) -> None:
        """``files`` reads /proc, by itself this process does; ``also`` are pids that are left out beside this one."""
        self._files = files or DirectFiles()
        self.own_pid = os.getpid()
        self.excluded = [*also]
        self._filters = filters
        self._buffer = buffer_bytes
        self._time = 0
        self._costs: deque[int] = deque(maxlen=_COSTS)
        self._interval = self._promised = PROMISED_NS
        self._begun = self._due = 0  # the last look, and the next
        self._late = 0  # looks that came later than promised
        self._ended = False

    def __enter__(self) -> Self:
        """Make sure that there is a /proc to look at. Raises UnusableError."""
        try:
            self.own_pid = int(Path("/proc/self").readlink().name)
            self._files.read(SELF, "stat")
        except OSError as error:
            fix = "mount it: mount -t proc proc /proc"
            raise UnusableError(f"/proc can't be read ({error.strerror}); {fix}", 4) from error
        self.excluded = sorted({*self.excluded, self.own_pid})
        self._lane = Lane(self._filters, self.excluded, self._buffer)
        hidden = _hidepid()
        self._processes = ProcessWatch(self._files, ProcFinder(self._files), hidden=hidden in ("2", "4"))
        self._sockets = SocketWatch(self._files, self._now, _ephemeral())
        self._hidepid = hidden
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """There is nothing to give back but what the files keep open, which ends with them."""

    def _now(self) -> int:
        """A time of its own for each thing: what one look finds is told in the order in which it is found."""
        self._time = max(self._time + 1, boottime())
        return self._time

    # The beginning.

    def start(self) -> Coverage:
        """Take the first look, which everything later is compared with. Raises UnusableError."""
        try:
            self._processes.look()
            self._sockets.look(self._processes.living)
        except _FAILURES as error:
            raise UnusableError(f"what is in /proc can't be understood: {error}", 4) from error
        self._look()  # what a look costs from now on: the first describes every process
        self._promised = max(PROMISED_NS, int(min(self._costs) / SHARE * PROMISED_NS / LONGEST_NS))
        return Coverage(
            self.name,
            dict(_HOOKS),
            {},
            [*self._hidden_here(), *_BLIND],
            self.excluded,
            self.own_pid,
            self._lane.sizes,
            uncounted=_UNCOUNTED,
            fix="let eBPF run: `tracer doctor` tells what it takes here",
            polling={"shortest_ms": SHORTEST_NS // 1_000_000, "longest_ms": self._promised // 1_000_000},
        )

    def _hidden_here(self) -> list[str]:
        """What this user, and this container, can't see of the machine."""
        found = []
        if Path("/proc/self/ns/pid").stat().st_ino != _INITIAL_PID_NAMESPACE:
            found.append("everything outside this pid namespace: pids, and with them entity ids, are those inside it")
        if self._hidepid:
            found.append(f"processes of other users: /proc is mounted with hidepid={self._hidepid}")
        elif self._processes.unreadable:
            found.append(f"{self._processes.unreadable} processes of which nothing may be read")
        if self._sockets.closed:
            found.append(f"sockets in {len(self._sockets.closed)} network namespaces: their tables may not be read")
        closed = [
            process for process in self._processes.living.values() if process.image is None and not process.is_kernel
        ]
        if closed:
            found.append(
                f"of processes that this user may not look into ({len(closed)} now): the files that they run, execs "
                "but the first, which sockets are theirs, and the network namespaces that they alone are in"
            )
        return found

    def processes(self) -> bytes:
        """The processes that were there at the last look, as records behind their sizes."""
        return _framed(
            process.record for process in self._processes.living.values() if process.pid not in self.excluded
        )

    def sockets(self) -> bytes:
        """The sockets from before the start, once, and the connects that are still pending, behind their sizes."""
        records = []
        for flow in self._sockets.flows():
            if flow.owner.pid in self.excluded or not flow.inode:
                continue
            if flow.before:
                records.append(socket(Kind.SOCKET_FOUND, self._now(), flow, flow.state))
                flow.before = False
            elif flow.state == SYN_SENT and not flow.attempted:
                records.append(socket(Kind.ATTEMPT, self._now(), flow, flow.state, _APPROXIMATE))
        return _framed(records)

    def snapshot(self) -> tuple[bytes, bytes]:
        """Both."""
        return self.processes(), self.sockets()

    def follow(self, pids: set[int]) -> None:
        """These pids are traced too (with a filter for pids)."""
        self._lane.follow(pids)

    # Looking.

    def _look(self) -> None:
        begun = time.monotonic_ns()
        if self._begun and begun - self._begun > self._promised:
            self._late += 1
        self._begun = begun
        try:
            busy = self._compare()
        except _FAILURES as error:
            raise SourceLostError(f"/proc can't be read any more: {error}") from error
        self._costs.append(time.monotonic_ns() - begun)
        self._due = begun + self._planned(busy=busy)

    def _planned(self, *, busy: bool) -> int:
        """From the beginning of a look to that of the next, in ns."""
        cost = min(self._costs)
        wanted = SHORTEST_NS if busy else int(self._interval * _CALMER)
        most = self._promised * LONGEST_NS // PROMISED_NS
        self._interval = min(max(wanted, int(cost / SHARE)), most)
        return max(self._interval, 2 * cost)  # half of the time, whatever was promised

    def _compare(self) -> bool:
        """Put all that has changed into the lane; False when nothing has."""
        put = self._lane.put
        living = self._processes.living
        born, replaced, gone = self._processes.look()
        again = {process.pid for process in born}
        for process in gone:
            if process.pid in again:
                put(self._exit(process))  # before who has its pid now
        for process in sorted(born, key=lambda each: (each.stat.start, each.pid)):
            put(forked(process.record, self._now(), forker=self._forker(process), flags=_APPROXIMATE))
            if process.executed:
                put(executed(process.record, self._now(), flags=_APPROXIMATE))
        for process in replaced:
            put(executed(process.record, self._now(), flags=_APPROXIMATE))
        changes = self._sockets.look(living)
        for kind, flow, state in changes:
            put(socket(kind, self._now(), flow, state, _APPROXIMATE))
        for process in gone:
            if process.pid not in again:
                put(self._exit(process))
        return bool(born or replaced or gone or changes)

    def _exit(self, process: Watched) -> bytes:
        flags = _APPROXIMATE | (Flag.NO_PROGRAM if process.has_other_program else 0)
        return exited(process.record, self._now(), status=process.status, cpu_ticks=process.stat.cpu, flags=flags)

    def _forker(self, process: Watched) -> int:
        """The parent, if that runs what this process runs: the same address space, or a copy of it."""
        parent = self._processes.living.get(process.stat.parent)
        same = parent is not None and parent.image is not None and parent.image == process.image
        return process.stat.parent if same else 0

    def wait(self, milliseconds: float) -> None:
        """Sleep until the next look is due, or so long."""
        until_due = (self._due - time.monotonic_ns()) / 1e9
        time.sleep(max(0.0, min(milliseconds / 1000, until_due)))

    def renew(self) -> None:
        """Nothing here depends on what may change."""

    def read(self, limit: int) -> list[Run]:
        """Look if it is time, and give what waits, at most ``limit`` bytes of each ring."""
        if not self._ended and time.monotonic_ns() >= self._due:
            self._look()
        return self._lane.read(limit)

    def tallies(self) -> bytes:
        """The counters (struct tally by kind)."""
        return self._lane.tallies()

    def cut(self) -> Cut:
        """Look, and give all that waits with the counters of this moment."""
        if not self._ended:
            self._look()
        return self._lane.cut()

    def missed(self) -> dict[str, int]:
        """How many looks came later than the coverage record promises."""
        return {"polls": self._late} if self._late else {}

    def moved(self) -> None:
        """Bytes are not counted call by call."""
        return

    def retire(self, places: Iterable[int]) -> None:
        """There are none."""

    def collapsed(self, *, counts: bool) -> None:
        """There are no budgets."""
        del counts

    def unheard(self) -> list[Unheard]:
        """Nothing is told to it that could get lost."""
        return []

    def seal(self) -> None:
        """Whoever reads /proc has opened what that takes."""

    @property
    def tried(self) -> list[int]:
        """Nothing is."""
        return []

    def silent(self) -> list[str]:
        """A look either happens or fails: nothing here can fall silent by itself."""
        return []

    def detach(self) -> None:
        """No look is taken any more."""
        self._ended = True


def _framed(records: Iterable[bytes]) -> bytes:
    return b"".join(SIZE.pack(len(record)) + record for record in records)


def _hidepid() -> str:
    """How /proc is told to hide the processes of other users: the value of its option, empty when it is not."""
    try:
        lines = Path("/proc/self/mounts").read_text(errors="backslashreplace").splitlines()
    except OSError:
        return ""
    mounts = (line.split() for line in lines)
    options = [words[3].split(",") for words in mounts if len(words) > 3 and words[1:3] == ["/proc", "proc"]]
    found = [option.partition("=")[2] for option in (options[-1] if options else ()) if option.startswith("hidepid=")]
    return _HIDEPID.get(found[0], found[0]) if found else ""


def _ephemeral() -> tuple[int, int]:
    try:
        first, last = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return _EPHEMERAL
