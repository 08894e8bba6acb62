"""Say what this process may do, what tracing takes on this machine, and in which form a check answers.

The needs were found by trying each capability as an ordinary user.
"""

from __future__ import annotations

import enum
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.probes.libbpf_binding import online_cpus

INITIAL_USER_NAMESPACE: Final = 4026531837
"""PROC_USER_INIT_INO of the kernel's include/linux/proc_ns.h."""

RING_BYTES: Final = 8 << 20
"""Memory of all rings that is asked for unless told otherwise, in bytes."""

_NAMES: Final = """
CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
"""
CAPABILITY_NAMES: Final = tuple(f"CAP_{name}" for name in _NAMES.split())
"""Capabilities by number, as in include/uapi/linux/capability.h."""

_SYSCTL: Final = Path("/proc/sys/kernel")
_STATUS: Final = Path("/proc/self/status")


class Status(enum.StrEnum):
    """What a check found; unknown when it could not be tried."""

    OK = "ok"
    MISSING = "missing"
    UNKNOWN = "unknown"


class Finding(NamedTuple):
    """The answer of one check: ``detail`` in words, ``fix`` what to do ("" for nothing), ``facts`` for programs."""

    status: Status
    detail: str
    fix: str = ""
    facts: Mapping[str, Any] = {}


class Privileges(NamedTuple):
    """What this process may do: the names of its effective capabilities, and the kernel's last capability's number.

    ``initial_user_namespace`` is False where the capabilities are good for this container alone, and None where that
    can't be read.
    """

    held: frozenset[str]
    last: int
    initial_user_namespace: bool | None
    uid: int

    @property
    def bpf(self) -> bool:
        """Whether this process should be able to load and attach: a refusal is then the kernel's own."""
        enough = "CAP_SYS_ADMIN" in self.held or {"CAP_BPF", "CAP_PERFMON"} <= self.held
        return enough and self.initial_user_namespace is not False

    @property
    def words(self) -> str:
        """The capabilities, shortest way round."""
        everything = frozenset(name_of_capability(number) for number in range(self.last + 1))
        absent = sorted(everything - self.held)
        if not self.held:
            return "none"
        if not absent:
            return "all"
        return f"all but {', '.join(absent)}" if len(absent) < len(self.held) else ", ".join(sorted(self.held))


def name_of_capability(number: int) -> str:
    """The name of a capability, or one made of its number when it is newer than this program."""
    return CAPABILITY_NAMES[number] if number < len(CAPABILITY_NAMES) else f"CAP_{number}"


def first_line(path: Path) -> str | None:
    """The first line of a small file, None when it can't be read."""
    try:
        return path.read_text(encoding="utf-8", errors="backslashreplace").partition("\n")[0].strip()
    except OSError:
        return None


def sysctl(name: str) -> int | None:
    """The number in kernel.``name``, None when there is none."""
    text = first_line(_SYSCTL / name)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def namespace(kind: str) -> int | None:
    """The inode number of this process's namespace, None when it can't be read."""
    try:
        return Path("/proc/self/ns", kind).stat().st_ino
    except OSError:
        return None


def privileges() -> Privileges:
    """What this process may do."""
    try:
        lines = _STATUS.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
        bits = next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)
    except OSError:
        bits = 0
    last = sysctl("cap_last_cap")
    last = len(CAPABILITY_NAMES) - 1 if last is None else last
    user = namespace("user")
    return Privileges(
        frozenset(name_of_capability(number) for number in range(64) if bits >> number & 1),
        last,
        None if user is None else user == INITIAL_USER_NAMESPACE,
        os.geteuid(),
    )


def needed_capabilities(last: int, tracefs_is_mounted: bool) -> list[str]:
    """What an ordinary user needs for all that the core backend tells on this machine, as it is now.

    Tried one by one: CAP_BPF and CAP_PERFMON load and attach everything, iterators over all processes included, and
    open the rings, but for programs at cgroups, which take CAP_NET_ADMIN; the ids of classic tracepoints are in
    tracefs, which is root's alone (0700), and take CAP_SYS_ADMIN besides where it is not mounted. CAP_SYS_PTRACE gives
    nothing more. CAP_IPC_LOCK is for more ring memory than kernel.perf_event_mlock_kb for each CPU and RLIMIT_MEMLOCK
    together. Before Linux 5.8, where the first two are new, CAP_SYS_ADMIN stands for them.
    """
    modern = last >= CAPABILITY_NAMES.index("CAP_BPF")
    needed = ["CAP_BPF", "CAP_PERFMON"] if modern else ["CAP_SYS_ADMIN"]
    needed += ["CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"]
    if modern and not tracefs_is_mounted:
        needed.append("CAP_SYS_ADMIN")
    if _ring_memory_allowed() < RING_BYTES:
        needed.append("CAP_IPC_LOCK")
    return needed


def _ring_memory_allowed() -> int:
    """Bytes of rings without CAP_IPC_LOCK: a share for each CPU, and what the limit on locked memory allows."""
    soft = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if soft == resource.RLIM_INFINITY:
        return sys.maxsize
    return (sysctl("perf_event_mlock_kb") or 0) * 1024 * len(online_cpus()) + soft
