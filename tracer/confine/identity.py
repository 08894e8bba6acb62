"""Choose whom to run as once everything is open, and become that user for ever."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["NOBODY", "Identity", "IdentityError", "become", "behind_sudo", "home", "is_unclear", "named"]

NOBODY: Final = 65534
"""The user of many unrelated programs, who could then write what the tracer wrote."""
_USERS: Final = Path("/etc/passwd")


class IdentityError(Exception):
    """There is no such user, or it may not be; one line with what would be right."""


class Identity(NamedTuple):
    """A user and its group, by number."""

    uid: int
    gid: int


def named(text: str, users: Path = _USERS) -> Identity:
    """The user that ``--user`` names, by name or number, from /etc/passwd. Raises IdentityError."""
    try:
        lines = _lines(users)
    except OSError as error:
        raise IdentityError(f"can't read {users}: {error.strerror}") from error
    for parts in lines:
        if len(parts) > 3 and text in (parts[0], parts[2]) and parts[2].isdecimal() and parts[3].isdecimal():
            return Identity(int(parts[2]), int(parts[3]))
    raise IdentityError(f"--user {text!r}: there is no such user; give a name or number that is in {users}")


def _lines(users: Path) -> list[list[str]]:
    return [line.split(":") for line in users.read_text(encoding="utf-8", errors="replace").splitlines()]


def behind_sudo(environment: Mapping[str, str]) -> Identity | None:
    """Who called sudo, if this runs as root through it; root itself is nobody behind it."""
    uid, gid = environment.get("SUDO_UID", ""), environment.get("SUDO_GID", "")
    if os.geteuid() != 0 or not (_is_id(uid) and _is_id(gid)) or uid == "0":
        return None
    return Identity(int(uid), int(gid))


def is_unclear(environment: Mapping[str, str]) -> bool:
    """Whether this runs as root through sudo, as it seems, but for whom can't be told."""
    ids = [environment[name] for name in ("SUDO_UID", "SUDO_GID") if name in environment]
    return os.geteuid() == 0 and bool(ids) and (len(ids) < 2 or not all(map(_is_id, ids)))


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) < 0xFFFFFFFF


def become(identity: Identity) -> None:
    """Take on the user and its group, real, effective and saved, and no other group. Raises OSError."""
    if os.getresuid() == (identity.uid,) * 3 and os.getresgid() == (identity.gid,) * 3:
        return
    os.setgroups([])
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)


def home(uid: str, users: Path = _USERS) -> str:
    """The home directory of a user, by number, from /etc/passwd; the file system's root where there is none."""
    try:
        lines = _lines(users)
    except OSError:
        return "/"
    return next((parts[5] for parts in lines if len(parts) > 5 and parts[2] == uid), "/")
