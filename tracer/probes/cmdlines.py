"""Read from /proc the arguments of processes that an iterator could describe, but whose memory it could not read.

A program can read another process's memory only in a sleepable iterator, which kernels before 5.18 do not have. What
/proc tells is about a pid, so it is taken only where the process's start is the record's before and after.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tracer.model import NS_PER_TICK, Flag
from tracer.probes.records import EXEC, FLAGS, SIZE, START, TGID, frames

__all__ = ["ARGS_BYTES", "with_arguments"]

ARGS_BYTES: Final = 12288
"""The most bytes of arguments in a record: ARGS_BYTES of bpf/tracer.h."""

_PROC: Final = Path("/proc")
_START_FIELD: Final = 19  # of /proc/PID/stat, counted behind the name: starttime, field 22 in proc(5)
_ARGS_TOTAL: Final = 25  # positions in a decoded record of struct exec_record
_ARGS_LENGTH: Final = -2


def with_arguments(processes: bytes) -> bytes:
    """The records of an iterator, behind their sizes, with the arguments that it could not read.

    A record stays as it is, flagged as without them, where /proc has none: the process is gone, or another one has its
    pid, or /proc is another pid namespace's. Raises DecodeError.
    """
    return b"".join(SIZE.pack(len(frame)) + frame for frame in map(_completed, frames(processes)))


def _completed(frame: bytes) -> bytes:
    fields = list(EXEC.unpack_from(frame))
    if not fields[FLAGS] & Flag.FAULT_ARGS or fields[_ARGS_LENGTH]:
        return frame
    args = _arguments(fields[TGID], fields[START])[: min(fields[_ARGS_TOTAL], ARGS_BYTES)]
    if not args:
        return frame
    fields[FLAGS] &= ~Flag.FAULT_ARGS
    fields[_ARGS_LENGTH] = len(args)
    return EXEC.pack(*fields) + frame[EXEC.size :] + args


def _arguments(pid: int, start: int) -> bytes:
    """The arguments of the process with this pid that started ``start`` ns after boot; nothing if it is not there."""
    ticks = start // NS_PER_TICK
    place = _PROC / str(pid)
    try:
        before = _started(place)
        with (place / "cmdline").open("rb", buffering=0) as file:
            args = file.read(ARGS_BYTES)
        return args if before == ticks == _started(place) else b""
    except (OSError, ValueError, IndexError):
        return b""


def _started(place: Path) -> int:
    """When the process in this directory began, in ticks since boot. Raises OSError, ValueError, IndexError."""
    # The name before the last bracket may hold anything, brackets and blanks too.
    return int((place / "stat").read_bytes().rpartition(b")")[2].split()[_START_FIELD])
