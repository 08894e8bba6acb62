"""Paths of control groups, as each program makes them, and whose they are."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.model import Cgroup
from tracer.pipeline import whose

ID = b"3f" * 32
OTHER = b"a0" * 32
UID = "0ad5f9a2-6a7e-4c1c-9b55-1d2c3b4a5f60"
POD = UID.encode()
POD_ = POD.replace(b"-", b"_")
STATIC = "4d" * 16
USERS = b"/user.slice/user-1000.slice/user@1000.service"
OF_USER: dict[str, Any] = {"slice": b"user-1000.slice", "unit": b"user@1000.service"}
BURSTABLE = b"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod" + POD_ + b".slice"
IN_POD: dict[str, Any] = {"slice": BURSTABLE.rpartition(b"/")[2], "pod": UID}
CRI = b"cri-containerd-" + ID + b".scope"


def cgroup(path: bytes, version: int = 2, **told: Any) -> Cgroup:
    """A group of which nothing is told but this."""
    nothing = Cgroup(path, version, b"", b"", b"", b"", "", (), "")
    return replace(nothing, **told)


def of(path: bytes, container: bytes, runtime: str, **told: Any) -> tuple[bytes, Cgroup]:
    """A path, and the group of a container that is not in a unit of its own."""
    return path, cgroup(path, container=container, runtime=runtime, **told)


def scoped(path: bytes, container: bytes, runtime: str, **told: Any) -> tuple[bytes, Cgroup]:
    """A path, and the group of a container whose scope or service is the last part but for what is told."""
    return of(path, container, runtime, **({"unit": path.rpartition(b"/")[2]} | told))


SYSTEMD = [
    (b"/", {}),
    (b"/init.scope", {"unit": b"init.scope"}),
    (b"/system.slice", {"slice": b"system.slice"}),
    (b"/system.slice/nginx.service", {"slice": b"system.slice", "unit": b"nginx.service"}),
    (b"/system.slice/nginx.service/workers/7", {"slice": b"system.slice", "unit": b"nginx.service"}),
    (b"/system.slice/dev-hugepages.mount", {"slice": b"system.slice", "unit": b"dev-hugepages.mount"}),
    (b"/system.slice/docker.socket", {"slice": b"system.slice", "unit": b"docker.socket"}),
    (
        b"/system.slice/system-getty.slice/getty@tty1.service",
        {"slice": b"system-getty.slice", "unit": b"getty@tty1.service"},
    ),
    (
        rb"/system.slice/system-systemd\x2dfsck.slice/systemd-fsck@dev-disk-by\x2duuid.service",
        {"slice": rb"system-systemd\x2dfsck.slice", "unit": rb"systemd-fsck@dev-disk-by\x2duuid.service"},
    ),
    (b"/system.slice/_cpu.service", {"slice": b"system.slice", "unit": b"cpu.service"}),
    (b"/user.slice/user-1000.slice/session-3.scope", {"slice": b"user-1000.slice", "unit": b"session-3.scope"}),
    (USERS, OF_USER),
    (USERS + b"/init.scope", OF_USER | {"user_unit": b"init.scope"}),
    (USERS + b"/app.slice/app-firefox-1.scope", OF_USER | {"user_unit": b"app-firefox-1.scope"}),
    (USERS + b"/app.slice/app-a.slice/b@1.service/x", OF_USER | {"user_unit": b"b@1.service"}),
    (b"/nomad/alloc", {}),
    (b"/process_api/c8d49284ccd958ef5abb7e6dfe2cc9fd", {}),
    (b"/system.slice/not a unit.service", {"slice": b"system.slice"}),
]


@pytest.mark.parametrize(("path", "told"), SYSTEMD)
def test_units(path: bytes, told: dict[str, Any]) -> None:
    """The unit is the first part below the slices, and no container is seen where there is none."""
    assert whose.read(path) == cgroup(path, **told)


CONTAINERS = {
    "docker, systemd": scoped(b"/system.slice/docker-" + ID + b".scope", ID, "docker", slice=b"system.slice"),
    "docker, cgroupfs": of(b"/docker/" + ID, ID, "docker"),
    "docker, own parent": of(b"/builds/" + ID, ID, ""),
    "docker, systemd inside": of(b"/docker/" + ID + b"/system.slice/nginx.service", ID, "docker"),
    "docker, rootless": scoped(
        USERS + b"/user.slice/docker-" + ID + b".scope",
        ID,
        "docker",
        **OF_USER,
        user_unit=b"docker-" + ID + b".scope",
    ),
    "docker in docker": of(b"/docker/" + OTHER + b"/docker/" + ID, ID, "docker", around=(OTHER,)),
    "podman": scoped(b"/machine.slice/libpod-" + ID + b".scope", ID, "podman", slice=b"machine.slice"),
    "podman, inner group": of(
        b"/machine.slice/libpod-" + ID + b".scope/container",
        ID,
        "podman",
        slice=b"machine.slice",
        unit=b"libpod-" + ID + b".scope",
    ),
    "podman, pod": scoped(
        b"/machine.slice/machine-libpod_pod_" + OTHER + b".slice/libpod-" + ID + b".scope",
        ID,
        "podman",
        slice=b"machine-libpod_pod_" + OTHER + b".slice",
    ),
    "podman, cgroupfs": of(b"/libpod_parent/libpod-" + ID, ID, "podman"),
    "podman, rootless": of(
        USERS + b"/user.slice/libpod-" + ID + b".scope/container",
        ID,
        "podman",
        **OF_USER,
        user_unit=b"libpod-" + ID + b".scope",
    ),
    "podman, quadlet": of(
        b"/system.slice/redis.service/libpod-payload-" + ID,
        ID,
        "podman",
        slice=b"system.slice",
        unit=b"redis.service",
    ),
    "containerd, kubernetes": scoped(BURSTABLE + b"/" + CRI, ID, "containerd", **IN_POD),
    "containerd, guaranteed": scoped(
        b"/kubepods.slice/kubepods-pod" + POD_ + b".slice/" + CRI,
        ID,
        "containerd",
        slice=b"kubepods-pod" + POD_ + b".slice",
        pod=UID,
    ),
    "containerd, static pod": scoped(
        b"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + STATIC.encode() + b".slice/" + CRI,
        ID,
        "containerd",
        slice=b"kubepods-besteffort-pod" + STATIC.encode() + b".slice",
        pod=STATIC,
    ),
    "containerd, drivers disagree": of(
        b"/system.slice/containerd.service/kubepods-burstable-pod" + POD_ + b".slice:cri-containerd:" + ID,
        ID,
        "containerd",
        slice=b"system.slice",
        unit=b"containerd.service",
        pod=UID,
    ),
    "nerdctl": scoped(b"/system.slice/nerdctl-" + ID + b".scope", ID, "containerd", slice=b"system.slice"),
    "nerdctl, cgroupfs": of(b"/default/" + ID, ID, ""),
    "cri-o": scoped(BURSTABLE + b"/crio-" + ID + b".scope", ID, "cri-o", **IN_POD),
    "cri-o, crun": of(
        BURSTABLE + b"/crio-" + ID + b".scope/container", ID, "cri-o", **IN_POD, unit=b"crio-" + ID + b".scope"
    ),
    "cri-o, cgroupfs": of(b"/kubepods/burstable/pod" + POD + b"/crio-" + ID, ID, "cri-o", pod=UID),
    "kubernetes, docker, systemd": scoped(BURSTABLE + b"/docker-" + ID + b".scope", ID, "docker", **IN_POD),
    "kubernetes, cgroupfs": of(b"/kubepods/besteffort/pod" + POD + b"/" + ID, ID, "", pod=UID),
    "kubernetes, cgroupfs, guaranteed": of(b"/kubepods/pod" + POD + b"/" + ID, ID, "", pod=UID),
    "kind": of(
        b"/docker/" + OTHER + b"/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice"
        b"/kubelet-kubepods-burstable-pod" + POD_ + b".slice/" + CRI,
        ID,
        "containerd",
        around=(OTHER,),
        pod=UID,
    ),
    "kind, systemd": of(
        b"/system.slice/docker-"
        + OTHER
        + b".scope/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod"
        + POD_
        + b".slice/"
        + CRI,
        ID,
        "containerd",
        slice=b"system.slice",
        unit=b"docker-" + OTHER + b".scope",
        around=(OTHER,),
        pod=UID,
    ),
    "kind, cgroupfs": of(
        b"/docker/" + OTHER + b"/kubelet/kubepods/burstable/pod" + POD + b"/" + ID, ID, "", around=(OTHER,), pod=UID
    ),
    "k3s": of(b"/kubepods/burstable/pod" + POD + b"/" + ID, ID, "", pod=UID),
    "docker in a pod": of(
        BURSTABLE + b"/cri-containerd-" + OTHER + b".scope/docker/" + ID,
        ID,
        "docker",
        **IN_POD,
        unit=b"cri-containerd-" + OTHER + b".scope",
        around=(OTHER,),
    ),
    "lxc": of(b"/lxc.payload.web", b"web", "lxc"),
    "lxc, systemd inside": of(b"/lxc.payload.web/system.slice/cron.service", b"web", "lxc"),
    "lxc 3.1": of(b"/lxc.payload/web", b"web", "lxc"),
    "lxc 2": of(b"/lxc/web/init.scope", b"web", "lxc"),
    "lxc, proxmox": of(b"/lxc/101/ns", b"101", "lxc"),
    "lxc in lxc": of(b"/lxc.payload.a/lxc.payload.b", b"b", "lxc", around=(b"a",)),
    "docker in lxc": of(b"/lxc.payload.a/docker/" + ID, ID, "docker", around=(b"a",)),
    "nspawn": of(
        b"/machine.slice/machine-web.scope/payload",
        b"web",
        "systemd-nspawn",
        slice=b"machine.slice",
        unit=b"machine-web.scope",
    ),
    "nspawn, escaped": scoped(
        rb"/machine.slice/machine-my\x2dweb\x5f1.scope", b"my-web_1", "systemd-nspawn", slice=b"machine.slice"
    ),
    "nspawn, service": of(
        b"/machine.slice/systemd-nspawn@my-web.service/payload/system.slice/cron.service",
        b"my-web",
        "systemd-nspawn",
        slice=b"machine.slice",
        unit=b"systemd-nspawn@my-web.service",
    ),
    "libvirt, lxc": scoped(rb"/machine.slice/machine-lxc\x2d114\x2dweb.scope", b"web", "lxc", slice=b"machine.slice"),
}


@pytest.mark.parametrize(("path", "expected"), CONTAINERS.values(), ids=CONTAINERS)
def test_containers(path: bytes, expected: Cgroup) -> None:
    """Each runtime's layouts, with either driver and nested, give its container's id, and the pod's uid."""
    assert whose.read(path) == expected


OUTSIDE = [
    b"/machine.slice/libpod-conmon-" + ID + b".scope",
    b"/libpod_parent/conmon",
    BURSTABLE + b"/crio-conmon-" + ID + b".scope",
    b"/kubepods/burstable/pod" + POD + b"/crio-conmon-" + ID,
    b"/lxc.monitor.web",
    b"/lxc.monitor/101",
    b"/lxc.payload.",
    b"/machine.slice/machine-web.scope/supervisor",
    b"/machine.slice/systemd-nspawn@web.service/supervisor",
    rb"/machine.slice/machine-qemu\x2d1\x2dweb.scope/emulator",
    b"/system.slice/docker-" + ID[:-1] + b".scope",
    b"/docker/" + ID + b"0",
    b"/system.slice/docker.service",
    b"/docker/buildx",
]


@pytest.mark.parametrize("path", OUTSIDE)
def test_monitors_and_machines_are_no_containers(path: bytes) -> None:
    """What watches a container is not in it, a virtual machine is none, and an id has 64 digits."""
    told = whose.read(path)
    assert (told.container, told.runtime, told.around) == (b"", "", ())


def test_pods_need_their_parent() -> None:
    """Without kubepods above it a part like pod<uid> is anybody's."""
    assert whose.read(b"/x/pod" + POD).pod == ""
    assert whose.read(b"/kubepods/x/pod" + POD).pod == UID
    assert whose.read(b"/kubepods/podnothing").pod == ""


def test_unit_is_not_told_from_half_a_path() -> None:
    """Where the beginning is missing, what is first may be in a container: no unit. The id is told all the same."""
    path = b"/system.slice/nginx.service/docker/" + ID
    told = whose.read(path, whole=False)
    assert told == cgroup(path, container=ID, runtime="docker")
    assert whose.read(path).unit == b"nginx.service"


def test_version_is_kept() -> None:
    """The layouts are the same in both versions; the version is told as it was given."""
    assert whose.read(b"/docker/" + ID, 1) == cgroup(b"/docker/" + ID, 1, container=ID, runtime="docker")


PARTS = st.one_of(
    st.binary(max_size=20),
    st.sampled_from(
        [
            b"lxc",
            b"lxc.payload.\xff",
            b"kubepods",
            b"machine-\\xff.scope",
            b"docker",
            ID,
            b"a.slice",
            b"b.service",
            b"..",
        ]
    ),
)


@given(st.lists(PARTS, max_size=12), st.booleans())
def test_any_path_is_read(parts: list[bytes], whole: bool) -> None:
    """Any bytes are taken; the path is kept, a unit or a slice is part of it, and a pod's uid is hexadecimal."""
    path = b"/" + b"/".join(parts)
    told = whose.read(path, whole=whole)
    assert told.path == path
    for name in (told.slice, told.unit, told.user_unit):
        assert name in path
    assert set(told.pod) <= set("0123456789abcdef-")
    assert bool(told.around) <= bool(told.container)
