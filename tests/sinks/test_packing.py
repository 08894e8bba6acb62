"""Compression: a file is packed once all that is to go into it is written, and not before."""

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from tracer.integrity.read import Lines, UnreadableError
from tracer.sinks.packing import pack
from tracer.sinks.place import Packing, Place


def test_a_file_that_is_still_written_to_is_left_alone(tmp_path: Path) -> None:
    """The writer may be behind by several rotations; when it has closed the file that is packed, with all of it."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    place = Place(tmp_path / "events.jsonl", directory)
    fds = [place.again(0)]
    for number in range(1, 4):
        os.write(fds[-1], b"whole\n")
        fds.append(place.rotate(number, 0).fd)
    names = place.packable()
    assert len(names) == 2
    for name in names:
        with pytest.raises(BlockingIOError):
            pack(directory, name)
    assert not list(tmp_path.glob("*.gz"))
    assert not list(tmp_path.glob(".*")), "nothing half is left"
    for fd, name in zip(fds, names, strict=False):
        os.write(fd, b"late\n")
        os.close(fd)
        assert pack(directory, name)
        assert gzip.decompress((tmp_path / f"{name}.gz").read_bytes()) == b"whole\nlate\n"
        assert not (tmp_path / name).exists()
    for fd in (*fds[2:], directory):
        os.close(fd)


@pytest.mark.parametrize("how", [Packing.GZIP, Packing.ZSTD])
def test_a_packed_file_has_all_of_it(tmp_path: Path, how: Packing) -> None:
    """Each way gives back what went in, under the file's mode, with nothing beside it; a changed byte is noticed."""
    data = b"".join(b'{"number":%d}\n' % number for number in range(200_000))
    unpack: dict[Packing, Callable[[bytes], bytes]] = {
        Packing.GZIP: gzip.decompress,
        Packing.ZSTD: lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
    }
    suffix = {Packing.GZIP: ".gz", Packing.ZSTD: ".zst"}[how]
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for name, content in (("large", data), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        assert pack(directory, name, how)
        packed = tmp_path / f"{name}{suffix}"
        assert unpack[how](packed.read_bytes()) == content
        assert packed.stat().st_mode & 0o7777 == 0o640
    assert len(list(tmp_path.iterdir())) == 2
    os.close(directory)
    changed = bytearray((tmp_path / f"large{suffix}").read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "changed").write_bytes(changed)
    with pytest.raises(UnreadableError, match="damaged"):
        list(Lines(tmp_path / "changed"))


def test_one_way_after_the_other(tmp_path: Path) -> None:
    """What one way has begun is no more, and what it has done is not done again by another."""
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for name in ("begun", "done"):
        (tmp_path / name).write_bytes(b"line\n")
    (tmp_path / ".begun.gz.new").write_bytes(b"half of it")
    (tmp_path / "done.gz").write_bytes(gzip.compress(b"line\n"))
    for name in ("begun", "done"):
        assert pack(directory, name, Packing.ZSTD)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["begun.zst", "done.gz"]
    os.close(directory)
