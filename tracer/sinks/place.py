"""Keep a file's place in its directory: open it, give it a name when it is full, drop what is old.

A file that is done is called as it was, with the number of its first line in 20 digits: ``agent.jsonl`` becomes
``agent-00000000000000012345.jsonl``, and once it is compressed ``.gz`` or ``.zst`` comes behind that. So names sort as
lines do.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tracer.sinks.output import open_again

__all__ = ["PACKED", "Look", "Packing", "Place", "Turned", "done", "number_of", "numbered"]

DIGITS: Final = 20
_MODE: Final = 0o640
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_CHUNK: Final = 1 << 16


class Look(enum.IntEnum):
    """What became of the file that was opened last."""

    HERE = 0
    MOVED = 1  # it has another name now
    GONE = 2  # it has none: what is written to it nobody will read


class Packing(enum.StrEnum):
    """How files that are done are compressed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"


PACKED: Final = (".gz", ".zst")
"""What comes behind their names."""


class Turned(NamedTuple):
    """The descriptor to write to from now on, and how many bytes of half a line were cut off the file before."""

    fd: int
    cut: int


def numbered(path: Path, number: int) -> str:
    """What a file beside ``path`` is called by the number of its first line."""
    return f"{path.stem}-{number:0{DIGITS}}{path.suffix}"


def number_of(path: Path) -> int:
    """The number that such a file, compressed or not, is called by. Raises ValueError for what is none."""
    return int(path.name.removesuffix(".gz").removesuffix(".zst").rpartition("-")[2][:DIGITS])


def done(path: Path) -> list[Path]:
    """The files beside ``path`` that are called by numbers, the oldest first. Raises OSError."""
    is_done = _pattern(path)
    return sorted(each for each in path.parent.iterdir() if is_done(each.name))


def _pattern(path: Path) -> Callable[[str], re.Match[str] | None]:
    # No line has a number of more than 63 bits, which is as many as SIEMs have for it.
    name = rf"{re.escape(path.stem)}-0[0-8]\d{{{DIGITS - 2}}}{re.escape(path.suffix)}"
    return re.compile(rf"{name}(?:\.gz|\.zst)?").fullmatch


class Place:
    """A file's place; ``directory`` is a descriptor of the directory that can be listed and synced."""

    def __init__(self, path: Path, directory: int) -> None:
        """Nothing is opened yet."""
        self._path = path
        self._directory = directory
        self._kept = -1  # what was opened last: only who has it can tell what became of it
        self._name = path.name  # what that was called then
        self._done = _pattern(path)

    def again(self, current: int) -> int:
        """As open_again()."""
        fd = open_again(self._path, self._directory, current)
        self._keep(fd)
        return fd

    def rotate(self, first: int, keep: int, *, idle: bool = False, stays: bool = False) -> Turned:
        """Give the file its name, whose first line has the number ``first``, and open a new one in its place.

        Only the ``keep`` newest that are done stay (0: all). With ``idle`` nobody writes to the file any more, so half
        a line at its end is cut off; if it then ``stays`` it is gone on with as it is, as is what somebody else has put
        in its place. Raises OSError; everything is as it was then.
        """
        self._check_directory()
        cut = 0
        try:
            there: os.stat_result | None = self._stat(self._path.name)
        except FileNotFoundError:
            there = None
        mine = there is not None and (idle or (self._kept >= 0 and os.path.samestat(there, os.fstat(self._kept))))
        if there is None or not mine:  # that open_again() looks at what it is
            return Turned(self.again(0), 0)
        self._check_regular(there)
        if idle:
            cut = self._cut(self._path.name)
            if stays or not self._stat(self._path.name).st_size:
                return Turned(self.again(0), cut)
        fd = self._renamed(numbered(self._path, first))
        self._keep(fd)
        os.fsync(self._directory)
        self._prune(keep)
        return Turned(fd, cut)

    def look(self) -> Look:
        """What became of the file that was opened last."""
        if self._kept < 0:
            return Look.HERE
        mine = os.fstat(self._kept)
        if not mine.st_nlink:
            return Look.GONE
        try:
            same = os.path.samestat(mine, self._path.with_name(self._name).lstat())
        except OSError:
            same = False
        return Look.HERE if same else Look.MOVED

    def packable(self) -> list[str]:
        """The names of what is done and can be compressed, the oldest first: all but the newest."""
        return [name for name in self._names()[:-1] if name.endswith(self._path.suffix)]

    def _check_directory(self) -> None:
        """The directory is still in its place. Raises OSError."""
        if not os.path.samestat(self._path.parent.stat(), os.fstat(self._directory)):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _check_regular(self, found: os.stat_result) -> None:
        """This is a file. Raises OSError."""
        if not stat.S_ISREG(found.st_mode):
            number = errno.ELOOP if stat.S_ISLNK(found.st_mode) else errno.ENXIO
            raise OSError(number, os.strerror(number))

    def _check_free(self, name: str) -> None:
        """Nothing has this name, compressed or not. Raises OSError."""
        for other in (name, *(f"{name}{suffix}" for suffix in PACKED)):
            with suppress(FileNotFoundError):
                self._stat(other)
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def _made(self, name: str) -> int:
        """A new file. Raises OSError."""
        return os.open(name, _FLAGS, _MODE, dir_fd=self._directory)

    def _stat(self, name: str) -> os.stat_result:
        return os.stat(name, dir_fd=self._directory, follow_symlinks=False)

    def _keep(self, fd: int) -> None:
        if self._kept >= 0:
            os.close(self._kept)
        self._kept = os.dup(fd)
        # Who writes may be behind by several files: nobody compresses one as long as its descriptor is open anywhere.
        with suppress(OSError):  # a filesystem without locks
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _renamed(self, name: str) -> int:
        here = {"src_dir_fd": self._directory, "dst_dir_fd": self._directory}
        self._check_free(name)
        os.rename(self._path.name, name, **here)
        try:
            return self._made(self._path.name)
        except OSError:
            with suppress(OSError):
                os.rename(name, self._path.name, **here)
            raise

    def _cut(self, name: str) -> int:
        """Cut off what is behind the last whole line; how many bytes that was."""
        with self._opened(name, _READ | os.O_RDWR) as fd:
            end = at = os.fstat(fd).st_size
            whole = 0
            while at:
                begin = max(0, at - _CHUNK)
                found = os.pread(fd, at - begin, begin).rfind(b"\n")
                if found >= 0:
                    whole = begin + found + 1
                    break
                at = begin
            if whole < end:
                os.ftruncate(fd, whole)
            return end - whole

    @contextmanager
    def _opened(self, name: str, flags: int) -> Iterator[int]:
        fd = os.open(name, flags, _MODE, dir_fd=self._directory)
        try:
            yield fd
        finally:
            os.close(fd)

    def _names(self) -> list[str]:
        """What is done, the oldest first; of one that is there twice the compressed one comes behind the other."""
        return sorted(filter(self._done, os.listdir(self._directory)))

    def _prune(self, keep: int) -> None:
        if keep:
            for name in self._names()[:-keep]:
                with suppress(OSError):  # it stays for the next time
                    if not self._is_written(name):
                        os.unlink(name, dir_fd=self._directory)

    def _is_written(self, name: str) -> bool:
        """Whether somebody has still to write to that file. Raises OSError."""
        with self._opened(name, _READ) as fd:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
            except OSError:
                return False  # a filesystem without locks
        return False
