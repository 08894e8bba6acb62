"""What the tries after the confinement are made at."""

import os
from pathlib import Path

import pytest

from tests.confine.forks import in_fork
from tracer.confine import attest

pytestmark = pytest.mark.live

NOBODY = 65534


def test_home_that_may_not_be_asked_about(tmp_path: Path) -> None:
    """Whoever may not look into its home, as root of a user namespace of its own may not, still has a target."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".profile").write_text("")

    def look() -> str:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return attest.targets(str(tmp_path / "home")).home

    tmp_path.chmod(0o700)
    assert attest.targets(str(tmp_path / "home")).home == str(tmp_path / "home" / ".profile")
    assert in_fork(look) == "/"
