"""The coverage record: what feeds the stream, what can't be seen, and what that costs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

from tracer.pipeline.view import Filters
from tracer.probes.source import Coverage

__all__ = ["coverage_record", "old_groups"]

# The iterators walk the pid namespace of their reader (task_seq_get_next() in kernel/bpf/task_iter.c).
_OTHER_NAMESPACES: Final = "processes and sockets outside this pid namespace that were there before"


# Whose groups of version 1 the probes look at, where a process is in the root of version 2.
_CONTROLLERS: Final = frozenset({"pids", "memory", "cpu", "devices"})
_OLD_GROUPS: Final = "that a process went to another control group of version 1, until it executes something"


def old_groups(path: str = "/proc/self/cgroup") -> bool:
    """Whether this machine has groups of version 1 that a process's path may be told of."""
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(_CONTROLLERS & set(line.split(":")[1].split(",")) for line in lines if line.count(":") > 1)


_AT_DEVICES: Final = "packet_comes"  # of bpf/wire.bpf.c


def coverage_record(coverage: Coverage, filters: Filters, steps: dict[str, str], *, snapshot: bool) -> dict[str, Any]:
    """What goes under tracer.coverage. ``steps`` tells of better backends why they were not used."""
    found: dict[str, Any] = {
        "backend": coverage.backend,
        "hooks": coverage.hooks,
        "blind": [
            *coverage.blind,
            *([_OTHER_NAMESPACES] if coverage.own_pid != os.getpid() else []),
            *([_OLD_GROUPS] if old_groups() else []),
        ],
        "excluded": coverage.excluded,
        "buffer": coverage.buffer,
        "filters": filters.as_json(),
        "snapshot": snapshot,
        "flood_budget": coverage.flood,
        "pid": coverage.own_pid,
    }
    taxing = sum(section.startswith("tp/syscalls/") for section in coverage.hooks.values())
    costs = (
        [f"{taxing} tracepoints of system calls: every call on the machine takes some 30 ns longer"] if taxing else []
    )
    if _AT_DEVICES in coverage.hooks:
        costs.append("programs at network devices: a packet that goes takes some 0.4 µs longer, one that comes 0.7 µs")
    if costs:
        found["costs"] = costs
    if coverage.moved:
        found["moved"] = True
    if coverage.refused:
        found["refused"] = coverage.refused
    if steps:
        found["steps_down"] = steps
    if coverage.compiled is not None:
        found["compiled"] = coverage.compiled
    if coverage.polling is not None:
        found["polling"] = coverage.polling
    if coverage.uncounted:
        found["uncounted"] = list(coverage.uncounted)
    if coverage.fix is not None:
        found["fix"] = coverage.fix
    if coverage.own_pid != os.getpid():
        found["pid_namespace"] = {
            "own_pid": os.getpid(),
            "note": "not in the initial pid namespace: pids here are the host's, not those that /proc shows",
        }
    return found
