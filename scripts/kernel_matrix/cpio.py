"""Writes cpio archives in the form that the kernel unpacks as its initramfs, "newc"."""

import io
import stat
from types import TracebackType
from typing import Self

# Documentation/driver-api/early-userspace/buffer-format.rst in the kernel's sources.
_MAGIC = b"070701"
_BLOCK = 512


class Newc:
    """An archive that is written to `out`, as a context; leaving it writes the end and leaves `out` open."""

    def __init__(self, out: io.BufferedIOBase) -> None:
        self._out = out
        self._names: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self._write("TRAILER!!!", 0, 0, b"", (0, 0))
            self._out.write(b"\0" * (-self._out.tell() % _BLOCK))

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file and the directories above it. Raises ValueError for a name that is there already."""
        self._add(name, stat.S_IFREG | mode, data)

    def directory(self, name: str) -> None:
        """Add a directory and those above it, unless it is there."""
        if name.strip("/") not in self._names:
            self._add(name, stat.S_IFDIR | 0o755)

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def _add(self, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        name = name.strip("/")
        if not name or name in self._names:
            raise ValueError(f"{name or 'the root'} is in the archive already")
        above = name.rpartition("/")[0]
        if above:
            self.directory(above)
        self._names.add(name)
        self._write(name, len(self._names), mode, data, device)

    def _write(self, name: str, inode: int, mode: int, data: bytes, device: tuple[int, int]) -> None:
        encoded = name.encode() + b"\0"
        # inode, mode, uid, gid, links, time, size, the device it is on, the device it is, length of the name, checksum
        numbers = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(encoded), 0)
        head = _MAGIC + b"".join(b"%08X" % number for number in numbers) + encoded
        self._out.write(head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4))
