"""What the eBPF backends have in common: maps and filters, attaching, coverage, and reading up to an exact moment."""

from __future__ import annotations

import os
import platform
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from ipaddress import IPv4Address, IPv6Address, ip_network
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self

from tracer.model import RING_KINDS
from tracer.probes import libbpf, tracefs
from tracer.probes.floods import Floods
from tracer.probes.health import Watch
from tracer.probes.hooks import COUNTS, NEVER_BOTH, OPTIONAL, RETURNS, STREAM, Hook, blind_spots, pairs
from tracer.probes.libbpf_binding import BpfError, possible_cpus
from tracer.probes.overflow import Overflow
from tracer.probes.parts import Parts
from tracer.probes.records import KNOBS, TALLY
from tracer.probes.rings import RingError, RingSet, Run
from tracer.probes.source import Coverage, Cut, Flooded, KernelFilters, Moved, Unheard, boottime
from tracer.probes.unusable import UnusableError, raise_memory_limit, unusable

__all__ = [
    "OBJECTS",
    "Backend",
    "Coverage",
    "Cut",
    "KernelFilters",
    "UnusableError",
    "boottime",
    "object_file",
]

OBJECTS: Final = Path(__file__).parent / "objects" / platform.machine()
"""Where the build puts the programs that it compiles for this machine, in the tree and in the wheel."""
UNREADABLE: Final = "unreadable"  # stands for all programs where their counts can't be read: then nothing is complete
_KINDS: Final = len(RING_KINDS)
_RINGS: Final = ("lifecycle", "bulk")
_OVERFLOW: Final = "overflow"
_CUT_TRIES: Final = 200
_KNOBS: Final = ".rodata.knobs"
_CIDR = struct.Struct("=I16s")
_KEY = struct.Struct("=I")
_START = struct.Struct("=Q")


_NO_TRACEFS: Final = (
    "no access to tracefs; mount it (mount -t tracefs nodev /sys/kernel/tracing) "
    "and add CAP_DAC_READ_SEARCH, or run as root"
)


class Attached(Protocol):
    """A program that is attached."""

    @property
    def fd(self) -> int:
        """What keeps it so. Raises BpfError after destroy()."""
        ...

    def destroy(self) -> None:
        """Detach it; idempotent."""
        ...


def object_file(name: str) -> Path:
    """A compiled object; it lies beside this module, also in an installed wheel. Raises UnusableError."""
    path = OBJECTS / f"{name}.bpf.o"
    if not path.exists():
        raise UnusableError(f"the probes are not built ({path.name} is missing): run `make bpf`", 4)
    return path


class Backend(ABC):
    """Probes, loaded and attached; a context manager that detaches them.

    start() attaches and tells what is covered; snapshot() finds what was there before; then read() and cut() until
    detach(), and a last cut().
    """

    name: ClassVar[str]

    def __init__(self, filters: KernelFilters, buffer_bytes: int, watermark: int, also: Iterable[int] = ()) -> None:
        """``buffer_bytes`` are over all CPUs and rings, ``watermark`` bytes of one ring wake the reader.

        ``also`` are children of this process, by pid, that are left out as it is itself.
        """
        self._filters = filters
        self._also = frozenset(also)
        self._buffer = buffer_bytes
        self._watermark = watermark
        self._stack = ExitStack()
        self._links: list[Attached] = []
        self._watch = Watch()
        self._attached: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._programs: dict[str, int] = {}
        self._returns: set[str] = set()  # programs of hooks.RETURNS that are loaded
        self._preemptible = False  # whether tracepoints can be preempted
        self._stand_ins: dict[str, Hook] = NEVER_BOTH  # by the program that may be skipped
        self._sealed = False
        self._counts_misses = False  # whether this kernel counts what missed() tells, as of seal()
        self._parts: Parts | None = None  # where bytes are counted
        self.own_pid = os.getpid()
        self.excluded: list[int] = []

    def __enter__(self) -> Self:
        """Load; raises UnusableError."""
        try:
            raise_memory_limit()
            self._stack.callback(self._watch.canary.close)
            self._watch.canary.open()
            self._load()
        except (BpfError, RingError, OSError) as error:
            self.close()
            raise unusable(error, self._lacking()) from error
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Detach and drop everything."""
        self.close()

    def close(self) -> None:
        """Detach and drop everything; idempotent."""
        self._stack.close()

    # What each backend does its own way.

    @abstractmethod
    def _load(self) -> None:
        """Make everything but the links. Raises UnusableError, BpfError, RingError, OSError."""

    @abstractmethod
    def _section(self, program: str) -> str:
        """Where a program goes, as its SEC() says."""

    @abstractmethod
    def _attach(self, program: str, tracepoint: int | None) -> Attached:
        """Attach a program to the tracepoint of this id, or (None) where its section says. Raises BpfError."""

    @abstractmethod
    def _program_fd(self, program: str) -> int:
        """The descriptor of a loaded program."""

    @abstractmethod
    def processes(self) -> bytes:
        """The processes that run now, as records behind their sizes."""

    @abstractmethod
    def sockets(self) -> bytes:
        """The TCP sockets that the probes did not know yet, and the connects still pending."""

    def _lacking(self) -> str | None:
        """What this machine lacks for this backend, with the fix, when that explains any failure."""
        return None

    def _compiled(self) -> dict[str, Any] | None:
        """Coverage.compiled of this backend."""
        return None

    def _more_hooks(self) -> Sequence[Hook]:
        """What else is attached where the kernel allows it."""
        return ()

    def _more_blind(self) -> list[str]:
        """What this backend alone can't see."""
        return []

    def _more_blind_sealed(self) -> list[str]:
        """What this backend alone can't see once it is sealed."""
        return []

    # Maps and rings.

    def _knobs(self) -> bytes:
        wanted = self._filters
        bits = 0
        for bit, value in enumerate(
            (wanted.pids, wanted.uids, wanted.netns, wanted.ports, wanted.cidrs, wanted.follow)
        ):
            bits |= bool(value) << bit
        flood = max(1, 1_000_000_000 // wanted.flood) if wanted.flood else 0  # ns between two records
        return KNOBS.pack(bits, sum(1 << kind for kind in wanted.kinds), self._preemptible, flood)

    def _make_maps(self) -> libbpf.Object:
        """The maps that all programs share."""
        cpus = possible_cpus()
        sizes = {"tallies": cpus * _KINDS, "sequences": cpus * len(_RINGS), "moved": cpus}
        knobs = {_KNOBS: self._knobs()}
        self._maps, _ = libbpf.load(object_file("maps"), knobs=knobs, optional=(), max_entries=sizes)
        self._stack.callback(self._maps.close)
        self._tallies = self._maps.map("tallies").mmap()
        self._stack.callback(self._tallies.close)
        self._floods = Floods({name: self._maps.map(name) for name in ("floods", "unseen", "sequences")})
        self._stack.callback(self._floods.close)
        overflow = self._maps.map(_OVERFLOW)
        self._overflow = Overflow(overflow.fd, overflow.max_entries)
        self._stack.callback(self._overflow.close)
        return self._maps

    def _open_rings(self) -> None:
        # Processes come through a ring of their own, so that chatter can't push one out.
        half = self._buffer // 2
        self.rings = RingSet.open(
            {name: self._maps.map(name).fd for name in _RINGS},
            bytes_total=dict.fromkeys(_RINGS, half),
            watermark=self._watermark,
        )
        self._stack.callback(self.rings.close)
        self._floods.level(self.rings.rings)

    def _exclude(self, own: tuple[int, int], others: dict[int, int]) -> None:
        """Leave out this process and other tracers, by pid and start (ns)."""
        self.own_pid = own[0]
        excluded = {own[0]: own[1]} | others
        marks = self._maps.map("tracer_excluded")
        for tgid, start in list(excluded.items())[:64]:
            marks.update(_KEY.pack(tgid), _START.pack(start))
        self.excluded = sorted(excluded)

    def _fill_filters(self) -> None:
        wanted = self._filters
        for name, values in (
            ("filter_pids", wanted.pids),
            ("filter_uids", wanted.uids),
            ("filter_netns", wanted.netns),
            ("filter_ports", wanted.ports),
        ):
            for value in values:
                self._maps.map(name).update(_KEY.pack(value), b"\1")
        for text in wanted.cidrs:
            network = ip_network(text, strict=False)
            address: IPv4Address | IPv6Address = network.network_address
            mapped = address.version == 4
            raw = bytes(10) + b"\xff\xff" + address.packed if mapped else address.packed
            self._maps.map("filter_cidrs").update(_CIDR.pack(network.prefixlen + 96 * mapped, raw), b"\1")

    def follow(self, pids: set[int]) -> None:
        """These pids are traced too (with a pid filter)."""
        for pid in pids:
            self._maps.map("filter_pids").update(_KEY.pack(pid), b"\1")

    # Attaching.

    def start(self) -> Coverage:
        """Attach the probes and tell what they cover. Raises UnusableError."""
        events = None
        try:
            for programs in STREAM.values():
                for program in programs:
                    self._keep(program, self._attach(program, None))
            replaced = self._attach_returns()
            wanted = [hook for hooks in OPTIONAL.values() for hook in hooks if hook.program not in replaced]
            wanted += self._stand_ins.values()
            wanted += self._more_hooks()
            if any(hook.tracepoint for hook in wanted):
                events = tracefs.open_events()
            for hook in wanted:
                self._attach_optional(hook, events)
        except BpfError as error:
            raise unusable(error, self._lacking()) from error
        finally:
            if events is not None:
                os.close(events)
        return Coverage(
            self.name,
            self._attached,
            self._refused,
            [*self._more_blind(), *blind_spots(self._attached)],
            self.excluded,
            self.own_pid,
            self.rings.sizes,
            self._compiled(),
            sealed=tuple(self._more_blind_sealed()),
            flood=self._filters.flood,
            moved=self._parts is not None and any(self._attached.keys() >= pair for pair in COUNTS),
        )

    def _attach_returns(self) -> set[str]:
        """Attach what this backend has loaded of RETURNS; the programs that need not be attached then."""
        replaced: set[str] = set()
        for returns in RETURNS:
            if not set(returns.programs) <= self._returns:
                continue
            links: dict[str, Attached] = {}
            for program in returns.programs:
                try:
                    links[program] = self._attach(program, None)
                except BpfError as refused:
                    self._refused[program] = str(refused)
            if len(links) < len(returns.programs):
                for link in links.values():
                    link.destroy()
                continue
            for program, link in links.items():
                self._keep(program, link)
            replaced.update(returns.replaces)
            for program, _ in returns.more:
                if program in self._returns:
                    self._attach_optional(Hook(program, "", ""), None)
        return replaced

    def _attach_optional(self, hook: Hook, events: int | None) -> None:
        if hook.program in self._refused:
            return
        number = None
        if hook.tracepoint:
            category, _, name = hook.tracepoint.partition("/")
            number = tracefs.tracepoint_id(events, category, name) if events is not None else None
            if number is None:
                self._refused[hook.program] = _NO_TRACEFS
                return
        try:
            self._keep(hook.program, self._attach(hook.program, number))
        except BpfError as refused:
            self._refused[hook.program] = str(refused)

    def _keep(self, program: str, link: Attached) -> None:
        self._links.append(link)
        self._watch.keep(program, link.fd)
        self._attached[program] = self._section(program)
        self._programs[program] = self._program_fd(program)

    def snapshot(self) -> tuple[bytes, bytes]:
        """The processes and the TCP sockets that are there now."""
        return self.processes(), self.sockets()

    def wait(self, milliseconds: float) -> None:
        """Sleep until a ring passes its watermark, or so long."""
        self.rings.poll(milliseconds)

    def renew(self) -> None:
        """Give rings to the CPUs that came online, or came back; once this is sealed the overflow has to do."""
        if not self._sealed:
            self.rings.add_missing_cpus()

    def seal(self) -> None:
        """Open what sockets() reads at the end: nothing can be opened from now on."""
        self._sealed = True
        self._counts_misses = any(libbpf.program_info(fd).counts_misses for fd in self._programs.values())

    def silent(self) -> list[str]:
        """The programs that are not attached any more, or do not see what they are tried with."""
        return self._watch.silent(self.tallies)

    @property
    def tried(self) -> list[int]:
        """The sockets with which silent() tries the probes."""
        return self._watch.canary.fds

    def detach(self) -> None:
        """Take the probes off; what they wrote stays to be read. Raises BpfError when some were off already."""
        gone: Exception | None = None
        while self._links:
            try:
                self._links.pop().destroy()
            except (BpfError, OSError) as error:
                gone = error
        if gone is not None:
            raise BpfError(f"detaching: {gone}")

    # Reading.

    def read(self, limit: int) -> list[Run]:
        """What the rings hold, at most ``limit`` bytes of each, and all of the overflow, which is small."""
        runs = self.rings.read(limit)
        self._floods.level(self.rings.rings)
        return runs + self._overflow.read()

    def tallies(self) -> bytes:
        """The kernel's counters of now: not of one moment over all CPUs."""
        return self._tallies[:]

    def cut(self) -> Cut:
        """Read each CPU's rings to a moment of which its counters are known too."""
        size = _KINDS * TALLY.size
        runs: list[Run] = []
        counters = bytearray(self._tallies[:])
        settled = True
        by_cpu: dict[int, list[int]] = {cpu: [] for cpu in range(len(counters) // size)}
        for index, ring in enumerate(self.rings.rings):
            by_cpu[ring.cpu].append(index)
        aside: dict[int, int] = {}
        for cpu, indexes in by_cpu.items():
            rings = [self.rings.rings[index] for index in indexes]
            part = slice(cpu * size, cpu * size + size)
            before, heads = b"", [0] * len(rings)
            for _ in range(_CUT_TRIES):
                before = self._tallies[part]
                heads = [ring.head() for ring in rings]
                aside[cpu] = self._overflow.head()
                if before == self._tallies[part] and _settled(before):
                    break
                time.sleep(0)
            else:
                settled = False
            counters[part] = before
            runs += [run for ring, head in zip(rings, heads, strict=True) if (run := ring.read_to(head)).data]
        self._floods.level(self.rings.rings)
        runs += self._overflow.read(aside)
        return Cut(runs, bytes(counters), settled)

    def moved(self) -> Moved | None:
        """The parts that have changed since the last call, and all bytes; None where they are not counted."""
        if self._parts is None:
            return None
        return Moved(self._parts.changed(), *self._parts.moved())

    def collapsed(self, *, counts: bool) -> Flooded | None:
        """What was collapsed since the last call, with the counts or without; None if there was nothing."""
        return self._floods.take(counts=counts)

    def retire(self, places: Iterable[int]) -> None:
        """The parts in these places are done with."""
        if self._parts is not None:
            self._parts.retire(places)

    def unheard(self) -> list[Unheard]:
        """What the rings have no room for is in the counters."""
        return []

    def missed(self) -> dict[str, int]:
        """How often the kernel skipped each program because it was running already (since 5.12).

        With a stand-in it is at most so often that both were skipped.
        """
        try:
            skipped = {program: libbpf.program_info(fd).recursion_misses for program, fd in self._programs.items()}
        except BpfError:
            # Before 5.19 (commit c8644cd0efe7) that takes privilege where unprivileged BPF is off.
            if not self._sealed:
                raise
            return {UNREADABLE: 1} if self._counts_misses else {}
        for firsts, seconds in pairs(self._stand_ins):
            if skipped.keys() >= {*firsts, *seconds}:
                both = [sum(skipped.pop(program) for program in programs) for programs in (firsts, seconds)]
                if self._preemptible:
                    skipped[firsts[0]] = self._skipped_both(firsts[0], *both)
        return {program: misses for program, misses in skipped.items() if misses}

    def _skipped_both(self, first: str, skipped: int, stand_in_skipped: int) -> int:
        """How often at most a program and its stand-in were both skipped."""
        del first
        return min(skipped, stand_in_skipped)


def _settled(counters: bytes) -> bool:
    """Whether no probe is between its attempt and its outcome."""
    return all(
        attempts == filtered + emitted + failed + collapsed
        for attempts, filtered, emitted, failed, *_, collapsed in TALLY.iter_unpack(counters)
    )
