"""The page for browsers: written at once, or for a process that is followed opened before and made at the end."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

import orjson

from tracer.cli.errors import CommandError, Exit
from tracer.report import html  # now: a confined process can load nothing
from tracer.sinks.output import OutputError, open_file

__all__ = ["Page", "write_page"]


def write_page(path: Path, bundle: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> None:
    """Write a page of these. Raises CommandError."""
    _write(path, _opened(path), bundle, events)


class Page:
    """A page that is made of what a session writes to its output, which is a file of JSON Lines."""

    def __init__(self, path: Path, output: Path) -> None:
        """Open both files, and empty them. Raises CommandError."""
        self._path = path
        try:
            os.close(open_file(output))  # so that there is one to read; the session opens it again
            self._lines = output.open("rb")
        except OutputError as error:
            raise CommandError(str(error), Exit.FAILURE) from error
        except OSError as failed:
            raise CommandError(f"can't read {output}: {failed.strerror}", Exit.FAILURE) from failed
        self._page = _opened(path)

    def make(self, bundle: Mapping[str, Any]) -> None:
        """Make the page. Raises CommandError."""
        with self._lines:
            _write(self._path, self._page, bundle, self._events())

    def _events(self) -> Iterator[Mapping[str, Any]]:
        for line in self._lines:
            if line.endswith(b"\n"):
                yield orjson.loads(line)


def _opened(path: Path) -> TextIO:
    """The file for a page: like an output it is for its owner and group. Raises CommandError."""
    try:
        return os.fdopen(open_file(path, option="--html"), "w", encoding="utf-8")
    except OutputError as error:
        raise CommandError(str(error), Exit.FAILURE) from error


def _write(path: Path, out: TextIO, bundle: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> None:
    try:
        with out:
            html.write(bundle, events, out)
    except OSError as failed:
        raise CommandError(f"can't write {path}: {failed.strerror}", Exit.FAILURE) from failed
