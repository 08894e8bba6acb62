"""What /proc tells of processes is what the kernel's iterators tell, field by field, for the same processes."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tracer.fallback.files import READ_MOST, DirectFiles
from tracer.fallback.procfs import ProcFinder
from tracer.model import IDS, NS_PER_TICK, Flag, Kind
from tracer.probes.backend import KernelFilters
from tracer.probes.core import Core
from tracer.probes.records import FACTS, FLAGS, KIND, START, TGID, TOLD, Record, decode, frames

pytestmark = pytest.mark.live

NOTHING = KernelFilters(frozenset(), frozenset(), False, frozenset(), frozenset(), frozenset(), [])
# Fields of a decoded exec record, behind the header's nine.
FIELDS = (
    *("parent_start", "cgroup", "parent_tgid", "vpid", "uid", "gid", "euid", "egid", "loginuid", "audit_session"),
    *("session", "group", "netns", "pidns", "comm", "inode", "args_total", "dev", "argc", "exe_len", "cwd_len"),
    *("file_len", "interp_len", "cgroup_len", "args_len", "reserved", "data"),
)
# /proc knows starts to the tick.
TICKS = {"parent_start"}
MEMFD = """
import os
file = os.memfd_create("a name", 0)
os.write(file, open("/bin/sleep", "rb").read())
os.execve(file, ["sleep", "600"], {})
"""
SLEEP = "import sys, time; print('ready', flush=True); time.sleep(600)"


def facts(record: Record) -> dict[str, Any]:
    """A record by the names of its fields, its times to the tick."""
    told = record[TOLD]
    values = (*record[9:TOLD], *IDS.unpack_from(told), told[IDS.size :], *record[FACTS:])
    found = dict(zip(FIELDS, values, strict=True))
    found["start"], found["flags"] = record[START] // NS_PER_TICK, record[FLAGS]
    found["parent_start"] //= NS_PER_TICK
    return found


def by_pid(data: bytes) -> dict[int, Record]:
    """The records of a snapshot."""
    found = [decode(frame, 0) for frame in frames(data)]
    assert {record[KIND] for record in found} == {Kind.PROCESS_FOUND}
    assert len({record[TGID] for record in found}) == len(found)
    return {record[TGID]: record for record in found}


@pytest.fixture(name="children")
def _children(tmp_path: Path) -> Iterator[dict[str, int]]:
    """Processes of many kinds, by name, all of them waiting."""
    program = tmp_path / "a program\nof two lines"
    shutil.copy(shutil.which("sleep") or "/bin/sleep", program)
    deleted = tmp_path / "deleted"
    shutil.copy(program, deleted)
    gone = tmp_path / "gone"
    gone.mkdir()
    python = [sys.executable, "-c"]
    commands: dict[str, tuple[list[str], dict[str, Any]]] = {
        "plain": ([str(program), "600"], {"cwd": tmp_path}),
        "root": (["/bin/sleep", "600"], {"cwd": "/"}),
        "many arguments": (["/bin/sleep", "600", *["0" * 100] * 200], {}),
        "no arguments": ([*python, SLEEP, "", "", "\udcff"], {}),
        "deleted": ([str(deleted), "600"], {}),
        "deleted cwd": (["/bin/sleep", "600"], {"cwd": gone}),
        "user": (["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/bin/sleep", "600"], {}),
        "session": (["/bin/sleep", "600"], {"start_new_session": True}),
        "namespaces": (["unshare", "--net", "--pid", "--fork", "/bin/sleep", "600"], {}),
        "rewritten": (
            [*python, "import ctypes, time; ctypes.CDLL(None).prctl(15, b'o) R 1 2', 0, 0, 0); time.sleep(600)"],
            {},
        ),
        "memfd": ([*python, MEMFD], {}),
    }
    with ExitStack() as stack:
        started = {}
        for name, (command, options) in commands.items():
            child = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
            stack.callback(child.wait)
            stack.callback(child.kill)
            started[name] = child.pid
        deadline = time.monotonic() + 20
        while not all(map(_waits, started.values())):
            assert time.monotonic() < deadline, [name for name, pid in started.items() if not _waits(pid)]
            time.sleep(0.05)
        deleted.unlink()
        gone.rmdir()
        yield started


def _waits(pid: int) -> bool:
    """Whether it has come to its end: a sleep, or the wait of the one that forks."""
    where = Path(f"/proc/{pid}/wchan").read_text()
    return "nanosleep" in where or "wait" in where


def _sleeps(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "S"


def snapshots() -> tuple[dict[int, Record], dict[int, Record]]:
    """What the iterators tell and what /proc tells, of the same moment as nearly as can be."""
    with Core(NOTHING, 1 << 20, 4096) as core:
        truth = by_pid(core.processes())
        return truth, by_pid(ProcFinder().processes(frozenset(core.excluded)))


def test_same_as_the_iterators(children: dict[str, int]) -> None:
    """Each child has the same record from /proc as from the kernel: identity, paths, arguments, flags, namespaces."""
    truth, told = snapshots()
    for name, pid in children.items():
        assert facts(told[pid]) == facts(truth[pid]), name
    kinds = {name: Flag(told[pid][FLAGS]) & ~Flag.CGROUP_V1 for name, pid in children.items()}
    assert kinds["deleted"] == Flag.DELETED
    assert kinds["memfd"] == Flag.DELETED | Flag.DETACHED
    assert kinds["many arguments"] == Flag.TRUNCATED_ARGS
    assert kinds["plain"] == Flag(0)


def test_every_process_of_the_machine() -> None:
    """Every process that is there in both snapshots is told alike, kernel threads and this program's parents included.

    What a process changes of itself between the two is not compared: what it runs, and its arguments.
    """
    truth, told = snapshots()
    both = truth.keys() & told.keys()
    assert os.getppid() in both | {1}  # some hosts hide process 1 from BPF
    stable = {"start", "parent_tgid", "vpid", "netns", "pidns", "uid", "loginuid", "audit_session", "session"}
    compared = 0
    for pid in both:
        one, other = facts(truth[pid]), facts(told[pid])
        if one["start"] != other["start"] or one["exe_len"] != other["exe_len"] or one["data"] != other["data"]:
            continue  # it became something else meanwhile
        assert {name: other[name] for name in stable} == {name: one[name] for name in stable}, pid
        assert (other["comm"], other["inode"], other["dev"]) == (one["comm"], one["inode"], one["dev"]), pid
        compared += 1
    assert compared >= len(truth) * 3 // 4


def test_gone_is_gone() -> None:
    """A process that has ended is not told, as a zombie neither."""
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert Path(f"/proc/{child.pid}/stat").exists()
        assert ProcFinder().record(child.pid) is None
    assert ProcFinder().record(child.pid) is None


def test_leader_that_ended_first_is_there() -> None:
    """A process lives on after its first thread has ended, and is told; of its files nothing is known any more."""
    code = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(600,)).start();"
        "print('ready', flush=True); ctypes.CDLL(None).syscall(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            deadline = time.monotonic() + 20
            while _sleeps(child.pid) and time.monotonic() < deadline:
                time.sleep(0.02)
            record = ProcFinder().record(child.pid)
        finally:
            child.kill()
    assert record is not None
    assert decode(record, 0)[TGID] == child.pid


def test_unreadable_is_not_absent() -> None:
    """A process whose files may not be read is told, with what is known."""

    class Denied(DirectFiles):
        """Some files are refused."""

        def read(self, pid: int, name: str, most: int = READ_MOST, *, start: int = 0) -> bytes:
            if name in {"status", "cgroup", "loginuid", "sessionid"}:
                raise PermissionError(errno.EACCES, "denied")
            return super().read(pid, name, most, start=start)

    record = ProcFinder(Denied()).record(os.getpid())
    assert record is not None
    fields = facts(decode(record, 0))
    assert (fields["vpid"], fields["cgroup"], fields["loginuid"]) == (os.getpid(), 0, 0xFFFFFFFF)


HIDDEN = """
import os, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
from tracer.fallback.procfs import ProcFinder
finder = ProcFinder()
print(finder.hidden() > 0, finder.record(os.getppid()) is None, finder.record(os.getpid()) is not None)
"""


def test_hidden_processes_are_counted() -> None:
    """Where procfs hides the processes of others they are told as hidden, not as gone; what may be seen is told."""
    script = 'mount -t proc -o hidepid=1 proc /proc && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", sys.executable, "-c", HIDDEN],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert (done.stdout, done.stderr) == ("True True True\n", "")
    assert ProcFinder().hidden() == 0


def test_holders_have_their_sockets() -> None:
    """A process with sockets is told with exactly the descriptors that are sockets; one without is not."""
    with socket.create_server(("127.0.0.1", 0)) as server, Path("/dev/null").open("rb") as other:
        holders = {holder.pid: holder for holder in ProcFinder().holders(frozenset())}
        mine = holders[os.getpid()]
        assert server.fileno() in mine.descriptors
        assert other.fileno() not in mine.descriptors
    assert os.getpid() not in {holder.pid for holder in ProcFinder().holders(frozenset({os.getpid()}))}
    record = ProcFinder().record(os.getpid())
    assert record is not None
    fields = decode(record, 0)
    assert (mine.start, mine.uid, mine.comm) == (fields[START], 0, fields[TOLD][IDS.size :].rstrip(b"\0"))
