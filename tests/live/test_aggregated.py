"""`--aggregate` on real connections: one record of many, with their number and the bytes of all."""

import subprocess
import sys
from typing import Any

import pytest

from tests.tracing import Trace, find, value

pytestmark = pytest.mark.live

COUNT = 23
# Each time the client ends its side first, so that nothing is held when the connection is closed.
PROGRAM = f"""
import socket
print("ready", flush=True)
input()
with socket.create_server(("127.0.0.1", 0)) as server:
    for _ in range({COUNT}):
        with socket.create_connection(server.getsockname()) as client:
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x" * 1009)
                accepted.recv(1009, socket.MSG_WAITALL)
                accepted.sendall(b"y" * 101)
                client.recv(101, socket.MSG_WAITALL)
                client.shutdown(socket.SHUT_WR)
                accepted.recv(1)
    print(server.getsockname()[1], flush=True)
    input()
"""


def test_many_connections_are_two_records() -> None:
    """23 connections of one program over loopback are one record of who opened them, and one of who took them."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        with Trace("--aggregate", "10s", "--pid", str(program.pid), "--event", "connect,accept,close") as trace:
            program.stdin.write("\n")
            program.stdin.flush()
            port = int(program.stdout.readline())
        program.communicate("\n")
    trace.assert_complete()
    found = find(trace.events, "connection-aggregated")
    told: dict[str, Any] = {event["network"]["direction"]: event for event in found}
    assert told.keys() == {"egress", "ingress"}
    assert len(found) == 2
    for event in found:
        assert event["tracer"]["aggregate"]["count"] == COUNT
        assert event["destination"]["port"] == port
        assert (event["source"]["bytes"], event["destination"]["bytes"]) == (COUNT * 1009, COUNT * 101)
        assert event["network"]["bytes"] == COUNT * (1009 + 101)
        assert event["process"]["pid"] == program.pid
        assert event["event"]["start"] < event["event"]["end"]
        assert value(event, "event.outcome") == "success"
    rows = trace.ledger["by_kind"]
    assert [rows[kind]["aggregated"] for kind in ("connect", "accept", "close")] == [COUNT, COUNT, 2 * COUNT]
    assert rows["aggregate"]["delivered"] == 2
    assert find(trace.events, "connection-closed") == []
