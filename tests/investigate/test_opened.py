"""Open files and sockets: exactly those that a program knows it has, and those that psutil finds."""

import json
import os
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.investigate.known import Known, gathered
from tracer.investigate import files, sockets


def descriptors(pid: int) -> list[int]:
    """The open descriptors of a process."""
    return [int(each.name) for each in Path(f"/proc/{pid}/fd").iterdir()]


FILES = """
import ctypes
here = sys.argv[1]
opened = {}
def note(name, fd):
    opened[name] = fd
fd = os.open(here + "/read", os.O_RDONLY)
os.lseek(fd, 7, os.SEEK_SET)
note("read", fd)
note("append", os.open(here + "/append", os.O_WRONLY | os.O_CREAT | os.O_APPEND))
note("deleted", os.open(here + "/deleted", os.O_RDWR | os.O_CREAT))
os.unlink(here + "/deleted")
note("named", os.open(here + "/x (deleted)", os.O_RDWR | os.O_CREAT))
note("directory", os.open(here, os.O_RDONLY))
note("null", os.open("/dev/null", os.O_RDWR))
note("fifo", os.open(here + "/fifo", os.O_RDWR | os.O_NONBLOCK))
note("event", os.eventfd(0))
note("memory", os.memfd_create("m"))
note("one", os.pipe()[0])
note("pair", os.dup(socket.socketpair()[0].detach()))
ready(opened=opened)
"""


def test_files_by_kind(tmp_path: Path) -> None:
    """Each descriptor is of its kind, deleted only if its file is, with flags and position; the counts are theirs."""
    (tmp_path / "read").write_text("0123456789")
    os.mkfifo(tmp_path / "fifo")
    with Known(FILES, args=[str(tmp_path)]) as known:
        told = gathered(known.pid)["files"]
        opened = known.facts["opened"]
        by_fd = {each["fd"]: each for each in told["open"]}
        names = {name: by_fd[fd] for name, fd in opened.items()}
        kinds = {name: each["kind"] for name, each in names.items()}
        files_of = dict.fromkeys(("read", "append", "deleted", "named"), "regular")
        others = {"directory": "directory", "null": "device", "fifo": "pipe", "event": "anon", "one": "pipe"}
        assert kinds == files_of | others | {"memory": "memfd", "pair": "socket"}
        assert [name for name, each in names.items() if each.get("deleted")] == ["deleted"]
        assert names["deleted"]["path"] == str(tmp_path / "deleted")
        assert names["named"]["path"] == str(tmp_path / "x (deleted)")
        assert names["read"]["position"] == 7
        assert names["read"]["flags"] == ["O_RDONLY", "O_CLOEXEC"]
        assert names["append"]["flags"] == ["O_WRONLY", "O_APPEND", "O_CLOEXEC"]
        counted = Counter(each["kind"] for each in told["open"])
        assert told["counts"] == {kind: counted[kind] for kind in files.KINDS} | {"deleted": 1}
        assert sorted(by_fd) == sorted(descriptors(known.pid))
        seen = {(each.fd, each.path, each.position) for each in psutil.Process(known.pid).open_files()}
        regular = {fd: each for fd, each in by_fd.items() if each["kind"] == "regular" and not each.get("deleted")}
        assert seen == {(fd, each["path"], each["position"]) for fd, each in regular.items()}


MANY = """
import resource
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
count = min(40000, limit - 100)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
listening = socket.create_server(("127.0.0.1", 0))
kept = [os.dup(0) if number % 2 else os.open("/etc/passwd", os.O_RDONLY) for number in range(count)]
last = socket.create_server(("127.0.0.1", 0))
ready(count=count, port=last.getsockname()[1])
"""


def test_tens_of_thousands_of_descriptors() -> None:
    """All are counted, the first thousands are listed, and a listener behind them is found, too."""
    with Known(MANY) as known:
        told = gathered(known.pid)
        count = known.facts["count"]
        counts = told["files"]["counts"]
        assert count > files.LISTED_MOST
        whole = len(descriptors(known.pid))
        assert sum(count for kind, count in counts.items() if kind != "deleted") == whole
        assert counts["regular"] == (count + 1) // 2
        assert counts["socket"] == 2
        assert len(told["files"]["open"]) == files.LISTED_MOST
        assert told["files"]["cut"] == whole - files.LISTED_MOST
        assert known.facts["port"] in [each["local"]["port"] for each in told["listeners"]]


SOCKETS = """
server = socket.create_server(("127.0.0.1", 0), backlog=37)
six = socket.create_server(("::1", 0), family=socket.AF_INET6)
client = socket.create_connection(server.getsockname())
accepted, _ = server.accept()
client.sendall(b"x" * 12345)
left = 12345
while left:
    left -= len(accepted.recv(left))
accepted.sendall(b"y" * 67)
left = 67
while left:
    left -= len(client.recv(left))
waits = socket.create_connection(server.getsockname())
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("127.0.0.1", 0))
talks = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
talks.connect(bound.getsockname())
unix = socket.socket(socket.AF_UNIX)
unix.bind("\\0tracer-" + sys.argv[1])
unix.listen()
pair = socket.socketpair()
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
names = ("server", "six", "client", "accepted", "waits", "bound", "talks", "unix", "netlink")
ready(fds={name: globals()[name].fileno() for name in names}, pair=[each.fileno() for each in pair],
      ports={name: globals()[name].getsockname()[1] for name in names[:7]})
"""


def test_sockets_of_every_kind(tmp_path: Path) -> None:
    """Each socket has its state, both ends and its bytes; who listens, and who takes what comes, are told apart."""
    with Known(SOCKETS, args=[tmp_path.name]) as known:
        told = gathered(known.pid)
        fds, ports = known.facts["fds"], known.facts["ports"]
        listeners = {each["fd"]: each for each in told["listeners"]}
        others = {each["fd"]: each for each in told["sockets"]}
        assert listeners.keys() == {fds[name] for name in ("server", "six", "bound", "unix")}
        assert others.keys() == {fds[name] for name in ("client", "accepted", "waits", "talks", "netlink")} | {
            *known.facts["pair"]
        }
        server = listeners[fds["server"]]
        assert server["local"] == {"ip": "127.0.0.1", "port": ports["server"]}
        assert (server["state"], server["waiting"], server["backlog"]) == ("LISTEN", 1, 37)
        assert listeners[fds["six"]]["local"] == {"ip": "::1", "port": ports["six"]}
        assert listeners[fds["six"]]["family"] == "ipv6"
        client, accepted = others[fds["client"]], others[fds["accepted"]]
        assert client["peer"] == accepted["local"] == server["local"]
        assert accepted["peer"] == client["local"] == {"ip": "127.0.0.1", "port": ports["client"]}
        assert (client["sent"], client["received"]) == (accepted["received"], accepted["sent"]) == (12345, 67)
        assert client["state"] == "ESTABLISHED"
        assert listeners[fds["bound"]]["state"] == "UNCONNECTED"
        assert others[fds["talks"]]["peer"] == listeners[fds["bound"]]["local"]
        assert listeners[fds["unix"]]["path"] == f"@tracer-{tmp_path.name}"
        one, other = (others[fd] for fd in known.facts["pair"])
        assert (one["peer_inode"], other["peer_inode"]) == (other["inode"], one["inode"])
        assert others[fds["netlink"]]["transport"] == "netlink"
        seen = {
            (each.fd, each.laddr.port, tuple(each.raddr)[1:])
            for each in psutil.Process(known.pid).net_connections("inet")
        }
        inet = [each for each in told["listeners"] + told["sockets"] if each.get("family") in ("ipv4", "ipv6")]
        peers = {each["fd"]: (each["peer"]["port"],) if "peer" in each else () for each in inet}
        assert seen == {(each["fd"], each["local"]["port"], peers[each["fd"]]) for each in inet}


def test_without_sock_diag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the kernel does not answer, psutil finds the same sockets in /proc, but for their bytes."""

    def refused(*_: Any) -> Any:
        raise OSError(2, "no such module")

    with Known(SOCKETS, args=[tmp_path.name]) as known:
        whole = gathered(known.pid)
        monkeypatch.setattr(sockets, "dump", refused)
        told = gathered(known.pid)
        for name in ("sockets", "listeners"):
            wanted = {
                (each["fd"], each["transport"], str(each.get("local")), str(each.get("peer")))
                for each in whole[name]
                if each.get("family") in ("ipv4", "ipv6")
            }
            found = {
                (each["fd"], each["transport"], str(each.get("local")), str(each.get("peer")))
                for each in told[name]
                if each.get("family") in ("ipv4", "ipv6")
            }
            assert found == wanted
        assert all("sent" not in each for each in told["sockets"])


@pytest.mark.live
def test_sockets_of_another_namespace() -> None:
    """Sockets are looked for in the network namespace of the process, and found there alone."""
    program = """
import subprocess
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
server = socket.create_server(("127.0.0.1", 4711))
client = socket.create_connection(("127.0.0.1", 4711))
ready()
"""
    with Known(program, prefix=["unshare", "--net"]) as known:
        told = gathered(known.pid)
        assert [each["local"]["port"] for each in told["listeners"]] == [4711]
        assert [each["peer"]["port"] for each in told["sockets"]] == [4711]
        assert told["namespaces"]["net"]["differs"] is True
        assert not told["namespaces"]["uts"]["differs"]
        inode = Path(f"/proc/{known.pid}/ns/net").stat().st_ino
        assert told["namespaces"]["net"]["inode"] == inode != Path("/proc/self/ns/net").stat().st_ino


def test_bytes_are_those_of_ss(tmp_path: Path) -> None:
    """What TCP has moved is what ss(8) reads of the same socket."""
    with Known(SOCKETS, args=[tmp_path.name]) as known:
        told = {each["fd"]: each for each in gathered(known.pid)["sockets"]}[known.facts["fds"]["client"]]
        filter_ = f"sport = :{told['local']['port']}"
        shown = subprocess.run(["ss", "-tinH", filter_], capture_output=True, text=True, check=True).stdout
        words = dict(word.split(":", 1) for word in shown.split() if word.startswith("bytes_"))
        assert int(words["bytes_sent"]) == told["sent"]
        assert int(words["bytes_received"]) == told["received"]


def test_a_bundle_is_json() -> None:
    """Nothing in a bundle is anything but text, numbers, truth, lists and objects."""
    assert json.loads(json.dumps(gathered(os.getpid())))["target"]["pid"] == os.getpid()
