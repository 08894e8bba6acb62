"""Which package a file belongs to, from rpm's database (SQLite, rpm 4.16 and newer): no program is run for it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct, error
from typing import Final

from tracer.investigate.packages import Package, spellings

__all__ = ["DATABASES", "owner"]

DATABASES: Final = (Path("/usr/lib/sysimage/rpm/rpmdb.sqlite"), Path("/var/lib/rpm/rpmdb.sqlite"))
"""Where distributions have it."""

# Tags of include/rpm/rpmtag.h.
_NAME: Final = 1000
_VERSION: Final = 1001
_RELEASE: Final = 1002
_EPOCH: Final = 1003
_DIRECTORY_INDEXES: Final = 1116
_BASENAMES: Final = 1117
_DIRECTORIES: Final = 1118
_WAIT_S: Final = 0.1  # for rpm, where it writes just now
_FOUND_MOST: Final = 64  # files of one name in different directories
_head = Struct(">II").unpack_from
_entry = Struct(">IIII")


def owner(path: bytes, databases: Sequence[Path] = DATABASES) -> Package | None:
    """The package of a file, by its absolute path; None where it is of none, or there is no database.

    The database is read by SQLite, which is trusted with that of this machine alone: not with a container's.
    Raises OSError when it can't be read.
    """
    for database in databases:
        if database.exists():
            return _owner(path, database)
    return None


def _owner(path: bytes, database: Path) -> Package | None:
    try:
        import sqlite3
    except ImportError:  # a Python without it
        return None
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=_WAIT_S)
        try:
            for spelled in spellings(path):
                rows = connection.execute(
                    "SELECT idx, blob FROM Basenames JOIN Packages USING (hnum) WHERE key = ? LIMIT ?",
                    (os.fsdecode(spelled.rpartition(b"/")[2]), _FOUND_MOST),
                )
                for index, header in rows:
                    found = _package(header, index, spelled)
                    if found is not None:
                        return found
        finally:
            connection.close()
    except (sqlite3.Error, UnicodeEncodeError) as bad:
        raise OSError(f"{database}: {bad}") from bad
    return None


def _package(header: bytes, index: int, path: bytes) -> Package | None:
    """The package of this header, if its file of that number has the path."""
    try:
        at = {tag: (place, count) for tag, place, count in _entries(header)}
        names = _texts(header, *at[_BASENAMES])
        directories = _texts(header, *at[_DIRECTORIES])
        (directory,) = Struct(">I").unpack_from(header, at[_DIRECTORY_INDEXES][0] + 4 * index)
        if directories[directory] + names[index] != path:
            return None
        name, version, release = (_texts(header, at[tag][0], 1)[0].decode() for tag in (_NAME, _VERSION, _RELEASE))
        epoch = f"{Struct('>I').unpack_from(header, at[_EPOCH][0])[0]}:" if _EPOCH in at else ""
    except (error, IndexError, KeyError, ValueError):
        return None  # not a header as rpm writes it
    return Package(name, f"{epoch}{version}-{release}", "rpm")


def _entries(header: bytes) -> Iterator[tuple[int, int, int]]:
    """Of each tag the place of its data in the header, and how many there are."""
    count, _ = _head(header)
    data = 8 + _entry.size * count
    for number in range(count):
        tag, _, offset, many = _entry.unpack_from(header, 8 + _entry.size * number)
        yield tag, data + offset, many


def _texts(header: bytes, place: int, count: int) -> list[bytes]:
    return header[place:].split(b"\0", count)[:count]
