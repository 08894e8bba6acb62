"""What the coverage record adds to what the backend says of itself."""

import os
from pathlib import Path

import pytest

from tracer.cli import coverage
from tracer.cli.coverage import coverage_record, old_groups
from tracer.pipeline.view import Filters
from tracer.probes.source import Coverage

HYBRID = "9:name=systemd:/\n4:memory:/a:b\n0::/\n"


@pytest.mark.parametrize(
    ("text", "old"),
    [
        ("0::/user.slice\n", False),
        ("", False),
        ("garbage\n", False),
        (HYBRID, True),
        ("2:cpu,cpuacct:/\n", True),
        ("1:name=systemd:/\n2:net_cls:/\n0::/\n", False),
    ],
)
def test_machines_with_groups_of_version_1(tmp_path: Path, text: str, old: bool) -> None:
    """Only controllers whose groups may be told of count: not what systemd alone has there, nor others."""
    (tmp_path / "cgroup").write_text(text)
    assert old_groups(str(tmp_path / "cgroup")) is old
    assert old_groups(str(tmp_path / "missing")) is False


@pytest.mark.parametrize("old", [False, True])
def test_moves_in_version_1_are_a_blind_spot(monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    """Where there is no id that tells of a move, the record says so."""
    monkeypatch.setattr(coverage, "old_groups", lambda: old)
    found = Coverage("core", {}, {}, ["this"], [], os.getpid(), {})
    blind = coverage_record(found, Filters(), {}, snapshot=True)["blind"]
    assert blind[0] == "this"
    assert [("version 1" in each) for each in blind[1:]] == [True] * old
