"""Make records of bpf/tracer.h from what /proc tells: what the probes would have written, as far as that is known."""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from tracer.model import NS_PER_TICK, SOCKET_KINDS, Flag, Kind, Role
from tracer.probes.records import HEADER, SOCKET, START, TGID, UNMOVED

__all__ = ["NOBODY", "Ends", "Flow", "Owner", "executed", "exited", "forked", "owner_of", "socket"]

_IDENTITY: Final = slice(HEADER.size, HEADER.size + 80)  # struct identity of a process record
_OWNER: Final = Struct(f"={HEADER.size + 8}xQ8xI36x16s").unpack_from  # of it: cgroup, uid, comm
_FORK: Final = Struct("=II")
_EXIT: Final = Struct("=QQII")
_FLAGS: Final = 8  # position in struct header


class Owner(NamedTuple):
    """Whose a socket is; pid 0: that is not known."""

    pid: int
    start: int
    uid: int
    cgroup: int
    comm: bytes


NOBODY: Final = Owner(0, 0, 0, 0, b"")


class Ends(NamedTuple):
    """The addresses of a socket, IPv4 as ::ffff:a.b.c.d, and its ports; ``family`` is AF_INET or AF_INET6."""

    family: int
    local: bytes
    local_port: int
    remote: bytes
    remote_port: int


@dataclass(slots=True)
class Flow:
    """A TCP socket while it is open. Times are boottime ns of the looks that saw it; 0: not yet, or before the first.

    ``inode`` is 0 as long as it waits to be accepted; ``uid`` is the user whose socket it is.
    """

    id: int
    netns: int
    ends: Ends
    inode: int
    uid: int
    state: int
    opened: int
    established: int = 0
    role: int = Role.NONE
    owner: Owner = NOBODY
    unseen: int = 0  # when the last look that did not find it began; 0: there was none
    tries: int = 0  # at finding the owner
    looks: int = 0  # that could have told of it
    told: bool = False  # that it is there
    attempted: bool = False  # told that its connect is still pending
    before: bool = False  # it was there at the first look, and has not been told of
    pending: bool = False  # it was seen before it was connected


def owner_of(record: bytes) -> Owner:
    """The process of a process record, as the owner of sockets."""
    header = HEADER.unpack_from(record)
    cgroup, uid, comm = _OWNER(record)
    return Owner(header[TGID], header[START], uid, cgroup, comm)


def _header(time: int, kind: Kind, start: int, pid: int, flags: int) -> bytes:
    return HEADER.pack(time, 0, start, pid, pid, 0, kind, int(kind in SOCKET_KINDS), flags)


def forked(found: bytes, time: int, *, forker: int, flags: int = 0) -> bytes:
    """struct fork_record of the process of a PROCESS_FOUND record.

    ``forker`` is the process whose program it has until it executes one; 0 where that is not known.
    """
    header = HEADER.unpack_from(found)
    told = _header(time, Kind.FORK, header[START], header[TGID], flags)
    return told + found[_IDENTITY] + _FORK.pack(forker, forker)


def executed(found: bytes, time: int, *, flags: int = 0) -> bytes:
    """struct exec_record of what a PROCESS_FOUND record says that a process runs."""
    header = HEADER.unpack_from(found)
    told = _header(time, Kind.EXEC, header[START], header[TGID], header[_FLAGS] | flags)
    return told + found[HEADER.size :]


def exited(found: bytes, time: int, *, status: int | None, cpu_ticks: int, flags: int = 0) -> bytes:
    """struct exit_record of the process of a PROCESS_FOUND record; ``status`` as wait(2) gives it, if it is known."""
    header = HEADER.unpack_from(found)
    flags |= Flag.NO_STATUS if status is None else Flag.CORE if status & 0x80 else 0
    told = _header(time, Kind.EXIT, header[START], header[TGID], flags)
    return told + found[_IDENTITY] + _EXIT.pack(cpu_ticks * NS_PER_TICK, 0, status or 0, 0)


def socket(kind: Kind, time: int, flow: Flow, state: int, flags: int = 0) -> bytes:
    """struct socket_record without totals, of which /proc says nothing; ``state`` is the one before the event."""
    ends, owner = flow.ends, flow.owner
    return SOCKET.pack(
        time,
        0,
        owner.start,
        owner.pid,
        owner.pid,
        0,
        kind,
        1,
        flags | Flag.NO_TOTALS | (Flag.BY_INODE if owner.pid else 0),
        flow.id,
        flow.opened if kind is not Kind.CONNECT or flow.pending else 0,  # how long it took is known of those alone
        flow.established,
        0,
        0,
        owner.cgroup,
        0,
        0,
        flow.netns,
        owner.uid if owner.pid else flow.uid,
        0,
        0,
        ends.local_port,
        ends.remote_port,
        ends.family,
        flow.role,
        state,
        0,
        ends.local,
        ends.remote,
        owner.comm,
        *UNMOVED,
    )
