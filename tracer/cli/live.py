"""`tracer live`: watch processes and what they send and receive, as it happens."""

from __future__ import annotations

import signal
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.cli import backends, facts, reading
from tracer.cli.absent import absent
from tracer.cli.backends import BACKENDS, BROKERED, EBPF, LADDER
from tracer.cli.clock import Clock
from tracer.cli.coverage import coverage_record
from tracer.cli.errors import CommandError, Exit
from tracer.cli.health import LOSSES, Health, gap_of
from tracer.cli.outputs import Outputs
from tracer.cli.rotation import Rotation
from tracer.cli.sandbox import Mode, Sandbox, choose_user, confine_broker
from tracer.cli.stream import Stream, make_format
from tracer.cli.tell import tell
from tracer.confine.identity import Identity
from tracer.confine.plan import Plan
from tracer.confine.seccomp_filter import ASKING, HEARING, WORKER, on_descriptors
from tracer.formats.privacy import Privacy
from tracer.model import SOCKET_KINDS, Kind
from tracer.pipeline.engine import Engine
from tracer.pipeline.order import RingRun
from tracer.pipeline.turns import Confined, Found, Input, Known, Moves, Start, Turn
from tracer.pipeline.view import Filters
from tracer.probes.canary import CALLS
from tracer.probes.core import HOOKS
from tracer.probes.records import only, without
from tracer.probes.rings import Run
from tracer.probes.source import Coverage, KernelFilters, Source, boottime
from tracer.probes.unusable import UnusableError

if TYPE_CHECKING:
    from tracer.cli.account import Account
    from tracer.fallback.broker import Worker

__all__ = ["BACKENDS", "HOOKS", "Live", "Options"]

LEDGER_NS: Final = 10_000_000_000
MOVES_NS: Final = 1_000_000_000
_READ_MOST: Final = 64 << 10  # bytes of one ring in one turn: what stays in the cache
_IDLE_MS: Final = 100.0
_HOLDING_MS: Final = 20.0
_CLOSURE_TURNS: Final = 8
_TIME = struct.Struct("=Q").unpack_from
_NAMED: Final = SOCKET_KINDS - {Kind.LISTEN}  # events with the name of who is talked to


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
    update: float = 30.0  # seconds
    buffer: int = 8 << 20
    record: Path | None = None
    fail_on_loss: bool = False
    snapshot: bool = True
    payload: bool = True
    sandbox: Mode = Mode.BEST
    user: str | None = None
    account_wire: bool = False
    privacy: Privacy | None = None


class Live:
    """One session: probes, engine, stream, and the loop between them."""

    def __init__(self, options: Options) -> None:
        """Nothing is loaded before run()."""
        self._options = options
        self._ending = False
        self._clock = Clock()
        self._worker: Worker | None = None  # where a broker is
        self._broker: dict[str, Any] = {}  # what is told of its confinement
        self._rotation = Rotation(options.output, options.sandbox, tell)
        self._outputs = Outputs(options.output, options.record, self._rotation)
        self._unprivileged: str | None = None  # why eBPF is not for this user
        self._lost = False
        self._failure: str | None = None  # what the command ends with when the backend was lost
        self._account: Account | None = None

    def run(self) -> int:
        """Trace until the end that was asked for, a signal, or a closed output. Raises CommandError."""
        for line in absent(self._options.filters):
            tell(line)
        self._rotation.start()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signal.SIGHUP, self._hang_up)
        try:
            ladder = LADDER if self._options.backend == "auto" else (self._options.backend,)
            return self._with_backend(ladder, {})
        finally:
            self._outputs.close()

    def _with_backend(self, ladder: tuple[str, ...], steps: dict[str, str]) -> int:
        """Trace with the first of these that really starts here. Raises CommandError."""
        for place, name in enumerate(ladder):
            if name in EBPF and self._unprivileged is not None:
                steps[name] = self._unprivileged  # the same as the first needs
                continue
            if name in BROKERED and self._worker is None:
                role = self._split(ladder[place:])
                if isinstance(role, int):
                    return role
                self._worker = role
                return self._with_backend(role.ladder, steps)
            try:
                with ExitStack() as stack:
                    with reading.loading(name == "core" and Kind.PAYLOAD in self._kernel_filters().kinds):
                        source = stack.enter_context(self._backend(name))
                    coverage = self._accounted(source, source.start(), stack)
                    status = self._session(source, coverage, steps)
            except UnusableError as error:
                if self._ending:
                    return Exit.OK  # the compiler was interrupted, too
                # A limit is the user's to change: there is no telling that less than was asked for will do.
                if name == ladder[-1] or error.code == Exit.FAILURE:
                    raise CommandError(str(error), Exit(error.code)) from error
                steps[name] = str(error)
                if self._unprivileged is None or error.code != Exit.PRIVILEGE:  # one line with the fix is enough
                    tell(f"not with {name}: {error}")
                if name in EBPF and error.code == Exit.PRIVILEGE:
                    self._unprivileged = str(error)
                continue
            except LOSSES as error:
                if not self._lost:  # else it is told already: what is dead can't be ended in order
                    raise CommandError(f"{name} failed: {error}", Exit.FAILURE) from error
                status = Exit.FAILURE
            if self._failure is not None:
                raise CommandError(self._failure, Exit.FAILURE)
            return status
        raise AssertionError(ladder)

    def _accounted(self, source: Source, coverage: Coverage, stack: ExitStack) -> Coverage:
        """Open the account of the wire, if it is asked for; what can't be seen then. Raises CommandError."""
        if self._options.account_wire:
            from tracer.cli.account import open_account

            every = int(self._options.update * 1e9)
            self._account, coverage = open_account(source, coverage, self._options.filters.netns, every, stack)
        return coverage

    def _split(self, ladder: tuple[str, ...]) -> Worker | int:
        """Become a broker, which ends with a code, and its workers. Raises CommandError."""
        from tracer.confine.broker import broker_plan
        from tracer.fallback.broker import Broker

        plan = broker_plan(netlink="netlink" in ladder, becomes=self._user() is not None)
        self._outputs.open(None)
        self._rotation.is_confined()  # which is said once, and is to be known to every worker

        def confine() -> None:
            self._broker = confine_broker(self._options.sandbox, plan, tell)

        try:
            return Broker(ladder, ends=self._ends, begun=self._outputs.let_go, confine=confine, say=tell).run()
        except OSError as refused:
            fix = "raise the limits on processes and open files (ulimit -u, ulimit -n)"
            raise CommandError(f"can't start a worker: {refused.strerror}; {fix}", Exit.FAILURE) from refused

    def _backend(self, name: str) -> Source:
        options = self._options
        also = self._rotation.pids
        return backends.make(name, self._kernel_filters(), options.buffer, options.hooks, self._worker, also)

    def _stop(self, *_: object) -> None:
        self._ending = True

    def _hang_up(self, *_: object) -> None:
        self._ending |= self._rotation.hang_up()

    def _ends(self, number: int) -> bool:
        return number != signal.SIGHUP or self._rotation.ends()

    def _kernel_filters(self) -> KernelFilters:
        wanted = self._options.filters
        kinds = set(wanted.kinds)
        if Kind.CLOSE in kinds:
            kinds |= {Kind.CONNECT, Kind.ACCEPT}  # they tell whose it is
        if Kind.UPDATE in kinds:
            kinds |= {Kind.CONNECT, Kind.ACCEPT, Kind.CLOSE, Kind.FLOW, Kind.FLOW_END, Kind.OWNER, Kind.TAIL}
        if Kind.FLOW in kinds:
            kinds |= {Kind.FLOW_END}
        if not self._options.payload:
            kinds -= {Kind.PAYLOAD}
        elif kinds & _NAMED:
            kinds |= {Kind.PAYLOAD}  # it tells their names
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
        sandbox = self._sandbox(source)
        fd, name = self._outputs.open(self._worker)
        session = facts.session(source.name)
        before = self._worker.events if self._worker is not None else 0
        most = None if options.count is None else max(0, options.count - before)
        engine = Engine(session.host.boot_id, options.filters, most, int(options.update * 1e9))
        coverage, names = reading.read(engine, coverage)
        stream = Stream(engine, make_format(options.format, session, fd, options.privacy), fd, name, started=False)
        if options.sandbox is not Mode.OFF:
            coverage = coverage._replace(blind=[*coverage.blind, *coverage.sealed])
        start = Start(
            {
                "now": boottime(),
                "offset": self._clock.offset(),
                "session": facts.session_to_json(session),
                "filters": options.filters.as_json(),
                "count": most,
                "update": int(options.update * 1e9),
                "names": names,
                "coverage": coverage_record(coverage, self._options.filters, steps, snapshot=self._options.snapshot),
                "started": facts.started(),
                "gap": gap_of(self._worker),
            }
        )
        health = Health(source, self._worker)
        self._feed(stream, start)
        found = self._found(source) if options.snapshot else None
        if found is None or options.filters.children:
            # Not shown, or not yet, but what comes is theirs.
            self._feed(stream, Known(found.processes if found else source.processes()))
        self._follow(source, engine, stream)
        if options.sandbox is not Mode.OFF:
            source.seal()
        confined = sandbox.enter(tell, lambda first: self._rotation.is_confined() and stream.start(first))
        broker = {"broker": self._broker} if self._worker else {}
        self._feed(stream, Confined(boottime(), confined | broker | self._rotation.record))
        if found is not None:
            self._feed(stream, found)
        self._tell_ready(coverage)
        try:
            status = self._loop(source, engine, stream, health)
        except LOSSES as error:
            self._lost = True
            lost = health.told(error)
            self._feed(stream, lost)
            self._feed(stream, turn := self._last_turn(source, engine))
            stream.ledger(turn)
            stream.close()
            if not health.report(lost, engine.shown):
                self._failure = f"{lost.backend} was lost while tracing: {'; '.join(lost.reasons)}; start it again"
            return Exit.FAILURE
        stream.close()
        return status

    def _user(self, tell: Callable[[str], None] = lambda _: None) -> Identity | None:
        """Whom to run as. Raises CommandError."""
        options = self._options
        if options.sandbox is Mode.OFF:
            return None
        return choose_user(options.user, tell, writes_files=bool(self._outputs.files))

    def _sandbox(self, source: Source) -> Sandbox:
        """The confinement that was asked for. Raises CommandError."""
        calls = WORKER + on_descriptors(CALLS, *source.tried) + self._rotation.calls
        if self._worker is not None:
            calls += on_descriptors("sendto recvmsg", self._worker.files.fd)
        if source.name == "netlink":
            calls += HEARING
        if self._account is not None:
            calls += ASKING
        plan = Plan(self._user(tell), calls=calls)
        return Sandbox(self._options.sandbox, plan, asked_for_user=self._options.user is not None)

    def _feed(self, stream: Stream, item: Input) -> None:
        self._outputs.record(item)
        stream.feed(item)

    def _feed_unheard(self, stream: Stream, source: Source) -> None:
        for each in source.unheard():
            self._feed(stream, each)

    def _feed_moves(self, stream: Stream, source: Source, engine: Engine, *, last: bool = False) -> None:
        moved = source.moved()
        if moved is None:
            return
        self._feed(stream, Moves(boottime(), *moved, last))
        source.retire(engine.moves.retired)

    def _feed_account(self, stream: Stream, engine: Engine, now: int | None = None) -> None:
        """Tell what devices have carried, once that is due at ``now``, or at once."""
        if self._account is not None and (now is None or now >= self._account.due):
            self._feed(stream, self._account.take(engine.processes.namespaces()))

    def _found(self, source: Source) -> Found:
        processes, sockets = source.snapshot()
        now = boottime()
        return Found(now, self._clock.offset(), processes, without(sockets, Kind.ATTEMPT))

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
        tell(f"ready, watching with {coverage.backend}{told}; Ctrl-C ends it")

    # The loop.

    def _loop(self, source: Source, engine: Engine, stream: Stream, health: Health) -> Exit:
        options = self._options
        started = boottime()
        health.look(engine.shown)
        if self._worker is not None and self._worker.began:
            started = self._worker.began
        deadline = started + int(options.duration * 1e9) if options.duration is not None else None
        next_ledger = boottime() + LEDGER_NS
        next_moves = boottime() + MOVES_NS
        drained = True
        unread = 0  # records of CPUs without a ring
        while not self._ending and not stream.broken:
            self._rotation.turn(stream)
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
            health.glance()
            now = boottime()
            turn = self._turn(source, now >= next_ledger)
            drained = all(run.drained for run in turn.runs)
            self._feed(stream, turn)
            self._feed_unheard(stream, source)
            # A CPU that comes online later has no ring, nor has one that was away. The first record that is lost for
            # it tells; one that came back while its old ring still ran a moment ago takes a second look.
            if turn.cut or engine.ledger.no_ring > unread:
                unread = engine.ledger.no_ring
                source.renew()
            if turn.cut or now >= next_moves:
                next_moves = now + MOVES_NS
                self._feed_moves(stream, source, engine)
            self._feed_account(stream, engine, now)
            if turn.cut:
                next_ledger = now + LEDGER_NS
                stream.ledger(turn)
                health.look(engine.shown)
        self._rotation.turn(stream, last=True)
        health.glance()  # when the broker dies a signal tells, too
        return self._finish(source, engine, stream)

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
        return Turn(now, self._clock.offset(), drained_at, _runs(runs), tallies, cut, False, missed)

    def _finish(self, source: Source, engine: Engine, stream: Stream) -> Exit:
        self._feed_account(stream, engine)  # before anything is detached
        pending = only(source.sockets(), Kind.ATTEMPT) if not stream.broken else b""
        runs, tallies, settled = source.cut()
        if not settled or engine.flows.counted:
            source.detach()  # now nothing is under way any more, nor are bytes moved that nobody counts
            more, tallies, _ = source.cut()
            runs += more
        now = boottime()
        turn = Turn(now, self._clock.offset(), now, _runs(runs), tallies, True, True, source.missed())
        self._feed(stream, turn)
        self._feed_unheard(stream, source)
        if pending:
            self._feed(stream, Found(now, turn.offset, b"", pending))
        self._feed_moves(stream, source, engine, last=True)
        stream.ledger(turn)
        if self._options.fail_on_loss and not stream.complete:
            return Exit.LOSS
        return Exit.OK

    def _last_turn(self, source: Source, engine: Engine) -> Turn:
        """What can still be read of a source that is lost; where nothing can, the counters are the last that were."""
        runs: list[Run] = []
        tallies, missed = engine.ledger.raw, {}
        with suppress(*LOSSES):
            source.detach()
        with suppress(*LOSSES):
            runs, tallies, _ = source.cut()
            missed = source.missed()
        now = boottime()
        return Turn(now, self._clock.offset(), now, _runs(runs), tallies, True, True, missed)


def _runs(runs: list[Run]) -> list[RingRun]:
    return [RingRun(run.cpu, run.ring, run.data, run.records_lost, run.drained, run.offsets) for run in runs]
