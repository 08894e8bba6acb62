"""The check of bytes on the running kernel: every row that can be here, and what is left when it is interrupted."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.bytes import check
from scripts.bytes.errors import BytesError
from scripts.bytes.report import as_text

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
ROWS = 64
# Modules, or parts of the kernel that are newer than the oldest one: each says itself that it is not here.
OPTIONAL = {
    *("ktls", "mptcp", "sctp", "sctp-many", "vsock", "udplite", "udplite-ipv6"),
    *("uring", "uring-polled", "uring-async", "uring-udp", "uring-udp-polled"),
    *("uring-zerocopy", "uring-multishot", "uring-splice", "zerocopy-receive"),
}


@pytest.mark.parametrize("options", [(), ("--hooks", "tracepoints")], ids=["auto", "tracepoints"])
def test_every_byte_of_every_row(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Each row that this kernel has is what its processes counted, of the right process, and the account of all bytes
    adds up; only what is known to be optional is not here.
    """
    report = check.measure(tmp_path, ("--backend", "core", *options))
    assert report.passed, as_text(report)
    assert len(report.verdicts) == ROWS
    assert {verdict.name for verdict in report.verdicts if verdict.missing} <= OPTIONAL
    assert all(verdict.exact for verdict in report.verdicts if not verdict.missing), as_text(report)


def test_few_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """With --few there are the rows that are named, each of which the generator has, and they are right."""
    assert check.main(["--few", "--backend", "core"]) == 0
    *rows, summary = capsys.readouterr().out.splitlines()[1:]
    assert sorted(row.split()[0] for row in rows) == sorted(check.FEW)
    assert summary.startswith(f"{len(check.FEW)} rows in ")


def test_devices_carry_what_they_count(tmp_path: Path) -> None:
    """With the account of the wire the sums are the devices' own counts, within 1 %, and at both ends."""
    names = ("tcp-both", "udp", "icmp", "packet")
    report = check.measure(tmp_path, ("--backend", "core"), names, account_wire=True)
    assert report.passed, as_text(report)
    for verdict in report.verdicts:
        assert {device.name for device in verdict.carried} >= {"near0", "far0"}


def test_another_row_is_an_error(tmp_path: Path) -> None:
    """A name that no row has is told, before anything runs, with those that there are."""
    with pytest.raises(BytesError, match="no row tcp-sideways: there are tcp-up, tcp-down, "):
        check.measure(tmp_path, names=("tcp-sideways",))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Interrupted while a row runs, it ends, and with it the tracer, the traffic, both namespaces and its files."""
    places = tmp_path / "tmp"
    places.mkdir()
    command = [sys.executable, "-m", "scripts.bytes.check", "--row", "tcp-slow"]
    environment = os.environ | {"TMPDIR": str(places)}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, process_group=0) as running:
        deadline = time.monotonic() + 60
        while not any("tcp-slow" in line and "/traffic" in line for line in commands()):
            assert running.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        (place,) = places.iterdir()
        holders = [each for each in Path("/proc").glob("[0-9]*") if parent_of(each) == running.pid]
        assert len(holders) >= 3  # two namespaces and the tracer
        os.killpg(running.pid, number)
        assert running.wait(60) == code
    assert not place.exists()
    assert not any(str(place) in line for line in commands())
    assert not [each for each in holders if parent_of(each) in (1, running.pid)]


def commands() -> list[str]:
    """The command lines of all processes."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                found.append((place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
            except OSError:
                continue
    return found


def parent_of(place: Path) -> int:
    """The pid of the parent of a process of /proc, 0 if the process has ended."""
    try:
        state, parent, *_ = (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return 0 if state == "Z" else int(parent)
