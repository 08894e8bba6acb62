"""What the checks say of machines that are made up, and of this one as users with more and less privilege see it."""

import importlib.util
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.probes.fake_bcc import interpreter_with
from tracer.probes import bcc_build, capabilities, privileges
from tracer.probes.privileges import Privileges, Status

ROOT = Path(__file__).parents[2]
NOBODY = 65534
MODERN, BEFORE_BPF = 40, 37  # the last capability of Linux 5.9 and newer, and of those before 5.8

SURVEY = """
import json, sys
from pathlib import Path
from tracer.probes import capabilities
def held(): return sorted(entry.name for entry in Path("/proc/self/fd").iterdir())
mounts, before = Path("/proc/self/mountinfo").read_text(), held()
found = capabilities.survey()
clean = held() == before and Path("/proc/self/mountinfo").read_text() == mounts
def plain(parts): return {name: [part.status, part.detail, dict(part.facts)] for name, part in parts.items()}
print(json.dumps({"clean": clean, "needed": found.needed, "core": plain({"core": found.core})["core"],
    "checks": plain(found.checks), "hooks": plain(found.hooks), "maps": plain(found.maps)}))
"""


def survey_as(names: Sequence[str] | None, setup: str = ":") -> dict[str, Any]:
    """The survey of a user with just these capabilities, or of root (None), after a shell script in a mount namespace.

    The checkout may lie where only root can go, so the user gets it mounted elsewhere.
    """
    command = [sys.executable, "-c", SURVEY]
    script = f"cd {ROOT}; {setup}"
    if names is not None:
        wanted = ",".join(["-all", *(f"+{name.lower().removeprefix('cap_')}" for name in names)])
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        drop += [f"--{which}={wanted}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
        command = [*drop, "env", "PYTHONPATH=/mnt/checkout", "/mnt/venv/bin/python", "-c", SURVEY]
        script = (
            f"mount -t tmpfs tmpfs /mnt; mkdir /mnt/checkout /mnt/venv; mount --bind '{ROOT}' /mnt/checkout;"
            f"mount --bind '{sys.prefix}' /mnt/venv; {setup}; cd /"
        )
    shell = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", f'{script}\nexec "$@"', "sh", *command]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


UNMOUNT = "{ umount -q -l /sys/kernel/tracing /sys/kernel/debug/tracing /sys/kernel/debug 2>/dev/null || :; }"
MOUNT = f"{UNMOUNT}; mount -t tracefs nodev /sys/kernel/tracing"


def some(*names: str, initial: bool | None = True) -> Privileges:
    """A process with these capabilities."""
    return Privileges(frozenset(names), MODERN, initial, NOBODY)


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (set(), "none"),
        ({"CAP_PERFMON", "CAP_BPF"}, "CAP_BPF, CAP_PERFMON"),
        (set(privileges.CAPABILITY_NAMES), "all"),
        (set(privileges.CAPABILITY_NAMES) - {"CAP_SYS_RESOURCE"}, "all but CAP_SYS_RESOURCE"),
    ],
)
def test_capabilities_in_words(held: set[str], words: str) -> None:
    """The shorter of what is held and what is not."""
    assert some(*held).words == words


def test_capabilities_by_number() -> None:
    """Numbers of the kernel's header have its names, and newer ones a name of their own."""
    numbers = {0: "CAP_CHOWN", 2: "CAP_DAC_READ_SEARCH", 14: "CAP_IPC_LOCK", 21: "CAP_SYS_ADMIN"}
    numbers |= {38: "CAP_PERFMON", 39: "CAP_BPF", 40: "CAP_CHECKPOINT_RESTORE", 41: "CAP_41"}
    assert {number: privileges.name_of_capability(number) for number in numbers} == numbers


def test_own_capabilities_are_those_the_kernel_tells() -> None:
    """The mask in /proc/self/status, rebuilt from the names, is the one that is there."""
    status = Path("/proc/self/status").read_text()
    mask = int(status.partition("CapEff:")[2].split()[0], 16)
    held = privileges.privileges().held
    assert sum(1 << privileges.CAPABILITY_NAMES.index(name) for name in held) == mask


@pytest.mark.parametrize(
    ("may", "enough"),
    [
        (some("CAP_BPF", "CAP_PERFMON"), True),
        (some("CAP_SYS_ADMIN"), True),
        (some("CAP_BPF"), False),
        (some("CAP_PERFMON"), False),
        (some("CAP_SYS_ADMIN", initial=False), False),
        (some("CAP_SYS_ADMIN", initial=None), True),
    ],
)
def test_what_is_enough_for_bpf(may: Privileges, enough: bool) -> None:
    """Both halves or the old whole, and only in the first user namespace."""
    assert may.bpf is enough


@pytest.mark.parametrize(
    ("last", "mounted", "limit", "needed"),
    [
        (MODERN, True, -1, ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"]),
        (MODERN, False, -1, ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_SYS_ADMIN"]),
        (BEFORE_BPF, True, -1, ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"]),
        (BEFORE_BPF, False, -1, ["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"]),
        (MODERN, True, 64 << 10, ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_IPC_LOCK"]),
        (MODERN, True, 64 << 20, ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_DAC_READ_SEARCH"]),
    ],
)
def test_needed_capabilities(
    monkeypatch: pytest.MonkeyPatch, last: int, mounted: bool, limit: int, needed: list[str]
) -> None:
    """What is needed depends on the age of the kernel, on tracefs, and on the limits on locked memory."""
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (limit, limit))
    monkeypatch.setattr(privileges, "sysctl", lambda _name: 516)
    monkeypatch.setattr(privileges, "online_cpus", lambda: [0, 1])
    assert privileges.needed_capabilities(last, mounted) == needed


def test_mount_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kinds and places are told apart, escapes in a path undone, and what is no line of a mount table left out."""
    table = tmp_path / "mounts"
    table.write_text("nodev /sys/kernel/tracing tracefs rw 0 0\nbad\nx /a\\040b tmpfs rw 0 0\n")
    monkeypatch.setattr(capabilities, "_MOUNTS", table)
    assert capabilities.mounts() == [("tracefs", "/sys/kernel/tracing"), ("tmpfs", "/a b")]
    monkeypatch.setattr(capabilities, "_MOUNTS", tmp_path / "none")
    assert capabilities.mounts() == []


@pytest.mark.parametrize(
    ("kinds", "status", "version"),
    [
        (["cgroup2"], Status.OK, "v2"),
        (["tmpfs", "cgroup", "cgroup", "cgroup2"], Status.OK, "hybrid"),
        (["tmpfs", "cgroup"], Status.MISSING, "v1"),
        (["tmpfs"], Status.MISSING, None),
    ],
)
def test_cgroup_version(kinds: list[str], status: Status, version: str | None) -> None:
    """Version 2, both, version 1 alone and none are four answers; only with version 2 are there ids."""
    seen = [capabilities.Mount(kind, f"/{kind}") for kind in kinds]
    found = capabilities.cgroups(seen)
    assert (found.status, found.facts["version"]) == (status, version)


@pytest.mark.parametrize(
    ("content", "status"),
    [(None, Status.MISSING), (b"", Status.MISSING), (b"\x7fELF", Status.MISSING)],
)
def test_missing_btf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, status: Status) -> None:
    """No file and a file of something else are both no BTF, and the fix names the kernel's option."""
    path = tmp_path / "vmlinux"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(capabilities, "_BTF", path)
    found = capabilities.btf()
    assert found.status is status
    assert "CONFIG_DEBUG_INFO_BTF" in found.fix


def test_btf_is_told_by_its_magic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file that begins like BTF is taken for it."""
    path = tmp_path / "vmlinux"
    path.write_bytes((0xEB9F).to_bytes(2, sys.byteorder) + bytes(22))
    monkeypatch.setattr(capabilities, "_BTF", path)
    assert capabilities.btf().status is Status.OK


@pytest.mark.parametrize(
    ("content", "mode", "status"),
    [
        ("[none] integrity confidentiality", "none", Status.OK),
        ("none [integrity] confidentiality", "integrity", Status.OK),
        ("none integrity [confidentiality]", "confidentiality", Status.MISSING),
    ],
)
def test_lockdown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str, mode: str, status: Status) -> None:
    """The word in brackets counts, and only confidentiality is in the way."""
    (tmp_path / "lockdown").write_text(content + "\n")
    (tmp_path / "lsm").write_text("lockdown,capability,bpf")
    monkeypatch.setattr(capabilities, "_SECURITYFS", tmp_path)
    found = capabilities.lockdown([capabilities.Mount("securityfs", str(tmp_path))])
    assert (found.status, found.facts["mode"], found.facts["lsm"]) == (status, mode, ["lockdown", "capability", "bpf"])


def test_lockdown_that_cannot_be_read_is_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without access to securityfs nothing is claimed."""
    monkeypatch.setattr(capabilities, "_SECURITYFS", tmp_path)
    found = capabilities.lockdown([capabilities.Mount("securityfs", str(tmp_path))])
    assert found.status is Status.UNKNOWN


@pytest.mark.parametrize(
    ("module", "status", "words"),
    [
        ("__version__ = '1.0'\nclass Lattice: pass\n", Status.MISSING, "unrelated package"),
        ("raise ImportError('libbcc.so.0: cannot open')\n", Status.MISSING, "libbcc.so.0"),
        ("raise SystemExit(3)\n", Status.MISSING, "ended with code 3"),
        ("__version__ = '9.9'\nclass BPF: pass\n", Status.OK, "9.9"),
    ],
)
def test_bcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, status: Status, words: str) -> None:
    """The binding is known by its class BPF; another package of that name, and one that fails, are said to be that."""
    monkeypatch.setattr(bcc_build, "_INTERPRETERS", (interpreter_with(tmp_path, module),))
    found = capabilities.bcc()
    assert found.status is status
    assert words in found.detail
    assert ("python3-b" in found.fix) is (status is Status.MISSING)


def test_no_bcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A module that is nowhere is missing, plainly."""
    without = interpreter_with(tmp_path, "raise ModuleNotFoundError(\"No module named 'bcc'\")\n")
    monkeypatch.setattr(bcc_build, "_INTERPRETERS", (without, "/nonexistent/python3"))
    assert capabilities.bcc().detail == "no module bcc"


@pytest.mark.parametrize(("wanted", "status"), [("/nonexistent/libbpf.so.1", Status.MISSING), ("", Status.OK)])
def test_libbpf_of_ones_own(wanted: str, status: Status) -> None:
    """TRACER_LIBBPF names the library: one that is absent is named in the answer, an empty name changes nothing."""
    program = "from tracer.probes import capabilities; found = capabilities.libbpf(); print(found.status, found.detail)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TRACER_LIBBPF": wanted},
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{status} ")
    assert wanted in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.live
def test_root_can_try_everything() -> None:
    """Root finds out about every hook, the backend runs, and no descriptor or mount stays behind."""
    found = survey_as(None, UNMOUNT)
    assert found["clean"]
    assert {status for status, _, _ in found["hooks"].values()} <= {"ok", "missing"}
    for name in ("raw_tp", "tp_btf", "tracepoint", "iter/task", "iter/task_file"):
        assert found["hooks"][name][0] == "ok", name
    assert found["maps"]["mmapable_array"][0] == "ok"
    assert found["checks"]["perf_events"][0] == "ok"
    assert found["core"][2]["code"] == 0


@pytest.mark.live
def test_ordinary_user_claims_nothing_of_the_kernel() -> None:
    """Without privilege a refusal is no answer: every hook and map is unknown, and the backend's code is 3."""
    found = survey_as([], UNMOUNT)
    assert found["clean"]
    assert {status for status, _, _ in (found["hooks"] | found["maps"]).values()} == {"unknown"}
    assert found["checks"]["btf"][0] == "ok"
    assert found["checks"]["tracefs"][0] == "missing"
    assert found["core"][2]["code"] == 3


@pytest.mark.live
@pytest.mark.parametrize("setup", [UNMOUNT, MOUNT], ids=["unmounted", "mounted"])
def test_needed_capabilities_are_enough(setup: str) -> None:
    """An ordinary user with what is said to be needed gets every probe attached that root gets."""
    needed = survey_as(None, setup)["needed"]
    assert ("CAP_SYS_ADMIN" in needed) is (setup == UNMOUNT)
    hooks = {name: survey_as(names, setup)["core"][2] for name, names in (("root", None), ("user", needed))}
    assert hooks["user"]["code"] == 0
    assert hooks["user"] == hooks["root"]


@pytest.mark.live
@pytest.mark.parametrize(
    ("without", "code"),
    [("CAP_BPF", 3), ("CAP_PERFMON", 3), ("CAP_NET_ADMIN", 0), ("CAP_DAC_READ_SEARCH", 0)],
    ids=str,
)
def test_each_needed_capability_is_needed(without: str, code: int) -> None:
    """With tracefs mounted, one capability less is no backend at all, no names, or no classic tracepoints."""
    needed = survey_as(None, MOUNT)["needed"]
    found = survey_as([name for name in needed if name != without], MOUNT)
    assert found["core"][2]["code"] == code
    if without == "CAP_NET_ADMIN":
        assert {"payload_out", "payload_in"} <= set(found["core"][2]["refused"])
        assert any("DNS, TLS, HTTP and QUIC" in each for each in found["core"][2]["blind"])
    elif code == 0:
        assert found["hooks"]["tracepoint"][0] == "unknown"
        assert found["checks"]["tracefs"][0] == "missing"
        assert {"exit_accept", "exit_execve"} <= set(found["core"][2]["refused"])


@pytest.mark.live
def test_kernel_without_btf(tmp_path: Path) -> None:
    """Without BTF the backend ends with code 4 and no hook is claimed to be refused."""
    found = survey_as(None, f"mount --bind {tmp_path} /sys/kernel/btf")
    assert found["checks"]["btf"][0] == "missing"
    assert found["core"][2]["code"] == 4
    assert {status for status, _, _ in found["hooks"].values()} == {"unknown"}


def test_seccomp_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libseccomp's Python binding is missing, the finding says so and how to install it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found = capabilities.seccomp()
    assert found.status is Status.MISSING
    assert "seccomp" in found.fix
    assert found.facts["binding"] is False
    monkeypatch.undo()
    assert capabilities.seccomp().facts["binding"] is (importlib.util.find_spec("seccomp") is not None)
