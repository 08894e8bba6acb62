"""Keep the account of the wire (`--account-wire`): what the probes have seen on each device beside its own counters."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from tracer.cli.errors import CommandError, Exit
from tracer.pipeline.turns import Accounted, DeviceTotals
from tracer.probes.core import Core
from tracer.probes.libbpf_binding import BpfError
from tracer.probes.source import Coverage, Source, boottime
from tracer.probes.wire import Carried

if TYPE_CHECKING:
    from tracer.probes.interfaces import Counted, Interfaces
    from tracer.probes.wire import Wire

__all__ = ["Account", "open_account"]

_NOT_HERE: Final = "what network devices carry (--account-wire takes the core backend)"
_NOT_WHOSE: Final = "whose packets come in, in the account of the wire"
_LATER: Final = "the own counters of interfaces in network namespaces that are made later, or that nobody is in"

_TRIES: Final = 8
_TOGETHER_NS: Final = 3_000_000

Device = tuple[int, int]
"""The inode of a network namespace, and an interface's index there."""


class Account:
    """Running totals since it was opened, by device."""

    def __init__(self, wire: Wire, interfaces: Interfaces, wanted: frozenset[int], every_ns: int) -> None:
        """Reads both for the first time. Raises OSError.

        ``wanted`` are inodes of network namespaces, none for all. What has changed is ``due`` (boottime ns) every
        ``every_ns``.
        """
        self._wanted = wanted
        self._every = every_ns
        self.due = boottime() + every_ns
        self._wire = wire
        self._interfaces = interfaces
        self._began, self._first = self._read()
        self._told = self._began

    def _read(self) -> tuple[dict[Device, tuple[Carried, Carried]], dict[Device, Counted]]:
        """Both at nearly the same moment: on a busy machine it may take several tries."""
        tries = 0
        while True:
            began, tries = boottime(), tries + 1
            both = self._wire.read(), self._interfaces.read()
            if boottime() - began < _TOGETHER_NS or tries == _TRIES:
                return both

    def take(self, inhabited: Collection[int]) -> Accounted:
        """The devices that have carried something since they were last told of. Raises OSError.

        ``inhabited`` are the network namespaces that processes are in: no other is asked any more, nor kept alive.
        """
        self._interfaces.keep(inhabited)
        now = boottime()
        self.due = now + self._every
        carried, counted = self._read()
        rows = []
        for (netns, index), ways in carried.items():
            device = netns, index
            if self._told.get(device) != ways and (not self._wanted or netns in self._wanted):
                rows.append(self._row(device, ways, counted.get(device)))
        self._told = carried
        return Accounted(now, rows)

    def _row(self, device: Device, ways: tuple[Carried, Carried], counted: Counted | None) -> DeviceTotals:
        began = self._began.get(device)
        out, into = ways if began is None else (now.since(then) for now, then in zip(ways, began, strict=True))
        first = self._first.get(device)
        own = None
        if counted is not None:
            own = [counted.out - (first.out if first else 0), counted.into - (first.into if first else 0)]
        name = counted.name if counted is not None else ""
        return DeviceTotals(*device, name, list(out.sorts), list(into.sorts), [out.headers, into.headers], own)


def open_account(
    source: Source, coverage: Coverage, wanted: frozenset[int], every_ns: int, stack: ExitStack
) -> tuple[Account | None, Coverage]:
    """The account that this backend can keep, and what it can't see. Raises CommandError.

    ``wanted`` and ``every_ns`` are as in Account; ``stack`` closes what was opened.
    """
    if not isinstance(source, Core):
        return None, coverage._replace(blind=[*coverage.blind, _NOT_HERE])
    from tracer.probes.interfaces import Interfaces

    try:
        interfaces = Interfaces()
        stack.callback(interfaces.close)
        wire = source.account_wire()
        account = Account(wire, interfaces, wanted, every_ns)
    except ImportError as missing:
        raise CommandError(f"--account-wire: {missing}: pip install 'pyroute2>=0.7.4'", Exit.FAILURE) from missing
    except (OSError, BpfError) as refused:
        raise CommandError(f"--account-wire: {refused}", Exit.UNSUPPORTED) from refused
    blind = [*coverage.blind, _LATER]
    if wire.refused:
        blind.append(f"{_NOT_WHOSE} ({wire.refused})")
    if interfaces.refused:
        blind.append(f"the own counters of interfaces in {interfaces.refused} network namespaces")
    return account, coverage._replace(blind=blind)
