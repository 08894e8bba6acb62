"""Read the lines of a stream's file, plain or compressed, in bounded memory, whatever is in it."""

from __future__ import annotations

import os
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Protocol

from tracer.formats.shorten import LINE_MOST

__all__ = ["Lines", "UnreadableError"]

_PIECE: Final = 1 << 18  # bytes read or unpacked at once
_ZSTD_PIECE: Final = 1 << 8  # bytes given to zstd at once: a block that says "128 KiB of this byte" takes four of them
_ZSTD_WINDOW_MOST: Final = 1 << 27  # bytes, as `zstd` without --long takes
_GZIP: Final = b"\x1f\x8b"  # RFC 1952, 2.3.1
_ZSTD: Final = b"\x28\xb5\x2f\xfd"  # RFC 8878, 3.1.1
_GZIP_BITS: Final = 31  # zlib's for a header of gzip
_GROWING_TRIES: Final = 10
_GROWING_S: Final = 0.05


class UnreadableError(Exception):
    """A file can't be read on; the message says why."""


class Lines:
    """The lines of a file, one after the other, without their newlines.

    ``offset`` is where the last one given begins, in bytes of what is unpacked, or, once all were given, where they
    end; ``torn`` is then what stands behind. What is appended after the file was opened is left alone.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, not through a symbolic link. Raises UnreadableError."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as refused:
            link = path.is_symlink()
            why = "it is a symbolic link: name the file itself" if link else refused.strerror
            raise UnreadableError(f"can't be opened: {why}") from refused
        self._file = fd
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise UnreadableError("is no regular file")
        self.size = found.st_size  # bytes on disk
        self.rewind()

    def rewind(self) -> None:
        """Begin again; what was appended meanwhile is left alone. Raises UnreadableError."""
        try:
            os.lseek(self._file, 0, os.SEEK_SET)
        except OSError as failed:
            raise UnreadableError(f"can't be read: {failed.strerror}") from failed
        self._left = self.size
        self.read = 0  # bytes on disk read so far
        self.offset = 0
        self.torn = b""

    def fileno(self) -> int:
        """The descriptor, for who reads the file otherwise."""
        return self._file

    def close(self) -> None:
        """Close the file. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __iter__(self) -> Iterator[bytes]:
        """Raises UnreadableError, also for a line of LINE_MOST bytes or more."""
        try:
            yield from self._lines()
        except OSError as failed:
            raise UnreadableError(f"can't be read: {failed.strerror}") from failed

    def _lines(self) -> Iterator[bytes]:
        rest, begin = b"", 0
        pieces, plain = self._pieces()
        for piece in pieces:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                self.offset = begin
                if len(line) >= LINE_MOST:
                    break
                yield line
                begin += len(line) + 1
            else:
                self.offset = begin
                if len(rest) < LINE_MOST:
                    continue
            raise UnreadableError(f"a line of {LINE_MOST:,} bytes or more")
        self.offset = begin
        if rest and plain:
            rest = self._grown(rest)
            if rest.endswith(b"\n"):
                yield rest[:-1]
                self.offset = begin + len(rest)
                rest = b""
        self.torn = rest

    def _grown(self, rest: bytes) -> bytes:
        """The last line of a file that may be being written just now."""
        for _ in range(_GROWING_TRIES):
            more = self._next(LINE_MOST - len(rest))
            end = more.find(b"\n")
            if end >= 0:
                return rest + more[: end + 1]
            rest += more
            if len(rest) >= LINE_MOST:
                break
            time.sleep(_GROWING_S)
        return rest

    def _pieces(self) -> tuple[Iterator[bytes], bool]:
        """What is in the file, unpacked, and whether it was plain."""
        begin = self._more(_PIECE)
        if begin.startswith(_GZIP):
            return self._gzip(begin), False
        if begin.startswith(_ZSTD):
            return self._zstd(begin), False
        return self._plain(begin), True

    def _more(self, most: int) -> bytes:
        data = self._next(min(most, self._left))
        self._left -= len(data)
        self.read += len(data)
        return data

    def _next(self, most: int) -> bytes:
        return os.read(self._file, most)

    def _plain(self, data: bytes) -> Iterator[bytes]:
        while data:
            yield data
            data = self._more(_PIECE)

    def _gzip(self, data: bytes) -> Iterator[bytes]:
        while data:
            if not data.startswith(_GZIP):
                raise UnreadableError("something follows the compressed data")
            member = zlib.decompressobj(_GZIP_BITS)
            while True:
                if not data:
                    raise UnreadableError("the compressed data is cut short")
                try:
                    yield member.decompress(data, _PIECE)
                except zlib.error as odd:
                    raise UnreadableError("the compressed data is damaged") from odd
                if member.eof:
                    break
                data = member.unconsumed_tail or self._more(_PIECE)
            data = member.unused_data
            data += self._more(_PIECE - len(data)) if len(data) < len(_GZIP) else b""

    def _zstd(self, data: bytes) -> Iterator[bytes]:
        unpacker, odd = _unpacker()
        while data:
            if not data.startswith(_ZSTD):
                raise UnreadableError("something follows the compressed data")
            frame = unpacker()
            while not frame.eof:
                if not data:
                    raise UnreadableError("the compressed data is cut short")
                part, data = data[:_ZSTD_PIECE], data[_ZSTD_PIECE:]
                try:
                    yield frame.decompress(part)
                except odd as damaged:
                    raise UnreadableError("the compressed data is damaged") from damaged
                data = data or self._more(_PIECE)
            data = frame.unused_data + data
            data += self._more(_PIECE - len(data)) if len(data) < len(_ZSTD) else b""


class _Frame(Protocol):
    """What unpacks a frame of zstd."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes) -> bytes:
        """What these bytes hold."""
        ...


def _unpacker() -> tuple[Callable[[], _Frame], type[Exception]]:
    """What makes unpackers of zstd, and what they raise."""
    try:
        import zstandard
    except ImportError as missing:
        raise UnreadableError("is compressed with zstd: pip install zstandard, or unpack it") from missing
    made = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MOST)
    return made.decompressobj, zstandard.ZstdError
