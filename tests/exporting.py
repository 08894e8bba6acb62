"""Trace by `tracer export` in place of `tracer live`: the same tests, on rotated and chained files in any format.

Used where TRACER_TEST_EXPORT names a directory (tests/tracing.py). Each trace has a directory of its own in there,
which stays, with what was said on stderr beside.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.formats.ocsf_as_ecs import as_ecs
from tests.tracing import EXPORT, Event, Trace

FORM = os.environ.get("TRACER_TEST_FORMAT") or "ecs"
ROTATE_SIZE = "128K"
# They come behind the last ledger, so a test that looks at the last event must not see them; they are checked as lines.
SEGMENT = b'"tracer-segment'
# Beside the files: the process that the traps' programs are below.
ROOT = "root-pid"


def files(directory: Path) -> list[Path]:
    """The files of a directory of `tracer export` in the order of their lines."""
    return sorted(directory.glob("events*.jsonl"))


class Exported(Trace):
    """As Trace, whose ``output`` is a directory. ``events`` are in the terms of ECS whatever the format is."""

    def __init__(self, *args: str, **options: Any) -> None:
        super().__init__(*args, **options)
        self._place = Path(tempfile.mkdtemp(prefix=f"{FORM}-", dir=EXPORT))
        (self._place / ROOT).write_text(str(os.getpid()))

    def command(self) -> list[str]:
        """As Trace.command: all files are kept."""
        self.output = self._place
        return [
            *("export", "--format", FORM, "--output", str(self._place)),
            *("--rotate-size", ROTATE_SIZE, "--keep", "0"),
        ]

    def written(self) -> Iterator[bytes]:
        """The lines of all files, without the records of the chain."""
        for path in files(self._place):
            with path.open("rb") as lines:
                for line in lines:
                    if SEGMENT not in line:
                        yield line

    def read(self, line: bytes) -> Event:
        """What a line says, in the terms of ECS."""
        found: Event = json.loads(line)
        return as_ecs(found) if FORM == "ocsf" else found
