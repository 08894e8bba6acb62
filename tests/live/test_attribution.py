"""The attribution check on a smaller storm than `make check-attribution` runs, so that every test run has it."""

from pathlib import Path

import pytest

from scripts.attribution import check

pytestmark = pytest.mark.live


@pytest.mark.parametrize("options", [(), ("--no-sandbox",)], ids=["confined", "not confined"])
def test_every_short_connection_is_attributed(tmp_path: Path, options: tuple[str, ...]) -> None:
    """1,009 processes of a few milliseconds among 16 on the same tuples elsewhere: recall and precision are 1.0."""
    comparison, _ = check.measure(tmp_path, processes=1009, parallel=4, noise=16, options=options)
    assert comparison.clients["main"] == 1009
    assert comparison.passed, check.report(comparison)
