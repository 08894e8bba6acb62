"""Tell of the processes that run now what the probes would tell, from /proc: the same records, to the clock tick.

Pids are those of the pid namespace that /proc belongs to. Gone is only what has no /proc/PID/stat any more: a file that
may not be read leaves its fields unknown and the process there.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Final, NamedTuple

from tracer.model import NS_PER_TICK, UNSET_ID, Flag, Kind
from tracer.probes import tracefs
from tracer.probes.bcc import Holder
from tracer.probes.cmdlines import ARGS_BYTES
from tracer.probes.records import EXEC, SIZE

__all__ = ["ProcFinder"]

_PROC: Final = Path("/proc")

_COMM_BYTES: Final = 15
# Bits of a task's flags in include/linux/sched.h.
_KTHREAD: Final = 0x00200000
_WQ_WORKER: Final = 0x00000020
_DELETED: Final = b" (deleted)"
_MEMFD: Final = b"/memfd:"
# /proc adds what a worker is doing to its name (wq_worker_comm() in kernel/workqueue.c).
_WORKER: Final = re.compile(rb"kworker/[^R][^-+]*")


class _Stat(NamedTuple):
    """What is used of /proc/PID/stat; ``start`` is in ticks since boot, as the reader's time namespace has it."""

    comm: bytes
    state: bytes
    parent: int
    group: int
    session: int
    flags: int
    threads: int
    start: int
    args_start: int
    args_end: int


class _Exe(NamedTuple):
    """What a process runs: components of its path from the leaf up, and the file."""

    components: bytes
    dev: int
    inode: int
    flags: int


class ProcFinder:
    """Finds processes and descriptors; what costs to look up is kept between them."""

    def __init__(self, proc: Path = _PROC) -> None:
        """``proc`` is where procfs is mounted."""
        self._proc = proc
        self._ahead = _boottime_offset(proc)
        self._cgroups: dict[bytes, int] = {}

    def _pids(self, without: frozenset[int]) -> list[int]:
        pids = (int(entry.name) for entry in self._proc.iterdir() if entry.name.isdecimal())
        return [pid for pid in pids if pid not in without]

    def processes(self, without: frozenset[int]) -> bytes:
        """The processes that run now but those ``without``, as records (struct exec_record) behind their sizes."""
        records = filter(None, map(self.record, self._pids(without)))
        return b"".join(SIZE.pack(len(record)) + record for record in records)

    def hidden(self) -> int:
        """How many processes there are of which nothing may be read, not even when they began (hidepid of procfs)."""
        return sum(not os.access(self._proc / str(pid) / "stat", os.R_OK) for pid in self._pids(frozenset()))

    def holders(self, without: frozenset[int]) -> Iterator[Holder]:
        """The processes that have sockets, but those ``without``."""
        for pid in self._pids(without):
            place = self._proc / str(pid)
            stat = self._living(place)
            if stat is None:
                continue
            sockets = _sockets(place)
            if sockets:
                _, uid, *_ = _ids(_status(place), b"Uid:")
                cgroup = self._cgroup(place)[0]
                yield Holder(pid, self._start(stat), uid, cgroup, _comm(stat), sockets)

    def record(self, pid: int) -> bytes | None:
        """The record of one process; None when it has ended."""
        place = self._proc / str(pid)
        stat = self._living(place)
        if stat is None:
            return None
        status = _status(place)
        uid, euid, *_ = _ids(status, b"Uid:")
        gid, egid, *_ = _ids(status, b"Gid:")
        parent = self._living(self._proc / str(stat.parent)) if stat.parent else None
        cgroup, cgroup_name = self._cgroup(place)
        kernel = bool(stat.flags & _KTHREAD)
        exe = _Exe(b"", 0, 0, int(Flag.KTHREAD)) if kernel else _exe(place)
        image = exe.inode != 0
        cwd = _components(_link(place / "cwd").removesuffix(_DELETED)) if image else b""
        leaf = cgroup_name + b"\0" if image else b""
        args, args_total, args_flags = (b"", 0, 0) if kernel else _arguments(place, stat)
        if self._start(stat) != self._start(_stat(place) or stat):
            return None  # another one by now, under the same pid
        return EXEC.pack(
            clock_gettime_ns(CLOCK_BOOTTIME),
            0,
            self._start(stat),
            pid,
            pid,
            0,
            Kind.PROCESS_FOUND,
            0,
            exe.flags | args_flags,
            self._start(parent) if parent else 0,
            cgroup,
            stat.parent,
            _ids(status, b"NSpid:")[-1] or pid,
            uid,
            gid,
            euid,
            egid,
            _number(place / "loginuid", UNSET_ID),
            _number(place / "sessionid", UNSET_ID),
            stat.session,
            stat.group,
            _namespace(place / "ns/net"),
            _namespace(place / "ns/pid"),
            _comm(stat),
            exe.inode,
            args_total,
            exe.dev,
            0,
            len(exe.components),
            len(cwd),
            0,
            0,
            len(leaf),
            len(args),
            0,
        ) + b"".join((exe.components, cwd, leaf, args))

    def _living(self, place: Path) -> _Stat | None:
        try:
            stat = _stat(place)
        except PermissionError:
            return None  # one of hidden()
        # A leader that has ended stays a zombie while other threads run on.
        return None if stat is None or (stat.state in (b"Z", b"X") and stat.threads <= 1) else stat

    def _start(self, stat: _Stat) -> int:
        return stat.start * NS_PER_TICK - self._ahead

    def _cgroup(self, place: Path) -> tuple[int, bytes]:
        """The id (the directory's inode) and the name of a process's group of cgroup v2; 0 where that can't be seen."""
        for line in _read(place / "cgroup").splitlines():
            if line.startswith(b"0::/"):
                path = line[4:]
                return self._cgroup_id(path), path.rpartition(b"/")[2]
        return 0, b""

    def _cgroup_id(self, path: bytes) -> int:
        if path not in self._cgroups:
            fd = tracefs.open_detached("cgroup2", os.fsdecode(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if fd is None:
                return 0
            self._cgroups[path] = os.fstat(fd).st_ino
            os.close(fd)
        return self._cgroups[path]


def _read(path: Path) -> bytes:
    """A small file, empty when it can't be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _link(path: Path) -> bytes:
    """Where a link leads, empty when it can't be read."""
    try:
        return os.fsencode(path.readlink())
    except OSError:
        return b""


def _sockets(place: Path) -> list[int]:
    """The descriptors of a process that are sockets."""
    try:
        return [int(entry.name) for entry in (place / "fd").iterdir() if _link(entry).startswith(b"socket:")]
    except OSError:
        return []


def _stat(place: Path) -> _Stat | None:
    """None when the process is gone; any other failure to read is raised as OSError."""
    try:
        text = (place / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    head, _, tail = text.rpartition(b")")
    fields = tail.split()  # from the state on, which proc(5) counts as the third
    numbers = [int(fields[at]) for at in (1, 2, 3, 6, 17, 19, 45, 46)]
    return _Stat(head.partition(b"(")[2], fields[0], *numbers)


def _status(place: Path) -> dict[bytes, list[bytes]]:
    lines = (line.split() for line in _read(place / "status").splitlines())
    return {words[0]: words[1:] for words in lines if words}


def _ids(status: dict[bytes, list[bytes]], name: bytes) -> list[int]:
    return [int(word) for word in status.get(name, ())] or [0, 0]


def _number(path: Path, otherwise: int) -> int:
    text = _read(path)
    return int(text) if text.strip().isdigit() else otherwise


def _namespace(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _comm(stat: _Stat) -> bytes:
    worker = _WORKER.match(stat.comm) if stat.flags & _WQ_WORKER else None
    return (worker[0] if worker else stat.comm)[:_COMM_BYTES]


def _components(path: bytes) -> bytes:
    """A path as the probes write it: its components from the leaf up, each with a NUL."""
    return b"".join(part + b"\0" for part in reversed(path.split(b"/")) if part)


def _exe(place: Path) -> _Exe:
    path = _link(place / "exe")
    try:
        found = (place / "exe").stat()
    except OSError:
        return _Exe(_components(path), 0, 0, 0)
    flags = 0
    if not found.st_nlink:
        flags |= Flag.DELETED
        path = path.removesuffix(_DELETED)
    # The kernel's own encoding of a device number.
    dev = os.major(found.st_dev) << 20 | os.minor(found.st_dev)
    if path.startswith(_MEMFD) and not found.st_nlink:
        return _Exe(path[1:] + b"\0", dev, found.st_ino, flags | Flag.DETACHED)
    return _Exe(_components(path), dev, found.st_ino, flags)


def _arguments(place: Path, stat: _Stat) -> tuple[bytes, int, int]:
    """The arguments, their bytes before truncation, and flags."""
    total = stat.args_end - stat.args_start
    try:
        with (place / "cmdline").open("rb") as file:
            args = file.read(ARGS_BYTES)
    except OSError:
        return b"", max(total, 0), int(Flag.FAULT_ARGS)
    if not stat.args_end:  # the bounds are for those who may trace the process
        total = len(args)
    flags = int(Flag.TRUNCATED_ARGS) if total > ARGS_BYTES else 0
    return args[:total], total, flags


def _boottime_offset(proc: Path) -> int:
    """How far the reader's boot-time clock is ahead of the machine's, in ns: other than 0 in a time namespace."""
    for line in _read(proc / "self/timens_offsets").splitlines():
        words = line.split()
        if words[0] == b"boottime":
            return int(words[1]) * 1_000_000_000 + int(words[2])
    return 0
