"""Arguments from /proc for processes that an iterator could only describe: those of exactly that process, or none."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import wire
from tracer.model import NS_PER_TICK, Flag, Kind
from tracer.probes import cmdlines
from tracer.probes.cmdlines import ARGS_BYTES, with_arguments
from tracer.probes.records import FLAGS, Record, decode, frames

ROOT = Path(__file__).parents[2]
ARGUMENTS = [b"sleep", b"100", b"", b"b\xe4d \n"]


@pytest.fixture(scope="module", name="child")
def _child() -> Iterator[int]:
    """A process with arguments of its own."""
    code = b"import time; print('up', flush=True); time.sleep(100)"
    with subprocess.Popen([b"/usr/bin/python3", b"-ISc", code, *ARGUMENTS], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def begun(pid: int) -> int:
    """When a process began, as the kernel has it: some nanoseconds into the tick that /proc tells."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]) * NS_PER_TICK + 4711


def found(pid: int, start: int, total: int, flags: int = Flag.FAULT_ARGS) -> bytes:
    """A process as the plain iterator describes it."""
    given: dict[str, Any] = {"tgid": pid, "tid": pid, "start": start, "args_total": total, "flags": flags, "argc": 0}
    return wire.framed(wire.executed(args=(), kind=Kind.PROCESS_FOUND, **given))


def told(processes: bytes) -> list[Record]:
    """The records, decoded, after what /proc tells."""
    return [decode(frame, 0) for frame in frames(with_arguments(processes))]


def args(record: Record) -> bytes:
    """The arguments of a decoded record."""
    return bytes(record[-1][sum(record[-8:-3]) :])


def test_arguments_are_those_of_the_process(child: int) -> None:
    """The record gets the very bytes of the process's arguments, loses its flag, and keeps all else."""
    true = Path(f"/proc/{child}/cmdline").read_bytes()
    before = found(child, begun(child), len(true))
    (record,) = told(before)
    (old,) = [decode(frame, 0) for frame in frames(before)]
    assert args(record) == true
    assert true.endswith(b"\0".join(ARGUMENTS) + b"\0")
    assert record[FLAGS] == 0
    assert record[-1].startswith(old[-1])
    assert record[9:-3] == old[9:-3]


@pytest.mark.parametrize("off", [-NS_PER_TICK, NS_PER_TICK])
def test_another_process_with_the_pid_is_not_believed(child: int, off: int) -> None:
    """A process that began a tick earlier or later is another one: the record stays as it was."""
    before = found(child, begun(child) + off, 100)
    assert with_arguments(before) == before


def test_process_that_is_gone() -> None:
    """A pid that nobody has leaves the record as it was."""
    with subprocess.Popen(["/bin/true"]) as process:
        start = begun(process.pid)
    before = found(process.pid, start, 100)
    assert with_arguments(before) == before


def test_only_what_is_missing_is_read(child: int) -> None:
    """Records with arguments, or of processes that have none, are not touched; each of several is looked at."""
    ready = wire.framed(wire.executed(kind=Kind.PROCESS_FOUND, tgid=child, start=begun(child)))
    kernel = found(child, begun(child), 0, flags=Flag.KTHREAD)
    lacking = found(child, begun(child), 1 << 20)
    after = with_arguments(ready + kernel + lacking)
    assert after.startswith(ready + kernel)
    assert after != ready + kernel + lacking
    assert len(list(frames(after))) == 3


@pytest.mark.parametrize("total", [7, ARGS_BYTES * 2])
def test_no_more_than_a_record_holds(child: int, total: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At most the bytes that the process had for arguments are taken, and at most those that a record has room for."""
    place = tmp_path / str(child)
    place.mkdir()
    (place / "stat").write_bytes(Path(f"/proc/{child}/stat").read_bytes())
    (place / "cmdline").write_bytes(b"x" * (ARGS_BYTES + 5))
    monkeypatch.setattr(cmdlines, "_PROC", tmp_path)
    (record,) = told(found(child, begun(child), total))
    assert args(record) == b"x" * min(total, ARGS_BYTES)


def test_pid_reused_between_two_looks(child: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the start is another one after the arguments were read, they are not believed."""
    looks = iter([begun(child) // NS_PER_TICK, begun(child) // NS_PER_TICK + 1])
    monkeypatch.setattr(cmdlines, "_started", lambda _: next(looks))
    before = found(child, begun(child), 100)
    assert with_arguments(before) == before


@pytest.mark.parametrize("stat", [b"", b"7 (name", b"7 (na) me) S 1 x", b"7 (x) " + b"y " * 40])
def test_strange_stat_is_no_error(stat: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can't be understood tells nothing."""
    place = tmp_path / "7"
    place.mkdir()
    (place / "stat").write_bytes(stat)
    (place / "cmdline").write_bytes(b"x\0")
    monkeypatch.setattr(cmdlines, "_PROC", tmp_path)
    before = found(7, 1, 100)
    assert with_arguments(before) == before


def test_room_is_that_of_the_wire() -> None:
    """The bound is the probes'."""
    header = (ROOT / "bpf/tracer.h").read_text()
    assert re.search(rf"#define ARGS_BYTES {ARGS_BYTES}\b", header)
    assert os.sysconf("SC_CLK_TCK") == 1_000_000_000 // NS_PER_TICK
