"""What is left out, live and in a replay: no output has a secret of a real program, its real peer or its real user."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.formats.schemas import faults
from tests.tracing import Event, Trace, find

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
SECRET = "hunter2zQ-live"  # noqa: S105  # of nobody
UID = 54321
# Not the address as it is: an argument stays as it was given.
CONNECT = "import socket, sys; socket.create_connection(('127.0.%d.%d' % (7, 9), int(sys.argv[1]))).close()"


def act() -> None:
    """As a user of its own, run a program with a secret among its arguments, that is missing, and one that connects."""
    with socket.create_server(("127.0.7.9", 0)) as server:
        port = server.getsockname()[1]
        command = [sys.executable, "-c", CONNECT, str(port), "--password", SECRET, f"https://me:{SECRET}@host/"]
        subprocess.run(command, check=True, user=UID, group=UID, env={}, timeout=30)
        server.accept()[0].close()
    with pytest.raises(FileNotFoundError):
        subprocess.run(["/nonexistent/program", f"--token={SECRET}"], check=False, timeout=30)


def replayed(recording: Path, *options: str) -> bytes:
    """What a replay writes, confined as it is by default."""
    command = [sys.executable, "-m", "tracer", "replay", str(recording), *options]
    done = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def of(events: list[Event], action: str) -> list[Event]:
    """The events that the secret was taken out of."""
    return [event for event in find(events, action) if "redacted" in event["tracer"]]


def test_secrets_live(tmp_path: Path) -> None:
    """By default no format has the secret, the fields are marked, and all else of the command stays."""
    recording = tmp_path / "session.rec"
    with Trace("--record", str(recording), "--no-snapshot") as trace:
        act()
    assert not any(SECRET.encode() in line for line in trace.lines)
    executed = of(trace.events, "process-executed")
    args = [event["process"]["args"] for event in executed if event["process"]["args"][1:3] == ["-c", CONNECT]]
    assert [each[4:] for each in args] == [["--password", "[redacted]", "https://me:[redacted]@host/"]]
    failed = of(trace.events, "process-exec-failed")
    assert [event["tracer"]["exec"]["args"] for event in failed] == [["/nonexistent/program", "--token=[redacted]"]]
    for form in ("ecs", "ocsf", "pretty"):
        shown = replayed(recording, "--format", form)
        assert SECRET.encode() not in shown
        assert b"https://me:[redacted]@host/" in shown
    assert SECRET.encode() in replayed(recording, "--format", "ecs", "--redact", "none")
    rules = tmp_path / "rules"
    rules.write_text("word https://me\n")
    assert b"https://me" not in replayed(recording, "--format", "ecs", "--redact", str(rules))


def test_addresses_and_users_live(tmp_path: Path) -> None:
    """On request there is no whole address and no user's number, live and in a replay, which are alike line by line."""
    key, recording = tmp_path / "key", tmp_path / "session.rec"
    key.write_bytes(os.urandom(32))
    options = ("--truncate-addresses", "--hash-users", str(key))
    with Trace("--record", str(recording), "--no-snapshot", *options) as trace:
        act()
    text = b"\n".join(trace.lines)
    assert b"127.0.7.9" not in text
    assert str(UID).encode() not in text
    opened = [event for event in trace.find("connection-opened") if event["destination"].get("ip") == "127.0.7.0"]
    assert len(opened) == 1
    users = {event["process"]["user"]["id"] for event in find(trace.events, pid=opened[0]["process"]["pid"])}
    assert opened[0]["process"]["user"].keys() == {"id"}
    assert opened[0]["process"]["user"]["id"] in users
    for event in trace.events:
        assert faults(event, "ecs") == []
    again = replayed(recording, "--json", *options).splitlines()
    for live, late in zip(trace.lines, again, strict=True):
        if json.loads(live)["event"]["action"] != "tracer-ledger":
            assert live == late
