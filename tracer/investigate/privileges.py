"""What a process may do: its capabilities by name, seccomp, no_new_privs, the LSM's label, and its namespaces."""

from __future__ import annotations

from typing import Any, Final

from tracer.fallback.procfs import namespace
from tracer.investigate.pinned import Pinned
from tracer.investigate.values import fields, text
from tracer.probes.privileges import name_of_capability

__all__ = ["NAMESPACES", "capabilities", "lsm_label", "namespaces", "no_new_privileges", "seccomp"]

NAMESPACES: Final = ("net", "pid", "mnt", "user", "ipc", "uts", "cgroup", "time")
_SETS: Final = {
    "effective": "CapEff",
    "permitted": "CapPrm",
    "inheritable": "CapInh",
    "bounding": "CapBnd",
    "ambient": "CapAmb",
}
_MODES: Final = {"0": "none", "1": "strict", "2": "filter"}  # SECCOMP_MODE_* of include/uapi/linux/seccomp.h
# Who is in the first namespaces: process 1, and where a kernel hides that, the first of its own threads.
_FIRST: Final = (1, 2)


def capabilities(process: Pinned) -> dict[str, list[str]]:
    """The five sets, each as names in the order of their numbers. Raises OSError."""
    told = fields(process.read("status"))
    return {name: _named(int(told[key], 16)) for name, key in _SETS.items() if key in told}


def _named(bits: int) -> list[str]:
    return [name_of_capability(number) for number in range(bits.bit_length()) if bits >> number & 1]


def seccomp(process: Pinned) -> dict[str, Any] | None:
    """The mode, and where the kernel tells it (5.9, commit c818c03b661c) the number of filters. Raises OSError."""
    told = fields(process.read("status"))
    if "Seccomp" not in told:
        return None
    found: dict[str, Any] = {"mode": _MODES.get(told["Seccomp"], told["Seccomp"])}
    if "Seccomp_filters" in told:
        found["filters"] = int(told["Seccomp_filters"])
    return found


def no_new_privileges(process: Pinned) -> bool | None:
    """Whether an exec can give it no more than it has. Raises OSError."""
    told = fields(process.read("status")).get("NoNewPrivs")
    return None if told is None else told == "1"


def lsm_label(process: Pinned) -> str | None:
    """What the security module (SELinux, AppArmor, Smack) calls it; None where there is none. Raises OSError."""
    try:
        label = process.read("attr/current")
    except PermissionError:
        raise
    except ProcessLookupError:
        raise
    except OSError:  # EINVAL: no module keeps labels
        return None
    return text(label.rstrip(b"\0\n")) or None


def namespaces(process: Pinned) -> dict[str, dict[str, Any]]:
    """Of each kind the inode, and where it can be told whether it differs from the machine's first. Raises OSError."""
    found: dict[str, dict[str, Any]] = {}
    refused: OSError | None = None
    first = _first()
    for kind in NAMESPACES:
        try:
            inode = namespace(process.link(f"ns/{kind}"))
        except ProcessLookupError:
            raise
        except PermissionError as error:
            refused = error
            continue
        except OSError:
            continue  # this kernel has no such kind
        found[kind] = {"inode": inode}
        if kind in first:
            found[kind]["differs"] = inode != first[kind]
    if refused is not None and not found:
        raise refused
    return found


def _first() -> dict[str, int]:
    for pid in _FIRST:
        try:
            with Pinned(pid) as process:
                return {kind: namespace(process.link(f"ns/{kind}")) for kind in NAMESPACES if _has(process, kind)}
        except OSError:
            continue  # hidden
    return {}


def _has(process: Pinned, kind: str) -> bool:
    try:
        process.link(f"ns/{kind}")
    except FileNotFoundError:
        return False
    return True
