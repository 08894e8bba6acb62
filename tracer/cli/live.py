"""`tracer live`: watch processes and TCP connections as they happen."""

from __future__ import annotations

import os
import signal
import struct
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tracer.cli import facts
from tracer.cli.errors import CommandError, Exit
from tracer.cli.sandbox import Mode, Sandbox, choose_user
from tracer.cli.stream import Stream, make_format, open_output
from tracer.confine.plan import Plan
from tracer.fallback.polling import Procfs
from tracer.fallback.procfs import ProcFinder
from tracer.formats.text import visible
from tracer.model import SOCKET_KINDS, Kind
from tracer.pipeline.engine import Engine
from tracer.pipeline.order import RingRun
from tracer.pipeline.turns import MAGIC, Confined, Found, Input, Known, Start, Turn, pack
from tracer.pipeline.view import Filters
from tracer.probes.bcc import Bcc
from tracer.probes.core import HOOKS, Core
from tracer.probes.libbpf import BpfError
from tracer.probes.records import KIND_AT, SIZE
from tracer.probes.rings import RingError, Run
from tracer.probes.source import Coverage, KernelFilters, Source, boottime
from tracer.probes.unusable import UnusableError
from tracer.sinks.output import OutputError, open_file

__all__ = ["BACKENDS", "HOOKS", "Live", "Options"]

LEDGER_NS: Final = 10_000_000_000
_WATERMARK: Final = 64 << 10
_READ_MOST: Final = 64 << 10  # bytes of one ring in one turn: what stays in the cache
_IDLE_MS: Final = 100.0
_HOLDING_MS: Final = 20.0
_OFFSET_STEP_NS: Final = 1_000_000  # below this a difference is the measuring itself
_OFFSET_CLOSE_NS: Final = 20_000  # between two looks at the boot clock around one at the wall clock
_OFFSET_TRIES: Final = 7
_CLOSURE_TURNS: Final = 8
_TIME = struct.Struct("=Q").unpack_from
# The iterators walk the pid namespace of their reader (task_seq_get_next() in kernel/bpf/task_iter.c).
_OTHER_NAMESPACES: Final = "processes and sockets outside this pid namespace that were there before"
BACKENDS: Final = ("auto", "core", "bcc", "procfs")
_LADDER: Final = BACKENDS[1:]  # what auto tries, best first


@dataclass
class Options:
    """What was asked for, checked."""

    filters: Filters = field(default_factory=Filters)
    backend: str = "auto"
    hooks: str = "auto"
    format: str | None = None
    output: Path | None = None
    duration: float | None = None
    count: int | None = None
    buffer: int = 8 << 20
    record: Path | None = None
    fail_on_loss: bool = False
    snapshot: bool = True
    sandbox: Mode = Mode.BEST
    user: str | None = None


class Live:
    """One session: probes, engine, stream, and the loop between them."""

    def __init__(self, options: Options) -> None:
        """Nothing is loaded before run()."""
        self._options = options
        self._ending = False
        self._recording: int | None = None
        self._offset = 0

    def run(self) -> Exit:
        """Trace until the end that was asked for, a signal, or a closed output. Raises CommandError."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        try:
            return self._with_backend()
        except (BpfError, RingError) as error:
            raise CommandError(f"the probes failed while tracing: {error}", Exit.FAILURE) from error
        finally:
            if self._recording is not None:
                os.close(self._recording)

    def _with_backend(self) -> Exit:
        """Trace with the backend that was asked for, or with the best that really starts here. Raises CommandError."""
        ladder = _LADDER if self._options.backend == "auto" else (self._options.backend,)
        steps: dict[str, str] = {}
        for name in ladder:
            try:
                with self._backend(name) as source:
                    coverage = source.start()
                    return self._session(source, coverage, steps)
            except UnusableError as error:
                if self._ending:
                    return Exit.OK  # the compiler was interrupted, too
                if name == ladder[-1]:
                    raise CommandError(str(error), Exit(error.code)) from error
                if str(error) not in steps.values():  # the same lack keeps several from running
                    _tell(f"not with {name}: {error}")
                steps[name] = str(error)
        raise AssertionError(ladder)

    def _backend(self, name: str) -> Source:
        filters, buffer = self._kernel_filters(), self._options.buffer
        if name == "core":
            return Core(filters, buffer, _WATERMARK, self._options.hooks)
        if name == "bcc":
            return Bcc(filters, buffer, _WATERMARK, ProcFinder())
        return Procfs(filters, buffer)

    def _stop(self, *_: object) -> None:
        self._ending = True

    def _kernel_filters(self) -> KernelFilters:
        wanted = self._options.filters
        kinds = set(wanted.kinds)
        if Kind.CLOSE in kinds:
            kinds |= {Kind.CONNECT, Kind.ACCEPT}  # they tell whose it is
        return KernelFilters(
            frozenset(kinds & SOCKET_KINDS),
            wanted.pids,
            wanted.children,
            wanted.uids,
            wanted.netns,
            wanted.ports,
            wanted.cidrs,
        )

    # The beginning.

    def _session(self, source: Source, coverage: Coverage, steps: dict[str, str]) -> Exit:
        options = self._options
        if options.output is not None and options.record is not None and _same(options.output, options.record):
            raise CommandError(f"--output and --record both name {options.record}: give them two files", Exit.USAGE)
        sandbox = self._sandbox()
        fd, name = open_output(options.output)
        session = facts.session(source.name)
        if options.record is not None:
            self._record_to(options.record)
        engine = Engine(session.host.boot_id, options.filters, options.count)
        stream = Stream(engine, make_format(options.format, session, fd), fd, name, started=False)
        start = Start(
            {
                "now": boottime(),
                "offset": self._measured_offset(),
                "session": facts.session_to_json(session),
                "filters": options.filters.as_json(),
                "count": options.count,
                "coverage": _coverage(coverage, self._options, steps),
                "started": facts.started(),
            }
        )
        self._feed(stream, start)
        found = self._found(source) if options.snapshot else None
        if found is None or options.filters.children:
            # Not shown, or not yet, but what comes is theirs.
            self._feed(stream, Known(found.processes if found else source.processes()))
        self._follow(source, engine, stream)
        if options.sandbox is not Mode.OFF:
            source.seal()
        self._feed(stream, Confined(boottime(), sandbox.enter(_tell, stream.start)))
        if found is not None:
            self._feed(stream, found)
        self._tell_ready(coverage)
        status = self._loop(source, engine, stream)
        stream.close()
        return status

    def _sandbox(self) -> Sandbox:
        """The confinement that was asked for. Raises CommandError."""
        options = self._options
        files = [path for path in (options.output, options.record) if path is not None and str(path) != "-"]
        user = choose_user(options.user, writes_files=bool(files)) if options.sandbox is not Mode.OFF else None
        return Sandbox(options.sandbox, Plan(user), asked_for_user=options.user is not None)

    def _record_to(self, path: Path) -> None:
        try:
            self._recording = open_file(path, 0o600)
            os.fchmod(self._recording, 0o600)  # it may have been there before
            os.write(self._recording, MAGIC)
        except (OutputError, OSError) as error:
            raise CommandError(f"--record: {error}", Exit.FAILURE) from error

    def _feed(self, stream: Stream, item: Input) -> None:
        if self._recording is not None:
            data = memoryview(pack(item))
            try:
                while data:
                    data = data[os.write(self._recording, data) :]
            except OSError as error:
                raise CommandError(
                    f"can't write the recording {self._options.record}: {error.strerror}", Exit.FAILURE
                ) from error
        stream.feed(item)

    def _found(self, source: Source) -> Found:
        processes, sockets = source.snapshot()
        now = boottime()
        return Found(now, self._measured_offset(), processes, _without(sockets, Kind.ATTEMPT))

    def _follow(self, source: Source, engine: Engine, stream: Stream) -> None:
        """With --children the descendants that are there already are followed too, until no new one turns up."""
        filters = self._options.filters
        if not filters.children:
            return
        followed = set(filters.pids)
        for _ in range(_CLOSURE_TURNS):
            wanted = engine.view.widen(engine.processes)
            if wanted <= followed:
                break
            source.follow(wanted - followed)
            followed |= wanted
            # Who was forked before the kernel knew of the parent: quietly, the first look has shown the rest.
            self._feed(stream, Known(source.processes()))

    def _tell_ready(self, coverage: Coverage) -> None:
        blind = len(coverage.refused.keys() - {"fexit"})  # for that one tracepoints stand in
        told = f"; {blind} hook(s) refused, see the coverage record" if blind else ""
        _tell(f"ready, watching with {coverage.backend}{told}; Ctrl-C ends it")

    # The loop.

    def _loop(self, source: Source, engine: Engine, stream: Stream) -> Exit:
        options = self._options
        started = boottime()
        deadline = started + int(options.duration * 1e9) if options.duration is not None else None
        next_ledger = started + LEDGER_NS
        drained = True
        unread = 0  # records of CPUs without a ring
        while not self._ending and not stream.broken:
            now = boottime()
            if deadline is not None and now >= deadline:
                break
            if engine.full:
                break
            if drained:
                wait = _HOLDING_MS if engine.order.holds else _IDLE_MS
                if deadline is not None:
                    wait = min(wait, (deadline - now) / 1e6)
                source.wait(max(wait, 0.0))
            now = boottime()
            turn = self._turn(source, now >= next_ledger)
            drained = all(run.drained for run in turn.runs)
            self._feed(stream, turn)
            # A CPU that comes online later has no ring, nor has one that was away. The first record that is lost for
            # it tells; one that came back while its old ring still ran a moment ago takes a second look.
            if turn.cut or engine.ledger.no_ring > unread:
                unread = engine.ledger.no_ring
                source.renew()
            if turn.cut:
                next_ledger = now + LEDGER_NS
                stream.ledger(turn)
        return self._finish(source, stream)

    def _turn(self, source: Source, cut: bool) -> Turn:
        now = boottime()
        if cut:
            runs, tallies, cut = source.cut()
            missed = source.missed() if cut else {}
        else:
            runs, tallies, missed = source.read(_READ_MOST), source.tallies(), {}
        drained_at = now
        for run in runs:
            if not run.drained and run.offsets:
                drained_at = min(drained_at, _TIME(run.data, run.offsets[-1])[0])
        return Turn(now, self._measured_offset(), drained_at, _runs(runs), tallies, cut, False, missed)

    def _finish(self, source: Source, stream: Stream) -> Exit:
        pending = _only(source.sockets(), Kind.ATTEMPT) if not stream.broken else b""
        runs, tallies, settled = source.cut()
        if not settled:
            source.detach()  # now nothing is under way any more
            more, tallies, _ = source.cut()
            runs += more
        now = boottime()
        turn = Turn(now, self._measured_offset(), now, _runs(runs), tallies, True, True, source.missed())
        self._feed(stream, turn)
        if pending:
            self._feed(stream, Found(now, turn.offset, b"", pending))
        stream.ledger(turn)
        if self._options.fail_on_loss and not stream.complete:
            return Exit.LOSS
        return Exit.OK

    def _measured_offset(self) -> int:
        """Wall clock minus boot time, measured anew in each turn, so that a step of the clock is followed.

        In a turn it comes after the reading: what happens after a step never has a time from before it. What happened
        in the turn before, at most a wait for the rings and the hold of the order ago, may have the new one already.
        """
        offset = _offset_now()
        if abs(offset - self._offset) > _OFFSET_STEP_NS:
            self._offset = offset
        return self._offset


def _offset_now() -> int:
    """Wall clock minus CLOCK_BOOTTIME in ns: the closest of a few looks, for who is interrupted between is wrong."""
    narrowest, offset = 1 << 62, 0
    for _ in range(_OFFSET_TRIES):
        before = boottime()
        wall = time.time_ns()
        width = boottime() - before
        if width < narrowest:
            narrowest, offset = width, wall - before - width // 2
        if width < _OFFSET_CLOSE_NS:
            break
    return offset


def _tell(line: str) -> None:
    sys.stderr.write(f"tracer: {visible(line)}\n")
    sys.stderr.flush()


def _same(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute() or (one.exists() and other.exists() and one.samefile(other))


def _runs(runs: list[Run]) -> list[RingRun]:
    return [RingRun(run.cpu, run.ring, run.data, run.records_lost, run.drained, run.offsets) for run in runs]


def _sorted_out(data: bytes, kind: Kind, *, keep: bool) -> bytes:
    kept = []
    at = 0
    while at < len(data):
        end = at + SIZE.size + SIZE.unpack_from(data, at)[0]
        if (data[at + SIZE.size + KIND_AT] == kind) is keep:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _without(data: bytes, kind: Kind) -> bytes:
    return _sorted_out(data, kind, keep=False)


def _only(data: bytes, kind: Kind) -> bytes:
    return _sorted_out(data, kind, keep=True)


def _coverage(coverage: Coverage, options: Options, steps: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {
        "backend": coverage.backend,
        "hooks": coverage.hooks,
        "blind": [
            *coverage.blind,
            *([_OTHER_NAMESPACES] if coverage.own_pid != os.getpid() else []),
            *(coverage.sealed if options.sandbox is not Mode.OFF else ()),
        ],
        "excluded": coverage.excluded,
        "buffer": coverage.buffer,
        "filters": options.filters.as_json(),
        "snapshot": options.snapshot,
        "pid": coverage.own_pid,
    }
    taxing = sum(section.startswith("tp/syscalls/") for section in coverage.hooks.values())
    if taxing:
        found["costs"] = [f"{taxing} tracepoints of system calls: every call on the machine takes some 30 ns longer"]
    if coverage.refused:
        found["refused"] = coverage.refused
    if steps:
        found["steps_down"] = steps
    if coverage.compiled is not None:
        found["compiled"] = coverage.compiled
    if coverage.polling is not None:
        found["polling"] = coverage.polling
    if coverage.uncounted:
        found["uncounted"] = list(coverage.uncounted)
    if coverage.fix is not None:
        found["fix"] = coverage.fix
    if coverage.own_pid != os.getpid():
        found["pid_namespace"] = {
            "own_pid": os.getpid(),
            "note": "not in the initial pid namespace: pids here are the host's, not those that /proc shows",
        }
    return found
