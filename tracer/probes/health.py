"""Find out whether what is attached still is, and still sees: by its descriptors, and by trial.

Programs stay attached as long as the descriptor of their link, or of their perf event, is open, and the kernel takes
none away by itself. So the first question is whether the descriptor still leads to the same link; the second, for those
that can be tried, whether they see what this process does.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

from tracer.probes.canary import Canary
from tracer.probes.libbpf_binding import library

__all__ = ["Mark", "Watch", "mark", "what_became"]

_PERF_EVENT_IOC_ID: Final = 0x80082407  # include/uapi/linux/perf_event.h
_LINK: Final = struct.Struct("=III")  # type, id, program's id: the beginning of struct bpf_link_info
_UNTOLD: Final = (errno.EPERM, errno.EACCES)


class Mark(NamedTuple):
    """What a descriptor led to: what the kernel told of it, and by which question."""

    link: bytes | None
    event: bytes | None


class Watch:
    """Looks after programs."""

    def __init__(self) -> None:
        """There are none yet."""
        self.canary = Canary()
        self._programs: list[str] = []
        self._marks: dict[str, tuple[int, Mark]] = {}  # of each link, by program

    def keep(self, program: str, fd: int) -> None:
        """Look after a program that is attached by this descriptor; where nothing can be told of it, by trial alone."""
        self._programs.append(program)
        with suppress(OSError):
            self._marks[program] = fd, mark(fd)

    def silent(self, tallies: Callable[[], bytes]) -> list[str]:
        """What is dead, a line each: links that are not what they were, else what the programs do not see."""
        found = []
        for program, (fd, before) in self._marks.items():
            became = what_became(fd, before)
            if became is not None:
                found.append(f"{program}: {became}")
        return found or list(self.canary.silent(self._programs, tallies))


def mark(fd: int) -> Mark:
    """What a descriptor of a link or a perf event leads to. Raises OSError when it is neither."""
    try:
        return Mark(_link(fd), None)
    except OSError:
        return Mark(None, _event(fd))  # before 5.15 tracepoints have no links, and before 5.8 links have no information


def what_became(fd: int, before: Mark) -> str | None:
    """What is wrong with a descriptor that led to ``before``; None when it still does, as far as this process may ask.

    A confined process on Linux 5.10 may not: there it is told only when the descriptor is closed.
    """
    try:
        now = _link(fd) if before.link is not None else _event(fd)
    except OSError as refused:
        if refused.errno not in _UNTOLD:
            return "its link is closed"
        try:
            fcntl.fcntl(fd, fcntl.F_GETFD)  # a confined process may; fstat(2) may come as a call that it may not
        except OSError as closed:
            return "its link is closed" if closed.errno == errno.EBADF else None
        return None
    return None if now == (before.link or before.event) else "its link's descriptor leads elsewhere"


def _link(fd: int) -> bytes:
    info, length = ctypes.create_string_buffer(_LINK.size), ctypes.c_uint32(_LINK.size)
    # A kernel that knows more than this asks for fills what there is room for.
    result = library().bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length))
    ctypes.set_errno(0)
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return info.raw


def _event(fd: int) -> bytes:
    return fcntl.ioctl(fd, _PERF_EVENT_IOC_ID, bytes(8))
