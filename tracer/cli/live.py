"""`tracer live`: watch processes and what they send and receive, as it happens."""

from __future__ import annotations

import signal
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

from tracer.cli import backends, reading
from tracer.cli.absent import absent
from tracer.cli.backends import BACKENDS, BROKERED, EBPF, LADDER
from tracer.cli.errors import CommandError, Exit
from tracer.cli.geoip import open_places
from tracer.cli.health import LOSSES
from tracer.cli.outputs import Outputs
from tracer.cli.rotation import Rotation
from tracer.cli.sandbox import confine_broker
from tracer.cli.session import Options, Session
from tracer.cli.tell import tell
from tracer.model import Kind
from tracer.probes import heap
from tracer.probes.core import HOOKS
from tracer.probes.source import Coverage, KernelFilters, Source
from tracer.probes.unusable import UnusableError

if TYPE_CHECKING:
    from tracer.cli.ahead import Ahead
    from tracer.fallback.broker import Worker

__all__ = ["BACKENDS", "HOOKS", "Live", "Options"]


class Live(Session):
    """Chooses a backend that starts, and handles signals; a session runs on it."""

    def __init__(
        self,
        options: Options,
        rotation: Rotation | None = None,
        outputs: Outputs | None = None,
        ahead: Ahead | None = None,
    ) -> None:
        """Nothing is loaded before run(), but for what is loaded ``ahead``: the first backend of these options.

        ``rotation`` and ``outputs`` are there where they are not the usual ones.
        """
        rotation = rotation or Rotation(options.output, options.sandbox, tell)
        super().__init__(options, rotation, outputs or Outputs(options.output, options.record, rotation))
        self._ahead = ahead
        self._unprivileged: str | None = None  # why eBPF is not for this user

    def run(self) -> int:
        """Trace until the end that was asked for, a signal, or a closed output. Raises CommandError."""
        heap.share()
        self._tell_absent()
        self._rotation.start()
        self._service.start(self._outputs.files)
        self._places = open_places(self._options.geoip)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            signal.signal(signal.SIGHUP, self._hang_up)
        try:
            ladder = LADDER if self._options.backend == "auto" else (self._options.backend,)
            return self._with_backend(ladder, {})
        finally:
            self._outputs.close()

    def _tell_absent(self) -> None:
        for line in absent(self._options.filters):
            tell(line)

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
        self._are_confined()  # which is said once, and is to be known to every worker

        def confine() -> None:
            self._broker = confine_broker(self._options.sandbox, plan, tell)

        try:
            return Broker(ladder, ends=self._ends, begun=self._outputs.let_go, confine=confine, say=tell).run()
        except OSError as refused:
            fix = "raise the limits on processes and open files (ulimit -u, ulimit -n)"
            raise CommandError(f"can't start a worker: {refused.strerror}; {fix}", Exit.FAILURE) from refused

    def _backend(self, name: str) -> AbstractContextManager[Source]:
        options = self._options
        ahead, self._ahead = self._ahead, None
        if ahead is not None and name == "core":
            return ahead
        also = self._rotation.pids + self._service.pids
        return backends.make(name, self._kernel_filters(), options.buffer, options.hooks, self._worker, also)

    def _stop(self, *_: object) -> None:
        self._ending = True

    def _hang_up(self, *_: object) -> None:
        self._ending |= self._rotation.hang_up()

    def _ends(self, number: int) -> bool:
        return number != signal.SIGHUP or self._rotation.ends()

    def _kernel_filters(self) -> KernelFilters:
        options = self._options
        return backends.kernel_filters(options.filters, payload=options.payload, flood=options.flood)
