"""The broker's own confinement: its job still works, a fresh worker can still begin, and nothing else is left."""

import errno
import functools
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.confine.forks import in_fork
from tracer.confine import attest, capabilities
from tracer.confine.apply import confine
from tracer.confine.broker import LAYERS, broker_plan
from tracer.confine.identity import Identity
from tracer.confine.plan import Layer, Plan, State
from tracer.fallback.files import LINKS, DirectFiles

pytestmark = pytest.mark.live

NETLINK = [False, True]
# What its job takes: it reads files of /proc as root, and forks workers.
POSSIBLE = {"read_shadow", "read_home", "fork"}
_NETLINK_ROUTE, _NETLINK_CONNECTOR = 0, 11


@pytest.fixture(name="other")
def _other() -> Iterator[int]:
    """A process of another user in a network namespace of its own."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/bin/sleep", "600"]
    with subprocess.Popen(["unshare", "--net", *drop]) as child:
        while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n":
            assert child.poll() is None
        yield child.pid
        child.kill()


def enter(*, netlink: bool, becomes: bool = False) -> dict[Layer, State]:
    """Confine this process as a broker."""
    verdicts = confine(broker_plan(netlink=netlink, becomes=becomes)).verdicts
    return {layer: verdict.state for layer, verdict in verdicts.items()}


@pytest.mark.parametrize("netlink", NETLINK)
def test_layers(netlink: bool) -> None:
    """All layers that a broker can have are on; the others are off, as they would keep it from its job."""
    told = in_fork(lambda: enter(netlink=netlink))
    assert told == {layer: State.ENFORCED if layer in LAYERS else State.OFF for layer in Layer}


@pytest.mark.parametrize("netlink", NETLINK)
def test_what_is_forbidden(netlink: bool) -> None:
    """Everything that a worker tries in vain is refused to the broker as well, but for what its job takes."""

    def ask() -> dict[str, str]:
        at = attest.targets("/root")
        enter(netlink=netlink, becomes=True)
        return attest.tries(at)

    told = in_fork(ask)
    assert {name for name, answer in told.items() if answer == attest.POSSIBLE} == POSSIBLE
    assert {answer for answer in told.values() if answer != attest.POSSIBLE} == {"EPERM"}


@pytest.mark.parametrize(
    ("netlink", "becomes", "more"),
    [
        (False, False, set()),
        (True, False, {"CAP_NET_ADMIN", "CAP_SYS_ADMIN"}),
        (False, True, {"CAP_SETUID", "CAP_SETGID", "CAP_KILL"}),
    ],
)
def test_capabilities(netlink: bool, becomes: bool, more: set[str]) -> None:
    """Just those are left that this broker's workers and questions take, also in the bounding set."""

    def ask() -> tuple[frozenset[str], frozenset[str]]:
        enter(netlink=netlink, becomes=becomes)
        found = capabilities.read()
        return found.effective, found.all

    wanted = frozenset({"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SETPCAP"} | more)
    assert in_fork(ask) == (wanted, wanted)


@pytest.mark.parametrize("netlink", NETLINK)
def test_its_job_works(other: int, netlink: bool) -> None:
    """Every question about a process of another user in another namespace has the answer that it had before."""
    direct = DirectFiles()
    before = {name: direct.link(other, name) for name in LINKS}, direct.fds(other), direct.exe(other)
    group = direct.cgroup(other)

    def ask() -> bool:
        enter(netlink=netlink)
        after = {name: direct.link(other, name) for name in LINKS}, direct.fds(other), direct.exe(other)
        return after == before and direct.cgroup(other) == group and other in direct.pids()

    assert in_fork(ask)


def test_other_namespaces(other: int) -> None:
    """Sockets of sock_diag are made in other namespaces where a worker may use netlink, and nowhere else."""

    def make() -> str:
        enter(netlink=True)
        with socket.socket(fileno=DirectFiles().open_diag(other)) as diag:
            return f"{diag.family} {diag.proto}"

    def make_none() -> None:
        enter(netlink=False)
        DirectFiles().open_diag(other)

    assert in_fork(make) == f"{int(socket.AF_NETLINK)} 4"
    with pytest.raises(OSError, match="not permitted") as refused:
        in_fork(make_none)
    assert refused.value.errno == errno.EPERM


@pytest.mark.parametrize(
    ("family", "protocol", "works"),
    [
        (socket.AF_NETLINK, _NETLINK_CONNECTOR, True),
        (socket.AF_NETLINK, _NETLINK_ROUTE, False),
        (socket.AF_UNIX, 0, False),
        (socket.AF_INET, 0, False),
        (socket.AF_INET6, 0, False),
    ],
)
def test_sockets(family: int, protocol: int, works: bool) -> None:
    """Of sockets only the two kinds of netlink can be made that the backend is made of."""

    def ask() -> bool:
        enter(netlink=True)
        with suppress(PermissionError), socket.socket(family, socket.SOCK_DGRAM, protocol):
            return True
        return False

    assert in_fork(ask) is works


def test_nothing_is_written(tmp_path: Path) -> None:
    """No file can be opened for writing, made, or removed, whoever's it is."""
    path = tmp_path / "file"
    path.write_text("as it was")

    def ask() -> list[bool]:
        enter(netlink=True, becomes=True)
        flags = (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_RDONLY | os.O_CREAT)
        done = []
        attempts: tuple[Callable[[], object], ...] = (
            *(functools.partial(os.open, path, flag) for flag in flags),
            path.unlink,
            (tmp_path / "new").mkdir,
            functools.partial(path.chmod, 0o600),
            functools.partial((tmp_path / "link").hardlink_to, path),
        )
        for attempt in attempts:
            try:
                attempt()
            except PermissionError:
                done.append(False)
            else:
                done.append(True)
        return done

    assert not any(in_fork(ask))
    assert path.read_text() == "as it was"


def test_a_worker_can_begin() -> None:
    """A fork of it becomes another user, confines itself by every layer, and can be signalled from here."""

    def ask() -> tuple[dict[Layer, State], int]:
        enter(netlink=True, becomes=True)
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            verdicts = confine(Plan(Identity(65534, 65534))).verdicts
            os.write(writer, "\n".join(f"{layer}={verdict.state}" for layer, verdict in verdicts.items()).encode())
            time.sleep(600)
            os._exit(0)
        told = os.read(reader, 1000).decode().split()
        signal.pidfd_send_signal(os.pidfd_open(child), signal.SIGTERM)
        status = os.waitpid(child, 0)[1]
        pairs = (line.split("=") for line in told)
        return {Layer(layer): State(state) for layer, state in pairs}, os.waitstatus_to_exitcode(status)

    def plainly() -> dict[Layer, State]:
        verdicts = confine(Plan(Identity(65534, 65534))).verdicts
        return {layer: verdict.state for layer, verdict in verdicts.items()}

    assert in_fork(ask) == (in_fork(plainly), -signal.SIGTERM)
