"""Find a process of the past, its tree and all that it did in the files of `tracer export`: DuckDB does the reading."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self

import orjson

from tracer.history.lines import NoEventError, event_of
from tracer.integrity.read import Lines, UnreadableError

if TYPE_CHECKING:
    import duckdb

__all__ = ["Known", "Past", "PastError", "Wanted"]

_MEMORY: Final = "2GB"
_LINE_MOST: Final = 40_000  # bytes: a line of ours has at most 32,000
_FETCH: Final = 1_000
_CONTAINED: Final = 2
_GZIP: Final = b"\x1f\x8b"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_MISSING: Final = "pip install 'tracer[past]'"

# Where each format has what the table of processes is made of. The order is that of _Column.
_PATHS: Final = {
    "ecs": (
        "$.process.entity_id",
        "$.process.parent.entity_id",
        "$.process.pid",
        "$.process.executable",
        "$.process.start",
        '$."@timestamp"',
        "$.event.action",
        "$.process.name",
        "$.process.parent.pid",
        "$.process.parent.name",
        "$.process.parent.executable",
    ),
    "ocsf": (
        "$.actor.process.uid",
        "$.actor.process.parent_process.uid",
        "$.actor.process.pid",
        "$.actor.process.file.path",
        "$.actor.process.created_time_dt",
        "$.time_dt",
        "$.metadata.event_code",
        "$.actor.process.name",
        "$.actor.process.parent_process.pid",
        "$.actor.process.parent_process.name",
        "$.actor.process.parent_process.file.path",
    ),
}
_COLUMNS: Final = (
    "entity",
    "parent",
    "pid",
    "executable",
    "start",
    "time",
    "action",
    "name",
    "parent_pid",
    "parent_name",
    "parent_executable",
)
# What OCSF has in the event's own process, where there is one, and not in who acts.
_ACTOR: Final = "$.actor.process"
_OWN: Final = ("$.process", "$.unmapped.process")
_TOLD: Final = ("tracer-loss", "tracer-gap", "tracer-backend", "tracer-flood", "tracer-bundle")


class PastError(Exception):
    """The files can't be read, or what reads them is missing; the message says why, and the fix."""


class _NoJsonError(Exception):
    """A line is no JSON."""


class Wanted(NamedTuple):
    """Which process: by its entity id, by pid, by the path of what it ran; ``at`` a time as lines have it, or empty."""

    pid: int | None = None
    entity: str = ""
    executable: str = ""
    at: str = ""


class Known(NamedTuple):
    """A process that the files tell of; times are as in the lines, of its start (or empty) and of its events."""

    entity: str
    parent: str
    pid: int
    executable: str
    start: str
    first: str
    last: str
    name: str
    ended: bool


class Extent(NamedTuple):
    """What the files hold: how many lines, how many of them that are no events, and their first and last time."""

    files: int
    lines: int
    unreadable: int
    first: str
    last: str


class _Part(NamedTuple):
    """Files of one format that are compressed in the same way."""

    form: str
    packed: str
    paths: list[str]


class Past:
    """Files of events, oldest first. They are kept open, so it does no harm if they are rotated meanwhile."""

    def __init__(self, files: Sequence[Path], threads: int | None = None) -> None:
        """Open them; ``threads`` is how many DuckDB may use, by default one for each CPU. Raises PastError."""
        self._db = _connection()
        self._open: list[Lines] = []
        self._count = len(files)
        try:
            self._parts = self._arranged(files)
            allowed = [path for part in self._parts for path in part.paths]
            for name, value in (("memory_limit", _MEMORY), ("threads", threads), ("allowed_paths", allowed)):
                if value is not None:
                    self._db.execute(f"SET {name} = {_literal(value)}")
            # It reads these files and nothing else, writes none, and can't be told otherwise.
            for setting in ("enable_external_access = false", "lock_configuration = true"):
                self._db.execute(f"SET {setting}")
        except BaseException:
            self.close()
            raise
        self._known = False
        self._asked = ""  # the path that the table knows who ran it
        self._whole = True  # as far as is known, all lines are JSON

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the files. Idempotent."""
        self._db.close()
        while self._open:
            self._open.pop().close()

    def progress(self) -> float:
        """How much of the reading that goes on in another thread is done: percent, less than 0 if it isn't known."""
        return float(self._db.query_progress())

    def _arranged(self, files: Sequence[Path]) -> list[_Part]:
        """The files by format and compression, in the order of the first of each. Raises PastError."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if len(files) + 64 > soft:
            with suppress(ValueError, OSError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        parts: dict[tuple[str, str], _Part] = {}
        for path in files:
            try:
                lines = Lines(path)
                self._open.append(lines)
                if lines.size == 0:
                    continue
                form = _format(lines)
            except (UnreadableError, NoEventError) as odd:
                raise PastError(f"{path} {odd}") from odd
            packed = _packing(lines.fileno())
            part = parts.setdefault((form, packed), _Part(form, packed, []))
            part.paths.append(f"/proc/self/fd/{lines.fileno()}")
        if not parts:
            raise PastError("there is no line in these files")
        return list(parts.values())

    def extent(self) -> Extent:
        """What the files hold. Raises PastError."""
        self._read()
        row = self._one(
            "SELECT sum(lines), sum(lines) FILTER (entity IS NULL AND first IS NULL), min(first), max(last) FROM known"
        )
        # A line can be wrong in two ways.
        refused = int(self._one("SELECT count(*) FROM (SELECT DISTINCT scan_id, file_id, line FROM reject_errors)")[0])
        return Extent(self._count, int(row[0] or 0) + refused, int(row[1] or 0) + refused, row[2] or "", row[3] or "")

    def find(self, wanted: Wanted) -> list[Known]:
        """The processes that fit, by their start; with a time only those that were there then. Raises PastError."""
        self._read(wanted.executable)
        pid = None if wanted.pid is None else str(wanted.pid)
        rows = self._all(
            "SELECT entity, parent, pid, executable, start, first, last, name, ended FROM known "
            "WHERE entity IS NOT NULL AND coalesce(entity = $1, true) AND coalesce(pid = $2, true) "
            "AND ($3 = '' OR ran) AND ($4 = '' OR (begun <= $4 AND (NOT ended OR last >= $4))) ORDER BY begun, entity",
            [wanted.entity or None, pid, wanted.executable, wanted.at],
        )
        found = [_known(row) for row in rows]
        if wanted.at and wanted.pid is not None:
            return found[-1:]  # a pid is one process's at a time: the others must have ended unseen
        if wanted.executable:
            ran = {each.entity for each in found}
            return [each for each in found if each.parent not in ran]  # those that it began are in its tree
        return found

    def tree(self, root: str) -> list[str]:
        """The entity ids of a process and all that came from it. Raises PastError."""
        self._read()
        rows = self._all(
            "WITH RECURSIVE below(entity) AS (SELECT ? UNION SELECT known.entity FROM known JOIN below "
            "ON known.parent = below.entity) SELECT entity FROM below WHERE entity IS NOT NULL",
            [root],
        )
        return [row[0] for row in rows]

    def above(self, root: str) -> list[dict[str, Any]]:
        """Its parent, the parent of that, and so on as far as the files tell: as `lineage` of a bundle is."""
        self._read()
        made: list[dict[str, Any]] = []
        seen = {root}
        row = self._row(root)
        while row is not None and row["parent"] and row["parent"] not in seen:
            seen.add(row["parent"])
            above = self._row(row["parent"])
            found = {
                "pid": _number(row["parent_pid"]),
                "entity_id": row["parent"],
                "start": above and above["start"],
                "name": (above and above["name"]) or row["parent_name"],
                "executable": (above and above["executable"]) or row["parent_executable"],
            }
            made.append({name: value for name, value in found.items() if value})
            row = above
        return made

    def events(self, entities: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The events of these processes as ECS has them, in the order of the files, and what is told of losses.

        Raises PastError.
        """
        self._read()
        for row in self._all("SELECT unnest(told) FROM known WHERE told IS NOT NULL", []):
            yield event_of(row[0])
        for part in self._parts:
            # To look for one or two texts costs less than to take each line apart.
            few = len(entities) <= _CONTAINED
            narrowed = " OR ".join(["contains(line, ?)"] * len(entities)) if few else "true"
            fields = ", ".join(_fields(part.form, self._whole)[:1])
            inner = f"SELECT line, {fields} FROM {_lines(part)} WHERE {narrowed}"  # noqa: S608 - all of it is ours
            query = f"SELECT line FROM ({inner}) WHERE entity IN (SELECT unnest(?))"  # noqa: S608 - as above
            for row in self._some(query, [*(entities if few else ()), list(entities)]):
                with suppress(NoEventError):
                    yield event_of(row[0])

    def _read(self, executable: str = "") -> None:
        """Make the table of processes. Raises PastError."""
        if self._known and executable in ("", self._asked):
            return
        self._asked = executable
        try:
            self._make(executable)
        except _NoJsonError:
            self._whole = False
            self._make(executable)
        self._known = True

    def _make(self, executable: str) -> None:
        """Make the table of processes. Raises PastError, and _NoJsonError where a line is no JSON but all should be."""
        selects = [
            f"SELECT line, {', '.join(_fields(part.form, self._whole))} FROM {_lines(part, counted=True)}"  # noqa: S608 - ours
            for part in self._parts
        ]
        for kept in ("reject_errors", "reject_scans"):
            self._all(f"DROP TABLE IF EXISTS {kept}", [])
        columns = (
            "any_value(parent) AS parent, any_value(pid) AS pid, any_value(executable) AS executable, "
            "any_value(start) AS start, min(time) AS first, max(time) AS last, any_value(name) AS name, "
            "coalesce(any_value(start), min(time)) AS begun, bool_or(action = 'process-exited') AS ended, "
            "bool_or(executable = ?) AS ran, count(*) AS lines, any_value(parent_pid) AS parent_pid, "
            "any_value(parent_name) AS parent_name, any_value(parent_executable) AS parent_executable, "
            f"list(line) FILTER (action IN ({_literal(list(_TOLD))[1:-1]})) AS told"
        )
        self._all(
            f"CREATE OR REPLACE TEMP TABLE known AS SELECT entity, {columns} "  # noqa: S608 - as above
            f"FROM ({' UNION ALL '.join(selects)}) GROUP BY entity, entity IS NULL AND time IS NULL",
            [executable],
        )

    def _row(self, entity: str) -> dict[str, Any] | None:
        names = ("parent", "start", "name", "executable", "parent_pid", "parent_name", "parent_executable")
        rows = self._all(f"SELECT {', '.join(names)} FROM known WHERE entity = ?", [entity])  # noqa: S608
        return dict(zip(names, rows[0], strict=True)) if rows else None

    def _one(self, query: str) -> tuple[Any, ...]:
        return self._all(query, [])[0]

    def _all(self, query: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        return list(self._some(query, values))

    def _some(self, query: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, a few at a time. Raises PastError."""
        import duckdb

        try:
            result = self._db.execute(query, values)
            while rows := result.fetchmany(_FETCH):
                yield from rows
        except duckdb.InvalidInputException as odd:
            if self._whole:
                raise _NoJsonError from odd
            raise PastError(f"the files can't be read: {str(odd).splitlines()[0]}") from odd
        except duckdb.OutOfMemoryException as full:
            raise PastError(f"these files need more memory than {_MEMORY}: name fewer of them") from full
        except duckdb.Error as failed:
            raise PastError(f"the files can't be read: {str(failed).splitlines()[0]}") from failed


def _known(row: tuple[Any, ...]) -> Known:
    entity, parent, pid, executable, start, first, last, name, ended = row
    return Known(
        entity,
        parent or "",
        _number(pid),
        executable or "",
        start or "",
        first or "",
        last or "",
        name or "",
        bool(ended),
    )


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdecimal() else 0


def _connection() -> duckdb.DuckDBPyConnection:
    """A database in memory that fetches and loads nothing. Raises PastError."""
    try:
        import duckdb
    except ImportError as missing:
        raise PastError(f"DuckDB reads these files, and it is not installed ({missing}): {_MISSING}") from missing
    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "temp_directory": "",
    }
    made = duckdb.connect(":memory:", config=settings)
    made.execute("SET enable_progress_bar = true")
    made.execute("SET enable_progress_bar_print = false")
    return made


def _lines(part: _Part, *, counted: bool = False) -> str:
    """What gives the lines of these files one by one: as CSV of one column, with a delimiter that JSON can't have.

    Lines that are no UTF-8 or far too long are left out; if they are to be ``counted`` they are in `reject_errors`.
    """
    return (
        f"read_csv({_literal(part.paths)}, columns = {{'line': 'VARCHAR'}}, delim = '\x1f', quote = '', escape = '', "
        f"header = false, auto_detect = false, max_line_size = {_LINE_MOST}, strict_mode = false, "
        f"null_padding = false, ignore_errors = true, store_rejects = {str(counted).lower()}, "
        f"compression = '{part.packed}')"
    )


def _fields(form: str, whole: bool) -> list[str]:
    """The columns of _COLUMNS out of a line; all NULL where it is no JSON, unless they are all ``whole``."""
    paths = [*_PATHS[form]]
    # Whose event it is stands in `process` or `unmapped.process` where something happens to a process itself.
    owned = [tuple(path.replace(_ACTOR, own) for own in _OWN) if path.startswith(_ACTOR) else () for path in paths]
    every = [*paths, *(path for each in owned for path in each)]
    at = {path: number for number, path in enumerate(every, 1)}
    extracted = f"json_extract_string(line, {_literal(every)})"
    taken = extracted if whole else f"TRY({extracted})"
    made = []
    for path, own, name in zip(paths, owned, _COLUMNS, strict=True):
        chosen = f"{taken}[{at[path]}]"
        for other, uid in zip(own[::-1], owned[0][::-1], strict=bool(own)):
            chosen = f"CASE WHEN {taken}[{at[uid]}] IS NOT NULL THEN {taken}[{at[other]}] ELSE {chosen} END"
        made.append(f"{chosen} AS {name}")
    return made


def _literal(value: object) -> str:
    """A value in SQL."""
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, int):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def _format(lines: Lines) -> str:
    """ecs or ocsf, by the first line. Raises UnreadableError and NoEventError."""
    first = next(iter(lines), None)
    if first is None:
        return "ecs"
    event_of(first)
    return "ecs" if "event" in orjson.loads(first) else "ocsf"


def _packing(fd: int) -> str:
    begin = os.pread(fd, 4, 0)
    return "gzip" if begin.startswith(_GZIP) else "zstd" if begin.startswith(_ZSTD) else "none"
