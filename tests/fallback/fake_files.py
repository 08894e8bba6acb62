"""A machine made up for a test: processes and sockets as /proc would show them, changed between two looks."""

import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests import wire
from tracer.fallback.files import EACH_MOST, READ_MOST, ExeFile, Group, Part, glanced
from tracer.model import NS_PER_TICK, TCP_STATES, Kind

FORKED = 0x40  # PF_FORKNOEXEC of include/linux/sched.h
KTHREAD = 0x00200000
UNSEEN = (1, 1, 0)  # code and stack as shown to who may not trace the process
NONE = (0, 0, 0)
HOME = 4026531840


def gone() -> OSError:
    """What any question about a process gives that is not there."""
    return ProcessLookupError(errno.ESRCH, os.strerror(errno.ESRCH))


def refused() -> OSError:
    """What a question gives that may not be asked."""
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@dataclass
class Made:
    """A process. ``image`` is where its code begins and ends and its stack begins: another after each exec."""

    pid: int
    start: int = 1000
    parent: int = 1
    image: tuple[int, int, int] = (10, 20, 30)
    flags: int = 0
    state: str = "S"
    threads: int = 1
    status: int = 0
    comm: str = "made"
    netns: int = HOME
    fds: dict[int, str] = field(default_factory=dict)
    stat_refused: bool = False
    looks_refused: bool = False  # at descriptors and links

    def stat(self) -> bytes:
        """Its /proc/PID/stat; fields that nobody asks for are 0."""
        fields = ["0"] * 50
        told = {0: self.state, 1: self.parent, 6: self.flags, 17: self.threads, 19: self.start, 49: self.status}
        told |= dict(zip((23, 24, 25), self.image, strict=True))
        for place, value in told.items():
            fields[place] = str(value)
        return f"{self.pid} ({self.comm}) {' '.join(fields)}\n".encode()


def _end(address: str, port: int) -> str:
    if ":" in address:
        words = struct.unpack("=4I", socket.inet_pton(socket.AF_INET6, address))
    else:
        words = struct.unpack("=I", socket.inet_aton(address))
    return "".join(f"{word:08X}" for word in words) + f":{port:04X}"


def tcp(local: tuple[str, int], remote: tuple[str, int], state: str, inode: int, uid: int = 0) -> str:
    """A line of /proc/net/tcp or tcp6."""
    number = TCP_STATES.index(state)
    ends = f"{_end(*local)} {_end(*remote)}"
    return (
        f"   0: {ends} {number:02X} 00000000:00000000 00:00000000 00000000 {uid:5d}        0 {inode} 1 00 100 0 0 10 0"
    )


class Machine:
    """ProcFiles and Describer of a machine that does what the test says."""

    def __init__(self, *processes: Made) -> None:
        self.processes = {process.pid: process for process in processes}
        self.tables: dict[int, list[str]] = {}  # network namespace -> lines
        self.has_ipv6 = True
        self.asked: list[tuple[int, str]] = []  # files that were read one by one, in order

    def add(self, process: Made) -> Made:
        """A process comes, or takes the place of another with its pid."""
        self.processes[process.pid] = process
        return process

    def end(self, pid: int) -> None:
        """A process goes."""
        del self.processes[pid]

    def _of(self, pid: int, start: int = 0) -> Made:
        process = self.processes.get(pid)
        if process is None or (start and process.start != start):
            raise gone()
        return process

    # ProcFiles.

    def pids(self) -> list[int]:
        """See ProcFiles."""
        return list(self.processes)

    def read(self, pid: int, name: str, most: int = READ_MOST, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        self.asked.append((pid, name))
        process = self._of(pid, start)
        if name == "stat":
            if process.stat_refused:
                raise refused()
            return process.stat()
        lines = self.tables.get(process.netns, [])
        if name == "net/sockstat":
            return f"sockets: used 9\nTCP: inuse {len(lines)} orphan 0\n".encode()
        if not self.has_ipv6 and name.endswith("6"):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if name == "net/sockstat6":
            return f"TCP6: inuse {len(lines)}\n".encode()
        wide = name == "net/tcp6"
        kept = [line for line in lines if (len(line.split()[1]) > 13) is wide]
        return "\n".join(["  sl  local_address", *kept, ""]).encode()[:most]

    def read_each(self, pids: Iterable[int], name: str, most: int = EACH_MOST) -> dict[int, bytes | None]:
        """See ProcFiles."""
        assert name == "stat"
        assert most == EACH_MOST
        found: dict[int, bytes | None] = {}
        for pid in pids:
            if pid in self.processes:
                process = self.processes[pid]
                found[pid] = None if process.stat_refused else process.stat()
        return found

    def link(self, pid: int, name: str, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        assert name == "ns/net"
        process = self._of(pid, start)
        if process.looks_refused:
            raise refused()
        return f"net:[{process.netns}]".encode()

    def fds(self, pid: int, *, start: int = 0) -> dict[int, bytes]:
        """See ProcFiles."""
        process = self._of(pid, start)
        if process.looks_refused:
            raise refused()
        return {number: target.encode() for number, target in process.fds.items()}

    def exe(self, pid: int, *, start: int = 0) -> ExeFile:
        """See ProcFiles."""
        self._of(pid, start)
        return ExeFile(1, 2, 1)

    def cgroup(self, pid: int, *, start: int = 0) -> Group:
        """See ProcFiles."""
        self._of(pid, start)
        return Group(0, 2, b"")

    def glance(self, pid: int, number: int) -> list[Part]:
        """See ProcFiles."""
        return glanced(self, pid, number)

    def open_diag(self, pid: int | None = None) -> int:
        """See ProcFiles."""
        raise NotImplementedError(pid)

    # Describer.

    def record(self, pid: int) -> bytes | None:
        """A PROCESS_FOUND record of it."""
        process = self.processes.get(pid)
        if process is None or process.state == "Z":
            return None
        return wire.executed(
            kind=Kind.PROCESS_FOUND,
            tgid=pid,
            tid=pid,
            start=process.start * NS_PER_TICK,
            parent_tgid=process.parent,
            netns=0 if process.looks_refused else process.netns,
            comm=process.comm.encode(),
        )
