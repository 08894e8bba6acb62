"""What /proc/PID/stat says of a process: who it is, whether it lives, and what tells one program of it from the next.

The fields are those of proc(5), counted from 1; the format is do_task_stat() of the kernel's fs/proc/array.c.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["KTHREAD", "Image", "Stat", "parse"]

# Bits of a task's flags in include/linux/sched.h, the same since 2.6.
KTHREAD: Final = 0x00200000
_NOT_EXECUTED: Final = 0x00000040  # PF_FORKNOEXEC: set by fork, cleared by exec

Image = tuple[bytes, bytes, bytes]
"""Where code begins and ends and where the stack begins: of an address space, which each exec makes anew."""

_SHOWN: Final = (b"1", b"1", b"0")  # what stands there for who may not trace the process
_NONE: Final = (b"0", b"0", b"0")  # a kernel thread, a process that has ended, and one in the middle of an exec


class Stat(NamedTuple):
    """``start`` is in ticks since boot, ``cpu`` in ticks of all threads, ``status`` as wait(2) gives it.

    ``image`` is None where this reader may not know it.
    """

    comm: bytes
    state: bytes
    parent: int
    flags: int
    cpu: int
    threads: int
    start: int
    image: Image | None
    status: int

    @property
    def ended(self) -> bool:
        """Whether its last thread has ended: a leader that ended first stays a zombie while others run on."""
        return self.state in (b"Z", b"X") and self.threads <= 1

    @property
    def executed(self) -> bool:
        """Whether this very process has executed a program since it was forked."""
        return not self.flags & (_NOT_EXECUTED | KTHREAD)

    @property
    def settled(self) -> bool:
        """Whether it is not in the middle of an exec, where half of what can be read is still that of before."""
        return self.image != _NONE or bool(self.flags & KTHREAD) or self.state in (b"Z", b"X")


def parse(text: bytes) -> Stat:
    """Read the text of the file. Raises ValueError for what is none."""
    head, bracket, tail = text.rpartition(b")")  # the name may hold anything
    fields = tail.split()
    if not bracket or len(fields) < 50:
        raise ValueError(f"no stat of a process: {text[:80]!r}")
    image = (fields[23], fields[24], fields[25])
    return Stat(
        head.partition(b"(")[2],
        fields[0],
        int(fields[1]),
        int(fields[6]),
        int(fields[11]) + int(fields[12]),
        int(fields[17]),
        int(fields[19]),
        None if image == _SHOWN else image,
        int(fields[49]),
    )
