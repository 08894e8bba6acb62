"""What worker and broker say to each other: a closed set of questions, each of bounded size, over SOCK_SEQPACKET.

A question is one datagram: a head of fixed size and, for two of them, as many bytes more as the head says. An answer is
an errno (0: none), a length, and that many bytes, in as many datagrams as it takes; a descriptor comes with the first.
There is nothing else: no path, no name, no command goes either way.
"""

from __future__ import annotations

import enum
import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple, NoReturn

from tracer.fallback.files import EACH_MOST, FILES, GLANCES, LINKS, READ_MOST

__all__ = [
    "ANSWER_MOST",
    "EXE",
    "FILE",
    "GROUP",
    "IDLE",
    "LINK",
    "PACKS",
    "PART",
    "PIDS_MOST",
    "REASON_MOST",
    "REFUSED",
    "STAYS",
    "ZSTD",
    "Asks",
    "Heard",
    "ProtocolError",
    "Question",
    "hear",
    "parse",
    "receive",
    "say",
]


class Asks(enum.IntEnum):
    """What a worker may ask or tell; everything else ends it."""

    PIDS = 1  # ProcFiles.pids
    READ = 2  # ProcFiles.read; the name is one of FILES, by number
    EACH = 3  # ProcFiles.read_each; behind the head the pids
    LINK = 4  # ProcFiles.link; one of LINKS
    FDS = 5
    EXE = 6
    CGROUP = 7
    DIAG = 8  # answered with a descriptor; pid 0: the broker's own namespace
    OUTPUT = 9  # to the opener: answered with the question's time, an inode, and a descriptor of the output opened anew
    ALIVE = 10  # everything up to a time was told, and so many events so far, by the ladder's backend of that number
    LOST = 11  # that backend is lost since a time, after so many events; behind the head the reason
    GLANCE = 12  # ProcFiles.glance; one of GLANCES
    ROTATE = (
        13  # to the opener, as OUTPUT: to go on in a new file; the old one gets a name with the number of its first
    )
    # line (most), of such files so many stay (pid; 0: all); of the name see PACKS
    LOOK = 14  # to the opener: whether the output is still where it was; answered with time, inode and one byte
    CONFIG = 15  # to the opener: answered with time, 0 and what is in the file of settings (name 0), or of rules (1)


PACKS, IDLE, STAYS, ZSTD = 1, 2, 4, 8
"""Bits of the name in ROTATE: compress older ones; nobody writes to the file now; it keeps its name, to go on in it;
compress with zstd."""
PIDS_MOST: Final = 8192
REASON_MOST: Final = 1024
ANSWER_MOST: Final = 64 << 20
_CHUNK: Final = 60 << 10  # a datagram must fit the buffer of a socket, which is 208 KiB by itself
_FEW: Final = 16  # backends

_HEAD: Final = struct.Struct("<BBHIQQI")  # what, name, 0, pid, start or time, most or events, bytes that follow
_ANSWER: Final = struct.Struct("<iI")  # errno, bytes
_PID: Final = struct.Struct("<I")
_FD: Final = struct.Struct("=i")
_QUESTION_MOST: Final = _HEAD.size + max(PIDS_MOST * _PID.size, REASON_MOST)
_PID_MOST: Final = 1 << 22  # PID_MAX_LIMIT of a 64-bit kernel
LINK: Final = struct.Struct("<IH")  # descriptor and length of its link, in answers to FDS
EXE: Final = struct.Struct("<QQQ")  # ExeFile
GROUP: Final = struct.Struct("<QB")  # id and version, in front of the path
FILE: Final = struct.Struct("<Ii")  # pid and bytes, in answers to EACH; -1: refused
REFUSED: Final = -1
PART: Final = struct.Struct("<iI")  # errno and bytes, in answers to GLANCE


class ProtocolError(Exception):
    """The other side says what nobody who keeps to the protocol would."""


class Question(NamedTuple):
    """A question that keeps to the protocol. ``text`` is the reason of LOST, ``pids`` are those of EACH."""

    what: Asks
    name: int = 0
    pid: int = 0
    start: int = 0  # ticks; of ALIVE, LOST and the opener's a time, ns of CLOCK_BOOTTIME
    most: int = 0  # bytes; of OUTPUT the inode of what is being written, of ROTATE a line, of ALIVE and LOST events
    pids: tuple[int, ...] = ()
    text: bytes = b""

    def pack(self) -> bytes:
        """The datagram."""
        body = b"".join(map(_PID.pack, self.pids)) + self.text
        return _HEAD.pack(self.what, self.name, 0, self.pid, self.start, self.most, len(body)) + body


class Heard(NamedTuple):
    """An answer."""

    errno: int
    data: bytes
    fd: int | None


_NAMES: Final = {
    Asks.READ: len(FILES),
    Asks.EACH: len(FILES),
    Asks.LINK: len(LINKS),
    Asks.GLANCE: len(GLANCES),
    Asks.ROTATE: 16,
    Asks.CONFIG: 2,
} | dict.fromkeys((Asks.ALIVE, Asks.LOST), _FEW)
_MOST: Final = {
    Asks.READ: READ_MOST,
    Asks.EACH: EACH_MOST,
    Asks.OUTPUT: (1 << 64) - 1,
    Asks.ROTATE: 1 << 63,
    Asks.ALIVE: 1 << 63,
    Asks.LOST: 1 << 63,
}
_HAVE_PID: Final = frozenset(
    {Asks.READ, Asks.LINK, Asks.FDS, Asks.EXE, Asks.CGROUP, Asks.DIAG, Asks.GLANCE, Asks.ROTATE}
)
_OPENERS: Final = frozenset({Asks.OUTPUT, Asks.ROTATE, Asks.LOOK, Asks.CONFIG})
_HAVE_TIME: Final = _OPENERS | {Asks.READ, Asks.LINK, Asks.FDS, Asks.EXE, Asks.CGROUP, Asks.ALIVE, Asks.LOST}


def parse(data: bytes) -> Question:
    """The question that a datagram is. Raises ProtocolError for whatever is none, to the last bit."""
    try:
        number, name, zero, pid, start, most, length = _HEAD.unpack_from(data)
        what = Asks(number)
    except (struct.error, ValueError) as bad:
        raise ProtocolError(f"no question: {bad}") from bad
    body = data[_HEAD.size :]
    if zero or length != len(body):
        raise ProtocolError(f"a question of {len(body)} bytes says it has {length}")
    pids: tuple[int, ...] = ()
    if what is Asks.EACH and len(body) % _PID.size == 0:
        pids = struct.unpack(f"<{len(body) // _PID.size}I", body)
    wrong = (
        name >= _NAMES.get(what, 1)
        or most > _MOST.get(what, 0)
        or pid > (_PID_MOST if what in _HAVE_PID else 0)
        or (start and what not in _HAVE_TIME)
        or len(pids) > PIDS_MOST
        or any(not 0 < each <= _PID_MOST for each in pids)
        or len(body) > (REASON_MOST if what is Asks.LOST else len(pids) * _PID.size)
    )
    if wrong:
        raise ProtocolError(f"{what.name} with what it can't have")
    return Question(what, name, pid, start, most, pids, body if what is Asks.LOST else b"")


def receive(end: socket.socket) -> bytes:
    """The next datagram of a question, empty when the other side is gone. Raises ProtocolError when it is too long."""
    try:
        data, _, flags, _ = end.recvmsg(_QUESTION_MOST)
    except ConnectionError:
        return b""
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise ProtocolError("a question that is too long, or with a descriptor")
    return data


def say(end: socket.socket, number: int, data: bytes = b"", fd: int | None = None) -> None:
    """Answer. Raises OSError when the other side is gone; more than ANSWER_MOST bytes become EFBIG."""
    if len(data) > ANSWER_MOST:
        number, data = errno.EFBIG, b""
    first = [_ANSWER.pack(number, len(data)) + data[:_CHUNK]]
    if fd is None:
        end.sendmsg(first)
    else:
        socket.send_fds(end, first, [fd])
    for at in range(_CHUNK, len(data), _CHUNK):
        end.send(data[at : at + _CHUNK])


def hear(end: socket.socket) -> Heard:
    """The answer to the question that was just asked; the descriptor in it is the caller's.

    Raises ProtocolError for what is no answer, ConnectionError when the other side is gone, TimeoutError as the socket
    was told to.
    """
    size = _ANSWER.size + _CHUNK
    # Not socket.recv_fds(), which forgets its flags (CPython before 3.12).
    data, beside, flags, _ = end.recvmsg(size, socket.CMSG_LEN(_FD.size), socket.MSG_CMSG_CLOEXEC)
    fds = [_FD.unpack_from(each)[0] for _, kind, each in beside if kind == socket.SCM_RIGHTS and len(each) >= _FD.size]
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            _bad("a part of an answer too long, or with too many descriptors")
        number, parts, left = _beginning(data)
        parts.extend(_rest(end, left))
    except BaseException:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
        raise
    return Heard(number, b"".join(parts), fds[0] if fds else None)


def _bad(what: str) -> NoReturn:
    raise ProtocolError(what)


def _beginning(data: bytes) -> tuple[int, list[bytes], int]:
    """The errno, the first part, and how many bytes are still to come."""
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
    if len(data) < _ANSWER.size:
        _bad("no answer")
    number, length = _ANSWER.unpack_from(data)
    left = length - (len(data) - _ANSWER.size)
    if not 0 <= left <= ANSWER_MOST or number < 0:
        _bad(f"an answer of {length} bytes with errno {number}")
    return number, [data[_ANSWER.size :]], left


def _rest(end: socket.socket, left: int) -> Iterator[bytes]:
    while left:
        part, _, flags, _ = end.recvmsg(min(left, _CHUNK))
        if not part:
            raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        if flags & socket.MSG_TRUNC or len(part) < min(left, _CHUNK):
            _bad("an answer in other pieces than it has")
        left -= len(part)
        yield part
