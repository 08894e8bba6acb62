"""The live path at a set rate: records of the reference mix put into a running tracer's own rings by a BPF program."""

from __future__ import annotations

import ctypes
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scripts.bench.figures import Row, Spread
from scripts.bench.mix import KINDS, Mix, records
from scripts.bench.programs import BenchError
from scripts.bench.session import Tracer, problems, settle
from scripts.bench.startup import map_ids
from scripts.bench.throughput import core
from scripts.build_bpf import TARGET_ARCH, include_flags
from tracer.probes import libbpf
from tracer.probes.libbpf_binding import BpfError, library, online_cpus

__all__ = ["GROUPS", "RATES", "STEPS", "Feeder", "compiled", "live_rate", "maps_of", "templates"]

GROUP: Final = "the live path: records of the mix put into the tracer's rings by a BPF program, the tracer on one core"
RATES: Final = (50_000, 100_000, 200_000)
GROUPS: Final = 256  # as in feeder.bpf.c, like the next two
STEPS: Final = len(KINDS)
MOST: Final = 64
_BYTES: Final = 1_020
_SHARED: Final = ("lifecycle", "bulk", "tallies", "sequences")
_SECONDS: Final = 4.0
_TICK_S: Final = 0.002
_ROOT: Final = Path(__file__).parent.parent.parent
_BPF_MAP_GET_FD_BY_ID: Final = 14
_BPF_SYSCALLS: Final = {"x86_64": 321, "aarch64": 280}
_TEMPLATE: Final = struct.Struct(f"=I{_BYTES}s")
_ARGUMENTS: Final = struct.Struct("=QQ")
_NAME: Final = struct.Struct("=24x16s")  # of struct bpf_map_info
_libc = ctypes.CDLL(None, use_errno=True)


def templates() -> Iterator[tuple[int, bytes]]:
    """The ready-made records by place: four for each of the groups, as exec, connect, close and exit come."""
    for record in records(Mix(GROUPS * STEPS, GROUPS)):
        pid = struct.unpack_from("=I", record.data, 24)[0]
        yield (pid - 5_000) * STEPS + KINDS.index(record.kind), _TEMPLATE.pack(len(record.data), bytes(record.data))


def compiled(directory: Path) -> Path:
    """Compile the program into ``directory``. Raises BenchError."""
    machine = os.uname().machine
    clang = shutil.which(os.environ.get("CLANG", "clang"))
    if clang is None or machine not in TARGET_ARCH:
        raise BenchError("clang for this machine is missing")
    made = directory / "feeder.bpf.o"
    flags = ["-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{TARGET_ARCH[machine]}", *include_flags(machine)]
    flags += ["-I", str(_ROOT / "bpf"), "-g", "-O2", "-Wall", "-Wextra", "-Werror"]
    source = Path(__file__).with_name("feeder.bpf.c")
    command = [clang, *flags, "-c", str(source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"the feeder does not build: {done.stderr.strip()[-300:]}")
    return made


def _map_fd(number: int) -> int:
    attributes = struct.pack("=III", number, 0, 0)
    command = ctypes.c_long(_BPF_MAP_GET_FD_BY_ID)
    fd: int = _libc.syscall(
        ctypes.c_long(_BPF_SYSCALLS[os.uname().machine]), command, attributes, ctypes.c_long(len(attributes))
    )
    if fd < 0:
        raise BenchError(f"map {number} can't be opened: {os.strerror(ctypes.get_errno())}")
    return fd


def _map_name(fd: int) -> str:
    lib = library()
    info, length = ctypes.create_string_buffer(_NAME.size), ctypes.c_uint32(_NAME.size)
    lib.check(lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length)), "map info")
    name: bytes = _NAME.unpack(info.raw)[0]
    return name.rstrip(b"\0").decode()


@contextmanager
def maps_of(pid: int) -> Iterator[dict[str, int]]:
    """Descriptors of a process's maps, by name."""
    found: dict[str, int] = {}
    try:
        for number in map_ids(pid):
            fd = _map_fd(number)
            found.setdefault(_map_name(fd), fd)
        yield found
    finally:
        for fd in found.values():
            os.close(fd)


class Feeder:
    """The program, loaded on the tracer's maps. ``processes`` is how many were fed, each with STEPS records."""

    def __init__(self, made: Path, maps: dict[str, int], first: int = 0) -> None:
        """``first`` is the number of the first process: each has a pid and a start of its own by that."""
        if missing := set(_SHARED) - set(maps):
            raise BenchError(f"the tracer has no map {', '.join(sorted(missing))}")
        share = {name: maps[name] for name in _SHARED}
        self._object, _ = libbpf.load(made, knobs={}, optional=(), share=share)
        for place, template in templates():
            self._object.map("templates").update(struct.pack("=I", place), template)
        self._program = self._object.program_fd("feed")
        self._cpus = online_cpus()
        self._first = first
        self.processes = 0

    def feed(self, rate: int, seconds: float) -> float:
        """Emit ``rate`` records a second, each CPU in turn, and return for how long."""
        begin = time.monotonic()
        due = 0.0
        while (now := time.monotonic() - begin) < seconds:
            due = now * rate / STEPS
            while self.processes < due:
                many = min(MOST, int(due) + 1 - self.processes)
                cpu = self._cpus[self.processes // MOST % len(self._cpus)]
                libbpf.run_program(self._program, cpu, _ARGUMENTS.pack(self._first + self.processes, many))
                self.processes += many
            time.sleep(_TICK_S)
        return time.monotonic() - begin

    def close(self) -> None:
        """Take the program out of the kernel."""
        self._object.close()


def _run(directory: Path, made: Path, rate: int) -> Row:
    output = directory / "fed.ndjson"
    with Tracer(output, prefix=("taskset", "-c", str(core()))) as tracer, maps_of(tracer.pid) as maps:
        feeder = Feeder(made, maps)
        try:
            seconds = feeder.feed(rate, _SECONDS)
        finally:
            feeder.close()
        tracer.mark()
        settle()
    kinds = {kind.label: tracer.ledger["by_kind"][kind.label] for kind in KINDS}
    fed = feeder.processes * STEPS
    short = {name: terms for name, terms in kinds.items() if terms["attempts"] < feeder.processes}
    wrong = [f"only {terms['attempts']:,} {name} counted of {feeder.processes:,}" for name, terms in short.items()]
    lost = sum(terms["lost"] for terms in kinds.values())
    told = f"{lost:,} lost ({lost / fed:.1%}), each counted" if lost else "0 lost"
    other = [found for found in problems(tracer.ledger) if not found.endswith("lost")]
    output.unlink()
    return Row(
        f"fed {rate:,} events/s",
        GROUP,
        Spread.of([fed / seconds]),
        form=",.0f",
        unit="/s",
        note=f"{told}; {tracer.cpu / tracer.seconds:.0%} of one CPU",
        wrong=wrong + other,
        facts={"fed": fed, "lost": lost, "cpu_share": tracer.cpu / tracer.seconds},
    )


def live_rate(directory: Path, rates: tuple[int, ...]) -> Iterator[str | Row]:
    """A row for each rate; yields a word after each run. One row says why where it can't be done."""
    try:
        made = compiled(directory)
        for rate in rates:
            row = _run(directory, made, rate)
            yield f"{rate:,}/s"
            yield row
    except (BenchError, BpfError) as failed:
        yield Row("fed through the rings", GROUP, None, note=f"can't run here: {failed}")
