"""Open the databases of ``--geoip``, before the sandbox: they stay mapped, and nothing is opened for a lookup."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from tracer.cli.errors import CommandError, Exit
from tracer.formats.places import Places

__all__ = ["open_places"]

_FIX = "pip install 'tracer[geoip]', or leave --geoip out"


def open_places(paths: Sequence[Path]) -> Places | None:
    """Map the databases, in the order in which they are asked; None for none. Raises CommandError."""
    return Places([_opened(path) for path in paths]) if paths else None


def _opened(path: Path) -> Callable[[str], object]:
    try:
        import maxminddb
    except ImportError as missing:
        raise CommandError(f"--geoip takes the package maxminddb: {_FIX}", Exit.FAILURE) from missing
    if not path.is_file():  # a pipe would never end
        raise CommandError(f"--geoip {path}: there is no such file; name a MaxMind database (.mmdb)", Exit.FAILURE)
    try:
        reader = maxminddb.open_database(path, maxminddb.MODE_AUTO)  # mapped, by the C extension where it is there
        reader.get("192.0.2.1")  # whatever a first lookup needs
    except OSError as error:
        raise CommandError(f"--geoip {path}: {(error.strerror or str(error)).lower()}", Exit.FAILURE) from error
    except (maxminddb.InvalidDatabaseError, ValueError) as error:
        raise CommandError(f"--geoip {path}: no MaxMind database (.mmdb): {error}", Exit.FAILURE) from error

    def look(address: str) -> object:
        try:
            found: object = reader.get(address)
        except maxminddb.InvalidDatabaseError:
            return None  # a damaged part of the file: the address has no place
        return found

    return look
