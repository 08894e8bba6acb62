"""Catch what can still be read of a process that may end, or execute the next program, while it is looked at."""

from __future__ import annotations

import os
from struct import Struct
from typing import Final, NamedTuple, Self

from tracer.fallback.files import (
    CGROUP,
    CGROUP_PART,
    EXE_FILE,
    EXE_PART,
    GLANCES,
    READ_MOST,
    ExeFile,
    Group,
    Part,
    ProcFiles,
)
from tracer.fallback.procfs import ProcFinder, comm, components, ids, namespace
from tracer.fallback.stat import parse
from tracer.model import IDS, NS_PER_TICK, UNSET_ID, Flag, Ids, Kind
from tracer.probes.records import HEADER, START, TGID

__all__ = ["NOBODY", "Brief", "Glimpse", "Glimpses", "Place", "Told", "bare"]

Place = tuple[int, int]
"""Where the arguments begin and end: of an address space, which each exec makes anew, in a place of its own."""

_NEWBORN, _RUNNING = 0, 1  # of GLANCES
_NOT_EXECUTED: Final = 0x00000040  # PF_FORKNOEXEC of include/linux/sched.h: set by fork, cleared by exec
_DELETED: Final = b" (deleted)"
_TOLD: Final = Struct(f"=QQI{IDS.format[1:]}16s")
_IMAGE: Final = Struct("=QQIIHHHHHHI")  # what follows in struct exec_record
_NO_IMAGE: Final = bytes(_IMAGE.size)
_IMAGE_FLAGS: Final = int(
    Flag.TRUNCATED_EXE
    | Flag.TRUNCATED_CWD
    | Flag.TRUNCATED_ARGS
    | Flag.TRUNCATED_FILE
    | Flag.FAULT_ARGS
    | Flag.DELETED
    | Flag.SCRIPT
    | Flag.EXECFD
    | Flag.DETACHED
    | Flag.TRUNCATED_CGROUP
    | Flag.CGROUP_V1
)


class Told(NamedTuple):
    """struct identity of bpf/tracer.h: who a process is."""

    parent_start: int
    cgroup: int
    parent: int
    ids: Ids
    comm: bytes

    @classmethod
    def of(cls, record: bytes) -> Self:
        """As a process record has it."""
        parent_start, cgroup, parent, *numbers, name = _TOLD.unpack_from(record, HEADER.size)
        return cls(parent_start, cgroup, parent, Ids._make(numbers), name.rstrip(b"\0"))

    def pack(self) -> bytes:
        """For a record."""
        return _TOLD.pack(self.parent_start, self.cgroup, self.parent, *self.ids, self.comm)

    def put_into(self, record: bytes) -> bytes:
        """The record with this instead of what it has."""
        return record[: HEADER.size] + self.pack() + record[HEADER.size + _TOLD.size :]


class Brief(NamedTuple):
    """A process in brief. ``start`` in ns of the machine's boot-time clock, to the tick.

    ``executed``: whether it has executed a program since it was forked; ``ended``: its first thread has, while others
    may run on; ``threads`` counts that one too.
    """

    start: int
    place: Place | None
    executed: bool
    ended: bool
    threads: int


class Glimpse(NamedTuple):
    """What could be read of a process, as a record (struct exec_record, PROCESS_FOUND).

    ``place`` is None when what the process runs could not be read all of a piece: then the record says nothing of it.
    """

    record: bytes
    place: Place | None


class _Ahead:
    """ProcFiles that know some answers already, each for one time: those of a glance."""

    def __init__(self, files: ProcFiles) -> None:
        self._files = files
        self._pid = -1
        self._known: dict[str, list[Part]] = {}
        self.pids, self.read_each, self.fds = files.pids, files.read_each, files.fds
        self.open_diag, self.glance = files.open_diag, files.glance

    def look(self, pid: int, number: int) -> None:
        """Take a glance, and forget the one before."""
        self._pid = pid
        self._known.clear()
        for name, part in zip(GLANCES[number], self._files.glance(pid, number), strict=True):
            self._known.setdefault(name, []).append(part)

    def forget(self) -> None:
        """What is asked from now on is asked anew."""
        self._known.clear()

    def _taken(self, pid: int, name: str) -> bytes | None:
        parts = self._known.get(name)
        if pid != self._pid or not parts:
            return None
        part = parts.pop(0)
        if part.errno:
            raise OSError(part.errno, os.strerror(part.errno))
        return part.data

    def read(self, pid: int, name: str, most: int = READ_MOST, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        data = self._taken(pid, name)
        return self._files.read(pid, name, most, start=start) if data is None else data[:most]

    def link(self, pid: int, name: str, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        data = self._taken(pid, name)
        return self._files.link(pid, name, start=start) if data is None else data

    def exe(self, pid: int, *, start: int = 0) -> ExeFile:
        """See ProcFiles."""
        data = self._taken(pid, EXE_FILE)
        return self._files.exe(pid, start=start) if data is None else ExeFile(*EXE_PART.unpack(data))

    def cgroup(self, pid: int, *, start: int = 0) -> Group:
        """See ProcFiles."""
        data = self._taken(pid, CGROUP)
        if data is None:
            return self._files.cgroup(pid, start=start)
        number, version = CGROUP_PART.unpack_from(data)
        return Group(number, version, data[CGROUP_PART.size :])


class Glimpses(ProcFinder):
    """Looks at single processes, in haste: all of it is asked for at once."""

    def __init__(self, files: ProcFiles) -> None:
        """``files`` reads /proc."""
        self._ahead_of = _Ahead(files)
        super().__init__(self._ahead_of)

    def newborn(self, pid: int) -> tuple[Brief | None, int, int]:
        """In brief, and the inodes of its network and pid namespaces; 0 when they can't be read."""
        self._ahead_of.look(pid, _NEWBORN)
        brief = self.brief(pid)
        netns, pidns = self.namespaces(pid)
        self._ahead_of.forget()
        return brief, netns, pidns

    def brief(self, pid: int) -> Brief | None:
        """What one file tells; None when it can't be read."""
        try:
            stat = self._stat(pid)
        except OSError:
            return None
        if stat is None:
            return None
        place = (stat.args_start, stat.args_end) if stat.args_end else None
        ended = stat.state in (b"Z", b"X")
        return Brief(self._start(stat), place, not stat.flags & _NOT_EXECUTED, ended, stat.threads)

    def ticks(self, start: int) -> int:
        """A start as /proc/PID/stat has it."""
        return (start + self.ahead) // NS_PER_TICK

    def cpu_ticks(self, pid: int) -> int:
        """CPU time that it has used, with all its threads; 0 when that can't be read."""
        try:
            return parse(self._files.read(pid, "stat")).cpu
        except (OSError, ValueError):
            return 0

    def namespaces(self, pid: int) -> tuple[int, int]:
        """The inodes of its network and pid namespaces; 0 when they can't be read."""
        return namespace(self._link(pid, "ns/net")), namespace(self._link(pid, "ns/pid"))

    def again(self, known: bytes) -> Glimpse | None:
        """A process as it is now, from its record of before.

        What ends first is read first. What can't be read any more is as it was known, but for what the process runs:
        that is left out. None when it is gone, or another one has its pid.
        """
        self._ahead_of.look(HEADER.unpack_from(known)[TGID], _RUNNING)
        try:
            return self._again(known)
        finally:
            self._ahead_of.forget()

    def _again(self, known: bytes) -> Glimpse | None:
        header = HEADER.unpack_from(known)
        pid, start = header[TGID], header[START]
        try:
            before = self._stat(pid)
            if before is None or self._start(before) != start:
                return None
            exe, (args, args_total, flags) = self._exe(pid), self._arguments(pid, before)
            cwd = components(self._link(pid, "cwd").removesuffix(_DELETED))
            told = self._told(pid, Told.of(known))
            group, group_parts, group_flags = self._cgroup(pid)
            after = self._stat(pid)
        except PermissionError:
            return None
        if after is not None and after.start != before.start:
            return None
        name = comm(before if after is None else after)
        told = told._replace(comm=name, cgroup=group or told.cgroup)
        if before.group >= 0:  # -1 once it is reaped (do_task_stat() in fs/proc/array.c)
            told = told._replace(ids=told.ids._replace(group=before.group, session=before.session))
        # In the middle of an exec the arguments have no end yet (create_elf_tables() in fs/binfmt_elf.c), nor have they
        # in who has ended.
        place = (before.args_start, before.args_end) if before.args_end else None
        if after is not None and after.args_end and (after.args_start, after.args_end) != place:
            place = None
        if place is None:
            return Glimpse(told.put_into(bare(known)), None)
        if not args:
            args_total, flags = 0, flags & ~Flag.FAULT_ARGS
        if not exe.inode:
            cwd = b""
        sizes = len(exe.components), len(cwd), 0, 0, len(group_parts), len(args)
        image = _IMAGE.pack(exe.inode, args_total, exe.dev, 0, *sizes, 0)
        kept = header[-1] & ~_IMAGE_FLAGS
        head = HEADER.pack(*header[:6], Kind.PROCESS_FOUND, 0, kept | exe.flags | flags | group_flags)
        return Glimpse(b"".join((head, told.pack(), image, exe.components, cwd, group_parts, args)), place)

    def _told(self, pid: int, known: Told) -> Told:
        """Who it is; what can't be read is as it was known."""
        netns, pidns = self.namespaces(pid)
        status = self._status(pid)
        now = known.ids
        if netns:
            now = now._replace(netns=netns)
        if pidns:
            now = now._replace(pidns=pidns)
        if status:
            now = now._replace(vpid=ids(status, b"NSpid:")[-1] or now.vpid)
            if now.uid == UNSET_ID:  # else every change was heard, and this may be a later one
                uid, euid, *_ = ids(status, b"Uid:")
                gid, egid, *_ = ids(status, b"Gid:")
                now = now._replace(uid=uid, gid=gid, euid=euid, egid=egid)
        login = [self._read(pid, name).strip() for name in ("loginuid", "sessionid")]
        if all(text.isdigit() for text in login):
            now = now._replace(loginuid=int(login[0]), audit_session=int(login[1]))
        return known._replace(ids=now)


def bare(record: bytes) -> bytes:
    """The record without what the process runs."""
    header = HEADER.unpack_from(record)
    head = HEADER.pack(*header[:-1], header[-1] & ~_IMAGE_FLAGS)
    return head + record[HEADER.size : HEADER.size + _TOLD.size] + _NO_IMAGE


_UNKNOWN: Final = Ids(0, UNSET_ID, UNSET_ID, UNSET_ID, UNSET_ID, UNSET_ID, UNSET_ID, 0, 0, 0, 0)
NOBODY: Final = Told(0, 0, 0, _UNKNOWN, b"").put_into(bytes(HEADER.size + _TOLD.size) + _NO_IMAGE)
"""The record of a process of which nothing is known."""
