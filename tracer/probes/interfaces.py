"""Ask each network namespace what its interfaces have counted themselves, over rtnetlink.

A socket belongs to the namespace that it was made in for ever, so all of them are opened before this process gives up
what that takes; asking takes nothing. (One socket could ask about all namespaces by the numbers that they have in its
own, but whoever asks so needs CAP_NET_ADMIN each time.) A socket also keeps its namespace alive: keep() lets go of it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["Counted", "Interfaces"]

_PROC: Final = Path("/proc")
_OWN: Final = _PROC / "self/ns/net"
_CLONE_NEWNET: Final = 0x40000000
_RTM_NEWLINK: Final = 16  # include/uapi/linux/rtnetlink.h
_RTM_GETLINK: Final = 18
_NLMSG_ERROR: Final = 2
_NLMSG_DONE: Final = 3
_DUMP: Final = 0x301  # NLM_F_REQUEST | NLM_F_ROOT | NLM_F_MATCH
_ANSWER_BYTES: Final = 1 << 17  # the kernel fills at most 32 KiB at a time
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Counted(NamedTuple):
    """An interface's name and its own counters, in bytes."""

    name: str
    out: int
    into: int


class Interfaces:
    """The interfaces of the network namespaces that are there now; close() ends it."""

    def __init__(self) -> None:
        """Opens a socket in each. ``refused`` says of how many that was not possible. Raises OSError, ImportError."""
        # pyroute2's own sockets start an event loop each; its messages do without.
        from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
        from pyroute2.netlink.rtnl.marshal import MarshalRtnl

        self._parse = MarshalRtnl().parse
        request = ifinfmsg()
        request["header"]["type"] = _RTM_GETLINK
        request["header"]["flags"] = _DUMP
        request.encode()
        self._request = bytes(request.data)
        self._own = _OWN.stat().st_ino
        self._sockets: dict[int, socket.socket] = {}
        self.refused = 0
        self._open()
        self.read()  # what decoding takes is imported when it is needed

    def _open(self) -> None:
        self._sockets[self._own] = _socket()
        seen = set(self._sockets)
        for path in _namespaces():
            with suppress(OSError):  # it has gone meanwhile, is none, or may not be entered
                namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    netns = os.fstat(namespace).st_ino
                    if netns not in seen:
                        seen.add(netns)
                        self._sockets[netns] = _socket_in(namespace)
                finally:
                    os.close(namespace)
        self.refused = len(seen) - len(self._sockets)

    def close(self) -> None:
        """Close all sockets; idempotent."""
        while self._sockets:
            self._sockets.popitem()[1].close()

    def keep(self, namespaces: Collection[int]) -> None:
        """Let go of all but this process's own namespace and these, by inode, which somebody else is in."""
        for netns in self._sockets.keys() - {self._own, *namespaces}:
            self._sockets.pop(netns).close()

    def read(self) -> dict[tuple[int, int], Counted]:
        """What the interfaces have counted so far, by (inode of the namespace, index). Raises OSError."""
        found = {}
        for netns, asked in self._sockets.items():
            asked.send(self._request)
            for message in self._answer(asked):
                counted = message.get_attr("IFLA_STATS64")
                if counted is not None:
                    name = message.get_attr("IFLA_IFNAME")
                    found[netns, message["index"]] = Counted(name, counted["tx_bytes"], counted["rx_bytes"])
        return found

    def _answer(self, asked: socket.socket) -> Iterator[Any]:
        while True:
            # All of the answer is there, or made when it is read.
            for message in self._parse(asked.recv(_ANSWER_BYTES, socket.MSG_DONTWAIT)):
                kind = message["header"]["type"]
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError(errno.EPROTO, "rtnetlink answers with an error")
                if kind == _RTM_NEWLINK:
                    yield message


def _namespaces() -> Iterator[Path]:
    """Files of all network namespaces that processes are in, many of them several times."""
    for place in _PROC.iterdir():
        if place.name.isdecimal():
            yield place / "ns/net"


def _socket() -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)


def _socket_in(namespace: int) -> socket.socket:
    """A socket of a namespace, made by a thread that goes there and never comes back. Raises OSError."""
    made: list[socket.socket | OSError] = []

    def make() -> None:
        try:
            if _libc.setns(namespace, _CLONE_NEWNET):
                number = ctypes.get_errno()
                ctypes.set_errno(0)
                raise OSError(number, os.strerror(number))  # noqa: TRY301 (as if the call had raised it)
            made.append(_socket())
        except OSError as refused:
            made.append(refused)

    thread = threading.Thread(target=make, name="namespace")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
