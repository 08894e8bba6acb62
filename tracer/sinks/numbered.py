"""Keep a directory of files that are called by their first line's number from the first byte on, and never renamed."""

from __future__ import annotations

import errno
import os

from tracer.sinks.place import Place, Turned, numbered

__all__ = ["Numbered"]


class Numbered(Place):
    """As Place, but a file has its last name from the beginning on: the one that is written is the last by name.

    So who follows a pattern finds each file once, and may read it while it is written: collectors lose what they had
    not read of a file when names change faster than they look.
    """

    def rotate(self, first: int, keep: int, *, idle: bool = False, stays: bool = False) -> Turned:
        """Make the file whose first line has the number ``first``; how it is kept, and ``idle``, as Place.rotate().

        One that has no whole line is removed when nobody writes any more. None ``stays`` to be gone on with: EINVAL.
        """
        if stays:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        self._check_directory()
        cut = self._tidied() if idle else 0
        name = numbered(self._path, first)
        self._check_free(name)
        fd = self._made(name)
        self._name = name
        self._keep(fd)
        os.fsync(self._directory)
        self._prune(keep + 1 if keep else 0)
        return Turned(fd, cut)

    def packable(self) -> list[str]:
        """As Place.packable(): the last one is being written, and the one before it is the newest that is done."""
        return [name for name in self._names()[:-2] if name.endswith(self._path.suffix)]

    def _tidied(self) -> int:
        """Cut half a line off the newest file, and remove it if nothing is left; how many bytes that was."""
        cut = 0
        for name in reversed(self._names()):
            if not name.endswith(self._path.suffix):
                break  # it is compressed, so it was done
            self._check_regular(self._stat(name))
            cut += self._cut(name)
            if self._stat(name).st_size:
                break
            os.unlink(name, dir_fd=self._directory)
        return cut
