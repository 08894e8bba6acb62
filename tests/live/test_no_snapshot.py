"""Without the snapshot nothing of the past is shown, but what comes is still told with whose it is."""

import subprocess
import sys

import pytest

from tests.tracing import Trace

pytestmark = pytest.mark.live

# Waits for a line, then forks a child that connects to a port where nobody listens.
PROGRAM = """
import os, socket, sys
print("up", flush=True)
sys.stdin.readline()
if os.fork() == 0:
    socket.socket().connect_ex(("127.0.0.1", 1))
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize("children", [False, True])
def test_process_from_before_is_known(children: bool) -> None:
    """A connect by the child of a process that ran before has executable and parent; no line tells of the past."""
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        assert program.stdin is not None
        assert program.stdout.readline() == "up\n"
        options = ["--pid", str(program.pid), "--children"] if children else []
        with Trace("--no-snapshot", "--buffer", "32M", *options) as trace:
            program.stdin.write("go\n")
            program.stdin.flush()
            assert program.wait(20) == 0
    assert not [event for event in trace.events if event["tracer"].get("snapshot")]
    (failed,) = [
        event
        for event in trace.events
        if event["event"]["action"] == "connection-failed" and event["process"]["parent"]["pid"] == program.pid
    ]
    assert failed["error"]["code"] == "ECONNREFUSED"
    assert "python" in failed["process"]["executable"]
    assert failed["process"]["parent"]["executable"] == failed["process"]["executable"]
    trace.assert_complete()
