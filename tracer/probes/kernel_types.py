"""Look up what this kernel has by the names in its own type information (BTF), before anything is loaded."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Final

__all__ = ["BTF", "KernelTypes"]

BTF: Final = Path("/sys/kernel/btf/vmlinux")
"""That of the kernel itself; since 5.11 each loaded module has a file beside it."""


class KernelTypes:
    """The names in the kernel's type information, and in those of modules. Some megabytes: not to be kept."""

    def __init__(self, place: Path) -> None:
        """``place`` is the kernel's own file; one that can't be read has no names."""
        self._place = place
        self._names: bytes | bytearray = _read(place)

    def has(self, name: str) -> bool:
        """Whether the kernel itself has anything by this name."""
        return _within(name, self._names)

    def has_tracepoint(self, name: str) -> bool:
        """Whether typed programs can be attached to this tracepoint."""
        return self.has(f"btf_trace_{name}")

    def has_function(self, name: str, *modules: str) -> bool:
        """Whether a function of this name may be in the kernel, or in one of these modules if it is loaded."""
        return self.has(name) or any(_within(name, _read(self._place.with_name(module))) for module in modules)


def _within(name: str, names: bytes | bytearray) -> bool:
    return b"\0%b\0" % name.encode() in names


def _read(path: Path) -> bytearray:
    """A whole file of sysfs, which gives a page at a time: by the C library, that lets other threads run meanwhile."""
    try:
        content = bytearray(path.stat().st_size)
    except OSError:
        return bytearray()
    file = _libc.fopen(bytes(path), b"rb")
    if not file:
        return bytearray()
    try:
        whole = _libc.fread((ctypes.c_char * len(content)).from_buffer(content), 1, len(content), file)
    finally:
        _libc.fclose(file)
    del content[whole:]
    return content


_libc = ctypes.CDLL(None)
_libc.fopen.argtypes = (ctypes.c_char_p, ctypes.c_char_p)
_libc.fopen.restype = ctypes.c_void_p
_libc.fread.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_void_p)
_libc.fread.restype = ctypes.c_size_t
_libc.fclose.argtypes = (ctypes.c_void_p,)
