"""What DirectFiles tells is what the files of /proc hold, and each refusal is told by its errno."""

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.fallback.files import EACH_MOST, FILES, LINKS, SELF, DirectFiles, gone

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
# linux/inet_diag.h: inet_diag_req_v2 for all states of TCP over IPv4; linux/netlink.h: SOCK_DIAG_BY_FAMILY as a dump.
_DUMP = struct.pack("=IHHII", 72, 20, 0x301, 1, 0) + struct.pack("=BBBBI48x", socket.AF_INET, 6, 0, 0, 0xFFFFFFFF)


def starts(pid: int) -> int:
    """When a process began, in ticks."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


@pytest.fixture(name="child")
def _child() -> Iterator[int]:
    """A process that waits."""
    with subprocess.Popen(["/bin/sleep", "600"]) as child:
        yield child.pid
        child.kill()


@pytest.fixture(name="ended")
def _ended() -> int:
    """The pid of a process that is no more."""
    with subprocess.Popen(["/bin/true"]) as child:
        pass
    return child.pid


def test_files_and_links(child: int) -> None:
    """Each file and link is read as it is, with and without the start that says whose."""
    files = DirectFiles()
    assert child in files.pids()
    for start in (0, starts(child)):
        for name in FILES:
            # The rest changes by itself, or may be absent.
            if name not in {"stat", "status", "io", "timens_offsets", "net/tcp", "net/tcp6"}:
                assert files.read(child, name, start=start) == Path(f"/proc/{child}/{name}").read_bytes(), name
        for name in LINKS:
            assert files.link(child, name, start=start) == bytes(Path(f"/proc/{child}/{name}").readlink()), name
        assert files.read(child, "net/tcp", start=start).startswith(b"  sl  local_address rem_address   st ")
    assert files.read(child, "comm", 3) == Path(f"/proc/{child}/comm").read_bytes()[:3]
    found = Path(f"/proc/{child}/exe").stat()
    assert files.exe(child, start=starts(child)) == (found.st_dev, found.st_ino, found.st_nlink)


def test_descriptors() -> None:
    """The descriptors of a process are told with what they lead to."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = DirectFiles().fds(os.getpid(), start=starts(os.getpid()))
        assert found[server.fileno()] == b"socket:[%d]" % os.fstat(server.fileno()).st_ino


def test_each_of_many(child: int, ended: int) -> None:
    """A file of many processes is read at once, cut to size; who is gone is left out."""
    found = DirectFiles().read_each([child, ended, os.getpid()], "cmdline", 5)
    assert found == {child: b"/bin/", os.getpid(): Path("/proc/self/cmdline").read_bytes()[:5]}
    assert len(DirectFiles().read_each([child], "status", 1 << 30)[child] or b"") <= EACH_MOST


def test_gone_is_said(child: int, ended: int) -> None:
    """Who is no more, and who took over a pid, is ENOENT or ESRCH in every question."""
    files = DirectFiles()
    for pid, start in ((ended, 0), (ended, 1), (child, starts(child) + 1), (child, 1)):
        asked = (
            lambda pid=pid, start=start: files.read(pid, "stat", start=start),
            lambda pid=pid, start=start: files.link(pid, "exe", start=start),
            lambda pid=pid, start=start: files.fds(pid, start=start),
            lambda pid=pid, start=start: files.exe(pid, start=start),
            lambda pid=pid, start=start: files.cgroup(pid, start=start),
        )
        for ask in asked:
            with pytest.raises(OSError, match="No such") as told:
                ask()
            assert gone(told.value)
    with pytest.raises(FileNotFoundError):
        files.open_diag(ended)


def test_refused_is_not_gone() -> None:
    """What an ordinary user may not see of root's processes is refused, which is told apart from gone."""
    code = """
import os
from tracer.fallback.files import DirectFiles, gone
os.setgroups([]); os.setgid(65534); os.setuid(65534)
files = DirectFiles()
for ask in (lambda: files.link(1, "exe"), lambda: files.fds(1), lambda: files.exe(1), lambda: files.open_diag(1)):
    try:
        ask()
    except OSError as error:
        print(type(error).__name__, gone(error))
print(files.read_each([1, os.getpid()], "io")[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("PermissionError False\n" * 4 + "None\n", "")


def test_other_names_are_no_questions(child: int) -> None:
    """A name that is not in the closed set is an error of the caller, not a path."""
    files = DirectFiles()
    for name in ("environ", "mem", "../1/environ", "/etc/shadow", ""):
        with pytest.raises(ValueError, match="none of"):
            files.read(child, name)
        with pytest.raises(ValueError, match="none of"):
            files.read_each([child], name)
        with pytest.raises(ValueError, match="none of"):
            files.link(child, name)


CGROUPS = [
    ("0::/a.slice/b.service\n", (2, b"/a.slice/b.service")),
    ("0::/\n", (2, b"/")),
    ("", (2, b"")),
    ("0::/gone.scope (deleted)\n", (2, b"/gone.scope")),
    ("9:name=systemd:/s\n5:pids:/p\n4:memory:/m\n0::/new\n", (2, b"/new")),
    ("9:name=systemd:/s\n4:memory:/m\n5:pids:/p\n0::/\n", (1, b"/p")),
    ("5:pids:/\n4:memory:/m\n0::/\n", (1, b"/m")),
    ("3:blkio,devices:/d\n2:cpu,cpuacct:/c:d\n", (1, b"/c:d")),
    ("3:freezer,devices:/d\n2:cpu,cpuacct:/\n0::/\n", (1, b"/d")),
    ("9:name=systemd:/s\n7:blkio:/x\n5:pids:/\n0::/\n", (2, b"/")),
]


@pytest.mark.parametrize(("text", "expected"), CGROUPS)
def test_version_1_is_told_where_version_2_says_nothing(tmp_path: Path, text: str, expected: tuple[int, bytes]) -> None:
    """The path is that of version 2, but in its root the first of four controllers of version 1 that is in none."""
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "cgroup").write_text(text)
    group = DirectFiles(tmp_path).cgroup(5)
    assert (group.version, group.path) == expected


def test_cgroup_is_the_directory() -> None:
    """The id of a process's group is its directory's inode, and another one when the group is made anew."""
    files = DirectFiles()
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    places = [Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")]
    roots = [place for place in places if (place / "cgroup.controllers").exists()]
    assert roots, "no cgroup of version 2 is mounted"
    group = Path(f"{roots[0]}{own}") / f"tracer-test-{os.getpid()}"
    seen = []
    for _ in range(2):
        group.mkdir()
        with subprocess.Popen(["/bin/sleep", "600"]) as child:
            try:
                (group / "cgroup.procs").write_text(str(child.pid))
                told = files.cgroup(child.pid)
                assert told == (group.stat().st_ino, 2, bytes(Path(own) / group.name))
                seen.append(told.id)
            finally:
                child.kill()
                child.wait()
                group.rmdir()
    assert seen[0] != seen[1]
    files.close()
    files.close()


def _ports(fd: int) -> set[int]:
    """The local ports of the TCP sockets that a socket of sock_diag tells."""
    with socket.socket(fileno=fd) as diag:
        diag.settimeout(10)
        diag.send(_DUMP)
        found: set[int] = set()
        while True:
            data, at = diag.recv(1 << 16), 0
            while at < len(data):
                length, kind = struct.unpack_from("=IH", data, at)
                if kind == 3:  # NLMSG_DONE
                    return found
                assert kind == 20, kind
                found.add(struct.unpack_from(">H", data, at + 20)[0])
                at += (length + 3) & ~3


def test_diag_sockets_are_of_the_namespace_asked_for() -> None:
    """A socket of sock_diag tells the sockets of the namespace of the process asked for, and this one stays here."""
    code = """
import socket, sys
server = socket.create_server(("0.0.0.0", 0))
print(server.getsockname()[1], flush=True)
sys.stdin.read()
"""
    files = DirectFiles()
    before = Path("/proc/thread-self/ns/net").readlink()
    command = ["unshare", "--net", sys.executable, "-c", code]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
        socket.create_server(("127.0.0.1", 0)) as here,
    ):
        assert other.stdout is not None
        there, own = int(other.stdout.readline()), here.getsockname()[1]
        seen = {name: _ports(files.open_diag(pid)) for name, pid in (("there", other.pid), ("own", os.getpid()))}
        seen["none"] = _ports(files.open_diag())
        assert other.stdin is not None
        other.stdin.close()
    assert seen["there"] == {there}
    assert own in seen["own"]
    assert own in seen["none"]
    assert Path("/proc/thread-self/ns/net").readlink() == before


def test_own_clock() -> None:
    """The pid SELF stands for the reader, in a time namespace too."""
    code = "from tracer.fallback.files import *; print(DirectFiles().read(SELF, 'timens_offsets').decode())"
    command = ["unshare", "--time", "--boottime", "1000", "--fork", sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
    assert told[told.index("boottime") + 1] == "1000"
    assert DirectFiles().read(SELF, "comm") == Path("/proc/self/comm").read_bytes()


def test_start_that_can_not_be_told() -> None:
    """A start is asked for only where it can be compared: pid SELF has none."""
    with pytest.raises(OSError, match="No such") as told:
        DirectFiles().read(SELF, "stat", start=1)
    assert told.value.errno == errno.ENOENT
