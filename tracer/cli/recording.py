"""The raw recording of a command: written as it goes, read again by `tracer replay`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tracer.cli.errors import CommandError, Exit
from tracer.pipeline.turns import FRAME, FRAME_MOST, MAGIC, Input, RecordingError, pack, unpack
from tracer.sinks.output import OutputError, open_file

__all__ = ["Recording", "begin", "items"]


class Recording:
    """A file that takes the inputs of the sessions of a command, one after the other."""

    def __init__(self, path: Path) -> None:
        """Begin the file anew. Raises CommandError."""
        self._path = path
        try:
            self._fd = open_file(path, 0o600, option="--record")
            os.fchmod(self._fd, 0o600)  # it may have been there before
            os.write(self._fd, MAGIC)
        except OutputError as error:
            raise CommandError(f"--record: {error}", Exit.FAILURE) from error
        except OSError as error:
            what = f"--record: can't write {path}: {error.strerror}; name another file with --record"
            raise CommandError(what, Exit.FAILURE) from error

    def add(self, item: Input) -> None:
        """Write an input. Raises CommandError."""
        data = memoryview(pack(item))
        try:
            while data:
                data = data[os.write(self._fd, data) :]
        except OSError as error:
            raise CommandError(f"can't write the recording {self._path}: {error.strerror}", Exit.FAILURE) from error

    def mend(self) -> None:
        """Take away the part of an input that a killed worker has left at the end, where that can be told."""
        try:
            if not stat.S_ISREG(os.fstat(self._fd).st_mode):
                return
            with self._path.open("rb") as file:
                end = _whole(file)
            os.ftruncate(self._fd, end)
            os.lseek(self._fd, end, os.SEEK_SET)
        except OSError as error:
            raise CommandError(f"can't mend the recording {self._path}: {error.strerror}", Exit.FAILURE) from error

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def _whole(file: BinaryIO) -> int:
    """Where the last whole frame ends."""
    size = os.fstat(file.fileno()).st_size
    end = file.seek(len(MAGIC))
    while len(head := file.read(FRAME.size)) == FRAME.size:
        behind = end + FRAME.size + FRAME.unpack(head)[1]
        if behind > size:
            break
        end = file.seek(behind)
    return end


def begin(file: BinaryIO) -> None:
    """Read the beginning of a recording, and nothing that anybody has chosen. Raises RecordingError, OSError."""
    if file.read(len(MAGIC)) != MAGIC:
        raise RecordingError("not a recording of tracer (made by tracer live --record)")


def items(file: BinaryIO) -> Iterator[Input]:
    """The inputs that a recording holds behind its beginning. Raises RecordingError, OSError."""
    while head := file.read(FRAME.size):
        if len(head) < FRAME.size:
            raise RecordingError("cut in the middle of a frame")
        kind, length = FRAME.unpack(head)
        if length > FRAME_MOST:
            raise RecordingError(f"a frame of {length} bytes: changed")
        content = file.read(length)
        if len(content) < length:
            raise RecordingError("cut in the middle of a frame")
        yield unpack(kind, content)
