"""The output thread: order kept, a slow reader costs lines and never the caller's time, and every end is told apart."""

import errno
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.sinks.output import Batch, Output, OutputError, is_terminal, open_again, open_file

WITHIN_S = 10


def batch(data: bytes, **kinds: int) -> Batch:
    """Lines, and how many events of which kinds they are: k1=2 are two of kind 1."""
    lines = data.splitlines(keepends=True)
    return Batch(lines, len(data), Counter({int(name[1:]): count for name, count in kinds.items()}))


class Pipe:
    """A pipe that is read when the test says so."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        self._open = {self.reader, self.writer}

    def close(self, fd: int) -> None:
        """Close one end; idempotent."""
        if fd in self._open:
            self._open.remove(fd)
            os.close(fd)

    def fill(self) -> int:
        """Write until the pipe takes no more, and return how many bytes it took."""
        os.set_blocking(self.writer, False)
        size = 0
        try:
            while True:
                size += os.write(self.writer, bytes(4096))
        except BlockingIOError:
            os.set_blocking(self.writer, True)
            return size

    def read(self, size: int) -> bytes:
        """Exactly so many bytes."""
        found = b""
        while len(found) < size:
            data = os.read(self.reader, size - len(found))
            assert data, "the pipe ended"
            found += data
        return found


@pytest.fixture(name="pipe")
def _pipe() -> Iterator[Pipe]:
    """A pipe; both ends are closed afterwards."""
    pipe = Pipe()
    yield pipe
    pipe.close(pipe.reader)
    pipe.close(pipe.writer)


def test_memory_is_given_back_after_much_has_waited(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once when the queue is empty again, and not for what waits in any ordinary turn."""
    given: list[int] = []
    monkeypatch.setattr("tracer.sinks.output._trim", given.append)
    output = Output(pipe.writer, "pipe")
    small, large = b"x" * 1023 + b"\n", b"x" * (1 << 20)
    assert output.put(batch(small))
    assert pipe.read(len(small)) == small
    assert output.flush(WITHIN_S)
    assert given == []
    for _ in range(5):
        assert output.put(batch(large))
    for _ in range(5):
        pipe.read(len(large))
    assert output.flush(WITHIN_S)
    output.close()
    assert given == [0]


def test_lines_come_in_order_and_are_counted(tmp_path: Path) -> None:
    """Batches are written in the order in which they were put; written() tells of each event once."""
    fd = open_file(tmp_path / "out")
    output = Output(fd, "out")
    lines = [b"%d\n" % i for i in range(500)]
    for line in lines:
        assert output.put(batch(line, k1=1, k8=2))
    assert output.flush(WITHIN_S)
    assert output.written() == {1: 500, 8: 1000}
    assert output.written() == {}
    output.put(batch(b"last\n", k1=1))
    assert output.flush(WITHIN_S)
    assert output.written() == {1: 1}
    output.close()
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == b"".join(lines) + b"last\n"
    assert output.error is None
    assert not output.broken


def test_slow_reader_fills_the_queue_and_then_loses(pipe: Pipe) -> None:
    """While nobody reads, as much as the queue may hold is taken and the next batch refused, at once, with False."""
    stuffing = pipe.fill()
    output = Output(pipe.writer, "pipe", queue_most=1000)
    assert output.put(batch(b"a" * 600, k1=1))
    assert output.put(batch(b"b" * 400, k1=1))
    assert not output.put(batch(b"c", k1=1))
    assert not output.put(batch(b"d" * 5000, k1=1))
    assert not output.flush(0.01)
    assert output.written() == {}
    assert not output.broken
    pipe.read(stuffing)
    assert pipe.read(1000) == b"a" * 600 + b"b" * 400
    assert output.flush(WITHIN_S)
    assert output.written() == {1: 2}
    assert output.put(batch(b"e", k2=1))
    assert pipe.read(1) == b"e"
    assert output.flush(WITHIN_S)
    assert output.written() == {2: 1}
    output.close()


def test_what_one_call_does_not_take_comes_in_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More lines than one call takes, of which each call takes only some bytes, come whole and in order."""
    whole = os.writev
    monkeypatch.setattr(os, "writev", lambda fd, lines: whole(fd, [b"".join(lines)[:777]]))
    fd = open_file(tmp_path / "out")
    output = Output(fd, "out")
    data = b"".join(b"line %d\n" % i for i in range(2500))
    assert output.put(batch(data, k1=2500))
    assert output.flush(WITHIN_S)
    assert output.written() == {1: 2500}
    output.close()
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == data


def test_batch_larger_than_the_queue_goes_through_alone(pipe: Pipe) -> None:
    """One batch is taken whatever its size when nothing waits: else it could never be written."""
    output = Output(pipe.writer, "pipe", queue_most=10)
    assert output.put(batch(b"x" * 5000, k1=1))
    assert pipe.read(5000) == b"x" * 5000
    assert output.flush(WITHIN_S)
    output.close()


def test_patient_caller_waits_for_room(pipe: Pipe) -> None:
    """With wait nothing is refused: the caller goes on when the reader has made room."""
    stuffing = pipe.fill()
    output = Output(pipe.writer, "pipe", queue_most=100)
    assert output.put(batch(b"a" * 100))
    taken: list[bool] = []
    waiter = threading.Thread(target=lambda: taken.append(output.put(batch(b"b" * 100), None)), daemon=True)
    waiter.start()
    waiter.join(0.05)
    assert taken == []
    pipe.read(stuffing)
    assert pipe.read(200) == b"a" * 100 + b"b" * 100
    waiter.join(WITHIN_S)
    assert taken == [True]
    output.close()


def test_closed_reader_is_told(pipe: Pipe) -> None:
    """A reader that went away is no error: the output is broken, refuses more, and waits for nobody."""
    output = Output(pipe.writer, "pipe")
    pipe.close(pipe.reader)
    output.put(batch(b"x", k1=1))
    assert not output.flush(WITHIN_S)
    assert output.closed_by_reader
    assert output.broken
    assert output.error is None
    assert not output.put(batch(b"y"))
    assert not output.put(batch(b"y"), None)
    assert output.written() == {}
    output.close()


def test_waiting_caller_is_freed_by_the_end(pipe: Pipe) -> None:
    """Who waits for room gets False when the reader goes away."""
    pipe.fill()
    output = Output(pipe.writer, "pipe", queue_most=100)
    assert output.put(batch(b"a" * 100))
    taken: list[bool] = []
    waiter = threading.Thread(target=lambda: taken.append(output.put(batch(b"b" * 100), None)), daemon=True)
    waiter.start()
    pipe.close(pipe.reader)
    waiter.join(WITHIN_S)
    assert taken == [False]
    output.close()


def test_full_disk_is_an_error_with_the_fix() -> None:
    """No space left: the output is broken, and the error names the file, the reason, and what to do."""
    fd = os.open("/dev/full", os.O_WRONLY)
    output = Output(fd, "/dev/full")
    output.put(batch(b"x", k1=1))
    assert not output.flush(WITHIN_S)
    assert output.broken
    assert not output.closed_by_reader
    assert output.error is not None
    message = str(output.error)
    assert "/dev/full" in message
    assert os.strerror(errno.ENOSPC) in message
    assert "room" in message
    assert "\n" not in message
    assert not output.put(batch(b"y"))
    assert output.written() == {}
    output.close()
    os.close(fd)


def test_descriptor_that_takes_nothing_is_an_error() -> None:
    """The same for any other failure of write(2)."""
    fd = os.open(os.devnull, os.O_RDONLY)
    output = Output(fd, "nowhere")
    output.put(batch(b"x"))
    assert not output.flush(WITHIN_S)
    assert os.strerror(errno.EBADF) in str(output.error)
    output.close()
    os.close(fd)


def test_partial_writes_are_completed(pipe: Pipe) -> None:
    """A batch of many times what a pipe holds arrives whole."""
    data = bytes(range(256)) * 4096
    output = Output(pipe.writer, "pipe")
    assert output.put(batch(data, k3=1))
    assert pipe.read(len(data)) == data
    assert output.flush(WITHIN_S)
    assert output.written() == {3: 1}
    output.close()


def test_close_is_idempotent_and_leaves_the_descriptor(tmp_path: Path) -> None:
    """Closing twice is once, and the descriptor stays the caller's."""
    fd = open_file(tmp_path / "out")
    output = Output(fd, "out")
    output.close()
    output.close()
    os.fstat(fd)
    os.close(fd)


def test_stopped_reader_does_not_keep_close(pipe: Pipe) -> None:
    """Closing while the thread is stuck in a write returns; the thread is a daemon and keeps no process alive."""
    pipe.fill()
    output = Output(pipe.writer, "pipe")
    assert output.put(batch(b"x"))
    output.close()
    assert not output.broken
    pipe.close(pipe.reader)  # frees the thread


def test_file_is_private_and_truncated(tmp_path: Path) -> None:
    """A file is made for owner and group alone, and one that was there is written from its start."""
    path = tmp_path / "out"
    before = os.umask(0)
    try:
        os.close(open_file(path))
        assert path.stat().st_mode & 0o777 == 0o640
        raw = tmp_path / "raw"
        os.close(open_file(raw, 0o600))
        assert raw.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    path.write_text("old")
    os.close(open_file(path))
    assert path.read_bytes() == b""


def test_link_is_not_followed(tmp_path: Path) -> None:
    """A symbolic link in the file's place is refused, and what it names stays as it is."""
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(OutputError, match="link"):
        open_file(tmp_path / "link")
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", ["no/such/directory", "."])
def test_file_that_cannot_be_is_one_line(tmp_path: Path, name: str) -> None:
    """What can't be opened is an OutputError of one line that names it and the fix."""
    with pytest.raises(OutputError) as refused:
        open_file(tmp_path / name)
    assert str(tmp_path / name) in str(refused.value)
    assert "--output" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture(name="directory")
def _directory(tmp_path: Path) -> Iterator[int]:
    """A descriptor of the directory of the output."""
    fd = os.open(tmp_path, os.O_PATH)
    yield fd
    os.close(fd)


def reopened(path: Path, directory: int, current: int = 0) -> bytes:
    """What is in a file after it was opened again and a line was written."""
    fd = open_again(path, directory, current)
    os.write(fd, b"new\n")
    assert os.get_blocking(fd)
    assert not os.get_inheritable(fd)
    os.close(fd)
    return path.read_bytes()


def refused(path: Path, directory: int) -> int | None:
    """The errno with which a file is refused."""
    try:
        os.close(open_again(path, directory))
    except OSError as error:
        return error.errno
    return None


def test_open_again_goes_on(tmp_path: Path, directory: int) -> None:
    """What is in the file stays; a line that somebody left unfinished is ended, but not in what is being written."""
    path = tmp_path / "out"
    before = os.umask(0o022)
    try:
        assert reopened(path, directory) == b"new\n"
        assert path.stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)
    assert reopened(path, directory) == b"new\nnew\n"
    path.write_bytes(b"half")
    assert reopened(path, directory) == b"half\nnew\n"
    path.write_bytes(b"half")
    assert reopened(path, directory, path.stat().st_ino) == b"halfnew\n"


def test_open_again_opens_nothing_else(tmp_path: Path, directory: int) -> None:
    """Links, pipes, directories, and a file in another directory of the name are refused, and no descriptor is left."""
    target = tmp_path / "target"
    target.write_text("precious")
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "place").mkdir()
    before = len(list(Path("/proc/self/fd").iterdir()))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    for name, number in (("link", errno.ELOOP), ("pipe", errno.ENXIO), ("place", errno.EISDIR)):
        assert refused(tmp_path / name, directory) == number
    os.close(reader)
    for path, number in ((tmp_path / "place" / "out", errno.ESTALE), (tmp_path / "gone" / "out", errno.ENOENT)):
        assert refused(path, directory) == number
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert target.read_text() == "precious"


def test_switch_is_between_two_lines(tmp_path: Path) -> None:
    """What was put before goes to the old file, all after it to the new one, and the old one is closed."""
    names = ["one", "two", "three"]
    output = Output(open_file(tmp_path / names[0]), "out")
    held = len(list(Path("/proc/self/fd").iterdir()))
    for number, name in enumerate(names):
        if number:
            output.switch(open_file(tmp_path / name))
        for line in range(101):
            assert output.put(batch(b"%s %d\n" % (name.encode(), line), k1=1))
    assert output.flush(WITHIN_S)
    assert output.written() == {1: 303}
    for name in names:
        assert (tmp_path / name).read_bytes() == b"".join(b"%s %d\n" % (name.encode(), line) for line in range(101))
    assert len(list(Path("/proc/self/fd").iterdir())) == held
    output.close()


def test_cut_file_has_no_hole(tmp_path: Path) -> None:
    """Who copies a file and cuts it, as logrotate's copytruncate does, finds it go on from its start."""
    fd = open_file(tmp_path / "out")
    os.write(fd, b"before\n")
    os.truncate(tmp_path / "out", 0)
    os.write(fd, b"after\n")
    os.close(fd)
    assert (tmp_path / "out").read_bytes() == b"after\n"


def test_terminal() -> None:
    """A pseudo-terminal is one; a pipe, a device and a closed descriptor are none."""
    leader, follower = os.openpty()
    reader, writer = os.pipe()
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        assert is_terminal(follower)
        assert not is_terminal(writer)
        assert not is_terminal(null)
    finally:
        for fd in (leader, follower, reader, writer, null):
            os.close(fd)
    assert not is_terminal(null)


def test_pipe_without_a_reader_is_refused(tmp_path: Path) -> None:
    """A named pipe that nobody reads is refused at once; with a reader it is written, and blocks when it is full."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OutputError, match="reader"):
        open_file(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    fd = open_file(path)
    try:
        assert os.get_blocking(fd)
        os.write(fd, b"line\n")
        assert os.read(reader, 100) == b"line\n"
    finally:
        os.close(fd)
        os.close(reader)


def test_caller_waits_no_longer_than_it_said(pipe: Pipe) -> None:
    """Without a reader a batch is refused after that time, and taken as soon as there is room."""
    stuffing = pipe.fill()
    output = Output(pipe.writer, "pipe", queue_most=100)
    assert output.put(batch(b"a" * 100))
    began = time.monotonic()
    assert not output.put(batch(b"b" * 100), 0.2)
    assert time.monotonic() - began >= 0.2
    pipe.read(stuffing)
    assert output.put(batch(b"c" * 100), WITHIN_S)
    assert pipe.read(200) == b"a" * 100 + b"c" * 100
    output.close()
