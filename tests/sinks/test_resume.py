"""What an earlier run has left is read from its last whole lines, in either format, compressed or not."""

import gzip
import json
from pathlib import Path

import pytest

from tests.formats.events import NOW, OFFSET, SESSION, executed, image
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import Ocsf
from tracer.model import Notice
from tracer.sinks.place import done, numbered
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
    """Where the file is gone or empty the newest one that has lines tells, also if it is compressed."""
    path = tmp_path / "events.jsonl"
    assert look(path, done(path)) == Left()
    (tmp_path / numbered(path, 0)).write_bytes(lines(Ecs, 0))
    (tmp_path / f"{numbered(path, 2)}.gz").write_bytes(gzip.compress(b"{}\n" * 200_000 + lines(Ecs, 1000)))
    left = look(path, done(path))
    assert (left.following, left.first) == (1002, None)
    path.write_bytes(b"")
    assert look(path, done(path)) == left
    (tmp_path / f"{numbered(path, 2)}.gz").write_bytes(b"no gzip")
    assert look(path, done(path)).following == 2


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
