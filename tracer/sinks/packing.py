"""Compress files of a directory, so that at any time, whatever ends this, each is there whole, once or twice."""

from __future__ import annotations

import fcntl
import gzip
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final

__all__ = ["pack"]

_CHUNK: Final = 1 << 16
_LEVEL: Final = 6  # a tenth of the size; 9 takes three times as long for a few percent


def pack(directory: int, name: str, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Put ``name``.gz in the place of the file ``name`` of the directory with this descriptor, while ``go_on`` says so.

    False where it did not: the file is as it was then. Raises OSError: EWOULDBLOCK while somebody still writes to it.
    """
    packed, new = f"{name}.gz", f".{name}.gz.new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)  # half of it, from before
    with suppress(FileNotFoundError):
        os.stat(packed, dir_fd=directory, follow_symlinks=False)
        os.unlink(name, dir_fd=directory)  # all but that was done when this ended
        return True
    try:
        if not _copy(directory, name, new, go_on):
            os.unlink(new, dir_fd=directory)
            return False
        os.rename(new, packed, src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(name, dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        raise
    os.fsync(directory)
    return True


def _copy(directory: int, name: str, new: str, go_on: Callable[[], bool]) -> bool:
    source = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    with os.fdopen(source, "rb", 0) as reader:
        _lock(source)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        target = os.open(new, flags, 0o640, dir_fd=directory)
        with os.fdopen(target, "wb") as writer:
            with gzip.GzipFile(name, "wb", _LEVEL, writer, os.fstat(source).st_mtime) as packing:
                while chunk := reader.read(_CHUNK):
                    if not go_on():
                        return False
                    packing.write(chunk)
            writer.flush()
            os.fsync(target)
    return True


def _lock(fd: int) -> None:
    """Nobody writes to the file any more. Raises BlockingIOError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return  # a filesystem without locks
