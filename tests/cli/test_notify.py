"""What systemd is told: by real datagrams to a real socket."""

import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tracer.cli.errors import CommandError
from tracer.cli.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The manager's end, bound to `notify` in the test's directory."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.settimeout(10)
        yield end


Opens = Callable[..., Notifier]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opens]:
    """Makes a notifier of that manager, in an environment with these variables."""
    found: list[Notifier] = []
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    def make(**environment: str) -> Notifier:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        made = Notifier.open()
        assert made is not None
        found.append(made)
        return made

    yield make
    for each in found:
        each._notifier.socket.close()


def told(manager: socket.socket) -> list[str]:
    """The lines of the next datagram."""
    return manager.recv(4096).decode().split("\n")


def nothing(manager: socket.socket) -> bool:
    """Whether there is none."""
    manager.setblocking(False)
    try:
        manager.recv(4096)
    except BlockingIOError:
        return True
    finally:
        manager.settimeout(10)
    return False


def test_no_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without $NOTIFY_SOCKET nothing is opened."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert Notifier.open() is None
    monkeypatch.setenv("NOTIFY_SOCKET", "")
    assert Notifier.open() is None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the package leaves its socket open
def test_manager_is_gone(opened: Opens) -> None:
    """A socket that is not there ends the command with one line, before anything is loaded."""
    with pytest.raises(CommandError, match="NOTIFY_SOCKET: No such file"):
        opened()


def test_without_the_package(opened: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without sdnotify the error says how to get it: a unit of Type=notify would only wait for ever."""
    monkeypatch.setitem(sys.modules, "sdnotify", None)
    with pytest.raises(CommandError, match=r"pip install 'tracer\[service\]'"):
        opened()


def test_messages(opened: Opens, manager: socket.socket) -> None:
    """Each state is the datagram of sd_notify(3): READY with STATUS, RELOADING with the time, STOPPING."""
    notifier = opened()
    notifier.ready("watching with core")
    assert told(manager) == ["READY=1", "STATUS=watching with core"]
    before = time.clock_gettime(time.CLOCK_MONOTONIC)
    notifier.reloading()
    first, second = told(manager)
    assert first == "RELOADING=1"
    name, _, when = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before - 0.001 <= int(when) / 1e6 <= time.clock_gettime(time.CLOCK_MONOTONIC)
    notifier.stopping()
    assert told(manager)[0] == "STOPPING=1"


def test_watchdog_is_fed_in_time(opened: Opens, manager: socket.socket) -> None:
    """It is fed when a third of its time has passed, and not at each turn; a new status comes with it or alone."""
    notifier = opened(WATCHDOG_USEC="30000000", WATCHDOG_PID=str(os.getpid()))
    notifier.alive(100.0)
    assert told(manager) == ["WATCHDOG=1"]
    notifier.alive(109.9)
    assert nothing(manager)
    notifier.alive(110.1, "one\nline\t€")
    assert told(manager) == ["WATCHDOG=1", "STATUS=one line ?"]
    notifier.alive(110.2, "one line ?")
    assert nothing(manager)
    notifier.alive(110.3, "another")
    assert told(manager) == ["STATUS=another"]


@pytest.mark.parametrize(
    "environment", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "x"}]
)
def test_no_watchdog(opened: Opens, manager: socket.socket, environment: dict[str, str]) -> None:
    """Where no watchdog is asked for, or that of another process, or what is no number, nothing is fed."""
    opened(**environment).alive(100.0)
    assert nothing(manager)


def test_manager_that_reads_nothing(opened: Opens, manager: socket.socket) -> None:
    """A manager whose queue is full does not hold it up for ever, and neither does one that has gone away."""
    notifier = opened(WATCHDOG_USEC="3")
    # net.unix.max_dgram_qlen is 10 by itself, and nowhere more than some hundreds.
    full = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    with full:
        full.setblocking(False)
        with suppress(BlockingIOError):
            for _ in range(100_000):
                full.sendto(b"x", manager.getsockname())
    notifier.alive(1.0)
    manager.close()
    notifier.alive(2.0)


def test_calls_name_the_socket(opened: Opens, manager: socket.socket) -> None:
    """The filter is asked for sendto(2) on that socket alone, and without an address."""
    notifier = opened()
    (rule,) = notifier.calls
    assert rule.name == "sendto"
    assert [(check.argument, check.value) for check in rule.checks] == [(0, notifier.fd), (4, 0)]
