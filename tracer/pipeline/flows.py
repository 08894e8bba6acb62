"""Know every open TCP flow: who owns it, and how to name it for other tools."""

from __future__ import annotations

from binascii import b2a_base64
from functools import lru_cache
from hashlib import sha1
from socket import AF_INET, AF_INET6, inet_ntop
from struct import Struct
from typing import Final, NamedTuple

from tracer.model import Kind, Process, SocketEvent
from tracer.pipeline.processes import ProcessTable
from tracer.probes.records import Record

__all__ = ["FlowTable", "community_id"]

FLOWS_MOST: Final = 131_072
_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
_TCP: Final = 6
_ports: Final = Struct(">BBHH").pack
KINDS: Final = tuple(Kind)  # the kinds are 0, 1, 2, …: quicker than Kind(number)
_CLOSE: Final = Kind.CLOSE
_ACCEPT: Final = Kind.ACCEPT
_LISTEN: Final = Kind.LISTEN


@lru_cache(maxsize=8192)
def _address(raw: bytes) -> tuple[str, bytes]:
    """Text and shortest bytes of an address; IPv4 comes mapped into IPv6."""
    if raw.startswith(_MAPPED):
        return inet_ntop(AF_INET, raw[12:]), raw[12:]
    return inet_ntop(AF_INET6, raw), raw


def community_id(one: bytes, one_port: int, other: bytes, other_port: int, protocol: int = _TCP) -> str:
    """Name a flow the same from both of its ends: Community ID version 1, seed 0, of the Corelight specification.

    Addresses are 4 or 16 bytes in network order.
    """
    if one > other or (one == other and one_port > other_port):
        one, one_port, other, other_port = other, other_port, one, one_port
    named = b"\0\0" + one + other + _ports(protocol, 0, one_port, other_port)
    digest = sha1(named, usedforsecurity=False).digest()
    return "1:" + b2a_base64(digest, newline=False).decode()


class _Ends(NamedTuple):
    """What stays the same as long as a flow is open."""

    process: Process | None
    local: str
    remote: str
    ipv6: bool
    mapped: bool
    community_id: str


class FlowTable:
    """Flow id -> its ends. An open flow keeps its process known, however long ago that exited."""

    def __init__(self, processes: ProcessTable) -> None:
        """Owners come from, and unknown ones go into, ``processes``."""
        self._processes = processes
        self._open: dict[int, _Ends] = {}
        self.evicted = 0  # open ones that had to go because the table was full

    def __len__(self) -> int:
        """How many flows are open."""
        return len(self._open)

    def event(self, record: Record, late: bool) -> SocketEvent:
        """What a socket record (struct socket_record) says, with its owner."""
        (
            time,
            _seq,
            start,
            tgid,
            tid,
            _cpu,
            number,
            _ring,
            marks,
            flow,
            opened,
            established,
            sent,
            received,
            _cgroup,
            retransmits,
            rtt_us,
            netns,
            uid,
            error,
            backlog,
            local_port,
            remote_port,
            family,
            role,
            state,
            sock_flags,
            local_raw,
            remote_raw,
            comm,
        ) = record
        kind = KINDS[number]
        if kind is _CLOSE or error:
            ends = self._open.pop(flow, None)
        else:
            ends = self._open.get(flow) if kind is not _ACCEPT else None
        if ends is None:
            process = self._processes.owner(tgid, start, comm, uid, time) if tgid else None
            local, local_bytes = _address(local_raw)
            remote, remote_bytes = _address(remote_raw)
            ipv6 = len(local_bytes) == 16 and len(remote_bytes) == 16
            if kind is _LISTEN or not remote_port:
                name = ""
            else:
                name = community_id(local_bytes, local_port, remote_bytes, remote_port)
            ends = tuple.__new__(_Ends, (process, local, remote, ipv6, family == AF_INET6 and not ipv6, name))
            if name and kind is not _CLOSE and not error:
                self._keep(flow, ends)
        process, local, remote, ipv6, mapped, name = ends
        # The class's own constructor would look at each of these again.
        return tuple.__new__(
            SocketEvent,
            (
                kind,
                time,
                late,
                process,
                tid,
                flow,
                role,
                local,
                local_port,
                remote,
                remote_port,
                ipv6,
                mapped,
                name,
                netns,
                opened,
                established,
                sent,
                received,
                retransmits,
                rtt_us,
                error,
                backlog,
                state,
                sock_flags,
                uid,
                marks,
            ),
        )

    def _keep(self, flow: int, ends: _Ends) -> None:
        if len(self._open) >= FLOWS_MOST:
            del self._open[next(iter(self._open))]
            self.evicted += 1
        self._open[flow] = ends
