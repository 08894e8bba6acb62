"""The sockets of a process: family, state, both ends, and the bytes that TCP has moved.

They are asked of sock_diag in its network namespace; what this kernel can't tell that way psutil reads from /proc.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address
from struct import Struct
from typing import Any, Final, NamedTuple

from tracer.fallback.diag import LISTEN, TcpSocket, parsed
from tracer.fallback.files import DirectFiles
from tracer.fallback.sock_diag import HEADER_SIZE, dump, inet_request, unix_request
from tracer.investigate.pinned import Pinned
from tracer.investigate.values import text
from tracer.model import TCP_STATES

__all__ = ["LISTED_MOST", "Sockets", "look"]

LISTED_MOST: Final = 4096
"""Sockets that are told one by one."""

_INFO: Final = 1 << 1  # 1 << INET_DIAG_INFO - 1 of include/uapi/linux/inet_diag.h
_NETLINK_SOCK_DIAG: Final = 4
_ESTABLISHED: Final = 1
_UNIX_NAME: Final = 0  # include/uapi/linux/unix_diag.h
_UNIX_PEER: Final = 2
_PROTOCOL_NAME: Final = "system.sockprotoname"  # net/socket.c
_unix = Struct("=4BI").unpack_from
_attribute = Struct("=HH").unpack_from
_UNIX_SIZE: Final = 16
_FAMILIES: Final[dict[int, str]] = {socket.AF_INET: "ipv4", socket.AF_INET6: "ipv6"}
_TYPES: Final = {1: "stream", 2: "dgram", 5: "seqpacket"}
_MAPPED: Final = 12  # bytes in front of an IPv4 address
_INETS: Final = (("tcp", socket.IPPROTO_TCP, _INFO), ("udp", socket.IPPROTO_UDP, 0))
_FEW: Final = 64  # sockets of which psutil may be asked one by one


class Sockets(NamedTuple):
    """Those that listen (and datagram sockets that wait for anybody) apart from all others; ``cut``: how many more."""

    sockets: list[dict[str, Any]]
    listeners: list[dict[str, Any]]
    cut: int


def look(process: Pinned, descriptors: dict[int, list[int]]) -> Sockets:
    """What the sockets behind these inodes are, each by all its descriptors. Raises OSError."""
    found: dict[int, dict[str, Any]] = {}
    listed = dict(list(descriptors.items())[:LISTED_MOST])
    if descriptors:
        _ask(process, descriptors, listed, found)
    listed |= {inode: descriptors[inode] for inode in found}  # those that listen, wherever they stand
    listening: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    there = process.open("fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for inode, numbers in listed.items():
            told = found.get(inode) or {"transport": _protocol(there, numbers[0])}
            where = listening if told.pop("listens", False) else others
            where += [{"fd": number, "inode": inode, **told} for number in numbers]
    finally:
        os.close(there)
    listening, others = listening[:LISTED_MOST], others[:LISTED_MOST]
    return Sockets(others, listening, sum(map(len, descriptors.values())) - len(listening) - len(others))


def _ask(
    process: Pinned, all_: dict[int, list[int]], wanted: dict[int, list[int]], found: dict[int, dict[str, Any]]
) -> None:
    """Find what is told of the ``wanted`` ones, and of all others that listen."""
    files = DirectFiles()
    try:
        fd = files.open_diag(process.pid)
    finally:
        files.close()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG, fileno=fd) as asking:
        if process.ended():
            return  # then the namespace may have been another's
        for name, protocol, extensions in _INETS:
            try:
                for family in _FAMILIES:
                    for data, at, end in dump(asking, inet_request(family, protocol, extensions)):
                        told = parsed(data, at, end)
                        if told.inode in wanted or (told.state == LISTEN and told.inode in all_):
                            found[told.inode] = _inet(told, name)
            except OSError:
                _ask_psutil(process, name, wanted, found)
        try:
            told_of = _unix_sockets(asking)
            found |= {inode: part for inode, part in told_of if inode in wanted or (part["listens"] and inode in all_)}
        except OSError:
            _ask_psutil(process, "unix", wanted, found)


def _inet(told: TcpSocket, transport: str) -> dict[str, Any]:
    tcp = transport == "tcp"
    listens = told.state == LISTEN if tcp else told.state != _ESTABLISHED and bool(told.port)
    part: dict[str, Any] = {
        "family": _FAMILIES.get(told.family, str(told.family)),
        "transport": transport,
        "state": TCP_STATES[told.state] if tcp else "ESTABLISHED" if told.state == _ESTABLISHED else "UNCONNECTED",
        "local": _end(told.local, told.port, told.family),
        "listens": listens,
    }
    if told.remote_port:
        part["peer"] = _end(told.remote, told.remote_port, told.family)
    if told.info is not None and not listens:
        part |= {"sent": told.sent, "received": told.received}
    if tcp and listens:
        part |= {"waiting": told.waiting, "backlog": told.room}
    return part


def _end(address: bytes, port: int, family: int) -> dict[str, Any]:
    shown = ip_address(address)
    if family == socket.AF_INET:
        shown = ip_address(address[_MAPPED:])
    return {"ip": str(shown), "port": port}


def _unix_sockets(asking: socket.socket) -> Iterator[tuple[int, dict[str, Any]]]:
    for data, begin, end in dump(asking, unix_request()):
        at = begin + HEADER_SIZE
        _, kind, state, _, inode = _unix(data, at)
        at += _UNIX_SIZE
        told: dict[str, Any] = {
            "family": "unix",
            "transport": _TYPES.get(kind, str(kind)),
            "state": TCP_STATES[state] if state < len(TCP_STATES) else str(state),
            "listens": state == LISTEN,
        }
        while at + 4 <= end:
            length, what = _attribute(data, at)
            if length < 4:
                break
            value = data[at + 4 : at + length]
            if what == _UNIX_NAME:
                told["path"] = text(b"@" + value[1:] if value[:1] == b"\0" else value.rstrip(b"\0"))
            elif what == _UNIX_PEER:
                told["peer_inode"] = int.from_bytes(value[:4], "little")
            at += (length + 3) & ~3
        yield inode, told


def _ask_psutil(process: Pinned, kind: str, wanted: dict[int, list[int]], found: dict[int, dict[str, Any]]) -> None:
    """The same by reading /proc, without bytes."""
    import psutil

    by_fd = {number: inode for inode, numbers in wanted.items() for number in numbers}
    try:
        told = psutil.Process(process.pid).net_connections(kind)
    except psutil.Error:
        return
    for each in told:
        if process.ended() or each.fd not in by_fd:
            continue
        inode = by_fd[each.fd]
        if kind == "unix":
            found[inode] = {"family": "unix", "transport": _TYPES.get(each.type, str(each.type)), "path": each.laddr}
            continue
        listens = each.status == "LISTEN" if kind == "tcp" else not each.raddr
        found[inode] = {
            "family": _FAMILIES.get(each.family, str(each.family)),
            "transport": kind,
            "state": each.status if kind == "tcp" else "UNCONNECTED" if listens else "ESTABLISHED",
            "listens": listens,
        }
        for name, end in (("local", each.laddr), ("peer", each.raddr)):
            if end:
                found[inode][name] = {"ip": end.ip, "port": end.port}


def _protocol(directory: int, number: int) -> str:
    """The name of a socket's protocol, which any may be asked for, also one of another network namespace."""
    try:
        told = os.getxattr(f"/proc/self/fd/{directory}/{number}", _PROTOCOL_NAME)
    except OSError:
        return "unknown"
    return text(told.rstrip(b"\0")).lower()
