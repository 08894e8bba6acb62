"""Gather what is said once of the machine and of this run: host, agent, users, and who started it."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from tracer import __version__
from tracer.model import UNSET_ID, Host, Session

__all__ = ["boot_id", "names", "network_namespaces", "session", "session_from_json", "started"]

_FIRST_PIDNS = 0xEFFFFFFC
_AGENT = uuid.UUID("6b0d1b0e-6f0a-5b7e-9c55-0a3f6f2f7a11")  # names agent ids derived from machine ids


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").partition("\n")[0].strip()
    except OSError:
        return ""


def boot_id() -> str:
    """The kernel's id of this boot."""
    return _first_line("/proc/sys/kernel/random/boot_id") or str(uuid.UUID(int=0))


def names(path: str) -> dict[int, str]:
    """Ids and names of /etc/passwd or /etc/group, the first name of each id; no name service is asked."""
    found: dict[int, str] = {}
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        parts = line.split(":")
        if len(parts) > 2 and parts[2].isdecimal():
            found.setdefault(int(parts[2]), parts[0])
    return found


def network_namespaces(directory: str = "/run/netns", proc: str = "/proc") -> dict[int, str]:
    """Inodes and names of network namespaces: those that ip-netns(8) keeps, and ``host`` for the machine's first.

    That is kthreadd's, which is process 2 of the first pid namespace, whose inode is always the same (PROC_PID_INIT_INO
    in include/linux/proc_ns.h); process 1 may be hidden. What may not be looked at has no name.
    """
    found: dict[int, str] = {}
    with suppress(OSError):
        if Path(proc, "2/ns/pid").stat().st_ino == _FIRST_PIDNS:
            found[Path(proc, "2/ns/net").stat().st_ino] = "host"
    try:
        kept = sorted(Path(directory).iterdir())
        device = Path(proc, "self/ns/net").stat().st_dev
    except OSError:
        return found
    for path in kept:
        with suppress(OSError):  # gone meanwhile
            place = path.stat()
            if place.st_dev == device:  # else it is a file that was left behind
                found.setdefault(place.st_ino, os.fsencode(path.name).decode(errors="backslashreplace"))
    return found


def session(backend: str) -> Session:
    """This machine and this run."""
    name = platform.node()
    machine = _first_line("/etc/machine-id") or name
    host = Host(
        id=machine,
        name=name,
        boot_id=boot_id(),
        kernel=platform.release(),
        architecture=platform.machine(),
        cpus=os.cpu_count() or 1,
        page_size=os.sysconf("SC_PAGE_SIZE"),
    )
    return Session(
        host=host,
        agent_id=str(uuid.uuid5(_AGENT, machine)),
        ephemeral_id=str(uuid.uuid4()),
        version=__version__,
        backend=backend,
        users=names("/etc/passwd"),
        groups=names("/etc/group"),
        namespaces=network_namespaces(),
    )


def session_from_json(facts: dict[str, Any]) -> Session:
    """The session that a recording holds. Raises KeyError, TypeError or ValueError for anything else."""
    return Session(
        host=Host(**facts["host"]),
        users={int(uid): str(name) for uid, name in facts["users"].items()},
        groups={int(gid): str(name) for gid, name in facts["groups"].items()},
        namespaces={int(inode): str(name) for inode, name in facts.get("namespaces", {}).items()},
        **{name: str(facts[name]) for name in ("agent_id", "ephemeral_id", "version", "backend")},
    )


def session_to_json(found: Session) -> dict[str, Any]:
    """The session as a recording keeps it."""
    return {
        **found._asdict(),
        "host": found.host._asdict(),
        "users": {str(uid): name for uid, name in found.users.items()},
        "groups": {str(gid): name for gid, name in found.groups.items()},
        "namespaces": {str(inode): name for inode, name in found.namespaces.items()},
    }


def started() -> dict[str, Any]:
    """Who started this, from where and how."""
    found: dict[str, Any] = {
        "uid": os.getuid(),
        "euid": os.geteuid(),
        "pid": os.getpid(),
        "command_line": [os.fsencode(argument).decode(errors="backslashreplace") for argument in sys.argv],
    }
    loginuid = _first_line("/proc/self/loginuid")
    if loginuid.isdigit() and int(loginuid) != UNSET_ID:
        found["loginuid"] = int(loginuid)
    sudo = os.environ.get("SUDO_UID", "")
    if sudo.isdecimal() and len(sudo) <= 10:
        found["sudo_uid"] = int(sudo)
    for fd in (0, 2):
        try:
            found["terminal"] = os.ttyname(fd)
            break
        except OSError:
            continue
    return found
