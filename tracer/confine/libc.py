"""Call the C library and the kernel where Python has no function for it; failures are OSError."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from typing import Any, Final

__all__ = ["call", "number", "syscall"]

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.ptrace.restype = ctypes.c_long

# By machine, from the kernel's tables; the same number on both from 424 on.
_NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {"bpf": 321, "keyctl": 250, "perf_event_open": 298, "add_key": 248, "init_module": 175, "execveat": 322},
    "aarch64": {"bpf": 280, "keyctl": 219, "perf_event_open": 241, "add_key": 217, "init_module": 105, "execveat": 281},
}
_EVERYWHERE: Final = {
    "pidfd_send_signal": 424,
    "io_uring_setup": 425,
    "pidfd_open": 434,
    "clone3": 435,
    "openat2": 437,
    "pidfd_getfd": 438,
}


def number(name: str) -> int:
    """The number of a system call on this machine. Raises OSError (ENOSYS) where it is not known."""
    found = _EVERYWHERE.get(name, _NUMBERS.get(platform.machine(), {}).get(name))
    if found is None:
        raise OSError(errno.ENOSYS, f"the number of {name} on {platform.machine()} is not known")
    return found


def call(name: str, *arguments: Any) -> int:
    """Call a function of the C library that answers -1 on failure. Integers are passed as long. Raises OSError."""
    return _checked(getattr(_libc, name), arguments)


def syscall(name: str, *arguments: Any) -> int:
    """Make a system call by its name in this module. Integers are passed as long. Raises OSError."""
    return _checked(_libc.syscall, (number(name), *arguments))


def _checked(function: Any, arguments: tuple[Any, ...]) -> int:
    ctypes.set_errno(0)
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = function(*words)
    found = ctypes.get_errno()
    ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
    if result is None or result in (-1, ctypes.c_void_p(-1).value):
        raise OSError(found, os.strerror(found))
    return int(result)
