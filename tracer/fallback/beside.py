"""Start a process beside this one that does one thing, with nothing else of what is open here."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, NoReturn

__all__ = ["beside", "connected"]

_PR_SET_NAME: Final = 15  # include/uapi/linux/prctl.h
_MOST_FDS: Final = (1 << 31) - 1
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)

_libc = ctypes.CDLL(None, use_errno=True)


def beside(name: bytes, keep: Iterable[int], be: Callable[[], None]) -> int:
    """Fork a process called ``name`` that is ``be``, and has of the descriptors those to ``keep``: its pid.

    What is sent to all processes of a terminal or a service does not end it: ``be`` is to return when nobody needs it
    any more. Whatever it raises is an end as well, which nobody is told of. Raises OSError when no process can be made.
    """
    with _blocked():
        pid = os.fork()
        if not pid:
            _be(name, set(keep), be)
    return pid


def connected(name: bytes, be: Callable[[socket.socket], None], keep: Iterable[int] = ()) -> tuple[socket.socket, int]:
    """As beside(), with a socket of SOCK_SEQPACKET to it: this end, and its pid. It is ``be`` of the other end."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with there:
        try:
            return here, beside(name, {*keep, there.fileno()}, lambda: be(there))
        except BaseException:
            here.close()
            raise


@contextmanager
def _blocked() -> Iterator[None]:
    """No signal comes through, so that none meets a process that does not ignore it yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be(name: bytes, kept: set[int], be: Callable[[], None]) -> NoReturn:
    code = 1
    try:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        _libc.prctl(_PR_SET_NAME, name)
        _close_all_but(kept)
        be()
        code = 0
    finally:
        os._exit(code)  # who is at another end sees that it has ended


def _close_all_but(kept: set[int]) -> None:
    """Keep nobody waiting who reads a pipe to its end."""
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    at = 3
    for fd in sorted(kept):
        os.closerange(at, fd)
        at = max(at, fd + 1)
    os.closerange(at, _MOST_FDS)
