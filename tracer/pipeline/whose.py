"""Read from the path of a control group whose it is: which unit, container and pod the processes in it belong to.

Nobody is asked: the layouts are those that the programs which make the groups have in their sources. What no layout
explains is left empty, never guessed. A path is the kernel's, from the root of its hierarchy.

systemd (src/basic/cgroup-util.c: cg_path_get_unit(), cg_path_get_user_unit(), cg_unescape())
    ``a.slice/a-b.slice/UNIT``: slices first, then a service, scope, socket, mount or swap. Below ``user@UID.service``
    a user's own manager does the same. A ``_`` in front of a name is put there when it could be a file of the kernel's.
Docker (moby, daemon/oci_linux.go; runc, libcontainer/cgroups/systemd: getUnitName())
    ``system.slice/docker-ID.scope`` with the systemd driver, ``docker/ID`` with cgroupfs.
Podman (libpod/container_internal_linux.go and oci_conmon_linux.go)
    ``machine.slice/libpod-ID.scope[/container]``, ``libpod_parent/libpod-ID`` with cgroupfs, rootless below
    ``user@UID.service/user.slice``, with ``--cgroups=split`` ``UNIT/libpod-payload-ID``. ``libpod-conmon-ID.scope`` is
    the monitor, which is outside of the container.
containerd (internal/cri/server/helpers_linux.go: getCgroupsPath(); nerdctl, pkg/cmd/container)
    ``cri-containerd-ID.scope``; where the shim does not use the systemd driver that it is told of,
    ``UNIT/POD.slice:cri-containerd:ID``. nerdctl: ``nerdctl-ID.scope``, with cgroupfs ``NAMESPACE/ID``.
CRI-O (internal/config/cgmgr)
    ``crio-ID.scope[/container]`` and ``crio-ID``; the monitor is in ``crio-conmon-ID``.
Kubernetes (pkg/kubelet/cm/cgroup_manager_linux.go, pod_container_manager_linux.go)
    ``kubepods.slice/kubepods-QOS.slice/kubepods-QOS-podUID.slice`` with ``_`` for ``-`` in the uid, or
    ``kubepods/QOS/podUID``; guaranteed pods without QOS; with ``--cgroup-root`` below that, and named after it
    (kind: ``kubelet-kubepods-...``). The uid of a static pod is a hash without dashes.
LXC, LXD, Incus (src/lxc/cgroups/cgfsng.c)
    ``lxc.payload.NAME``, before 4.0 ``lxc.payload/NAME`` and ``lxc/NAME``. ``lxc.monitor.NAME`` is the monitor.
systemd-nspawn (src/nspawn/nspawn-cgroup.c, src/machine/machine.c)
    ``machine.slice/machine-NAME.scope[/payload]`` or ``systemd-nspawn@NAME.service[/payload]``, the name escaped as in
    src/basic/unit-name.c: unit_name_escape() (a machine's has no slash); ``supervisor`` beside ``payload`` is nspawn
    itself. libvirt's machines are named likewise: ``qemu-N-NAME`` is no container, ``lxc-N-NAME`` is one of its LXC
    driver (libvirt, docs/cgroups.rst).

An id of 64 hexadecimal digits alone is a container of some runtime. Of containers in containers the innermost is told,
and the others as those around it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tracer.model import Cgroup

__all__ = ["read"]

_ID: Final = rb"[0-9a-f]{64}"
_UNIT: Final = re.compile(rb"[A-Za-z0-9:_.\\@-]+\.(?:service|scope|socket|mount|swap)")
_SLICE: Final = re.compile(rb"[A-Za-z0-9:_.\\@-]+\.slice")
_USER_MANAGER: Final = re.compile(rb"user@[0-9]+\.service")
_NAMED: Final = re.compile(
    rb"(?:.*\.slice:)?(docker|libpod|libpod-payload|cri-containerd|nerdctl|crio)[-:](" + _ID + rb")(?:\.scope)?"
)
_BARE: Final = re.compile(_ID)
_RUNTIMES: Final = {
    b"docker": "docker",
    b"libpod": "podman",
    b"libpod-payload": "podman",
    b"cri-containerd": "containerd",
    b"nerdctl": "containerd",
    b"crio": "cri-o",
}
_LXC: Final = b"lxc.payload."
_LXC_PARENTS: Final = (b"lxc", b"lxc.payload")
_MACHINE: Final = re.compile(rb"machine-(.+)\.scope|systemd-nspawn@(.+)\.service")
_VIRTUAL: Final = re.compile(rb"(qemu|lxc)-[0-9]+-(.+)")
_SUPERVISOR: Final = b"supervisor"
_UID: Final = rb"([0-9a-f]{8}(?:[_-][0-9a-f]{4}){3}[_-][0-9a-f]{12}|[0-9a-f]{32})"
_POD_SLICE: Final = re.compile(rb"(?:.*-)?kubepods(?:-besteffort|-burstable)?-pod" + _UID + rb"\.slice(?::.*)?")
_POD: Final = re.compile(rb"pod" + _UID)
_ESCAPE: Final = re.compile(rb"\\x([0-9a-fA-F]{2})")


class _Container(NamedTuple):
    id: bytes
    runtime: str  # empty: the layout does not tell


def read(path: bytes, version: int = 2, *, whole: bool = True) -> Cgroup:
    """What a path says. ``version`` is the hierarchy's; not ``whole``: what is nearest to the root is missing."""
    parts = [part for part in path.split(b"/") if part]
    slice_ = unit = user_unit = b""
    if whole:
        slice_, unit, rest = _managed(parts)
        if _USER_MANAGER.fullmatch(unit):
            _, user_unit, _ = _managed(rest)
    containers = _containers(parts)
    inner = containers.pop() if containers else _Container(b"", "")
    return Cgroup(
        path=path,
        version=version,
        slice=slice_,
        unit=unit,
        user_unit=user_unit,
        container=inner.id,
        runtime=inner.runtime,
        around=tuple(container.id for container in containers),
        pod=_pod(parts),
    )


def _managed(parts: list[bytes]) -> tuple[bytes, bytes, list[bytes]]:
    """The innermost slice, the unit in it, and what is below that."""
    slice_ = b""
    for at, part in enumerate(parts):
        name = part.removeprefix(b"_")
        if _SLICE.fullmatch(name):
            slice_ = name
            continue
        return slice_, name if _UNIT.fullmatch(name) else b"", parts[at + 1 :]
    return slice_, b"", []


def _containers(parts: list[bytes]) -> list[_Container]:
    """The containers of a path, from the outermost inwards."""
    found = []
    for at, part in enumerate(parts):
        above = parts[at - 1] if at else b""
        below = parts[at + 1] if at + 1 < len(parts) else b""
        named = _NAMED.fullmatch(part)
        if named:
            found.append(_Container(named[2], _RUNTIMES[named[1]]))
        elif _BARE.fullmatch(part):
            found.append(_Container(part, "docker" if above == b"docker" else ""))
        elif part.startswith(_LXC) and len(part) > len(_LXC):
            found.append(_Container(part.removeprefix(_LXC), "lxc"))
        elif above in _LXC_PARENTS:
            found.append(_Container(part, "lxc"))
        elif below != _SUPERVISOR:
            found += _machine(part)
    return found


def _machine(part: bytes) -> list[_Container]:
    matched = _MACHINE.fullmatch(part)
    if not matched:
        return []
    name = _ESCAPE.sub(lambda code: bytes([int(code[1], 16)]), matched[1] or matched[2])
    virtual = _VIRTUAL.fullmatch(name)
    if not virtual:
        return [_Container(name, "systemd-nspawn")]
    return [_Container(virtual[2], "lxc")] if virtual[1] == b"lxc" else []


def _pod(parts: list[bytes]) -> str:
    """The uid of the innermost pod."""
    uid = b""
    below_kubepods = False
    for part in parts:
        matched = _POD_SLICE.fullmatch(part) or (_POD.fullmatch(part) if below_kubepods else None)
        if matched:
            uid = matched[1]
        below_kubepods = below_kubepods or part == b"kubepods"
    return uid.replace(b"_", b"-").decode()
