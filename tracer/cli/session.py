"""One session: probes feed the engine and that the stream, until an end is asked for or something is lost."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from tracer.cli import facts, reading
from tracer.cli.asked import Options
from tracer.cli.clock import Clock
from tracer.cli.coverage import coverage_record
from tracer.cli.errors import Exit
from tracer.cli.health import LOSSES, Health, gap_of
from tracer.cli.outputs import Outputs
from tracer.cli.rotation import Rotation
from tracer.cli.sandbox import Mode, Sandbox, choose_user
from tracer.cli.service import Service
from tracer.cli.stream import Stream, make_format
from tracer.cli.tell import tell
from tracer.confine.identity import Identity
from tracer.confine.plan import Plan
from tracer.confine.seccomp_filter import ASKING, HEARING, WORKER, on_descriptors
from tracer.model import Kind
from tracer.pipeline.engine import Engine
from tracer.pipeline.order import RingRun
from tracer.pipeline.turns import Collapsed, Confined, Found, Input, Known, Moves, Start, Turn
from tracer.probes.canary import CALLS
from tracer.probes.read_only import ReadOnly
from tracer.probes.records import only, without
from tracer.probes.rings import Run
from tracer.probes.source import Coverage, Source, boottime

if TYPE_CHECKING:
    from tracer.cli.account import Account
    from tracer.fallback.broker import Worker
    from tracer.formats.places import Places

__all__ = ["Options", "Session"]

LEDGER_NS: Final = 10_000_000_000
MOVES_NS: Final = 1_000_000_000
_READ_MOST: Final = 64 << 10  # bytes of one ring in one turn: what stays in the cache
_IDLE_MS: Final = 100.0
_HOLDING_MS: Final = 20.0
_CLOSURE_TURNS: Final = 8
_TIME = struct.Struct("=Q").unpack_from


class Session:
    """What a command does with a backend that has started; a worker of a broker has one of its own."""

    def __init__(self, options: Options, rotation: Rotation, outputs: Outputs) -> None:
        """Nothing is opened before run()."""
        self._options = options
        self._rotation = rotation
        self._outputs = outputs
        self._ending = False
        self._clock = Clock()
        self._worker: Worker | None = None  # where a broker is
        self._broker: dict[str, Any] = {}  # what is told of its confinement
        self._lost = False
        self._failure: str | None = None  # what the command ends with when the backend was lost
        self._account: Account | None = None
        self._service = Service(options.stats, options.sandbox, tell)
        self._places: Places | None = None

    def _session(self, source: Source, coverage: Coverage, steps: dict[str, str]) -> Exit:
        seen = boottime()  # what happens from now on
        options = self._options
        sandbox = self._sandbox(source)
        fd, name = self._outputs.open(self._worker)
        session = facts.session(source.name)
        before = self._worker.events if self._worker is not None else 0
        most = None if options.count is None else max(0, options.count - before)
        update, aggregate = int(options.update * 1e9), int(options.aggregate * 1e9)
        engine = Engine(session.host.boot_id, options.filters, most, update, aggregate)
        coverage, names = reading.read(engine, coverage)
        form = make_format(options.format, session, fd, options.privacy, self._places)
        stream = self._outputs.stream(engine, form, fd, name)
        if options.sandbox is not Mode.OFF:
            coverage = coverage._replace(blind=[*coverage.blind, *coverage.sealed])
        start = Start(
            {
                "now": boottime(),
                "offset": (offset := self._clock.offset()),
                "session": facts.session_to_json(session),
                "filters": options.filters.as_json(),
                "count": most,
                "update": update,
                "aggregate": aggregate,
                "names": names,
                "coverage": coverage_record(coverage, self._options.filters, steps, snapshot=self._options.snapshot),
                "started": facts.started(),
                "gap": gap_of(self._worker),
                "blind": self._outputs.blind(seen, offset),
            }
        )
        self._opens(engine, stream, offset)
        health = Health(source, self._worker)
        self._service.begin(source.name, session.host.boot_id, _blind(coverage), LEDGER_NS / 1e9)
        self._feed(stream, start)
        found = self._found(source) if options.snapshot else None
        if found is None or options.filters.children:
            # Not shown, or not yet, but what comes is theirs.
            self._feed(stream, Known(found.processes if found else source.processes()))
        self._follow(source, engine, stream)
        if options.sandbox is not Mode.OFF:
            source.seal()
        read_only = ReadOnly()
        confined = sandbox.enter(tell, lambda first: self._are_confined() and stream.start(first))
        broker = {"broker": self._broker} if self._worker else {}
        self._feed(stream, Confined(boottime(), confined | broker | self._rotation.record | self._service.record))
        if found is not None:
            self._feed(stream, found)
        self._tell_ready(coverage)
        self._service.ready(confined)
        read_only.let_go()
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

    def _opens(self, engine: Engine, stream: Stream, offset: int) -> None:
        """What a command puts in front of a stream, once the probes are attached and before anything is confined.

        ``offset`` is wall clock minus CLOCK_BOOTTIME, ns.
        """

    def _are_confined(self) -> bool:
        """Hear it of the processes beside this one. Raises CommandError."""
        return self._rotation.is_confined() and self._service.is_confined()

    def _user(self, tell: Callable[[str], None] = lambda _: None) -> Identity | None:
        """Whom to run as. Raises CommandError."""
        options = self._options
        if options.sandbox is Mode.OFF:
            return None
        return choose_user(options.user, tell, writes_files=bool(self._outputs.files))

    def _sandbox(self, source: Source) -> Sandbox:
        """The confinement that was asked for. Raises CommandError."""
        calls = WORKER + on_descriptors(CALLS, *source.tried) + self._rotation.calls + self._service.calls
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

    def _feed_collapsed(self, stream: Stream, source: Source, *, counts: bool) -> None:
        """What was collapsed: to be fed before the turn that was read before."""
        flooded = source.collapsed(counts=counts)
        if flooded is not None:
            self._feed(stream, Collapsed(boottime(), *flooded))

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
        blind = _blind(coverage)
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
            self._service.reload(self._rotation.busy)
            self._rotation.turn(stream)
            self._service.reload(self._rotation.busy)
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
            self._feed_collapsed(stream, source, counts=turn.cut or now >= next_moves)
            self._feed(stream, turn)
            self._service.turn(now, turn.drained_at)
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
                self._service.ledger(stream.ledger(turn), engine.shown, now)
                health.look(engine.shown)
        self._service.stopping()
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
        self._feed_collapsed(stream, source, counts=True)
        self._feed(stream, turn)
        self._feed_unheard(stream, source)
        if pending:
            self._feed(stream, Found(now, turn.offset, b"", pending))
        self._feed_moves(stream, source, engine, last=True)
        self._service.ledger(stream.ledger(turn), engine.shown, now)
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


def _blind(coverage: Coverage) -> int:
    """How many hooks are refused that nothing stands in for."""
    return len(coverage.refused.keys() - {"fexit"})  # for that one tracepoints do


def _runs(runs: list[Run]) -> list[RingRun]:
    return [RingRun(run.cpu, run.ring, run.data, run.records_lost, run.drained, run.offsets) for run in runs]
