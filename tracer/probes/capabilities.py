"""Find out what this machine offers a tracer, by trying, or by reading what the kernel says of itself.

Every check answers with a Finding and raises nothing. What a check opens it closes, what it mounts nobody can see.
"""

from __future__ import annotations

import ctypes
import errno
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.probes import bcc_build, tracefs, trials
from tracer.probes.libbpf_binding import MissingLibrary, library
from tracer.probes.privileges import (
    Finding,
    Privileges,
    Status,
    first_line,
    namespace,
    needed_capabilities,
    privileges,
    sysctl,
)

INITIAL_PID_NAMESPACE: Final = 4026531836
"""PROC_PID_INIT_INO of the kernel's include/linux/proc_ns.h."""

_ESCAPE: Final = re.compile(r"\\([0-7]{3})")  # how the mount table writes a blank in a path
_BTF: Final = Path("/sys/kernel/btf/vmlinux")
_BTF_MAGIC: Final = 0xEB9F  # include/uapi/linux/btf.h, in the machine's byte order
_MOUNTS: Final = Path("/proc/self/mounts")
_SECURITYFS: Final = Path("/sys/kernel/security")
_LANDLOCK_CREATE_RULESET: Final = 444  # the same on every machine but alpha
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Survey(NamedTuple):
    """Everything that was found, each part by stable names; ``needed`` is what needed_capabilities() gives."""

    privileges: Privileges
    needed: list[str]
    checks: dict[str, Finding]
    hooks: dict[str, Finding]
    maps: dict[str, Finding]
    core: Finding
    bcc: Finding


class Mount(NamedTuple):
    """One line of the mount table."""

    kind: str
    path: str


def mounts() -> list[Mount]:
    """What this process sees mounted, oldest first."""
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    except OSError:
        return []
    fields = [line.split(" ") for line in lines]
    return [
        Mount(each[2], _ESCAPE.sub(lambda found: chr(int(found[1], 8)), each[1])) for each in fields if len(each) > 2
    ]


def kernel() -> Finding:
    """The kernel and the distribution."""
    system = os.uname()
    try:
        release = platform.freedesktop_os_release()
        distribution = release.get("PRETTY_NAME") or release.get("NAME", "")
    except OSError:
        distribution = ""
    detail = f"Linux {system.release} {system.machine}, {distribution or 'distribution unknown'}"
    facts = {"release": system.release, "machine": system.machine, "distribution": distribution or None}
    return Finding(Status.OK, detail, "", facts)


def package_command(debian: str, fedora: str) -> str:
    """The command that installs a package on this distribution."""
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    family = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    return f"dnf install {fedora}" if family & {"fedora", "rhel"} else f"apt-get install {debian}"


def btf() -> Finding:
    """The kernel's own types, which relocate the probes."""
    fix = "boot a kernel that is built with CONFIG_DEBUG_INFO_BTF=y (Debian 11, Ubuntu 20.10, Fedora 31 and newer are)"
    try:
        with _BTF.open("rb") as file:
            magic = int.from_bytes(file.read(2), sys.byteorder)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return Finding(Status.MISSING, f"no BTF: there is no {_BTF}", fix)
    except OSError as refused:
        return Finding(Status.UNKNOWN, f"{_BTF} can't be read: {refused.strerror}", f"chmod a+r {_BTF}")
    if magic != _BTF_MAGIC:
        return Finding(Status.MISSING, f"{_BTF} holds no BTF", fix)
    return Finding(Status.OK, f"{_BTF}, readable", "", {"path": str(_BTF), "bytes": size})


def libbpf() -> Finding:
    """The library that loads the probes."""
    try:
        version = library().libbpf_version_string().decode(errors="backslashreplace").removeprefix("v")
    except MissingLibrary as missing:
        chosen = os.environ.get("TRACER_LIBBPF")
        fix = "unset TRACER_LIBBPF" if chosen else package_command("libbpf1", "libbpf")
        return Finding(Status.MISSING, str(missing).partition("; ")[0], fix, {"version": None, "path": chosen})
    path = _mapped_file("libbpf") or os.environ.get("TRACER_LIBBPF")
    return Finding(Status.OK, f"{version}, {path or 'path unknown'}", "", {"version": version, "path": path})


def _mapped_file(name: str) -> str | None:
    try:
        with Path("/proc/self/maps").open(encoding="utf-8", errors="backslashreplace") as lines:
            paths = (line.rstrip("\n").split(maxsplit=5)[5:] for line in lines)
            return next((path[0] for path in paths if path and Path(path[0]).name.startswith(name)), None)
    except OSError:
        return None


def tracepoint_ids(seen: list[Mount], may: Privileges) -> Finding:
    """tracefs: where it is, and whether the ids in it can be read, mounted or not."""
    places = [mount.path for mount in seen if mount.kind == "tracefs"]
    where = f"mounted at {places[0]}" if places else "not mounted"
    events = tracefs.open_events()
    readable = events is not None
    if events is not None:
        os.close(events)
    facts = {"mounted": places, "readable": readable}
    mount = f"mount -t tracefs nodev {tracefs.MOUNT_POINTS[0]}"
    if readable:
        return Finding(Status.OK, where if places else f"{where}; a private instance opens", "", facts)
    if places:
        return Finding(Status.MISSING, f"{where}, but not readable here", "add CAP_DAC_READ_SEARCH", facts)
    if "CAP_SYS_ADMIN" in may.held and may.initial_user_namespace is not False:
        detail = f"{where}, and no private instance opens (CAP_DAC_READ_SEARCH, Linux 5.2 and CONFIG_FTRACE needed)"
        return Finding(Status.MISSING, detail, mount, facts)
    return Finding(Status.MISSING, f"{where}; a private instance takes CAP_SYS_ADMIN", mount, facts)


def lockdown(seen: list[Mount]) -> Finding:
    """What the kernel's lockdown forbids, and which security modules there are, from securityfs."""
    mode, modules = (_security_file(name, seen) for name in ("lockdown", "lsm"))
    facts: dict[str, Any] = {"mode": None, "lsm": None if modules is None else modules.split(",")}
    if mode is None:
        if modules is not None and "lockdown" not in facts["lsm"]:
            return Finding(Status.OK, "none: not in this kernel's security modules", "", facts | {"mode": "none"})
        return Finding(Status.UNKNOWN, "securityfs can't be read here", "", facts)
    chosen = mode.partition("[")[2].partition("]")[0] or mode
    facts["mode"] = chosen
    if chosen == "confidentiality":
        fix = "boot without lockdown=confidentiality: integrity is enough, and leaves BPF its reads"
        return Finding(Status.MISSING, "confidentiality: BPF may not read kernel memory", fix, facts)
    return Finding(Status.OK, chosen + (" (BPF may read)" if chosen == "integrity" else ""), "", facts)


def _security_file(name: str, seen: list[Mount]) -> str | None:
    if any(mount.kind == "securityfs" for mount in seen):
        return first_line(_SECURITYFS / name)
    fd = tracefs.open_detached("securityfs", name)
    if fd is None:
        return None
    try:
        return os.read(fd, 4096).decode(errors="backslashreplace").strip()
    except OSError:
        return None
    finally:
        os.close(fd)


def unprivileged_bpf() -> Finding:
    """kernel.unprivileged_bpf_disabled: nothing here depends on it, but a reader of this report asks."""
    value = sysctl("unprivileged_bpf_disabled")
    if value is None:
        return Finding(Status.UNKNOWN, "no such setting", "", {"value": None})
    words = {0: "0: BPF is allowed to everyone", 1: "1: off until reboot", 2: "2: off, can be switched on"}
    detail = words.get(value, str(value))
    fix = "sysctl kernel.unprivileged_bpf_disabled=2" if value == 0 else ""
    return Finding(Status.OK, detail, fix, {"value": value})


def landlock() -> Finding:
    """The version of Landlock's interface."""
    arguments = (0, 0, _LANDLOCK_CREATE_RULESET_VERSION)
    version = _libc.syscall(ctypes.c_long(_LANDLOCK_CREATE_RULESET), *(ctypes.c_long(value) for value in arguments))
    number = _taken_errno()
    if version > 0:
        covers = "files" + ", network" * (version >= 4) + ", scopes" * (version >= 6)
        return Finding(Status.OK, f"ABI {version}: {covers}", "", {"abi": int(version)})
    if number == errno.EOPNOTSUPP:
        return Finding(Status.MISSING, "built in, not switched on", "boot with landlock in lsm=", {"abi": 0})
    why = "not in this kernel (5.13 and newer)" if number == errno.ENOSYS else os.strerror(number)
    return Finding(Status.MISSING, why, "", {"abi": 0})


def seccomp() -> Finding:
    """Whether system calls can be filtered, and by what; asked with a filter that isn't there: nothing changes."""
    _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), None, ctypes.c_ulong(0), ctypes.c_ulong(0))
    if _taken_errno() != errno.EFAULT:
        return Finding(Status.MISSING, "no filters (CONFIG_SECCOMP_FILTER)", "", {"filter": False, "binding": False})
    if importlib.util.find_spec("seccomp") is None:
        fix = package_command("python3-seccomp", "python3-libseccomp")
        detail = "filters, but libseccomp's Python binding is missing: the sandbox goes without"
        return Finding(Status.MISSING, detail, fix, {"filter": True, "binding": False})
    return Finding(Status.OK, "filters, and libseccomp's Python binding", "", {"filter": True, "binding": True})


def _taken_errno() -> int:
    number = ctypes.get_errno()
    ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
    return number


def cgroups(seen: list[Mount]) -> Finding:
    """The version of control groups: only those of v2 have the ids that events carry."""
    second = [mount.path for mount in seen if mount.kind == "cgroup2"]
    first = any(mount.kind == "cgroup" for mount in seen)
    if not second:
        version, status = ("v1" if first else None), Status.MISSING
        return Finding(status, "v1 only" if first else "none mounted", "", {"version": version, "path": None})
    version = "hybrid" if first else "v2"
    return Finding(Status.OK, f"{version}, v2 at {second[0]}", "", {"version": version, "path": second[0]})


def bpffs(seen: list[Mount]) -> Finding:
    """Where BPF objects can be pinned: nothing here pins any."""
    place = next((mount.path for mount in seen if mount.kind == "bpf"), None)
    detail = f"mounted at {place}" if place else "not mounted (not needed)"
    return Finding(Status.OK if place else Status.MISSING, detail, "", {"path": place})


def headers() -> Finding:
    """The kernel's headers, which BCC compiles against: of exactly this kernel, or none."""
    release = os.uname().release
    try:
        place = bcc_build.headers()
    except bcc_build.BuildError as error:
        command = package_command(f"linux-headers-{release}", f"kernel-devel-{release}")
        return Finding(Status.MISSING, error.reason, command, {"path": None})
    return Finding(Status.OK, str(place), "", {"path": str(place)})


def bcc() -> Finding:
    """The BCC binding, in whichever interpreter has it; PyPI's bcc is another thing of the same name."""
    try:
        found = bcc_build.binding()
    except bcc_build.BuildError as error:
        nothing = {"version": None, "path": None, "interpreter": None}
        return Finding(Status.MISSING, error.reason, package_command("python3-bpfcc", "python3-bcc"), nothing)
    return Finding(Status.OK, f"{found['version']}, {found['path']}", "", found)


def pid_namespace() -> Finding:
    """Whether the pids that this process sees are the machine's own, as the kernel's events have them."""
    inode = namespace("pid")
    facts = {"inode": inode, "initial": None if inode is None else inode == INITIAL_PID_NAMESPACE}
    fix = "run in the first pid namespace (docker run --pid=host)"
    try:
        same_proc = Path("/proc/self").readlink() == Path(str(os.getpid()))
    except OSError:
        same_proc = False
    if inode is None:
        return Finding(Status.UNKNOWN, "can't be read", "", facts)
    if inode != INITIAL_PID_NAMESPACE:
        return Finding(Status.MISSING, f"not the first one ({inode}): other pids here than in events", fix, facts)
    if not same_proc:
        return Finding(Status.MISSING, "the first one, but /proc is another's", fix, facts)
    return Finding(Status.OK, "the first one: pids are the machine's", "", facts)


def user_namespace(may: Privileges) -> Finding:
    """Whether the capabilities of this process count for the machine."""
    facts = {"inode": namespace("user"), "initial": may.initial_user_namespace}
    if may.initial_user_namespace is None:
        return Finding(Status.UNKNOWN, "can't be read", "", facts)
    if may.initial_user_namespace:
        return Finding(Status.OK, "the first one", "", facts)
    fix = "run outside of it: capabilities in a user namespace don't allow tracing"
    return Finding(Status.MISSING, "not the first one", fix, facts)


def container() -> Finding:
    """Signs of a container: hints, since nothing tells for certain."""
    hints = [path for path in ("/.dockerenv", "/run/.containerenv") if Path(path).exists()]
    # systemd and podman write this name in small letters.
    named = os.environ.get("container") or first_line(Path("/run/systemd/container"))  # noqa: SIM112
    if named:
        hints.append(named)
    groups = first_line(Path("/proc/self/cgroup")) or ""
    hints += [word for word in ("docker", "kubepods", "libpod", "lxc", "containerd") if word in groups]
    if hints:
        return Finding(Status.UNKNOWN, f"signs of one: {', '.join(hints)}", "", {"hints": hints})
    return Finding(Status.OK, "no sign of one", "", {"hints": []})


def survey() -> Survey:
    """Make every check once. Takes about a second, most of it BCC's import, and leaves nothing behind."""
    may, seen = privileges(), mounts()
    checks = {
        "kernel": kernel(),
        "btf": btf(),
        "libbpf": libbpf(),
        "perf_events": trials.perf_events(may, sysctl("perf_event_paranoid")),
        "tracefs": tracepoint_ids(seen, may),
        "lockdown": lockdown(seen),
        "unprivileged_bpf": unprivileged_bpf(),
        "pid_namespace": pid_namespace(),
        "user_namespace": user_namespace(may),
        "container": container(),
        "cgroups": cgroups(seen),
        "bpffs": bpffs(seen),
        "landlock": landlock(),
        "seccomp": seccomp(),
        "headers": headers(),
        "bcc": bcc(),
    }
    hooks = trials.hooks(may)
    modules = checks["lockdown"].facts["lsm"]
    if hooks["lsm"].status is Status.OK and modules is not None and "bpf" not in modules:
        hooks["lsm"] = hooks["lsm"]._replace(
            status=Status.MISSING, detail="attaches, but is never called: no bpf in lsm="
        )
    tracefs_is_mounted = any(mount.kind == "tracefs" for mount in seen)
    needed = needed_capabilities(may.last, tracefs_is_mounted)
    core = trials.core_backend()
    lacking = [checks[name] for name in ("headers", "bcc") if checks[name].status is not Status.OK]
    return Survey(may, needed, checks, hooks, trials.maps(may), core, trials.bcc_backend(core, lacking))
