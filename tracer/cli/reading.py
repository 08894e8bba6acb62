"""Have the engine read names: the parsers are loaded beside the probes, and before anything is confined."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from tracer.cli.short_turns import short_turns
from tracer.cli.tell import tell
from tracer.pipeline.engine import Engine
from tracer.probes.hooks import PAYLOADS
from tracer.probes.source import Coverage

__all__ = ["load", "loading", "read", "read_again"]

_TAKES: Final = frozenset(hook.program for hooks in PAYLOADS.values() for hook in hooks)
_WITH_QUIC: Final = "quic"
_PLAIN: Final = "plain"
_MISSING: Final = "names in QUIC, for which cryptography is needed ({}): pip install cryptography"


def load() -> None:
    """Load all that reading names takes, as far as it is there: a confined process can load nothing."""
    import tracer.pipeline.naming

    with suppress(ImportError):
        import tracer.names.quic  # noqa: F401


@contextmanager
def loading(wanted: bool) -> Iterator[None]:
    """Load that, if it is wanted, while the block waits for the kernel."""
    if not wanted:
        yield
        return
    thread = threading.Thread(target=load)
    thread.start()
    try:
        with short_turns():
            yield
    finally:
        thread.join()


def read(engine: Engine, coverage: Coverage) -> tuple[Coverage, str | None]:
    """Have the names read in what is taken of flows, as far as this installation can; what is told of that."""
    if not any(program in coverage.hooks for program in _TAKES):
        return coverage, None
    try:
        engine.read_names(with_quic=True)
    except ImportError as missing:
        engine.read_names(with_quic=False)
        return coverage._replace(blind=[*coverage.blind, _MISSING.format(missing)]), _PLAIN
    return coverage, _WITH_QUIC


def read_again(engine: Engine, told: str | None) -> None:
    """The same as in the session that told this, if this installation can."""
    if told is None:
        return
    try:
        engine.read_names(with_quic=told == _WITH_QUIC)
    except ImportError as missing:
        tell(f"not told: {_MISSING.format(missing)}")
        engine.read_names(with_quic=False)
