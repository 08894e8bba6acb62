"""Privileges, executables and packages: as getpcaps, capsh, dpkg and the files themselves have them."""

import hashlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.investigate.known import Known, gathered
from tracer.investigate import packages
from tracer.investigate.executable import HASHED_MOST


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.live
def test_capabilities_by_name() -> None:
    """Each of the five sets is, by name, what capsh makes of the numbers that the kernel tells."""
    drop = ["setpriv", "--no-new-privs", "--bounding-set=-sys_admin,-bpf", "--inh-caps=+kill,+net_raw"]
    with Known("ready()", prefix=[*drop, "--ambient-caps=+kill"]) as known:
        told = gathered(known.pid)
        status = Path(f"/proc/{known.pid}/status").read_text()
        for name, field in (("effective", "Eff"), ("permitted", "Prm"), ("inheritable", "Inh"), ("bounding", "Bnd")):
            number = status.partition(f"\nCap{field}:")[2].split()[0]
            decoded = output("capsh", f"--decode={number}").strip().partition("=")[2]
            assert [each.lower() for each in told["capabilities"][name]] == decoded.split(",")
        assert told["capabilities"]["ambient"] == ["CAP_KILL"]
        assert "CAP_BPF" not in told["capabilities"]["bounding"]
        assert told["no_new_privileges"] is True


SECCOMP = """
import ctypes, struct
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
allow = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7fff0000))
program = struct.pack("HxxxxxxP", 1, ctypes.addressof(allow))
for _ in range(3):
    assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
ready()
"""


def test_seccomp_filters_are_counted() -> None:
    """A program with three filters has three, and another none."""
    with Known(SECCOMP) as known:
        told = gathered(known.pid)
        assert told["seccomp"] == {"mode": "filter", "filters": 3}
        assert told["no_new_privileges"] is True
    with Known("ready()") as plain:
        told = gathered(plain.pid)
        own = Path("/proc/self/status").read_text().partition("\nSeccomp:")[2].split()[0]
        assert told["seccomp"]["mode"] == {"0": "none", "2": "filter"}[own]


@pytest.mark.live
def test_namespaces_that_differ() -> None:
    """Just the namespaces that were made anew differ from the machine's, each with its inode."""
    with Known("ready()", prefix=["unshare", "--uts", "--ipc"]) as known:
        told = gathered(known.pid)["namespaces"]
        assert {kind for kind, each in told.items() if each.get("differs")} == {"uts", "ipc"}
        for kind, each in told.items():
            assert each["inode"] == Path(f"/proc/{known.pid}/ns/{kind}").stat().st_ino
        assert {"net", "pid", "mnt", "user", "ipc", "uts", "cgroup"} <= told.keys()


def test_executable_with_its_package() -> None:
    """A program of the distribution: digest of the file, device and inode, and the package that dpkg says."""
    path = Path("/bin/sleep").resolve()
    with subprocess.Popen([path, "60"]) as sleeping:
        try:
            told = gathered(sleeping.pid)["executable"]
        finally:
            sleeping.kill()
    found = path.stat()
    assert told["path"] == str(path)
    assert told["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (told["inode"], told["size"]) == (found.st_ino, found.st_size)
    assert told["device"] == f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    version = output("dpkg-query", "-W", "-f=${Version}", "coreutils")
    assert told["package"] == {"name": "coreutils", "version": version, "manager": "dpkg"}
    assert not told["deleted"]
    assert not told["memfd"]


def test_executable_that_was_deleted_or_replaced(tmp_path: Path) -> None:
    """The digest is of the file that runs, not of what is at its path by now; it is of no package."""
    copy = tmp_path / "copy"
    shutil.copy("/bin/sleep", copy)
    digest = hashlib.sha256(copy.read_bytes()).hexdigest()
    with subprocess.Popen([copy, "60"]) as sleeping:
        try:
            assert "package" not in gathered(sleeping.pid)["executable"]
            copy.unlink()
            copy.write_text("another")
            told = gathered(sleeping.pid)["executable"]
        finally:
            sleeping.kill()
    assert told["deleted"] is True
    assert told["path"] == str(copy)
    assert told["sha256"] == digest
    assert "package" not in told


def test_executable_in_memory() -> None:
    """A program that runs from a memfd is told as such, with its name there and its digest."""
    content = Path("/bin/sleep").read_bytes()
    memory = os.memfd_create("hidden", 0)
    os.write(memory, content)
    command = ["sleep", "60"]
    with subprocess.Popen(command, executable=f"/proc/self/fd/{memory}", pass_fds=[memory]) as sleeping:
        try:
            told = gathered(sleeping.pid)["executable"]
        finally:
            sleeping.kill()
            os.close(memory)
    assert told["memfd"] is True
    assert told["deleted"] is False
    assert told["path"] == "/memfd:hidden"
    assert told["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(content) < HASHED_MOST


def test_packages_as_dpkg_finds_them() -> None:
    """Of forty programs of this machine, chosen by a seed, the package and version are those of dpkg's own search."""
    programs = [path for path in sorted(Path("/usr/bin").iterdir()) if path.is_file() and not path.is_symlink()]
    chosen = random.Random(7).sample(programs, 40)
    spelled = [str(path) for path in chosen] + [f"/{path.relative_to('/usr')}" for path in chosen]
    answer = subprocess.run(["dpkg-query", "-S", *spelled], capture_output=True, text=True, check=False).stdout
    told: dict[str, set[str]] = {}
    for line in answer.splitlines():
        if not line.startswith("diversion "):
            names, _, place = line.rpartition(": ")
            told.setdefault(place.removeprefix("/usr"), set()).update(name.split(":")[0] for name in names.split(", "))
    versions = dict(line.split() for line in output("dpkg-query", "-W", "-f=${Package} ${Version}\\n").splitlines())
    root = os.open("/", os.O_PATH | os.O_DIRECTORY)
    try:
        for path in chosen:
            found = packages.owner(root, os.fsencode(path))
            names_of = told.get(f"/{path.relative_to('/usr')}", set())
            assert {found.name} <= names_of if found else not names_of, path
            assert found is None or found.version == versions[found.name]
    finally:
        os.close(root)
    assert len(told) > 10


def test_hostile_root(tmp_path: Path) -> None:
    """In a root that somebody made to mislead no link leads out of it, and nothing that is no file is waited for."""
    (tmp_path / "var/lib").mkdir(parents=True)
    (tmp_path / "var/lib/dpkg").symlink_to("/var/lib/dpkg")
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        path = os.fsencode(Path("/bin/sleep").resolve())
        with pytest.raises(OSError, match="Too many levels"):  # in this root it leads to itself
            packages.owner(root, path)
        (tmp_path / "var/lib/dpkg").unlink()
        (tmp_path / "var/lib/dpkg").symlink_to("../../../../../../../../../../var/lib/dpkg")
        assert os.stat("var/lib/dpkg/info", dir_fd=root)  # as anybody else would be led out
        with pytest.raises(OSError, match="Too many levels"):
            packages.owner(root, path)
        (tmp_path / "var/lib/dpkg").unlink()
        info = tmp_path / "var/lib/dpkg/info"
        info.mkdir(parents=True)
        os.mkfifo(info / "a.list")
        (info / "b.list").symlink_to("/var/lib/dpkg/info/coreutils.list")
        (info / "c.list").mkdir()
        (info / "d:amd64.list").write_bytes(path + b"\n")
        os.mkfifo(tmp_path / "var/lib/dpkg/status")
        assert packages.owner(root, path) == packages.Package("d", "", "dpkg")
    finally:
        os.close(root)


def test_the_interpreter_is_the_program() -> None:
    """Of a script the executable is its interpreter, as for events."""
    with Known("ready()") as known:
        assert gathered(known.pid)["executable"]["path"] == str(Path(sys.executable).resolve())
