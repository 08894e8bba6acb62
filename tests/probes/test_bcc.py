"""The bcc backend around its compiler: programs that do nothing stand for those that BCC would make."""

import errno
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.probes.test_core import EVERYTHING, OTHER, ROOT, SYSCALL_HOOKS
from tests.probes.test_program import EXIT, RETURN_7
from tracer.fallback.procfs import ProcFinder
from tracer.probes import bcc, tracefs
from tracer.probes.backend import UnusableError
from tracer.probes.bcc import Bcc
from tracer.probes.bcc_build import BuildError, Built
from tracer.probes.core import Core
from tracer.probes.records import SIZE, SOCKET

pytestmark = pytest.mark.live

STREAM = {"process_exec", "process_fork", "process_exit", "socket_state_change", "state_change_again"}


@pytest.fixture(name="compiler", autouse=True)
def _compiler(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The code that the compiler gives for each program; a test may change it."""
    code = dict.fromkeys(bcc._PROGRAMS, RETURN_7)
    monkeypatch.setattr(bcc, "build", lambda *_, **__: Built(dict(code), "9.9", 1.25, False))
    monkeypatch.setattr(Bcc, "_whoami", lambda _: (os.getpid(), 1))
    return code


def make() -> Bcc:
    """The backend."""
    return Bcc(EVERYTHING, 2 << 20, 64 << 10, ProcFinder())


def descriptors() -> list[str]:
    """What this process has open."""
    return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())


def test_everything_is_attached(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every hook of the core backend is attached here too, and the coverage tells by what the probes were compiled."""
    monkeypatch.setattr(bcc, "_pids", lambda: [os.getpid()])
    before = descriptors()
    with make() as backend:
        coverage = backend.start()
        assert backend.missed() == {}
        assert backend.cut().settled
    assert coverage.backend == "bcc"
    assert coverage.refused == {}
    assert coverage.hooks.keys() == STREAM | SYSCALL_HOOKS | {"syn_again"}
    assert coverage.hooks["process_exec"] == "raw_tp/sched_process_exec"
    assert coverage.hooks["exit_accept4"] == "tp/syscalls/sys_exit_accept4"
    assert coverage.compiled == {"by": "BCC 9.9", "cached": False, "milliseconds": 1250}
    assert descriptors() == before
    with Core(EVERYTHING, 2 << 20, 64 << 10) as core:
        # Whether the kernel hides process 1 only an iterator tells; and what is by BTF alone is blind here.
        here = set(core.start().blind)
        own = ("process 1", "multishot", "datagrams come from")
        assert {each for each in here if not any(words in each for words in own)} <= {*coverage.blind}
        assert "who accepted a connection through io_uring" in coverage.blind
        assert any("sockets other than TCP" in each for each in {*coverage.blind} - here)


def test_optional_program_that_is_refused(compiler: dict[str, bytes]) -> None:
    """A program that the verifier refuses is a blind spot, when the stream does without it."""
    compiler["exit_accept4"] = EXIT
    with make() as backend:
        coverage = backend.start()
    assert coverage.refused.keys() == {"exit_accept4"}
    assert "R0 !read_ok" in coverage.refused["exit_accept4"]
    assert "who accepted a connection by accept4(2)" in coverage.blind
    assert "exit_accept4" not in coverage.hooks


def test_stream_program_that_is_refused(compiler: dict[str, bytes]) -> None:
    """When it doesn't, the backend can't run: one line with the program and the verifier's reason, and code 4."""
    compiler["process_exec"] = EXIT
    before = descriptors()
    with pytest.raises(UnusableError, match=r"process_exec.*R0 !read_ok") as unusable, make():
        pass
    assert unusable.value.code == 4
    assert descriptors() == before


@pytest.mark.parametrize("program", ["process_exec", "exit_accept4"])
def test_kept_code_that_is_refused(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    """Code from the cache that the kernel refuses is compiled anew, once, when nothing works without it."""
    asked = []

    def build(*_: Any, fresh: bool) -> Built:
        asked.append(fresh)
        code = dict.fromkeys(bcc._PROGRAMS, RETURN_7)
        return Built(code if fresh else code | {program: EXIT}, "9.9", 0.0, not fresh)

    monkeypatch.setattr(bcc, "build", build)
    with make() as backend:
        coverage = backend.start()
    assert asked == ([False, True] if program == "process_exec" else [False])
    assert (program in coverage.hooks) is (program == "process_exec")


def test_nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What BCC lacks, or clang's first error, is the reason, with code 4."""

    def fail(*_: Any, **__: Any) -> Built:
        raise BuildError("no module bcc", "install it")

    monkeypatch.setattr(bcc, "build", fail)
    with pytest.raises(UnusableError, match="no module bcc; install it") as unusable, make():
        pass
    assert unusable.value.code == 4


def test_maps_and_layout_reach_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every map that the sources name has a number of its own, and the position of a result is the kernel's."""
    seen: list[Any] = []

    def note(*arguments: Any, fresh: bool) -> Built:
        assert not fresh
        seen.append(arguments)
        return Built(dict.fromkeys(bcc._PROGRAMS, RETURN_7), "9.9", 0.0, True)

    monkeypatch.setattr(bcc, "build", note)
    for _ in range(2):
        with make():
            pass
    maps, programs, position = seen[0]
    # Bytes and names are told by the core backend alone.
    others = {"bcc.h", "names.bpf.c", "wire.bpf.c"}
    sources = "".join(path.read_text() for path in (ROOT / "bpf").glob("*.[ch]") if path.name not in others)
    named = {each.partition(")")[0] for each in sources.split("MAP(")[1:]} - {"name", "map"}
    assert named <= maps.keys()
    assert len(set(maps.values())) == len(maps)
    assert position == 16
    assert set(programs) == set(bcc._PROGRAMS)
    assert seen[0] == seen[1]  # or the cache would never be of use


def test_without_tracefs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tracefs: the hooks of system calls are refused, and nothing depends on the unknown layout."""
    monkeypatch.setattr(tracefs, "open_events", lambda: None)
    with make() as backend:
        coverage = backend.start()
    assert coverage.refused.keys() == SYSCALL_HOOKS
    assert coverage.hooks.keys() == STREAM | {"syn_again"}


@pytest.fixture(name="other")
def _other() -> Iterator[int]:
    """Another tracer's pid."""
    with subprocess.Popen(
        [sys.executable, "-c", OTHER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        pid, _, _ = json.loads(process.stdout.readline())
        yield pid
        process.communicate("", timeout=30)


def test_other_tracers_are_excluded(other: int) -> None:
    """Another tracer is found by the map it holds, and left out with the start that it knows of itself."""
    with make() as backend:
        coverage = backend.start()
        marked = backend._maps.map("tracer_excluded").lookup(other.to_bytes(4, sys.byteorder))
    assert {os.getpid(), other} <= set(coverage.excluded)
    assert marked is not None
    ticks = int(Path(f"/proc/{other}/stat").read_text().rpartition(")")[2].split()[19])
    assert int.from_bytes(marked, sys.byteorder) // 10_000_000 == ticks


def test_other_users_map_is_not_believed(other: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that is neither root nor this user can't have anybody left out."""
    monkeypatch.setattr(bcc, "_effective_user", lambda _: 65534)
    with make() as backend:
        assert backend.start().excluded == [os.getpid()]


def test_sockets_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each socket of each process is looked at by a descriptor of our own that leads to it, and none stays open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        code = f"import sys; print('ready', flush=True); sys.stdin.read({server.fileno()})"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[server.fileno()],
        ) as child:
            assert child.stdout is not None
            child.stdout.readline()
            inode = os.fstat(server.fileno()).st_ino
            looked: list[tuple[int, int, int, bytes]] = []

            def ask(self: Bcc, name: str, arguments: bytes = b"") -> int:
                taken, pid, start, uid, _, comm = bcc._HELD.unpack(arguments)
                if os.fstat(taken).st_ino == inode:
                    looked.append((pid, start // 10_000_000, uid, comm.rstrip(b"\0")))
                    return 1
                return 0

            monkeypatch.setattr(Bcc, "_ask", ask)
            with make() as backend:
                backend.processes()  # the first look at a control group keeps the root of all open
                before = descriptors()
                found = backend.sockets()
                assert descriptors() == before
            ticks = int(Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[19])
            comm = Path(f"/proc/{child.pid}/comm").read_bytes().strip()
            child.communicate("", timeout=30)
    assert looked == [(child.pid, ticks, 0, comm)]
    assert found == SIZE.pack(SOCKET.size) + bytes(SOCKET.size)


def test_other_pid_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where /proc has other pids than the kernel's records nothing is taken from it, and that is told."""
    monkeypatch.setattr(Bcc, "_whoami", lambda _: (4_000_001, 1))
    with make() as backend:
        coverage = backend.start()
        assert backend.snapshot() == (b"", b"")
    assert coverage.own_pid == 4_000_001
    assert any("/proc is not that of the first pid namespace" in each for each in coverage.blind)


def test_descriptors_that_may_not_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes whose descriptors may not be taken are a blind spot, and counted."""
    monkeypatch.setattr(bcc, "_take", lambda *_: -errno.EPERM)
    monkeypatch.setattr(bcc, "_pids", lambda: [1, os.getpid()])
    with make() as backend:
        assert "sockets that 2 processes had before: looking into them is refused" in backend.start().blind
        assert backend.sockets() == b""


def test_records_have_room_in_the_answer() -> None:
    """The map in which programs answer holds a whole record."""
    with make() as backend:
        assert len(backend._answer) >= SOCKET.size
