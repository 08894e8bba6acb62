"""What a session needs of a backend, whatever feeds it: the protocol, and the values that go over it."""

from __future__ import annotations

import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from tracer.model import Kind
from tracer.probes.rings import Run

__all__ = ["Coverage", "Cut", "Flooded", "KernelFilters", "Moved", "Source", "SourceLostError", "Unheard", "boottime"]


class SourceLostError(Exception):
    """A backend that ran has died or fallen silent: from now on things are missed, nobody knows how many."""


class KernelFilters(NamedTuple):
    """What a backend filters by itself, before a record is made; empty means everything."""

    kinds: frozenset[Kind]  # of sockets
    pids: frozenset[int]
    follow: bool
    uids: frozenset[int]
    netns: frozenset[int]
    ports: frozenset[int]
    cidrs: list[str]
    flood: int = 0  # records a second of a user in a control group, on one CPU, in one ring; 0: as many as there are


class Coverage(NamedTuple):
    """What feeds the stream, what can't be seen, and who is left out.

    ``uncounted`` is what this backend may miss without knowing how often: where it is not empty, no ledger can say that
    nothing is missing. ``fix`` is how to get back what is blind. ``sealed`` can't be seen after seal(), besides.
    """

    backend: str
    hooks: dict[str, str]  # program, or another way to look -> where it is attached, or what it reads
    refused: dict[str, str]  # the same -> why not
    blind: list[str]
    excluded: list[int]  # pids in the initial namespace
    own_pid: int
    buffer: dict[str, int]  # bytes over all CPUs
    compiled: dict[str, Any] | None = None  # where the probes were compiled on this machine: by what, and how long
    uncounted: tuple[str, ...] = ()
    fix: str | None = None
    sealed: tuple[str, ...] = ()
    moved: bool = False  # whether the bytes that calls move are counted
    flood: int = 0  # as KernelFilters has it, where this backend keeps to it
    polling: dict[str, int] | None = None  # of a backend that looks again and again: shortest_ms, longest_ms


class Cut(NamedTuple):
    """Everything up to one moment, for each CPU a moment of its own, and the counters of that very moment.

    ``settled`` is False when a probe was always between an attempt and its outcome: then there is no such moment.
    """

    runs: list[Run]
    tallies: bytes
    settled: bool


class Moved(NamedTuple):
    """What a backend that counts bytes has counted: see pipeline.turns.Moves for each."""

    parts: bytes
    bytes: int
    unplaced: int
    filtered: int
    lost: int


class Flooded(NamedTuple):
    """What was beyond the budgets: see pipeline.turns.Collapsed for each."""

    counts: bytes
    unseen: bytes


class Unheard(NamedTuple):
    """Messages that were lost on their way to the backend, between two times (boottime ns): of what, nobody knows."""

    what: str
    missing: int
    first: int
    last: int
    cpus: list[int]


class Source(Protocol):
    """A backend; a context manager that gives back all it took, and raises UnusableError where it can't run.

    start() begins and tells what is covered; snapshot() finds what was there before; then wait(), read() and cut()
    until detach(), and a last cut(). One thread calls them all. After start() any of them may raise SourceLostError.
    """

    @property
    def name(self) -> str:
        """The name that --backend takes."""
        ...

    @property
    def own_pid(self) -> int:
        """This process, as the backend's records number processes."""
        ...

    @property
    def excluded(self) -> list[int]:
        """Processes that are left out: this one, and other tracers."""
        ...

    def __enter__(self) -> Self:
        """Take what is needed; raises UnusableError."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Give it back."""
        ...

    def start(self) -> Coverage:
        """From now on nothing is missed that this backend can see. Raises UnusableError."""
        ...

    def processes(self) -> bytes:
        """The processes that run now, as records (struct exec_record) behind their sizes."""
        ...

    def sockets(self) -> bytes:
        """The TCP sockets that the stream has not told of, and the connects still pending, behind their sizes."""
        ...

    def snapshot(self) -> tuple[bytes, bytes]:
        """Both: the processes and the sockets that are there now."""
        ...

    def follow(self, pids: set[int]) -> None:
        """These pids are traced too (with a filter for pids)."""
        ...

    def seal(self) -> None:
        """Open what is read later and let go of the rest: from now on this process may open nothing.

        The snapshot was made and everybody is followed; sockets() is called once more, at the end.
        """
        ...

    def wait(self, milliseconds: float) -> None:
        """Sleep until there is much to read, or so long; what comes little by little wakes nobody."""
        ...

    def renew(self) -> None:
        """Look after what may have changed since the start, such as CPUs that came online."""
        ...

    def read(self, limit: int) -> list[Run]:
        """What is there to read, at most ``limit`` bytes of each ring."""
        ...

    def tallies(self) -> bytes:
        """The counters of now (struct tally by CPU and kind): not of one moment over all CPUs."""
        ...

    def moved(self) -> Moved | None:
        """The parts that have changed since the last call, and all bytes; None where they are not counted."""
        ...

    def retire(self, places: Iterable[int]) -> None:
        """The parts in these places are done with."""
        ...

    def collapsed(self, *, counts: bool) -> Flooded | None:
        """What was collapsed since the last call, with the ``counts`` or without; None if there was nothing.

        Asked for after each read, as what was read may be of processes that have done something unseen before.
        """
        ...

    def cut(self) -> Cut:
        """Read up to a moment of which the counters are known too."""
        ...

    def missed(self) -> dict[str, int]:
        """How often something was not looked at that should have been, by what should have."""
        ...

    @property
    def tried(self) -> list[int]:
        """Descriptors of the sockets that silent() uses, by canary.CALLS."""
        ...

    def unheard(self) -> list[Unheard]:
        """What was lost on its way here and is not told yet."""
        ...

    def silent(self) -> list[str]:
        """What of this backend is dead, a line each; looked for by trial, so not to be asked more than once a second.

        Empty where everything that can be tried works. What can't be tried is in docs/design.md.
        """
        ...

    def detach(self) -> None:
        """Nothing new is taken in any more; what was stays to be read."""
        ...


def boottime() -> int:
    """CLOCK_BOOTTIME in ns."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
