"""What the tests of the command line have in common."""

from pathlib import Path

import pytest

from tests.cli.commands import (
    WHOLE,
)


@pytest.fixture(name="recording")
def _recording(tmp_path: Path) -> Path:
    """A recording of an exec and an exit."""
    path = tmp_path / "recording"
    path.write_bytes(WHOLE)
    return path
