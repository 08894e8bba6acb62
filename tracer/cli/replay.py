"""`tracer replay`: give the output of a recording again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tracer.cli import facts
from tracer.cli.errors import CommandError, Exit
from tracer.cli.stream import Stream, make_format, open_output
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import FRAME, FRAME_MOST, MAGIC, Input, RecordingError, Start, Turn, unpack
from tracer.pipeline.view import Filters
from tracer.probes.records import DecodeError

__all__ = ["replay"]


def _items(path: Path) -> Iterator[Input]:
    """The inputs that a recording holds. Raises RecordingError, OSError."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise RecordingError("not a recording of tracer (made by tracer live --record)")
        while head := file.read(FRAME.size):
            if len(head) < FRAME.size:
                raise RecordingError("cut in the middle of a frame")
            kind, length = FRAME.unpack(head)
            if length > FRAME_MOST:
                raise RecordingError(f"a frame of {length} bytes: changed")
            content = file.read(length)
            if len(content) < length:
                raise RecordingError("cut in the middle of a frame")
            yield unpack(kind, content)


def replay(path: Path, form: str | None, output: Path | None, *, fail_on_loss: bool = False) -> Exit:
    """Write the lines that the recorded session wrote, in any format. Raises CommandError."""
    try:
        if output is not None and output.exists() and output.samefile(path):
            raise CommandError(f"{path} would be overwritten: name another file with --output", Exit.FAILURE)
        complete = _play(path, form, output)
    except OSError as error:
        raise CommandError(f"can't read {path}: {error.strerror}", Exit.FAILURE) from error
    except (RecordingError, DecodeError) as error:
        raise CommandError(f"{path}: {error}", Exit.FAILURE) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CommandError(f"{path}: changed, or of another version ({error})", Exit.FAILURE) from error
    return Exit.LOSS if fail_on_loss and not complete else Exit.OK


def _play(path: Path, form: str | None, output: Path | None) -> bool:
    """Write the lines, those before a bad frame too; whether the session was complete."""
    items = _items(path)
    start = next(items, None)
    if not isinstance(start, Start):
        raise RecordingError("it has no beginning")
    session = facts.session_from_json(start.facts["session"])
    engine = Engine(session.host.boot_id, Filters.from_json(start.facts["filters"]), start.facts["count"])
    fd, name = open_output(output)
    stream = Stream(engine, make_format(form, session, fd), fd, name, patient=True)
    try:
        stream.feed(start)
        last: Turn | None = None
        for item in items:
            if stream.broken:
                break
            stream.feed(item)
            if isinstance(item, Turn) and item.last:
                last = item
            elif isinstance(item, Turn) and item.cut:
                stream.ledger(item)
        if last is not None:
            stream.ledger(last)
        elif not stream.broken:
            raise RecordingError("cut before the session's end: there is no last ledger")
    finally:
        stream.close()
    return stream.complete
