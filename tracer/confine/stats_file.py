"""What the process of the stats file keeps: to replace files in one directory, and to hear over one socket.

It is forked before anything is loaded. What it hears is JSON, of which it makes text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tracer.confine import capabilities
from tracer.confine.plan import Plan
from tracer.confine.seccomp_filter import WORKER, on_descriptors, rules

__all__ = ["stats_plan"]

_OVERRIDE: Final = frozenset({"CAP_DAC_OVERRIDE"})
"""What root writes in the directories of others by."""
_NOT_ITS: Final = frozenset({"clone", "clone3", "bpf", "epoll_wait", "epoll_pwait", "epoll_ctl", "ioctl", "writev"})


def stats_plan(directory: Path, fd: int) -> Plan:
    """What is left to a process that replaces files in ``directory``; ``fd`` is the socket that it hears over."""
    calls = (
        *(rule for rule in WORKER if rule.name not in _NOT_ITS),
        *rules("openat fchmod unlinkat renameat renameat2"),
        *on_descriptors("recvfrom sendto", fd),
    )
    return Plan(None, _OVERRIDE & capabilities.read().permitted, calls, kept=(directory,))
