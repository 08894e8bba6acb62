"""`tracer explain`: how the process of an event is known, from the stream alone."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import orjson

from tracer.cli.errors import CommandError, Exit
from tracer.cli.past import files
from tracer.formats.text import visible, wrapped
from tracer.history.explain import Explanation, explain
from tracer.history.gather import Context, Found, SourceError, context, search
from tracer.history.lines import NoEventError, event_of
from tracer.report.fields import text

__all__ = ["command"]

_DEFAULT: Final = Path("/var/log/tracer")
_NUMBER: Final = re.compile(r"(?:(?P<run>[^\s{}]{1,64}):)?(?P<sequence>[0-9]{1,18})")
_LABEL: Final = 11


def command(asked: str, sources: Sequence[Path], *, json: bool) -> Exit:
    """Explain the event of that number, or the line that is given. Raises CommandError."""
    try:
        with _opened(sources or ([] if asked.lstrip().startswith("{") else [_DEFAULT])) as opened:
            found = _found(asked, opened)
            around = context(opened, found) if opened else _alone(found)
    except SourceError as odd:
        raise CommandError(str(odd), Exit.FAILURE) from odd
    told = explain(found, around)
    _say(orjson.dumps(_as_json(told)).decode() if json else "\n".join(_lines(told)))
    return Exit.OK


def _alone(found: Found) -> Context:
    return context([], found)


@contextmanager
def _opened(sources: Sequence[Path]) -> Iterator[list[tuple[str, Path]]]:
    """The files by the names to show; what comes from stdin is kept in a file meanwhile, as it is read twice."""
    if [str(source) for source in sources].count("-") > 1:
        raise CommandError("--from -: stdin can be read once", Exit.USAGE)
    with tempfile.TemporaryDirectory() as directory:
        made: list[tuple[str, Path]] = []
        for source in sources:
            if str(source) != "-":
                made += [(str(path), path) for path in files([source])]
                continue
            if sys.stdin is None:
                raise CommandError("--from -: stdin is closed", Exit.FAILURE)
            kept = Path(directory, "stdin")
            try:
                with kept.open("wb") as out:
                    shutil.copyfileobj(sys.stdin.buffer, out)
            except OSError as failed:
                raise CommandError(f"can't keep what stdin gives: {failed.strerror}", Exit.FAILURE) from failed
            made.append(("stdin", kept))
        yield made


def _found(asked: str, opened: Sequence[tuple[str, Path]]) -> Found:
    """The event that is meant. Raises CommandError and SourceError."""
    if asked.lstrip().startswith("{"):
        try:
            given = Found(event_of(asked.strip()), "", 0)
        except NoEventError as odd:
            raise CommandError(f"this line can't be explained: {odd}", Exit.USAGE) from odd
        if not opened:
            return given
        same = [each for each in search(opened, given.sequence, given.run) if each.event == given.event]
        if not same:
            raise CommandError("this line is not in these files: name others by --from, or none", Exit.FAILURE)
        return same[0]
    number = _NUMBER.fullmatch(asked)
    if number is None:
        raise CommandError(
            f"{asked[:80]!r}: give an event's number (event.sequence), RUN:NUMBER, or a whole line of JSON", Exit.USAGE
        )
    found = search(opened, int(number["sequence"]), number["run"] or "")
    if not found:
        raise CommandError(f"no event {asked} in {_named(opened)}", Exit.FAILURE)
    runs = {each.run: each for each in found}
    if len(runs) > 1:
        told = ", ".join(f"{run}:{each.sequence} ({text(each.event, '@timestamp')})" for run, each in runs.items())
        raise CommandError(f"several runs have an event {asked}, name one: {told}", Exit.USAGE)
    return found[0]


def _named(opened: Sequence[tuple[str, Path]]) -> str:
    return opened[0][0] if len(opened) == 1 else f"{len(opened):,} files"


def _lines(told: Explanation) -> Iterator[str]:
    """What a person reads: a label, what it says, and which event says so."""
    where = f", {told.event['file']} line {told.event['line']:,}" if "file" in told.event else ""
    yield visible(f"event {told.event['sequence']} of run {told.event['run']}, {told.event['time']}{where}")
    for link in told.chain:
        said = f" [event {link.sequence}]" if link.sequence is not None else ""
        yield from wrapped(f"{link.says}{said}", f"{link.about:<{_LABEL}}", " " * _LABEL)
    for doubt in told.doubts:
        yield from wrapped(doubt, f"{'but':<{_LABEL}}", " " * _LABEL)
    if told.process is not None:
        verdict = "the kernel said whose it is, and nothing in the stream speaks against it"
        yield from wrapped(verdict if told.sure else "see above", f"{'so':<{_LABEL}}", " " * _LABEL)


def _as_json(told: Explanation) -> dict[str, Any]:
    return {
        "event": told.event,
        **({"process": told.process} if told.process is not None else {}),
        "chain": [
            {
                "about": link.about,
                "says": link.says,
                **({"sequence": link.sequence} if link.sequence is not None else {}),
            }
            for link in told.chain
        ],
        "doubts": told.doubts,
        "sure": told.sure,
    }


def _say(content: str) -> None:
    if sys.stdout is None:
        raise CommandError("stdout is closed", Exit.FAILURE)
    try:
        sys.stdout.write(f"{content}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return  # a normal end
    except OSError as error:
        raise CommandError(f"can't write stdout: {error.strerror}", Exit.FAILURE) from error
