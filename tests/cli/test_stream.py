"""From engine to output: lines are numbered in order, and what the output does not take is told and accounted for."""

import fcntl
import json
import os
import threading
from collections import Counter
from typing import Any

import pytest

from tests import wire
from tests.formats.events import SESSION
from tests.wire import NOW as T
from tracer.cli import stream as module
from tracer.cli.stream import Stream
from tracer.formats.ecs import Ecs
from tracer.model import RING_KINDS, Kind
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import Turn
from tracer.pipeline.view import Filters

BATCH = 50  # records a turn
SECOND = 1_000_000_000


class Reader:
    """The other end of a small pipe, read only when it is told to."""

    def __init__(self) -> None:
        self.fd, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)
        self._parts: list[bytes] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Read on, until the end."""
        self._thread.start()

    def _run(self) -> None:
        while data := os.read(self.fd, 65536):
            self._parts.append(data)

    def lines(self) -> list[dict[str, Any]]:
        """All lines; the writing end is closed first."""
        os.close(self.writer)
        self._thread.join(10)
        os.close(self.fd)
        return [json.loads(line) for line in b"".join(self._parts).splitlines()]


def turns(count: int) -> list[Turn]:
    """Turns of BATCH execs each, with the kernel's counters; the last one is the last."""
    made = []
    for i in range(count):
        records = [
            wire.executed(seq=i * BATCH + n, time=T + i * SECOND + n, tgid=1000 + n, start=T) for n in range(BATCH)
        ]
        done = (i + 1) * BATCH
        counters = wire.tallies({(0, Kind.EXEC): {"attempts": done, "emitted": done}})
        made.append(
            wire.turn(wire.ring_run(*records), now=T + (i + 1) * SECOND, counters=counters, last=i == count - 1)
        )
    return made


def ended(stream: Stream, last: Turn) -> None:
    """The last ledger, and the end."""
    stream.ledger(last)
    stream.close()


@pytest.fixture(name="engine")
def _engine() -> Engine:
    """An engine that shows everything."""
    return Engine(wire.BOOT_ID, Filters(kinds=frozenset(RING_KINDS)))


def test_lines_are_numbered_and_accounted_for(engine: Engine) -> None:
    """With a reader that keeps up all lines come, numbered from 0, and the last ledger is complete."""
    reader = Reader()
    reader.start()
    stream = Stream(engine, Ecs(SESSION), reader.writer, "pipe")
    stream.show(engine.feed(wire.start()))
    made = turns(5)
    for turn in made:
        stream.show(engine.feed(turn))
    ended(stream, made[-1])
    lines = reader.lines()
    assert [line["event"]["sequence"] for line in lines] == list(range(2 + 5 * BATCH + 1))
    assert lines[-1]["tracer"]["ledger"]["complete"]
    assert stream.complete


def test_loss_at_the_output_is_told_in_the_stream(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slow reader makes us lose is told by loss records that sum to the ledger's, and as gaps in the numbers."""
    monkeypatch.setattr(module, "QUEUE_MOST", 100_000)
    reader = Reader()
    stream = Stream(engine, Ecs(SESSION), reader.writer, "pipe")
    made = turns(104)
    for turn in made[:100]:  # some 40 kB each, and nobody reads
        stream.show(engine.feed(turn))
    reader.start()
    for turn in made[100:]:
        stream._output.flush(10)
        stream.show(engine.feed(turn))
    ended(stream, made[-1])
    lines = reader.lines()
    ledger = lines[-1]["tracer"]["ledger"]
    assert ledger["final"]
    assert ledger["balanced"]
    assert not ledger["complete"]
    row = ledger["by_kind"]["exec"]
    shown = Counter(line["event"]["action"] for line in lines)
    assert row["delivered"] == shown["process-executed"]
    assert row["lost_by_stage"]["sink"] == row["attempts"] - row["delivered"] > 0
    losses = [line["tracer"]["loss"] for line in lines if line["event"]["action"] == "tracer-loss"]
    assert sum(loss["count"] for loss in losses) == row["lost"]
    assert {(loss["kind"], loss["stage"]) for loss in losses} == {("exec", "sink")}
    assert all(loss["first"] <= loss["last"] for loss in losses)
    numbers = [line["event"]["sequence"] for line in lines]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] + 1 - len(numbers) >= row["lost"]


def test_patient_stream_loses_nothing(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replay waits for its reader instead."""
    monkeypatch.setattr(module, "_PATIENT_MOST", 10_000)
    reader = Reader()
    reader.start()
    stream = Stream(engine, Ecs(SESSION), reader.writer, "pipe", patient=True)
    made = turns(12)
    for turn in made:
        stream.show(engine.feed(turn))
    ended(stream, made[-1])
    lines = reader.lines()
    assert len(lines) == 12 * BATCH + 1
    assert lines[-1]["tracer"]["ledger"]["complete"]


@pytest.mark.parametrize("last", [True, False], ids=["last", "not last"])
def test_only_the_last_turn_waits_for_room(engine: Engine, monkeypatch: pytest.MonkeyPatch, *, last: bool) -> None:
    """When nothing can be missed any more a slow reader is waited for; before, the rings must not fill meanwhile."""
    monkeypatch.setattr(module, "QUEUE_MOST", 30_000)
    reader = Reader()
    late = threading.Timer(0.3, reader.start)
    late.start()
    stream = Stream(engine, Ecs(SESSION), reader.writer, "pipe")
    made = turns(2)
    for turn in (made[0], made[1]._replace(last=last)):
        stream.feed(turn)
        if turn is made[0]:
            reader_is_behind = not stream._output.flush(0)
            assert reader_is_behind
    late.join()
    ended(stream, made[1])
    lines = reader.lines()
    shown = Counter(line["event"]["action"] for line in lines)["process-executed"]
    assert shown == 2 * BATCH if last else shown < 2 * BATCH
    assert lines[-1]["tracer"]["ledger"]["complete"] is last
