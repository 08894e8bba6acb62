"""The backends by name, best first; each is imported only where it is used, as imports are what a start takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from tracer.probes.core import Core
from tracer.probes.source import KernelFilters, Source

if TYPE_CHECKING:
    from tracer.fallback.broker import Worker

__all__ = ["BACKENDS", "BROKERED", "EBPF", "LADDER", "make"]

BACKENDS: Final = ("auto", "core", "bcc", "netlink", "procfs")
LADDER: Final = BACKENDS[1:]
"""What auto tries, best first."""
EBPF: Final = frozenset({"core", "bcc"})
"""Those that take the privilege to use eBPF."""
BROKERED: Final = frozenset({"netlink", "procfs"})
"""Those that ask about /proc as long as they run, and so run under a broker."""
_WATERMARK: Final = 64 << 10


def make(
    name: str, filters: KernelFilters, buffer: int, hooks: str, worker: Worker | None, also: Iterable[int] = ()
) -> Source:
    """The backend of that name; ``worker`` is there for those that are BROKERED. Nothing is loaded yet.

    ``also`` are children of the process that was started, by pid, which are left out as it is itself.
    """
    if name == "core":
        return Core(filters, buffer, _WATERMARK, hooks, also)
    if name == "bcc":
        from tracer.fallback.procfs import ProcFinder
        from tracer.probes.bcc import Bcc

        return Bcc(filters, buffer, _WATERMARK, ProcFinder(), also)
    if worker is None:
        raise AssertionError(name)
    if name == "netlink":
        from tracer.fallback.netlink import Netlink  # its library costs 33 MiB

        return Netlink(filters, buffer, worker.files, [worker.broker, *also])
    from tracer.fallback.polling import Procfs

    return Procfs(filters, buffer, worker.files, [worker.broker, *also])
