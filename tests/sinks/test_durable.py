"""Writing that outlives its disk: what is not taken is tried again where it stopped, and each fault is told once."""

import errno
import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracer.sinks.durable import Durable, Fsync
from tracer.sinks.output import Batch, open_file

WITHIN_S = 20


def batch(data: bytes) -> Batch:
    """Lines, each an event of kind 1."""
    lines = data.splitlines(keepends=True)
    return Batch(lines, len(data), Counter({1: len(lines)}))


class Written:
    """A file that is written, and what is said of it."""

    def __init__(self, path: Path, **options: object) -> None:
        self.path = path
        self.said: list[str] = []
        fd = open_file(path, keep=True)
        self.output = Durable(fd, "FILE", self.said.append, time.monotonic_ns, **options)  # type: ignore[arg-type]
        self.output.start(lambda: True)

    def put(self, data: bytes) -> None:
        """Put lines, and wait until they are written."""
        assert self.output.put(batch(data))
        assert self.output.flush(WITHIN_S)

    def wait_for(self, what: Callable[[], object]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + WITHIN_S
        while not what():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)


@pytest.fixture(name="written")
def _written(tmp_path: Path) -> Iterator[Written]:
    written = Written(tmp_path / "out")
    yield written
    written.output.close()


@pytest.fixture(name="disk")
def _disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.live
def test_full_disk(disk: Path) -> None:
    """A batch that fits only in part is finished when there is room: no line is torn or doubled, all are counted."""
    written = Written(disk / "out")
    data = b"".join(b"%0999d\n" % number for number in range(100))
    assert written.output.put(batch(data))
    written.wait_for(lambda: written.output.stalled)
    assert written.said == ["can't write FILE: No space left on device; it is tried again, and lines wait"]
    assert not written.output.flush(0.1)
    assert written.output.written() == {}
    began = time.monotonic()
    large = Batch([b"x"], 40 << 20, Counter({1: 1}))
    assert not written.output.put(large, 600)
    assert time.monotonic() - began < WITHIN_S, "nobody waits for a disk that takes nothing"
    subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
    assert written.output.flush(WITHIN_S)
    assert written.output.written() == {1: 100}
    written.output.close()
    assert (disk / "out").read_bytes() == data
    assert written.said[1:] == ["FILE can be written again"]
    assert written.output.error is None


@pytest.mark.live
def test_full_disk_at_the_end(disk: Path) -> None:
    """The end does not wait for ever: it is an error, with the fix."""
    written = Written(disk / "out")
    assert written.output.put(batch(b"x" * 99 * 1024 + b"\n"))
    written.wait_for(lambda: written.output.stalled)
    assert not written.output.flush(600)
    written.output.close()
    assert str(written.output.error).startswith("can't write FILE: No space left on device; make room there")


def test_file_that_is_cut(written: Written) -> None:
    """It is found at the next write, said, and told with the time when the file was whole last; then all is well."""
    written.put(b"one\ntwo\n")
    before = time.monotonic_ns()
    os.truncate(written.path, 0)
    written.put(b"three\n")
    (trouble,) = written.output.troubles()
    assert (trouble.what, trouble.size) == ("truncated", 8)
    assert trouble.first < before < trouble.last
    written.put(b"four\n")
    assert written.output.troubles() == []
    assert len(written.said) == 1
    assert "was cut by somebody" in written.said[0]
    assert written.path.read_bytes() == b"three\nfour\n"


def test_somebody_else_writes(written: Written) -> None:
    """That is said once, and costs nothing."""
    for _ in range(3):
        with written.path.open("ab") as file:
            file.write(b"theirs\n")
        written.put(b"ours\n")
    assert written.said == ["somebody else writes to FILE as well: give each a file of its own"]
    assert written.output.troubles() == []


def test_descriptor_that_comes_later(written: Written, tmp_path: Path) -> None:
    """What is put after put_off() waits for it, what was put before goes to the old file; the old one is closed."""
    written.put(b"one\n")
    written.output.put_off()
    assert written.output.put(batch(b"two\n"))
    assert not written.output.flush(0.1)
    written.output.provide(open_file(tmp_path / "next"))
    assert written.output.flush(WITHIN_S)
    assert (written.path.read_bytes(), (tmp_path / "next").read_bytes()) == (b"one\n", b"two\n")
    held = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink() and fd.exists()}
    assert str(written.path) not in held


def test_old_descriptor_that_stays(written: Written, tmp_path: Path) -> None:
    """None in place of one that was put off is the one before, again and again; each gets the one that it waits for."""
    written.put(b"one\n")
    for _ in range(3):
        written.output.put_off(stays=True)
        assert written.output.put(batch(b"two\n"))
    assert not written.output.flush(0.1)
    assert written.path.read_bytes() == b"one\n"
    written.output.provide(None)
    written.output.provide(open_file(tmp_path / "next"))
    written.output.provide(None)
    assert written.output.flush(WITHIN_S)
    assert (written.path.read_bytes(), (tmp_path / "next").read_bytes()) == (b"one\ntwo\n", b"two\ntwo\n")
    assert written.output.troubles() == []


def test_descriptor_that_never_comes(written: Written) -> None:
    """The end is an error then."""
    written.output.put_off()
    written.output.put(batch(b"lost\n"))
    assert not written.output.flush(600)
    written.output.close()
    assert "it was deleted, and with it lines were lost" in str(written.output.error)


@pytest.mark.parametrize(
    ("policy", "after_batch", "after_switch", "at_end"),
    [(Fsync.NEVER, 0, 0, 0), (Fsync.ROTATE, 0, 1, 2), (Fsync.BATCH, 2, 2, 3)],
)
def test_fsync(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    policy: Fsync,
    after_batch: int,
    after_switch: int,
    at_end: int,
) -> None:
    """Never; when a file is done and at the end; or after each batch."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    written = Written(tmp_path / "out", fsync=policy)
    written.put(b"one\n")
    written.put(b"two\n")
    assert len(synced) == after_batch
    written.output.switch(open_file(tmp_path / "next"))
    written.put(b"three\n")
    assert len(synced) == after_switch + (policy is Fsync.BATCH)
    written.output.close()
    assert len(synced) == at_end


def test_fsync_every_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes by itself after the last write, too, and not again where nothing was written."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", synced.append)
    written = Written(tmp_path / "out", fsync=Fsync.SECOND)
    written.put(b"one\n")
    written.wait_for(lambda: synced)
    written.output.close()
    assert len(synced) == 1


def test_fsync_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said, and the output goes on."""

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    written = Written(tmp_path / "out", fsync=Fsync.BATCH)
    written.put(b"one\n")
    assert written.said == ["can't sync FILE: Input/output error; what was written last may not be on the disk"]
    written.put(b"two\n")
    written.output.close()
    assert written.path.read_bytes() == b"one\ntwo\n"
