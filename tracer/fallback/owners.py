"""Find out whose sockets are, by the inodes of the descriptors that processes have open; never by guessing."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

from tracer.fallback.files import ProcFiles, gone

__all__ = ["Candidate", "Holders", "eldest", "find_holders"]

_SOCKET: Final = re.compile(rb"socket:\[(\d+)\]").fullmatch
_DEPTH: Final = 64  # generations that are looked through


class Candidate(NamedTuple):
    """A process that may have a socket; ``start`` in ticks since boot, as /proc/PID/stat has it."""

    pid: int
    start: int


class Holders(NamedTuple):
    """What was found: by inode the pids that have it open, and the pids that could not be looked into."""

    by_inode: dict[int, list[int]]
    refused: list[int]


def find_holders(files: ProcFiles, inodes: Collection[int], candidates: Iterable[Candidate]) -> Holders:
    """Who of the candidates has these sockets open now."""
    found = Holders({}, [])
    for pid, start in candidates:
        try:
            targets = set(files.fds(pid, start=start).values())
        except OSError as error:
            if not gone(error):
                found.refused.append(pid)
            continue
        for target in targets:
            named = _SOCKET(target)
            if named is not None and (inode := int(named[1])) in inodes:
                found.by_inode.setdefault(inode, []).append(pid)
    return found


def eldest(pids: list[int], parent_of: Callable[[int], int]) -> int:
    """The one of these processes that all the others descend from; 0 when there is none.

    Who has a socket from its parent has it by fork: it is the parent's, which had it first. Among others it can't be
    told who made it.
    """
    if len(pids) == 1:
        return pids[0]
    return next((pid for pid in pids if all(_descends(other, pid, parent_of) for other in pids if other != pid)), 0)


def _descends(pid: int, ancestor: int, parent_of: Callable[[int], int]) -> bool:
    for _ in range(_DEPTH):
        pid = parent_of(pid)
        if pid == ancestor:
            return True
        if pid <= 1:
            return False
    return False
