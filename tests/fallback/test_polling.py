"""The procfs backend on this machine: real processes and sockets, held against what made them and against psutil."""

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import wire
from tests.fallback.fake_files import Machine, Made
from tests.fallback.test_lane import ALL, told
from tracer.fallback import polling
from tracer.fallback.polling import Procfs
from tracer.fallback.process_watch import ProcessWatch
from tracer.fallback.procfs import ProcFinder
from tracer.model import IDS, NS_PER_TICK, RING_KINDS, Flag, Ids, Kind, Role
from tracer.probes.records import (
    FACTS,
    FLAGS,
    KIND,
    PARENT_TGID,
    START,
    TGID,
    TIME,
    TOLD,
    Record,
    decode,
    frames,
    read_tallies,
)
from tracer.probes.source import KernelFilters, SourceLostError
from tracer.probes.unusable import UnusableError

WAITS = "import sys, time; sys.stdin.read()"
OPENED, ROLE, LOCAL_PORT, REMOTE_PORT = 10, 24, 21, 22
SOCKET_TIMES = slice(9, 12)


class Watched:
    """A backend that runs in this process but does not leave it out, so that tests see their own sockets."""

    def __init__(self, source: Procfs) -> None:
        self.source = source
        self.found = [decode(frame, 0) for data in source.snapshot() for frame in frames(data)]
        self.records: list[Record] = []

    def look(self) -> list[Record]:
        """What one more look tells."""
        new = told(self.source.cut().runs)
        self.records += new
        return new

    def of(self, pid: int) -> list[Record]:
        """What was told of a process, and one more look."""
        self.look()
        return [record for record in self.records if record[TGID] == pid]


@contextlib.contextmanager
def watching(filters: KernelFilters = ALL) -> Iterator[Watched]:
    """A backend that has taken its first look."""
    with Procfs(filters, 1 << 20) as source:
        source.start()
        source._lane._excluded.clear()
        source.excluded.clear()
        yield Watched(source)


def ids(record: Record) -> Ids:
    """The ids that a process record tells."""
    return Ids._make(IDS.unpack_from(record[TOLD]))


def start_of(pid: int) -> int:
    """The start of a process in ns, to the tick, read by the test itself."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) * NS_PER_TICK


@contextlib.contextmanager
def child(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs until its input ends."""
    with subprocess.Popen(command or (sys.executable, "-c", WAITS), stdin=subprocess.PIPE) as process:
        try:
            wait_for(lambda: _stack(process.pid) != "0")  # its exec may not have come to its end yet
            yield process
        finally:
            process.kill()


def wait_for(condition: Any) -> None:
    """Until something holds, for 20 s at most."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_snapshot_is_what_psutil_says() -> None:
    """Every process that both see is told with the parent, start, users, name and arguments that psutil reads."""
    with child() as made:
        wait_for(lambda: psutil.Process(made.pid).cmdline()[1:] == ["-c", WAITS])
        records = {record[TGID]: record for record in map(_decoded, frames(ProcFinder().processes(frozenset())))}
        compared = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess), process.oneshot():
                if process.pid not in records or not process.is_running():
                    continue
                record = records[process.pid]
                assert record[PARENT_TGID] == process.ppid()
                assert ids(record)[1:5] == (
                    *process.uids()[:1],
                    *process.gids()[:1],
                    *process.uids()[1:2],
                    *process.gids()[1:2],
                )
                since_boot = process.create_time() - psutil.boot_time()
                assert abs(record[START] / 1e9 - since_boot) < 1.5, "psutil's boot time is in whole seconds"
                compared += 1
                if process.pid == made.pid:
                    args = record[-1][-record[FACTS + 9] :].decode().removesuffix("\0").split("\0")
                    assert args == process.cmdline()
    assert compared > len(records) // 2


def _decoded(frame: bytes) -> Record:
    return decode(frame, 0)


def test_program_that_is_started_and_ends() -> None:
    """It is forked and executed, in this order, then has exited; pid, start and parent are the real ones.

    Times are marked as approximate; the look finds the zombie, so the status is known, and it is the true one.
    """
    with watching() as watched, child() as made:
        start = start_of(made.pid)
        assert [record[KIND] for record in watched.of(made.pid)] == [Kind.FORK, Kind.EXEC]
        os.kill(made.pid, signal.SIGKILL)
        os.waitid(os.P_PID, made.pid, os.WEXITED | os.WNOWAIT)
        records = watched.of(made.pid)
    assert [record[KIND] for record in records] == [Kind.FORK, Kind.EXEC, Kind.EXIT]
    assert {record[START] for record in records} == {start}
    assert {record[PARENT_TGID] for record in records} == {os.getpid()}
    assert all(record[FLAGS] & Flag.APPROXIMATE for record in records)
    assert [record[TIME] for record in records] == sorted({record[TIME] for record in records})
    assert not records[2][FLAGS] & Flag.NO_STATUS
    assert records[2][FACTS + 2] == signal.SIGKILL


def test_status_that_nobody_saw() -> None:
    """A process whose parent took its status before the next look has an exit without one."""
    with watching() as watched, child() as made:
        watched.look()
        made.kill()
        made.wait()
        *_, ended = watched.of(made.pid)
    assert (ended[KIND], ended[FLAGS] & Flag.NO_STATUS) == (Kind.EXIT, Flag.NO_STATUS)


def test_child_that_only_forks() -> None:
    """A child that executes nothing is forked, with the program of the one that made it, and no exec is told."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    try:
        with watching() as watched:
            watched.source._processes.living.pop(pid)  # as if it had come since the first look
            (forked,) = watched.of(pid)
    finally:
        os.close(write)
        os.waitpid(pid, 0)
    assert forked[KIND] == Kind.FORK
    assert forked[-1] == os.getpid(), "whose program it runs"


def test_second_exec_of_one_process() -> None:
    """A process that executes itself again, the same program with the same arguments, has executed twice."""
    code = "import os, sys; sys.stdin.buffer.raw.read(1) and os.execv(sys.executable, sys.orig_argv)"
    with watching() as watched, child(sys.executable, "-c", code) as made:
        assert made.stdin is not None
        kinds = [record[KIND] for record in watched.of(made.pid)]
        for times in (1, 2):
            before = _stack(made.pid)
            made.stdin.write(b"x")
            made.stdin.flush()
            wait_for(lambda before=before: _stack(made.pid) not in (before, "0"))
            kinds = [record[KIND] for record in watched.of(made.pid)]
            assert kinds == [Kind.FORK] + [Kind.EXEC] * (times + 1)


def _stack(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[25]


def test_connection_and_its_end() -> None:
    """Both ends of a connection over loopback are this process's, with the real ports, and on their right sides.

    Then their ends; bytes are not known, and said not to be; how the owner is known, too.
    """
    me = os.getpid()
    with watching() as watched, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            mine = client.getsockname()[1]
            accepted, _ = server.accept()
            with accepted:
                opened = [record for record in watched.of(me) if port in record[LOCAL_PORT : REMOTE_PORT + 1]]
        watched.look()
        closed = [record for record in watched.of(me) if record[KIND] == Kind.CLOSE and port in record[21:23]]
    assert sorted((record[KIND], record[ROLE], record[LOCAL_PORT], record[REMOTE_PORT]) for record in opened) == [
        (Kind.CONNECT, Role.CONNECT, mine, port),
        (Kind.ACCEPT, Role.ACCEPT, port, mine),
        (Kind.LISTEN, Role.LISTEN, port, 0),
    ]
    wanted = Flag.APPROXIMATE | Flag.NO_TOTALS | Flag.BY_INODE
    assert {record[FLAGS] for record in opened} == {wanted}
    assert sorted((record[ROLE], record[LOCAL_PORT]) for record in closed) == [
        (Role.CONNECT, mine),
        (Role.ACCEPT, port),
    ]
    assert {record[9] for record in closed} <= {record[9] for record in opened}, "the same flows"


def test_connection_of_a_child_is_not_the_parents() -> None:
    """A child that has inherited a listener does not own it, and what it connects itself is its own."""
    code = "import socket, sys; c = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); sys.stdin.read()"
    with watching() as watched, socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        server.set_inheritable(True)
        command = (sys.executable, "-c", code, str(port))
        with subprocess.Popen(command, stdin=subprocess.PIPE, close_fds=False) as made:
            accepted, _ = server.accept()
            with accepted:
                for _ in range(2):
                    watched.look()
                records = [record for record in watched.records if port in record[LOCAL_PORT : REMOTE_PORT + 1]]
            made.kill()
    assert {(record[KIND], record[TGID]) for record in records if len(record) > REMOTE_PORT} == {
        (Kind.LISTEN, os.getpid()),
        (Kind.ACCEPT, os.getpid()),
        (Kind.CONNECT, made.pid),
    }


def test_from_before_the_start() -> None:
    """A socket that was open is found, once, as state; its end is told with the same flow."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client, watching() as watched:
            mine = client.getsockname()[1]
            records = [record for record in watched.found if len(record) > REMOTE_PORT and mine == record[LOCAL_PORT]]
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset: nothing lingers
            client.close()
            again = [decode(frame, 0) for frame in frames(watched.source.sockets())]
            closed = [record for record in watched.look() if record[KIND] == Kind.CLOSE and record[LOCAL_PORT] == mine]
    (found,) = records
    assert (found[KIND], found[TGID], found[OPENED]) == (Kind.SOCKET_FOUND, os.getpid(), 0)
    assert found[REMOTE_PORT] == port
    assert [record[KIND] for record in again if record[LOCAL_PORT] == mine] == []
    assert [record[9] for record in closed] == [found[9]]


def test_ledger_of_looks() -> None:
    """What the looks find is counted as attempts, and every attempt is emitted or filtered: nothing is made up."""
    with watching(ALL._replace(pids=frozenset({1 << 22}))) as watched, child():
        watched.look()
        ((*tallies,),) = read_tallies(watched.source.tallies(), len(RING_KINDS))
    assert watched.records == []
    assert tallies[Kind.EXEC].attempts >= 1
    for tally in tallies:
        assert (tally.attempts, tally.emitted) == (tally.filtered, 0)


def test_coverage_says_what_polling_can_not_know() -> None:
    """The coverage record names what is blind, what can't be counted, how often it looks, and the fix."""
    with Procfs(ALL, 1 << 20) as source:
        coverage = source.start()
    assert coverage.backend == source.name == "procfs"
    assert coverage.own_pid == os.getpid()
    assert coverage.excluded == [os.getpid()]
    assert coverage.uncounted
    assert coverage.polling is not None
    assert 0 < coverage.polling["shortest_ms"] <= coverage.polling["longest_ms"]
    assert "tracer doctor" in (coverage.fix or "")


def test_looks_follow_what_happens() -> None:
    """Looks come quickly while something happens, and ever less often while nothing does, within the bounds."""
    with Procfs(ALL, 1 << 20) as source:
        source.start()
        source._costs.extend([0] * 4)
        quick = source._planned(busy=True)
        calm = [source._planned(busy=False) for _ in range(20)]
        assert quick == polling.SHORTEST_NS
        assert calm == sorted(calm)
        assert calm[-1] == source._promised * polling.LONGEST_NS // polling.PROMISED_NS < source._promised
        source._costs.extend([10_000_000, 10**9, 10**9, 10**9])  # three were interrupted by others
        assert source._planned(busy=True) == pytest.approx(10_000_000 / polling.SHARE)
        source._costs.extend([10**9] * 4)
        assert source._planned(busy=True) == 2 * 10**9, "never more than half of the time"


def test_late_looks_are_counted() -> None:
    """A look that comes later than the coverage record promises is told as missed."""
    with Procfs(ALL, 1 << 20) as source:
        source.start()
        late = source.missed().get("polls", 0)
        source._begun -= 10 * source._promised
        source.cut()
        assert source.missed() == {"polls": late + 1}


def test_waits_until_the_next_look() -> None:
    """It does not sleep beyond the next look, nor longer than it is asked to."""
    with Procfs(ALL, 1 << 20) as source:
        source.start()
        source._due = time.monotonic_ns()
        waiting = threading.Thread(target=source.wait, args=(20_000,))
        waiting.start()
        waiting.join(10)
        assert not waiting.is_alive()


def test_detached_looks_no_more() -> None:
    """After detach() what waits can be read, and no look is taken."""
    with watching() as watched, child() as made:
        watched.source.detach()
        assert watched.of(made.pid) == []


def test_forker_is_who_shares_the_program() -> None:
    """The program of the parent is handed on only if the child has the same address space; else it is not known."""
    machine = Machine(Made(1), Made(7, parent=1))
    with Procfs(ALL, 1 << 20) as source:
        source._processes = ProcessWatch(machine, machine)
        source._processes.look()
        machine.add(Made(8, start=2000, parent=7, flags=0x40))
        machine.add(Made(9, start=2000, parent=7, flags=0x40, image=(1, 2, 3)))
        born = {process.pid: process for process in source._processes.look().born}
        assert (source._forker(born[8]), source._forker(born[9])) == (7, 0)


def test_proc_that_fails_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """When /proc can't be read any more, or not be understood, the backend is lost, and says so."""
    with Procfs(ALL, 1 << 20) as source:
        source.start()
        for error in (OSError(5, "Input/output error"), ValueError("no stat")):
            monkeypatch.setattr(source._processes, "look", _failing(error))
            with pytest.raises(SourceLostError, match="/proc"):
                source.cut()
    with Procfs(ALL, 1 << 20) as source:
        monkeypatch.setattr(source._processes, "look", _failing(ValueError("no stat")))
        with pytest.raises(UnusableError) as unusable:
            source.start()
        assert unusable.value.code == 4


def _failing(error: Exception) -> Any:
    def fail() -> None:
        raise error

    return fail


def test_no_proc(tmp_path: Path) -> None:
    """Without /proc it says so, with the fix, and code 4."""
    from tracer.fallback.files import DirectFiles

    with pytest.raises(UnusableError, match="mount") as error, Procfs(ALL, 1 << 20, DirectFiles(tmp_path)):
        pass
    assert error.value.code == 4


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0", ""),
        ("proc /proc proc rw,hidepid=2 0 0", "2"),
        ("proc /proc proc rw,hidepid=invisible,gid=4 0 0", "2"),
        ("proc /proc proc rw,hidepid=ptraceable 0 0", "4"),
        ("proc /proc proc rw,hidepid=off 0 0", ""),
        ("proc /elsewhere proc rw,hidepid=2 0 0", ""),
        ("proc /proc proc rw 0 0\nproc /proc proc rw,hidepid=noaccess 0 0", "1"),
    ],
)
def test_hidepid_as_mounted(monkeypatch: pytest.MonkeyPatch, line: str, wanted: str) -> None:
    """The option of the mount that counts, by the number it had before it had a name."""
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"sysfs /sys sysfs rw 0 0\n{line}\n")
    assert polling._hidepid() == wanted


def test_wire_of_a_record_is_kept() -> None:
    """Records made from a description keep all that it says of the process."""
    from tracer.fallback import telling

    found = wire.executed(kind=Kind.PROCESS_FOUND, uid=33, cgroup=9, netns=5, parent_tgid=12, flags=int(Flag.DELETED))
    before = decode(found, 0)
    for made in (
        telling.forked(found, 77, forker=12),
        telling.executed(found, 77),
        telling.exited(found, 77, status=9, cpu_ticks=3),
    ):
        record = decode(made, 0)
        assert record[TIME] == 77
        assert record[START : KIND - 1] == before[START : KIND - 1]
        assert record[FLAGS + 1 : FACTS] == before[FLAGS + 1 : FACTS]
    executed = decode(telling.executed(found, 77, flags=int(Flag.APPROXIMATE)), 0)
    assert executed[FLAGS] == Flag.DELETED | Flag.APPROXIMATE
    assert executed[FACTS:] == before[FACTS:]
    assert telling.owner_of(found) == (4242, before[START], 33, 9, b"program".ljust(16, b"\0"))
