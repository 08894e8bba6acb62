"""What a command writes to: the output and the recording, opened once for all its sessions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tracer.cli.errors import CommandError, Exit
from tracer.cli.recording import Recording
from tracer.cli.rotation import Rotation
from tracer.cli.stream import Format, Stream, begin_line, open_output
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import Input

if TYPE_CHECKING:
    from tracer.fallback.broker import Worker

__all__ = ["Outputs"]


class Outputs:
    """An output, and a recording if one is wanted."""

    def __init__(self, output: Path | None, record: Path | None, rotation: Rotation) -> None:
        """Nothing is opened before open()."""
        self._path = output
        self._record = record
        self._rotation = rotation
        self._output: tuple[int, str] | None = None
        self._recording: Recording | None = None
        self._gap: dict[str, Any] | None = None  # since an earlier run, from ``first``, ns of the wall clock

    @property
    def files(self) -> list[Path]:
        """The files among them."""
        return [path for path in (self._path, self._record) if path is not None and str(path) != "-"]

    def open(self, worker: Worker | None) -> tuple[int, str]:
        """The output's descriptor and name; a fresh worker goes on where the one before has stopped.

        Raises CommandError.
        """
        gap = None if worker is None else worker.gap
        if self._output is not None:
            if gap is not None and gap.killed:
                begin_line(*self._output, self._path)
        elif gap is not None and (again := self._rotation.again()) is not None:
            self._output = again, str(self._path)
        else:
            self._output = self._open()
        if gap is not None and gap.killed and self._recording is not None:
            self._recording.mend()
        return self._output

    def _open(self) -> tuple[int, str]:
        if self._path is not None and self._record is not None and _same(self._path, self._record):
            raise CommandError(f"--output and --record both name {self._record}: give them two files", Exit.USAGE)
        output = open_output(self._path)
        self._rotation.writes(output[0])
        if self._record is not None:
            self._recording = Recording(self._record)
        return output

    def stream(self, engine: Engine, form: Format, fd: int, name: str) -> Stream:
        """What carries a session's events there; nothing is written before its start()."""
        return Stream(engine, form, fd, name, started=False)

    def blind(self, seen: int, offset: int) -> dict[str, Any] | None:
        """What is missing between an earlier run and this, which sees everything since ``seen`` (boottime ns).

        ``offset`` is wall clock minus CLOCK_BOOTTIME, ns.
        """
        return None if self._gap is None else {**self._gap, "first": self._gap["first"] - offset, "last": seen}

    def let_go(self) -> None:
        """In a broker: its worker has the output, and a fresh one gets what is in its place then."""
        if self._rotation.pids and self._output is not None:
            os.close(self._output[0])
            self._output = None

    def record(self, item: Input) -> None:
        """Record an input, if that is wanted. Raises CommandError."""
        if self._recording is not None:
            self._recording.add(item)

    def close(self) -> None:
        """Close the recording; the output ends with the process."""
        if self._recording is not None:
            self._recording.close()


def _same(one: Path, other: Path) -> bool:
    return one.absolute() == other.absolute() or (one.exists() and other.exists() and one.samefile(other))
