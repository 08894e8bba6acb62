"""Know control groups by their ids, from what the records of executed programs told of them: bounded."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from tracer.model import Cgroup, Flag
from tracer.pipeline import whose

__all__ = ["CgroupTable"]

KNOWN_MOST: Final = 8192  # of some 500 bytes each
_V1: Final = int(Flag.CGROUP_V1)
_CUT: Final = int(Flag.TRUNCATED_CGROUP)
_KIND: Final = _V1 | _CUT


class CgroupTable:
    """What is known of control groups: by their paths, and of version 2 also by their ids.

    The kernel gives no id twice (64 bits and counting on since 5.5, commit 40430452fd5d), and no group of version 2 can
    be renamed, so what an id means stays true. Ids of version 1 are of each hierarchy's own.
    """

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._by_path: dict[tuple[int, bytes], Cgroup] = {}
        self._by_id: OrderedDict[int, Cgroup] = OrderedDict()

    def __len__(self) -> int:
        """How many are known by their ids."""
        return len(self._by_id)

    def told(self, number: int, components: bytes, flags: int) -> Cgroup:
        """The group of a record: its id of version 2 (0: unknown), and its path from the leaf up with Flag bits."""
        key = flags & _KIND, components
        found = self._by_path.get(key)
        if found is None:
            if len(self._by_path) >= KNOWN_MOST:
                self._by_path.clear()  # what lives is told again
            path = b"/" + b"/".join(components.split(b"\0")[-2::-1])
            found = self._by_path[key] = whose.read(path, 1 if flags & _V1 else 2, whole=not flags & _CUT)
        # On machines with version 1 all are in the root of version 2: its id says nothing of where they are.
        if self._by_id.get(number) is not found and components and number and not flags & _V1:
            self._keep(number, found)
        return found

    def find(self, number: int) -> Cgroup | None:
        """The group of version 2 with this id, if a record has told of it."""
        found = self._by_id.get(number)
        if found is not None:
            self._by_id.move_to_end(number)
        return found

    def _keep(self, number: int, group: Cgroup) -> None:
        known = self._by_id
        if number not in known and len(known) >= KNOWN_MOST:
            known.popitem(last=False)
        known[number] = group
