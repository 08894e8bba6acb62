"""Which package a file belongs to, from dpkg's database as it lies there: no program is run for it.

The database is that of the process's own root, as in a container. Nothing in there is trusted: paths are resolved so
that no link leads out of that root (openat2(2), Linux 5.6), only regular files are read, and no more than a bound.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

__all__ = ["Package", "owner", "spellings"]

_LISTS: Final = "var/lib/dpkg/info"
_STATUS: Final = "var/lib/dpkg/status"
_LISTS_MOST: Final = 20_000
_BYTES_MOST: Final = 256 << 20  # of all lists
_STATUS_MOST: Final = 64 << 20
_MERGED: Final = (b"/bin/", b"/sbin/", b"/lib")  # links into /usr, by which packages of before still call their files
_OPENAT2: Final = 437  # the same number on every architecture
_IN_ROOT: Final = 0x10 | 0x02  # RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS of include/uapi/linux/openat2.h
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class Package(NamedTuple):
    """A package; the version is empty where the database does not tell."""

    name: str
    version: str
    manager: str


def owner(root: int, path: bytes) -> Package | None:
    """The package of a file, by its absolute path in the root that ``root`` is a descriptor of; None: of none.

    Raises OSError when the database is there and can't be read.
    """
    try:
        lists = _open_in(root, _LISTS, _OPEN | os.O_DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        found = _listed(lists, [b"\n" + each + b"\n" for each in spellings(path)])
    finally:
        os.close(lists)
    if found is None:
        return None
    name, _, architecture = found.partition(":")
    return Package(name, _version(root, name.encode(), architecture.encode()), "dpkg")


def spellings(path: bytes) -> list[bytes]:
    """The path as a package may have it: with /usr in front or without."""
    found = [path]
    if path.startswith(b"/usr/") and path[4:].startswith(_MERGED):
        found.append(path[4:])
    elif path.startswith(_MERGED):
        found.append(b"/usr" + path)
    return found


def _listed(lists: int, lines: list[bytes]) -> str | None:
    left = _BYTES_MOST
    for name in _names(lists):
        try:
            fd = os.open(name, _OPEN | os.O_NOFOLLOW, dir_fd=lists)
        except OSError:
            continue  # removed meanwhile, or a link, which dpkg never makes
        content = b"\n" + _content(fd, left)
        if any(line in content for line in lines):
            return name.removesuffix(".list")
        left -= len(content)
        if left <= 0:
            return None
    return None


def _names(lists: int) -> Iterator[str]:
    for number, name in enumerate(sorted(os.listdir(lists))):
        if number > 16 * _LISTS_MOST:
            return
        if name.endswith(".list"):
            yield name


def _version(root: int, name: bytes, architecture: bytes) -> str:
    try:
        content = _content(_open_in(root, _STATUS, _OPEN), _STATUS_MOST)
    except OSError:
        return ""
    head = b"Package: " + name + b"\n"
    at = 0 if content.startswith(head) else content.find(b"\n\n" + head) + 2
    while at >= 2 or content.startswith(head):
        end = content.find(b"\n\n", at)
        lines = content[at : end if end >= 0 else len(content)].split(b"\n")
        told = dict(line.split(b": ", 1) for line in lines if b": " in line and not line.startswith(b" "))
        if not architecture or told.get(b"Architecture") == architecture:
            return told.get(b"Version", b"").decode("utf-8", "backslashreplace")
        at = content.find(b"\n\n" + head, at) + 2
        if at < 2:
            break
    return ""


def _content(fd: int, most: int) -> bytes:
    """What a regular file holds, which is closed then."""
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return b""
        parts = []
        while most > 0 and (part := os.read(fd, min(most, 1 << 20))):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _open_in(root: int, path: str, flags: int) -> int:
    how = _How(flags, 0, _IN_ROOT)
    fd = int(_libc.syscall(_OPENAT2, root, path.encode(), ctypes.byref(how), ctypes.sizeof(how)))
    if fd < 0:
        number = ctypes.get_errno()
        ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
        raise OSError(number, os.strerror(number), path)
    return fd
