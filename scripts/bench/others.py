"""What else watches the same events, each for the length of a block: strace, bpftrace, BCC's tools, and the floor."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from tracer.probes import libbpf, tracefs
from tracer.probes.backend import OBJECTS

__all__ = ["OTHERS", "CannotRun", "Other", "reason"]

_READY_S: Final = 30
_END_S: Final = 20
_FAILURE: Final = re.compile(r"unable|can't|cannot|failed|error|not permitted|no such", re.IGNORECASE)

# Like the default events of tracer: execs with their arguments, exits, and every TCP state change.
_BPFTRACE: Final = """
tracepoint:syscalls:sys_enter_execve { printf("%d %s ", pid, comm); join(args->argv); }
tracepoint:sched:sched_process_exec { printf("exec %d %s %s\\n", pid, comm, str(args->filename)); }
tracepoint:sched:sched_process_exit { printf("exit %d %s\\n", pid, comm); }
tracepoint:sock:inet_sock_set_state /args->protocol == 6/ {
  printf("tcp %d %s %d-%d %s:%d %s:%d\\n", pid, comm, args->oldstate, args->newstate,
    ntop(args->family, args->saddr_v6), args->sport, ntop(args->family, args->daddr_v6), args->dport);
}
"""


class CannotRun(Exception):  # noqa: N818 - a fact about the machine, not an error of the benchmark
    """The tool can't run here; the message is its own reason."""


class Other(NamedTuple):
    """A tool: what it is called, for which workloads, and how a command is run under it."""

    name: str
    workloads: tuple[str, ...]
    around: Callable[[Path], AbstractContextManager[list[str]]]  # a directory -> what goes before the command
    pairs: int = 3


def reason(text: str) -> str:
    """The line of a tool's stderr that tells why it can't run: the first that names a failure, else the last."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if _FAILURE.search(line)]
    return (telling or lines[-1:] or ["it said nothing"])[0].partition(". ")[0][:120]


def _tool(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise CannotRun(f"{names[0]} is not installed")


@contextmanager
def _strace(directory: Path) -> Iterator[list[str]]:
    """All system calls of the workload and its children, into a file."""
    yield [_tool("strace"), "-f", "-qq", "-o", str(directory / "strace")]


@contextmanager
def _beside(command: Sequence[str], directory: Path, ready: str) -> Iterator[list[str]]:
    """Run a tool beside the block, from when its output says that it is ready."""
    output, errors = directory / "other", directory / "other.stderr"
    with output.open("w") as out, errors.open("w") as err:
        tool = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        deadline = time.monotonic() + _READY_S
        while ready not in output.read_text(errors="replace"):
            if tool.poll() is not None:
                raise CannotRun(reason(output.read_text(errors="replace") + errors.read_text(errors="replace")))
            if time.monotonic() > deadline:
                raise CannotRun(f"not ready within {_READY_S} s")
            time.sleep(0.05)
        time.sleep(0.3)
        yield []
    finally:
        if tool.poll() is None:
            tool.send_signal(signal.SIGINT)
            try:
                tool.wait(_END_S)
            except subprocess.TimeoutExpired:
                tool.kill()
        tool.wait()


@contextmanager
def _bpftrace(directory: Path) -> Iterator[list[str]]:
    """In a mount namespace of its own, where tracefs can be mounted without anybody noticing."""
    mounted = 'mountpoint -q /sys/kernel/tracing || mount -t tracefs nodev /sys/kernel/tracing; exec "$@"'
    unshare = [_tool("unshare"), "--mount", "sh", "-c", mounted, "sh"]
    with _beside([*unshare, _tool("bpftrace"), "-f", "json", "-e", _BPFTRACE], directory, "attached_probes") as prefix:
        yield prefix


@contextmanager
def _execsnoop(directory: Path) -> Iterator[list[str]]:
    with _beside([_tool("execsnoop-bpfcc", "execsnoop")], directory, "PCOMM") as prefix:
        yield prefix


@contextmanager
def _tcpconnect(directory: Path) -> Iterator[list[str]]:
    with _beside([_tool("tcpconnect-bpfcc", "tcpconnect")], directory, "PID") as prefix:
        yield prefix


@contextmanager
def _floor(_: Path) -> Iterator[list[str]]:
    """A program that does nothing, on the return of one system call that the workload does not make."""
    path = OBJECTS / "trial.bpf.o"
    with libbpf.Object.open(path) as closed:
        others = [name for name in closed.program_names() if name != "try_tp"]
    events = tracefs.open_events()
    number = tracefs.tracepoint_id(events, "syscalls", "sys_exit_accept4") if events is not None else None
    if events is not None:
        os.close(events)
    if number is None:
        raise CannotRun("no access to tracefs")
    loaded, _refused = libbpf.load(path, knobs={}, optional=(), disabled=others)
    with loaded:
        loaded.attach_tracepoint("try_tp", number)
        yield []


OTHERS: Final = (
    # The least that any tracer costs on a kernel where only tracepoints tell who accepted a connection.
    Other("the floor, an empty program on sys_exit_accept4", ("find",), _floor, 41),
    Other("strace -f", ("spawn", "connect"), _strace),
    Other("bpftrace", ("spawn", "connect"), _bpftrace),
    Other("BCC execsnoop", ("spawn",), _execsnoop),
    Other("BCC tcpconnect", ("connect",), _tcpconnect),
)
