"""Hold on to one process, so that whatever is read is of that very process, whoever has its number later.

A descriptor of /proc/PID stays that process's: when it has been reaped each read through it fails with ESRCH, also if
the pid is given again. The pidfd beside it tells, without reading anything, whether the process has ended.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from tracer.fallback import stat
from tracer.fallback.stat import Stat

__all__ = ["READ_MOST", "NotAProcessError", "Pinned"]

READ_MOST: Final = 16 << 20
"""Bytes of one file of /proc that are read at most."""

_CHUNK: Final = 256 << 10
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


class NotAProcessError(Exception):
    """The number is that of a thread other than the first of its process; ``process`` is whose."""

    def __init__(self, process: int) -> None:
        """Say whose thread it is."""
        super().__init__(f"a thread of process {process}")
        self.process = process


class Pinned:
    """One process; a context manager. ``pid`` is as this /proc has it, ``start`` its start in ticks since boot."""

    def __init__(self, pid: int, proc: str = "/proc") -> None:
        """Take hold of it. Raises ProcessLookupError when there is none, NotAProcessError, PermissionError."""
        self.pid = pid
        self._pidfd = -1
        try:
            self._at = os.open(f"{proc}/{pid}", _PLACE)
        except FileNotFoundError:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
        try:
            self._check()
            self._pidfd = _pidfd(pid)
            # Read last: who can still be read through the descriptor had the pid all the time, so the pidfd is its own.
            self.start = self.stat().start
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        for line in self.read("status").splitlines():
            if line.startswith(b"Tgid:") and int(line.split()[1]) != self.pid:
                raise NotAProcessError(int(line.split()[1]))

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of it."""
        self.close()

    def close(self) -> None:
        """Let go of it; idempotent."""
        for fd in (self._at, self._pidfd):
            if fd >= 0:
                os.close(fd)
        self._at = self._pidfd = -1

    @property
    def directory(self) -> int:
        """The descriptor of its directory in /proc."""
        return self._at

    def ended(self) -> bool:
        """Whether it has ended, reaped or not; with closed descriptors that is not known, and False."""
        if self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            return bool(poll.poll(0))
        if self._at < 0:
            return False
        try:
            return self.stat().ended
        except ProcessLookupError:
            return True

    def stat(self) -> Stat:
        """What its stat says now. Raises ProcessLookupError when it has been reaped."""
        return stat.parse(self.read("stat"))

    def read(self, name: str, most: int = READ_MOST) -> bytes:
        """The first ``most`` bytes of a file of it. Raises OSError."""
        fd = self.open(name)
        try:
            parts = []
            while most > 0 and (part := os.read(fd, min(most, _CHUNK))):
                parts.append(part)
                most -= len(part)
        finally:
            os.close(fd)
        return b"".join(parts)

    def open(self, name: str, flags: int = _OPEN) -> int:
        """A descriptor of a file of it, the caller's to close. Raises OSError, ProcessLookupError when it is gone."""
        try:
            return os.open(name, flags, dir_fd=self._at)
        except FileNotFoundError:
            self._gone_or_absent()
            raise

    def link(self, name: str) -> bytes:
        """Where a link of it leads. Raises OSError, ProcessLookupError when it is gone."""
        try:
            return os.fsencode(os.readlink(name, dir_fd=self._at))
        except FileNotFoundError:
            self._gone_or_absent()
            raise

    def status_of(self, name: str) -> os.stat_result:
        """stat(2) of where a link of it leads. Raises OSError, ProcessLookupError when it is gone."""
        try:
            return os.stat(name, dir_fd=self._at)
        except FileNotFoundError:
            self._gone_or_absent()
            raise

    @contextmanager
    def listing(self, name: str) -> Iterator[tuple[int, list[str]]]:
        """A descriptor of a directory of it, for this block, and what is in there. Raises OSError."""
        fd = self.open(name, _OPEN | os.O_DIRECTORY)
        try:
            with os.scandir(fd) as entries:
                yield fd, [entry.name for entry in entries]
        finally:
            os.close(fd)

    def _gone_or_absent(self) -> None:
        """Raise ProcessLookupError if a file is not there because the process is not."""
        try:
            os.stat("stat", dir_fd=self._at)
        except OSError:
            raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH)) from None


def _pidfd(pid: int) -> int:
    """A pidfd, or -1 where the kernel has none (before 5.3) or lets nobody have one. Raises ProcessLookupError."""
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except OSError:
        return -1
