"""Compression: a file is packed once all that is to go into it is written, and not before."""

import gzip
import os
from pathlib import Path

import pytest

from tracer.sinks.packing import pack
from tracer.sinks.place import Place


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
