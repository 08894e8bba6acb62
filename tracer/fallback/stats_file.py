"""The stats file: a process beside a confined one replaces it, by rename, with what it makes of the facts it is sent.

Who reads the file, as Prometheus' collectors do, sees a whole one, and who sends neither has a right on the directory
nor waits for its disk. It is forked before there is anything to be taken over by.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from tracer.fallback.beside import connected

__all__ = ["CONTENT_MOST", "StatsFile", "StatsFileLostError"]

NAME: Final = b"tracer_stats"
"""What it is called in /proc/PID/comm."""
CONTENT_MOST: Final = 64 << 10
"""Bytes of the file: one datagram, of which the socket's buffer takes some."""
_TOLD_MOST: Final = 8192
_STARTS_WITHIN_S: Final = 30.0
_MODE: Final = 0o644  # it has numbers alone, for a collector of another user
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW


class StatsFileLostError(Exception):
    """Its process is gone."""


class StatsFile:
    """The sending side. It is there in every process that is forked later."""

    def __init__(self, end: socket.socket, pid: int) -> None:
        """``end`` is a socket of SOCK_SEQPACKET to the process ``pid``."""
        self._end = end
        self.pid = pid

    @classmethod
    def start(cls, path: Path, confine: Callable[[int], dict[str, Any]], render: Callable[[bytes], bytes]) -> Self:
        """Fork it, and begin with an empty file. ``confine`` confines it but for its socket, and tells of that.

        ``render`` makes the file of what is sent.

        Raises OSError when the file can't be written, or no process can be made.
        """
        directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _replace(directory, path.name, b"")

            def be(end: socket.socket) -> None:
                end.send(json.dumps(confine(end.fileno())).encode()[:_TOLD_MOST])
                while content := end.recv(CONTENT_MOST):
                    text = render(content)
                    with suppress(OSError):  # a full disk: the file that is there gets old, which who reads it sees
                        _replace(directory, path.name, text)

            end, pid = connected(NAME, be, [directory])
        finally:
            os.close(directory)
        return cls(end, pid)

    @property
    def fd(self) -> int:
        """The socket's descriptor: sendto(2) and recvmsg(2) on it must be left to who sends."""
        return self._end.fileno()

    def confined(self) -> dict[str, Any]:
        """How it is confined, once, which it says by itself. Raises StatsFileLostError."""
        ready = select.poll()
        ready.register(self._end, select.POLLIN)
        if not ready.poll(_STARTS_WITHIN_S * 1000):
            raise StatsFileLostError("it says nothing")
        try:
            told = self._end.recvmsg(_TOLD_MOST)[0]
        except OSError as failed:
            raise StatsFileLostError(failed.strerror or str(failed)) from failed
        if not told:
            raise StatsFileLostError("it has ended")
        found: dict[str, Any] = json.loads(told)
        return found

    def send(self, content: bytes) -> None:
        """Let the file be of these facts, at most CONTENT_MOST bytes; nothing where it is busy.

        Raises StatsFileLostError.
        """
        try:
            self._end.send(content, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return  # its disk hangs, and the next one will do
        except OSError as failed:
            raise StatsFileLostError(failed.strerror or str(failed)) from failed

    def close(self) -> None:
        """If nobody else has its socket, this ends it."""
        self._end.close()


def _replace(directory: int, name: str, content: bytes) -> None:
    """Put a file in the place of another one, whole, through a name that collectors pass over."""
    new = f".{name}.new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)  # of one that was killed
    fd = os.open(new, _FLAGS, _MODE, dir_fd=directory)
    try:
        os.fchmod(fd, _MODE)  # whatever the umask
        os.write(fd, content)
    finally:
        os.close(fd)
    os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
