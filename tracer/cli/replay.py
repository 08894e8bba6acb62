"""`tracer replay`: give the output of a recording again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tracer.cli import facts, reading
from tracer.cli.errors import CommandError, Exit
from tracer.cli.recording import begin, items
from tracer.cli.sandbox import Mode, Sandbox, choose_user
from tracer.cli.stream import Stream, make_format, open_output
from tracer.cli.tell import tell
from tracer.confine.plan import Plan
from tracer.confine.seccomp_filter import WORKER, on_descriptors
from tracer.formats.privacy import Privacy
from tracer.pipeline.engine import Engine
from tracer.pipeline.moves import UPDATE_NS
from tracer.pipeline.turns import Input, RecordingError, Start, Turn
from tracer.pipeline.view import Filters
from tracer.probes.read_only import ReadOnly
from tracer.probes.records import DecodeError
from tracer.sinks.output import is_terminal

__all__ = ["replay"]


def replay(
    path: Path,
    form: str | None,
    output: Path | None,
    *,
    fail_on_loss: bool = False,
    mode: Mode | None = None,
    privacy: Privacy | None = None,
) -> Exit:
    """Write the lines that the recorded session wrote, in any format. Raises CommandError.

    This process is confined for ever before it reads what is recorded, unless ``mode`` is None.
    """
    try:
        if output is not None and output.exists() and output.samefile(path):
            raise CommandError(f"{path} would be overwritten: name another file with --output", Exit.FAILURE)
        with path.open("rb") as file:
            begin(file)
            fd, name = open_output(output, keep=True)
            if mode is not None:
                _confine(mode, form, fd, writes_files=output is not None and str(output) != "-")
            complete = _play(file, _Form(form, privacy), fd, name)
    except OSError as error:
        raise CommandError(f"can't read {path}: {error.strerror}", Exit.FAILURE) from error
    except (RecordingError, DecodeError) as error:
        raise CommandError(f"{path}: {error}", Exit.FAILURE) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CommandError(f"{path}: changed, or of another version ({error})", Exit.FAILURE) from error
    return Exit.LOSS if fail_on_loss and not complete else Exit.OK


def _confine(mode: Mode, form: str | None, fd: int, *, writes_files: bool) -> None:
    """Leave this process what is open, and the power to cut the output before the first line."""
    if form == "pretty" or is_terminal(fd):
        import tracer.formats.pretty  # nothing can be imported later
    if form == "ocsf":
        import tracer.formats.ocsf  # noqa: F401
    reading.load()
    plan = Plan(choose_user(None, tell, writes_files=writes_files), calls=WORKER + on_descriptors("ftruncate", fd))
    read_only = ReadOnly()
    Sandbox(mode, plan).enter(tell, lambda prove: prove())
    read_only.let_go()


class _Form(NamedTuple):
    """How lines are to be."""

    name: str | None
    privacy: Privacy | None


def _play(file: BinaryIO, form: _Form, fd: int, name: str) -> bool:
    """Write the lines, those before a bad frame too; whether every session in it was complete."""
    found = items(file)
    start = next(found, None)
    if not isinstance(start, Start):
        raise RecordingError("it has no beginning")
    with suppress(OSError):  # what is no file can't be cut
        os.ftruncate(fd, 0)
    complete = True
    while start is not None:
        whole, start = _play_session(start, found, form, fd, name)
        complete &= whole
    return complete


def _play_session(start: Start, rest: Iterator[Input], form: _Form, fd: int, name: str) -> tuple[bool, Start | None]:
    """Write the lines of one session; whether it was complete, and the beginning of the next if there is one."""
    session = facts.session_from_json(start.facts["session"])
    facts_of = start.facts
    filters = Filters.from_json(facts_of["filters"])
    intervals = facts_of.get("update", UPDATE_NS), facts_of.get("aggregate", 0)
    engine = Engine(session.host.boot_id, filters, facts_of["count"], *intervals)
    reading.read_again(engine, facts_of.get("names"))
    stream = Stream(engine, make_format(form.name, session, fd, form.privacy), fd, name, patient=True)
    following: Start | None = None
    try:
        stream.feed(start)
        last: Turn | None = None
        for item in rest:
            if stream.broken:
                break
            if isinstance(item, Start):
                following = item
                break
            stream.feed(item)
            if isinstance(item, Turn) and item.last:
                last = item
            elif isinstance(item, Turn) and item.cut:
                stream.ledger(item)
        if last is not None:
            stream.ledger(last)
        elif not stream.broken and following is None:
            raise RecordingError("cut before the session's end: there is no last ledger")
    finally:
        stream.close()
    return stream.complete and last is not None, following
