"""Keep freed memory for who asks next, while large pieces come and go; all of it is given back in the end.

libbpf reads the kernel's types, some megabytes, for each object and frees them again. The C library has the kernel map
each such piece anew: to fill those pages with zeros takes three quarters of the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

__all__ = ["kept", "share"]

# mallopt(3): the parameters' numbers are those of glibc's malloc.h, as is the default of both.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_DEFAULT: Final = 128 << 10
_MMAP_MOST: Final = 32 << 20  # half of HEAP_MAX_SIZE, above which glibc refuses it
_TRIM_MOST: Final = 1 << 30

_libc = ctypes.CDLL(None)


def share() -> None:
    """Have all threads take memory from one heap, before there is a second thread.

    From those that threads have of their own glibc gives little back, and they are never of use to another thread.
    """
    with suppress(AttributeError):
        _libc.mallopt(_M_ARENA_MAX, 1)


@contextmanager
def kept() -> Iterator[None]:
    """Keep what is freed meanwhile; where the C library can't be told so (musl), nothing is done."""
    try:
        mallopt, trim = _libc.mallopt, _libc.malloc_trim
    except AttributeError:
        yield
        return
    mallopt(_M_MMAP_THRESHOLD, _MMAP_MOST)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_MOST)
    try:
        yield
    finally:
        mallopt(_M_MMAP_THRESHOLD, _DEFAULT)
        mallopt(_M_TRIM_THRESHOLD, _DEFAULT)
        trim(0)
