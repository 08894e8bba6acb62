"""Tell of the processes that run now what the probes would tell, from /proc: the same records, to the clock tick.

Pids are those of the pid namespace that /proc belongs to. Gone is only what has no /proc/PID/stat any more: a file that
may not be read leaves its fields unknown and the process there. The files themselves are read by a ProcFiles: this
process's own, or another that is asked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from time import CLOCK_BOOTTIME, clock_gettime_ns
from typing import Final, NamedTuple

from tracer.fallback.files import SELF, DirectFiles, ProcFiles, gone
from tracer.model import NS_PER_TICK, UNSET_ID, Flag, Kind
from tracer.probes.bcc import Holder
from tracer.probes.cmdlines import ARGS_BYTES
from tracer.probes.records import EXEC, SIZE

__all__ = ["ProcFinder", "comm", "components", "ids", "namespace"]

_COMM_BYTES: Final = 15
# Bits of a task's flags in include/linux/sched.h.
_KTHREAD: Final = 0x00200000
_WQ_WORKER: Final = 0x00000020
_DELETED: Final = b" (deleted)"
_MEMFD: Final = b"/memfd:"
_CGROUP_BYTES: Final = 1024  # CGROUP_BYTES of bpf/tracer.h
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
    """Finds processes and descriptors."""

    def __init__(self, files: ProcFiles | None = None) -> None:
        """``files`` reads /proc; by itself this process does."""
        self._files = files or DirectFiles()
        self.ahead = _boottime_offset(self._read(SELF, "timens_offsets"))
        """How far this reader's boot-time clock is ahead of the machine's, ns."""

    def _pids(self, without: frozenset[int]) -> list[int]:
        return [pid for pid in self._files.pids() if pid not in without]

    def processes(self, without: frozenset[int]) -> bytes:
        """The processes that run now but those ``without``, as records (struct exec_record) behind their sizes."""
        records = filter(None, map(self.record, self._pids(without)))
        return b"".join(SIZE.pack(len(record)) + record for record in records)

    def hidden(self) -> int:
        """How many processes there are of which nothing may be read, not even when they began (hidepid of procfs)."""
        return sum(stat is None for stat in self._files.read_each(self._pids(frozenset()), "stat").values())

    def holders(self, without: frozenset[int]) -> Iterator[Holder]:
        """The processes that have sockets, but those ``without``."""
        for pid in self._pids(without):
            stat = self._living(pid)
            if stat is None:
                continue
            sockets = self._sockets(pid)
            if sockets:
                _, uid, *_ = ids(self._status(pid), b"Uid:")
                cgroup = self._cgroup(pid)[0]
                yield Holder(pid, self._start(stat), uid, cgroup, comm(stat), sockets)

    def record(self, pid: int) -> bytes | None:
        """The record of one process; None when it has ended."""
        stat = self._living(pid)
        if stat is None:
            return None
        status = self._status(pid)
        uid, euid, *_ = ids(status, b"Uid:")
        gid, egid, *_ = ids(status, b"Gid:")
        parent = self._living(stat.parent) if stat.parent else None
        group, group_parts, group_flags = self._cgroup(pid)
        kernel = bool(stat.flags & _KTHREAD)
        if kernel:
            group_parts, group_flags = b"", 0
        exe = _Exe(b"", 0, 0, int(Flag.KTHREAD)) if kernel else self._exe(pid)
        image = exe.inode != 0
        cwd = components(self._link(pid, "cwd").removesuffix(_DELETED)) if image else b""
        args, args_total, args_flags = (b"", 0, 0) if kernel else self._arguments(pid, stat)
        after = self._stat(pid)
        if after is None or after.start != stat.start:
            return None  # gone by now: what could not be read of it any more is not what it was
        return EXEC.pack(
            clock_gettime_ns(CLOCK_BOOTTIME),
            0,
            self._start(stat),
            pid,
            pid,
            0,
            Kind.PROCESS_FOUND,
            0,
            exe.flags | args_flags | group_flags,
            self._start(parent) if parent else 0,
            group,
            stat.parent,
            ids(status, b"NSpid:")[-1] or pid,
            uid,
            gid,
            euid,
            egid,
            _number(self._read(pid, "loginuid"), UNSET_ID),
            _number(self._read(pid, "sessionid"), UNSET_ID),
            stat.session,
            stat.group,
            namespace(self._link(pid, "ns/net")),
            namespace(self._link(pid, "ns/pid")),
            comm(stat),
            exe.inode,
            args_total,
            exe.dev,
            0,
            len(exe.components),
            len(cwd),
            0,
            0,
            len(group_parts),
            len(args),
            0,
        ) + b"".join((exe.components, cwd, group_parts, args))

    def _living(self, pid: int) -> _Stat | None:
        try:
            stat = self._stat(pid)
        except PermissionError:
            return None  # one of hidden()
        # A leader that has ended stays a zombie while other threads run on.
        return None if stat is None or (stat.state in (b"Z", b"X") and stat.threads <= 1) else stat

    def _start(self, stat: _Stat) -> int:
        return stat.start * NS_PER_TICK - self.ahead

    def _stat(self, pid: int) -> _Stat | None:
        """None when the process is gone; any other failure to read is raised as OSError."""
        try:
            text = self._files.read(pid, "stat")
        except OSError as error:
            if gone(error):
                return None
            raise
        head, _, tail = text.rpartition(b")")
        fields = tail.split()  # from the state on, which proc(5) counts as the third
        numbers = [int(fields[at]) for at in (1, 2, 3, 6, 17, 19, 45, 46)]
        return _Stat(head.partition(b"(")[2], fields[0], *numbers)

    def _read(self, pid: int, name: str) -> bytes:
        """A file of a process, empty when it can't be read."""
        try:
            return self._files.read(pid, name)
        except OSError:
            return b""

    def _link(self, pid: int, name: str) -> bytes:
        """Where a link leads, empty when it can't be read."""
        try:
            return self._files.link(pid, name)
        except OSError:
            return b""

    def _status(self, pid: int) -> dict[bytes, list[bytes]]:
        lines = (line.split() for line in self._read(pid, "status").splitlines())
        return {words[0]: words[1:] for words in lines if words}

    def _cgroup(self, pid: int) -> tuple[int, bytes, int]:
        """The control group as an exec record has it: its id of version 2, the components of its path, and flags."""
        try:
            group = self._files.cgroup(pid)
        except OSError:
            return 0, b"", 0
        parts = components(group.path)
        flags = int(Flag.CGROUP_V1) if group.version == 1 else 0
        while len(parts) > _CGROUP_BYTES:
            parts = parts[: parts.rindex(b"\0", 0, -1) + 1]
            flags |= Flag.TRUNCATED_CGROUP
        return group.id, parts, flags

    def _sockets(self, pid: int) -> list[int]:
        """The descriptors of a process that are sockets."""
        try:
            return [fd for fd, target in self._files.fds(pid).items() if target.startswith(b"socket:")]
        except OSError:
            return []

    def _exe(self, pid: int) -> _Exe:
        path = self._link(pid, "exe")
        try:
            found = self._files.exe(pid)
        except OSError:
            return _Exe(components(path), 0, 0, 0)
        flags = 0
        if not found.links:
            flags |= Flag.DELETED
            path = path.removesuffix(_DELETED)
        # The kernel's own encoding of a device number.
        dev = os.major(found.dev) << 20 | os.minor(found.dev)
        if path.startswith(_MEMFD) and not found.links:
            return _Exe(path[1:] + b"\0", dev, found.inode, flags | Flag.DETACHED)
        return _Exe(components(path), dev, found.inode, flags)

    def _arguments(self, pid: int, stat: _Stat) -> tuple[bytes, int, int]:
        """The arguments, their bytes before truncation, and flags."""
        total = stat.args_end - stat.args_start
        try:
            args = self._files.read(pid, "cmdline", ARGS_BYTES)
        except OSError:
            return b"", max(total, 0), int(Flag.FAULT_ARGS)
        if not stat.args_end:  # the bounds are for those who may trace the process
            total = len(args)
        flags = int(Flag.TRUNCATED_ARGS) if total > ARGS_BYTES else 0
        return args[:total], total, flags


def ids(status: dict[bytes, list[bytes]], name: bytes) -> list[int]:
    """The numbers of a line of /proc/PID/status; two of 0 where there is none."""
    return [int(word) for word in status.get(name, ())] or [0, 0]


def _number(text: bytes, otherwise: int) -> int:
    return int(text) if text.strip().isdigit() else otherwise


def namespace(link: bytes) -> int:
    """The inode of a namespace, from a link such as ``net:[4026531840]``; 0 when it could not be read."""
    number = link[link.find(b"[") + 1 : -1]
    return int(number) if number.isdigit() else 0


def comm(stat: _Stat) -> bytes:
    """The name of a process as the kernel has it."""
    worker = _WORKER.match(stat.comm) if stat.flags & _WQ_WORKER else None
    return (worker[0] if worker else stat.comm)[:_COMM_BYTES]


def components(path: bytes) -> bytes:
    """A path as the probes write it: its components from the leaf up, each with a NUL."""
    return b"".join(part + b"\0" for part in reversed(path.split(b"/")) if part)


def _boottime_offset(offsets: bytes) -> int:
    """How far the reader's boot-time clock is ahead of the machine's, in ns: other than 0 in a time namespace."""
    for line in offsets.splitlines():
        words = line.split()
        if words[0] == b"boottime":
            return int(words[1]) * 1_000_000_000 + int(words[2])
    return 0
