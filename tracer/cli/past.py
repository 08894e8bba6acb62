"""`tracer pid --from`: what files of events tell of a process that was there once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson

from tracer.cli.errors import CommandError, Exit
from tracer.cli.tell import tell
from tracer.history.past import Known, Past, PastError, Wanted
from tracer.history.story import Story
from tracer.integrity.files import listed
from tracer.report.fields import moment

__all__ = ["Asked", "files", "past", "wanted"]

_LISTED: Final = 20
_AGAIN_S: Final = 0.1
_SECOND: Final = 1_000_000_000


class Asked(NamedTuple):
    """What was asked for: where to look, for which process, and how to tell of it.

    ``output`` is for lines, of text or with ``json`` of JSON; ``html`` is for the report.
    """

    sources: Sequence[Path]
    wanted: Wanted
    words: str
    json: bool = False
    output: Path | None = None
    html: Path | None = None


def past(asked: Asked) -> Exit:
    """Find the process, and tell of it. Raises CommandError."""
    found = files(asked.sources)
    try:
        with Past(found) as history:
            with _progress(history):
                root = _one(history, asked)
                story = Story(history, root, asked.words)
            with story:
                _tell(story, asked)
    except PastError as error:
        raise CommandError(str(error), Exit.FAILURE) from error
    return Exit.OK


def wanted(process: str | None, entity: str | None, executable: str | None, at: str | None) -> tuple[Wanted, str]:
    """Which process is meant, and in which words. Raises CommandError."""
    given = [each for each in (process, entity, executable) if each is not None]
    if len(given) != 1:
        raise CommandError("name one process: by its pid, by --entity ID or by --exe PATH", Exit.USAGE)
    when = ""
    if at is not None:
        found = moment(at)
        if found is None:
            raise CommandError(f"--at {at!r}: give a time such as 2026-05-01T12:00:00Z", Exit.USAGE)
        when = _written(found)
    if process is not None:
        if not process.isdecimal() or len(process) > 10:
            raise CommandError(f"{process!r}: with --from give a pid, --entity ID or --exe PATH", Exit.USAGE)
        return Wanted(pid=int(process), at=when), f"pid {int(process)}{_at(when)}"
    if entity is not None:
        return Wanted(entity=entity, at=when), f"--entity {entity}{_at(when)}"
    return Wanted(executable=executable or "", at=when), f"--exe {executable}{_at(when)}"


def files(sources: Sequence[Path]) -> list[Path]:
    """The files to read, oldest first: of a directory those of `tracer export`. Raises CommandError."""
    found: list[Path] = []
    for source in sources:
        try:
            inner = listed(source) if source.is_dir() else [source]
        except OSError as refused:
            code = Exit.PRIVILEGE if isinstance(refused, PermissionError) else Exit.FAILURE
            raise CommandError(f"can't read {source}: {refused.strerror}", code) from refused
        if not inner:
            raise CommandError(f"{source} has no events-*.jsonl: name the files themselves", Exit.USAGE)
        found += inner
    return found


def _at(when: str) -> str:
    return f" at {when}" if when else ""


def _written(nanoseconds: int) -> str:
    """A moment as lines have it, so that it sorts with them."""
    from datetime import UTC, datetime

    whole = datetime.fromtimestamp(nanoseconds // _SECOND, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{nanoseconds % _SECOND:09}Z"


def _one(history: Past, asked: Asked) -> Known:
    """The process that is meant. Raises CommandError and PastError."""
    found = history.find(asked.wanted)
    if not found:
        extent = history.extent()
        raise CommandError(
            f"{asked.words}: no such process in {extent.lines:,} lines from {extent.first} to {extent.last}",
            Exit.FAILURE,
        )
    if len(found) == 1:
        return found[0]
    for each in found[:_LISTED]:
        end = f"ended {each.last}" if each.ended else f"last seen {each.last}"
        tell(f"--entity {each.entity}: {each.pid} {each.executable or each.name}, from {each.start}, {end}")
    if len(found) > _LISTED:
        tell(f"and {len(found) - _LISTED:,} more")
    raise CommandError(
        f"{asked.words} fits {len(found):,} processes: name one by --entity, or a time by --at", Exit.USAGE
    )


def _tell(story: Story, asked: Asked) -> None:
    """Write what was asked for. Raises CommandError."""
    if asked.html is not None:
        from tracer.cli.page import write_page

        write_page(asked.html, story.bundle, story.events())
        if not asked.json and asked.output is None:
            tell(f"the report is in {asked.html}")
            return
    if asked.json:
        _write(asked.output, _json(story))
        return
    from tracer.report import plain

    _write(asked.output, (f"{line}\n".encode() for line in plain.lines(story.bundle, story.events())))


def _json(story: Story) -> Iterator[bytes]:
    """The bundle, then the events. It has no number, because it is of no stream."""
    first: Mapping[str, Any] = next(story.events(), {})
    record = {
        "@timestamp": story.bundle["made"],
        "event": {"kind": "state", "category": ["process"], "type": ["info"], "action": "tracer-bundle"},
        "tracer": {"schema": 1, "bundle": story.bundle},
        **{name: first[name] for name in ("host", "ecs") if name in first},
    }
    yield orjson.dumps(record) + b"\n"
    yield from story.lines()


def _write(output: Path | None, lines: Iterable[bytes]) -> None:
    """Write to stdout or a file; a closed pipe is a normal end. Raises CommandError."""
    if output is None and sys.stdout is None:
        raise CommandError("stdout is closed", Exit.FAILURE)
    try:
        if output is None or str(output) == "-":
            for line in lines:
                sys.stdout.buffer.write(line)
            sys.stdout.flush()
        else:
            with output.open("wb") as out:
                out.writelines(lines)
    except BrokenPipeError:
        return
    except OSError as failed:
        raise CommandError(f"can't write {output or 'stdout'}: {failed.strerror}", Exit.FAILURE) from failed


@contextmanager
def _progress(history: Past) -> Iterator[None]:
    """A bar on a terminal while the block reads; nothing elsewhere."""
    if sys.stderr is None or not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    done = threading.Event()
    columns = (TextColumn("reading"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)

        def watch() -> None:
            while not done.wait(_AGAIN_S):
                percent = history.progress()
                if percent >= 0:
                    bar.update(task, completed=percent, total=100)

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            done.set()
            watcher.join()
