"""The netlink backend: the proc connector and sock_diag, joined with /proc, in the probes' own records.

No BPF is needed, but CAP_NET_ADMIN, and CAP_SYS_PTRACE to read what other users run. Every fork, exec and exit is
heard, and every message that was lost is counted; what is read of a process in /proc is read right after, and so may be
gone. TCP sockets are looked at again and again, and their ends are heard.
"""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Self

from tracer.fallback.connector import Connector
from tracer.fallback.diag_watch import LONGEST_NS, SHORTEST_NS, DiagWatch
from tracer.fallback.files import DirectFiles, ProcFiles
from tracer.fallback.heard import HOLD_NS, Heard
from tracer.fallback.lane import Lane
from tracer.probes.privileges import privileges
from tracer.probes.records import SIZE
from tracer.probes.rings import Run
from tracer.probes.source import Coverage, Cut, KernelFilters, SourceLostError, Unheard, boottime
from tracer.probes.unusable import UnusableError

__all__ = ["Netlink"]

_SWEEP_NS: Final = 1_000_000_000
_SYNC_TRIES: Final = 3
_RECOVER_NS: Final = 500_000_000  # between two looks at what has changed unheard
_AT_ONCE: Final = 512  # messages that are read before the next look around
_LEAST: Final = 8
_RECORD: Final = 1024  # bytes that a message may come to
_MUCH: Final = 64 << 10  # bytes of records: more than that is read at once
_HOOKS: Final = {
    "proc connector": "fork, exec, exit, new ids and names",
    "programs": "/proc/PID/exe, cmdline, cwd, status, right after the event",
    "sock_diag": "TCP sockets that are there, and those that were destroyed, of each network namespace",
    "owners": "/proc/PID/fd",
}
_BLIND: Final = (
    "execs that fail",
    "what a process runs that ends, or executes again, before it is looked at",
    "connects that fail, and why connections failed or ended",
    "whose a connection is that ends before it is looked at, and whether it was opened or accepted",
    "the totals of connections that the program resets (SO_LINGER of 0)",
    "arguments and names that a process has changed between its exec and the look at it",
    "sockets in network namespaces without a process, or for seconds where the only one came without fork or exec",
    "a socket that is handed to another process stays its first owner's",
)
_UNCOUNTED: Final = (
    "connects that fail before a look, and sockets that listen for less than a look",
    "owners of connections that end before a look",
)


class Netlink:
    """A Source that hears of processes and looks at sockets. One thread calls it."""

    name = "netlink"

    def __init__(
        self, filters: KernelFilters, buffer_bytes: int, files: ProcFiles | None = None, also: Iterable[int] = ()
    ) -> None:
        """``files`` reads /proc, by itself this process does; ``also`` are pids that are left out beside this one.

        ``buffer_bytes`` are for the records that wait, and as many again for the connector's messages.
        """
        self._files = files or DirectFiles()
        self.own_pid = os.getpid()
        self.excluded = sorted({*also, self.own_pid})
        self._filters = filters
        self._buffer = buffer_bytes
        self._poll = select.poll()
        self._polled: set[int] = set()
        self._sweep_at = self._recover_at = 0
        self._behind = False  # there is more to hear than was read at once
        self._ended = False

    def __enter__(self) -> Self:
        """Subscribe. Raises UnusableError."""
        if "CAP_NET_ADMIN" not in privileges().held:
            raise UnusableError("the proc connector needs CAP_NET_ADMIN: run it as root, or give it that", 3)
        self._lane = Lane(self._filters, self.excluded, self._buffer)
        self._heard = Heard(self._files, self._lane.put, self.excluded)
        self._sockets = DiagWatch(self._files, self._heard, self._lane.put, self._hear)
        self._connector = Connector(self._buffer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """End the subscription, and let go of the namespaces."""
        self._connector.close()
        self._sockets.close()

    # The beginning.

    def start(self) -> Coverage:
        """Learn who runs and what is open; everything after is heard. Raises UnusableError."""
        try:
            self._heard.learn()
            self._sockets.start()
        except OSError as error:
            raise UnusableError(f"what runs and what is open can't be read: {error}", 4) from error
        self._hear()
        return Coverage(
            self.name,
            dict(_HOOKS),
            {f"network namespace {netns}": reason for netns, reason in self._sockets.refused.items()},
            [*self._hidden(), *_BLIND],
            self.excluded,
            self.own_pid,
            {**self._lane.sizes, "connector": self._connector.room},
            uncounted=_UNCOUNTED,
            fix="let eBPF run: `tracer doctor` tells what it takes here",
            polling={"shortest_ms": SHORTEST_NS // 1_000_000, "longest_ms": LONGEST_NS // 1_000_000},
        )

    @staticmethod
    def _hidden() -> list[str]:
        lacking = {"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"} - privileges().held
        if not lacking or (os.geteuid() == 0 and lacking == {"CAP_DAC_READ_SEARCH"}):
            return []
        return [f"what other users run, and which sockets are theirs: add {', '.join(sorted(lacking))}"]

    def processes(self) -> bytes:
        """The processes that run now, as records behind their sizes."""
        self._hear()
        known = ((pid, known.record) for pid, known in self._heard.living.items())
        return _framed(record for pid, record in known if pid not in self.excluded)

    def sockets(self) -> bytes:
        """The sockets from before the start, once, and the connects that are still pending, behind their sizes."""
        return _framed(self._sockets.found())

    def snapshot(self) -> tuple[bytes, bytes]:
        """Both."""
        return self.processes(), self.sockets()

    def follow(self, pids: set[int]) -> None:
        """These pids are traced too (with a filter for pids)."""
        self._lane.follow(pids)

    def seal(self) -> None:
        """Nothing is opened later but by the files that read /proc, and what they hand over."""

    # Hearing and looking.

    def _hear(self) -> None:
        """Make records of what the connector has told. Raises SourceLostError."""
        began = boottime()
        most = min(_AT_ONCE, max(_LEAST, self._lane.room // _RECORD))  # the rest waits where it is counted
        try:
            events = self._connector.read(most)
        except OSError as error:
            raise SourceLostError(f"the proc connector failed: {error.strerror}") from error
        self._behind = len(events) == most
        self._heard.take(events)
        self._heard.release(began)
        if self._connector.overrun and not self._behind and began >= self._recover_at:
            self._recover(began)

    def _recover(self, now: int) -> None:
        """Messages were dropped: find out how many, and look at what has changed."""
        self._recover_at = now + _RECOVER_NS
        if self._sync():
            self._heard.relearn()
            self._sockets.hurry()

    def _sync(self) -> bool:
        """Hear everything up to now; False when that could not be."""
        for _ in range(_SYNC_TRIES):
            try:
                events, came = self._connector.sync()
            except OSError as error:
                raise SourceLostError(f"the proc connector failed: {error.strerror}") from error
            self._heard.take(events)
            if came:
                return True
        return False

    def _look(self) -> None:
        """Look at the sockets if it is time. Raises SourceLostError."""
        try:
            self._sockets.hear()
            if boottime() >= self._sockets.due:
                self._sockets.look()
        except OSError as error:
            raise SourceLostError(f"sock_diag failed: {error.strerror}") from error
        now = boottime()
        if now >= self._sweep_at:
            self._sweep_at = now + _SWEEP_NS
            self._heard.sweep()
            self._heard.look_around()

    def wait(self, milliseconds: float) -> None:
        """Sleep until there is much to read, or so long; each process is looked at as soon as it is heard of."""
        deadline = monotonic() + milliseconds / 1000
        while not self._ended:
            self._hear()
            self._look()
            left = deadline - monotonic()
            if left <= 0 or self._lane.waiting > _MUCH or (self._behind and self._lane.room < _AT_ONCE * _RECORD):
                return
            due = min(filter(None, (self._sockets.due, self._heard.due)))
            self._watch()
            self._poll.poll(max(0.0, min(left * 1000, (due - boottime()) / 1e6)))

    def _watch(self) -> None:
        """Wake for what there is now: namespaces come and go."""
        wanted = {self._connector.fileno(), *self._sockets.filenos()}
        for fd in self._polled - wanted:
            self._poll.unregister(fd)
        for fd in wanted - self._polled:
            self._poll.register(fd, select.POLLIN)
        self._polled = wanted

    def renew(self) -> None:
        """Nothing here depends on what may change."""

    def read(self, limit: int) -> list[Run]:
        """What waits, at most ``limit`` bytes of each ring."""
        if not self._ended:
            self._hear()
        runs = self._lane.read(limit)
        return [run._replace(drained=False) for run in runs] if self._behind else runs

    def tallies(self) -> bytes:
        """The counters (struct tally by kind)."""
        return self._lane.tallies()

    def cut(self) -> Cut:
        """Everything up to now, with the counters of this moment."""
        if not self._ended:
            self._sync()
            self._look()
            while due := self._heard.due:  # at most HOLD_NS and what comes meanwhile
                sleep(max(0, due - boottime()) / 1e9)
                self._heard.release(due, everything=boottime() > due + HOLD_NS)
                self._hear()
        return self._lane.cut()

    def moved(self) -> None:
        """Bytes are not counted call by call."""
        return

    def retire(self, places: Iterable[int]) -> None:
        """There are none."""

    def collapsed(self, *, counts: bool) -> None:
        """There are no budgets."""
        del counts

    def unheard(self) -> list[Unheard]:
        """Messages that the connector had no room for."""
        gaps = self._connector.gaps()
        if not gaps:
            return []
        first, last = min(gap.first for gap in gaps), max(gap.last for gap in gaps)
        cpus = sorted({gap.cpu for gap in gaps})
        return [Unheard("proc_connector", sum(gap.missing for gap in gaps), first, last, cpus)]

    def missed(self) -> dict[str, int]:
        """What is known to have been missed, by what it was."""
        found = {**self._sockets.missed, "sock_diag_overruns": self._sockets.overruns}
        found["exits_of_unknown"] = self._heard.unknown
        return {name: count for name, count in found.items() if count}

    @property
    def tried(self) -> list[int]:
        """Nothing is: silent() renames its thread."""
        return []

    def silent(self) -> list[str]:
        """Whether the connector still tells: it is made to."""
        if self._ended or not self._connector.can_sync or self._sync():
            return []
        return ["the proc connector does not tell of what happens any more"]

    def detach(self) -> None:
        """Nothing new is heard or looked at any more."""
        self._ended = True


def _framed(records: Iterable[bytes]) -> bytes:
    return b"".join(SIZE.pack(len(record)) + record for record in records)
