"""The wall clock beside the boot-time clock: measured closely, and followed when it is set."""

import time
from collections.abc import Iterator

import pytest

from tracer.cli import clock

BOOT, OFFSET = 5_000_000_000, 1_700_000_000_000_000_000
HOUR = 3600 * 1_000_000_000


def clocks(monkeypatch: pytest.MonkeyPatch, *gaps: tuple[int, int]) -> None:
    """Clocks that move only as told: for each look the ns from one boot clock to the wall clock, and to the other."""

    def boot() -> Iterator[int]:
        now = BOOT
        for before, after in gaps:
            yield now
            now += before + after
            yield now

    def wall() -> Iterator[int]:
        now = BOOT
        for before, after in gaps:
            yield now + before + OFFSET
            now += before + after

    boots, walls = boot(), wall()
    monkeypatch.setattr(clock, "boottime", lambda: next(boots))
    monkeypatch.setattr(time, "time_ns", lambda: next(walls))


def test_the_closest_look_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is interrupted between the two clocks looks again, and the look that took least is taken."""
    clocks(monkeypatch, (50_000_000, 100), (100, 8_000_000), (300, 300))
    assert clock.offset_now() == OFFSET


def test_looks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every look is interrupted, the error is at most half of the shortest interruption."""
    clocks(monkeypatch, *[(count * 1_000_000, 0) for count in (9, 8, 3, 7, 6, 5, 4)])
    assert abs(clock.offset_now() - OFFSET) <= 1_500_000


def test_a_step_is_followed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first measurement after a step has it, whatever the time since the last; less than 1 ms is no step."""
    session = clock.Clock()
    seen = []
    for offset in (OFFSET, OFFSET + 900_000, OFFSET + HOUR, OFFSET + HOUR - 500_000, OFFSET):
        monkeypatch.setattr(clock, "offset_now", lambda offset=offset: offset)
        seen.append(session.offset())
    assert seen == [OFFSET, OFFSET, OFFSET + HOUR, OFFSET + HOUR, OFFSET]
