"""The backends by name, best first; each is imported only where it is used, as imports are what a start takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from tracer.model import SOCKET_KINDS, Kind
from tracer.pipeline.view import Filters
from tracer.probes.core import HOOKS, Core
from tracer.probes.source import KernelFilters, Source

if TYPE_CHECKING:
    from tracer.fallback.broker import Worker

__all__ = ["BACKENDS", "BROKERED", "EBPF", "HOOKS", "LADDER", "kernel_filters", "make"]

BACKENDS: Final = ("auto", "core", "bcc", "netlink", "procfs")
LADDER: Final = BACKENDS[1:]
"""What auto tries, best first."""
EBPF: Final = frozenset({"core", "bcc"})
"""Those that take the privilege to use eBPF."""
BROKERED: Final = frozenset({"netlink", "procfs"})
"""Those that ask about /proc as long as they run, and so run under a broker."""
_WATERMARK: Final = 64 << 10
_NAMED: Final = SOCKET_KINDS - {Kind.LISTEN}  # events with the name of who is talked to


def kernel_filters(wanted: Filters, *, payload: bool, flood: int) -> KernelFilters:
    """What the kernel can filter of what is asked for, and is to give for it; names only with ``payload``.

    ``flood`` is the budget of each user in each control group, in records a second and on each CPU; 0: there is none.
    """
    kinds = set(wanted.kinds)
    if Kind.CLOSE in kinds:
        kinds |= {Kind.CONNECT, Kind.ACCEPT}  # they tell whose it is
    if Kind.UPDATE in kinds:
        kinds |= {Kind.CONNECT, Kind.ACCEPT, Kind.CLOSE, Kind.FLOW, Kind.FLOW_END, Kind.OWNER, Kind.TAIL}
    if Kind.FLOW in kinds:
        kinds |= {Kind.FLOW_END}
    if not payload:
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
        flood,
    )


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
