"""The head: how far a stream was when somebody looked, kept elsewhere, so that a tail that is removed is missed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

import orjson

__all__ = ["Head", "HeadError"]

_VERSION: Final = 1
_FILE_MOST: Final = 4096  # bytes; one has some 250


class HeadError(Exception):
    """A file of a head can't be read or written; the message is one line with the fix."""


class Head(NamedTuple):
    """The last whole line that was seen.

    ``digest`` is the SHA-256 of the first ``size`` bytes of segment ``segment``, up to the end of line ``sequence``;
    ``ended``: that was its last line.
    """

    chain: str
    segment: int
    sequence: int
    size: int
    digest: str
    ended: bool

    @classmethod
    def load(cls, path: Path) -> Head:
        """Read what save() has written. Raises HeadError."""
        try:
            with path.open("rb") as file:
                found = orjson.loads(file.read(_FILE_MOST))
        except OSError as failed:
            raise HeadError(f"can't read {path}: {failed.strerror}; make it by --write-head") from failed
        except orjson.JSONDecodeError as odd:
            raise HeadError(f"{path} is no head of a stream: make it by --write-head") from odd
        types = {"chain": str, "segment": int, "sequence": int, "size": int, "digest": str, "ended": bool}
        if (
            type(found) is not dict
            or found.pop("version", None) != _VERSION
            or {name: type(value) for name, value in found.items()} != types
        ):
            raise HeadError(f"{path} is no head of a stream: make it by --write-head")
        return cls(**found)

    def save(self, path: Path) -> None:
        """Write it, in place of one that is there. Raises HeadError."""
        data = orjson.dumps({"version": _VERSION, **self._asdict()}, option=orjson.OPT_APPEND_NEWLINE)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            try:
                with os.fdopen(fd, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(fd)
                new.replace(path)
            except OSError:
                new.unlink(missing_ok=True)
                raise
        except OSError as failed:
            raise HeadError(f"can't write {path}: {failed.strerror}; name another file with --write-head") from failed
