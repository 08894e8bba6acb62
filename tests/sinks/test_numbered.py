"""Files that have their number from the first byte on: never renamed, none overwritten, the last by name is written."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.sinks.numbered import Numbered
from tracer.sinks.packing import pack
from tracer.sinks.place import Look, Place, done, numbered


class Kept:
    """A directory of files with numbers."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "events.jsonl"
        self.fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.place = Numbered(self.path, self.fd)

    def begin(self, first: int, data: bytes = b"", keep: int = 0, *, idle: bool = False) -> int:
        """Begin a file and put this into it; how much was cut off the one before."""
        turned = self.place.rotate(first, keep, idle=idle)
        os.write(turned.fd, data)
        os.close(turned.fd)
        return turned.cut

    def at(self, number: int) -> Path:
        """A file."""
        return self.path.with_name(numbered(self.path, number))

    def numbers(self) -> list[int]:
        """What is there, with nothing else beside it."""
        found = [int(path.stem.rpartition("-")[2]) for path in done(self.path)]
        assert len(found) == len(list(self.path.parent.iterdir()))
        return found


@pytest.fixture(name="kept")
def _kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    os.close(kept.fd)


def test_names_from_the_first_byte_on(kept: Kept) -> None:
    """Each file is made under its last name, is the same file ever after, and others may not read it."""
    made = {}
    for number in (0, 5, 1000):
        kept.begin(number, b"line\n", idle=not number)
        made[number] = kept.at(number).stat().st_ino
        assert kept.at(number).stat().st_mode & 0o7777 == 0o640
    assert kept.numbers() == [0, 5, 1000]
    assert {number: kept.at(number).stat().st_ino for number in made} == made


def test_a_restart_begins_another_file(kept: Kept) -> None:
    """Half a line is cut off the newest, whatever its length; what is whole stays, and is not gone on with."""
    kept.begin(0, b"a\n" * 9 + b"b" * 200_000, idle=True)
    kept.at(0).with_name("events-first.jsonl").write_bytes(b"others' ")
    assert kept.begin(9, b"c\n", idle=True) == 200_000
    assert kept.at(0).read_bytes() == b"a\n" * 9
    assert kept.at(9).read_bytes() == b"c\n"
    assert kept.at(0).with_name("events-first.jsonl").read_bytes() == b"others' "


def test_a_file_without_a_line(kept: Kept) -> None:
    """What was begun and got no whole line is no file at the next start, so its number is free again."""
    kept.begin(0, b"a\n", idle=True)
    kept.begin(3)
    kept.begin(7, b"half")
    assert kept.begin(3, b"b\n", idle=True) == 4
    assert kept.numbers() == [0, 3]
    assert kept.at(3).read_bytes() == b"b\n"


def test_what_is_written_is_left_alone(kept: Kept) -> None:
    """While it runs nothing is cut off a file that is done: its writer may be behind."""
    turned = kept.place.rotate(0, 0, idle=True)
    os.write(turned.fd, b"half")
    assert kept.begin(1) == 0
    os.write(turned.fd, b" and half\n")
    os.close(turned.fd)
    assert kept.at(0).read_bytes() == b"half and half\n"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
@pytest.mark.parametrize("idle", [True, False])
def test_nothing_is_overwritten(kept: Kept, suffix: str, idle: bool) -> None:
    """A name that is taken is an error, also by a compressed file."""
    taken = kept.at(7).with_name(f"{kept.at(7).name}{suffix}")
    taken.write_bytes(b"kept\n")
    with pytest.raises(FileExistsError):
        kept.begin(7, idle=idle)
    assert taken.read_bytes() == b"kept\n"
    assert list(taken.parent.iterdir()) == [taken]


def test_links_are_not_followed(kept: Kept, tmp_path: Path) -> None:
    """A link to a file, or to nothing, in the place of the newest file or of the next one is an error."""
    other = tmp_path.parent / "other"
    other.write_bytes(b"half a line of others")
    kept.at(3).symlink_to(other)
    with pytest.raises(OSError, match="symbolic links") as refused:
        kept.begin(4, idle=True)
    assert refused.value.errno == errno.ELOOP
    kept.at(3).unlink()
    kept.at(4).symlink_to(tmp_path / "nothing")
    with pytest.raises(FileExistsError):
        kept.begin(4)
    assert other.read_bytes() == b"half a line of others"
    assert not (tmp_path / "nothing").exists()


def test_none_stays(kept: Kept) -> None:
    """There is no going on in a file, as its name would be that of another's first line."""
    with pytest.raises(OSError, match="Invalid argument"):
        kept.place.rotate(0, 0, stays=True)


def test_keep(kept: Kept) -> None:
    """Of those that are done the newest so many stay, beside the one that is written."""
    for number in range(5):
        kept.begin(number, b"line\n", keep=2)
    assert kept.numbers() == [2, 3, 4]


def test_look(kept: Kept) -> None:
    """It is told what became of the file that was begun last: there, under another name, or gone for good."""
    assert kept.place.look() is Look.HERE
    kept.begin(0, idle=True)
    kept.begin(1)
    assert kept.place.look() is Look.HERE
    kept.at(0).unlink()
    assert kept.place.look() is Look.HERE
    kept.at(1).rename(kept.path)
    assert kept.place.look() is Look.MOVED
    kept.path.unlink()
    assert kept.place.look() is Look.GONE


def test_another_directory(tmp_path: Path) -> None:
    """Of its name is not the one that is kept."""
    (tmp_path / "log").mkdir()
    kept = Kept(tmp_path / "log")
    (tmp_path / "log").rename(tmp_path / "away")
    (tmp_path / "log").mkdir()
    with pytest.raises(OSError, match="Stale"):
        kept.begin(0, idle=True)
    assert list((tmp_path / "log").iterdir()) == []
    os.close(kept.fd)


def test_what_can_be_compressed(kept: Kept) -> None:
    """All but the one that is written and the newest that is done, so that whoever follows has time to read on."""
    for number in range(4):
        kept.begin(number, b"line\n")
    assert kept.place.packable() == [kept.at(number).name for number in (0, 1)]
    for name in kept.place.packable():
        assert pack(kept.fd, name)
    assert kept.place.packable() == []
    assert [path.suffix for path in done(kept.path)] == [".gz", ".gz", ".jsonl", ".jsonl"]


def test_it_is_a_place() -> None:
    """The opener asks either in the same way."""
    assert issubclass(Numbered, Place)
