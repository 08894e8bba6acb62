"""Capabilities as the kernel's own /proc/PID/status shows them, before and after they are dropped."""

import os
from pathlib import Path

import pytest

from tests.confine.forks import in_fork
from tracer.confine import capabilities
from tracer.probes.privileges import CAPABILITY_NAMES

FIELDS = {
    "CapEff": "effective",
    "CapPrm": "permitted",
    "CapInh": "inheritable",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}

pytestmark = [pytest.mark.live]


def status() -> dict[str, int]:
    """The sets of this process as /proc shows them."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("Cap"))
    return {name.rstrip(":"): int(bits, 16) for name, bits in lines}


def bits(names: frozenset[str]) -> int:
    """Names as the kernel's mask."""
    return sum(1 << CAPABILITY_NAMES.index(name) for name in names)


def test_read_is_what_proc_shows() -> None:
    """Each set has just the capabilities of its line in /proc/self/status."""
    found = capabilities.read()
    assert {field: bits(getattr(found, name)) for field, name in FIELDS.items()} == status()


def test_all_are_dropped() -> None:
    """After both drops every set is empty, and the user is still root."""

    def drop() -> tuple[dict[str, int], capabilities.Sets, int]:
        assert capabilities.drop_bounding()
        capabilities.drop()
        return status(), capabilities.read(), os.geteuid()

    shown, read, uid = in_fork(drop)
    assert shown == dict.fromkeys(FIELDS, 0)
    assert not read.all
    assert uid == 0


def test_some_are_kept() -> None:
    """What is to be kept stays effective and permitted, and in the bounding set, and is inherited by nothing."""

    def drop() -> capabilities.Sets:
        capabilities.drop_bounding({"CAP_KILL"})
        capabilities.drop({"CAP_KILL"})
        return capabilities.read()

    kept = in_fork(drop)
    assert kept.effective == kept.permitted == kept.bounding == {"CAP_KILL"}
    assert not kept.inheritable
    assert not kept.ambient


def test_bounding_set_needs_a_capability() -> None:
    """Without CAP_SETPCAP the bounding set can't be emptied, and that is said."""

    def drop() -> bool:
        capabilities.drop()
        return capabilities.drop_bounding()

    assert in_fork(drop) is False
