"""The opener: asked over a socket it opens the output anew; whatever it hears or says, nobody hangs."""

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.fallback.opener import NAME, Opener, OpenerLostError
from tracer.fallback.protocol import Asks, Question

WITHIN_S = 30


@contextmanager
def opener(open_again: Callable[[int], int]) -> Iterator[Opener]:
    """An opener that is not confined; it has ended afterwards."""
    asking = Opener.start(open_again, lambda _: {"enabled": False})
    try:
        assert asking.confined() == {"enabled": False}
        yield asking
    finally:
        asking.close()
        assert os.waitstatus_to_exitcode(os.waitpid(asking.pid, 0)[1]) in (0, 1)


def ask(asking: Opener) -> int:
    """The descriptor that it hands over."""
    asking.ask()
    assert asking.asked
    fd = asking.answer(WITHIN_S)
    assert fd is not None
    return fd


def test_descriptor_is_handed_over(tmp_path: Path) -> None:
    """Each question is answered with a descriptor of its own, which no program that is started inherits."""
    path = tmp_path / "output"
    with opener(lambda _: os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)) as asking:
        assert Path(f"/proc/{asking.pid}/comm").read_bytes() == NAME + b"\n"
        for text in (b"one\n", b"two\n"):
            fd = ask(asking)
            assert not os.get_inheritable(fd)
            os.write(fd, text)
            os.close(fd)
    assert path.read_bytes() == b"one\ntwo\n"


def test_it_is_told_what_is_written(tmp_path: Path) -> None:
    """It gets the inode of the file that is being written: none, the one that was named, then the one it opened."""
    paths = iter([tmp_path / "first", tmp_path / "second", tmp_path / "third"])
    told = tmp_path / "told"

    def open_again(current: int) -> int:
        with told.open("a") as file:
            file.write(f"{current}\n")
        return os.open(next(paths), os.O_WRONLY | os.O_CREAT)

    with opener(open_again) as asking:
        first = ask(asking)
        second = ask(asking)
        asking.writes(first)
        third = ask(asking)
        inode = os.fstat(first).st_ino
        for fd in (first, second, third):
            os.close(fd)
    assert told.read_text().split() == ["0", str(inode), str(inode)]


def test_refusal_has_its_error() -> None:
    """What can't be opened is an OSError with the errno of it, and the next question is answered all the same."""

    def refuse(_: int) -> int:
        raise OSError(errno.EROFS, "no")

    with opener(refuse) as asking:
        for _ in range(2):
            asking.ask()
            with pytest.raises(OSError, match="Read-only") as refused:
                asking.answer(WITHIN_S)
            assert refused.value.errno == errno.EROFS
            assert not asking.asked


def test_answer_may_take_its_time(tmp_path: Path) -> None:
    """Nobody waits for a disk that hangs: there is no answer yet, and later there is."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def slowly(_: int) -> int:
        os.close(os.open(gate, os.O_RDONLY))  # until somebody opens it for writing
        return os.open(os.devnull, os.O_WRONLY)

    with opener(slowly) as asking:
        asking.ask()
        assert asking.answer(0.01) is None
        assert asking.answer(0) is None
        assert asking.asked
        os.close(os.open(gate, os.O_WRONLY))
        fd = asking.answer(WITHIN_S)
        assert fd is not None
        os.close(fd)


def test_answer_to_another_is_not_taken(tmp_path: Path) -> None:
    """An answer to a question of a worker that was killed meanwhile is dropped: a later one is of now."""
    number = iter(range(10))

    def open_again(_: int) -> int:
        return os.open(tmp_path / str(next(number)), os.O_WRONLY | os.O_CREAT)

    with opener(open_again) as asking:
        if not (child := os.fork()):
            asking.ask()
            os._exit(0)
        os.waitpid(child, 0)
        before = len(list(Path("/proc/self/fd").iterdir()))
        fd = ask(asking)
        assert Path(f"/proc/self/fd/{fd}").readlink() == tmp_path / "1"
        os.close(fd)
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_it_is_gone() -> None:
    """Without an opener, whether it ended before the question or after it, that is told at once."""
    with opener(lambda _: os._exit(1)) as asking:
        asking.ask()
        with pytest.raises(OpenerLostError):
            asking.answer(WITHIN_S)
        assert not asking.asked
        with pytest.raises(OpenerLostError):
            asking.ask()
        assert not asking.asked


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.binary(min_size=1, max_size=100), st.sampled_from([Question(Asks.PIDS).pack(), b"\11" * 36])))
def test_whatever_it_is_asked(data: bytes) -> None:
    """It ends at whatever is no question for it, and opens nothing then."""

    def open_again(_: int) -> int:
        raise AssertionError("nothing was asked for")

    with opener(open_again) as asking, socket.socket(fileno=os.dup(asking.fd)) as end:
        end.settimeout(WITHIN_S)
        end.send(data)
        with suppress(ConnectionError):
            assert end.recv(1 << 16) == b""


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=64))
def test_whatever_it_answers(data: bytes) -> None:
    """Every answer is taken apart, or tells that the opener is lost."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        asking = Opener(here, 0)
        asking.ask()
        there.send(struct.pack("<iI", 0, len(data)) + data)
        there.close()
        with suppress(OpenerLostError):
            assert asking.answer(1) is None


def test_it_has_only_what_it_needs(tmp_path: Path) -> None:
    """Of what was open when it was made it has its socket and what it was to keep, and no terminal or pipe."""
    kept = os.open(tmp_path, os.O_PATH)
    reader, writer = os.pipe()

    def look(_: int) -> dict[str, str]:
        found = {}
        for fd in list(Path("/proc/self/fd").iterdir()):
            with suppress(FileNotFoundError):  # it was for looking
                found[fd.name] = str(fd.readlink())
        return found

    asking = Opener.start(lambda _: 0, look, [kept])
    try:
        found = asking.confined()
    finally:
        asking.close()
        os.waitpid(asking.pid, 0)
        for fd in (kept, reader, writer):
            os.close(fd)
    assert found[str(kept)] == str(tmp_path)
    assert [found[name] for name in "012"] == ["/dev/null"] * 3
    assert len(found) == 5
    assert sum(link.startswith("socket:") for link in found.values()) == 1
