"""Entries of the cache are whole or not there."""

import os
import time
from pathlib import Path

import pytest

from scripts.kernel_matrix.cache import UNUSED_S, Cache, default_place


def test_made_once(tmp_path: Path) -> None:
    """An entry is made by the first who asks, and is only found by the next."""
    cache = Cache(tmp_path)
    made = []

    def make(target: Path) -> None:
        made.append(target)
        target.write_text("contents")

    assert cache.entry("images/x", make).read_text() == "contents"
    assert cache.entry("images/x", make) == tmp_path / "images/x"
    assert len(made) == 1


def test_half_made(tmp_path: Path) -> None:
    """What failed while it was made is not there, and leaves nothing behind."""
    cache = Cache(tmp_path)

    def fail(target: Path) -> None:
        target.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cache.entry("images/x", fail)
    assert [path.name for path in tmp_path.rglob("*")] == ["images"]


def test_facts(tmp_path: Path) -> None:
    """What is remembered comes back; what is not, or is broken, is empty."""
    cache = Cache(tmp_path)
    cache.remember("kernel", {"key": "a"})
    assert cache.recall("kernel") == {"key": "a"}
    assert cache.recall("other") == {}
    (tmp_path / "facts/kernel.json").write_text("{")
    assert cache.recall("kernel") == {}


def test_prune(tmp_path: Path) -> None:
    """What nobody used for a fortnight goes, files and trees; the rest, apt's state and the facts stay."""
    cache = Cache(tmp_path)
    old = time.time() - UNUSED_S - 60
    for name in ("images/old", "images/new", "trees/old/file", "apt/old", "facts/old"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("images/old", "trees/old", "apt/old", "facts/old"):
        os.utime(tmp_path / name, (old, old))
    cache.prune()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"images/new", "apt/old", "facts/old"}


def test_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache is where the variables say, the own one first, and never in the tree."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    monkeypatch.setenv("TRACER_MATRIX_CACHE", "/own")
    assert default_place() == Path("/own")
    monkeypatch.delenv("TRACER_MATRIX_CACHE")
    assert default_place() == Path("/x/cache/tracer-matrix")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_place() == Path.home() / ".cache/tracer-matrix"
