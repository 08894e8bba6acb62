"""Say it when a filter names a process or a network namespace that is not there now: it may come, or be a slip."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tracer.pipeline.view import Filters

__all__ = ["absent", "lives"]

_PROC: Final = Path("/proc")
_FIRST_PIDS: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO of include/linux/proc_ns.h


def absent(filters: Filters, proc: Path = _PROC) -> Iterator[str]:
    """A line for each pid and namespace of the filters that nobody has now; what can't be told is taken to be there."""
    if filters.pids and _is_first(proc):
        gone = sorted(pid for pid in filters.pids if not lives(pid))
        if gone:
            yield f"--pid: there is no process {_listed(gone)} now; what gets that number later will be shown"
    if filters.netns:
        left = set(filters.netns)
        if _without_seen(left, proc) and left:
            numbers = _listed(sorted(left))
            yield f"--netns: no process is in network namespace {numbers} now; what comes there will be shown"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))


def _is_first(proc: Path) -> bool:
    """Whether pids here are those of the first pid namespace, which the filter is about."""
    try:
        return str((proc / "self/ns/pid").readlink()) == _FIRST_PIDS
    except OSError:
        return False


def lives(pid: int) -> bool:
    """Whether there is such a process: asked of the kernel, as /proc may hide it."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # another user's
    return True


def _without_seen(left: set[int], proc: Path) -> bool:
    """Take away the namespaces that processes are in; False where too little may be looked at to tell."""
    try:
        for entry in proc.iterdir():
            if not left:
                break
            if not entry.name.isdecimal():
                continue
            try:
                link = str((entry / "ns/net").readlink())
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            except PermissionError:
                if os.geteuid():
                    return False
                continue  # root may look at all but what the kernel protects, such as process 1
            left.discard(int(link.removeprefix("net:[").removesuffix("]")))
    except OSError:
        return False
    return True
