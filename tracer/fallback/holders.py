"""Find the process whose a socket is by who has it open, and never take a child for its parent."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Final, NamedTuple

from tracer.fallback.files import ProcFiles
from tracer.fallback.heard import Heard
from tracer.fallback.owners import eldest, find_holders
from tracer.model import NS_PER_TICK

__all__ = ["Search"]

_CHUNK: Final = 8  # processes between two pulses
_GENERATIONS: Final = 16


class _Seen(NamedTuple):
    """By inode the pids that have it open, who was looked at, and who could not be looked into."""

    held: dict[int, list[int]]
    looked: set[int]
    refused: set[int]


class Search:
    """Looks through descriptors. A refusal is no absence: of who can't be looked into nothing is found."""

    def __init__(self, files: ProcFiles, heard: Heard, pulse: Callable[[], None]) -> None:
        """``heard`` knows who lives; ``pulse`` is called now and then, and may change that."""
        self._files = files
        self._heard = heard
        self._pulse = pulse

    def owners(self, wanted: dict[int, int], among: Iterable[int]) -> dict[int, int]:
        """Inode -> pid, of those that have an owner among these processes.

        ``wanted`` has for each inode a time (boottime ns) when there was no such socket yet. A socket that a process
        has from its parent is the parent's: so where a process may have been forked with it, its ancestors are looked
        at after it (if its parent can't be, nobody is named), and then it itself once more, for its parent may have
        closed it just before.
        """
        seen = _Seen({}, set(), set())
        self._look(among, wanted.keys(), seen)
        above = {each for pids in seen.held.values() for pid in pids for each in self._above(pid)}
        inherited = {
            inode for inode, pids in seen.held.items() if any(self._latest_start(pid) >= wanted[inode] for pid in pids)
        }
        if inherited:
            self._look(above - seen.looked, inherited, seen, everyone=True)
        chosen = {}
        for inode, pids in seen.held.items():
            owner = eldest(pids, self._heard.parent_of)
            hidden = inode in inherited and self._heard.parent_of(owner) in seen.refused
            if owner and not hidden:
                chosen[inode] = owner
        again = _Seen({}, set(), set())
        for pid in set(chosen.values()):
            self._look([pid], {inode for inode, owner in chosen.items() if owner == pid}, again, everyone=True)
        return {
            inode: pid
            for inode, pid in chosen.items()
            if pid in again.held.get(inode, ()) and pid in self._heard.living
        }

    def _look(self, pids: Iterable[int], wanted: Collection[int], seen: _Seen, *, everyone: bool = False) -> None:
        queue = list(pids)
        for at in range(0, len(queue), _CHUNK):
            part = queue[at : at + _CHUNK]
            candidates = [each for each in map(self._heard.candidate, part) if each is not None]
            found = find_holders(self._files, wanted, candidates)
            for inode, holders in found.by_inode.items():
                seen.held.setdefault(inode, []).extend(holders)
            seen.looked.update(part)
            seen.refused.update(found.refused)
            self._pulse()
            if not everyone and seen.held.keys() >= set(wanted):
                break

    def _above(self, pid: int) -> Iterable[int]:
        for _ in range(_GENERATIONS):
            pid = self._heard.parent_of(pid)
            if not pid:
                return
            yield pid

    def _latest_start(self, pid: int) -> int:
        """When it may have been forked: a start is known to the tick."""
        known = self._heard.living.get(pid)
        return 0 if known is None else known.start + NS_PER_TICK
