"""Do what a probe must see, and look whether it has: the kernel side counts even what this process does itself.

A tracer's own doings are excluded, so they come to nothing but a count of what was filtered. What can be done without
any privilege, and by a confined process, is done: a thread is made, a program is asked for that can't be, a socket that
leads nowhere listens, finds nobody to accept, and connects. Where the call is refused before it could come to a probe,
that probe is not judged.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from tracer.model import RING_KINDS, Kind
from tracer.probes.records import read_tallies

__all__ = ["CALLS", "Canary"]

CALLS: Final = "listen accept accept4 shutdown"
"""The system calls that the trials with sockets take."""
_CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h
_AT_FDCWD: Final = -100
_PORT: Final = 4711  # bound, in a namespace where there is nobody else
_TRIES: Final = 3  # where tracepoints can be preempted, the kernel may skip a probe
_WITHIN_S: Final = 1.0  # a thread that was joined may need a moment to be gone
_LOOK_S: Final = 0.001

_libc = ctypes.CDLL(None, use_errno=True)


class _Try(NamedTuple):
    """Something to do: what counts it, what was done in words, and by which programs it is then seen.

    ``act`` gives those that must have seen it, by how it went.
    """

    kind: Kind
    what: str
    act: Callable[[], Collection[str]]


class Canary:
    """Tries the probes that can be tried; open() while there is still the privilege to make its sockets."""

    def __init__(self) -> None:
        """Without sockets yet."""
        self._maker: threading.Thread | None = None
        self._bound: socket.socket | None = None
        self._loose: socket.socket | None = None

    def open(self) -> None:
        """Make two sockets in a network namespace of their own, which is empty; without privilege there are none.

        That takes some milliseconds, beside what the caller does meanwhile.
        """
        self._maker = threading.Thread(target=self._make, name="canary")
        self._maker.start()

    def _ready(self) -> None:
        if self._maker is not None:
            self._maker.join()
            self._maker = None

    def _make(self) -> None:
        with suppress(OSError):
            _checked(_libc.unshare(_CLONE_NEWNET))
            self._loose = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            bound.setblocking(False)  # nobody will ever connect
            bound.bind(("0.0.0.0", _PORT))  # noqa: S104  # nothing leads there, not even a loopback
            self._bound = bound

    def close(self) -> None:
        """Close the sockets; idempotent."""
        self._ready()
        for each in (self._bound, self._loose):
            if each is not None:
                each.close()
        self._bound = self._loose = None

    @property
    def fds(self) -> list[int]:
        """The sockets' descriptors, on which CALLS must be left to a confined process."""
        self._ready()
        return [each.fileno() for each in (self._bound, self._loose) if each is not None]

    def silent(self, attached: Collection[str], tallies: Callable[[], bytes]) -> Iterator[str]:
        """A line for each thing that none of the ``attached`` programs saw, by the kernel's counters (``tallies``)."""
        for each in self._tries():
            due = _unseen(each, attached, tallies)
            if due:
                yield f"{', '.join(sorted(due))}: not seen: {each.what}"

    def _tries(self) -> Iterator[_Try]:
        yield _Try(Kind.FORK, "a thread that begins", lambda: _thread("process_fork"))
        yield _Try(Kind.EXIT, "a thread that ends", lambda: _thread("process_exit"))
        yield _Try(Kind.EXEC_FAILED, "an exec that fails", _execve)
        yield _Try(Kind.EXEC_FAILED, "an exec by descriptor that fails", _execveat)
        self._ready()
        bound, loose = self._bound, self._loose
        if bound is not None:
            yield _Try(Kind.LISTEN, "a socket that listens", lambda: _listen(bound, "socket_state_change"))
            yield _Try(Kind.ACCEPT, "an accept that finds nobody", lambda: _accept(bound, "accept", "exit_accept"))
            yield _Try(Kind.ACCEPT, "an accept4 that finds nobody", lambda: _accept(bound, "accept4", "exit_accept4"))
        if loose is not None:
            yield _Try(
                Kind.LISTEN,
                "a socket that listens without a port of its own",
                lambda: _listen(loose, "exit_listen", "listen_returns", "listen_again"),
            )
            yield _Try(Kind.CONNECT, "a connect that fails", lambda: _connect(loose))


def _checked(result: int) -> None:
    number = ctypes.get_errno()
    ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
    if result < 0:
        raise OSError(number, os.strerror(number))


def _filtered(tallies: bytes, kind: Kind) -> int:
    return sum(kinds[kind].filtered for kinds in read_tallies(tallies, len(RING_KINDS)))


def _unseen(each: _Try, attached: Collection[str], tallies: Callable[[], bytes]) -> set[str]:
    """The programs that should have seen it, each time it was tried."""
    due: set[str] = set()
    for _ in range(_TRIES):
        before = _filtered(tallies(), each.kind)
        due = set(each.act()) & set(attached)
        if not due or _counted(tallies, each.kind, before):
            return set()
    return due


def _counted(tallies: Callable[[], bytes], kind: Kind, before: int) -> bool:
    """Whether it was counted as filtered by now, or is within a moment.

    Only what tracers do is, or what the filters leave out: then others may have done it, and a dead probe be missed.
    """
    deadline = time.monotonic() + _WITHIN_S
    while _filtered(tallies(), kind) == before:
        if time.monotonic() > deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _thread(program: str) -> Collection[str]:
    thread = threading.Thread(target=int, name="canary")
    try:
        thread.start()
    except RuntimeError:  # there may be no more of them
        return ()
    thread.join()
    return (program,)


def _failed_exec(result: int, tracepoint: str, *functions: str) -> Collection[str]:
    try:
        _checked(result)
    except OSError as refused:
        # By a filter it is refused before it begins, and only the return of the system call tells.
        return (tracepoint, *functions) if refused.errno == errno.ENOENT else (tracepoint,)
    raise AssertionError(tracepoint)


def _execve() -> Collection[str]:
    # No program has an empty name; no arguments are told.
    return _failed_exec(_libc.execve(b"", None, None), "exit_execve", "execve_returns")


def _execveat() -> Collection[str]:
    call = getattr(_libc, "execveat", None)  # glibc 2.34 and newer
    return (
        () if call is None else _failed_exec(call(_AT_FDCWD, b"", None, None, 0), "exit_execveat", "execveat_returns")
    )


def _listen(which: socket.socket, *programs: str) -> Collection[str]:
    try:
        which.listen(0)
    except OSError:
        return ()
    with suppress(OSError):
        which.shutdown(socket.SHUT_RDWR)  # a listening socket is then as it was before
    return programs


def _accept(which: socket.socket, call: str, tracepoint: str) -> Collection[str]:
    programs = (tracepoint, "accept_returns", "accept_again")
    arguments = (which.fileno(), None, None, *((0,) if call == "accept4" else ()))
    try:
        which.listen(0)
    except OSError:
        return ()
    try:
        _checked(getattr(_libc, call)(*arguments))
    except OSError as refused:
        return programs if refused.errno == errno.EAGAIN else ()
    finally:
        with suppress(OSError):
            which.shutdown(socket.SHUT_RDWR)
    raise AssertionError(call)  # who could have connected?


def _connect(which: socket.socket) -> Collection[str]:
    try:
        which.connect(("192.0.2.1", _PORT))  # an address for documentation (RFC 5737); no route leads anywhere
    except PermissionError as refused:
        # By Landlock, which the functions see, or by a filter, which only the system call tells of.
        return ("exit_connect", "connect_denied") if refused.errno == errno.EACCES else ("exit_connect",)
    except OSError as refused:
        return ("exit_connect", "connect_returns") if refused.errno == errno.ENETUNREACH else ()
    return ()
