"""The file that a process runs, as the kernel holds it: what it is, its digest, and the package it came with."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path
from typing import Any, Final, Self

from tracer.investigate import packages, rpm
from tracer.investigate.pinned import Pinned
from tracer.investigate.values import device, text

__all__ = ["Executable"]

HASHED_MOST: Final = 512 << 20
"""Bytes of a file at most of which a digest is made."""

_DELETED: Final = b" (deleted)"
_MEMFD: Final = b"/memfd:"
_CHUNK: Final = 1 << 20
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC
_ROOT: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


class Executable:
    """What is quick is read at once; digest and package come from a thread, for whose end result() waits.

    It is the open file that counts, not the path: also of one that was deleted, replaced, or is in memory alone.
    """

    def __init__(self, process: Pinned) -> None:
        """Look at it. Raises OSError; FileNotFoundError for a kernel thread, which has none."""
        path = process.link("exe")
        found = process.status_of("exe")
        removed = not found.st_nlink
        if removed:
            path = path.removesuffix(_DELETED)
        in_memory = removed and path.startswith(_MEMFD)
        self._told: dict[str, Any] = {
            "path": text(path),
            "device": device(found.st_dev),
            "inode": found.st_ino,
            "size": found.st_size,
            "deleted": removed and not in_memory,
            "memfd": in_memory,
        }
        self._refused: OSError | None = None
        self._descriptors = [process.open("exe", _OPEN)]
        if not removed:
            try:
                self._descriptors.append(process.open("root", _ROOT))
            except OSError as refused:
                self._refused = refused
        self._path = path
        self._thread = threading.Thread(target=self._read, name="executable")

    def begin(self) -> Self:
        """Start to read it."""
        self._thread.start()
        return self

    def result(self) -> dict[str, Any]:
        """All that is known of it. Waits for the thread."""
        self._thread.join()
        return self._told

    @property
    def refused(self) -> OSError | None:
        """Why the package could not be looked up, behind result()."""
        return self._refused

    def _read(self) -> None:
        try:
            if self._told["size"] <= HASHED_MOST:
                self._told["sha256"] = _digest(self._descriptors[0])
            if len(self._descriptors) > 1:
                root = self._descriptors[1]
                found = packages.owner(root, self._path) or (rpm.owner(self._path) if _is_own(root) else None)
                if found is not None:
                    told = {name: part for name, part in found._asdict().items() if part}
                    self._told["package"] = told
        except OSError as refused:
            self._refused = refused
        finally:
            for fd in self._descriptors:
                os.close(fd)


def _is_own(root: int) -> bool:
    """Whether the root of the process is this one's, too."""
    one, other = os.fstat(root), Path("/").stat()
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _digest(fd: int) -> str:
    made = hashlib.sha256()
    buffer = memoryview(bytearray(_CHUNK))
    at = 0
    while count := os.preadv(fd, [buffer], at):
        made.update(buffer[:count])
        at += count
        if at > HASHED_MOST:  # it grows
            break
    return made.hexdigest()
