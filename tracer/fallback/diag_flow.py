"""A TCP socket as sock_diag tells of it, while it is open, and the records that are made of it."""

from __future__ import annotations

from dataclasses import dataclass

from tracer.fallback.diag import LISTEN, TcpSocket
from tracer.fallback.telling import NOBODY, Owner
from tracer.model import Flag, Kind, Role
from tracer.probes.records import SOCKET, UNMOVED
from tracer.probes.source import boottime

__all__ = ["DiagFlow", "record_of"]


@dataclass(slots=True)
class DiagFlow:
    """``last`` is what was told of it last, by a dump or at its end. Its cookie is its id, which no other ever has.

    Times are boottime ns: ``opened`` of the dump that saw it first, ``since`` of a dump that did not; 0: before the
    start. ``told`` and ``attempted``: that it is there, and that its connect is pending, has been said.
    """

    netns: int
    last: TcpSocket
    opened: int
    since: int
    role: Role = Role.NONE
    inode: int = 0
    owner: Owner = NOBODY
    tries: int = 0  # at finding the owner
    told: bool = False
    attempted: bool = False
    before: bool = False  # it was there at the start, and that has not been told
    pending: bool = False  # it was seen before it was connected
    established: int = 0

    def goes_on(self, socket: TcpSocket) -> None:
        """A dump tells of it again."""
        if socket.inode and not self.inode:
            self.inode = socket.inode
        if not self.role:
            self.role = _role(socket)
        self.last = socket

    @property
    def state(self) -> int:
        """The newest that is known."""
        return self.last.state


def _role(socket: TcpSocket) -> Role:
    if socket.state == LISTEN:
        return Role.LISTEN
    active = socket.active
    return Role.NONE if active is None else Role.CONNECT if active else Role.ACCEPT


def record_of(kind: Kind, flow: DiagFlow, state: int, totals: TcpSocket | None, flags: int) -> bytes:
    """struct socket_record, of now; ``state`` is the one before, or 0; without ``totals`` these are not known."""
    owner, at = flow.owner, flow.last
    if not owner.pid:
        pass
    elif kind is Kind.CLOSE:
        flags |= Flag.BY_COOKIE
    else:
        flags |= Flag.BY_INODE
    known = totals is not None and totals.info is not None
    if not known and state != LISTEN and kind is not Kind.LISTEN:
        flags |= Flag.NO_TOTALS
    info = totals.info if totals is not None else None
    return SOCKET.pack(
        boottime(),
        0,
        owner.start,
        owner.pid,
        0,
        0,
        kind,
        1,
        flags,
        at.cookie,
        flow.opened if kind is Kind.CLOSE or flow.pending else 0,
        flow.established,
        totals.sent if totals is not None else 0,
        totals.received if totals is not None else 0,
        owner.cgroup,
        info.retransmits if info is not None else 0,
        info.rtt_us if info is not None else 0,
        flow.netns,
        owner.uid if owner.pid else at.uid,
        0,
        at.room if at.state == LISTEN else 0,
        at.port,
        at.remote_port,
        at.family,
        flow.role,
        state,
        0,
        at.local,
        at.remote,
        owner.comm,
        *UNMOVED,
    )
