"""The core backend on the running kernel: what it loads, what it leaves out, whom it excludes, and what it gives."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tracer.model import RING_KINDS, SOCKET_KINDS, Ids, Kind
from tracer.probes import core, libbpf, tracefs
from tracer.probes.backend import KernelFilters, UnusableError
from tracer.probes.core import Core
from tracer.probes.hooks import RING
from tracer.probes.libbpf_binding import BpfError, LoadError
from tracer.probes.records import EXEC, KIND, START, TGID, TIME, Record, Tally, decode, frames, read_tallies
from tracer.probes.rings import Run

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
NS_PER_TICK = 10_000_000
BUFFER = 2 << 20
SYSCALL_HOOKS = {"exit_execve", "exit_execveat", "exit_accept", "exit_accept4", "exit_connect", "exit_listen"}
EVERYTHING = KernelFilters(frozenset(SOCKET_KINDS), frozenset(), False, frozenset(), frozenset(), frozenset(), [])


def make(**filters: Any) -> Core:
    """A backend with these filters in the kernel, on tracepoints (test_returns.py has the others)."""
    return Core(EVERYTHING._replace(**filters), BUFFER, 64 << 10, hooks="tracepoints")


@pytest.fixture(name="started")
def _started() -> Iterator[Core]:
    """A backend that is attached."""
    with make() as backend:
        backend.start()
        yield backend


class Helper:
    """A process that does what it is told, a line of Python at a time, until the test is over."""

    CODE = "import sys\nfor line in sys.stdin:\n  exec(line)\n  print('done', flush=True)"

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.pid = self.process.pid
        self.do("import os, socket, subprocess")

    def do(self, line: str) -> None:
        """Has it run a line, and waits until that is done."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"


@pytest.fixture(name="helper")
def _helper() -> Iterator[Helper]:
    """Such a process."""
    helper = Helper()
    yield helper
    helper.process.communicate(timeout=20)


def records(runs: list[Run]) -> list[Record]:
    """The records of runs, by time."""
    return sorted(decode(run.data, at) for run in runs for at in run.offsets)


def of(found: list[Record], pid: int) -> list[Kind]:
    """The kinds of a process's records."""
    return [Kind(record[KIND]) for record in found if record[TGID] == pid]


def start_ticks(pid: int | str) -> int:
    """When a process began, in ticks since boot, as /proc has it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def totals(tallies: bytes) -> dict[Kind, Tally]:
    """The kernel's counters by kind, summed over the CPUs."""
    by_cpu = read_tallies(tallies, len(RING_KINDS))
    return {
        kind: Tally(*(sum(cpu[kind][i] for cpu in by_cpu) for i in range(len(Tally._fields)))) for kind in RING_KINDS
    }


# What is covered.


def test_everything_is_attached(started: Core) -> None:
    """On this kernel every stream program and every optional one is attached, and what no hook shows is told."""
    with make() as backend:
        coverage = backend.start()
    assert coverage.backend == "core"
    assert coverage.refused == {}
    assert coverage.hooks.keys() >= SYSCALL_HOOKS | {
        "process_exec",
        "process_fork",
        "process_exit",
        "socket_state_change",
        "syn_again",
    }
    assert all(coverage.hooks.values())
    assert any("io_uring" in each for each in coverage.blind)
    assert coverage.own_pid == os.getpid()
    assert 0 < sum(coverage.buffer.values()) <= BUFFER


def test_without_tracefs_the_syscall_hooks_are_blind_spots(monkeypatch: pytest.MonkeyPatch, helper: Helper) -> None:
    """No tracefs: its hooks are refused with the fix, each is told as a blind spot, and the others work."""
    with make() as backend:
        full = backend.start()
    monkeypatch.setattr(tracefs, "open_events", lambda: None)
    with make() as backend:
        coverage = backend.start()
        assert coverage.refused.keys() == SYSCALL_HOOKS | ({RING.program} & full.hooks.keys())
        assert all("tracefs" in reason for reason in coverage.refused.values())
        assert len(coverage.blind) == len(full.blind) + len(SYSCALL_HOOKS)
        assert set(coverage.blind) > set(full.blind) - {RING.blind}
        assert not SYSCALL_HOOKS & coverage.hooks.keys()
        helper.do("subprocess.run(['/bin/true'])")
        found = records(backend.cut().runs)
    assert Kind.FORK in {Kind(record[KIND]) for record in found}
    assert Kind.EXEC in {Kind(record[KIND]) for record in found}


@pytest.mark.parametrize("program", ["exit_accept4", "syn_again", "exit_execve"])
def test_hook_refused_at_load_is_a_blind_spot(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """An optional program that the kernel does not load is left out, with its reason and what can't be seen."""
    real = libbpf.load

    def load(path: Path, **options: Any) -> tuple[libbpf.Object, dict[str, str]]:
        if program not in options["optional"]:
            return real(path, **options)
        options["disabled"] = [*options.get("disabled", ()), program]
        loaded, refused = real(path, **options)
        return loaded, refused | {program: "not this kernel"}

    with make() as backend:
        full = backend.start()
    monkeypatch.setattr(libbpf, "load", load)
    with make() as backend:
        coverage = backend.start()
    assert coverage.refused == {program: "not this kernel"}
    assert program not in coverage.hooks
    assert len(set(coverage.blind) - set(full.blind)) == 1


@pytest.mark.parametrize("program", ["syn_again", "exit_connect"])
def test_hook_refused_at_attach_is_a_blind_spot(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """The same for one that is loaded and can't be attached."""
    for name in ("attach", "attach_tracepoint"):
        real = getattr(libbpf.Object, name)

        def attach(self: libbpf.Object, wanted: str, *rest: int, _real: Any = real) -> Any:
            if wanted == program:
                raise BpfError("no such place", errno.ENOENT)
            return _real(self, wanted, *rest)

        monkeypatch.setattr(libbpf.Object, name, attach)
    with make() as backend:
        coverage = backend.start()
    assert coverage.refused == {program: "no such place"}
    assert program not in coverage.hooks


@pytest.mark.parametrize(("number", "code"), [(errno.EPERM, 3), (errno.EINVAL, 4)])
def test_stream_program_refused_ends_it(monkeypatch: pytest.MonkeyPatch, number: int, code: int) -> None:
    """Without a program that feeds the stream nothing works: one line, and the code for privilege or for the kernel."""

    def refuse(self: libbpf.Object, program: str) -> libbpf.Link:
        raise BpfError(f"attaching {program!r}: refused", number)

    monkeypatch.setattr(libbpf.Object, "attach", refuse)
    with make() as backend, pytest.raises(UnusableError) as unusable:
        backend.start()
    assert unusable.value.code == code
    assert "\n" not in str(unusable.value)


def test_refused_load_names_program_and_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verifier's refusal is told as the kernel's, with program and reason, also when its number is EPERM's."""

    def refuse(path: Path, **_: Any) -> tuple[libbpf.Object, dict[str, str]]:
        raise LoadError(
            f"program 'process_exec' of {path.name} refused: R1 invalid", errno.EACCES, "process_exec", "R1"
        )

    monkeypatch.setattr(libbpf, "load", refuse)
    with pytest.raises(UnusableError, match=r"process_exec.*R1 invalid") as unusable, make():
        pass
    assert unusable.value.code == 4


def test_kernel_without_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without BTF the message says so, with what the kernel needs."""
    monkeypatch.setattr(core, "BTF", tmp_path / "vmlinux")
    with pytest.raises(UnusableError, match="BTF") as unusable, make():
        pass
    assert unusable.value.code == 4


# Who is left out.


def test_own_process_is_excluded(started: Core) -> None:
    """What this process does is an attempt that is filtered, and in no ring."""
    before = totals(started.tallies())
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        accepted.close()
        port = client.getsockname()[1]
    after = totals(started.cut().tallies)
    assert port
    for kind in (Kind.LISTEN, Kind.CONNECT, Kind.ACCEPT, Kind.CLOSE):
        assert after[kind].filtered > before[kind].filtered, kind
    with make() as backend:
        coverage = backend.start()
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            pass
        assert of(records(backend.cut().runs), os.getpid()) == []
    assert os.getpid() in coverage.excluded


@pytest.mark.live
def test_what_fails_in_silence_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that is refused while nothing is said is loaded again, when it is said why, and it alone."""
    load, tries = libbpf.load, Counter[str]()

    def refusing(path: Path, **options: Any) -> tuple[libbpf.Object, dict[str, str]]:
        tries[path.name] += 1
        if path.name == "tcp.bpf.o" and tries[path.name] == 1:
            raise LoadError("refused", errno.EINVAL, None, "")
        return load(path, **options)

    monkeypatch.setattr(libbpf, "load", refusing)
    with make() as source:
        coverage = source.start()
    assert "socket_state_change" in coverage.hooks
    assert (tries["tcp.bpf.o"], tries["process.bpf.o"]) == (2, 1)


OTHER = """
import sys
from tracer.model import SOCKET_KINDS
from tracer.probes.backend import KernelFilters
from tracer.probes.core import Core
nothing = frozenset()
with Core(KernelFilters(frozenset(SOCKET_KINDS), nothing, False, nothing, nothing, nothing, []), 1 << 20, 4096) as core:
    coverage = core.start()
    import json, os
    print(json.dumps([core.own_pid, os.getpid(), coverage.excluded]), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("prefix", [(), ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")])
def test_other_tracers_are_excluded(prefix: tuple[str, ...]) -> None:
    """Another tracer of root's is found and left out by its pid in the first namespace, wherever it runs."""
    with subprocess.Popen(
        [*prefix, sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as other:
        assert other.stdout is not None
        host_pid, own_pid, _ = json.loads(other.stdout.readline())
        with make() as backend:
            excluded = backend.start().excluded
        other.communicate("", timeout=30)
    assert host_pid in excluded
    assert os.getpid() in excluded
    assert (host_pid == own_pid) is (not prefix)
    with make() as backend:
        assert host_pid not in backend.start().excluded


def test_pid_namespace() -> None:
    """In a pid namespace of its own the backend knows its pid in the first one, and excludes that."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", sys.executable, "-c", OTHER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as other:
        assert other.stdout is not None
        host_pid, own_pid, excluded = json.loads(other.stdout.readline())
        children = Path(f"/proc/{other.pid}/task/{other.pid}/children").read_text().split()
        other.communicate("", timeout=30)
    assert own_pid == 1
    assert [str(host_pid)] == children
    assert host_pid in excluded
    assert 1 not in excluded


# What it gives.


def test_snapshot_finds_processes_and_sockets(started: Core, helper: Helper) -> None:
    """The iterators give each process with its identity and arguments, and each socket with its owner, but not us."""
    found = [decode(frame, 0) for frame in frames(started.processes())]
    by_pid = {record[TGID]: record for record in found}
    assert Counter(record[KIND] for record in found) == {Kind.PROCESS_FOUND: len(found)}
    assert os.getpid() not in by_pid
    mine = by_pid[helper.pid]
    assert mine[START] // NS_PER_TICK == start_ticks(helper.pid)
    args = mine[-1][sum(mine[-8:-3]) :]
    assert args == Path(f"/proc/{helper.pid}/cmdline").read_bytes()
    assert len(EXEC.unpack_from(next(iter(frames(started.processes()))))) - len(Ids._fields) == len(mine) - 1
    assert os.getppid() in by_pid.keys() | {1}  # some hosts hide process 1 from BPF


def test_snapshot_of_a_listening_socket(helper: Helper) -> None:
    """A socket that was open before the probes is found once, with its owner and port."""
    helper.do("listening = socket.create_server(('127.0.0.1', 0))")
    helper.do("inherited = subprocess.Popen(['/bin/cat'], stdin=subprocess.PIPE, close_fds=False)")
    with make() as backend:
        backend.start()
        sockets = [decode(frame, 0) for frame in frames(backend.sockets())]
        again = [decode(frame, 0) for frame in frames(backend.sockets())]
    helper.do("inherited.communicate()")
    assert of(sockets, helper.pid) == [Kind.SOCKET_FOUND]
    assert of(again, helper.pid) == []


def test_snapshot_of_many_sockets(helper: Helper) -> None:
    """Of 503 sockets each is told once: also those where the buffer was full, which come again."""
    helper.do("many = [socket.create_server(('127.0.0.1', 0)) for _ in range(503)]")
    with make() as backend:
        backend.start()
        sockets = [decode(frame, 0) for frame in frames(backend.sockets())]
    assert of(sockets, helper.pid) == [Kind.SOCKET_FOUND] * 503


def test_stream_of_a_child(started: Core, helper: Helper) -> None:
    """A fork, an exec and an exit are three records in order, of one identity."""
    helper.do("child = subprocess.run(['/bin/true', 'x'])")
    found = records(started.cut().runs)
    forks = [record for record in found if record[KIND] == Kind.FORK and record[-1] == helper.pid]
    assert len(forks) == 1
    child = forks[0][TGID]
    mine = [record for record in found if record[TGID] == child]
    assert [record[KIND] for record in mine] == [Kind.FORK, Kind.EXEC, Kind.EXIT]
    assert len({record[START] for record in mine}) == 1
    assert [record[TIME] for record in mine] == sorted(record[TIME] for record in mine)
    assert mine[1][-1].endswith(b"/bin/true\0x\0")


def test_cut_agrees_with_its_counters(started: Core, helper: Helper) -> None:
    """What was read up to a cut is exactly what the counters of the cut say was emitted, kind by kind."""
    helper.do("for _ in range(23): subprocess.run(['/bin/true'])")
    seen: Counter[int] = Counter(record[KIND] for record in records(started.read(1 << 16)))
    cut = started.cut()
    seen.update(record[KIND] for record in records(cut.runs))
    for kind, tally in totals(cut.tallies).items():
        assert tally.attempts == tally.filtered + tally.emitted + tally.failed, kind
        assert seen[kind] == tally.emitted, kind
    assert seen[Kind.EXEC] >= 23
    assert started.missed() == {}


def test_pid_filter_follows_where_asked(helper: Helper) -> None:
    """The kernel gives only the process that was asked for, with follow its children too, and counts the others."""
    for follow in (False, True):
        with make(pids=frozenset({helper.pid}), follow=follow) as backend:
            backend.start()
            helper.do("child = subprocess.Popen(['/bin/true']); child.wait()")
            subprocess.run(["/bin/true"], check=True)
            cut = backend.cut()
        found = records(cut.runs)
        executed = [record for record in found if record[KIND] == Kind.EXEC]
        assert len(executed) == int(follow)
        assert {record[TGID] for record in found if record[TGID] != helper.pid} == {record[TGID] for record in executed}
        assert totals(cut.tallies)[Kind.EXEC].filtered >= 1


@pytest.mark.parametrize(
    ("filters", "shown"),
    [
        ({}, True),
        ({"kinds": frozenset({Kind.LISTEN})}, False),
        ({"uids": frozenset({0})}, True),
        ({"uids": frozenset({54_321})}, False),
        ({"cidrs": ["127.0.0.0/8"]}, True),
        ({"cidrs": ["10.0.0.0/8", "2001:db8::/32"]}, False),
        ({"netns": frozenset({1})}, False),
        ({"ports": frozenset({1})}, False),
        ({"ports": "its own"}, True),
        ({"netns": "its own"}, True),
    ],
    ids=str,
)
def test_socket_filters_in_the_kernel(helper: Helper, filters: dict[str, Any], shown: bool) -> None:
    """A connect is emitted where all filters fit, and else counted as filtered."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        own = {"ports": frozenset({port}), "netns": frozenset({Path("/proc/self/ns/net").stat().st_ino})}
        given = {name: own[name] if value == "its own" else value for name, value in filters.items()}
        with make(**given) as backend:
            backend.start()
            helper.do(f"connection = socket.create_connection(('127.0.0.1', {port}))")
            cut = backend.cut()
        helper.do("connection.close()")
    assert of(records(cut.runs), helper.pid).count(Kind.CONNECT) == int(shown)
    tally = totals(cut.tallies)[Kind.CONNECT]
    assert tally.emitted + tally.filtered == tally.attempts >= 1


def test_detached_probes_are_silent(started: Core, helper: Helper) -> None:
    """After detach what was written can still be read, and nothing more comes."""
    helper.do("subprocess.run(['/bin/true'])")
    started.detach()
    before = started.tallies()
    helper.do("subprocess.run(['/bin/true'])")
    assert started.tallies() == before
    executions = [record for record in records(started.cut().runs) if record[KIND] == Kind.EXEC]
    assert any(record[-1].endswith(b"/bin/true\0") for record in executions)
    assert started.cut().runs == []


def test_close_is_idempotent() -> None:
    """A backend can be closed twice, and one that was never entered too."""
    backend = make()
    backend.close()
    with make() as backend:
        backend.start()
        backend.close()
    backend.close()
