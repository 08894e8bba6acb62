"""The place outside the tree for what is fetched and built: trees and images, each under a key of its contents."""

import contextlib
import fcntl
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

VARIABLE = "TRACER_MATRIX_CACHE"
UNUSED_S = 14 * 86400.0  # what nobody used for so long is removed


def default_place() -> Path:
    """Where the cache is: $TRACER_MATRIX_CACHE, or tracer-matrix in the user's cache directory."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracer-matrix"


class Cache:
    """A directory of entries, files or trees, that are made once and then only read."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.built_s = 0.0  # seconds spent in making entries
        place.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other runs from fetching and building at the same time; they wait."""
        with (self.place / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory for half-made things, on the same file system as the entries."""
        with tempfile.TemporaryDirectory(dir=self.place, prefix="scratch-") as name:
            yield Path(name)

    def entry(self, name: str, make: Callable[[Path], None]) -> Path:
        """The entry of that name; if there is none, `make` has to make it at the path it is given.

        An entry appears at once and whole, or not at all. What `make` raises is passed on.
        """
        path = self.place / name
        if not path.exists():
            begin = time.monotonic()
            path.parent.mkdir(parents=True, exist_ok=True)
            with self.scratch() as scratch:
                fresh = scratch / "entry"
                make(fresh)
                fresh.rename(path)
            self.built_s += time.monotonic() - begin
        os.utime(path)
        return path

    def remember(self, name: str, facts: dict[str, Any]) -> None:
        """Keep small facts under a name."""
        path = self.place / "facts" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(facts))
        fresh.replace(path)

    def recall(self, name: str) -> dict[str, Any]:
        """The facts under a name, empty if there are none."""
        try:
            facts: dict[str, Any] = json.loads((self.place / "facts" / f"{name}.json").read_text())
        except (OSError, ValueError):
            return {}
        return facts

    def prune(self) -> None:
        """Remove the entries that nobody used for a fortnight, and what a killed run left half-made."""
        limit = time.time() - UNUSED_S
        for path in [*self.place.glob("*/*"), *self.place.glob("scratch-*")]:
            if path.parent.name in {"apt", "facts"} or path.stat().st_mtime > limit:
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
