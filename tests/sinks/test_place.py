"""A file's place in its directory: names by numbers, nothing overwritten, what is others' left alone, the old goes."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.sinks.packing import pack
from tracer.sinks.place import Look, Place, done, numbered


class Kept:
    """A directory that is kept."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "events.jsonl"
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.place = Place(self.path, self.fd)

    def rotate(self, first: int, keep: int = 0, *, idle: bool = False, stays: bool = False) -> int:
        """Rotate and put nothing into the new file; how much was cut off."""
        turned = self.place.rotate(first, keep, idle=idle, stays=stays)
        os.close(turned.fd)
        return turned.cut

    def names(self) -> list[str]:
        """What is there."""
        return sorted(path.name for path in self.path.parent.iterdir())

    def name(self, number: int) -> str:
        """What a file is called when it is done."""
        return numbered(self.path, number)


@pytest.fixture(name="kept")
def _kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    os.close(kept.fd)


def test_names(tmp_path: Path) -> None:
    """Twenty digits hold every number that there can be, so names sort as numbers do."""
    path = tmp_path / "events.jsonl"
    assert numbered(path, 12345) == "events-00000000000000012345.jsonl"
    assert len(numbered(path, (1 << 64) - 1)) == len(numbered(path, 0))


def test_rotation(kept: Kept) -> None:
    """The file gets its name, and a new one is empty, only to be appended to, and for nobody else but the group."""
    turned = kept.place.rotate(0, 0, idle=True)
    os.write(turned.fd, b"one\n")
    os.close(turned.fd)
    turned = kept.place.rotate(0, 0)
    os.write(turned.fd, b"two\n")
    os.close(turned.fd)
    assert kept.names() == [kept.name(0), "events.jsonl"]
    assert (kept.path.parent / kept.name(0)).read_bytes() == b"one\n"
    assert kept.path.read_bytes() == b"two\n"
    assert kept.path.stat().st_mode & 0o7027 == 0


def test_half_a_line(kept: Kept) -> None:
    """Of what nobody writes any more it is cut off, whatever its length; what is whole stays."""
    for number, (whole, half) in enumerate([(b"a\n" * 9, b"b"), (b"", b"c" * 200_000), (b"d\n", b"e" * 200_000)]):
        kept.path.write_bytes(whole + half)
        assert kept.rotate(number, idle=True) == len(half)
        path = kept.path.parent / kept.name(number)
        assert (path.read_bytes() if whole else kept.path.read_bytes()) == whole


def test_what_is_written_is_not_cut(kept: Kept) -> None:
    """Half a line of a file that is still written is under way."""
    turned = kept.place.rotate(0, 0, idle=True)
    os.write(turned.fd, b"half")
    assert kept.rotate(0) == 0
    os.write(turned.fd, b" and half\n")
    os.close(turned.fd)
    assert (kept.path.parent / kept.name(0)).read_bytes() == b"half and half\n"


def test_gone_on_with(kept: Kept) -> None:
    """A file that stays has its half line cut off, too, and what comes is behind the rest."""
    kept.path.write_bytes(b"one\nhalf")
    turned = kept.place.rotate(0, 0, idle=True, stays=True)
    os.write(turned.fd, b"two\n")
    os.close(turned.fd)
    assert turned.cut == 4
    assert kept.names() == ["events.jsonl"]
    assert kept.path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_nothing_is_overwritten(kept: Kept, suffix: str) -> None:
    """A name that is taken is an error, also by a compressed file, and everything stays as it was."""
    taken = kept.path.parent / (kept.name(7) + suffix)
    taken.write_bytes(b"kept")
    kept.path.write_bytes(b"line\n")
    with pytest.raises(FileExistsError):
        kept.rotate(7, idle=True)
    assert (taken.read_bytes(), kept.path.read_bytes()) == (b"kept", b"line\n")


def test_what_others_put_there(kept: Kept) -> None:
    """A file of somebody else's is gone on with under its name; a link, a pipe and a directory are refused."""
    kept.rotate(0, idle=True)
    kept.path.rename(kept.path.with_name("away"))
    kept.path.write_bytes(b"theirs\n")
    turned = kept.place.rotate(0, 0)
    os.write(turned.fd, b"ours\n")
    os.close(turned.fd)
    assert kept.path.read_bytes() == b"theirs\nours\n"
    kept.path.unlink()
    kept.path.symlink_to("away")
    with pytest.raises(OSError, match="symbolic links") as refused:
        kept.rotate(1)
    assert refused.value.errno == errno.ELOOP
    with pytest.raises(OSError, match="symbolic links") as refused:
        kept.rotate(1, idle=True)
    assert refused.value.errno == errno.ELOOP
    kept.path.unlink()
    os.mkfifo(kept.path)
    with pytest.raises(OSError, match="No such device or address") as refused:
        kept.rotate(1, idle=True)
    assert refused.value.errno == errno.ENXIO
    assert (kept.path.parent / "away").read_bytes() == b""


def test_another_directory(tmp_path: Path) -> None:
    """Of its name is not the one that is kept."""
    (tmp_path / "log").mkdir()
    kept = Kept(tmp_path / "log")
    (tmp_path / "log").rename(tmp_path / "away")
    (tmp_path / "log").mkdir()
    with pytest.raises(OSError, match="Stale") as refused:
        kept.rotate(0, idle=True)
    assert refused.value.errno == errno.ESTALE
    assert list((tmp_path / "log").iterdir()) == []
    os.close(kept.fd)


def test_keep(kept: Kept) -> None:
    """The oldest go, compressed or not; what has another name stays."""
    others = ["events-7.jsonl", "events-00000000000000000001.json", "xevents-00000000000000000001.jsonl", "notes"]
    for name in [*others, kept.name(1) + ".gz", kept.name(2), kept.name(10)]:
        (kept.path.parent / name).write_bytes(b"x\n")
    kept.path.write_bytes(b"y\n")
    kept.rotate(11, 2, idle=True)
    assert kept.names() == sorted([*others, kept.name(10), kept.name(11), "events.jsonl"])
    assert done(kept.path) == [kept.path.parent / kept.name(number) for number in (10, 11)]


def test_keep_what_is_still_written(kept: Kept) -> None:
    """A writer that is behind by several files has them open: none of those is deleted before it has closed it."""
    turned = kept.place.rotate(0, 1, idle=True)
    for number in range(3):
        kept.path.write_bytes(b"x\n")
        kept.rotate(number, 1)
    assert kept.names() == [kept.name(0), kept.name(2), "events.jsonl"]
    os.write(turned.fd, b"late\n")
    os.close(turned.fd)
    assert (kept.path.parent / kept.name(0)).read_bytes() == b"x\nlate\n"
    kept.path.write_bytes(b"x\n")
    kept.rotate(3, 1)
    assert kept.names() == [kept.name(3), "events.jsonl"]


def test_look(kept: Kept) -> None:
    """It is told what became of the file that was opened last: there, under another name, or gone for good."""
    assert kept.place.look() is Look.HERE
    kept.rotate(0, idle=True)
    assert kept.place.look() is Look.HERE
    kept.path.rename(kept.path.with_name("other"))
    assert kept.place.look() is Look.MOVED
    kept.path.write_bytes(b"")
    assert kept.place.look() is Look.MOVED
    kept.path.with_name("other").unlink()
    assert kept.place.look() is Look.GONE


def test_compression(kept: Kept) -> None:
    """All but the newest that is done; of what was begun before nothing is left, and nothing is there twice."""
    import gzip

    for number in range(4):
        (kept.path.parent / kept.name(number)).write_bytes(b"line\n" * number * 100_000)
    half = kept.path.parent / f".{kept.name(1)}.gz.new"
    half.write_bytes(b"half of it")
    whole = kept.path.parent / f"{kept.name(2)}.gz"
    whole.write_bytes(gzip.compress(b"line\n" * 200_000))
    assert kept.place.packable() == [kept.name(number) for number in range(3)]
    assert not pack(kept.fd, kept.name(1), go_on=lambda: False)
    assert kept.place.packable() == [kept.name(number) for number in range(3)]
    for name in kept.place.packable():
        assert pack(kept.fd, name)
    assert kept.names() == [*(f"{kept.name(number)}.gz" for number in range(3)), kept.name(3)]
    for number in range(3):
        packed = kept.path.parent / f"{kept.name(number)}.gz"
        assert gzip.decompress(packed.read_bytes()) == b"line\n" * number * 100_000
    assert not half.exists()
