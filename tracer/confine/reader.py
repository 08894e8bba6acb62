"""What a process keeps that reads files that may be hostile: to open for reading what lies in their directories.

There is no network, no other process, and nothing can be executed or written, but for one directory of which that is
wanted. Without Landlock (before Linux 5.13) files of any directory can be opened for reading.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tracer.confine import capabilities
from tracer.confine.plan import Plan
from tracer.confine.seccomp_filter import WORKER, Check, Rule, rules

__all__ = ["parser_plan", "reader_plan"]

_READ: Final = frozenset({"CAP_DAC_READ_SEARCH"})
"""What root reads the files of others by."""
_WRITE: Final = frozenset({"CAP_DAC_OVERRIDE"})
_NOT_ITS: Final = frozenset({"bpf", "epoll_wait", "epoll_pwait", "epoll_ctl"})
_WRITES: Final = 0o3 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC

_PARSING: Final = tuple(rule for rule in WORKER if rule.name not in _NOT_ITS)


def reader_plan(directories: Iterable[Path], kept: Path | None = None) -> Plan:
    """What is left to a process that reads files in ``directories``, and makes and renames files in ``kept``."""
    calls = (*_PARSING, *rules("stat lstat newfstatat statx getdents64"))
    wanted = _READ
    if kept is None:
        calls += tuple(Rule(name, (Check(at, _WRITES, 0),)) for name, at in (("open", 1), ("openat", 2)))
    else:
        calls += rules("open openat rename renameat renameat2 unlink unlinkat")
        wanted |= _WRITE
    return Plan(
        None,
        wanted & capabilities.read().permitted,
        calls,
        readable=tuple(dict.fromkeys(directories)),
        kept=() if kept is None else (kept,),
    )


def parser_plan() -> Plan:
    """What is left to a process that has read all that it will, and writes to what is open."""
    return Plan(calls=_PARSING)
