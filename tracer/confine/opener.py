"""What the opener keeps: to open files in one directory, and to answer over one socket.

It is forked before anything is loaded, and nothing comes to it but questions of 36 bytes. One that keeps a directory
can rename and remove what is in there, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tracer.confine import capabilities
from tracer.confine.plan import Plan
from tracer.confine.seccomp_filter import WORKER, Check, Rule, on_descriptors, rules

__all__ = ["keeper_plan", "opener_plan"]

_OVERRIDE: Final = frozenset({"CAP_DAC_OVERRIDE"})
"""What root opens the files of others by: logrotate may have made the next one for somebody else."""
_INT: Final = 0xFFFFFFFF
_FIONBIO: Final = 0x5421
_NOT_ITS: Final = frozenset({"clone", "clone3", "bpf", "epoll_wait", "epoll_pwait", "epoll_ctl", "ioctl", "writev"})


def opener_plan(directory: Path, fd: int | None) -> Plan:
    """What is left to a process that opens files in ``directory``; ``fd`` is the socket that it is asked over."""
    calls = (
        *(rule for rule in WORKER if rule.name not in _NOT_ITS),
        *rules("open openat stat newfstatat statx"),
        Rule("ioctl", (Check(1, _INT, _FIONBIO),)),
        *(() if fd is None else on_descriptors("recvmsg sendmsg", fd)),
    )
    return Plan(None, _OVERRIDE & capabilities.read().permitted, calls, writable=(directory,))


def keeper_plan(directory: Path, fd: int | None = None, reads: Iterable[Path] = ()) -> Plan:
    """What is left to a process that keeps ``directory``, and may read what lies beside ``reads``; ``fd`` as above."""
    plan = opener_plan(directory, fd)
    calls = rules("renameat renameat2 unlink unlinkat getdents64 ftruncate readlink readlinkat rename flock")
    readable = tuple(path.parent for path in reads)
    return plan._replace(calls=(*plan.calls, *calls), readable=readable, writable=(), kept=(directory,))
