"""What a line costs: the events of the reference mix in each format, with secrets taken out and without."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from scripts.bench.figures import Row, Spread
from scripts.bench.mix import Mix, make
from tracer.cli.facts import session_from_json
from tracer.cli.recording import begin, items
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import Ocsf
from tracer.formats.redact import Redactor
from tracer.model import Event, Notice, Session
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import Start
from tracer.pipeline.view import Filters

__all__ = ["render"]

_GROUP: Final = "lines: the reference mix rendered, CPU time of one core"
_MIX: Final = Mix(40_000, 200_000)
_BUDGETS: Final = {"ECS": 1.5, "OCSF": 2.0}  # us an event
_FORMS: Final[dict[str, type[Ecs | Ocsf]]] = {"ECS": Ecs, "OCSF": Ocsf}


def _events(recording: Path) -> tuple[Session, list[list[Event]], int]:
    """The events of a recording, as they come to a format, and the wall clock minus CLOCK_BOOTTIME."""
    portions: list[list[Event]] = []
    with recording.open("rb") as file:
        begin(file)
        found = items(file)
        start = next(found)
        assert isinstance(start, Start)
        session = session_from_json(start.facts["session"])
        filters = Filters.from_json(start.facts["filters"])
        engine = Engine(session.host.boot_id, filters, start.facts["count"])
        for item in (start, *found):
            portions += engine.portions(item)
    return session, [portion for portion in portions if portion], engine.offset


def _forget(portions: list[list[Event]]) -> None:
    """Drop what a format has kept with the processes: each run renders them anew."""
    for portion in portions:
        for event in portion:
            if isinstance(event, Notice) or event.process is None:
                continue
            event.process.rendered = None
            for part in (event.process.parent, event.process.within):
                if part is not None:
                    part.rendered = None


def render(directory: Path, runs: int) -> Iterator[str | Row]:
    """Microseconds of CPU time that a line takes; yields a word after each run, and the rows in the end."""
    recording = make(_MIX, directory / "rendered")
    session, portions, offset = _events(recording)
    recording.unlink()
    count = sum(map(len, portions))
    taken: dict[tuple[str, bool], list[float]] = {}
    sizes: dict[str, float] = {}
    gc.collect()
    gc.freeze()
    for number in range(runs):
        for name, make_form in _FORMS.items():
            for redacts in (True, False):
                _forget(portions)
                form = make_form(session, Redactor() if redacts else None)
                sequence = size = 0
                before = time.process_time()
                for portion in portions:
                    size += sum(map(len, form.lines(portion, offset, sequence)))
                    sequence += len(portion)
                taken.setdefault((name, redacts), []).append((time.process_time() - before) * 1e6 / count)
                sizes[name] = size / count
        yield f"run {number + 1} of {runs}"
    gc.unfreeze()
    for name in _FORMS:
        plain = Spread.of(taken[name, False]).median
        yield Row(
            f"µs an event in {name}",
            _GROUP,
            Spread.of(taken[name, True]),
            _BUDGETS[name],
            form=".2f",
            note=f"{plain:.2f} µs with --redact none; lines of {sizes[name]:,.0f} bytes on average",
            facts={"events": count, "bytes_per_line": sizes[name], "without_redaction": taken[name, False]},
        )
