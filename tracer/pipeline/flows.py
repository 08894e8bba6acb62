"""Know every open flow: who owns it, and how to name it for other tools."""

from __future__ import annotations

import marshal
from functools import lru_cache
from socket import AF_INET, AF_INET6, inet_ntop
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from tracer.model import Flag, Kind, Names, Process, SocketEvent
from tracer.pipeline.community import ICMP, ICMPV6, SCTP, TCP, UDP, community_id
from tracer.pipeline.processes import ProcessTable
from tracer.probes.records import Record

if TYPE_CHECKING:
    from tracer.pipeline.naming import Naming

__all__ = ["Ends", "FlowTable", "address", "flow_name"]

FLOWS_MOST: Final = 131_072
YOUNG_NS: Final = 2_000_000_000  # most flows have ended by then; the others are kept in less room
ENDED_MOST: Final = 1024
_MAPPED: Final = bytes(10) + b"\xff\xff"  # RFC 4291, 2.5.5.2
KINDS: Final = tuple(Kind)  # the kinds are 0, 1, 2, …: quicker than Kind(number)
_CLOSE: Final = Kind.CLOSE
_ACCEPT: Final = Kind.ACCEPT
_LISTEN: Final = Kind.LISTEN
_FLOW: Final = Kind.FLOW
_FLOW_END: Final = Kind.FLOW_END
_OF_THE_RECORD: Final = frozenset({Kind.ACCEPT, Kind.OWNER})  # whose it is the record says better
_NOT_KEPT: Final = frozenset({Kind.CLOSE, Kind.FLOW_END, Kind.OWNER, Kind.TAIL})
_STAYS: Final = int(Flag.KERNEL)
_COUNTED: Final = frozenset({Kind.CLOSE, Kind.FLOW_END, Kind.TAIL})
_TAIL: Final = Kind.TAIL
_TAILS_MOST: Final = 8192  # as the kernel's map `tails`
_DATAGRAM: Final = frozenset({Kind.FLOW, Kind.FLOW_END})


@lru_cache(maxsize=8192)
def address(raw: bytes) -> tuple[str, bytes]:
    """Text and shortest bytes of an address; IPv4 comes mapped into IPv6."""
    if raw.startswith(_MAPPED):
        return inet_ntop(AF_INET, raw[12:]), raw[12:]
    return inet_ntop(AF_INET6, raw), raw


class Ends(NamedTuple):
    """What stays the same as long as a flow is open."""

    process: Process | None
    tid: int
    role: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    ipv6: bool
    mapped: bool
    community_id: str
    netns: int
    opened: int
    established: int
    uid: int
    protocol: int
    transport: str
    socket: int
    marks: int = 0  # of its flags what stays true
    names: Names | None = None

    def event(self, kind: Kind, time: int, flow: int, moved: tuple[int, int, int, int], via: int) -> SocketEvent:
        """An event that no record stands for; ``moved`` are bytes out and in, calls out and in."""
        return SocketEvent(
            kind,
            time,
            late=False,
            process=self.process,
            tid=0,
            flow=flow,
            role=self.role,
            local=self.local,
            local_port=self.local_port,
            remote=self.remote,
            remote_port=self.remote_port,
            ipv6=self.ipv6,
            mapped=self.mapped,
            community_id=self.community_id,
            netns=self.netns,
            opened=self.opened,
            established=self.established,
            sent=0,
            received=0,
            retransmits=0,
            rtt_us=0,
            error=0,
            backlog=0,
            state=0,
            flags=0,
            uid=self.uid,
            marks=self.marks,
            protocol=self.protocol,
            transport=self.transport,
            socket=self.socket,
            moved_out=moved[0],
            moved_in=moved[1],
            calls_out=moved[2],
            calls_in=moved[3],
            via=via,
            names=self.names,
        )


_TRANSPORTS: Final = {
    1: "icmp",
    6: "tcp",
    17: "udp",
    58: "ipv6-icmp",
    132: "sctp",
    136: "udplite",
    262: "mptcp",  # the kernel's own number (include/uapi/linux/in.h); what is sent is TCP
}
_PACKET: Final = 17  # AF_PACKET
_VSOCK: Final = 40  # AF_VSOCK
_SOCK_DGRAM: Final = 2
_SOCK_RAW: Final = 3
_IPPROTO_RAW: Final = 255  # who sends writes the headers: of whatever protocol
_ECHO: Final = {ICMP: 8, ICMPV6: 128}


def transport_of(family: int, protocol: int, kind: int) -> str:
    """What carries the bytes: a protocol of the internet by its name, else the sort of socket."""
    if family == _PACKET:
        return "packet"
    if family == _VSOCK:
        return "vsock"
    return _TRANSPORTS.get(protocol, "raw" if kind == _SOCK_RAW else str(protocol))


def flow_name(
    local: bytes, local_port: int, remote: bytes, remote_port: int, family: int, protocol: int, kind: int
) -> str:
    """The community id of what a socket without a connection sends or gets, empty where that can't be made."""
    if family in (_PACKET, _VSOCK) or len(local) != len(remote) or not (any(local) and any(remote)):
        return ""
    if protocol in (UDP, SCTP):
        return community_id(local, local_port, remote, remote_port, protocol) if local_port and remote_port else ""
    if protocol in _ECHO:  # a ping socket sends echo requests and nothing else (net/ipv4/ping.c), a raw one anything
        return community_id(local, _ECHO[protocol], remote, 0, protocol) if kind == _SOCK_DGRAM else ""
    return community_id(local, 0, remote, 0, protocol) if 0 < protocol < _IPPROTO_RAW else ""


class FlowTable:
    """Flow id -> its ends. An open flow keeps its process known, however long ago that exited."""

    def __init__(self, processes: ProcessTable) -> None:
        """Owners come from, and unknown ones go into, ``processes``."""
        self._processes = processes
        self._open: dict[int, Ends] = {}
        self._old: dict[int, tuple[Process | None, Names | None, bytes]] = {}  # those that have been open for long
        self._age_at = 0
        self._tails: dict[int, tuple[Ends, int]] = {}  # closed, and still held: its ends and bytes at the close
        self.repeated = False  # the last tail says nothing that its close did not say before
        self.counted = False  # whether the backend counts what calls move
        self.ends: Ends | None = None  # of the last event
        self.told = 0  # bytes of the parts whose end came by a record
        self.evicted = 0  # open ones that had to go because the table was full
        self.naming: Naming | None = None  # once there is anything that flows could be named by
        self._ended: dict[int, Names] = {}  # of those that ended last: what is still read of them has the name too

    def __len__(self) -> int:
        """How many flows are open."""
        return len(self._open) + len(self._old)

    def known(self, flow: int, tgid: int) -> Ends | None:
        """The ends of a flow that is open and this process's."""
        ends = self._open.get(flow) or self._of_old(flow)
        if ends is None or (ends.process is not None and ends.process.tgid != tgid):
            return None
        return ends

    def find(self, flow: int) -> Ends | None:
        """The ends of a flow that is open."""
        return self._open.get(flow) or self._of_old(flow)

    def names_of(self, flow: int) -> Names | None:
        """What is known of the names of a flow that is open, or has ended a moment ago."""
        ends = self.find(flow)
        return ends.names if ends is not None else self._ended.get(flow)

    def rename(self, flow: int, names: Names) -> None:
        """From now on an open flow has these names."""
        ends = self._open.get(flow) or self._of_old(flow, last=True)
        if ends is not None:
            self._open[flow] = ends._replace(names=names)

    def is_held(self, flow: int) -> bool:
        """Whether it has ended, and a process still holds its socket."""
        return flow in self._tails

    def forget(self, flow: int) -> None:
        """It has ended."""
        if self._open.pop(flow, None) is None:
            self._old.pop(flow, None)

    def age(self, now: int) -> None:
        """Keep what has been open for long in less room: asked for now and then, with the time (boottime ns)."""
        if now < self._age_at:
            return
        self._age_at = now + YOUNG_NS
        self._old.update({flow: (ends[0], ends[18], marshal.dumps(ends[1:18])) for flow, ends in self._open.items()})
        self._open.clear()

    def _of_old(self, flow: int, *, last: bool = False) -> Ends | None:
        kept = self._old.pop(flow, None) if last else self._old.get(flow)
        if kept is None:
            return None
        return tuple.__new__(Ends, (kept[0], *marshal.loads(kept[2]), kept[1]))  # noqa: S302 - what age() has kept

    def _has_ended(self, flow: int, names: Names) -> None:
        self._ended[flow] = names
        if len(self._ended) > ENDED_MOST:
            del self._ended[next(iter(self._ended))]

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
            cgroup,
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
            socket,
            moved_out,
            moved_in,
            calls_out,
            calls_in,
            slot,
            protocol,
            type_,
            via,
        ) = record
        kind = KINDS[number]
        if kind is _CLOSE or error or kind is _FLOW_END:
            ends = self._last_known(flow)
        elif kind is _TAIL:
            ends = self._held(flow, moved_out + moved_in)
            local_port, remote_port = (ends[4], ends[6]) if ends is not None else (local_port, remote_port)
        elif kind in _OF_THE_RECORD:
            ends = None
        else:
            ends = self._open.get(flow) or self._of_old(flow)
        if ends is None:
            # An end has the group that the socket was opened in, which may be left by now.
            where = 0 if kind in _COUNTED else cgroup
            process = self._processes.owner(tgid, start, comm, uid, time, where) if tgid else None
            local, local_bytes = address(local_raw)
            remote, remote_bytes = address(remote_raw)
            ipv6 = len(local_bytes) == 16 and len(remote_bytes) == 16
            if kind is _LISTEN:
                name = ""
            elif protocol == TCP and family != _PACKET:
                name = community_id(local_bytes, local_port, remote_bytes, remote_port) if remote_port else ""
            else:
                name = flow_name(local_bytes, local_port, remote_bytes, remote_port, family, protocol, type_)
            transport = "tcp" if protocol == TCP and family != _PACKET else transport_of(family, protocol, type_)
            naming = self.naming
            ends = tuple.__new__(
                Ends,
                (
                    process,
                    tid,
                    role,
                    local,
                    local_port,
                    remote,
                    remote_port,
                    ipv6,
                    family == AF_INET6 and not ipv6,
                    name,
                    netns,
                    opened,
                    established,
                    uid,
                    protocol,
                    transport,
                    socket,
                    marks & _STAYS,
                    naming.begun(record, kind, transport, remote, process) if naming is not None else None,
                ),
            )
            if kind is _FLOW or (name and not error and kind not in _NOT_KEPT):
                self._keep(flow, ends)
        if kind in _COUNTED and self.counted:
            self._count(flow, ends, slot, moved_out + moved_in)
        else:
            moved_out = moved_in = -1
        self.ends = ends
        # The class's own constructor would look at each of these again.
        return tuple.__new__(
            SocketEvent,
            (
                kind,
                time,
                late,
                ends[0],
                tid,
                flow,
                role if kind not in _DATAGRAM else ends[2],
                ends[3],
                local_port,
                ends[5],
                remote_port,
                ends[7],
                ends[8],
                ends[9],
                netns,
                opened if kind is not _FLOW_END else ends[11],
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
                protocol,
                ends[15],
                socket,
                moved_out,
                moved_in,
                calls_out,
                calls_in,
                via,
                ends[18],
                None,
            ),
        )

    def _last_known(self, flow: int) -> Ends | None:
        """The ends of a flow that has ended now."""
        ends = self._open.pop(flow, None) or self._of_old(flow, last=True)
        if ends is not None and ends[18] is not None:
            self._has_ended(flow, ends[18])
        return ends

    def _held(self, flow: int, moved: int) -> Ends | None:
        """The ends of a connection as of its close: by now the socket has forgotten them."""
        ends, before = self._tails.pop(flow, (None, -1))
        self.repeated = before == moved
        return ends

    def _count(self, flow: int, ends: Ends, slot: int, moved: int) -> None:
        """The last bytes of a part, or with a ``slot`` those of a connection that a process still holds."""
        if not slot:
            self.told += moved
            return
        if len(self._tails) >= _TAILS_MOST:
            del self._tails[next(iter(self._tails))]
        self._tails[flow] = ends, moved

    def _keep(self, flow: int, ends: Ends) -> None:
        if len(self._open) + len(self._old) >= FLOWS_MOST:
            oldest: dict[int, Any] = self._old or self._open
            del oldest[next(iter(oldest))]
            self.evicted += 1
        self._open[flow] = ends
