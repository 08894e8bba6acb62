"""Find the process whose a socket is by who has it open, and never take a child for its parent."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from tracer.fallback.files import ProcFiles
from tracer.fallback.heard import Heard
from tracer.fallback.owners import eldest, find_holders
from tracer.model import NS_PER_TICK

__all__ = ["Search"]

_CHUNK: Final = 8  # processes between two pulses
_GENERATIONS: Final = 16


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
        at after it, and then it itself once more, for its parent may have closed it just before.
        """
        held: dict[int, list[int]] = {}
        looked: set[int] = set()
        self._look(among, wanted, held, looked)
        above = {ancestor for pids in held.values() for pid in pids for ancestor in self._above(pid)}
        inherited = {
            inode for inode, pids in held.items() if any(self._latest_start(pid) >= wanted[inode] for pid in pids)
        }
        if inherited:
            self._look(above - looked, dict.fromkeys(inherited, 0), held, looked, everyone=True)
        chosen = {inode: eldest(pids, self._heard.parent_of) for inode, pids in held.items()}
        again: dict[int, list[int]] = {}
        for pid in set(chosen.values()) - {0}:
            mine = {inode: 0 for inode, owner in chosen.items() if owner == pid}
            self._look([pid], mine, again, set(), everyone=True)
        return {inode: pid for inode, pid in chosen.items() if pid in again.get(inode, ()) and self._is_there(pid)}

    def _look(
        self,
        pids: Iterable[int],
        wanted: dict[int, int],
        held: dict[int, list[int]],
        looked: set[int],
        *,
        everyone: bool = False,
    ) -> None:
        queue = list(pids)
        for at in range(0, len(queue), _CHUNK):
            part = queue[at : at + _CHUNK]
            candidates = [each for each in map(self._heard.candidate, part) if each is not None]
            for inode, found in find_holders(self._files, wanted.keys(), candidates).by_inode.items():
                held.setdefault(inode, []).extend(found)
            looked.update(part)
            self._pulse()
            if not everyone and held.keys() >= wanted.keys():
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

    def _is_there(self, pid: int) -> bool:
        return pid in self._heard.living
