"""Open the root of the cgroup v2 hierarchy, mounted or not: programs that are attached there see all sockets.

Programs are attached to it by links, which are always of the kind that stands beside others (BPF_F_ALLOW_MULTI), so
nobody's program is replaced, nor keeps anybody from adding one below.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Final, NamedTuple

from tracer.probes.libbpf_binding import BpfError
from tracer.probes.tracefs import open_detached

__all__ = ["Cgroup", "open_root"]

_MOUNTS: Final = Path("/proc/self/mountinfo")
_ROOT_INODE: Final = 1  # the first number that kernfs gives out (since 5.5, commit 40430452fd5d, the cgroup's id)
_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC  # all that attaching takes
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")  # how the mount table writes a blank in a path
_HERE: Final = "."


class Cgroup(NamedTuple):
    """A cgroup to attach programs to.

    ``fd`` is for the caller to close; ``whole`` tells whether all processes are below it, which in a cgroup namespace
    they are not.
    """

    fd: int
    whole: bool


def open_root(mounts: Path = _MOUNTS) -> Cgroup:
    """Open the root of the cgroup v2 hierarchy, or the highest cgroup that this process can reach. Raises BpfError.

    In one of the mounts that ``mounts`` (as /proc/PID/mountinfo) tells of, or in one of our own that is attached
    nowhere, which takes CAP_SYS_ADMIN, and goes away with the descriptor.
    """
    part: int | None = None
    for place in [*_places(mounts), None]:
        fd = open_detached("cgroup2", _HERE, _DIRECTORY) if place is None else _open(place)
        if fd is None:
            continue
        if os.fstat(fd).st_ino == _ROOT_INODE:
            if part is not None:
                os.close(part)
            return Cgroup(fd, True)
        if part is None:
            part = fd
        else:
            os.close(fd)
    if part is not None:
        return Cgroup(part, False)
    fix = "mount it (mount -t cgroup2 none /sys/fs/cgroup), or run as root"
    raise BpfError(f"no cgroup v2 hierarchy to attach to; {fix}", errno.ENOENT)


def _places(mounts: Path) -> list[str]:
    """Where cgroup v2 is mounted, oldest first."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        fields, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            found.append(_ESCAPE.sub(lambda octal: chr(int(octal[1], 8)), fields.split(" ")[4]))
    return found


def _open(place: str) -> int | None:
    try:
        return os.open(place, _DIRECTORY)
    except OSError:
        return None
