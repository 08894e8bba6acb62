"""Find the ids of classic tracepoints in tracefs, mounted or not, without mounting anything that others could see.

The numbers of the system calls (Linux 5.2, the same on every machine but alpha) are those of the kernel's syscall
tables, the constants those of include/uapi/linux/mount.h.
"""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path
from typing import Final

MOUNT_POINTS: Final = (Path("/sys/kernel/tracing"), Path("/sys/kernel/debug/tracing"))
"""Where tracefs usually is; the second came first, and is all that kernels before 4.1 have."""

_FSOPEN: Final = 430
_FSCONFIG: Final = 431
_FSMOUNT: Final = 432
_CLOEXEC: Final = 1  # FSOPEN_CLOEXEC and FSMOUNT_CLOEXEC
_FSCONFIG_CMD_CREATE: Final = 6
_READ_ONLY: Final = 0x1 | 0x2 | 0x4 | 0x8  # MOUNT_ATTR_RDONLY, NOSUID, NODEV, NOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def open_events() -> int | None:
    """A descriptor of tracefs' directory ``events``, which the caller closes; None when this process may have none.

    That of a mount in the usual place, or of an instance of our own that is attached nowhere and goes away with the
    descriptor. The first takes root or CAP_DAC_READ_SEARCH, the second CAP_SYS_ADMIN on top of that.
    """
    for place in MOUNT_POINTS:
        try:
            return os.open(place / "events", _DIRECTORY)
        except OSError:
            continue
    return open_detached("tracefs", "events", _DIRECTORY)


def tracepoint_id(events_fd: int, category: str, name: str) -> int | None:
    """The number by which perf_event_open(2) knows a tracepoint; None when there is none of that name, or no access."""
    try:
        fd = os.open(f"{category}/{name}/id", os.O_RDONLY | os.O_CLOEXEC, dir_fd=events_fd)
    except OSError:
        return None
    try:
        return int(os.read(fd, 32))
    except (OSError, ValueError):
        return None
    finally:
        os.close(fd)


def field_offset(events_fd: int, category: str, name: str, field: str) -> int | None:
    """Where a field lies in what a tracepoint hands to its programs, in bytes; None when that can't be read."""
    try:
        fd = os.open(f"{category}/{name}/format", os.O_RDONLY | os.O_CLOEXEC, dir_fd=events_fd)
    except OSError:
        return None
    try:
        found = re.search(rf"field:[^;]*\b{field};\s*offset:(\d+);", os.read(fd, 1 << 16).decode(errors="replace"))
    except OSError:
        return None
    finally:
        os.close(fd)
    return int(found[1]) if found else None


def open_detached(filesystem: str, path: str, flags: int = os.O_RDONLY | os.O_CLOEXEC) -> int | None:
    """Open ``path`` in a mount of a kernel file system that is attached nowhere and read-only; None when refused.

    The caller closes the descriptor, and with it the mount. Takes Linux 5.2 and CAP_SYS_ADMIN.
    """
    try:
        context = _call(_FSOPEN, filesystem.encode(), _CLOEXEC)
    except OSError:
        return None
    try:
        _call(_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        mount = _call(_FSMOUNT, context, _CLOEXEC, _READ_ONLY)
    except OSError:
        return None
    finally:
        os.close(context)
    try:
        # What is open keeps the mount alive when its own descriptor is gone.
        return os.open(path, flags, dir_fd=mount)
    except OSError:
        return None
    finally:
        os.close(mount)


def _call(number: int, *arguments: int | bytes | None) -> int:
    converted = (ctypes.c_long(value) if isinstance(value, int) else ctypes.c_char_p(value) for value in arguments)
    result: int = _libc.syscall(ctypes.c_long(number), *converted)
    if result < 0:
        failure = ctypes.get_errno()
        ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
        raise OSError(failure, os.strerror(failure))
    return result
