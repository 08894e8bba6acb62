"""What an earlier run has left is read from its last whole lines, in either format, compressed or not."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from tests.formats.events import NOW, OFFSET, SESSION, executed, image
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import Ocsf
from tracer.model import Notice
from tracer.sinks.place import done, number_of, numbered
from tracer.sinks.resume import Left, look

LEDGER = Notice("tracer-ledger", NOW + 5, "metric", {"ledger": {"final": True}})
SEGMENT = Notice("tracer-of-the-file", NOW + 6, "state", {"segment": {}})


def lines(form: type[Ecs] | type[Ocsf], first: int, *notices: Notice) -> bytes:
    """Two events, and notices behind them, from a number on."""
    event = executed(image(b"true"))
    return b"".join(form(SESSION).lines([event, event, *notices], OFFSET, first))


@pytest.mark.parametrize("form", [Ecs, Ocsf])
def test_end_in_order(tmp_path: Path, form: type[Ecs] | type[Ocsf]) -> None:
    """The last ledger, or a record behind it that ends the file, is an end in order; without it there was none."""
    path = tmp_path / "events.jsonl"
    boot = SESSION.host.boot_id
    path.write_bytes(lines(form, 40, LEDGER))
    assert look(path, []) == Left(43, 40, NOW + 5 + OFFSET, True, boot)
    path.write_bytes(lines(form, 40, LEDGER, SEGMENT))
    assert look(path, []) == Left(44, 40, NOW + 6 + OFFSET, True, boot)
    path.write_bytes(lines(form, 40))
    assert look(path, []) == Left(42, 40, NOW + OFFSET, False, boot)


def test_torn_and_foreign_lines(tmp_path: Path) -> None:
    """Half a line at the end, and lines that are none of ours, are left out."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(Ecs, 7, LEDGER) + b'not ours\n{"event":{}}\n[]\n{"event":{"sequence":"x"}}\n{"@timest')
    left = look(path, [])
    assert (left.following, left.first) == (10, 7)


def test_large_file(tmp_path: Path) -> None:
    """Only its ends are read: what is in the middle may be anything."""
    path = tmp_path / "events.jsonl"
    path.write_bytes(lines(Ecs, 5) + b"\0" * 10_000_000 + b"\n" + lines(Ecs, 90, LEDGER))
    left = look(path, [])
    assert (left.following, left.first, left.ended) == (93, 5, True)


def test_newest_that_is_done(tmp_path: Path) -> None:
    """Where the file is gone or empty the newest one that has lines tells, also if it is compressed.

    What can't be read is not called again as it is.
    """
    path = tmp_path / "events.jsonl"
    assert look(path, done(path)) == Left()
    (tmp_path / numbered(path, 0)).write_bytes(lines(Ecs, 0))
    (tmp_path / f"{numbered(path, 2)}.gz").write_bytes(gzip.compress(b"{}\n" * 200_000 + lines(Ecs, 1000)))
    left = look(path, done(path))
    assert (left.following, left.first) == (1002, None)
    path.write_bytes(b"")
    assert look(path, done(path)) == left
    (tmp_path / f"{numbered(path, 2)}.gz").rename(tmp_path / "gone")
    (tmp_path / f"{numbered(path, 2)}.zst").write_bytes(zstandard.compress(b"{}\n" * 200_000 + lines(Ecs, 1000)))
    assert look(path, done(path)) == left
    (tmp_path / f"{numbered(path, 2)}.zst").unlink()
    (tmp_path / f"{numbered(path, 2)}.gz").write_bytes(b"no gzip")
    assert look(path, done(path)).following == 3


def test_files_with_numbers(tmp_path: Path) -> None:
    """The newest one with lines tells; one with half a line has none, and one with others' lines counts."""
    path = tmp_path / "events.jsonl"
    (tmp_path / numbered(path, 7)).write_bytes(lines(Ecs, 7, LEDGER))
    assert look(None, done(path)) == Left(10, None, NOW + 5 + OFFSET, True, SESSION.host.boot_id)
    (tmp_path / numbered(path, 10)).write_bytes(b'{"half')
    (tmp_path / numbered(path, 11)).write_bytes(b"")
    assert look(None, done(path)).following == 10
    (tmp_path / numbered(path, 12)).write_bytes(b"not ours\n")
    assert look(None, done(path)) == Left(13, None, NOW + 5 + OFFSET, True, SESSION.host.boot_id)


def test_number_of_a_name(tmp_path: Path) -> None:
    """What a name says, whatever is in the stem or behind the suffix; one beyond 63 bits is no name of ours."""
    path = tmp_path / "events.2.jsonl"
    for suffix in ("", ".gz", ".zst"):
        assert number_of(tmp_path / f"{numbered(path, 12345)}{suffix}") == 12345
    for number in (10**20 - 1, 1 << 63):
        (tmp_path / numbered(path, number)).write_bytes(b"")
    assert done(path) == []


def test_file_that_can_not_be_looked_at(tmp_path: Path) -> None:
    """What is there and can't be read is an error: to begin anew would give numbers twice."""
    path = tmp_path / "events.jsonl"
    path.symlink_to(tmp_path / "other")
    (tmp_path / "other").write_bytes(lines(Ecs, 0))
    with pytest.raises(OSError, match="symbolic links"):
        look(path, [])


def test_time_without_digits(tmp_path: Path) -> None:
    """A line with a time that is none has none, and its number counts."""
    path = tmp_path / "events.jsonl"
    path.write_text(json.dumps({"@timestamp": "yesterday", "event": {"sequence": 3}}) + "\n")
    assert look(path, []) == Left(4, 3, 0, False, "")
