"""What a process has and is bounded by: its place, environment, control group, limits, memory and odd mappings."""

from __future__ import annotations

import re
from typing import Any, Final

from tracer.fallback.files import DirectFiles
from tracer.formats.redact import REDACTED, Redactor
from tracer.investigate.pinned import Pinned
from tracer.investigate.values import fields, text
from tracer.pipeline import whose

__all__ = ["cgroup", "environment", "limits", "login", "mappings", "memory", "threads", "working_directory"]

NAMES_MOST: Final = 2048
"""Variables of an environment that are told."""
MAPPINGS_MOST: Final = 512
"""Mappings that are told."""

_UNSET: Final = 0xFFFFFFFF
_LIMITS: Final = {  # the names of getrlimit(2) by those of fs/proc/base.c
    "Max cpu time": "cpu",
    "Max file size": "fsize",
    "Max data size": "data",
    "Max stack size": "stack",
    "Max core file size": "core",
    "Max resident set": "rss",
    "Max processes": "nproc",
    "Max open files": "nofile",
    "Max locked memory": "memlock",
    "Max address space": "as",
    "Max file locks": "locks",
    "Max pending signals": "sigpending",
    "Max msgqueue size": "msgqueue",
    "Max nice priority": "nice",
    "Max realtime priority": "rtprio",
    "Max realtime timeout": "rttime",
}
_DELETED: Final = b" (deleted)"
_MAPPING: Final = re.compile(rb"([0-9a-f]+-[0-9a-f]+) ([-r][-w][-x][-ps]) \S+ \S+ (\d+) *(.*)")
_WITHOUT_FILE: Final = (b"/memfd:", b"/dev/zero", b"/SYSV", b"/[aio]", b"/anon_hugepage")


def working_directory(process: Pinned) -> str:
    """Where it is. Raises OSError."""
    return text(process.link("cwd"))


def environment(process: Pinned, redactor: Redactor | None, *, values: bool) -> dict[str, Any]:
    """Names of the variables it was started with, and with ``values`` those, without secrets. Raises OSError.

    Programs that put a title into their arguments write over the environment, too: what is no variable is counted.
    """
    raw = process.read("environ")
    pieces = raw.removesuffix(b"\0").split(b"\0") if raw else []
    parts = [piece for piece in pieces if piece.find(b"=") > 0]
    names = [text(part.partition(b"=")[0]) for part in parts]
    found: dict[str, Any] = {"names": names[:NAMES_MOST]}
    if len(parts) < len(pieces):
        found["overwritten"] = len(pieces) - len(parts)
    if len(names) > NAMES_MOST:
        found["cut"] = len(names) - NAMES_MOST
    if values:
        if redactor is not None:
            parts = redactor.args(b"\0".join(_without_torn(pieces))).split(b"\0")
        shown = parts
        told = [part.partition(b"=") for part in shown[:NAMES_MOST]]
        found["values"] = {text(name): text(value) for name, equals, value in told if equals}
    return found


def _without_torn(pieces: list[bytes]) -> list[bytes]:
    """The variables. Of one whose name may be the end of another, cut by what is before it, the value is a secret."""
    found = []
    torn = False
    for piece in pieces:
        name, equals, _ = piece.partition(b"=")
        if not name or not equals:
            torn = True
            continue
        found.append(name + b"=" + REDACTED if torn else piece)
        torn = False
    return found


def login(process: Pinned) -> dict[str, Any] | None:
    """Who logged in to start it, by the kernel's audit: user, session and terminal. Raises OSError."""
    found: dict[str, Any] = {}
    for name, key in (("loginuid", "uid"), ("sessionid", "audit_session")):
        try:
            number = int(process.read(name) or _UNSET)
        except FileNotFoundError:
            continue  # a kernel without audit
        if number != _UNSET:
            found[key] = number
    terminal = _terminal(int(process.read("stat").rpartition(b")")[2].split()[4]))
    if terminal:
        found["terminal"] = terminal
    return found or None


def _terminal(number: int) -> str:
    """The name of a terminal by its device number (Documentation/admin-guide/devices.txt); empty: none."""
    if not number:
        return ""
    major, minor = number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00
    if 136 <= major <= 143:
        return f"/dev/pts/{(major - 136) * 256 + minor}"
    if major == 4:
        return f"/dev/tty{minor}" if minor < 64 else f"/dev/ttyS{minor - 64}"
    return f"{major}:{minor}"


def cgroup(process: Pinned) -> dict[str, Any]:
    """Its control group, and what unit, container and pod that says it is in. Raises OSError."""
    files = DirectFiles()
    try:
        group = files.cgroup(process.pid, start=process.start)
    finally:
        files.close()
    if not group.path:
        return {}
    told = whose.read(group.path, group.version)
    found: dict[str, Any] = {"path": text(told.path), "version": told.version}
    parts = {"slice": told.slice, "unit": told.unit, "user_unit": told.user_unit}
    found |= {name: text(part) for name, part in parts.items() if part}
    if told.container:
        found["container"] = {"id": text(told.container)} | ({"runtime": told.runtime} if told.runtime else {})
    if told.pod:
        found["pod"] = told.pod
    return found


def limits(process: Pinned) -> dict[str, list[int]]:
    """Soft and hard limit by the names of getrlimit(2), -1 where there is none. Raises OSError."""
    found = {}
    for line in process.read("limits").decode().splitlines():
        name = _LIMITS.get(line[:25].rstrip())
        if name:
            soft, hard = line[25:].split()[:2]
            found[name] = [-1 if each == "unlimited" else int(each) for each in (soft, hard)]
    return found


def memory(process: Pinned) -> dict[str, int]:
    """Bytes in memory, its share of them, and bytes swapped out; none of a kernel thread. Raises OSError."""
    told = fields(process.read("status"))
    found = {name: _bytes(told[key]) for name, key in (("rss", "VmRSS"), ("swap", "VmSwap")) if key in told}
    if found:
        rolled = fields(process.read("smaps_rollup").partition(b"\n")[2])
        if "Pss" in rolled:
            found["pss"] = _bytes(rolled["Pss"])
    return found


def _bytes(told: str) -> int:
    return int(told.split(maxsplit=1)[0]) * 1024


def threads(process: Pinned) -> int:
    """How many there are. Raises OSError."""
    return process.stat().threads


def mappings(process: Pinned) -> list[dict[str, Any]]:
    """Mapped files that are deleted, and memory that is writable and executable at once. Raises OSError."""
    found: list[dict[str, Any]] = []
    for line in process.read("maps").splitlines():
        matched = _MAPPING.fullmatch(line)
        if matched is None:
            continue
        place, permissions, inode, path = matched.groups()
        # Of shared memory there is a file that nobody ever saw; it counts only where programs are made of it.
        deleted = path.endswith(_DELETED) and inode != b"0" and not _is_shared(path, permissions)
        both = b"w" in permissions and b"x" in permissions
        for reason, holds in (("deleted", deleted), ("writable and executable", both)):
            if holds and len(found) < MAPPINGS_MOST:
                told: dict[str, Any] = {"range": place.decode(), "perms": permissions.decode(), "reason": reason}
                if path:
                    told |= {"path": text(path.removesuffix(_DELETED) if deleted else path), "deleted": deleted}
                found.append(told)
    return found


def _is_shared(path: bytes, permissions: bytes) -> bool:
    return path.startswith(_WITHOUT_FILE) and b"x" not in permissions
