"""The packer: a process beside the opener that compresses files, at the lowest priority and confined as that is."""

from __future__ import annotations

import errno
import json
import os
import select
from collections.abc import Callable
from typing import Any, Final, Self

from tracer.fallback.beside import beside
from tracer.sinks.place import Packing, Place

__all__ = ["Packer"]

NAME: Final = b"tracer_packer"
"""What it is called in /proc/PID/comm."""
_LOWEST: Final = 19
_TOLD_MOST: Final = 1 << 16
_GZIP, _ZSTD = b"g", b"z"  # what it is asked


class Packer:
    """The side of those who ask, which is the opener."""

    def __init__(self, pid: int, asks: int, answers: int) -> None:
        """The descriptors are ends of pipes."""
        self.pid = pid
        self._asks = asks
        self._answers = answers

    @classmethod
    def start(cls, place: Place, directory: int, confine: Callable[[], dict[str, Any]], *, zstd: bool = False) -> Self:
        """Fork it; it confines itself, and then waits. It has the descriptor ``directory``. Raises OSError.

        Without ``zstd`` it can't compress with that, which has to be loaded before.
        """
        (asked, asks), (answers, told) = os.pipe(), os.pipe()
        try:
            pid = beside(
                NAME, {directory, asked, told}, lambda: _be(place, directory, (asked, told), confine, zstd=zstd)
            )
        except OSError:
            os.close(asks)
            os.close(answers)
            raise
        finally:
            os.close(asked)
            os.close(told)
        return cls(pid, asks, answers)

    @property
    def fds(self) -> tuple[int, int]:
        """What the opener has to keep."""
        return self._asks, self._answers

    def close(self) -> None:
        """Leave it to the opener: when nobody has the other ends of its pipes, it ends."""
        for fd in self.fds:
            os.close(fd)

    def confined(self) -> dict[str, Any]:
        """How it is confined, once; empty if it has ended before."""
        told = os.read(self._answers, _TOLD_MOST)
        for fd in self.fds:
            os.set_blocking(fd, False)
        found: dict[str, Any] = json.loads(told) if told else {}
        return found

    def ask(self, how: Packing = Packing.GZIP) -> None:
        """Have it look for what is to be compressed; if it is gone, nothing is."""
        try:
            os.write(self._asks, _ZSTD if how is Packing.ZSTD else _GZIP)
        except OSError:
            return  # it was asked as often as a pipe holds, or is gone, which failed() tells

    def failed(self) -> int:
        """The errno that it met since this was asked last, 0 if none; EPIPE if it is gone."""
        try:
            told = os.read(self._answers, _TOLD_MOST)
        except BlockingIOError:
            return 0
        return max(told) if told else errno.EPIPE


def _be(
    place: Place, directory: int, ends: tuple[int, int], confine: Callable[[], dict[str, Any]], *, zstd: bool
) -> None:
    from tracer.sinks.packing import load, pack  # loaded here alone, and before it is confined

    asked, told = ends
    if zstd:
        load()
    os.nice(_LOWEST)
    os.write(told, json.dumps(confine()).encode())
    poll = select.poll()
    poll.register(asked, 0)  # its end is told in any case
    while data := os.read(asked, 1 << 12):
        how = Packing.ZSTD if data.endswith(_ZSTD) else Packing.GZIP
        number = 0
        for name in place.packable():
            try:
                if not pack(directory, name, how, lambda: not poll.poll(0)):
                    break  # nobody is left to ask, and another tracer may be about to come
            except (FileNotFoundError, BlockingIOError):
                continue  # somebody else has taken it away, or has still to write to it
            except OSError as failed:
                number = failed.errno or errno.EIO
        if number:
            os.write(told, bytes([number]))
