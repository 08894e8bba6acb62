"""A process beside: its own name, nothing that it was not given, deaf to what is sent to all, and a quiet end."""

import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tracer.fallback.beside import beside, connected

SENT_TO_ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def ended(pid: int) -> int:
    """Its code, or the negative number of the signal that has ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def told(be: Callable[[], bytes], *, keep: tuple[int, ...] = ()) -> tuple[bytes, int]:
    """What a process beside sends, and its code."""
    end, pid = connected(b"told", lambda there: void(there.send(be())), keep)
    with end:
        return end.recv(1 << 16), ended(pid)


def void(_: object) -> None:
    """Nothing."""


def test_its_name_and_signals() -> None:
    """It is called what it is called, ignores what is sent to all, and nothing else is ignored, blocked or pending.

    The signals 32 and 33 are the C library's own, which lets nobody set them: what the process that has started the
    tests has done with them stays.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    data, code = told(lambda: Path("/proc/self/status").read_bytes())
    status = dict(line.split(":\t", 1) for line in data.decode().splitlines())
    assert (status["Name"], code) == ("told", 0)
    assert int(status["SigBlk"], 16) == int(status["SigPnd"], 16) == int(status["ShdPnd"], 16) == 0
    wanted = sum(1 << number - 1 for number in (*SENT_TO_ALL, signal.SIGPIPE, signal.SIGXFSZ))  # Python's own, too
    assert int(status["SigIgn"], 16) & ~(3 << 31) == wanted
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before


def test_what_is_sent_to_all() -> None:
    """It goes on through each of them, and ends when the other end is closed."""
    end, pid = connected(b"deaf", lambda there: void([there.send(data) for data in iter(lambda: there.recv(10), b"")]))
    for number in SENT_TO_ALL:
        os.kill(pid, number)
        end.send(b"x")
        assert end.recv(10) == b"x"
    end.close()
    assert ended(pid) == 0


def test_its_descriptors(tmp_path: Path) -> None:
    """Its end of the socket, what it was to keep, and three of /dev/null."""
    kept = os.open(tmp_path, os.O_PATH)
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)

    def look() -> bytes:
        found = {}
        for path in list(Path("/proc/self/fd").iterdir()):
            with suppress(FileNotFoundError):  # it was for looking
                found[int(path.name)] = str(path.readlink())
        return "\n".join(link for _, link in sorted(found.items())).encode()

    data, _ = told(look, keep=(kept,))
    found = data.decode().splitlines()
    assert found[:3] == ["/dev/null"] * 3
    assert sorted(link.partition(":")[0] for link in found[3:]) == sorted([str(tmp_path), "socket"])
    for fd in (kept, reader, writer):
        os.close(fd)


@pytest.mark.parametrize("raised", [OSError, ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_it_raises_is_its_end(capfd: pytest.CaptureFixture[str], raised: type[BaseException]) -> None:
    """With code 1, without a word, and without what this process would do at its own end."""

    def be() -> None:
        raise raised

    assert ended(beside(b"raises", (), be)) == 1
    assert capfd.readouterr() == ("", "")


def test_no_process_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is told, both ends of the socket are closed, and signals come through as before."""
    before = {path.name for path in Path("/proc/self/fd").iterdir()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())

    def refused() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", refused)
    with pytest.raises(BlockingIOError):
        connected(b"none", lambda _: None)
    assert {path.name for path in Path("/proc/self/fd").iterdir()} == before
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask


def test_both_ends_keep_datagrams_apart() -> None:
    """The socket is of a kind that gives each message as it was sent."""
    end, pid = connected(b"echo", lambda there: void([there.send(there.recv(100)) for _ in range(2)]))
    assert end.type == socket.SOCK_SEQPACKET
    end.send(b"one")
    end.send(b"two")
    assert [end.recv(100), end.recv(100)] == [b"one", b"two"]
    end.close()
    assert ended(pid) == 0
    assert threading.active_count() == 1
