"""Count what each network device carries, by the owners of the packets' sockets, or by what else they are."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tracer.probes import cgroup, libbpf
from tracer.probes.libbpf_binding import BpfError

__all__ = ["DEVICE", "PROGRAMS", "SORTS", "Carried", "Wire"]

SORTS: Final = ("owned", "socket", "arp", "nd", "icmp", "rst", "forwarded", "fragment", "other")
"""enum wire_kind of bpf/tracer.h, by number."""

DEVICE: Final = struct.Struct(f"=II{len(SORTS)}Q{len(SORTS)}QQQII")
"""struct device_bytes."""

_TYPED: Final = ("packet_goes", "packet_stays", "packet_comes")
_TAKEN: Final = "packet_taken"
PROGRAMS: Final = (*_TYPED, _TAKEN)


class Carried(NamedTuple):
    """What a device has carried one way: bytes with the headers of the link, by SORTS.

    ``headers`` come on top where the device cuts packets, or has put them together, itself: whether it counts them is
    the driver's to decide.
    """

    sorts: tuple[int, ...]
    headers: int

    def plus(self, other: Carried) -> Carried:
        """The sum."""
        both = zip(self.sorts, other.sorts, strict=True)
        return Carried(tuple(one + more for one, more in both), self.headers + other.headers)

    def since(self, before: Carried) -> Carried:
        """The difference to an earlier count."""
        both = zip(self.sorts, before.sorts, strict=True)
        return Carried(tuple(now - then for now, then in both), self.headers - before.headers)


class Wire:
    """The programs of bpf/wire.bpf.c, attached, and their counters; close() detaches."""

    def __init__(self, path: Path, share: Mapping[str, int], knobs: Mapping[str, bytes]) -> None:
        """Takes the object's file, and the maps and knobs that the other probes have. Raises BpfError.

        Where only the program at the cgroup can't be attached, ``refused`` says why: whose packets come is not known
        then, and all of them are of another sort.
        """
        self._object, _ = libbpf.load(path, knobs=knobs, optional=(), share=share)
        self.links: dict[str, libbpf.Link] = {}
        self.refused = ""
        try:
            for program in _TYPED:
                self.links[program] = self._object.attach(program)
            self._attach_to_cgroup()
            self._devices = self._object.map("devices").mmap()
        except BaseException:
            self._object.close()
            raise
        self._places = self._object.map("devices").max_entries

    def _attach_to_cgroup(self) -> None:
        try:
            root = cgroup.open_root()
        except BpfError as refused:
            self.refused = str(refused)
            return
        try:
            self.links[_TAKEN] = self._object.attach_cgroup(_TAKEN, root.fd)
        except BpfError as refused:
            self.refused = str(refused)
        finally:
            os.close(root.fd)

    def close(self) -> None:
        """Detach, and give the counters back; idempotent."""
        self._object.close()
        if not self._devices.closed:
            self._devices.close()

    def sections(self) -> dict[str, str]:
        """Where each attached program sits."""
        return {program: section for program, section in self._object.sections().items() if program in self.links}

    def read(self) -> dict[tuple[int, int], tuple[Carried, Carried]]:
        """What has been carried so far out of and into each device, by (inode of its network namespace, its index).

        (0, 0) are all devices that there was no room for.
        """
        found: dict[tuple[int, int], tuple[Carried, Carried]] = {}
        sorts = len(SORTS)
        for netns, index, *rest in DEVICE.iter_unpack(self._devices[: self._places * DEVICE.size]):
            if not any(rest[: 2 * sorts]):
                continue
            ways = Carried(tuple(rest[:sorts]), rest[-4]), Carried(tuple(rest[sorts : 2 * sorts]), rest[-3])
            before = found.get((netns, index))
            found[netns, index] = ways if before is None else (before[0].plus(ways[0]), before[1].plus(ways[1]))
        return found
