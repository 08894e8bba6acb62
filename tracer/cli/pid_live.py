"""Follow the tree of a process that was looked at: a session of `tracer live` with the bundle in front of it."""

from __future__ import annotations

from tracer.cli.absent import lives
from tracer.cli.ahead import Ahead
from tracer.cli.asked import Options
from tracer.cli.errors import Exit
from tracer.cli.live import Live
from tracer.cli.pid import Look, write
from tracer.cli.rotation import Rotation
from tracer.cli.stream import Stream
from tracer.cli.tell import tell
from tracer.pipeline.engine import Engine
from tracer.probes.source import Coverage, Source

__all__ = ["Followed"]


class Followed(Live):
    """Begins with what was found of a process, and ends at once if by then there is nobody to follow."""

    def __init__(self, options: Options, found: Look, rotation: Rotation | None, ahead: Ahead | None) -> None:
        """``found`` is let go of when the probes are attached."""
        super().__init__(options, rotation, ahead=ahead)
        self._looked = found

    def _tell_absent(self) -> None:
        """Nothing: descendants that have ended meanwhile are no slip of whoever typed this."""

    def _session(self, source: Source, coverage: Coverage, steps: dict[str, str]) -> Exit:
        if self._options.format != "ecs" and self._options.output is not None and not self._goes_on():
            fd, name = self._outputs.open(self._worker)
            write(fd, name, self._looked.page(fd))
        return super()._session(source, coverage, steps)

    def _goes_on(self) -> bool:
        """Whether this is a fresh worker, behind one that has told of the process."""
        return self._worker is not None and self._worker.gap is not None

    def _opens(self, engine: Engine, stream: Stream, offset: int) -> None:
        if self._options.format == "ecs" and not self._goes_on():
            engine.offset = offset
            stream.show([self._looked.notice])
        if self._looked.process.ended() and not any(map(lives, self._looked.pids)):
            tell(f"process {self._looked.process.pid} has ended: there is nothing to follow")
            self._ending = True
        self._looked.process.close()
