"""What a running session measures of itself, as facts for its stats file."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

__all__ = ["NOTHING", "Measured"]

NOTHING: Final[Mapping[str, Any]] = {
    "complete": True,
    "by_kind": {},
    "total": {"lost_by_stage": {}},
    "missed": {"programs": {}, "map_full": {}},
}
"""The ledger before there is any."""
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_TOLD: Final = tuple(NOTHING)


class Measured:
    """What is said of a session once, and what its process measures."""

    def __init__(self, *, version: str, backend: str, boot_id: str, hooks_refused: int, every_s: float) -> None:
        """``every_s``: how often the figures are told, s. Opens what is needed to measure."""
        self._constant = {
            "info": {"version": version, "backend": backend, "boot_id": boot_id},
            "hooks_refused": hooks_refused,
            "interval_s": every_s,
            "started": time.time(),
        }
        self._layers: dict[str, bool] = {}
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        self._looked = (time.monotonic(), _cpu_s())

    def confined(self, record: Mapping[str, Any]) -> None:
        """Take in the record of the confinement."""
        layers = record.get("layers", {})
        self._layers = {name: state == "enforced" for name, state in layers.items() if state != "off"}

    def facts(self, ledger: Mapping[str, Any], *, events: int, lag_s: float, running: bool) -> bytes:
        """The figures as of the body of a ledger record, as JSON; the share of the CPU is that since the last time.

        ``events`` were shown; ``lag_s``: how far reading was behind, s.
        """
        before, spent_before = self._looked
        now, spent = self._looked = time.monotonic(), _cpu_s()
        return orjson.dumps(
            {
                **self._constant,
                "ledger": {name: ledger[name] for name in _TOLD},
                "layers": self._layers,
                "events": events,
                "lag_s": lag_s,
                "running": running,
                "updated_s": time.clock_gettime(time.CLOCK_BOOTTIME),
                "memory": int(os.pread(self._memory, 128, 0).split()[1]) * _PAGE,
                "cpu_s": spent,
                "cpu_share": (spent - spent_before) / (now - before) if now > before else 0.0,
            }
        )

    def close(self) -> None:
        """Measure no more."""
        os.close(self._memory)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
