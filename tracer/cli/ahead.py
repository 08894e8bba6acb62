"""Begin to load the probes while the modules that are needed behind them are still being imported."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import TracebackType

from tracer.cli.asked import Options
from tracer.cli.backends import kernel_filters, make
from tracer.cli.short_turns import short_turns
from tracer.probes import heap
from tracer.probes.source import Source

__all__ = ["Ahead", "begin"]


class Ahead:
    """A backend that is being entered in a thread of its own; entered here, it is ready, or fails as it did there."""

    def __init__(self, source: Source) -> None:
        """Begin with ``source``."""
        self._source = source
        self._failure: BaseException | None = None
        self._turns = short_turns()
        self._turns.__enter__()
        self._thread = threading.Thread(target=self._enter, name="ahead")
        self._thread.start()

    def _enter(self) -> None:
        try:
            self._source.__enter__()
        except BaseException as failure:  # noqa: BLE001  # it is the other thread's to tell
            self._failure = failure

    def __enter__(self) -> Source:
        """The backend. Raises UnusableError."""
        self._thread.join()
        self._turns.__exit__(None, None, None)
        if self._failure is not None:
            raise self._failure
        return self._source

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give back all it took."""
        self._source.__exit__(kind, error, trace)


def begin(asked: Options, also: Sequence[int]) -> Ahead | None:
    """Begin, if the first backend to be tried is one of probes; ``also`` are the pids that are ours, too.

    Not where a process is forked that is to write figures: that is done before there is anything that it could inherit.
    """
    heap.share()
    if asked.stats is not None or asked.backend not in ("auto", "core"):
        return None
    filters = kernel_filters(asked.filters, payload=asked.payload, flood=asked.flood)
    return Ahead(make("core", filters, asked.buffer, asked.hooks, None, also))
