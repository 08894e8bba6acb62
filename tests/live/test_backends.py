"""The check of the backends on a smaller load than `make check-backends` has, so that every test run has it."""

from pathlib import Path

import pytest

from scripts.attribution.backends import KINDS, LOOKS, measure, report
from scripts.attribution.check import build

pytestmark = pytest.mark.live

PROCESSES, PARALLEL, NOISE = 101, 8, 8


@pytest.mark.parametrize("backend", ["netlink", "procfs"])
def test_nothing_wrong_and_nothing_missing_that_lasts(tmp_path: Path, backend: str) -> None:
    """No record blames the wrong process; every exec and exit comes on netlink, what lives three looks on procfs."""
    result = measure(backend, tmp_path, build(tmp_path), PROCESSES, PARALLEL, NOISE)
    assert not result.unusable
    assert result.problems == [], report([result])
    assert result.of(*KINDS).seen > PROCESSES
    assert result.longest_ms > 0
    assert result.lasting.expected > LOOKS
