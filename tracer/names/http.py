"""Read the head of an HTTP/1 request: the method and the host it is for, and no more: paths and cookies are private.

A parser of a few lines instead of a library: h11 and the others tell of whole heads only, and refuse what is odd. Here
a head may be cut, and what is odd is of interest. Work and memory are bounded by the bytes that are given.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = ["Request", "may_begin", "parse"]

HOST_MOST: Final = 1024  # bytes kept of a host; a true one has at most 255
_NAME_MOST: Final = 255
_LINES_MOST: Final = 128  # header lines looked at

# What HTTP/2 without TLS begins with (RFC 9113, 3.4). It has a host too, but compressed, and later.
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

_request_line = re.compile(rb"([A-Z][A-Z-]{0,19}) ([!-\xff]{1,8192}) HTTP/1\.([01])\r?\n").match
_cut_line = re.compile(rb"([A-Z][A-Z-]{0,19}) ([!-\xff]{0,8192})(?: [HTP/1.0]{0,8}\r?)?\Z").match
_beginning = re.compile(rb"[A-Z][A-Z-]{0,19}(?: |\Z)").match
_absolute = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(.?)").match
_authority = re.compile(rb"(\[[0-9A-Fa-f:.%]{2,64}\]|[^\[\]:@]*)(?::([0-9]{0,5}))?").fullmatch
_odd = re.compile(rb"[^!-~]").search

# Those of RFC 9110, 5789 and 4918 and of the services that speak HTTP: a line that is cut must begin with one of them.
_METHODS: Final = frozenset(
    b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT "
    b"SEARCH MERGE CHECKOUT MKACTIVITY NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE".split()
)


class Request(NamedTuple):
    """What is asked of whom.

    ``host`` is without the port, and without the brackets of an IPv6 address; empty if there was none. ``port`` is 0
    where none was named. ``version`` is ``1.0``, ``1.1`` or ``2``. ``cut``: the head goes on; ``malformed``: something
    is not as it should be.
    """

    method: bytes
    host: bytes
    port: int
    version: str
    cut: bool
    malformed: bool


def may_begin(data: bytes) -> bool:
    """Return whether a request may begin so; a byte may be enough to tell that none does."""
    data = data.lstrip(b"\r\n")
    return not data or _beginning(data[:21]) is not None


def parse(data: bytes) -> Request | None:
    """Return the request that a TCP stream begins with, or None if there is none."""
    if data.startswith(_PREFACE) or (len(data) >= 4 and _PREFACE.startswith(data)):
        return Request(b"PRI", b"", 0, "2", len(data) < len(_PREFACE), False)
    data = data.lstrip(b"\r\n")  # RFC 9112, 2.2
    line = _request_line(data)
    if line is not None:
        method, target, version = line[1], line[2], f"1.{line[3].decode()}"
        host, cut, malformed = _host_line(data, line.end())
        absolute = _absolute(target)
        if method == b"CONNECT":
            host = target
        elif absolute:  # it counts more than Host (RFC 9112, 3.2.2)
            host = absolute[1]
        elif host is None and version == "1.1" and not cut:
            malformed = True
        return _request(method, host, version, cut, malformed)
    begun = _cut_line(data)
    if begun is None or begun[1] not in _METHODS:
        return None
    absolute = _absolute(begun[2]) if begun[1] != b"CONNECT" else None
    host = absolute[1] if absolute is not None and absolute[2] else None  # without what ends it the host may go on
    return _request(begun[1], host, "1.1", True, False)


def _host_line(data: bytes, at: int) -> tuple[bytes | None, bool, bool]:
    """Look for Host in the lines from ``at`` on: what it says, whether the head is cut, whether it is malformed."""
    host = None
    malformed = follows = False
    for _ in range(_LINES_MOST):
        end = data.find(b"\n", at)
        if end < 0:
            return host, True, malformed
        line = data[at:end].removesuffix(b"\r")
        at = end + 1
        if not line:
            return host, False, malformed
        if line[0] in b" \t":  # goes on from the line before (RFC 9112, 5.2): nobody sends that today
            malformed |= follows
            continue
        name, colon, value = line.partition(b":")
        malformed |= not colon or not name or name[-1] in b" \t"
        follows = name.lower() == b"host" and bool(colon)
        if follows:
            malformed |= host is not None  # RFC 9112, 3.2: to be refused; the first is given
            host = value.strip(b" \t") if host is None else host
    return host, True, malformed


def _request(method: bytes, host: bytes | None, version: str, cut: bool, malformed: bool) -> Request:
    if not host:
        return Request(method, b"", 0, version, cut, malformed)
    parts = _authority(host)
    if parts is None or int(parts[2] or 0) > 0xFFFF:
        return Request(method, host[:HOST_MOST], 0, version, cut, True)
    name = parts[1].strip(b"[]")
    malformed |= len(name) > _NAME_MOST or _odd(name) is not None
    return Request(method, name[:HOST_MOST], int(parts[2] or 0), version, cut, malformed)
