"""What a process has open: counted by kind, and listed with access, flags and position."""

from __future__ import annotations

import os
import stat
from typing import Any, Final, NamedTuple

from tracer.investigate.pinned import Pinned
from tracer.investigate.values import fields, text

__all__ = ["KINDS", "LISTED_MOST", "Files", "look"]

KINDS: Final = ("regular", "directory", "socket", "pipe", "device", "anon", "memfd")
LISTED_MOST: Final = 4096
"""Descriptors that are told one by one; all are counted."""

_DELETED: Final = b" (deleted)"
_ACCESS: Final = {os.O_RDONLY: "O_RDONLY", os.O_WRONLY: "O_WRONLY", os.O_RDWR: "O_RDWR"}
_FLAGS: Final = {
    getattr(os, name): name
    for name in ("O_APPEND", "O_NONBLOCK", "O_DSYNC", "O_DIRECT", "O_DIRECTORY", "O_NOFOLLOW", "O_NOATIME", "O_PATH")
} | {os.O_CLOEXEC: "O_CLOEXEC"}
_TYPES: Final = {
    stat.S_IFREG: "regular",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


class Files(NamedTuple):
    """``told`` is what is told of them; ``sockets`` are the descriptors of each socket, by its inode."""

    told: dict[str, Any]
    sockets: dict[int, list[int]]


def look(process: Pinned) -> Files:
    """Look at every descriptor. Raises OSError when they may not be listed."""
    counts = dict.fromkeys((*KINDS, "deleted"), 0)
    listed: list[dict[str, Any]] = []
    sockets: dict[int, list[int]] = {}
    with process.listing("fd") as (there, names):
        numbers = sorted(int(name) for name in names)
        for number in numbers:
            try:
                target = os.fsencode(os.readlink(str(number), dir_fd=there))
                kind, removed = _kind(target, number, there)
            except FileNotFoundError:
                continue  # closed meanwhile
            counts[kind] += 1
            counts["deleted"] += removed
            if kind == "socket" and target.endswith(b"]"):
                sockets.setdefault(int(target[target.index(b"[") + 1 : -1]), []).append(number)
            if len(listed) < LISTED_MOST:
                path = target.removesuffix(_DELETED) if removed or kind == "memfd" else target
                told = {"fd": number, "kind": kind, "path": text(path)} | ({"deleted": True} if removed else {})
                listed.append(told | _state(process, number))
    counted = sum(counts[kind] for kind in KINDS)
    told = {"counts": counts, "open": listed}
    if counted > len(listed):
        told["cut"] = counted - len(listed)
    return Files(told, sockets)


def _kind(target: bytes, number: int, directory: int) -> tuple[str, bool]:
    """What a descriptor is, and whether it is a file that has no name any more. Raises FileNotFoundError."""
    for begin, kind in ((b"socket:[", "socket"), (b"pipe:[", "pipe"), (b"anon_inode:", "anon"), (b"/memfd:", "memfd")):
        if target.startswith(begin):
            return kind, False
    if not target.startswith(b"/"):
        return "anon", False  # of a namespace, say
    try:
        found = os.stat(str(number), dir_fd=directory)
    except FileNotFoundError:
        raise
    except OSError:
        return "regular", False  # a server that does not answer: what it is nobody can tell, and most are
    return _TYPES.get(stat.S_IFMT(found.st_mode), "anon"), not found.st_nlink


def _state(process: Pinned, number: int) -> dict[str, Any]:
    """Flags and position, as far as they may be looked at."""
    try:
        told = fields(process.read(f"fdinfo/{number}", 4096))
    except OSError:
        return {}
    flags = int(told.get("flags", "0"), 8)
    names = [_ACCESS.get(flags & os.O_ACCMODE, "O_ACCMODE")]
    names += [name for bit, name in _FLAGS.items() if flags & bit]
    return {"flags": names, "position": int(told.get("pos", "0"))}
