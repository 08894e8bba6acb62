"""Find an event in a stream, and with it all that the stream says of how its process is known."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.history.lines import NoEventError, event_of
from tracer.integrity.read import Lines, UnreadableError
from tracer.report.fields import integer, text, value

__all__ = ["Beginning", "Context", "Found", "SourceError", "context", "search"]

_FOUND_MOST: Final = 20
_BEGINNINGS: Final = ("process-running", "process-forked", "process-executed")
# Bytes that a line has which may tell of processes or of the tracer itself, whatever its format.
_OF_USE: Final = tuple(word.encode() for word in (*_BEGINNINGS, "tracer-"))


class SourceError(Exception):
    """A file can't be read; the message says which, and why."""


class Found(NamedTuple):
    """An event in ECS, and where it is: the name of its file, and the number of its line from 1; 0 if it was given."""

    event: dict[str, Any]
    file: str
    line: int

    @property
    def run(self) -> str:
        """The run that wrote it."""
        return text(self.event, "agent.ephemeral_id")

    @property
    def sequence(self) -> int:
        """Its number, -1 if it has none."""
        found = integer(self.event, "event.sequence")
        return -1 if found is None else found


class Beginning(NamedTuple):
    """The first thing that the stream says of a process itself: its action, its number, and who began the process."""

    action: str
    sequence: int
    parent: str
    pid: int
    name: str
    executable: str
    start_ns: int | None


class Context:
    """What the stream says around an event: of its run's coverage and ledgers, and of the processes."""

    def __init__(self) -> None:
        self.lines = 0
        self.first_sequence = -1  # of the run's lines that are there
        self.coverage: dict[str, Any] | None = None
        self.before: dict[str, Any] | None = None  # the last ledger before the event
        self.after: dict[str, Any] | None = None  # the first one after it
        self.missing: list[dict[str, Any]] = []  # losses and gaps of whatever run, in order
        self.beginnings: dict[str, Beginning] = {}
        self.ran: Beginning | None = None  # the last program that the process ran before the event, or with it
        self.start_ns: int | None = None  # of the event's process


def _read(sources: Iterable[tuple[str, Path]], useful: Callable[[bytes], bool]) -> Iterator[tuple[str, int, bytes]]:
    """Name, number and bytes of each line that may be of use. Raises SourceError."""
    for name, path in sources:
        try:
            with closing(Lines(path)) as lines:
                for number, line in enumerate(lines, 1):
                    if useful(line):
                        yield name, number, line
        except UnreadableError as odd:
            raise SourceError(f"{name} {odd}") from odd


def search(sources: Iterable[tuple[str, Path]], sequence: int, run: str = "") -> list[Found]:
    """The events of that number, of that run if one is named: at most 20. Raises SourceError.

    ``sources`` are the names of files, to show, and their paths.
    """
    number = f'"sequence":{sequence}'.encode()
    ends = (number + b",", number + b"}")
    found: list[Found] = []
    for name, at, line in _read(sources, lambda line: ends[0] in line or ends[1] in line):
        try:
            one = Found(event_of(line), name, at)
        except NoEventError:
            continue
        if one.sequence == sequence and run in ("", one.run):
            found.append(one)
            if len(found) == _FOUND_MOST:
                break
    return found


def context(sources: Iterable[tuple[str, Path]], found: Found) -> Context:
    """What the stream says around an event. Raises SourceError."""
    made = Context()
    entity = text(found.event, "process.entity_id")
    own = entity.encode()

    def useful(line: bytes) -> bool:
        made.lines += 1
        return any(word in line for word in _OF_USE) or (bool(own) and own in line)

    for name, at, line in _read(sources, useful):
        try:
            _take(made, Found(event_of(line), name, at), found, entity)
        except NoEventError:
            continue
    if not made.lines:
        _take(made, found, found, entity)
    return made


def _take(made: Context, one: Found, found: Found, entity: str) -> None:
    action = text(one.event, "event.action")
    is_same_run = one.run == found.run
    if action in ("tracer-loss", "tracer-gap", "tracer-backend", "tracer-flood"):
        made.missing.append(one.event)
    elif action == "tracer-coverage" and is_same_run and (made.coverage is None or one.sequence <= found.sequence):
        made.coverage = one.event
    elif action == "tracer-ledger" and is_same_run:
        if one.sequence < found.sequence:
            made.before = one.event
        elif made.after is None:
            made.after = one.event
    if is_same_run and one.sequence >= 0 and (made.first_sequence < 0 or one.sequence < made.first_sequence):
        made.first_sequence = one.sequence
    _process(made, one, found, entity)


def _process(made: Context, one: Found, found: Found, entity: str) -> None:
    """Keep what an event says of the beginning of a process, or of the one that is looked for."""
    action, told = text(one.event, "event.action"), value(one.event, "process")
    of = text(told, "entity_id")
    start = integer(one.event, "tracer.process.start_ns")
    if of == entity and start is not None and made.start_ns is None:
        made.start_ns = start
    if not of or action not in _BEGINNINGS:
        return
    is_later = one.run == found.run and one.sequence > found.sequence
    if is_later:
        return
    beginning = Beginning(
        action,
        one.sequence,
        text(told, "parent.entity_id"),
        integer(told, "pid") or 0,
        text(told, "name"),
        text(told, "executable"),
        start,
    )
    made.beginnings.setdefault(of, beginning)
    if of == entity and action != "process-forked":
        made.ran = beginning
