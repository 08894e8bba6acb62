"""Compiles the generator of traffic, runs its rows, and reads what its processes say of themselves."""

import errno
import json
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scripts.attribution.check import PATIENCE
from scripts.bytes.errors import BytesError

ROOT = Path(__file__).resolve().parents[2]
SOURCES = Path("scripts/bytes/traffic")
SHARED = Path("tests/traps/programs")  # what the trap programs share
_WITHIN_S = 300 * PATIENCE  # the generator ends itself sooner
_MISSING = 77  # as in traffic/ends.c


class Row(NamedTuple):
    """A row of the generator: its name, and what it does, in words."""

    name: str
    about: str


class Flow(NamedTuple):
    """What one process says it has moved on one flow: bytes, and calls or messages that moved some.

    `start` is in clock ticks since boot, `netns` the inode of the socket's namespace, `via` the way the bytes took
    (empty where that has no one name). What has no address or port says '' and 0.
    """

    pid: int
    start: int
    exe: str
    netns: int
    transport: str
    via: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    sent: int
    received: int
    sends: int
    receives: int


class Ran(NamedTuple):
    """What became of a row: its flows, or what this kernel lacks, or how it failed (the last two empty if not)."""

    row: Row
    flows: list[Flow]
    missing: str = ""
    failed: str = ""


def compile_generator(target: Path, machine: str = "", tree: Path = ROOT) -> None:
    """Compile that of a source tree, static, for `machine`, by default this one.

    Raises BytesError with the compiler's message.
    """
    # A guest has it compiled, and not the tests.
    from tests.traps.compiling import CompileError, compile_program, compiler

    first, *others = sorted((tree / SOURCES).glob("*.c"))
    extra = ("-O2", "-Werror", f"-I{tree / SHARED}", *map(str, others))
    try:
        compile_program(first, target, compiler(machine), *extra, machine=machine)
    except CompileError as error:
        raise BytesError(str(error)) from error


def rows_of(generator: Path) -> list[Row]:
    """The rows that the generator has. Raises BytesError."""
    done = _run([str(generator), "list"])
    if done.returncode:
        raise BytesError(f"{generator} list ended with {done.returncode}: {done.stderr.strip()}")
    return [Row(line["row"], line["about"]) for line in map(json.loads, done.stdout.splitlines())]


def run(generator: Path, row: Row, near: Path, far: Path) -> Ran:
    """Run a row between the network namespaces of these two files. Raises BytesError when it can't even start."""
    done = _run([str(generator), row.name, str(near), str(far)])
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    if done.returncode == _MISSING:
        lacks = next(line for line in lines if line["what"] == "missing")
        return Ran(row, [], missing=f"{lacks['facility']}: {errno.errorcode.get(lacks['errno'], lacks['errno'])}")
    if done.returncode:
        return Ran(row, [], failed=f"the generator ended with {done.returncode}: {done.stderr.strip()}")
    return Ran(row, list(flows_of(lines)))


def flows_of(lines: Iterable[dict[str, Any]]) -> Iterator[Flow]:
    """The flows among the lines of a row."""
    for line in lines:
        if line["what"] == "flow":
            yield Flow(**{name: line[name] for name in Flow._fields})


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=_WITHIN_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BytesError(f"the generator: {error}") from error
