"""The coverage record: what feeds the stream, what can't be seen, and what that costs."""

from __future__ import annotations

import os
from typing import Any, Final

from tracer.pipeline.view import Filters
from tracer.probes.source import Coverage

__all__ = ["coverage_record"]

# The iterators walk the pid namespace of their reader (task_seq_get_next() in kernel/bpf/task_iter.c).
_OTHER_NAMESPACES: Final = "processes and sockets outside this pid namespace that were there before"


def coverage_record(coverage: Coverage, filters: Filters, steps: dict[str, str], *, snapshot: bool) -> dict[str, Any]:
    """What goes under tracer.coverage. ``steps`` tells of better backends why they were not used."""
    found: dict[str, Any] = {
        "backend": coverage.backend,
        "hooks": coverage.hooks,
        "blind": [
            *coverage.blind,
            *([_OTHER_NAMESPACES] if coverage.own_pid != os.getpid() else []),
        ],
        "excluded": coverage.excluded,
        "buffer": coverage.buffer,
        "filters": filters.as_json(),
        "snapshot": snapshot,
        "pid": coverage.own_pid,
    }
    taxing = sum(section.startswith("tp/syscalls/") for section in coverage.hooks.values())
    if taxing:
        found["costs"] = [f"{taxing} tracepoints of system calls: every call on the machine takes some 30 ns longer"]
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
