"""`tracer export`: the agent that runs for months and writes files that a SIEM can rely on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from tracer.cli.errors import CommandError, Exit
from tracer.cli.keeping import Keeping, Limits
from tracer.cli.kept import Kept
from tracer.cli.limits import fsync, limits
from tracer.cli.live import Live
from tracer.cli.reload import Reload, follow
from tracer.cli.session import Options
from tracer.cli.stream import Stream
from tracer.cli.tell import tell
from tracer.sinks.durable import Fsync

__all__ = ["Export", "Files", "Where", "files", "place"]

_NAME: Final = "events.jsonl"  # what files in a directory are called, but for their numbers


class Where(NamedTuple):
    """What is written: a file, or if it is ``numbered`` files beside it of its name with their numbers."""

    file: Path
    numbered: bool


@dataclass
class Files:
    """How the files are kept."""

    limits: Limits = field(default_factory=Limits)
    fsync: Fsync = Fsync.ROTATE
    config: Path | None = None
    chained: bool = True
    sign: Path | None = None
    numbered: bool = False


def place(output: str) -> Where:
    """What is written, in the directory ``output``, or that file. Raises CommandError.

    What is not there yet is a file if its name has a suffix such as .jsonl, and no slash at its end.
    """
    path = Path(output)
    if output == "-" or not output:
        raise CommandError("--output: export writes files; for stdout there is tracer live --json", Exit.USAGE)
    if path.is_dir() or output.endswith("/") or not (path.suffix or path.exists()):
        return Where(path.absolute() / _NAME, numbered=True)
    if path.exists() and not path.is_file():
        raise CommandError(f"--output {output!r}: no file and no directory; give one of them", Exit.USAGE)
    return Where(path.absolute(), numbered=False)


def files(typed: Mapping[str, Any], where: Where) -> Files:
    """How the files are kept, from the parameters of the command. Raises CommandError."""
    config = typed["config"]
    sign = None if typed["sign"] is None else Path(typed["sign"])
    if sign is not None and typed["no_chain"]:
        raise CommandError("--sign and --no-chain contradict each other: give one of them", Exit.USAGE)
    return Files(
        limits(typed),
        fsync(typed["fsync"]),
        None if config is None else Path(config),
        chained=not typed["no_chain"],
        sign=sign,
        numbered=where.numbered,
    )


class Export(Live):
    """A session like that of `tracer live`, whose output is kept."""

    def __init__(self, asked: Options, how: Files, reload: Reload | None = None) -> None:
        """``asked`` has the file of Where as its output; ``reload`` takes what SIGHUP finds in the file of settings."""
        if asked.output is None:
            raise AssertionError
        rules = None if asked.privacy is None else asked.privacy.rules
        keeping = Keeping(asked.output, asked.sandbox, tell, how.limits, (how.config, rules), numbered=how.numbered)
        kept = Kept(asked.output, keeping, how.fsync, chained=how.chained, sign=how.sign)
        keeping.give_up = self._give_up
        keeping.configure = lambda place, data, stream: self._configure(place, data, stream, kept)
        self._reload = reload
        self._keeping = keeping
        super().__init__(asked, keeping, kept)

    def run(self) -> int:
        """As Live.run()."""
        os.umask(0o027)  # whatever else comes to be made
        return super().run()

    def _configure(self, place: int, data: bytes, stream: Stream, kept: Kept) -> None:
        """Take what is now in the file of settings (0) or in that of rules for secrets (1)."""
        privacy = self._options.privacy
        if place == 1 and privacy is not None and privacy.redactor is not None and privacy.rules is not None:
            follow(privacy.redactor, privacy.rules, data, stream)
        elif place == 0 and self._reload is not None:
            self._reload(data, stream, self._keeping, kept)

    def _give_up(self, why: str) -> None:
        self._failure = why
        self._ending = True
