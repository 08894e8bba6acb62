"""Watch over the backend and the broker of a session, and say it when one of them is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracer.pipeline.turns import Lost
from tracer.probes.libbpf import BpfError
from tracer.probes.rings import RingError
from tracer.probes.source import Source, SourceLostError, boottime

if TYPE_CHECKING:
    from tracer.fallback.asked import AskedFiles
    from tracer.fallback.broker import Worker

__all__ = ["LOSSES", "Health", "gap_of"]

LOSSES = (SourceLostError, RingError, BpfError)
"""What a backend that is lost raises."""


class Health:
    """When all was well last, by looks that find what is dead and silent."""

    def __init__(self, source: Source, worker: Worker | None) -> None:
        """``worker`` is there where a broker is."""
        self._source = source
        self._worker = worker
        self._place = worker.ladder.index(source.name) if worker is not None else 0
        self.since = boottime()

    @property
    def _broker(self) -> AskedFiles | None:
        return None if self._worker is None else self._worker.files

    def glance(self) -> None:
        """Look whether the broker is there; costs one system call. Raises SourceLostError."""
        if self._broker is not None and self._broker.gone():
            raise SourceLostError("the broker was killed")

    def look(self, events: int) -> None:
        """Try whether everything that can be tried still works, after so many events. Raises SourceLostError."""
        now = boottime()
        silent = self._source.silent()
        if silent:
            raise SourceLostError(*silent)
        if self._broker is not None:
            self._broker.alive(self._place, now, events)
        self.since = now

    def told(self, error: Exception) -> Lost:
        """What the stream is to say of a loss."""
        reasons = [str(each) for each in error.args[:16]] if isinstance(error, SourceLostError) else [str(error)]
        return Lost(boottime(), self.since, self._source.name, reasons)

    def report(self, lost: Lost, events: int) -> bool:
        """Tell the broker, which then starts a fresh worker; whether there is one to tell."""
        if self._broker is None:
            return False
        try:
            self._broker.lost(self._place, "; ".join(lost.reasons), lost.since, events)
        except SourceLostError:
            return False
        return True


def gap_of(worker: Worker | None) -> dict[str, object] | None:
    """What a session says of what is missing before it."""
    if worker is None or worker.gap is None:
        return None
    return {"backend": worker.gap.backend, "reasons": [worker.gap.reason], "first": worker.gap.first}
