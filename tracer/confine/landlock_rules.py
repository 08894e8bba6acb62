"""Landlock: no file but those listed, no TCP, no signal and no abstract socket out, as far as this kernel goes.

The package ``landlock`` knows the rights on files up to ABI 5; rights on the network (ABI 4, Linux 6.7) and scopes
(ABI 6, 6.12) are asked for through its system calls. Which rights there are is found by asking for each, so that those
of newer kernels are taken away too.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from landlock.plumbing import (
    CREATE_RULESET_VERSION,
    FSAccess,
    PathBeneathAttr,
    RulesetAttr,
    get_add_rule,
    get_create_ruleset,
    get_restrict_self,
)

__all__ = ["FILES", "NETWORK", "SCOPES", "Rights", "abi", "look", "offered", "restrict"]

# include/uapi/linux/landlock.h
FILES: Final = int(FSAccess.EXECUTE | FSAccess.WRITE_FILE | FSAccess.READ_FILE | FSAccess.READ_DIR) | 0x1FFF
"""The rights on files of ABI 1; what came later is REFER (2), TRUNCATE (3) and IOCTL_DEV (5)."""
WHOLE_FILES: Final = 0xFFFF
NETWORK: Final = 0b11  # BIND_TCP, CONNECT_TCP
SCOPES: Final = 0b11  # ABSTRACT_UNIX_SOCKET, SIGNAL
_WRITING: Final = int(FSAccess.READ_FILE | FSAccess.WRITE_FILE | FSAccess.MAKE_REG)
_TRUNCATE: Final = 1 << 14  # ABI 3
_KEEPING: Final = _WRITING | int(FSAccess.READ_DIR | FSAccess.REMOVE_FILE) | _TRUNCATE
_RULE_PATH_BENEATH: Final = 1
_BITS: Final = 64


class _Attr(RulesetAttr):  # type: ignore[misc]  # the package is published without types
    """struct landlock_ruleset_attr of ABI 6; older kernels take the longer one as long as what is new is zero."""

    _fields_ = (("handled_access_net", ctypes.c_uint64), ("scoped", ctypes.c_uint64))


class Rights(NamedTuple):
    """Rights that are taken away, as bits of the kernel's."""

    files: int
    network: int
    scopes: int


def abi() -> int:
    """The version of Landlock that can be used here, 0 where there is none."""
    return look()[0]


def look() -> tuple[int, str]:
    """The version of Landlock that can be used here, or 0 and why there is none."""
    try:
        return _call(get_create_ruleset(), None, 0, CREATE_RULESET_VERSION), ""
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return 0, "this kernel has Landlock switched off: boot with landlock in lsm="
        if error.errno == errno.ENOSYS:
            return 0, "this kernel has no Landlock (Linux 5.13 and newer have)"
        return 0, f"Landlock is refused here ({os.strerror(error.errno or 0)}), by a container's seccomp filter maybe"


def offered() -> Rights:
    """All rights that this kernel can take away, found by asking for each."""
    fields = ("handled_access_fs", "handled_access_net", "scoped")
    return Rights(*(_offered(field) for field in fields)) if abi() else Rights(0, 0, 0)


def _offered(field: str) -> int:
    found = 0
    for bit in range(_BITS):  # without gaps: the first that is refused ends them
        try:
            os.close(_create(_Attr(**{field: 1 << bit})))
        except OSError:
            break
        found |= 1 << bit
    return found


def _create(attr: _Attr) -> int:
    return _call(get_create_ruleset(), ctypes.byref(attr), ctypes.sizeof(attr), 0)


def restrict(
    rights: Rights, readable: Iterable[Path] = (), writable: Iterable[Path] = (), kept: Iterable[Path] = ()
) -> None:
    """Take these rights away from this thread for ever, but for reading what lies at or below ``readable``.

    In and below ``writable``, which are directories, files can be made, read and written; in and below ``kept`` they
    can also be listed, cut, renamed and removed. What is not there can't be allowed, and is left out. Raises OSError.
    """
    ruleset = _create(_Attr(rights.files, rights.network, rights.scopes))
    try:
        # The package's own allow() asks for rights of directories on files, too, which the kernel refuses.
        wanted = [(path, int(FSAccess.READ_FILE | (FSAccess.READ_DIR if path.is_dir() else 0))) for path in readable]
        wanted += [(path, _WRITING) for path in writable]
        wanted += [(path, _KEEPING & rights.files) for path in kept]
        for path, allowed in wanted if rights.files else ():
            with suppress(FileNotFoundError):
                _allow(ruleset, path, allowed)
        _call(get_restrict_self(), ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: Path, allowed: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = PathBeneathAttr(allowed, fd)
        _call(get_add_rule(), ruleset, _RULE_PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(fd)


def _call(function: Any, *arguments: Any) -> int:
    """Call one of the package's functions, which take an errno that was left behind for a failure of theirs."""
    ctypes.set_errno(0)
    try:
        return int(function(*arguments))
    except ValueError as unclear:  # it could not read the kernel's version, when it looked for a reason
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number)) from unclear
    finally:
        ctypes.set_errno(0)
