"""Backends and brokers that die while they are needed: the stream says what is missing, and goes on if it can."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.tracing import END_WITHIN_S, READY, READY_WITHIN_S, find, one
from tracer.cli.errors import Exit
from tracer.probes.backend import KernelFilters
from tracer.probes.core import Core

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
EVERYTHING = KernelFilters(frozenset(), frozenset(), False, frozenset(), frozenset(), frozenset(), [])


class Session:
    """A `tracer live` that a test disturbs: its process, its worker, and what it wrote so far."""

    def __init__(self, process: subprocess.Popen[bytes], place: Path) -> None:
        self.process = process
        self.output = place / "events"
        self.errors = place / "errors"

    def told(self) -> str:
        """What it has said on stderr."""
        return self.errors.read_text()

    def wait_ready(self, times: int = 1) -> None:
        """Wait until it has said so often that it is ready."""
        self.wait_for(lambda: self.told().count(READY) >= times, READY_WITHIN_S)

    def wait_for(self, what: Callable[[], object], seconds: float = END_WITHIN_S) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.02)

    @property
    def worker(self) -> int:
        """The pid of the worker that there is."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        (child,) = (pid for pid in children if Path(f"/proc/{pid}/comm").read_text() != "tracer_opener\n")
        return int(child)

    def sessions(self) -> list[list[dict[str, Any]]]:
        """The events, by session."""
        found: dict[str, list[dict[str, Any]]] = {}
        for line in self.output.read_bytes().splitlines():
            if line:
                event = json.loads(line)
                found.setdefault(event["agent"]["ephemeral_id"], []).append(event)
        return list(found.values())


@contextmanager
def live(place: Path, *arguments: str, wrapper: str = "from tracer.cli.main import run; run()") -> Iterator[Session]:
    """A session that is ready; it is killed at the end if it still runs."""
    command = [sys.executable, "-c", wrapper, "live", "--json", "--output", str(place / "events"), *arguments]
    with (place / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    with process:
        session = Session(process, place)
        try:
            session.wait_ready()
            yield session
        finally:
            process.kill()


def change(events: list[dict[str, Any]], state: str) -> dict[str, Any]:
    """What a session says of its backend's loss."""
    told = one(events, "tracer-backend", tracer__change__state=state)
    body: dict[str, Any] = told["tracer"]["change"]
    return body


def final(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The last ledger."""
    assert events[-1]["event"]["action"] == "tracer-ledger"
    ledger: dict[str, Any] = events[-1]["tracer"]["ledger"]
    assert ledger["final"]
    return ledger


SANDBOX = pytest.mark.parametrize("sandbox", [[], ["--no-sandbox"]], ids=["confined", "not confined"])
# A worker of another user is not told by the kernel that its broker has died, and can be signalled only with CAP_KILL.
USERS = pytest.mark.parametrize(
    "sandbox", [[], ["--no-sandbox"], ["--user", "daemon"]], ids=["confined", "not confined", "another user"]
)


@USERS
def test_broker_is_killed(tmp_path: Path, sandbox: list[str]) -> None:
    """The worker says that its broker was killed, writes the last ledger, which is not complete, and ends."""
    with live(tmp_path, "--backend", "procfs", *sandbox) as session:
        worker = session.worker
        session.process.kill()
        session.wait_for(lambda: not Path(f"/proc/{worker}").exists())
    ((*_, _),) = sessions = session.sessions()
    (reason,) = change(sessions[0], "lost")["reasons"]
    # Its end is seen at the socket first when that happens in the middle of a question.
    assert reason in {"the broker was killed", "the broker is gone (Connection reset by peer)"}
    ledger = final(sessions[0])
    assert not ledger["complete"]
    assert ledger["missed"]["gaps"] == 1
    assert f"procfs was lost while tracing: {reason}" in session.told()


@USERS
def test_worker_is_killed(tmp_path: Path, sandbox: list[str]) -> None:
    """The broker starts another, which goes on in the same output and says from when to when events are missing.

    Every line is whole, the new session tells what happens in it, and SIGTERM ends it as any other.
    """
    record = tmp_path / "record"
    with live(tmp_path, "--backend", "procfs", "--record", str(record), *sandbox) as session:
        session.wait_for(lambda: session.output.stat().st_size)  # it may be ready before it has written anything
        os.kill(session.worker, signal.SIGKILL)
        session.wait_ready(2)
        with subprocess.Popen(["/bin/sleep", "600"]) as child:
            session.wait_for(lambda: f'"pid":{child.pid}' in session.output.read_text())
            child.kill()
        session.process.terminate()
        assert session.process.wait(END_WITHIN_S) == Exit.OK
    first, second = session.sessions()
    assert not find(first, "tracer-backend")
    assert "process-executed" in {event["event"]["action"] for event in find(second, pid=child.pid)}
    told = change(second, "restarted")
    assert (told["backend"], told["reasons"]) == ("procfs", ["the worker was killed by SIGKILL"])
    assert first[0]["@timestamp"] <= told["first"] < told["last"] <= second[-1]["@timestamp"]
    ledger = final(second)
    assert ledger["balanced"]
    assert ledger["missed"]["gaps"] == 1
    assert not ledger["complete"]
    replay = [sys.executable, "-m", "tracer", "replay", str(record)]
    lines = subprocess.run(replay, cwd=ROOT, capture_output=True, check=True).stdout.splitlines()
    own = second[0]["agent"]["ephemeral_id"]
    again = [json.loads(line) for line in lines]
    assert [event for event in again if event["agent"]["ephemeral_id"] == own] == second


def test_count_and_codes_go_on(tmp_path: Path) -> None:
    """A count is over all sessions, and --fail-on-loss holds the gap against the last."""
    program = tmp_path / "counted"
    shutil.copy("/bin/sleep", program)
    arguments = ("--backend", "procfs", "--event", "exec", "--exe", str(program), "--count", "3", "--fail-on-loss")
    with live(tmp_path, *arguments, wrapper=QUICK) as session:
        subprocess.run([program, "0.5"], check=True)
        session.wait_for(lambda: '"process-executed"' in session.output.read_text())
        ledgers = session.output.read_text().count('"tracer-ledger"')
        session.wait_for(lambda: session.output.read_text().count('"tracer-ledger"') > ledgers + 1)
        os.kill(session.worker, signal.SIGKILL)
        session.wait_ready(2)
        for _ in range(2):
            assert session.process.poll() is None
            subprocess.run([program, "0.5"], check=True)
        assert session.process.wait(END_WITHIN_S) == Exit.LOSS
    first, second = session.sessions()
    assert (len(find(first, "process-executed")), len(find(second, "process-executed"))) == (1, 2)


QUICK = """
import tracer.cli.session
tracer.cli.session.LEDGER_NS = 500_000_000
from tracer.cli.main import run
run()
"""
# SIGUSR1 closes the link of a program under the tracer, as nobody else can.
CLOSES = """
import os, signal
import tracer.cli.session
from tracer.probes.backend import Backend
tracer.cli.session.LEDGER_NS = 500_000_000
start = Backend.start
def started(self):
    coverage = start(self)
    signal.signal(signal.SIGUSR1, lambda *_: os.close(self._watch._marks["PROGRAM"][0]))
    return coverage
Backend.start = started
from tracer.cli.main import run
run()
"""


# SIGUSR1 shuts the proc connector of a worker down, which takes another of its signals each time.
DEAF = """
import socket, signal
from tracer.cli import live
from tracer.fallback.netlink import Netlink
live.LADDER = ("netlink", "procfs")
start = Netlink.start
def started(self):
    coverage = start(self)
    number = self._connector.fileno()
    signal.signal(signal.SIGUSR1, lambda *_: __import__("os").dup2(0, number))
    return coverage
Netlink.start = started
from tracer.cli.main import run
run()
"""


def test_next_backend(tmp_path: Path) -> None:
    """A backend that dies is tried once more, then the next; each session says what is missing before it."""
    with live(tmp_path, "--backend", "auto", "--no-sandbox", wrapper=DEAF) as session:
        for times in (2, 3):
            os.kill(session.worker, signal.SIGUSR1)
            session.wait_ready(times)
        session.process.terminate()
        assert session.process.wait(END_WITHIN_S) == Exit.OK
    first, second, third = session.sessions()
    assert [events[0]["tracer"]["backend"] for events in (first, second, third)] == ["netlink", "netlink", "procfs"]
    for before, after in ((first, second), (second, third)):
        lost, restarted = change(before, "lost"), change(after, "restarted")
        assert restarted["reasons"] == ["; ".join(lost["reasons"])]
        assert restarted["first"][:23] == lost["first"][:23]  # each by the wall clock as its session measured it
        assert restarted["first"] < restarted["last"]
        assert not final(before)["complete"]
    assert final(third)["missed"]["gaps"] == 1
    assert "a fresh worker starts with procfs" in session.told()


def attached() -> list[str]:
    """The programs that core attaches here."""
    with Core(EVERYTHING, 1 << 20, 4096) as core:
        return list(core.start().hooks)


@SANDBOX
def test_links_are_closed(tmp_path: Path, sandbox: list[str]) -> None:
    """Whichever program's link is closed: the stream says which, the last ledger is not complete, the code is 1."""
    programs = attached()
    assert {"process_fork", "process_exec", "process_exit", "socket_state_change"} <= set(programs)
    for program in programs:
        with live(tmp_path, "--backend", "core", *sandbox, wrapper=CLOSES.replace("PROGRAM", program)) as session:
            session.process.send_signal(signal.SIGUSR1)
            assert session.process.wait(END_WITHIN_S) == Exit.FAILURE, (program, session.told())
        (events,) = session.sessions()
        told = change(events, "lost")
        assert told["backend"] == "core"
        # By its link; or it was closed between that look and the trial that came after it.
        ways = (f"{program}: its link is closed", f"{program}: not seen: ")
        assert any(reason.startswith(ways) for reason in told["reasons"]), told
        ledger = final(events)
        assert ledger["missed"]["gaps"] == 1
        assert not ledger["complete"]
        assert session.told().splitlines()[-1].startswith(f"tracer: core was lost while tracing: {told['reasons'][0]}")
