"""The cache of compiled code gives back only what this user alone can have written."""

import os
from pathlib import Path

import pytest

from tracer.probes import code_cache

KEY = "ab12"


@pytest.fixture(name="cache")
def _cache(tmp_path: Path) -> Path:
    """A cache that holds something."""
    place = tmp_path / "deep" / "tracer"
    assert code_cache.store(place, KEY, b"code")
    return place


def entry(cache: Path) -> Path:
    """The file of the entry."""
    (found,) = cache.iterdir()
    return found


def test_what_was_stored_is_loaded(cache: Path) -> None:
    """An entry comes back whole, under its key alone, from a directory and a file that are closed to others."""
    assert code_cache.load(cache, KEY) == b"code"
    assert code_cache.load(cache, "ab13") is None
    assert cache.stat().st_mode & 0o777 == 0o700
    assert entry(cache).stat().st_mode & 0o777 == 0o600


def test_nothing_there(tmp_path: Path) -> None:
    """No directory, no entry."""
    assert code_cache.load(tmp_path / "none", KEY) is None


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o750, 0o705])
def test_open_directory_is_not_trusted(cache: Path, mode: int) -> None:
    """A directory that anybody else may enter is neither read nor written."""
    cache.chmod(mode)
    assert code_cache.load(cache, KEY) is None
    assert code_cache.store(cache, "cd34", b"more") is False
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("mode", [0o660, 0o606, 0o644])
def test_open_file_is_not_trusted(cache: Path, mode: int) -> None:
    """Nor is a file that anybody else may open."""
    entry(cache).chmod(mode)
    assert code_cache.load(cache, KEY) is None


@pytest.mark.live
def test_other_owner_is_not_trusted(cache: Path) -> None:
    """What belongs to another user is not believed, be it the directory or the file."""
    os.chown(entry(cache), 65534, 65534)
    assert code_cache.load(cache, KEY) is None
    os.chown(entry(cache), 0, 0)
    assert code_cache.load(cache, KEY) == b"code"
    os.chown(cache, 65534, 65534)
    assert code_cache.load(cache, KEY) is None
    assert code_cache.store(cache, KEY, b"other") is False


def test_links_are_not_followed(cache: Path, tmp_path: Path) -> None:
    """A link in place of the directory or of the file leads nowhere, and a second name makes a file suspect."""
    link = tmp_path / "link"
    link.symlink_to(cache)
    assert code_cache.load(link, KEY) is None
    assert code_cache.store(link, KEY, b"other") is False
    file = entry(cache)
    moved = file.rename(tmp_path / "moved")
    file.symlink_to(moved)
    assert code_cache.load(cache, KEY) is None
    file.unlink()
    file.hardlink_to(moved)
    assert code_cache.load(cache, KEY) is None
    moved.unlink()
    assert code_cache.load(cache, KEY) == b"code"


def test_no_regular_file(cache: Path) -> None:
    """A pipe of the right name does not block the start."""
    entry(cache).unlink()
    os.mkfifo(cache / f"probes-{KEY}", 0o600)
    assert code_cache.load(cache, KEY) is None


@pytest.mark.parametrize("damaged", ["cut", "changed", "empty", "short"])
def test_damaged_entry_is_none(cache: Path, damaged: str) -> None:
    """A file that was cut or changed is not loaded."""
    data = entry(cache).read_bytes()
    contents = {"cut": data[:-1], "changed": data[:-1] + b"X", "empty": b"", "short": b"X"}
    entry(cache).write_bytes(contents[damaged])
    assert code_cache.load(cache, KEY) is None


def test_entry_under_another_key_is_none(cache: Path) -> None:
    """An entry that was renamed is not what its name says."""
    entry(cache).rename(cache / "probes-cd34")
    assert code_cache.load(cache, "cd34") is None


def test_old_entries_are_forgotten(cache: Path) -> None:
    """The newest few stay, also when another kernel's is the oldest."""
    os.utime(entry(cache), (1, 1))
    for number in range(9):
        assert code_cache.store(cache, f"k{number}", b"%d" % number)
        os.utime(cache / f"probes-k{number}", (number + 10, number + 10))
    kept = {name for name in (f"k{number}" for number in range(9)) if code_cache.load(cache, name)}
    assert kept == {"k5", "k6", "k7", "k8"}


def test_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """root has one place whoever's environment it runs in; others have theirs, a relative one excepted."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert code_cache.place() == Path("/var/cache/tracer")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert code_cache.place() == Path("/elsewhere/tracer")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert code_cache.place() == Path.home() / ".cache/tracer"
