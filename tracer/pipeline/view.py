"""Decide which events a person asked for: what the kernel could not filter, filtered here."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

from tracer.model import RING_KINDS, TCP_STATES, Answered, Kind, KindEvent, Process, SocketEvent
from tracer.pipeline.processes import ProcessTable

__all__ = ["Filters", "View"]

DEFAULT_KINDS = (frozenset(RING_KINDS) | {Kind.UPDATE}) - {Kind.FORK}
# What was there before is shown with the events that would have told of it.
_FOUND_AS = {
    Kind.PROCESS_FOUND: {Kind.EXEC},
    Kind.SOCKET_FOUND: {Kind.CONNECT, Kind.ACCEPT, Kind.LISTEN},
    Kind.ATTEMPT: {Kind.CONNECT},
    Kind.FLOW_END: {Kind.FLOW},
    Kind.TAIL: {Kind.CLOSE},
}
_LISTEN_STATE = TCP_STATES.index("LISTEN")


@dataclass(slots=True)
class Filters:
    """What was asked for; an empty set or list asks for everything. All of them must hold, any value of each."""

    kinds: frozenset[Kind] = DEFAULT_KINDS
    pids: frozenset[int] = frozenset()
    children: bool = False
    comms: list[str] = field(default_factory=list)  # globs
    exes: list[str] = field(default_factory=list)  # globs
    uids: frozenset[int] = frozenset()
    ports: frozenset[int] = frozenset()
    cidrs: list[str] = field(default_factory=list)
    netns: frozenset[int] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """The filters that are set, as a recording and the session record keep them."""
        values = {
            "pid": sorted(self.pids),
            "comm": self.comms,
            "exe": self.exes,
            "uid": sorted(self.uids),
            "port": sorted(self.ports),
            "cidr": self.cidrs,
            "netns": sorted(self.netns),
        }
        found: dict[str, Any] = {"event": sorted(kind.label for kind in self.kinds)}
        found |= {name: value for name, value in values.items() if value}
        if self.children:
            found["children"] = True
        return found

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Filters:
        """The filters that as_json() wrote. Raises KeyError or ValueError on anything else."""
        by_label = {kind.label: kind for kind in Kind}
        return cls(
            kinds=frozenset(by_label[label] for label in found["event"]),
            pids=frozenset(found.get("pid", ())),
            children=bool(found.get("children", False)),
            comms=list(found.get("comm", ())),
            exes=list(found.get("exe", ())),
            uids=frozenset(found.get("uid", ())),
            ports=frozenset(found.get("port", ())),
            cidrs=list(found.get("cidr", ())),
            netns=frozenset(found.get("netns", ())),
        )


def _globs(patterns: list[str]) -> re.Pattern[str] | None:
    return re.compile("|".join(translate(pattern) for pattern in patterns)) if patterns else None


class View:
    """The filters at work. Names are matched as text, with bytes that aren't UTF-8 as \\xNN."""

    def __init__(self, filters: Filters) -> None:
        """Raises ValueError for a network that is none."""
        self._filters = filters
        self._comm = _globs(filters.comms)
        self._exe = _globs(filters.exes)
        self._networks: list[IPv4Network | IPv6Network] = [ip_network(text, strict=False) for text in filters.cidrs]
        self._pids = set(filters.pids)
        # By kind, which are 0, 1, 2, …
        self._wanted = [bool(_FOUND_AS.get(kind, {kind}) & filters.kinds) for kind in Kind]
        self._all_found = _FOUND_AS[Kind.SOCKET_FOUND] <= filters.kinds
        self._socket_only = bool(filters.ports or filters.cidrs)
        self._kinds_only = self._all_found and not (
            filters.comms or filters.exes or filters.uids or filters.pids or filters.netns or self._socket_only
        )

    def replaced(self, filters: Filters) -> View:
        """One with other filters, of the same processes. Raises ValueError for a network that is none."""
        view = View(filters)
        view._pids |= self._pids
        return view

    def widen(self, processes: ProcessTable) -> set[int]:
        """With --children the descendants that are there already are wanted too; the pids wanted now."""
        if self._filters.children:
            self._pids |= processes.descendants(self._pids)
        return self._pids

    def wants_all(self, kinds: Iterable[int]) -> bool:
        """Whether every event of these kinds is shown, whatever it says."""
        return self._kinds_only and all(self._wanted[kind] for kind in kinds)

    def wants(self, event: KindEvent) -> bool:
        """Whether the event is shown."""
        return self._wanted[event[0]] and (self._kinds_only or self._matches(event))

    def wants_found(self, event: KindEvent) -> bool:
        """Whether an event of what was found is shown: pids are filtered here, since nobody has done so before."""
        pids = self._filters.pids
        if pids and (event.process is None or event.process.tgid not in self._pids):
            return False
        return self.wants(event)

    def _matches(self, event: KindEvent) -> bool:
        filters = self._filters
        process: Process | None = event.process
        if process is None:
            if filters.pids and event.kind is Kind.PAYLOAD:
                return False  # of nobody who is known: the kernel leaves that to us
            return not (filters.uids or self._comm or self._exe) and self._is_wanted_socket(event)
        if isinstance(event, SocketEvent | Answered):
            return self._is_wanted_socket(event) and self._is_wanted(process)
        if self._socket_only or (filters.netns and process.ids.netns not in filters.netns):
            return False
        return self._is_wanted(process)

    def _is_wanted_socket(self, event: KindEvent) -> bool:
        filters = self._filters
        if not isinstance(event, SocketEvent | Answered):
            return False
        if isinstance(event, SocketEvent) and event.kind is Kind.SOCKET_FOUND and not self._all_found:
            listening = event.state == _LISTEN_STATE
            if not filters.kinds & ({Kind.LISTEN} if listening else {Kind.CONNECT, Kind.ACCEPT}):
                return False
        if filters.ports and not {event.local_port, event.remote_port} & filters.ports:
            return False
        if filters.netns and event.netns not in filters.netns:
            return False
        return not self._networks or self._in_networks(event)

    def _in_networks(self, event: SocketEvent | Answered) -> bool:
        addresses = [ip_address(event.local), ip_address(event.remote)]
        return any(address in network for network in self._networks for address in addresses)

    def _is_wanted(self, process: Process) -> bool:
        filters = self._filters
        if filters.uids and process.uid not in filters.uids:
            return False
        if self._comm and not self._comm.match(process.comm.decode(errors="backslashreplace")):
            return False
        if self._exe:
            exe = process.image.executable if process.image else b""
            return self._exe.match(exe.decode(errors="backslashreplace")) is not None
        return True
