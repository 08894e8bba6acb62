"""The wall clock beside CLOCK_BOOTTIME: measured closely, and followed when it is stepped."""

from __future__ import annotations

import time
from typing import Final

from tracer.probes.source import boottime

__all__ = ["Clock", "offset_now"]

_STEP_NS: Final = 1_000_000  # below this a difference is the measuring itself
_CLOSE_NS: Final = 20_000  # between two looks at the boot clock around one at the wall clock
_TRIES: Final = 7


def offset_now() -> int:
    """Wall clock minus CLOCK_BOOTTIME in ns: the closest of a few looks, for who is interrupted between is wrong."""
    narrowest, offset = 1 << 62, 0
    for _ in range(_TRIES):
        before = boottime()
        wall = time.time_ns()
        width = boottime() - before
        if width < narrowest:
            narrowest, offset = width, wall - before - width // 2
        if width < _CLOSE_NS:
            break
    return offset


class Clock:
    """Follows the wall clock."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self._offset = 0

    def offset(self) -> int:
        """Wall clock minus boot time in ns, measured anew, so that a step of the clock is followed.

        In a turn it comes after the reading: what happens after a step never has a time from before it. What happened
        in the turn before, at most a wait for the rings and the hold of the order ago, may have the new one already.
        """
        offset = offset_now()
        if abs(offset - self._offset) > _STEP_NS:
            self._offset = offset
        return self._offset
