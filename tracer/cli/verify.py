"""`tracer verify`: prove from files alone that nothing is missing or changed, or name the first bad place."""

from __future__ import annotations

import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from tracer.cli.errors import CommandError, Exit
from tracer.cli.mode import Mode
from tracer.cli.sandbox import confine_reader
from tracer.cli.tell import tell
from tracer.confine.reader import reader_plan
from tracer.formats.text import visible
from tracer.integrity.files import listed
from tracer.integrity.head import Head, HeadError
from tracer.integrity.verify import Report, Verifier, as_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import Progress

__all__ = ["keygen", "verify"]

_TRIES: Final = 5
_AGAIN_S: Final = 0.2
_FILES: Final = ("file", "files")


def keygen(file: Path) -> int:
    """Make a long-term key; tells the public one's file and digits on stdout. Raises CommandError."""
    from tracer.integrity.keys import KeyFileError, make_keys, read_public

    try:
        public = make_keys(file)
        digits = read_public(public).hex()
    except KeyFileError as error:
        raise CommandError(str(error), Exit.FAILURE) from error
    _say([f"private key: {file} (keep it: who has it can sign)", f"public key:  {public} ({digits})"])
    return Exit.OK


def verify(
    files: Sequence[Path],
    *,
    keys: Sequence[Path],
    expect_head: Path | None,
    write_head: Path | None,
    json: bool,
    mode: Mode = Mode.BEST,
) -> int:
    """Verify the stream in these files and directories; the exit code. Raises CommandError.

    This process is confined for ever, as ``mode`` says, before it reads anything of the stream.
    """
    trusted, expect = _trusted(keys), _head(expect_head)
    _confine(mode, files, write_head)
    tries = 0
    while True:
        paths = _paths(files)
        with _progress() as progress:
            report = Verifier(trusted, expect, progress).run([path for path, _ in paths])
        tries += 1
        if report.right or tries == _TRIES or paths == _paths(files):
            break
        time.sleep(_AGAIN_S)  # it was being written, and may have been rotated meanwhile
    if write_head is not None and report.right:
        if report.head is None:
            raise CommandError("--write-head: these files have no chain, and so no head", Exit.FAILURE)
        try:
            report.head.save(write_head)
        except HeadError as error:
            raise CommandError(str(error), Exit.FAILURE) from error
    if json:
        import orjson

        _say([orjson.dumps(as_json(report)).decode()])
    else:
        _say(_told(report, signed_by=bool(trusted)))
    return Exit.OK if report.right else Exit.FAILURE


def _confine(mode: Mode, files: Sequence[Path], write_head: Path | None) -> None:
    """Leave this process to read in the directories of these files, and to write in that of the head."""
    _load()
    directories = [path if path.is_dir() else path.parent for path in files]
    confine_reader(mode, reader_plan(directories, None if write_head is None else write_head.parent), tell)


def _load() -> None:
    """Import what may be needed: nothing can be, later."""
    import tracer.integrity.keys  # noqa: F401

    with suppress(ImportError):  # that it is missing is told where it is needed
        import zstandard  # noqa: F401
    if _has_terminal():
        with _bar(io.StringIO()) as bar:
            bar.update(bar.add_task("", total=1), completed=1)


def _trusted(keys: Sequence[Path]) -> list[bytes]:
    if not keys:
        return []
    from tracer.integrity.keys import KeyFileError, read_public

    try:
        return [read_public(path) for path in keys]
    except KeyFileError as error:
        raise CommandError(f"--key: {error}", Exit.USAGE) from error


def _head(path: Path | None) -> Head | None:
    if path is None:
        return None
    try:
        return Head.load(path)
    except HeadError as error:
        raise CommandError(f"--expect-head: {error}", Exit.USAGE) from error


def _paths(files: Sequence[Path]) -> list[tuple[Path, tuple[int, int]]]:
    """The files to read, and what shows that one is another or has grown. Raises CommandError."""
    found: list[Path] = []
    for path in files:
        if not path.is_dir():
            found.append(path)
            continue
        try:
            names = listed(path)
        except OSError as refused:
            raise CommandError(f"can't read {path}: {refused.strerror}", Exit.USAGE) from refused
        if not names:
            raise CommandError(f"{path} has no events-*.jsonl: name the files themselves", Exit.USAGE)
        found += names
    return [(path, _state(path)) for path in found]


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.lstat()
    except OSError:
        return 0, 0  # that it is not there is told as what is wrong
    return found.st_ino, found.st_size


def _told(report: Report, *, signed_by: bool) -> list[str]:
    lines = []
    if report.lines:
        lost = ", ".join(f"{count:,} at {stage}" for stage, count in sorted(report.lost.items()))
        lines = [
            f"{report.files:,} {_FILES[report.files != 1]}, {report.lines:,} lines, {report.size:,} bytes",
            f"sequence: {report.first:,} to {report.last:,}",
            _of_sessions(report),
            f"losses, as told: {lost or 'none'}",
        ]
        if report.gaps:
            lines.append(f"gaps, as told: {report.gaps:,}, of which nobody knows how much is missing")
        lines += _of_chain(report, signed_by=signed_by)
    if report.bad is None:
        return [*lines, "ok" if report.lines else "there is no line in it"]
    bad = report.bad
    if report.lines:
        lines[0] = f"up to the bad place: {lines[0]}"
    where = bad.file + (f", line {bad.line:,}" if bad.line else "") + (f", byte {bad.byte:,}" if bad.byte >= 0 else "")
    return [*lines, f"BAD: {where}: {report.what}"]


def _of_sessions(report: Report) -> str:
    open_ended = report.open_ended
    killed = f", {open_ended:,} of them without a last ledger: what they had in flight at the end is not known"
    whole = "complete by all ledgers" if report.complete else "complete by their ledgers: no"
    end = "" if report.ended else "; the last one has no last ledger yet"
    return f"sessions: {report.sessions:,}{killed if open_ended else ''}; {whole}{end}"


def _of_chain(report: Report, *, signed_by: bool) -> Iterator[str]:
    if not report.segments:
        yield "chain: none; not provable: that no line was changed, that none was removed at the beginning or the end"
        return
    first, last = report.segments[0], report.segments[-1]
    before = "" if first == 0 else "; what was before is not here"
    yield f"chain: segments {first:,} to {last:,}, {report.sealed:,} sealed, {report.signed:,} signed{before}"
    if report.keys:
        who = "the key given" if signed_by else "not compared with yours: give it by --key"
        yield f"certified by: {', '.join(report.keys)} ({who})"
    if last in report.unsealed:
        yield f"segment {last:,} is not sealed yet: not provable that no line of it was changed"
    inner = [number for number in report.unsealed if number != last]
    if inner:
        yield f"not ended by their sessions, sealed by the next: segments {', '.join(map(str, inner))}"
    if report.tail:
        yield "end: all that the head tells of is there"
    else:
        yield "end: not provable that none was removed: give a head by --expect-head"


def _say(lines: Sequence[str] | Iterator[str]) -> None:
    if sys.stdout is None:
        raise CommandError("stdout is closed", Exit.FAILURE)
    try:
        for line in lines:
            sys.stdout.write(f"{visible(line)}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        return  # a normal end
    except OSError as error:
        raise CommandError(f"can't write stdout: {error.strerror}", Exit.FAILURE) from error


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal; nothing elsewhere."""
    if not _has_terminal():
        yield lambda _done, _all: None
        return
    with _bar(None) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, whole: bar.update(task, completed=done, total=whole)


def _has_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _bar(file: IO[str] | None) -> Progress:
    """A bar on stderr, or in this file, and without a thread then."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    console = Console(stderr=True) if file is None else Console(file=file, force_terminal=True)
    return Progress(*columns, console=console, transient=True, auto_refresh=file is None)
