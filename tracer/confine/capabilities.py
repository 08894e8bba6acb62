"""Read and drop capabilities: the bounding, ambient, inheritable, permitted and effective sets of this thread."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterable
from typing import Final, NamedTuple

from tracer.confine.libc import call
from tracer.probes.privileges import CAPABILITY_NAMES, name_of_capability

__all__ = ["Sets", "drop", "read"]

# include/uapi/linux/prctl.h and capability.h
_PR_CAPBSET_READ: Final = 23
_PR_CAPBSET_DROP: Final = 24
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_IS_SET: Final = 1
_PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
_VERSION_3: Final = 0x20080522
_MOST: Final = 64


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


class Sets(NamedTuple):
    """The capabilities of this thread, by name."""

    effective: frozenset[str]
    permitted: frozenset[str]
    inheritable: frozenset[str]
    bounding: frozenset[str]
    ambient: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Those in any of the sets."""
        return self.effective | self.permitted | self.inheritable | self.bounding | self.ambient


def read() -> Sets:
    """The sets of the calling thread; needs no file. Raises OSError."""
    data = (_Data * 2)()
    call("capget", ctypes.byref(_Header(_VERSION_3, 0)), data)

    def named(field: str) -> frozenset[str]:
        bits = getattr(data[0], field) | getattr(data[1], field) << 32
        return frozenset(name_of_capability(each) for each in range(_MOST) if bits >> each & 1)

    bounding = frozenset(name_of_capability(each) for each in _known() if call("prctl", _PR_CAPBSET_READ, each))
    ambient = frozenset(
        name_of_capability(each)
        for each in _known()
        if call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_IS_SET, each, 0, 0)
    )
    return Sets(named("effective"), named("permitted"), named("inheritable"), bounding, ambient)


def drop_bounding(keep: Iterable[str] = ()) -> bool:
    """Empty the bounding set but for ``keep``; False when that takes CAP_SETPCAP, which is not there."""
    kept = set(keep)
    for each in _known():
        if name_of_capability(each) in kept or not call("prctl", _PR_CAPBSET_READ, each):
            continue
        try:
            call("prctl", _PR_CAPBSET_DROP, each, 0, 0, 0)
        except PermissionError:
            return False
    return True


def drop(keep: Iterable[str] = ()) -> None:
    """Leave ``keep`` in the effective and permitted sets and nothing in the ambient and inheritable. Raises OSError."""
    call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    bits = sum(1 << CAPABILITY_NAMES.index(name) for name in set(keep))
    data = (_Data * 2)(*(_Data(part, part, 0) for part in (bits & 0xFFFFFFFF, bits >> 32)))
    call("capset", ctypes.byref(_Header(_VERSION_3, 0)), data)


@functools.cache
def _known() -> range:
    """The numbers of the capabilities that this kernel has: the first that it doesn't know ends them."""
    for each in range(_MOST):
        try:
            call("prctl", _PR_CAPBSET_READ, each)
        except OSError:
            return range(each)
    return range(_MOST)
