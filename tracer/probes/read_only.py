"""Let go of pages of programs and libraries that only the start needed: who reads them again gets them again.

What a library does once, when it is loaded, takes more of its code and tables than what it is used for then: some
six megabytes of a tracer that reads names. These pages are the page cache's, and are only no longer this process's.
"""

from __future__ import annotations

import ctypes
from contextlib import suppress
from mmap import PAGESIZE
from typing import Final

__all__ = ["ReadOnly"]

# elf(5), <link.h>
_PT_LOAD: Final = 1
_PT_DYNAMIC: Final = 2
_PF_W: Final = 2
_DT_NULL: Final = 0
_DT_TEXTREL: Final = 22
_DT_FLAGS: Final = 30
_DF_TEXTREL: Final = 4
_MADV_DONTNEED: Final = 4  # include/uapi/asm-generic/mman-common.h

_libc = ctypes.CDLL(None)


class _Segment(ctypes.Structure):
    """Elf64_Phdr."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("offset", ctypes.c_uint64),
        ("address", ctypes.c_uint64),
        ("physical", ctypes.c_uint64),
        ("in_file", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("align", ctypes.c_uint64),
    )


class _Dynamic(ctypes.Structure):
    """Elf64_Dyn."""

    _fields_ = (("tag", ctypes.c_int64), ("value", ctypes.c_uint64))


class _Library(ctypes.Structure):
    """The beginning of struct dl_phdr_info."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("segments", ctypes.POINTER(_Segment)),
        ("count", ctypes.c_uint16),
    )


_EACH: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Library), ctypes.c_size_t, ctypes.c_void_p)


def _is_changed(dynamic: int) -> bool:
    """Whether what is read-only was written once, when it was loaded: relocations of text, which hardly anybody has."""
    number = 0
    while (entry := _Dynamic.from_address(dynamic + number * ctypes.sizeof(_Dynamic))).tag != _DT_NULL:
        if entry.tag == _DT_TEXTREL or (entry.tag == _DT_FLAGS and entry.value & _DF_TEXTREL):
            return True
        number += 1
    return False


class ReadOnly:
    """Where what can't be written lies of all that is loaded by now."""

    def __init__(self) -> None:
        """Look; where that can't be done there is nothing to let go of."""
        self._spans: list[tuple[int, int]] = []
        if ctypes.sizeof(ctypes.c_void_p) != 8:
            return
        with suppress(AttributeError, MemoryError):  # no dl_iterate_phdr; no memory that can be executed, to be called
            _libc.dl_iterate_phdr(_EACH(self._look), None)

    def _look(self, found: ctypes._Pointer[_Library], _size: int, _data: object) -> int:
        library = found.contents
        segments = [library.segments[number] for number in range(library.count)]
        if not any(segment.type == _PT_DYNAMIC and _is_changed(library.base + segment.address) for segment in segments):
            for segment in segments:
                if segment.type == _PT_LOAD and not segment.flags & _PF_W:
                    begin = (library.base + segment.address) // PAGESIZE * PAGESIZE
                    self._spans.append((begin, library.base + segment.address + segment.size - begin))
        return 0

    def let_go(self) -> None:
        """Do it. Nothing of that was ever written, so nothing is lost."""
        for begin, size in self._spans:
            _libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), _MADV_DONTNEED)
