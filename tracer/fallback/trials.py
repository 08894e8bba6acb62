"""Try the backends that need no BPF on this machine, as tracing would, for `tracer doctor`."""

from __future__ import annotations

from typing import Final

from tracer.fallback.netlink import Netlink
from tracer.fallback.polling import Procfs
from tracer.probes.privileges import RING_BYTES, Finding, Status
from tracer.probes.source import KernelFilters, Source
from tracer.probes.unusable import UnusableError

__all__ = ["netlink_backend", "procfs_backend"]

_NOTHING: Final = KernelFilters(
    frozenset(), frozenset({1 << 22}), False, frozenset(), frozenset(), frozenset(), []
)  # no such pid: PID_MAX_LIMIT of include/linux/threads.h


def netlink_backend() -> Finding:
    """The netlink backend, as the procfs backend below."""
    return _tried(Netlink(_NOTHING, RING_BYTES), "hears of processes, looks at sockets")


def procfs_backend() -> Finding:
    """The procfs backend: started as tracing does it, but told to report nothing; facts as of the core backend."""
    return _tried(Procfs(_NOTHING, RING_BYTES), "looks at /proc, needs no privilege")


def _tried(backend: Source, how: str) -> Finding:
    try:
        with backend:
            coverage = backend.start()
    except UnusableError as unusable:
        status = Status.UNKNOWN if unusable.code == 3 else Status.MISSING
        facts = {"code": unusable.code, "hooks": {}, "refused": {}, "blind": ["everything: it does not run"]}
        return Finding(status, str(unusable), "", facts)
    polling = coverage.polling
    often = f", every {polling['shortest_ms']} to {polling['longest_ms']} ms" if polling else ""
    blind = [*coverage.blind, *coverage.uncounted]
    facts = {"code": 0, "hooks": coverage.hooks, "refused": coverage.refused, "blind": blind}
    return Finding(Status.OK, f"{how}{often}; not seen by it: {len(blind)} things, in --json", "", facts)
