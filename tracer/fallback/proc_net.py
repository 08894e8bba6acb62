"""Read /proc/PID/net/tcp and tcp6: the TCP sockets of one network namespace, by their addresses.

The format is tcp4_seq_show() and tcp6_seq_show() of the kernel's net/ipv4/tcp_ipv4.c and net/ipv6/tcp_ipv6.c. Addresses
are words of the machine's byte order in hexadecimal, ports are in host order.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from socket import AF_INET, AF_INET6
from typing import Final, NamedTuple

from tracer.fallback.telling import Ends
from tracer.model import TCP_STATES

__all__ = ["ESTABLISHED", "LISTEN", "SYN_SENT", "TIME_WAIT", "Entry", "ends_of", "parse"]

ESTABLISHED: Final = TCP_STATES.index("ESTABLISHED")
SYN_SENT: Final = TCP_STATES.index("SYN_SENT")
TIME_WAIT: Final = TCP_STATES.index("TIME_WAIT")
LISTEN: Final = TCP_STATES.index("LISTEN")
_FIELDS: Final = 11  # the last takes the rest of the line, of which nothing is used
_MAPPED: Final = bytes(10) + b"\xff\xff"


class Entry(NamedTuple):
    """One socket: its addresses as they are written, the user whose it is, and its inode.

    Inode 0 is a socket without a file: not yet accepted, or closed by its process already.
    """

    local: bytes
    remote: bytes
    state: int
    uid: int
    inode: int


def parse(text: bytes) -> list[Entry]:
    """The sockets of one file; a line that was cut is left out."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split(None, _FIELDS)
        if len(fields) >= _FIELDS:
            found.append(Entry(fields[1], fields[2], int(fields[3], 16), int(fields[7]), int(fields[9])))
    return found


@lru_cache(maxsize=8192)
def _end(text: bytes) -> tuple[int, bytes, int]:
    """Family, address (IPv4 as ::ffff:a.b.c.d) and port."""
    address, _, port = text.partition(b":")
    words = struct.pack(f"={len(address) // 8}I", *(int(address[at : at + 8], 16) for at in range(0, len(address), 8)))
    if len(words) == 4:
        return AF_INET, _MAPPED + words, int(port, 16)
    return AF_INET6, words, int(port, 16)


def ends_of(entry: Entry) -> Ends:
    """The addresses and ports of a socket. Raises ValueError and struct.error for what are none."""
    family, local, local_port = _end(entry.local)
    return Ends(family, local, local_port, *_end(entry.remote)[1:])
