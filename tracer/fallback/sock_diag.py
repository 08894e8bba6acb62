"""The messages of sock_diag(7): ask for a dump of sockets, and read the answer piece by piece."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from struct import Struct
from typing import Final

__all__ = ["ALL", "HEADER_SIZE", "dump", "inet_request", "unix_request"]

ALL: Final = 0xFFFFFFFF
"""Every state."""
HEADER_SIZE: Final = 16
"""Bytes of struct nlmsghdr in front of each message."""

_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_REQUEST_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_SOCK_DIAG_BY_FAMILY: Final = 20  # include/uapi/linux/sock_diag.h
_UDIAG_SHOW: Final = 0x01 | 0x04  # UDIAG_SHOW_NAME, UDIAG_SHOW_PEER of include/uapi/linux/unix_diag.h
_DUMP_BYTES: Final = 1 << 18  # the kernel fills at most 32 KiB at a time

_header = Struct("=IHHII").unpack_from
_INET: Final = Struct("=IHHII4BI48x")  # struct nlmsghdr, struct inet_diag_req_v2
_UNIX: Final = Struct("=IHHII2BHIIIII")  # struct nlmsghdr, struct unix_diag_req


def inet_request(family: int, protocol: int, extensions: int = 0) -> bytes:
    """Ask for the sockets of AF_INET or AF_INET6 and a protocol, in any state; ``extensions`` is idiag_ext."""
    head = _INET.size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 0, 0
    return _INET.pack(*head, family, protocol, extensions, 0, ALL)


def unix_request() -> bytes:
    """Ask for the Unix sockets with their names and peers."""
    head = _UNIX.size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 0, 0
    return _UNIX.pack(*head, socket.AF_UNIX, 0, 0, ALL, 0, _UDIAG_SHOW, ALL, ALL)


def dump(asking: socket.socket, request: bytes | bytearray) -> Iterator[tuple[bytes, int, int]]:
    """Send a request; of each answer the buffer, and where the message with its header begins and ends in there.

    Raises OSError with the kernel's error; take all of them before the next request.
    """
    asking.send(request)
    while True:
        data, sender = asking.recvfrom(_DUMP_BYTES)
        if sender[0]:
            continue  # not from the kernel
        at = 0
        while at + HEADER_SIZE <= len(data):
            length, kind, _, _, _ = _header(data, at)
            if kind == _NLMSG_DONE:
                return
            if kind == _NLMSG_ERROR:
                number = -int.from_bytes(data[at + 16 : at + 20], "little", signed=True)
                raise OSError(number, f"sock_diag: {errno.errorcode.get(number, number)}")
            yield data, at, at + length
            at += (length + 3) & ~3
