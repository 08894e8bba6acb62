"""What `tracer export` writes to: files that go on where an earlier run has stopped, and say what is missing."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from tracer.cli import facts
from tracer.cli.errors import CommandError, Exit
from tracer.cli.keeping import Keeping
from tracer.cli.outputs import Outputs
from tracer.cli.stream import Format, Stream
from tracer.cli.tell import tell
from tracer.pipeline.engine import Engine
from tracer.probes.source import boottime
from tracer.sinks.durable import Durable, Fsync
from tracer.sinks.place import done
from tracer.sinks.resume import look

if TYPE_CHECKING:
    from tracer.fallback.broker import Worker
    from tracer.integrity.chain import Chain

__all__ = ["Kept"]


class Kept(Outputs):
    """A file that is kept by an opener; ``fsync`` may be changed for the writing thread that there is."""

    def __init__(
        self, path: Path, keeping: Keeping, fsync: Fsync, *, chained: bool = False, sign: Path | None = None
    ) -> None:
        """``path`` is as of ``keeping``.

        ``chained``: files begin and end with records that prove them; with ``sign`` under that long-term key.
        """
        super().__init__(path, None, keeping)
        self._file = path
        self._keeping = keeping
        self._chained = chained
        self._sign = sign
        self._fsync = fsync
        self._sequence = 0
        self._durable: Durable | None = None

    def open(self, worker: Worker | None) -> tuple[int, str]:
        """As Outputs.open()."""
        again = worker is not None and worker.gap is not None
        if self._output is None or again:
            try:
                left = look(None if self._keeping.numbered else self._file, done(self._file))
            except OSError as failed:
                why = f"can't read what is in {self._file.parent}: {failed.strerror}"
                raise CommandError(f"{why}; name another directory with --output", Exit.FAILURE) from failed
            self._sequence = left.following
            self._gap = None
            if left.following and not again:  # of a worker before the session itself says what is missing
                self._gap = {
                    "reason": "stopped" if left.ended else "killed",
                    "exact": left.ended,
                    "first": left.time,
                    "sequence": left.following - 1,
                }
                if left.boot and left.boot != facts.boot_id():
                    self._gap["reboot"] = True
            self._output = self._keeping.begin(left), self._keeping.name
        return self._output

    def stream(self, engine: Engine, form: Format, fd: int, name: str) -> Stream:
        """As Outputs.stream()."""
        size = os.lseek(fd, 0, os.SEEK_END)
        chain = self._chain() if self._chained else None
        self._durable = Durable(fd, name, tell, boottime, fsync=self._fsync, chain=chain)
        self._keeping.follows(self._durable, size)
        return Stream(engine, form, fd, name, output=self._durable, sequence=self._sequence, chain=chain)

    def _chain(self) -> Chain:
        """What proves the files of this session, from where the newest of them ends. Raises CommandError."""
        from tracer.integrity.chain import Chain
        from tracer.integrity.read import UnreadableError
        from tracer.integrity.tail import tail_of

        after = None
        written = [] if self._keeping.numbered else [self._file]
        for path in (*written, *reversed(done(self._file))):
            try:
                after = tail_of(path)
                if after is None and not path.stat().st_size:
                    continue  # it was made just now
            except (OSError, UnreadableError) as why:
                tell(f"a new chain begins, as nothing can follow {path}: {why}")
            break
        if self._sign is None:
            return Chain(after)
        from tracer.integrity.keys import KeyFileError

        try:
            return Chain(after, self._sign)
        except (KeyFileError, OSError) as refused:
            raise CommandError(f"--sign: {refused}", Exit.FAILURE) from refused

    @property
    def fsync(self) -> Fsync:
        """When what was written is synced."""
        return self._fsync

    @fsync.setter
    def fsync(self, wanted: Fsync) -> None:
        self._fsync = wanted
        if self._durable is not None:
            self._durable.fsync = wanted
