"""Read the systemd unit, and run a program under its restrictions without systemd: `python -m tests.packaging.unit`.

What systemd does for a service before it starts it is done here in the same order: a mount namespace, limits, the user
with its capabilities and no others, no_new_privs, and filters of system calls. It takes root. Not done are cgroups
(MemoryMax=, IPAddressDeny=, DevicePolicy=), keyrings and IPC objects. Everything but the directories of the service is
read-only, /proc too, which is stricter than the unit.
"""

import ctypes
import errno
import json
import os
import resource
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import seccomp

from tracer.confine import capabilities
from tracer.confine.libc import call
from tracer.probes.privileges import CAPABILITY_NAMES

ROOT: Final = Path(__file__).parents[2]
UNIT: Final = ROOT / "packaging/systemd/tracer.service"
UID: Final = 47_110
"""Stands for the user of the unit, which need not be on this machine."""

# include/uapi/linux: mount.h, sched.h, prctl.h, capability.h, fcntl.h, mman.h
_MS_REC, _MS_PRIVATE, _MS_BIND = 0x4000, 0x40000, 0x1000
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE, _MOUNT_ATTR_RDONLY = 442, -100, 0x8000, 1
_CLONE_NEWNS, _CLONE_ALL_NEW = 0x20000, 0x7E020080
_PR_SET_KEEPCAPS, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE = 8, 38, 47, 2
_CAPABILITY_VERSION: Final = 0x20080522
_PROT_WRITE, _PROT_EXEC = 2, 4
_FAMILIES: Final = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16, "AF_PACKET": 17}

_libc = ctypes.CDLL(None, use_errno=True)


def settings(path: Path = UNIT) -> list[tuple[str, str]]:
    """The settings of the unit's [Service], in their order: some come more than once."""
    found, section = [], ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif section == "Service" and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.append((name, value))
    return found


def setting(name: str) -> str:
    """The one value of a setting."""
    (value,) = (value for key, value in settings() if key == name)
    return value


def environment(watchdog: bool = True) -> dict[str, str]:
    """What the unit's settings put into the environment of the service, but for the socket of the manager."""
    return {"WATCHDOG_USEC": str(int(setting("WatchdogSec").removesuffix("s")) * 1_000_000)} if watchdog else {}


@cache
def _groups() -> dict[str, list[str]]:
    """What each group of system calls is made of, by systemd-analyze."""
    text = subprocess.run(["systemd-analyze", "syscall-filter"], capture_output=True, text=True, check=True).stdout
    groups: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("@"):
            name = line.strip()
            groups[name] = []
        elif line.startswith("    ") and name and not line.strip().startswith("#"):
            groups[name].append(line.strip())
    return groups


def _calls_of(word: str) -> Iterator[str]:
    if not word.startswith("@"):
        yield word
        return
    for each in _groups()[word]:
        yield from _calls_of(each)


def allowed_calls() -> set[str]:
    """The system calls that the unit's filter leaves."""
    found = set(_calls_of("@default")) | {"execve"}  # which systemd itself adds
    for name, value in settings():
        if name == "SystemCallFilter":
            calls = {each for word in value.lstrip("~").split() for each in _calls_of(word)}
            found = found - calls if value.startswith("~") else found | calls
    return found


def _load_filters() -> None:
    refuse = seccomp.ERRNO(errno.EPERM)
    listed = seccomp.SyscallFilter(refuse)
    for name in allowed_calls():
        number = seccomp.resolve_syscall(seccomp.Arch(), name)
        if number >= 0:
            listed.add_rule(seccomp.ALLOW, number)
    others = seccomp.SyscallFilter(seccomp.ALLOW)
    others.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    families = {_FAMILIES[each] for each in setting("RestrictAddressFamilies").split()}
    for family in range(64):
        if family not in families:
            refused = seccomp.ERRNO(errno.EAFNOSUPPORT)
            others.add_rule(refused, "socket", seccomp.Arg(0, seccomp.EQ, family))
    for bit in range(32):
        if _CLONE_ALL_NEW >> bit & 1:
            others.add_rule(refuse, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, 1 << bit, 1 << bit))
            others.add_rule(refuse, "unshare", seccomp.Arg(0, seccomp.MASKED_EQ, 1 << bit, 1 << bit))
    others.add_rule(refuse, "setns")
    both = _PROT_WRITE | _PROT_EXEC
    others.add_rule(refuse, "mmap", seccomp.Arg(2, seccomp.MASKED_EQ, both, both))
    others.add_rule(refuse, "mprotect", seccomp.Arg(2, seccomp.MASKED_EQ, _PROT_EXEC, _PROT_EXEC))
    for each in (others, listed):
        each.load()


def _checked(result: int, what: object) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: Path | str, target: Path | str, kind: str = "", flags: int = 0, options: str = "") -> None:
    words = [os.fsencode(str(each)) for each in (source, target, kind)]
    _checked(_libc.mount(*words, flags, options.encode()), target)


def _read_only(path: str, on: bool, flags: int) -> None:
    attributes = (ctypes.c_uint64 * 4)(*((_MOUNT_ATTR_RDONLY, 0) if on else (0, _MOUNT_ATTR_RDONLY)), 0, 0)
    size = ctypes.sizeof(attributes)
    _checked(_libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), flags, attributes, size), path)


def _mounts(own: dict[str, str]) -> None:
    """A mount namespace in which only the service's directories, ``own`` by what stands for them, can be written."""
    _checked(_libc.unshare(_CLONE_NEWNS), "unshare")
    _mount("none", "/", flags=_MS_REC | _MS_PRIVATE)
    held = {place: os.open(real, os.O_PATH) for place, real in own.items()}
    for parent in {str(Path(place).parent) for place in own}:
        _mount("tmpfs", parent, "tmpfs")
    for place, fd in held.items():
        Path(place).mkdir()
        _mount(f"/proc/self/fd/{fd}", place, flags=_MS_BIND)
    devices = {name: Path("/dev", name).stat().st_rdev for name in ("null", "zero", "full", "random", "urandom", "tty")}
    _mount("tmpfs", "/dev", "tmpfs")
    os.umask(0)
    for name, number in devices.items():
        os.mknod(f"/dev/{name}", 0o666 | stat.S_IFCHR, number)
    # Where the project itself is in a home directory, that one stays.
    hidden = [path for path in ("/home", "/root", "/run/user", "/usr/lib/modules") if Path(path).is_dir()]
    for path in hidden:
        if not ROOT.is_relative_to(path):
            _mount("tmpfs", path, "tmpfs", options="mode=000")
    for path in ("/tmp", "/var/tmp"):
        if not ROOT.is_relative_to(path):
            _mount("tmpfs", path, "tmpfs", options="mode=1777")
    _read_only("/", True, _AT_RECURSIVE)
    for place in [*own, *(path for path in ("/tmp", "/var/tmp") if not ROOT.is_relative_to(path))]:
        _read_only(place, False, 0)


def _become() -> None:
    """The user, with the unit's capabilities, which an exec keeps, in no larger a bounding set."""
    wanted = setting("AmbientCapabilities").split()
    numbers = [CAPABILITY_NAMES.index(name) for name in wanted]
    capabilities.drop_bounding(setting("CapabilityBoundingSet").split())
    call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setresgid(UID, UID, UID)
    os.setresuid(UID, UID, UID)
    bits = sum(1 << number for number in numbers)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    data = (ctypes.c_uint32 * 6)(*(part for half in (bits & 0xFFFFFFFF, bits >> 32) for part in (half, half, half)))
    call("capset", header, data)
    for number in numbers:
        call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
    call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def command(own: dict[str, Path], *arguments: str) -> list[str]:
    """The command line that runs ``arguments`` under the unit's restrictions, with these directories to write in."""
    return [sys.executable, "-m", "tests.packaging.unit", json.dumps({k: str(v) for k, v in own.items()}), *arguments]


def main(own: str, *arguments: str) -> None:
    """Take the restrictions on, and be the program."""
    groups = allowed_calls()  # asks a program, which is not to be found any more later
    assert groups
    for name, value in settings():
        if name.startswith("Limit"):
            which = getattr(resource, f"RLIMIT_{name.removeprefix('Limit')}")
            most = resource.getrlimit(which)[1]  # which not every root may raise
            limit = most if value == "infinity" else int(value)
            resource.setrlimit(which, (limit, limit))
    _mounts(json.loads(own))
    os.umask(int(setting("UMask"), 8))
    _become()
    _load_filters()
    os.execv(arguments[0], arguments)  # noqa: S606 - systemd takes no shell either


def exec_start() -> list[str]:
    """The command of the unit."""
    return shlex.split(setting("ExecStart"))


if __name__ == "__main__":
    main(*sys.argv[1:])
