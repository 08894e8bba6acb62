"""`tracer export`: the agent that runs for months and writes files that a SIEM can rely on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.cli import options
from tracer.cli.errors import CommandError, Exit
from tracer.cli.keeping import Keeping, Limits
from tracer.cli.kept import Kept
from tracer.cli.live import Live
from tracer.cli.session import Options
from tracer.cli.tell import tell
from tracer.sinks.durable import Fsync

if TYPE_CHECKING:
    from tracer.cli.reload import Reload

__all__ = ["NAME", "Export", "Files", "files", "fsync", "limits", "place"]

NAME: Final = "events.jsonl"
"""What is written now, in a directory."""
_SIZE_LEAST: Final = 64 << 10
_KEEP_MOST: Final = 1_000_000


@dataclass
class Files:
    """How the files are kept."""

    limits: Limits = field(default_factory=Limits)
    fsync: Fsync = Fsync.ROTATE
    config: Path | None = None


def place(output: str) -> Path:
    """The file that is written now: in the directory ``output``, or that file. Raises CommandError.

    What is not there yet is a file if its name has a suffix such as .jsonl, and no slash at its end.
    """
    path = Path(output)
    if output == "-" or not output:
        raise CommandError("--output: export writes files; for stdout there is tracer live --json", Exit.USAGE)
    if path.is_dir() or output.endswith("/") or not (path.suffix or path.exists()):
        return path.absolute() / NAME
    if path.exists() and not path.is_file():
        raise CommandError(f"--output {output!r}: no file and no directory; give one of them", Exit.USAGE)
    return path.absolute()


def files(typed: Mapping[str, Any]) -> Files:
    """How the files are kept, from the parameters of the command. Raises CommandError."""
    config = typed["config"]
    return Files(limits(typed), fsync(typed["fsync"]), None if config is None else Path(config))


def limits(typed: Mapping[str, Any]) -> Limits:
    """When files are done, and what becomes of them. Raises CommandError."""
    size, age = typed["rotate_size"], typed["rotate_age"]
    return Limits(
        size=0 if size == "0" else options.size("--rotate-size", size, _SIZE_LEAST, 1 << 40),
        age=0.0 if age == "0" else options.duration("--rotate-age", age),
        keep=_keep(typed["keep"]),
        compress=_compress(typed["compress"]),
    )


def fsync(text: str) -> Fsync:
    """When what was written is synced. Raises CommandError."""
    if text not in list(Fsync):
        raise CommandError(f"--fsync {text!r}: give one of {', '.join(Fsync)}", Exit.USAGE)
    return Fsync(text)


def _keep(text: str) -> int:
    if not text.isdecimal() or int(text[:10]) > _KEEP_MOST:
        raise CommandError(f"--keep {text!r}: give a number of files up to {_KEEP_MOST:,}, 0 for all", Exit.USAGE)
    return int(text)


def _compress(text: str) -> bool:
    if text == "zstd":
        raise CommandError(
            "--compress zstd: Python has it from 3.14 on, and this does not use it yet; give gzip", Exit.USAGE
        )
    if text not in {"none", "gzip"}:
        raise CommandError(f"--compress {text!r}: give none or gzip", Exit.USAGE)
    return text == "gzip"


class Export(Live):
    """A session like that of `tracer live`, whose output is kept."""

    def __init__(self, asked: Options, how: Files, reload: Reload | None = None) -> None:
        """``asked`` has the file as its output; ``reload`` takes what is in the file of settings after a SIGHUP."""
        if asked.output is None:
            raise AssertionError
        keeping = Keeping(asked.output, asked.sandbox, tell, how.limits, how.config)
        kept = Kept(asked.output, keeping, how.fsync)
        keeping.give_up = self._give_up
        if reload is not None:
            keeping.configure = lambda data, stream: reload(data, stream, keeping, kept)
        super().__init__(asked, keeping, kept)

    def run(self) -> int:
        """As Live.run()."""
        os.umask(0o027)  # whatever else comes to be made
        return super().run()

    def _give_up(self, why: str) -> None:
        self._failure = why
        self._ending = True
