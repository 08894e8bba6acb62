"""Find out which process is meant: by its pid, by its pid inside a pid namespace, or by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from tracer.fallback import stat
from tracer.fallback.files import DirectFiles
from tracer.fallback.stat import Stat

__all__ = ["Candidate", "by_name", "eldest", "inside"]

_COMM_MOST: Final = 15  # bytes of a name that the kernel keeps
_KEPT: Final = 4096  # bytes of a command line, of which only the first word is of use


class Candidate(NamedTuple):
    """A process that a name fits; ``args`` as the kernel has them, NUL-terminated."""

    pid: int
    parent: int
    comm: bytes
    args: bytes


def by_name(name: bytes, *, without: Iterable[int] = ()) -> list[Candidate]:
    """The processes of this name, in the order of their pids.

    It is the name of the process, of its executable without the directory, or what its first argument ends with; one
    with a slash is compared with the whole path of the executable. Those that have ended are left out.
    """
    if not name:
        return []
    files = DirectFiles()
    try:
        texts = files.read_each(set(files.pids()) - set(without), "stat")
        found = []
        for pid, text in sorted(texts.items()):
            told = stat.parse(text) if text is not None else None
            if told is not None and not told.ended and _fits(name, pid, told, files):
                found.append(Candidate(pid, told.parent, told.comm, _args(files, pid)))
        return found
    finally:
        files.close()


def eldest(found: list[Candidate]) -> Candidate | None:
    """The one of whom all others are descendants; None where there is no such."""
    if not found:
        return None
    pids = {each.pid for each in found}
    heads = [each for each in found if not _above(each, pids)]
    return heads[0] if len(heads) == 1 else None


def _above(candidate: Candidate, pids: set[int]) -> bool:
    """Whether one of these is above it."""
    files, pid = DirectFiles(), candidate.parent
    try:
        for _ in range(1024):  # more than any tree is deep that makes sense
            if pid in pids:
                return True
            if not pid:
                return False
            pid = stat.parse(files.read(pid, "stat")).parent
    except OSError:
        return False
    finally:
        files.close()
    return False


def _fits(name: bytes, pid: int, told: Stat, files: DirectFiles) -> bool:
    slash = b"/" in name
    if not slash and told.comm == name[:_COMM_MOST] and len(name) <= _COMM_MOST:
        return True
    if told.flags & stat.KTHREAD:
        return False
    path = _quietly(lambda: files.link(pid, "exe")).removesuffix(b" (deleted)")
    if path == name if slash else path.rpartition(b"/")[2] == name:
        return True
    first = _args(files, pid).partition(b"\0")[0]
    return not slash and first.rpartition(b"/")[2] == name


def _args(files: DirectFiles, pid: int) -> bytes:
    return _quietly(lambda: files.read(pid, "cmdline", _KEPT))


def _quietly(ask: Callable[[], bytes]) -> bytes:
    """The answer, or nothing where it is refused or the process is gone."""
    try:
        return ask()
    except OSError:
        return b""


def inside(number: int, namespace: int) -> int | None:
    """The pid, as /proc has it, of the process that is ``number`` in a pid namespace (its inode); None: there is none.

    Only the innermost namespace of a process is compared, since only that is told of it.
    """
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if str((entry / "ns/pid").readlink()) != f"pid:[{namespace}]":
                continue
            status = (entry / "status").read_bytes()
        except OSError:
            continue
        for line in status.splitlines():
            if line.startswith(b"NSpid:") and int(line.split()[-1]) == number:
                return int(entry.name)
    return None
