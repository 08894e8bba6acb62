"""Record the session of tests/data again (as root), or with --lines only write what the one that is there gives.

The recording holds the records of one small process tree in namespaces of its own, and of nobody else: the kernel
filters by pid, there is no snapshot, and what the start says of the machine is replaced.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.tracing import Trace
from tracer.pipeline.turns import FRAME, MAGIC, Start, Turn, pack, unpack

HERE = Path(__file__).parent
RECORDING = HERE / "session.raw"
LINES = HERE / "session.jsonl"
BYTES_MOST = 200_000

# What the tree does, once it is told to go: everything that there is an event for.
PROGRAM = """
import os, signal, socket, subprocess
print("ready", flush=True)
input()
subprocess.run([b"/bin/true", b"one", b"b\\xe4d \\n name"])
subprocess.run(["/bin/sh", "-c", "exit 3"])
try:
    subprocess.run(["/no/such/program", "x"])
except OSError:
    pass
child = subprocess.Popen(["/bin/sleep", "60"])
child.send_signal(signal.SIGKILL)
child.wait()
with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as other:
    one.bind(("127.0.0.1", 8081))
    for _ in range(3):
        other.sendto(b"y" * 101, ("127.0.0.1", 8081))
        one.recvfrom(200)
with socket.create_server(("127.0.0.1", 8080)) as server:
    with socket.create_connection(("127.0.0.1", 8080)) as client:
        accepted, _ = server.accept()
        client.sendall(b"x" * 1000)
        accepted.sendall(b"y" * 50)
        client.shutdown(socket.SHUT_WR)
        accepted.recv(1000, socket.MSG_WAITALL)
        accepted.recv(1)
        accepted.close()
        client.recv(50)
        client.recv(1)
with socket.socket() as refused:
    refused.connect_ex(("127.0.0.1", 9))
with socket.socket(socket.AF_INET6) as refused:
    refused.connect_ex(("::1", 9))
"""
TREE = (
    *("unshare", "--net", "--pid", "--uts", "--ipc", "--mount-proc", "--fork", "--kill-child"),
    *(
        "setsid",
        "env",
        "-i",
        "-C",
        "/",
        "/bin/sh",
        "-c",
        'ip link set lo up; exec /usr/bin/python3 -I -S -c "$0"',
        PROGRAM,
    ),
)
HOST = {
    "id": "machine",
    "name": "box",
    "boot_id": "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0",
    "kernel": "6.1.0",
    "architecture": "x86_64",
    "cpus": 2,
    "page_size": 4096,
}


def scrubbed(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of a start with nothing in them of the machine and of who recorded it."""
    session = facts["session"] | {
        "host": HOST,
        "agent_id": "agent",
        "ephemeral_id": "run",
        "version": "1.2.3",
        "users": {"0": "root"},
        "groups": {"0": "root"},
    }
    coverage = facts["coverage"] | {"excluded": [1], "pid": 1, "filters": {"event": ["exec"]}}
    return facts | {
        "session": session,
        "coverage": coverage,
        "started": {"uid": 0, "euid": 0, "pid": 1, "command_line": ["tracer", "live"]},
        "filters": {"event": facts["filters"]["event"]},
    }


def smaller(data: bytes) -> bytes:
    """The recording scrubbed, and without the turns in which nothing came."""
    assert data.startswith(MAGIC)
    at = len(MAGIC)
    kept = [MAGIC]
    while at < len(data):
        kind, length = FRAME.unpack_from(data, at)
        at += FRAME.size
        item = unpack(kind, data[at : at + length])
        at += length
        if isinstance(item, Start):
            item = Start(scrubbed(item.facts))
        if not isinstance(item, Turn) or item.runs or item.cut:
            kept.append(pack(item))
    return b"".join(kept)


def record() -> bytes:
    """Run the tree under a trace of its own, and return the recording."""
    with tempfile.TemporaryDirectory() as directory:
        raw = Path(directory) / "raw"
        with subprocess.Popen(TREE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tree:
            assert tree.stdout is not None
            assert tree.stdout.readline() == "ready\n"
            events = "exec,exec-failed,fork,exit,connect,accept,listen,close,flow,update,owner,dns"
            (pid,) = Path(f"/proc/{tree.pid}/task/{tree.pid}/children").read_text().split()
            options = ("--pid", pid, "--children", "--no-snapshot", "--event", events, "--record", str(raw))
            with Trace(*options):
                tree.communicate("go\n", timeout=30)
            assert tree.returncode == 0
        return raw.read_bytes()


def lines() -> bytes:
    """What a replay of the recording gives."""
    command = [sys.executable, "-m", "tracer", "replay", "--json", str(RECORDING)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", action="store_true", help="keep the recording, write its lines")
    if not parser.parse_args().lines:
        data = smaller(record())
        assert len(data) < BYTES_MOST, len(data)
        RECORDING.write_bytes(data)
    LINES.write_bytes(lines())
    print(f"{RECORDING.stat().st_size} bytes, {len(LINES.read_bytes().splitlines())} lines")
    print(json.dumps([json.loads(line)["event"]["action"] for line in LINES.read_bytes().splitlines()]))


if __name__ == "__main__":
    main()
