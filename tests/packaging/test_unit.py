"""The systemd unit: how much it leaves to the service, and that the program works with no more than that."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests import tracing
from tests.formats.test_places import GEO
from tests.packaging import unit
from tests.packaging.unit import ROOT, UID, UNIT, setting
from tracer.cli import figures, stats, status
from tracer.probes.privileges import CAPABILITY_NAMES, needed_capabilities

EXPOSURE_MOST = 2.0
LOGS, RUN = "/var/log/tracer", "/run/tracer"
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def analyzed(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """What systemd-analyze says."""
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_exposure() -> None:
    """`systemd-analyze security` gives it at most 2.0 of 10."""
    found = analyzed("security", "--offline=true", "--no-pager", UNIT).stdout
    (level,) = re.findall(r"Overall exposure level for tracer\.service: ([0-9.]+)", found)
    assert float(level) <= EXPOSURE_MOST


def test_systemd_knows_every_setting(tmp_path: Path) -> None:
    """No setting is unknown or without effect: with programs that are there, systemd has nothing to say of it."""
    text = re.sub(r"(?m)^ExecStart=.*", "ExecStart=/bin/true", UNIT.read_text())
    copy = tmp_path / "tracer.service"
    copy.write_text(text)
    found = analyzed("verify", "--man=no", copy)
    assert [line for line in found.stderr.splitlines() if "tracer" in line] == []
    assert found.returncode == 0


def test_capabilities() -> None:
    """It has just the capabilities that tracing takes where tracefs is mounted and memory may be locked."""
    needed = set(needed_capabilities(CAPABILITY_NAMES.index("CAP_CHECKPOINT_RESTORE"), tracefs_is_mounted=True))
    assert set(setting("AmbientCapabilities").split()) == needed - {"CAP_IPC_LOCK"}
    assert setting("CapabilityBoundingSet") == setting("AmbientCapabilities")
    assert setting("LimitMEMLOCK") == "infinity"


def test_user_and_directories_agree() -> None:
    """The user of the unit is made by sysusers, and its directory by tmpfiles with the same mode."""
    user = setting("User")
    people = (ROOT / "packaging/sysusers.d/tracer.conf").read_text()
    assert re.search(rf"(?m)^u {user} - ", people)
    places = (ROOT / "packaging/tmpfiles.d/tracer.conf").read_text()
    mode = setting("LogsDirectoryMode")
    assert re.search(rf"(?m)^d /var/log/{setting('LogsDirectory')} {mode} {user} {setting('Group')} -$", places)


def test_what_would_end_again_is_not_started_again() -> None:
    """The unit tries again after a failure, but not after the exit codes that the next start would end with as well."""
    assert setting("Restart") == "on-failure"
    assert setting("RestartPreventExitStatus").split() == ["2", "3", "4", "6"]


PROBE = """
import ctypes, errno, json, os, socket, sys
def name(do):
    try:
        do()
    except OSError as error:
        return errno.errorcode[error.errno]
    return "possible"
def call(*arguments):
    ctypes.set_errno(0)
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
libc = ctypes.CDLL(None, use_errno=True)
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
print(json.dumps({
    "etc": name(lambda: open("/etc/tracer-test", "w")),
    "usr": name(lambda: open("/usr/tracer-test", "w")),
    "sys": name(lambda: open("/sys/kernel/uevent_helper", "w")),
    "log": name(lambda: open("/var/log/tracer/probe", "w")),
    "home": os.listdir("/root") if sys.argv[1] == "hidden" else [],
    "inet": name(lambda: socket.socket(socket.AF_INET)),
    "packet": name(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "netlink": name(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    "unshare": name(lambda: call(272, 0x40000000)),
    "mount": name(lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, b"")),
    "ptrace": name(lambda: call(101, 0, 0, 0, 0)),
    "setuid": name(lambda: os.setuid(0)),
    "chown": name(lambda: os.chown("/var/log/tracer", 0, 0)),
    "wx": name(lambda: __import__("mmap").mmap(-1, 4096, prot=7)),
    "capabilities": {each: status[each] for each in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")},
    "nnp": status["NoNewPrivs"],
    "uid": os.getresuid(),
    "groups": os.getgroups(),
}))
"""


@pytest.fixture
def own(tmp_path: Path) -> dict[str, Path]:
    """The directories of the service, and what stands for them."""
    places = {LOGS: tmp_path / "logs", RUN: tmp_path / "run"}
    for path in places.values():
        path.mkdir()
        os.chown(path, UID, UID)
    return places


@needs_root
def test_restrictions_are_real(own: dict[str, Path]) -> None:
    """What a program finds under them: four capabilities, no root, no network, and two directories to write in."""
    hidden = "shown" if ROOT.is_relative_to("/root") else "hidden"
    done = subprocess.run(
        unit.command(own, sys.executable, "-c", PROBE, hidden),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    bits = sum(1 << CAPABILITY_NAMES.index(name) for name in setting("AmbientCapabilities").split())
    assert {int(each, 16) for each in found.pop("capabilities").values()} == {bits}
    assert found.pop("uid") == [UID] * 3
    assert found == {
        "etc": "EROFS",
        "usr": "EROFS",
        "sys": "EROFS",
        "log": "possible",
        "home": [],
        "inet": "EAFNOSUPPORT",
        "packet": "EAFNOSUPPORT",
        "netlink": "possible",
        "unshare": "EPERM",
        "mount": "EPERM",
        "ptrace": "EPERM",
        "setuid": "EPERM",
        "chown": "EPERM",
        "wx": "EPERM",
        "nnp": "1",
        "groups": [],
    }


class Manager:
    """What systemd is to a service of Type=notify: a socket, and what came over it."""

    def __init__(self, path: Path) -> None:
        """Listens at once."""
        self._end = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._end.bind(str(path))
        path.chmod(0o777)
        self.told: list[str] = []
        self._came = threading.Condition()
        self._thread = threading.Thread(target=self._hear)
        self._thread.start()

    def _hear(self) -> None:
        with suppress(OSError):
            while data := self._end.recv(4096):
                with self._came:
                    self.told += data.decode().split("\n")
                    self._came.notify_all()

    def await_line(self, begin: str, times: int = 1) -> str:
        """Wait for so many lines that begin like that, and give the last of them."""
        with self._came:
            found = self._came.wait_for(lambda: len(self._of(begin)) >= times, tracing.READY_WITHIN_S)
        assert found, self.told
        return self._of(begin)[-1]

    def _of(self, begin: str) -> list[str]:
        return [line for line in self.told if line.startswith(begin)]

    def close(self) -> None:
        """Hear no more."""
        with suppress(OSError):
            self._end.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._end.close()


@pytest.fixture
def manager(own: dict[str, Path]) -> Iterator[Manager]:
    """The manager, whose socket is where the service can reach it."""
    made = Manager(own[RUN] / "notify")
    yield made
    made.close()


@needs_root
@pytest.mark.live
@pytest.mark.parametrize("backend", ["core", "netlink", "procfs"])
def test_service_works_under_them(own: dict[str, Path], manager: Manager, backend: str) -> None:
    """Started as by the unit, with its configuration, it tells systemd of itself, sees, confines itself and drains.

    So it does on the backends that have no probes, where a child of what systemd has started traces.
    """
    configuration = own[RUN] / "tracer.toml"
    configuration.write_text((ROOT / "packaging/tracer.toml").read_text())
    program, command, *_ = unit.exec_start()
    assert (program, command) == ("/usr/bin/tracer", "export")
    started = [sys.executable, "-m", "tracer", command, "--config", f"{RUN}/tracer.toml", "--sandbox-strict"]
    started += ["--backend", backend]
    watchdog = {"WATCHDOG_USEC": "1000000"}  # so that it is heard in a test
    service = subprocess.Popen(
        unit.command(own, *started),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | watchdog | {"NOTIFY_SOCKET": f"{RUN}/notify"},
    )
    try:
        manager.await_line("READY=1")
        assert backend in manager.await_line("STATUS=")
        subprocess.run(["/bin/sh", "-c", "exit 23"], check=False)
        manager.await_line("WATCHDOG=1", times=3)
        service.send_signal(signal.SIGHUP)
        manager.await_line("RELOADING=1")
        manager.await_line("MONOTONIC_USEC=")
        manager.await_line("READY=1", times=2)
        figures = own[RUN] / "tracer.prom"
        running = status.read(figures)
        service.send_signal(signal.SIGTERM)
        told = service.communicate(timeout=tracing.END_WITHIN_S)[1]
    finally:
        service.kill()
        service.wait()
    assert service.returncode == 0, told
    manager.await_line("STOPPING=1")
    assert running["state"] == "running"
    assert running["confined"]
    assert all(running["confined"].values())
    assert status.read(figures)["state"] == "ended"
    (written,) = own[LOGS].glob("events-*.jsonl")
    events = [json.loads(line) for line in written.read_text().splitlines()]
    assert written.stat().st_mode & 0o777 == 0o640
    confinement = tracing.one(events, "tracer-confinement")["tracer"]["confinement"]
    assert confinement["strict"] is True
    assert confinement["uid"] == UID
    assert (
        confinement["capabilities"]
        == confinement["opener"]["capabilities"]
        == confinement["stats"]["capabilities"]
        == []
    )
    ledger = tracing.find(events, "tracer-ledger")[-1]["tracer"]["ledger"]
    assert ledger["final"] is True
    if backend == "core":
        tracing.assert_complete(ledger)
        assert tracing.find(events, "process-exited", process__exit_code=23)


def test_documented_places_and_figures() -> None:
    """docs/service.md has a row for each metric that is written and each member of a place that can be there."""
    text = (ROOT / "docs/service.md").read_text()
    metrics = set(re.findall(r"(?m)^\| `(tracer_\w+)` \| (?:gauge|counter) \|", text))
    session = stats.Measured(version="1", backend="core", boot_id="x", hooks_refused=0, every_s=1.0)
    session.confined({"layers": {"seccomp": "enforced"}})
    written = figures.render(session.facts(stats.NOTHING, events=0, lag_s=0.0, running=True)).decode()
    session.close()
    assert metrics == set(re.findall(r"(?m)^# TYPE (\S+) ", written))
    members = set(re.findall(r"(?m)^\| `((?:geo|as)\.[\w.]+)` \|", text))
    assert members == {f"geo.{name}" for name in GEO} | {"as.number", "as.organization.name"}
