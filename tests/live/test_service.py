"""What a session tells beside its stream, while it is confined: places of addresses, figures, and systemd."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from tests.tracing import BACKEND, END_WITHIN_S, PATIENCE, READY, READY_WITHIN_S, Trace
from tracer.cli import status

pytestmark = pytest.mark.live

COMMAND = [sys.executable, "-m", "tracer", "live", "--json", *(["--backend", BACKEND] if BACKEND else [])]


def loopback(path: Path) -> Path:
    """A database that knows of 127.0.0.0/8."""
    writer = MMDBWriter(ip_version=4, database_type="GeoLite2-City", languages=["en"])
    place = {"country": {"iso_code": "XX"}, "location": {"latitude": 1.5, "longitude": 2.5}}
    writer.insert_network(IPSet(["127.0.0.0/8"]), place | {"autonomous_system_number": 64512})
    writer.to_db_file(str(path))
    return path


def test_places_in_the_confined_process(tmp_path: Path) -> None:
    """Looked up after everything is closed, under --sandbox-strict: a connection on loopback has its place."""
    with (
        Trace("--geoip", str(loopback(tmp_path / "x.mmdb")), "--sandbox-strict", "--event", "connect") as trace,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
    ):
        port = server.getsockname()[1]
    event = trace.one("connection-opened", os.getpid(), destination__port=port)
    assert event["destination"]["geo"] == {"country_iso_code": "XX", "location": {"lon": 2.5, "lat": 1.5}}
    assert event["destination"]["as"] == {"number": 64512}
    trace.assert_complete()


def test_figures_and_manager(tmp_path: Path) -> None:
    """The figures of the end are those of the last ledger, and the manager has heard READY first and STOPPING last."""
    told = tmp_path / "notify"
    output, figures = tmp_path / "out.jsonl", tmp_path / "t.prom"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(told))
        manager.settimeout(READY_WITHIN_S)
        session = subprocess.Popen(
            [*COMMAND, "--sandbox-strict", "--no-snapshot", "--output", output, "--stats", figures],
            env=os.environ | {"NOTIFY_SOCKET": str(told)},
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert manager.recv(4096).startswith(b"READY=1\n")
            running = await_figures(figures)
            subprocess.run(["/bin/true"], check=True)
            session.send_signal(signal.SIGTERM)
            session.communicate(timeout=END_WITHIN_S)
        finally:
            session.kill()
            session.wait()
        assert manager.recv(4096).startswith(b"STOPPING=1\n")
    assert session.returncode == 0
    assert running["state"] == "running"
    assert all(running["confined"].values())
    ended = status.read(figures)
    assert ended["state"] == "ended"
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    ledger = lines[-1]["tracer"]["ledger"]
    assert ended["complete"] is ledger["complete"]
    assert ended["records"]["delivered"] == ledger["total"]["delivered"] > 0
    assert ended["lost_by_stage"] == ledger["total"]["lost_by_stage"]


def await_figures(path: Path) -> status.Found:
    """The first figures of a session: they come from a process of their own, a moment after it is ready."""
    deadline = time.monotonic() + 10 * PATIENCE
    while not path.stat().st_size and time.monotonic() < deadline:
        time.sleep(0.01)
    return status.read(path)


def test_processes_beside_end_with_it(tmp_path: Path) -> None:
    """When the session is killed, the process that writes its figures is gone as well."""
    session = subprocess.Popen(
        [*COMMAND, "--no-snapshot", "--stats", tmp_path / "t.prom"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert session.stderr is not None
        while line := session.stderr.readline():
            if line.startswith(READY):
                break
        children = Path(f"/proc/{session.pid}/task/{session.pid}/children").read_text().split()
        beside = [each for each in children if Path(f"/proc/{each}/comm").read_text() == "tracer_stats\n"]
        assert len(beside) == 1
    finally:
        session.kill()
        session.communicate()
    deadline = time.monotonic() + 10 * PATIENCE
    while Path(f"/proc/{beside[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(f"/proc/{beside[0]}").exists()


def test_figures_that_can_not_be_written(tmp_path: Path) -> None:
    """Where the file can't be made the session does not start, and one line says so."""
    done = subprocess.run(
        [*COMMAND, "--stats", tmp_path / "absent/t.prom"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        f"tracer: --stats: can't write {tmp_path}/absent/t.prom: No such file or directory; name another file\n"
    )


def test_figures_in_place_of_the_output(tmp_path: Path) -> None:
    """The file of the output is not taken for the figures, which would replace it; what is in there stays."""
    output = tmp_path / "out.jsonl"
    output.write_text("as it was\n")
    command = [*COMMAND, "--output", str(output), "--stats", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr == f"tracer: --stats: {output} is written already; name another file\n"
    assert output.read_text() == "as it was\n"
