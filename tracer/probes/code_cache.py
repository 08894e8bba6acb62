"""Keep compiled code from one start to the next, in a directory that nobody else can write to.

Whoever could write there could change what is loaded into the kernel. So the directory and each file have to belong to
this user and be closed to everybody else, links are not followed, and a file whose content is not what its own digest
says is no file.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Final

__all__ = ["load", "place", "store"]

_ROOTS: Final = Path("/var/cache/tracer")
_KEPT: Final = 4  # entries: of a kernel, the one before it, and other versions of the probes
_BYTES_MOST: Final = 4 << 20
_PREFIX: Final = "probes-"
_DIGEST: Final = sha256().digest_size
_EVERYBODY_ELSE: Final = stat.S_IRWXG | stat.S_IRWXO


def place() -> Path:
    """The directory: /var/cache/tracer for root, else below $XDG_CACHE_HOME or ~/.cache."""
    if os.geteuid() == 0:
        return _ROOTS
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "tracer"


def load(directory: Path, key: str) -> bytes | None:
    """What is kept under ``key``; None when there is nothing that can be trusted."""
    try:
        opened = _open(directory)
    except OSError:
        return None
    try:
        fd = os.open(_PREFIX + key, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=opened)
    except OSError:
        return None
    finally:
        os.close(opened)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or not _ours(found) or found.st_nlink != 1:
            return None
        try:
            data = file.read(_BYTES_MOST)
        except OSError:
            return None
    digest, content = data[:_DIGEST], data[_DIGEST:]
    return content if sha256(key.encode() + content).digest() == digest else None


def store(directory: Path, key: str, content: bytes) -> bool:
    """Keep ``content`` under ``key`` and forget the oldest entries; False when that is not possible."""
    temporary = f".{_PREFIX}{os.getpid()}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            directory.mkdir(mode=0o700)
        opened = _open(directory)
    except OSError:
        return False
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o600, dir_fd=opened), "wb") as file:
            file.write(sha256(key.encode() + content).digest() + content)
        os.rename(temporary, _PREFIX + key, src_dir_fd=opened, dst_dir_fd=opened)
        _forget(opened)
    except OSError:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=opened)
        return False
    finally:
        os.close(opened)
    return True


def _open(directory: Path) -> int:
    """The directory's descriptor. Raises OSError, also when somebody else could have written there."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    if not _ours(os.fstat(fd)):
        os.close(fd)
        raise PermissionError(f"{directory} belongs to somebody else or is open to others")
    return fd


def _ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not found.st_mode & _EVERYBODY_ELSE


def _forget(opened: int) -> None:
    names = [name for name in os.listdir(opened) if name.startswith(_PREFIX)]
    ages = {name: os.stat(name, dir_fd=opened, follow_symlinks=False).st_mtime_ns for name in names}
    for name in sorted(ages, key=ages.__getitem__, reverse=True)[_KEPT:]:
        os.unlink(name, dir_fd=opened)
