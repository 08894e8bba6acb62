"""Read of /proc what the fallback backends need, and nothing else: a closed set of questions, by pid and name.

Who asks knows no paths, so that the same questions can be answered by another process (AskedFiles in worker.py) when
this one may not read /proc any more. Every refusal is an OSError with its errno: ENOENT or ESRCH when the process is
gone, EACCES or EPERM when it may not be looked at. These are never mixed up.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from tracer.probes import tracefs

__all__ = [
    "CGROUP",
    "CGROUP_PART",
    "EACH_MOST",
    "EXE_FILE",
    "EXE_PART",
    "FILES",
    "GLANCES",
    "LINKS",
    "READ_MOST",
    "SELF",
    "DirectFiles",
    "ExeFile",
    "Group",
    "Part",
    "ProcFiles",
    "glanced",
    "gone",
]

SELF: Final = 0
"""The pid that stands for whoever really reads, which may see itself where /proc hides it from others."""

FILES: Final = (
    "stat",
    "status",
    "cmdline",
    "cgroup",
    "loginuid",
    "sessionid",
    "net/tcp",
    "net/tcp6",
    "timens_offsets",
    "comm",
    "io",
    "limits",
    "net/sockstat",
    "net/sockstat6",
    "net/snmp",
)
"""What read() takes. The order is part of the protocol between worker and broker: add at the end."""

LINKS: Final = ("exe", "cwd", "root", "ns/net", "ns/pid", "ns/mnt", "ns/user")
"""What link() takes, in the protocol's order."""

EXE_FILE: Final = "exe file"  # of a glance: an ExeFile
EXE_PART: Final = struct.Struct("<QQQ")
CGROUP: Final = "control group"  # of a glance: a Group, its path at the end
CGROUP_PART: Final = struct.Struct("<QB")

GLANCES: Final = (
    ("stat", "ns/net", "ns/pid"),
    (
        "stat",
        "exe",
        EXE_FILE,
        "cmdline",
        "cwd",
        "ns/net",
        "ns/pid",
        "status",
        CGROUP,
        "stat",
        "loginuid",
        "sessionid",
    ),
)
"""What glance() takes, by number: who a new process is, and what one runs; what goes first is read first."""

READ_MOST: Final = 8 << 20
"""Bytes of one file at most: 50,000 lines of /proc/PID/net/tcp."""

EACH_MOST: Final = 4 << 10
"""Bytes of one file at most, of those that read_each() reads."""

GLANCE_MOST: Final = 12 << 10
"""Bytes of one file at most, of those that glance() reads."""

_CHUNK: Final = 64 << 10
_PART_LEAST: Final = 3 << 10  # bytes: no line of these files is as long as what is left of a page then
_CLONE_NEWNET: Final = 0x40000000  # include/uapi/linux/sched.h
_NETLINK_SOCK_DIAG: Final = 4  # include/uapi/linux/netlink.h
_SO_RCVBUFFORCE: Final = 33  # include/uapi/asm-generic/socket.h
_DIAG_BYTES: Final = 4 << 20  # for what waits, as the kernel counts: 1,300 for each socket that was destroyed
_CGROUP_MOUNTS: Final = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")
_CGROUP_V1: Final = (b"pids", b"memory", b"cpu", b"devices")  # as cgroup_of() in bpf/process.bpf.c goes through them
_REMOVED: Final = b" (deleted)"
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC
_PLACE: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class ExeFile(NamedTuple):
    """The file that a process runs: ``dev`` as stat(2) has it; ``links`` is 0 when it was deleted."""

    dev: int
    inode: int
    links: int


class Group(NamedTuple):
    """The control group of a process.

    ``id`` is that of version 2 (the directory's inode), 0 where it can't be told. ``path`` is that of version 2, but on
    a machine where this is the root the one of version 1 which tells more, then ``version`` is 1; empty: there is none.
    """

    id: int
    version: int
    path: bytes


class Part(NamedTuple):
    """One thing of a glance: the errno of its refusal (0: none), and what was read."""

    errno: int
    data: bytes


class ProcFiles(Protocol):
    """What can be asked about processes. ``start`` is field 22 of /proc/PID/stat (ticks since boot).

    With a ``start`` other than 0 only the process that began then is meant: when the pid is another's by now, that is
    ESRCH. All methods raise OSError as the module says, and ValueError for a name that is none of FILES or LINKS.
    """

    def pids(self) -> list[int]:
        """The processes that there are."""
        ...

    def read(self, pid: int, name: str, most: int = READ_MOST, *, start: int = 0) -> bytes:
        """The first ``most`` bytes of /proc/PID/NAME."""
        ...

    def read_each(self, pids: Iterable[int], name: str, most: int = EACH_MOST) -> dict[int, bytes | None]:
        """The first ``most`` bytes of that file of each process; None where it is refused. Who is gone is left out."""
        ...

    def link(self, pid: int, name: str, *, start: int = 0) -> bytes:
        """Where the link /proc/PID/NAME leads."""
        ...

    def fds(self, pid: int, *, start: int = 0) -> dict[int, bytes]:
        """The open descriptors of a process, and where each leads, such as ``socket:[4711]``."""
        ...

    def exe(self, pid: int, *, start: int = 0) -> ExeFile:
        """The file that a process runs."""
        ...

    def cgroup(self, pid: int, *, start: int = 0) -> Group:
        """The control group that it is in."""
        ...

    def glance(self, pid: int, number: int) -> list[Part]:
        """What GLANCES has by this number, of one process, in that order: for who may be gone a moment later."""
        ...

    def open_diag(self, pid: int | None = None) -> int:
        """A new socket of NETLINK_SOCK_DIAG in the network namespace of a process (None: the reader's own).

        The descriptor is the caller's to close.
        """
        ...


def glanced(files: ProcFiles, pid: int, number: int) -> list[Part]:
    """A glance, one question after the other."""
    return [_part(files, pid, name) for name in GLANCES[number]]


def _part(files: ProcFiles, pid: int, name: str) -> Part:
    try:
        if name in LINKS:
            return Part(0, files.link(pid, name))
        if name == EXE_FILE:
            return Part(0, EXE_PART.pack(*files.exe(pid)))
        if name == CGROUP:
            group = files.cgroup(pid)
            return Part(0, CGROUP_PART.pack(group.id, group.version) + group.path)
        return Part(0, files.read(pid, name, GLANCE_MOST))
    except OSError as refused:
        return Part(refused.errno or errno.EIO, b"")


def gone(error: OSError) -> bool:
    """Whether an error says that the process, or what it had, is not there any more."""
    return error.errno in (errno.ENOENT, errno.ESRCH)


class DirectFiles:
    """ProcFiles of this very process."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        """``proc`` is where procfs is mounted."""
        self._proc = str(proc)
        self._cgroups: int | None = None  # the root of cgroup v2; -1: there is none to be had

    def close(self) -> None:
        """Let go of what is kept open; idempotent."""
        if self._cgroups is not None and self._cgroups >= 0:
            os.close(self._cgroups)
        self._cgroups = None

    def __del__(self) -> None:
        self.close()

    def pids(self) -> list[int]:
        """See ProcFiles."""
        with os.scandir(self._proc) as entries:
            return [int(entry.name) for entry in entries if entry.name.isdecimal()]

    def read(self, pid: int, name: str, most: int = READ_MOST, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        _check(name, FILES)
        with self._place(pid, start) as (base, at):
            fd = os.open(base + name, _OPEN, dir_fd=at)
        try:
            return _read_all(fd, min(most, READ_MOST))
        finally:
            os.close(fd)

    def read_each(self, pids: Iterable[int], name: str, most: int = EACH_MOST) -> dict[int, bytes | None]:
        """See ProcFiles."""
        _check(name, FILES)
        found: dict[int, bytes | None] = {}
        for pid in pids:
            try:
                found[pid] = self.read(pid, name, min(most, EACH_MOST))
            except OSError as error:
                if not gone(error):
                    found[pid] = None
        return found

    def link(self, pid: int, name: str, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        _check(name, LINKS)
        with self._place(pid, start) as (base, at):
            return os.fsencode(os.readlink(base + name, dir_fd=at))

    def fds(self, pid: int, *, start: int = 0) -> dict[int, bytes]:
        """See ProcFiles."""
        found = {}
        with self._place(pid, start) as (base, at):
            directory = os.open(base + "fd", _OPEN | os.O_DIRECTORY, dir_fd=at)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    with suppress(FileNotFoundError):  # closed meanwhile
                        found[int(entry.name)] = os.fsencode(os.readlink(entry.name, dir_fd=directory))
        finally:
            os.close(directory)
        return found

    def exe(self, pid: int, *, start: int = 0) -> ExeFile:
        """See ProcFiles."""
        with self._place(pid, start) as (base, at):
            found = os.stat(base + "exe", dir_fd=at)
        return ExeFile(found.st_dev, found.st_ino, found.st_nlink)

    def cgroup(self, pid: int, *, start: int = 0) -> Group:
        """See ProcFiles."""
        first: dict[bytes, bytes] = {}  # of version 1, by controller
        path = b""
        for line in self.read(pid, "cgroup", start=start).split(b"\n"):
            number, _, rest = line.partition(b":")
            controllers, _, place = rest.partition(b":")
            if number == b"0":
                path = place.removesuffix(_REMOVED)
            else:
                first |= dict.fromkeys(controllers.split(b","), place)
        group = self._cgroup_id(path[1:]) if path else 0
        if path in (b"", b"/"):
            told = [place for name in _CGROUP_V1 if (place := first.get(name, b"/")) != b"/"]
            if told:
                return Group(group, 1, told[0])
        return Group(group, 2, path)

    def _cgroup_id(self, path: bytes) -> int:
        """The inode of a group's directory, anew each time: a group of the same name may be another one."""
        if self._cgroups is None:
            self._cgroups = _open_cgroups()
        if self._cgroups < 0:
            return 0
        try:
            return os.stat(path or b".", dir_fd=self._cgroups).st_ino
        except OSError:
            return 0

    def glance(self, pid: int, number: int) -> list[Part]:
        """See ProcFiles."""
        return glanced(self, pid, number)

    def open_diag(self, pid: int | None = None) -> int:
        """See ProcFiles."""
        if pid is None:
            return _diag_socket()
        there = os.open(f"{self._proc}/{pid}/ns/net", _OPEN)
        try:
            wanted, own = os.fstat(there), Path(f"{self._proc}/self/ns/net").stat()
            # There already: then it takes no privilege.
            same = (wanted.st_dev, wanted.st_ino) == (own.st_dev, own.st_ino)
            return _diag_socket() if same else _diag_socket_in(there)
        finally:
            os.close(there)

    @contextmanager
    def _place(self, pid: int, start: int) -> Iterator[tuple[str, int | None]]:
        """What to put before a name, and the directory that is relative to."""
        if not start:
            yield f"{self._proc}/{pid or 'self'}/", None
            return
        directory = os.open(f"{self._proc}/{pid}", _PLACE)  # it stays that process's, whoever has the pid later
        try:
            fd = os.open("stat", _OPEN, dir_fd=directory)
            try:
                stat = os.read(fd, EACH_MOST)
            finally:
                os.close(fd)
            if int(stat.rpartition(b")")[2].split()[19]) != start:
                raise ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))
            yield "", directory
        finally:
            os.close(directory)


def _check(name: str, names: tuple[str, ...]) -> None:
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(names)}")


def _read_all(fd: int, most: int) -> bytes:
    # Files of /proc have no size. A read gives what fits a page (seq_read_iter() in fs/seq_file.c), so one that is far
    # from that has come to the end; asked again, net/tcp would look through a table of some 100,000 entries for it.
    parts = []
    while most > 0 and (part := os.read(fd, min(most, _CHUNK))):
        parts.append(part)
        most -= len(part)
        if len(part) < _PART_LEAST:
            break
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _open_cgroups() -> int:
    """The root of cgroup v2, also where it is mounted nowhere; -1 when it can't be had."""
    fd = tracefs.open_detached("cgroup2", ".", _OPEN | os.O_DIRECTORY)
    if fd is not None:
        return fd
    for place in _CGROUP_MOUNTS:
        # The file is in directories of version 2 alone, but in the root of a machine with version 1 beside it too.
        with suppress(OSError):
            Path(f"{place}/cgroup.controllers").stat()
            return os.open(place, _OPEN | os.O_DIRECTORY)
    return -1


def _enter(namespace: int) -> None:
    """Take this thread into a network namespace. Raises OSError."""
    if _libc.setns(namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
        raise OSError(number, os.strerror(number))


def _diag_socket() -> int:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG)
    with suppress(PermissionError):  # else there is as much room as net.core.rmem_default gives
        made.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _DIAG_BYTES // 2)  # the kernel doubles it
    made.bind((0, 0))  # a notification is not given to who has no address
    return made.detach()


def _diag_socket_in(namespace: int) -> int:
    """A socket of another network namespace, made by a thread that goes there and never comes back."""
    made: list[int | OSError] = []

    def make() -> None:
        try:
            _enter(namespace)
            made.append(_diag_socket())
        except OSError as refused:
            made.append(refused)

    thread = threading.Thread(target=make, name="namespace")
    thread.start()
    thread.join()
    if isinstance(made[0], OSError):
        raise made[0]
    return made[0]
