"""Know every process that lives, and for a short while those that lived: bounded, and never by pid alone."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from tracer.model import IDS, NS_PER_TICK, Cgroup, Flag, Image, Parent, Process, entity_id
from tracer.pipeline.cgroups import CgroupTable
from tracer.probes.records import (
    CGROUP,
    FLAGS,
    PARENT_START,
    PARENT_TGID,
    START,
    TGID,
    TIME,
    TOLD,
    Record,
    name_told,
)

__all__ = ["ProcessTable"]

GRACE_NS: Final = 10_000_000_000  # how long an exited process is kept for what comes late
EXITED_MOST: Final = 1024
SWEEP_EVERY: Final = 128  # exits between two looks at who is to be forgotten
NAMES_MOST: Final = 256  # sets of names that execs have in common
_PID_BITS: Final = 32  # what a record has room for
_NO_PROGRAM: Final = int(Flag.NO_PROGRAM)
_DETACHED: Final = int(Flag.DETACHED)
LIVING_MOST: Final = 131_072  # four times the default pid_max of 32,768


@lru_cache(maxsize=4096)
def _comm(raw: bytes) -> bytes:
    return raw.partition(b"\0")[0]


def _path(components: bytes) -> bytes:
    """Join what the probe wrote from the leaf up, each component with its NUL; nothing is the root."""
    return b"/" + b"/".join(components.split(b"\0")[-2::-1])


@lru_cache(NAMES_MOST)
def _names(data: bytes, exe: int, cwd: int, file: int, flags: int, inode: int) -> tuple[bytes, bytes, bytes, bytes]:
    """Executable, directory, requested file and interpreter, of which ``data`` has the bytes one by one.

    The same come again and again: whoever has the same ones shares them.
    """
    executable = b""
    if exe:  # a memfd has one name, under no root
        executable = data[:exe].rstrip(b"\0") if flags & _DETACHED else _path(data[:exe])
    cwd += exe
    file += cwd
    return (
        executable,
        _path(data[exe:cwd]) if inode else b"",
        data[cwd:file][:-1],
        data[file:][:-1],
    )


def _same_start(one: int, other: int) -> bool:
    """Whether two starts of one pid are the same, where one is from /proc, which knows whole ticks alone."""
    floor = one - one % NS_PER_TICK
    return floor == other - other % NS_PER_TICK and floor in (one, other)


class ProcessTable:
    """(tgid, start) -> Process. An exited process stays for GRACE_NS, and at most about EXITED_MOST of them."""

    def __init__(self, boot_id: bytes) -> None:
        """``boot_id`` are the 16 bytes of the kernel's boot id: part of every entity id."""
        self._boot = boot_id
        self._living: dict[int, Process] = {}
        self._exited: dict[int, Process] = {}  # by tick and pid in one number, which is quicker than two
        self._order: deque[int] = deque()  # of those who exited, by their exit
        self._sweep_at = SWEEP_EVERY
        self._cgroups = CgroupTable()
        self.clock = 0  # wall clock minus CLOCK_BOOTTIME of now, ns
        self.has_unseen = False  # whether anybody has done something that no record tells
        self.evicted = 0  # living ones that had to go because the table was full

    def __len__(self) -> int:
        """How many processes are known, exited ones included."""
        return len(self._living) + len(self._exited)

    def find(self, tgid: int, start: int) -> Process | None:
        """The process with this identity, if it is known."""
        process = self._living.get(tgid)
        if process is not None and (process.start == start or _same_start(process.start, start)):
            return process
        process = self._exited.get(start // NS_PER_TICK << _PID_BITS | tgid)
        if process is not None and (process.start == start or _same_start(process.start, start)):
            return process
        return None

    def owner(self, tgid: int, start: int, comm: bytes, uid: int, time: int, cgroup: int = 0) -> Process:
        """The process a socket record names, made known with what the record says if it was not.

        ``cgroup`` is the id of the control group that it is in; 0 if the record does not tell.
        """
        known = self._living.get(tgid)
        if known is None or known.start != start:
            known = self.find(tgid, start)
        name = _comm(comm)
        if known is not None and known.comm == name and known.uid == uid and cgroup in (0, known.cgroup):
            return known
        process = self._next(known, tgid, start, name)
        if known is not None:
            process.told = known.told[: IDS.size]  # without the name: the next record of the process is news
        self._place(process, known, cgroup or (known.cgroup if known is not None else 0))
        process.uid = uid
        self._put(process, known, time)
        return process

    def _next(self, known: Process | None, tgid: int, start: int, comm: bytes) -> Process:
        """The next state of a process: a new object, because events hold on to what was true at their moment."""
        if known is None:
            process = Process(tgid, start, entity_id(self._boot, tgid, start), comm)
            process.clock = self.clock
            return process
        # The exact start, where one of the two is from /proc.
        process = Process(tgid, max(start, known.start), known.entity_id, comm)
        process.clock = known.clock
        process.image, process.parent, process.exited = known.image, known.parent, known.exited
        return process

    def _put(self, process: Process, known: Process | None, time: int) -> None:
        tgid = process.tgid
        if known is not None and known.exited:
            self._exited[process.start // NS_PER_TICK << _PID_BITS | tgid] = process
            return
        if known is None:
            before = self._living.pop(tgid, None)
            if before is not None:  # its exit was not seen
                self._retire(before, time)
            elif len(self._living) >= LIVING_MOST:
                self._living.pop(next(iter(self._living)))
                self.evicted += 1
        self._living[tgid] = process

    def identified(self, record: Record) -> Process:
        """The process a process record is about, in the state that the record tells."""
        known = self.find(record[TGID], record[START])
        if known is not None and known.told == record[TOLD] and known.cgroup == record[CGROUP]:
            return known
        return self._stated(record, known, known.image if known is not None else None)

    def _place(self, process: Process, before: Process | None, cgroup: int) -> None:
        """Put a process into a control group of which the id alone is told; ``before`` is who may have been in it."""
        process.cgroup = cgroup
        process.within = before.within if before is not None and before.cgroup == cgroup else self._cgroups.find(cgroup)

    def _stated(
        self,
        record: Record,
        known: Process | None,
        image: Image | None,
        before: Process | None = None,
        within: Cgroup | None = None,
    ) -> Process:
        told = record[TOLD]
        uid, comm = name_told(told)
        process = self._next(known, record[TGID], record[START], _comm(comm))
        process.uid = uid
        process.told = told
        if within is None:
            self._place(process, known or before, record[CGROUP])
        else:
            process.cgroup = record[CGROUP]
            process.within = within
        process.image = image
        if process.parent is None and record[PARENT_TGID]:
            process.parent = self._parent(record[PARENT_TGID], record[PARENT_START])
        self._put(process, known, record[TIME])
        return process

    def _parent(self, tgid: int, start: int) -> Parent:
        known = self._living.get(tgid)
        if known is None or known.start != start:
            known = self.find(tgid, start)
        if known is None:
            return Parent(tgid, start, entity_id(self._boot, tgid, start), b"", b"")
        parent = known.as_parent
        if parent is None:
            image = known.image
            parent = Parent(tgid, start, known.entity_id, known.comm, image.executable if image else b"")
            known.as_parent = parent
        return parent

    def forked(self, record: Record) -> Process:
        """A child: it runs what the thread that called was running (struct fork_record)."""
        known = self.find(record[TGID], record[START])
        forker = self._living.get(record[-1])
        if forker is not None and not self._is_forker(forker, record):
            forker = None
        image = known.image if known is not None else None
        return self._stated(record, known, image or (forker.image if forker is not None else None), forker)

    def _is_forker(self, known: Process, record: Record) -> bool:
        """Whether who is known by the forker's pid is the forker, and not one whose end was not told.

        Of a forker that made its own parent's child (CLONE_PARENT) the start is not told: it was there before.
        """
        if record[-1] == record[PARENT_TGID]:
            return known.start == record[PARENT_START] or _same_start(known.start, record[PARENT_START])
        return not self.has_unseen

    def executed_unseen(self, tgid: int, start: int, time: int) -> None:
        """A process runs something else since ``time`` (boottime ns), and nobody knows what."""
        self.has_unseen = True
        known = self.find(tgid, start)
        if known is not None and (known.image is None or known.image.time <= time):
            self._forget_program(known, time)

    def _forget_program(self, known: Process, time: int) -> None:
        tgid, start = known.tgid, known.start
        process = self._next(known, tgid, start, b"")
        process.image = None
        process.uid, process.cgroup, process.within = known.uid, known.cgroup, known.within
        self._put(process, known, time)

    def executed_any_unseen(self, tgids: Iterable[int], time: int) -> None:
        """As executed_unseen(), where nobody knows which of these it was, nor when: so whoever of them is there."""
        self.has_unseen = True
        for tgid in tgids:
            known = self._living.get(tgid)
            if known is not None and known.image is not None:
                self._forget_program(known, time)

    def exited_unseen(self, tgid: int, start: int, time: int) -> None:
        """A process has ended at ``time`` (boottime ns), which no record tells."""
        self.has_unseen = True
        known = self._living.get(tgid)
        if known is not None and (known.start == start or _same_start(known.start, start)):
            del self._living[tgid]
            self._retire(known, time)

    def path_of(self, dev: int, inode: int) -> bytes:
        """The path of an executable that a known process runs, empty if none does."""
        for process in (*self._living.values(), *self._exited.values()):
            image = process.image
            if image is not None and image.inode == inode and image.dev == dev:
                return image.executable
        return b""

    def group(self, number: int) -> Cgroup | None:
        """The control group of version 2 with this id, if it is known."""
        return self._cgroups.find(number)

    def executed(self, record: Record) -> Process:
        """A new image (struct exec_record), of a process that is known or not."""
        (
            time,
            _seq,
            start,
            tgid,
            _tid,
            _cpu,
            _kind,
            _ring,
            flags,
            _parent_start,
            cgroup_id,
            _parent_tgid,
            _told,
            inode,
            args_total,
            dev,
            argc,
            exe,
            cwd,
            file,
            interp,
            cgroup,
            _,
            _,
            data,
        ) = record
        before = exe + cwd + file + interp
        names = before + cgroup
        executable, directory, requested, interpreter = _names(data[:before], exe, cwd, file, flags, inode)
        image = tuple.__new__(
            Image,
            (
                time,
                executable,
                directory,
                requested,
                interpreter,
                data[names:],
                argc,
                args_total,
                dev,
                inode,
                flags,
            ),
        )
        within = None
        if cgroup or (inode and cgroup_id):  # nothing is the root, or that it is not known
            within = self._cgroups.told(cgroup_id, data[before:names], flags)
        return self._stated(record, self.find(tgid, start), image, None, within)

    def exited(self, record: Record) -> Process:
        """A process ended; it is kept for the grace time."""
        if record[FLAGS] & _NO_PROGRAM:
            known = self._stated(record, self.find(record[TGID], record[START]), None)
        else:
            known = self.identified(record)
        if self._living.get(known.tgid) is known:
            del self._living[known.tgid]
        self._retire(known, record[TIME])
        return known

    def _retire(self, process: Process, time: int) -> None:
        process.exited = time
        exited = self._exited
        key = process.start // NS_PER_TICK << _PID_BITS | process.tgid
        if key not in exited:
            self._order.append(key)
        exited[key] = process
        if len(exited) > self._sweep_at:
            self._sweep(time)

    def _sweep(self, time: int) -> None:
        """Forget who is beyond the grace time, and the oldest of those who are too many."""
        exited, order = self._exited, self._order
        while order:
            if len(exited) <= EXITED_MOST:
                process = exited.get(order[0])
                if process is not None and time - process.exited < GRACE_NS:
                    break
            exited.pop(order.popleft(), None)
        self._sweep_at = len(exited) + SWEEP_EVERY

    def namespaces(self) -> set[int]:
        """The network namespaces that living processes are in, by inode, as of their last exec or fork."""
        return {process.ids.netns for process in self._living.values()}

    def descendants(self, roots: set[int]) -> set[int]:
        """The pids of ``roots`` and of every living process that comes from one of them."""
        found = set(roots)
        grown = True
        while grown:
            grown = False
            for process in self._living.values():
                if process.tgid not in found and process.parent is not None and process.parent.tgid in found:
                    found.add(process.tgid)
                    grown = True
        return found
