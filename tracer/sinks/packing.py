"""Compress files of a directory, so that at any time, whatever ends this, each is there whole, once or twice."""

from __future__ import annotations

import fcntl
import gzip
import os
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import IO, Any, Final

from tracer.sinks.place import PACKED, Packing

__all__ = ["load", "pack"]

_CHUNK: Final = 1 << 16
_GZIP_LEVEL: Final = 6  # a tenth of the size; 9 takes three times as long for a few percent
_ZSTD_LEVEL: Final = 3  # an eighth less than gzip's 6 in an eighth of the time; 9 takes as long as that


def load() -> None:
    """Import what zstd takes, which a confined process can't. Raises ImportError."""
    import zstandard  # noqa: F401


def pack(directory: int, name: str, how: Packing = Packing.GZIP, go_on: Callable[[], bool] = lambda: True) -> bool:
    """Put ``name``.gz or .zst in the place of the file ``name`` of the directory with this descriptor.

    False where it did not, as ``go_on`` did not say so any more: the file is as it was then. Raises OSError:
    EWOULDBLOCK while somebody still writes to it.
    """
    suffix = ".zst" if how is Packing.ZSTD else ".gz"
    new = f".{name}{suffix}.new"
    for each in PACKED:
        with suppress(FileNotFoundError):
            os.unlink(f".{name}{each}.new", dir_fd=directory)  # half of it, from before
    for each in PACKED:
        with suppress(FileNotFoundError):
            os.stat(f"{name}{each}", dir_fd=directory, follow_symlinks=False)
            os.unlink(name, dir_fd=directory)  # all but that was done when this ended
            return True
    try:
        if not _copy(directory, name, new, how, go_on):
            os.unlink(new, dir_fd=directory)
            return False
        os.rename(new, f"{name}{suffix}", src_dir_fd=directory, dst_dir_fd=directory)
        os.unlink(name, dir_fd=directory)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(new, dir_fd=directory)
        raise
    os.fsync(directory)
    return True


def _copy(directory: int, name: str, new: str, how: Packing, go_on: Callable[[], bool]) -> bool:
    source = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    with os.fdopen(source, "rb", 0) as reader:
        _lock(source)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        target = os.open(new, flags, 0o640, dir_fd=directory)
        with os.fdopen(target, "wb") as writer:
            with _packing(how, name, os.fstat(source).st_mtime, writer) as packing:
                while chunk := reader.read(_CHUNK):
                    if not go_on():
                        return False
                    packing.write(chunk)
            writer.flush()
            os.fsync(target)
    return True


def _packing(how: Packing, name: str, changed: float, writer: IO[bytes]) -> AbstractContextManager[Any]:
    """What compresses into ``writer``, which stays open; of zstd with a checksum, as gzip has one."""
    if how is not Packing.ZSTD:
        return gzip.GzipFile(name, "wb", _GZIP_LEVEL, writer, changed)
    import zstandard

    packing: AbstractContextManager[Any] = zstandard.ZstdCompressor(_ZSTD_LEVEL, write_checksum=True).stream_writer(
        writer, closefd=False
    )
    return packing


def _lock(fd: int) -> None:
    """Nobody writes to the file any more. Raises BlockingIOError."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return  # a filesystem without locks
