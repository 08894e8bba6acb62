"""Ask a network namespace for its TCP sockets, and hear of each that is destroyed, with the kernel's own totals.

Both go over sock_diag (net/ipv4/inet_diag.c, net/core/sock_diag.c): a dump tells of the sockets that are there, with
user, inode and cookie; a notification of one that went, with its cookie alone, as it has no inode any more. Where the
program reset the connection (SO_LINGER of 0) or a connect failed, the kernel has forgotten the peer's port and the
totals by then (tcp_disconnect()).
"""

from __future__ import annotations

import errno
import socket
from struct import Struct
from typing import Final, NamedTuple, Self

from tracer.fallback.sock_diag import HEADER_SIZE, dump, inet_request

__all__ = [
    "ALL_STATES",
    "CLOSE_WAIT",
    "ESTABLISHED",
    "LISTEN",
    "SYN_SENT",
    "TIME_WAIT",
    "Diag",
    "Info",
    "TcpSocket",
    "parsed",
]

# include/net/tcp_states.h
ESTABLISHED: Final = 1
SYN_SENT: Final = 2
SYN_RECV: Final = 3
TIME_WAIT: Final = 6
CLOSE: Final = 7
CLOSE_WAIT: Final = 8
LAST_ACK: Final = 9
LISTEN: Final = 10
CLOSING: Final = 11
NEW_SYN_RECV: Final = 12

_NOT_OPEN: Final = (0, SYN_RECV, TIME_WAIT, CLOSE, NEW_SYN_RECV)
ALL_STATES: Final = (1 << NEW_SYN_RECV + 1) - 1 & ~sum(1 << state for state in _NOT_OPEN)
"""Those in which a socket is somebody's, or was: half-open ones are their listener's."""

_NETLINK_SOCK_DIAG: Final = 4
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_INET_DIAG_INFO: Final = 2  # include/uapi/linux/inet_diag.h
_INET_DIAG_SHUTDOWN: Final = 8
_RCV_SHUTDOWN: Final = 1  # include/net/sock.h
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_MAPPED: Final = bytes(10) + b"\xff\xff"
_MESSAGE_BYTES: Final = 1 << 18
_FIN_COUNTED: Final = frozenset({CLOSE_WAIT, LAST_ACK, CLOSING, TIME_WAIT})  # the peer's has come

_MESSAGE: Final = Struct("=4B2s2s16s16sIQ5I")  # struct inet_diag_msg
_message = _MESSAGE.unpack_from
_attribute = Struct("=HH").unpack_from
_INFO: Final = Struct("=24xI40xI28xI16xQQ16xI44xQQ")  # of struct tcp_info, up to bytes_retrans (4.19)
_info = _INFO.unpack_from


class Info(NamedTuple):
    """Of struct tcp_info. ``sent`` and ``acked`` are bytes of the stream without retransmissions, ``acked`` and
    ``received`` count a SYN and a FIN as one each; ``unacked`` and ``data_segments`` (received) are segments.
    """

    sent: int
    acked: int
    received: int
    data_segments: int
    retransmits: int
    rtt_us: int
    unacked: int


class TcpSocket(NamedTuple):
    """A socket; addresses have 16 bytes, IPv4 as ::ffff:a.b.c.d, ports are in host order.

    Of a LISTEN socket ``waiting`` are bytes, else: of one that listens the connections that nobody accepted yet, and
    ``room`` how many there may be. ``uid`` and ``inode`` are 0 for one that was destroyed.
    """

    family: int
    state: int
    local: bytes
    port: int
    remote: bytes
    remote_port: int
    cookie: int
    uid: int
    inode: int
    waiting: int
    room: int
    shutdown: int
    info: Info | None

    @property
    def sent(self) -> int:
        """Bytes of the stream that were sent, each once."""
        return self.info.sent if self.info else 0

    @property
    def received(self) -> int:
        """Bytes of the stream that came: without the peer's FIN where it is known to be in the kernel's count.

        Of a destroyed socket it is known when there was no data at all, and when all but the FIN was read: else the
        sum may be one too high.
        """
        info = self.info
        if info is None or not info.received:
            return 0
        if not info.data_segments:
            return 0
        if self.state == CLOSE:
            return info.received - (self.waiting == 1)
        return info.received - bool(self.shutdown & _RCV_SHUTDOWN or self.state in _FIN_COUNTED)

    @property
    def active(self) -> bool | None:
        """Whether this end began the connection: its SYN was acknowledged, and counted. None where that can't be told.

        bytes_acked begins at the first unacknowledged number, which is the SYN's own for who sent it first and the one
        behind it for who answered (tcp_ack() in net/ipv4/tcp_input.c).
        """
        if self.state == SYN_SENT:
            return True
        info = self.info
        if self.state not in (ESTABLISHED, CLOSE_WAIT) or info is None or info.unacked:
            return None
        counted = info.acked - info.sent
        return bool(counted) if counted in (0, 1) else None


class Diag:
    """The sockets of one network namespace; a context manager. It keeps the namespace alive as long as it is open."""

    def __init__(self, asking: int, hearing: int) -> None:
        """Takes over two sockets of NETLINK_SOCK_DIAG of the namespace, each with an address. Raises OSError."""
        # Told what they are, nobody has to find out; and nothing is asked of them that a confined process may not.
        self._asking, self._hearing = (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG, fileno=fd) for fd in (asking, hearing)
        )
        self._requests = [_request(family) for family in _FAMILIES]
        self.overruns = 0
        """How often notifications were dropped because they found no room; nobody knows how many."""
        try:
            for group in _groups():
                self._hearing.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the sockets."""
        self.close()

    def close(self) -> None:
        """Close the sockets; idempotent."""
        self._asking.close()
        self._hearing.close()

    def fileno(self) -> int:
        """The descriptor that is readable when sockets were destroyed."""
        return self._hearing.fileno()

    def dump(self, states: int = ALL_STATES) -> list[TcpSocket]:
        """The sockets that are in one of the states, a bit each. Raises OSError.

        The kernel walks its table in pieces: what changes meanwhile may be missing, or be there twice.
        """
        found: list[TcpSocket] = []
        for request in self._requests:
            _set_states(request, states)
            found += [parsed(data, at, end) for data, at, end in dump(self._asking, request)]
        return found

    def destroyed(self, most: int = 1024) -> list[TcpSocket]:
        """The sockets that were destroyed, oldest first, at most so many. Raises OSError when the socket fails."""
        found: list[TcpSocket] = []
        for _ in range(most):
            try:
                data, sender = self._hearing.recvfrom(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                continue
            if not sender[0] and len(data) >= HEADER_SIZE + _MESSAGE.size:
                found.append(parsed(data, 0, len(data)))
        return found


def _request(family: int) -> bytearray:
    return bytearray(inet_request(family, socket.IPPROTO_TCP, 1 << _INET_DIAG_INFO - 1))


def _set_states(request: bytearray, states: int) -> None:
    request[20:24] = states.to_bytes(4, "little")


def _groups() -> tuple[int, int]:
    from pyroute2.netlink.diag import SKNLGRP_INET6_TCP_DESTROY, SKNLGRP_INET_TCP_DESTROY

    return SKNLGRP_INET_TCP_DESTROY, SKNLGRP_INET6_TCP_DESTROY


def parsed(data: bytes, at: int, end: int) -> TcpSocket:
    """The socket of an answer of inet_diag, of any protocol, which begins with its header at ``at``."""
    at += HEADER_SIZE
    family, state, _, _, port, peer, local, remote, _, cookie, _, waiting, room, uid, inode = _message(data, at)
    at += _MESSAGE.size
    info, shutdown = None, 0
    while at + 4 <= end:
        length, kind = _attribute(data, at)
        if length < 4:
            break
        if kind == _INET_DIAG_INFO and length - 4 >= _INFO.size:
            unacked, rtt, resent, acked, received, segments, sent, again = _info(data, at + 4)
            info = Info(sent - again, acked, received, segments, resent, rtt, unacked)
        elif kind == _INET_DIAG_SHUTDOWN:
            shutdown = data[at + 4]
        at += (length + 3) & ~3
    if family == socket.AF_INET:
        local, remote = _MAPPED + local[:4], _MAPPED + remote[:4]
    return TcpSocket(
        family,
        state,
        local,
        int.from_bytes(port),
        remote,
        int.from_bytes(peer),
        cookie,
        uid,
        inode,
        waiting,
        room,
        shutdown,
        info,
    )
