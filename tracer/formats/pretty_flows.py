"""Flows in words: both ends, what is spoken and under whose name, what went wrong, how much went each way."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from tracer.formats.text import cut, errno_name, errno_words, human_bytes, printable
from tracer.model import Flag, Role, SocketEvent

__all__ = ["CALLED", "NO_TOTALS", "connection_route", "endpoint", "flow_route", "plural", "traffic", "what_failed"]

CALLED: Final = frozenset({int(Role.ACCEPT), int(Role.RECEIVED)})  # whose own end the name is of
# A plain number: `int & Flag` would make a Flag each time.
NO_TOTALS: Final = int(Flag.NO_TOTALS)

_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what was never told
_WITH_PORTS: Final = frozenset({6, 17, 132, 136, 262})
_SNAPSHOT: Final = 1  # SOCK_SNAPSHOT of bpf/tracer.h

# What went wrong with a connection in fewer words than the C library's.
_REASONS: Final = {
    "ECONNREFUSED": "refused",
    "ECONNRESET": "reset",
    "ETIMEDOUT": "timed out",
    "EHOSTUNREACH": "host unreachable",
    "ENETUNREACH": "network unreachable",
    "EADDRNOTAVAIL": "no free port or address",
}


@lru_cache(maxsize=256)
def what_failed(error: int) -> str:
    """What went wrong, in words, with the name of the errno."""
    name = errno_name(error)
    return f"{_REASONS.get(name) or errno_words(error)} ({name})"


def endpoint(address: str, port: int) -> str:
    """An address and a port, as people write them."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def plural(count: int, word: str) -> str:
    """How many of them."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _there(event: SocketEvent, remote: str, brief: int, most: int | None) -> str:
    """The other end, with its name if this process called it by one."""
    names = event.names
    if names is None or not names.domain or event.role in CALLED:
        return remote
    name = printable(names.domain)
    if most is not None:
        name = cut(name, most)
    address = remote.removesuffix(f":{event.remote_port}")
    port = remote[len(address) :]
    return f"{name}{port}" if brief > 1 else f"{name} ({address.strip('[]')}){port}"


def _speaks(event: SocketEvent, brief: int, most: int | None) -> str:
    """What it speaks, and of who is called by what name."""
    names = event.names
    if names is None or not names.protocol or brief > 2:
        return ""
    speaks = f" {names.protocol}" if brief else f" {event.transport} {names.protocol}"
    if not names.domain or event.role not in CALLED:
        return speaks
    name = printable(names.domain)
    return f"{speaks} for {name if most is None else cut(name, most)}"


def connection_route(event: SocketEvent, brief: int = 0, most: int | None = None) -> str:
    """Both ends; ``brief`` leaves out the transport (1), the address behind a name of ``most`` cells (2), all (3)."""
    remote = endpoint(event.remote, event.remote_port)
    speaks = _speaks(event, brief, most)
    if event.role == Role.CONNECT:
        return f"→ {_there(event, remote, brief, most)}{speaks}"
    if event.role == Role.ACCEPT:
        return f":{event.local_port} ← {remote}{speaks}"
    return f"{endpoint(event.local, event.local_port)} ↔ {_there(event, remote, brief, most)}{speaks}"


def traffic(event: SocketEvent) -> str:
    """How many bytes went each way, nothing where that is not known."""
    if event.marks & NO_TOTALS:
        return ""
    out, into = event.sent, event.received
    if event.moved_out >= 0 and not event.flags & _SNAPSHOT:
        out, into = event.moved_out, event.moved_in
    return f" {human_bytes(out)} out, {human_bytes(into)} in"


def flow_route(event: SocketEvent, brief: int = 0, most: int | None = None) -> str:
    """Both ends of a flow without a connection, as far as known, and what carries it; else as connection_route()."""
    if event.transport in ("packet", "vsock"):
        return event.transport
    ported = event.protocol in _WITH_PORTS
    remote = "?" if event.remote in _ANY else event.remote
    if ported and event.remote_port:
        remote = endpoint(event.remote, event.remote_port)
    speaks = _speaks(event, brief, most) or f" {event.transport}"
    if event.role == Role.RECEIVED:
        local = f":{event.local_port}" if ported else event.local
        return f"{local} ← {remote}{speaks}"
    return f"→ {_there(event, remote, brief, most)}{speaks}"
