"""Whose a process is, on this machine: control groups that are made here, a container of runc's, and namespaces."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracing import ABSENT, Event, Trace, find, one, value

pytestmark = pytest.mark.live

ID = "3f2a1b4c5d6e7089" * 4
OTHER = "a0b1c2d3e4f56789" * 4
UID = "0ad5f9a2-6a7e-4c1c-9b55-1d2c3b4a5f60"
TOP = f"tracer-test-{os.getpid()}"
SLICE = f"{TOP}.slice"
LAYOUTS: dict[str, dict[str, Any]] = {
    f"{SLICE}/docker-{ID}.scope": {
        "container": {"id": ID, "runtime": "docker"},
        "slice": SLICE,
        "unit": f"docker-{ID}.scope",
    },
    f"{SLICE}/{TOP}-kubepods-burstable-pod{UID.replace('-', '_')}.slice/cri-containerd-{ID}.scope": {
        "container": {"id": ID, "runtime": "containerd"},
        "pod": UID,
        "slice": f"{TOP}-kubepods-burstable-pod{UID.replace('-', '_')}.slice",
        "unit": f"cri-containerd-{ID}.scope",
    },
    f"{TOP}/kubepods/besteffort/pod{UID}/crio-{OTHER}": {
        "container": {"id": OTHER, "runtime": "cri-o"},
        "pod": UID,
    },
    f"{TOP}/libpod_parent/libpod-{ID}/docker/{OTHER}": {
        "container": {"id": OTHER, "runtime": "docker"},
        "around": [ID],
    },
    f"{TOP}/lxc.payload.web": {"container": {"id": "web", "runtime": "lxc"}},
    f"{SLICE}/nginx-test.service": {"slice": SLICE, "unit": "nginx-test.service"},
}
# Goes into the group, and then executes: its input and output are the same before and after.
ENTER = 'echo $$ > "$1/cgroup.procs" && shift && exec "$@"'
# Tells its pid, then for each line: goes to the group that it names, and connects to a port.
MOVER = """
import os, socket, sys
print(os.getpid(), flush=True)
for line in sys.stdin:
    group, port = line.split()
    if group != "-":
        open(group + "/cgroup.procs", "w").write(str(os.getpid()))
    with socket.create_connection(("127.0.0.1", int(port))) as connection:
        print(connection.getsockname()[1], flush=True)
"""


def traced(*options: str) -> Trace:
    """A trace of what this test starts, and nobody else: the machine may be busy."""
    return Trace("--pid", str(os.getpid()), "--children", *options)


def mounted(kind: str, option: str = "") -> Path:
    """Where a hierarchy is mounted, the root of it."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, found, options, *_ = line.split()
        if found == kind and (not option or option in options.split(",")):
            return Path(place)
    pytest.skip(f"this kernel has no {kind} {option} mounted")


class Groups:
    """Control groups of one hierarchy, which are removed at the end with all who are in them."""

    def __init__(self, root: Path) -> None:
        """``root`` is where the hierarchy is mounted."""
        self.root = root
        self.made: list[Path] = []

    def make(self, path: str) -> Path:
        """A group, and those above it."""
        place = self.root
        for part in path.split("/"):
            place /= part
            if not place.exists():
                place.mkdir()
                self.made.append(place)
        return place

    def remove(self) -> None:
        """Those who are left go back to the root: a group with members stays."""
        for place in sorted(self.made, key=lambda path: len(path.parts), reverse=True):
            for pid in (place / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    (self.root / "cgroup.procs").write_text(pid)
            place.rmdir()


@pytest.fixture(name="unified")
def _unified() -> Iterator[Groups]:
    groups = Groups(mounted("cgroup2"))
    try:
        yield groups
    finally:
        groups.remove()


@pytest.fixture(name="listener")
def _listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as server:
        yield server.getsockname()[1]


def into(group: Path, *command: str, **options: Any) -> "subprocess.Popen[str]":
    """A command that is executed in a group."""
    return subprocess.Popen(["/bin/sh", "-c", ENTER, "sh", str(group), *command], text=True, **options)


def check(event: Event, group: Path, root: Path, expected: dict[str, Any], *, version: int = 2) -> None:
    """An event has the path of this group, its id, and whose its layout says it is: all of it and no more."""
    told = dict(event["tracer"]["cgroup"])
    number = told.pop("id")
    if version == 2:
        assert number == group.stat().st_ino
    assert told.pop("version", 2) == version
    assert told.pop("path") == "/" + str(group.relative_to(root))
    assert told == {name: expected[name] for name in ("slice", "unit", "around") if name in expected}
    assert event.get("container", {}) == expected.get("container", {})
    assert value(event, "orchestrator.resource.id") == expected.get("pod", ABSENT)


def test_groups_of_version_2(unified: Groups, listener: int) -> None:
    """In every layout: who ran there before, who executes there, who is forked, who connects, and who exits."""
    places = {unified.make(path): expected for path, expected in LAYOUTS.items()}
    before = {group: into(group, "sleep", "600") for group in places}
    try:
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n" for child in before.values()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        code = "import os, socket, sys; pid = os.fork(); socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        code += "if pid: os.wait()"
        with traced("--event", "exec,fork,exit,connect,close") as trace:
            ran = {}
            for group in places:
                child = into(group, sys.executable, "-c", code, str(listener))
                assert child.wait(20) == 0
                ran[group] = child.pid
    finally:
        for child in before.values():
            child.kill()
            child.wait()
    for group, expected in places.items():
        check(trace.one("process-running", before[group].pid), group, unified.root, expected)
        executed = trace.one("process-executed", ran[group], process__args=[sys.executable, "-c", code, str(listener)])
        check(executed, group, unified.root, expected)
        forked = trace.one("process-forked", process__parent__pid=ran[group])
        pids = [ran[group], forked["process"]["pid"]]
        for pid in pids:
            check(trace.one("connection-opened", pid), group, unified.root, expected)
            check(trace.one("process-exited", pid), group, unified.root, expected)
            # A softirq brings this end, which a kernel that hides process 1 may not show.
            for closed in trace.find("connection-closed", pid):
                check(closed, group, unified.root, expected)
        check(forked, group, unified.root, expected)
    trace.assert_complete()


def test_moves(unified: Groups, listener: int) -> None:
    """Who goes to another group without executing anything has its id at once, and its path if an exec told of it."""
    one_place, other, silent = (unified.make(f"{SLICE}/{name}.service") for name in ("a", "b", "silent"))
    with traced("--event", "exec,connect,exit") as trace:
        into(other, "true").wait(20)
        mover = into(one_place, sys.executable, "-c", MOVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert mover.stdin is not None
        assert mover.stdout is not None
        pid = int(mover.stdout.readline())
        ports = []
        for group in ("-", other, silent, one_place):
            mover.stdin.write(f"{group} {listener}\n")
            mover.stdin.flush()
            ports.append(int(mover.stdout.readline()))
        mover.communicate(timeout=20)
    opened = [trace.one("connection-opened", pid, source__port=port)["tracer"]["cgroup"] for port in ports]
    assert [told["id"] for told in opened] == [group.stat().st_ino for group in (one_place, other, silent, one_place)]
    assert [told.get("unit") for told in opened] == ["a.service", "b.service", None, "a.service"]
    assert opened[2].keys() == {"id"}
    assert trace.one("process-exited", pid)["tracer"]["cgroup"] == opened[0]
    trace.assert_complete()


def test_long_paths_are_cut_at_the_root(unified: Groups) -> None:
    """Of too many names, or too long ones, those nearest to the root are missing, and that is said; no unit is told."""
    many = unified.make(f"{SLICE}/a.service/" + "/".join(f"n{number}" for number in range(24)) + f"/docker/{ID}")
    long = unified.make(f"{SLICE}/a.service/" + "/".join(letter * 250 for letter in "abcd") + "/lxc.payload.web")
    fits = unified.make(f"{SLICE}/a.service/" + "/".join(f"n{number}" for number in range(21)) + "/x")
    with traced("--event", "exec") as trace:
        pids = []
        for group in (many, long, fits):
            child = into(group, "true")
            child.wait(20)
            pids.append(child.pid)
    first, second, third = (one(find(trace.events, "process-executed", pid), process__args=["true"]) for pid in pids)
    assert first["tracer"]["truncated"] == second["tracer"]["truncated"] == ["tracer.cgroup.path"]
    assert first["container"]["id"] == ID
    assert first["tracer"]["cgroup"]["path"] == "/" + "/".join(many.parts[-24:])
    assert second["container"]["id"] == "web"
    assert second["tracer"]["cgroup"]["path"] == "/" + "/".join(long.parts[-4:])
    for event in (first, second):
        assert event["tracer"]["cgroup"].keys() == {"id", "path"}
    assert "truncated" not in third["tracer"]
    assert third["tracer"]["cgroup"]["path"] == "/" + str(fits.relative_to(unified.root))
    assert third["tracer"]["cgroup"]["unit"] == "a.service"


@pytest.mark.parametrize("controller", ["pids", "memory", "cpu", "devices"])
@pytest.mark.may_skip("machines without version 1 of control groups")
def test_groups_of_version_1(controller: str, listener: int) -> None:
    """In the root of version 2 the path is that of the first controller that has one, and children inherit it."""
    groups = Groups(mounted("cgroup", controller))
    first = {"pids": [], "memory": ["pids"], "cpu": ["pids", "memory"], "devices": ["pids", "memory", "cpu"]}
    roots = [mounted("cgroup", name) for name in first[controller]]
    try:
        places = {groups.make(path): expected for path, expected in LAYOUTS.items()}
        code = "import os, socket, sys\nif os.fork(): os.wait()\n"
        code += "else: socket.create_connection(('127.0.0.1', int(sys.argv[1])))"
        enter = "".join(f'echo $$ > "{root}/cgroup.procs"; ' for root in roots) + ENTER
        with traced("--event", "exec,connect,exit") as trace:
            ran = {}
            for group in places:
                command = ["/bin/sh", "-c", enter, "sh", str(group), sys.executable, "-c", code, str(listener)]
                ran[group] = subprocess.Popen(command)
                assert ran[group].wait(20) == 0
        for group, expected in places.items():
            executed = trace.one(
                "process-executed", ran[group].pid, process__executable=os.path.realpath(sys.executable)
            )
            check(executed, group, groups.root, expected, version=1)
            opened = trace.one("connection-opened", process__parent__pid=ran[group].pid)
            check(opened, group, groups.root, expected, version=1)
    finally:
        groups.remove()


@pytest.mark.parametrize("backend", ["netlink", "procfs"])
def test_without_probes(unified: Groups, listener: int, backend: str) -> None:
    """The other backends tell the same of a group, from /proc, if what is in it lives long enough."""
    places = {unified.make(path): expected for path, expected in LAYOUTS.items()}
    with traced("--backend", backend, "--event", "exec,connect,exit") as trace:
        movers = [into(group, sys.executable, "-c", MOVER, stdin=-1, stdout=-1) for group in places]
        for mover in movers:
            assert mover.stdout is not None
            mover.stdout.readline()
        time.sleep(1.5)
        for mover in movers:
            mover.communicate(f"- {listener}\n", timeout=20)
    for (group, expected), mover in zip(places.items(), movers, strict=True):
        # Of the shell before it there may be as much as could still be read.
        told = [event for event in trace.find("process-executed", mover.pid) if value(event, "process.args_count") == 3]
        check(told[-1], group, unified.root, expected)
        check(trace.one("process-exited", mover.pid), group, unified.root, expected)


def test_container_of_runc(tmp_path: Path) -> None:
    """A container, with the namespaces and the group that Docker asks runc for: its processes are in it, not runc."""
    bundle = tmp_path / "bundle"
    root = bundle / "rootfs"
    for name in ("usr", "proc", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(Path("/", name).readlink())
    name = f"tracer-test-{os.getpid()}"
    python = shutil.which("python3", path="/usr/bin")
    assert python is not None
    config = {
        "ociVersion": "1.0.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": [python, "-c", "import os; os.waitpid(os.fork() or os._exit(7), 0)"],
            "env": ["PATH=/usr/bin"],
            "cwd": "/",
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
        ],
        "linux": {
            "cgroupsPath": f"/{TOP}/docker/{ID}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network", "cgroup")],
        },
    }
    (bundle / "config.json").write_text(json.dumps(config))
    try:
        with traced("--event", "exec,fork,exit") as trace:
            command = ["runc", "--root", str(tmp_path / "state"), "run", "--bundle", str(bundle), name]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert ran.returncode == 0, ran.stderr
    finally:
        for place in Path("/sys/fs/cgroup").glob(f"**/{TOP}"):
            for group in (place / "docker", place):
                with contextlib.suppress(FileNotFoundError):
                    group.rmdir()
    ran_there = {"process__executable": os.path.realpath(python), "tracer__cgroup__path": f"/{TOP}/docker/{ID}"}
    inside = trace.one("process-executed", None, **ran_there)
    assert inside["container"] == {"id": ID, "runtime": "docker"}
    assert inside["process"]["vpid"] == 1
    assert "netns_name" not in inside["tracer"]
    child = trace.one("process-exited", process__exit_code=7, process__parent__pid=inside["process"]["pid"])
    assert child["container"] == inside["container"]
    outside = trace.find("process-executed", process__args=command)
    assert len(outside) == 1
    assert "container" not in outside[0]


def test_names_of_network_namespaces() -> None:
    """A namespace has the name that ip gave it, the machine's own is the host, and one that nobody named has none."""
    name = TOP[-15:]
    run = "import socket; socket.create_server(('127.0.0.1', 0)).close()"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        with traced("--event", "exec,listen") as trace:
            named = subprocess.Popen(["ip", "netns", "exec", name, sys.executable, "-c", run])
            assert named.wait(20) == 0
            unnamed = subprocess.Popen(["unshare", "--net", sys.executable, "-c", run])
            assert unnamed.wait(20) == 0
            own = subprocess.Popen(["nsenter", "--net=/proc/2/ns/net", sys.executable, "-c", run])
            assert own.wait(20) == 0
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)
    for process, expected in ((named, name), (unnamed, None), (own, "host")):
        executed = [event for event in trace.find("process-executed", process.pid) if run in event["process"]["args"]]
        assert executed[-1]["tracer"].get("netns_name") == expected
        assert trace.one("socket-listening", process.pid)["tracer"].get("netns_name") == expected
