"""What a session tells beside its stream: to the service manager, and in a stats file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer import __version__
from tracer.cli.errors import CommandError, Exit
from tracer.cli.notify import Notifier
from tracer.cli.sandbox import Mode, confine_opener
from tracer.cli.stats import NOTHING, Measured
from tracer.confine.seccomp_filter import Rule, on_descriptors

if TYPE_CHECKING:
    from tracer.fallback.stats_file import StatsFile

__all__ = ["Service"]

_NS: Final = 1e-9


class Service:
    """Does nothing where there is neither a manager to tell nor a file to write."""

    def __init__(self, path: Path | None, mode: Mode, tell: Callable[[str], None]) -> None:
        """``path`` is the stats file. Nothing is opened before start()."""
        self._path = path
        self._mode = mode
        self._tell = tell
        self._notifier: Notifier | None = None
        self._file: StatsFile | None = None
        self._figures: Measured | None = None
        self._watching = self._status = ""
        self._reloads = False
        self._lag = 0
        self.record: dict[str, Any] = {}

    def start(self, taken: Iterable[Path] = ()) -> None:
        """Connect to the manager and fork the process of the file, before anything is loaded. Raises CommandError.

        ``taken`` are files for something else, which the figures must not replace.
        """
        self._notifier = Notifier.open()
        if self._path is None:
            return
        if find_spec("prometheus_client") is None:
            fix = "pip install 'tracer[service]', or leave --stats out"
            raise CommandError(f"--stats takes the package prometheus-client: {fix}", Exit.FAILURE)
        from tracer.confine.stats_file import stats_plan
        from tracer.fallback.stats_file import StatsFile

        path = self._path.absolute()
        if path.resolve() in {each.resolve() for each in taken}:
            raise CommandError(f"--stats: {path} is written already; name another file", Exit.USAGE)

        def confine(fd: int) -> dict[str, Any]:
            _render(b"")  # what it takes is loaded before
            return confine_opener(self._mode, stats_plan(path.parent, fd))

        try:
            self._file = StatsFile.start(path, confine, _render)
        except OSError as refused:
            raise CommandError(
                f"--stats: can't write {path}: {refused.strerror}; name another file", Exit.FAILURE
            ) from refused

    @property
    def pids(self) -> list[int]:
        """That of the file's process, if there is one: it is no news."""
        return [] if self._file is None else [self._file.pid]

    @property
    def calls(self) -> tuple[Rule, ...]:
        """The system calls that must be left to this process."""
        calls = () if self._notifier is None else self._notifier.calls
        return calls + (() if self._file is None else on_descriptors("sendto recvmsg", self._file.fd))

    def is_confined(self) -> bool:
        """Hear from the file's process, if there is one, how it is confined, once; ``record`` is what is told of it.

        Raises CommandError if that has to be strict and is not, else it is True.
        """
        if self._file is None or self.record:
            return True
        from tracer.fallback.stats_file import StatsFileLostError

        try:
            told = self._file.confined()
        except StatsFileLostError as lost:
            raise CommandError(
                f"--stats: the process that is to write {self._path} has ended ({lost})", Exit.FAILURE
            ) from lost
        problems = told.pop("problems", [])
        if problems and self._mode is Mode.STRICT:
            raise CommandError(f"--sandbox-strict: the process of --stats: {'; '.join(problems)}", Exit.SANDBOX)
        if problems:
            self._tell(f"sandbox of the process that writes {self._path}: {'; '.join(problems)}")
        self.record = {"stats": told}
        return True

    def begin(self, backend: str, boot_id: str, refused: int, every_s: float) -> None:
        """A session begins: open what measures it. ``refused`` hooks are; a ledger comes ``every_s`` seconds."""
        self._watching = backend
        if self._file is None:
            return
        self._figures = Measured(
            version=__version__, backend=backend, boot_id=boot_id, hooks_refused=refused, every_s=every_s
        )

    def ready(self, confined: Mapping[str, Any]) -> None:
        """It traces, confined as that record says."""
        if self._figures is not None:
            self._figures.confined(confined)
            self._write(NOTHING, 0, running=True)
        if self._notifier is not None:
            self._status = f"watching with {self._watching}"
            self._notifier.ready(self._status)

    def turn(self, now: int, drained_at: int) -> None:
        """A turn of the loop at ``now``, which has read what is older than ``drained_at`` (boottime, ns)."""
        self._lag = max(self._lag, now - drained_at)
        if self._notifier is not None:
            self._notifier.alive(now * _NS)

    def ledger(self, ledger: Mapping[str, Any], events: int, now: int) -> None:
        """A ledger was written behind so many ``events`` at ``now`` (boottime, ns)."""
        last = bool(ledger["final"])
        if self._figures is not None:
            self._write(ledger, events, running=not last)
        if self._notifier is not None and not last:
            lost = ledger["total"]["lost"]
            self._status = f"watching with {self._watching}: {events:,} events, {lost:,} records lost"
            self._notifier.alive(now * _NS, self._status)

    def reload(self, busy: bool) -> None:
        """Whether there is still something to do that SIGHUP asked for."""
        if busy == self._reloads or self._notifier is None:
            return
        self._reloads = busy
        if busy:
            self._notifier.reloading()
        else:
            self._notifier.ready(self._status)

    def stopping(self) -> None:
        """The session ends."""
        if self._notifier is not None:
            self._notifier.stopping()

    def _write(self, ledger: Mapping[str, Any], events: int, *, running: bool) -> None:
        from tracer.fallback.stats_file import StatsFileLostError

        if self._figures is None or self._file is None:
            return
        lag_s, self._lag = self._lag * _NS, 0
        try:
            self._file.send(self._figures.facts(ledger, events=events, lag_s=lag_s, running=running))
        except StatsFileLostError as lost:
            self._tell(f"--stats: {self._path} is not written any more: the process that wrote it is gone ({lost})")
            self._file = None


def _render(facts: bytes) -> bytes:
    """In the process of the file: what is in there. Nothing gives nothing."""
    from tracer.cli.figures import render

    return render(facts) if facts else b""
