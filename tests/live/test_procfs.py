"""`tracer live` by looking at /proc: the same events and fields, and what is not known is said, not made up."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.live.test_cli import DEADLINE, OK, PRIVILEGE, ROOT, Finished, as_user, in_mount_namespace
from tests.tracing import Event, Trace, find, one

pytestmark = pytest.mark.live

PROCFS = ("--backend", "procfs")
SEEN_S = 1.5  # three looks, also where the machine is busy
INITIAL_PID_NAMESPACE = 4026531836
# Connects to a port for as long as its input is open, and ends with a code of its own.
CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(connection.getsockname()[1], flush=True)
sys.stdin.read()
connection.close()
sys.exit(7)
"""
SERVER = """
import socket, sys
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
connection, _ = server.accept()
print("accepted", flush=True)
sys.stdin.read()
"""
FORKER = "import os, time; os.fork(); os.fork(); time.sleep(1)"  # four of them


def started(code: str, *arguments: object) -> tuple["subprocess.Popen[str]", int]:
    """A program, and the number that it prints first."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline())


def client_of(server: "subprocess.Popen[str]", port: int) -> tuple["subprocess.Popen[str]", int]:
    """A client whose connection the server has accepted, and its port; so it stays long enough to be seen."""
    client, mine = started(CLIENT, port)
    assert server.stdout is not None
    assert server.stdout.readline() == "accepted\n"
    time.sleep(SEEN_S)
    return client, mine


def ended(process: "subprocess.Popen[str]") -> int:
    """Close its input and wait; its code."""
    process.communicate(timeout=DEADLINE)
    return process.returncode


def coverage_of(events: list[Event]) -> dict[str, Any]:
    """The coverage record."""
    found: dict[str, Any] = one(events, "tracer-coverage")["tracer"]["coverage"]
    return found


def assert_honest(ledger: dict[str, Any]) -> None:
    """It balances with nothing lost, and does not claim that nothing was missed."""
    assert (ledger["final"], ledger["balanced"], ledger["complete"]) == (True, True, False), ledger
    assert ledger["missed"]["uncounted"]
    assert ledger["total"]["lost"] == ledger["total"]["in_flight"] == 0, ledger


def test_processes_and_connections() -> None:
    """What lives long enough is told with the process whose it is, in the order it happened, and as approximate.

    The side of each end, its ports, lineage and identity are the true ones; bytes are left out, and so is a status that
    nobody saw.
    """
    with Trace(*PROCFS, "--no-snapshot", "--event", "exec,fork,exit,connect,accept,listen,close") as trace:
        server, port = started(SERVER)
        client, mine = client_of(server, port)
        assert ended(client) == 7
        ended(server)
        time.sleep(1)
    me = os.getpid()
    for process in (server, client):
        executed = trace.one("process-executed", process.pid)
        forked = trace.one("process-forked", process.pid)
        exited = trace.one("process-exited", process.pid)
        assert executed["process"]["parent"]["pid"] == forked["process"]["parent"]["pid"] == me
        assert executed["process"]["args"][1] == "-c"
        assert "python" in executed["process"]["executable"]
        assert executed["process"]["entity_id"] == exited["process"]["entity_id"] == forked["process"]["entity_id"]
        assert forked["event"]["sequence"] < executed["event"]["sequence"] < exited["event"]["sequence"]
        assert "approximate" in executed["tracer"]["quality"]
        if "no-status" in exited["tracer"]["quality"]:
            assert exited["event"]["outcome"] == "unknown"
            assert "exit_code" not in exited["process"]
        else:
            assert exited["process"]["exit_code"] == (7 if process is client else 0)
    ends = {"source": {"ip": "127.0.0.1", "port": mine}, "destination": {"ip": "127.0.0.1", "port": port}}
    for action, pid, direction in (
        ("connection-opened", client.pid, "egress"),
        ("connection-accepted", server.pid, "ingress"),
        ("connection-closed", client.pid, "egress"),
        ("connection-closed", server.pid, "ingress"),
    ):
        event = trace.one(action, pid, network__direction=direction)
        assert {side: event[side] for side in ends} == ends, "no bytes are made up"
        assert event["tracer"]["attribution"] == "inode"
        assert event["tracer"]["quality"] == ["approximate", "no-totals"]
        assert "late" not in event["tracer"]
    trace.one("socket-listening", server.pid, server__port=port)
    assert_honest(trace.ledger)
    coverage = coverage_of(trace.events)
    assert coverage["backend"] == "procfs"
    assert coverage["uncounted"] == trace.ledger["missed"]["uncounted"]
    assert {"polling", "fix", "blind"} <= coverage.keys()


def test_loss_that_can_not_be_ruled_out() -> None:
    """`--fail-on-loss` ends with 5: a backend that can't know what it missed does not pass for complete."""
    with Trace(*PROCFS, "--no-snapshot", "--duration", "0.5", "--fail-on-loss", code=5) as trace:
        trace.process.wait(DEADLINE)
    assert_honest(trace.ledger)


def test_recording_gives_the_same(tmp_path: Path) -> None:
    """What was recorded without probes replays to the same events, line by line."""
    recording = tmp_path / "recording"
    with Trace(*PROCFS, "--record", str(recording)) as trace:
        server, port = started(SERVER)
        client, _ = client_of(server, port)
        assert ended(client) == 7
        ended(server)
        time.sleep(0.6)
    command = [sys.executable, "-m", "tracer", "replay", "--json", str(recording)]
    again = subprocess.run(command, capture_output=True, check=True, timeout=DEADLINE).stdout.splitlines()
    trace.one("connection-opened", client.pid)
    assert _alike(again) == _alike(trace.lines)


def _alike(lines: list[bytes]) -> list[Event]:
    """The events without their numbers, and without the confinement, which is of a run; ledgers come when they come."""
    events = [json.loads(line) for line in lines]
    kept = [event for event in events if event["event"]["action"] not in {"tracer-confinement", "tracer-ledger"}]
    for event in kept:
        del event["event"]["sequence"]
    return kept


def test_filters() -> None:
    """--pid with --children and --port let through what they name, and the rest is counted as filtered."""
    server, port = started(SERVER)
    other, _ = started(SERVER)
    with Trace(*PROCFS, "--port", str(port)) as by_port, Trace(*PROCFS, "--pid", str(server.pid)) as by_pid:
        client, _ = client_of(server, port)
        assert ended(client) == 7
        ended(server)
        other.kill()
        ended(other)
        time.sleep(1)
    shown = [event for event in by_port.events if "source" in event]
    assert {event["server"]["port"] for event in shown} == {port}
    for action in ("socket-listening", "connection-opened", "connection-accepted"):
        one(shown, action)
    assert len(find(shown, "connection-closed")) == 2
    assert not [event for event in by_port.events if event["event"]["action"].startswith("process-")]
    told = [event for event in by_pid.events if event["event"]["kind"] == "event" and "process" in event]
    assert [event for event in told if event["process"]["pid"] != server.pid] == []
    assert told
    for trace in (by_port, by_pid):
        assert trace.ledger["total"]["filtered"] > 0
        assert_honest(trace.ledger)


def test_children_are_followed() -> None:
    """With --children what a process forks is told, and what that forks, and nothing else's children."""
    command = ["sh", "-c", 'read go; "$0" -c "$1" & sleep 1.2; wait', sys.executable, FORKER]
    shell = subprocess.Popen(command, stdin=subprocess.PIPE)
    stranger = subprocess.Popen(["sleep", "5"])
    assert shell.stdin is not None
    with Trace(*PROCFS, "--pid", str(shell.pid), "--children", "--no-snapshot") as trace:
        shell.stdin.write(b"\n")
        shell.stdin.close()
        bystander = subprocess.Popen(["sleep", "1"])
        shell.wait(DEADLINE)
        bystander.wait(DEADLINE)
        time.sleep(0.5)
    stranger.kill()
    stranger.wait()
    told = {event["process"]["pid"] for event in trace.events if "process" in event}
    assert not told & {bystander.pid, stranger.pid}
    trace.one("process-executed", process__parent__pid=shell.pid, process__args=["sleep", "1.2"])
    first = trace.one("process-executed", process__parent__pid=shell.pid, process__args=[sys.executable, "-c", FORKER])
    forkers = [event for event in trace.find("process-exited") if "python" in event["process"].get("executable", "")]
    assert len(forkers) == 4
    assert first["process"]["pid"] in {event["process"]["pid"] for event in forkers}
    assert len(trace.find("process-exited")) == 6, "the shell, its sleep, and four forkers"


def test_ordinary_user_gets_what_is_theirs() -> None:
    """Without privilege `auto` comes to procfs, with one line that names the fix and all steps in the coverage record.

    Of other users' processes nothing is told that this user may not see; the code is 0. A backend that was asked for by
    name ends with 3.
    """
    finished = as_user([], ["live", "--json", "--duration", "2"])
    assert finished.returncode == OK, finished.stderr
    said = finished.stderr.splitlines()
    assert [line for line in said if "sudo" in line] == [line for line in said if line.startswith("tracer: not with")]
    assert len([line for line in said if "sudo" in line]) == 1
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    coverage = coverage_of(events)
    assert coverage["backend"] == "procfs"
    assert {"core", "bcc"} <= coverage["steps_down"].keys()
    assert any("may not look into" in spot for spot in coverage["blind"])
    mine = one(events, "process-running", os.getpid())
    assert mine["process"]["user"]["id"] == str(os.getuid())
    assert "executable" not in mine["process"]
    assert_honest(events[-1]["tracer"]["ledger"])
    for backend in ("core", "bcc"):
        assert as_user([], ["live", "--json", "--backend", backend]).returncode == PRIVILEGE


def test_hidden_processes_are_said() -> None:
    """Where /proc hides other users' processes the coverage record says so, and none of them is told."""
    finished = as_user([], ["live", "--json", "--duration", "1"], mounts="mount -t proc -o hidepid=2 proc /proc")
    assert finished.returncode == OK, finished.stderr
    events = [json.loads(line) for line in finished.stdout.splitlines()]
    assert any("hidepid=2" in spot for spot in coverage_of(events)["blind"])
    assert not find(events, "process-running", 1)
    assert_honest(events[-1]["tracer"]["ledger"])


def test_container(tmp_path: Path) -> None:
    """In a pid namespace the pids are those inside, and the coverage record says that nothing else is seen."""
    output = tmp_path / "events"
    tracer = f"{sys.executable} -m tracer live --json --backend procfs --duration 3 --output {output}"
    script = f"sleep 100 & {tracer} & sleep 1.5; sleep 0.8; wait %2"
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", script]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE, cwd=ROOT)
    assert finished.returncode == OK, finished.stderr
    events = [json.loads(line) for line in output.read_text().splitlines()]
    assert any("pid namespace" in spot for spot in coverage_of(events)["blind"])
    slept = one(events, "process-executed", process__args=["sleep", "0.8"])
    before = one(events, "process-running", process__args=["sleep", "100"])
    for event in (slept, before):
        assert 1 < event["process"]["pid"] < 1000
        assert event["process"]["parent"]["pid"] == 1
        assert event["tracer"]["pidns"] != INITIAL_PID_NAMESPACE


def test_without_proc() -> None:
    """Without a /proc there is nothing left to look at: code 4, and the fix in the line."""
    command = [sys.executable, "-m", "tracer", "live", "--json", *PROCFS]
    finished: Finished = in_mount_namespace("mount -t tmpfs tmpfs /proc", command)
    assert finished.returncode == 4, finished.stderr
    assert "mount -t proc" in finished.stderr
    assert "Traceback" not in finished.stderr
