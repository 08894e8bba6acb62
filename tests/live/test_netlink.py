"""The netlink backend, live: every exec and exit with what /proc told, connections with their owners or with none."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
import pytest

from tests.tracing import Trace

pytestmark = pytest.mark.live

NETLINK = ("--backend", "netlink")
PROCESSES = 23
NETNS = Path("/proc/self/ns/net").stat().st_ino
LONG_S = 1.0  # a connection that no look can miss
HANDLED_S = 10.0

# Connects to itself, says its ports, keeps that as long as it is told, and sends and answers known numbers of bytes.
TALKER = """
import os, socket, sys, time
family, hold = int(sys.argv[1]), float(sys.argv[2])
listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
client = socket.create_connection(listener.getsockname()[:2])
server = listener.accept()[0]
client.sendall(b"x" * 10007)
got = 0
while got < 10007:
    got += len(server.recv(65536))
server.sendall(b"y" * 503)
got = 0
while got < 503:
    got += len(client.recv(65536))
time.sleep(hold)
print(client.getsockname()[1], listener.getsockname()[1], os.stat("/proc/self/ns/net").st_ino, flush=True)
client.close()
server.close()
"""
# Listens and makes children that keep the descriptor.
PREFORK = """
import os, socket, time
listener = socket.create_server(("127.0.0.1", 0))
children = [os.fork() for _ in range(3) if os.getpid() == int(os.environ.setdefault("TOP", str(os.getpid())))]
if os.environ["TOP"] == str(os.getpid()):
    print(listener.getsockname()[1], flush=True)
time.sleep(2)
"""
LEADERLESS = """
import ctypes, os, platform, threading, time
def last():
    time.sleep(0.3)
    os._exit(7)
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
"""


# A process that listens, is connected to itself, has received 997 bytes, and stays until it is told.
HOLDS = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]
client.sendall(b"z" * 997)
server.recv(997, socket.MSG_WAITALL)
print(client.getsockname()[1], flush=True)
sys.stdin.read()
"""


def entity(pid: int, ticks: int) -> str:
    """The id that docs/events.md defines."""
    boot = UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    return b64encode(blake2b(struct.pack("<16sIQ", boot, pid, ticks), digest_size=16).digest()).decode()


def began(pid: int) -> int:
    """When a process began, in ticks since boot."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def stamp(text: str) -> float:
    """A time of a line, in seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()


def worker_of(trace: Trace) -> int:
    """The process that traces: the broker's child, beside the one that opens files."""
    children = psutil.Process(trace.pid).children()
    (worker,) = (child.pid for child in children if Path(f"/proc/{child.pid}/comm").read_text() != "tracer_opener\n")
    return worker


def until(done: Callable[[], bool]) -> None:
    """Wait for something that comes soon."""
    deadline = time.monotonic() + HANDLED_S
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert done()


def talk(family: int = socket.AF_INET, hold: float = LONG_S, *prefix: str) -> tuple[int, list[int]]:
    """Run the talker; its pid, and its ports and network namespace."""
    command = [*prefix, sys.executable, "-c", TALKER, str(family), str(hold)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(word) for word in process.stdout.read().split()]
    assert process.returncode == 0
    return process.pid, told


def ports_of(event: dict[str, Any]) -> tuple[int, int]:
    """The initiator's port, and the other."""
    return event["source"]["port"], event["destination"]["port"]


def test_processes_that_last_are_told_in_full(tmp_path: Path) -> None:
    """23 processes: program, arguments, directory, parent, user, identity and code, as they were."""
    truth = {}
    with Trace(*NETLINK, "--pid", str(os.getpid()), "--children", "--event", "exec,exit,fork") as trace:
        for number in range(PROCESSES):
            command = ["/bin/sh", "-c", f"sleep 0.05; exit {number}", "", "two words"]
            with subprocess.Popen(command, cwd=tmp_path) as child:
                truth[child.pid] = number, command, entity(child.pid, began(child.pid))
    for pid, (number, command, name) in truth.items():
        told = trace.one("process-executed", pid)
        process = told["process"]
        assert process["entity_id"] == name
        assert process["args"] == command
        assert process["executable"] == os.path.realpath("/bin/sh")
        assert process["working_directory"] == str(tmp_path)
        assert process["parent"]["pid"] == os.getpid()
        assert process["user"]["id"] == str(os.geteuid())
        assert told["tracer"]["quality"] == ["approximate"]
        assert told["tracer"]["netns"] == NETNS
        ended = trace.one("process-exited", pid)
        assert (ended["process"]["exit_code"], ended["process"]["entity_id"]) == (number, name)
        assert "quality" not in ended["tracer"]
        forked = trace.one("process-forked", pid)
        assert forked["process"]["entity_id"] == name
        assert forked["@timestamp"] <= told["@timestamp"] <= ended["@timestamp"]


def test_no_exec_and_no_exit_is_missing_however_short() -> None:
    """1,009 processes that do nothing: each has its exec and its exit, and no other program is said of any."""
    true = os.path.realpath("/bin/true")
    with Trace(*NETLINK, "--pid", str(os.getpid()), "--children", "--event", "exec,exit") as trace:
        pids = []
        for _ in range(1009):
            with subprocess.Popen(["/bin/true"]) as child:
                pids.append(child.pid)
    executed = {event["process"]["pid"]: event for event in trace.find("process-executed")}
    exited = {event["process"]["pid"]: event for event in trace.find("process-exited")}
    assert set(pids) <= executed.keys()
    assert set(pids) <= exited.keys()
    for pid in pids:
        assert executed[pid]["process"].get("executable", true) == true
        assert executed[pid]["process"].get("args", ["/bin/true"]) == ["/bin/true"]
        assert executed[pid]["process"]["parent"]["pid"] == os.getpid()
        assert exited[pid]["process"]["exit_code"] == 0
        assert executed[pid]["process"]["entity_id"] == exited[pid]["process"]["entity_id"]
    assert any("executable" in executed[pid]["process"] for pid in pids), "what runs is never told"
    assert trace.ledger["total"]["lost"] == 0


def test_program_of_the_next_exec_is_not_said_of_the_first() -> None:
    """A shell that is replaced at once: what the first exec is said to run is the shell, or nothing."""
    shell, true = os.path.realpath("/bin/sh"), os.path.realpath("/bin/true")
    with Trace(*NETLINK, "--pid", str(os.getpid()), "--children", "--event", "exec") as trace:
        pids = []
        for _ in range(211):
            with subprocess.Popen(["/bin/sh", "-c", "exec /bin/true"]) as child:
                pids.append(child.pid)
    for pid in pids:
        first, second = trace.find("process-executed", pid)
        assert first["process"].get("executable", shell) == shell
        assert first["process"].get("args", [shell])[0] in (shell, "/bin/sh")
        assert second["process"].get("executable", true) == true
        assert second["process"].get("args", ["/bin/true"]) == ["/bin/true"]


def test_signals_threads_and_users() -> None:
    """A signal is told; a leader that ends first gives one exit, the last, with the code; ids are those of the exec."""
    switch = "import os; os.setgid(65533); os.setuid(65534); os.execv('/bin/sleep', ['sleep', '0.3'])"
    with Trace(*NETLINK, "--pid", str(os.getpid()), "--children", "--event", "exec,exit") as trace:
        with subprocess.Popen(["/bin/sleep", "60"]) as killed:
            killed.send_signal(signal.SIGKILL)
        with subprocess.Popen([sys.executable, "-c", LEADERLESS]) as leaderless:
            pass
        with subprocess.Popen([sys.executable, "-c", switch]) as switched:
            pass
    ended = trace.one("process-exited", killed.pid)
    assert ended["tracer"]["process"]["signal"] == signal.SIGKILL
    assert leaderless.returncode == 7
    assert trace.one("process-exited", leaderless.pid)["process"]["exit_code"] == 7
    before, after = trace.find("process-executed", switched.pid)
    assert before["process"]["user"]["id"] == str(os.geteuid())
    assert (after["process"]["user"]["id"], after["process"]["group"]["id"]) == ("65534", "65533")


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_connections_that_last(family: int) -> None:
    """Both ends of a connection, the listener, and both closes: whose they are, how that is known, and the bytes."""
    with Trace(*NETLINK, "--event", "connect,accept,listen,close") as trace:
        pid, (port, listening, netns) = talk(family)
    for action, attribution, direction in (
        ("connection-opened", "inode", "egress"),
        ("connection-accepted", "inode", "ingress"),
    ):
        event = trace.one(action, pid)
        assert ports_of(event) == (port, listening)
        assert event["tracer"]["attribution"] == attribution
        assert event["tracer"]["quality"] == ["approximate"]
        assert event["tracer"]["netns"] == netns
        assert event["network"]["direction"] == direction
    assert trace.one("socket-listening", pid)["server"]["port"] == listening
    closes = {event["network"]["direction"]: event for event in trace.find("connection-closed", pid)}
    assert closes.keys() == {"egress", "ingress"}
    for event in closes.values():
        assert ports_of(event) == (port, listening)
        assert event["tracer"]["attribution"] == "cookie"
        assert (event["source"]["bytes"], event["destination"]["bytes"]) == (10007, 503)
        assert event["event"]["outcome"] == "unknown"


def test_connections_that_are_too_short_have_true_totals_and_no_wrong_owner() -> None:
    """101 connections that last as long as it takes to make them: each end is told, with what was sent, or counted."""
    with Trace(*NETLINK, "--event", "connect,accept,close") as trace:
        listener = socket.create_server(("127.0.0.1", 0))
        ports = []
        with listener:
            for size in range(1, 102):
                client = socket.create_connection(listener.getsockname())
                server = listener.accept()[0]
                ports.append(client.getsockname()[1])
                client.sendall(b"x" * size)
                client.close()
                while server.recv(4096):
                    pass
                server.close()
            listening = listener.getsockname()[1]
    closes = [event for event in trace.find("connection-closed") if listening in (*ports_of(event),)]
    sizes = dict(zip(ports, range(1, 102), strict=True))
    assert len(closes) == 2 * len(ports)
    for event in closes:
        owner = event.get("process", {}).get("pid", os.getpid())
        assert owner == os.getpid()
        ends = {event["source"]["port"]: event["source"], event["destination"]["port"]: event["destination"]}
        port = (ends.keys() - {listening}).pop()
        assert ends[port]["bytes"] - sizes[port] in (0, 1)  # the kernel counts the FIN that was read
        assert ends[listening]["bytes"] in (0, 1)


def test_new_network_namespaces_are_found() -> None:
    """A connection in a namespace that began after the trace did is told, with that namespace."""
    up = "ip link set lo up && exec "
    with Trace(*NETLINK, "--event", "connect,accept,close") as trace:
        command = ["unshare", "--net", "sh", "-c", up + '"$0" "$@"', sys.executable, "-c", TALKER, "2", str(LONG_S)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            port, listening, netns = (int(word) for word in process.stdout.read().split())
    assert netns != NETNS
    for action in ("connection-opened", "connection-accepted"):
        event = trace.one(action, process.pid)
        assert ports_of(event) == (port, listening)
        assert event["tracer"]["netns"] == netns


def test_inherited_listener_is_its_parents() -> None:
    """A socket that children have from their parent is the parent's, who made it."""
    with (
        Trace(*NETLINK, "--event", "listen") as trace,
        subprocess.Popen([sys.executable, "-c", PREFORK], stdout=subprocess.PIPE, text=True) as parent,
    ):
        assert parent.stdout is not None
        port = int(parent.stdout.readline())
        parent.wait()
    told = [event for event in trace.find("socket-listening") if event["server"]["port"] == port]
    assert [event["process"]["pid"] for event in told] == [parent.pid]


def test_snapshot_has_processes_and_sockets() -> None:
    """What was there before is told, sockets with owner and totals."""
    with subprocess.Popen([sys.executable, "-c", HOLDS], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        port = int(holder.stdout.readline())
        ticks = began(holder.pid)
        with Trace(*NETLINK) as trace:
            pass
        holder.communicate(timeout=30)
    running = trace.one("process-running", holder.pid)
    assert running["process"]["entity_id"] == entity(holder.pid, ticks)
    mine = [event for event in trace.find("connection-open", holder.pid) if event["source"]["port"] == port]
    assert {event["network"]["direction"] for event in mine} == {"egress", "ingress"}
    assert [event["source"]["bytes"] for event in mine] == [997, 997]
    assert {event["tracer"]["attribution"] for event in mine} == {"inode"}
    listening = trace.find("socket-listening", holder.pid)
    assert [event["event"]["kind"] for event in listening] == ["state"]


def test_coverage_says_what_is_blind() -> None:
    """The coverage record names the backend, what it hears and looks at, what is blind, and how to get that back."""
    with Trace(*NETLINK) as trace:
        pass
    coverage = trace.one("tracer-coverage")["tracer"]["coverage"]
    assert coverage["backend"] == "netlink"
    assert coverage["hooks"].keys() == {"proc connector", "programs", "sock_diag", "owners"}
    assert any("before it is looked at" in line for line in coverage["blind"])
    assert "eBPF" in coverage["fix"]
    assert coverage["polling"] == {"shortest_ms": 10, "longest_ms": 100}
    assert trace.ledger["complete"] is False
    assert trace.ledger["missed"]["uncounted"] == coverage["uncounted"]


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-on-loss",), 5)], ids=["plain", "fail-on-loss"])
def test_overrun_is_counted_told_and_outlived(options: tuple[str, ...], code: int) -> None:
    """A socket without room: the loss is an interval with a count, what changed meanwhile is found, and it goes on."""
    began_at = time.time()
    with (
        Trace(*NETLINK, "--buffer", "64K", "--event", "exec,exit", *options, code=code) as trace,
        subprocess.Popen(["/bin/sleep", "60"]) as ends_unheard,
        ExitStack() as stack,
    ):
        stack.callback(ends_unheard.kill)
        until(lambda: str(ends_unheard.pid) in trace.output.read_text())
        worker = psutil.Process(worker_of(trace))
        worker.suspend()
        try:
            for _ in range(503):
                subprocess.run(["/bin/true"], check=True)
            ends_unheard.kill()
            ends_unheard.wait()
            begins_unheard = stack.enter_context(subprocess.Popen(["/bin/sleep", "61"]))
            stack.callback(begins_unheard.kill)
            subprocess.run(["/bin/true"], check=True)
        finally:
            worker.resume()
        until(lambda: '"kind":"unknown"' in trace.output.read_text())
        with subprocess.Popen(["/bin/sleep", "0.2"]) as after:
            pass
        begins_unheard.kill()
        begins_unheard.wait()
    ended_at = time.time()
    losses = [
        event["tracer"]["loss"] for event in trace.find("tracer-loss") if event["tracer"]["loss"]["kind"] == "unknown"
    ]
    assert losses
    for loss in losses:
        assert loss["stage"] == "ring"
        assert loss["causes"] == {"proc_connector": loss["count"]}
        assert began_at - 1 < stamp(loss["first"]) < stamp(loss["last"]) < ended_at + 1
        assert loss["cpus"]
    lost = sum(loss["count"] for loss in losses)
    total = trace.ledger["total"]
    assert lost == total["lost_by_stage"]["ring"] == total["lost"] - total["lost_by_stage"]["emit"]
    heard = {event["process"]["pid"] for event in trace.find("process-exited")}
    assert lost >= 3 * (503 - len(heard))  # a fork, an exec and an exit each
    assert trace.ledger["complete"] is False
    assert trace.ledger["balanced"] is True
    assert trace.one("process-executed", after.pid)["process"]["args"] == ["/bin/sleep", "0.2"]
    ended = trace.one("process-exited", ends_unheard.pid)
    assert set(ended["tracer"]["quality"]) == {"approximate", "no-status"}
    assert trace.find("process-executed", begins_unheard.pid)[-1]["process"]["args"] == ["/bin/sleep", "61"]
    assert trace.one("process-exited", begins_unheard.pid)["tracer"]["process"]["signal"] == signal.SIGKILL


def test_recording_gives_the_same_again(tmp_path: Path) -> None:
    """`--record` and `tracer replay` give the same lines, losses included."""
    recording = tmp_path / "recording"
    with Trace(*NETLINK, "--record", str(recording), "--event", "exec,exit") as trace:
        subprocess.run(["/bin/true"], check=True)
    command = [sys.executable, "-m", "tracer", "replay", "--json", str(recording)]
    again = subprocess.run(command, capture_output=True, check=True).stdout.splitlines()
    told = [json.loads(line)["event"]["action"] for line in again]
    assert told == [event["event"]["action"] for event in trace.events]
