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

_SOCKET: Final = "socket:["
_DELETED: Final = " (deleted)"
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
    alike: dict[str, tuple[str, bool]] = {}  # of files that are only counted: what is behind a path
    with process.listing("fd") as (there, names):
        for number in sorted(map(int, names)):
            try:
                target = os.readlink(str(number), dir_fd=there)
                if target.startswith(_SOCKET):
                    kind, removed = "socket", False
                    sockets.setdefault(int(target[len(_SOCKET) : -1]), []).append(number)
                elif len(listed) < LISTED_MOST:
                    kind, removed = _kind(target, number, there)
                else:
                    kind, removed = alike.get(target) or alike.setdefault(target, _kind(target, number, there))
            except FileNotFoundError:
                continue  # closed meanwhile
            counts[kind] += 1
            counts["deleted"] += removed
            if len(listed) < LISTED_MOST:
                path = target.removesuffix(_DELETED) if removed or kind == "memfd" else target
                told = {"fd": number, "kind": kind, "path": text(os.fsencode(path))}
                listed.append(told | ({"deleted": True} if removed else {}) | _state(process, number))
    counted = sum(counts[kind] for kind in KINDS)
    whole: dict[str, Any] = {"counts": counts, "open": listed}
    if counted > len(listed):
        whole["cut"] = counted - len(listed)
    return Files(whole, sockets)


def _kind(target: str, number: int, directory: int) -> tuple[str, bool]:
    """What a descriptor is, and whether it is a file that has no name any more. Raises FileNotFoundError."""
    if not target.startswith("/"):
        return "pipe" if target.startswith("pipe:[") else "anon", False
    if target.startswith("/memfd:"):
        return "memfd", False
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
