"""Carry events from the engine to the output: number, render, queue, and tell the engine what became of them."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import orjson

from tracer.cli.errors import CommandError, Exit
from tracer.formats.ecs import Ecs
from tracer.formats.places import Places
from tracer.formats.privacy import Privacy
from tracer.formats.redact import Redactor
from tracer.model import Event, Notice, Session
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import Found, Input, Moves, Turn
from tracer.pipeline.view import Filters
from tracer.probes.source import boottime
from tracer.sinks.output import QUEUE_MOST, Batch, Output, OutputError, is_terminal, open_file

if TYPE_CHECKING:
    from tracer.integrity.chain import Chain
    from tracer.sinks.durable import Durable

__all__ = ["FORMATS", "Stream", "begin_line", "make_format", "open_output"]

FORMATS: Final = ("pretty", "ecs", "ocsf")
BEGIN: Final = "tracer-segment"
END: Final = "tracer-segment-end"
_UNFILLED: Final = "@"
_UNFILLED_MEMBER: Final = f'"segment":"{_UNFILLED}"'.encode()
_FIRST: Final = itemgetter(0)
_PATIENT_MOST: Final = 1 << 16  # bytes that wait when there is no hurry: written, they are still in the cache
_FLUSH_SECONDS: Final = 10.0  # how long a stopped reader of a pipe may delay the end
_TURN_SECONDS: Final = 0.05  # how long what was in a ring may wait for the output: what comes meanwhile fits there
_DISK_SECONDS: Final = 1.0  # the same of a file, which is always written in the end
_BURST_SECONDS: Final = 1.0  # how long what is in no ring may wait for the output, while the rings fill
_LEDGER_SECONDS: Final = 0.1  # how long a ledger waits for what is being written; what is not is in flight


class Format(Protocol):
    """Turns events into lines."""

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """A line with its newline for each event that the format shows, numbered from ``sequence`` on.

        They come in pieces of one or more lines.
        ``offset`` is wall clock minus CLOCK_BOOTTIME in ns.
        """
        ...

    def header(self) -> bytes:
        """What a file begins with, if it is not its first line."""
        ...


class Stream:
    """The lines of one session. With ``patient`` it waits for a slow reader instead of losing lines (a replay)."""

    def __init__(
        self,
        engine: Engine,
        form: Format,
        fd: int,
        name: str,
        *,
        patient: bool = False,
        started: bool = True,
        output: Output | None = None,
        sequence: int = 0,
        chain: Chain | None = None,
    ) -> None:
        """Lines go to ``fd``, which messages call ``name``. If not ``started``, nothing is written before start().

        ``output`` is what writes, where that is not the usual thing. The first line has the number ``sequence``. With a
        ``chain`` each file begins and ends with a record of its own.
        """
        self._engine = engine
        self._form = form
        self._patience: float | None = None if patient else 0.0  # for how long lines may still wait for room, s
        self._moment = _DISK_SECONDS if not patient and stat.S_ISREG(os.fstat(fd).st_mode) else _TURN_SECONDS
        self._stopped = False  # nothing was written since lines waited in vain
        most = _PATIENT_MOST if patient else QUEUE_MOST
        self._output = output or Output(fd, name, queue_most=most, started=started)
        self._chain = chain
        self.sequence = sequence
        """The number of the next line."""
        self.size = 0
        """Bytes that were put since the output was switched last."""
        self._begun = chain is None  # its first record has a time only once the engine knows the clock
        self._untold: dict[tuple[str, str], dict[str, Any]] = {}  # losses there was no room to tell, by kind and stage
        self.complete = True

    def start(self, first: Callable[[], bool]) -> bool:
        """Write what is queued and what comes, unless ``first`` gives False, which the writing thread calls before."""
        return self._output.start(first)

    @property
    def broken(self) -> bool:
        """Whether nothing more can be written."""
        return self._output.broken

    def feed(self, item: Input) -> None:
        """Show what the engine makes of an input.

        What comes from a ring has to make room there soon, and is lost where the output is too slow: it waits a moment,
        in which the ring takes what happens, but not for an output that has stopped. What was looked up comes in
        thousands at a time, that would be lost on any output: it waits longer.
        """
        if self._patience is not None:
            last = isinstance(item, Turn | Moves) and item.last
            if last or isinstance(item, Moves | Found):
                self._patience = _FLUSH_SECONDS if last else _BURST_SECONDS
            else:
                self._patience = 0.0 if self._stopped else self._moment
        for events in self._engine.portions(item):
            self.show(events)

    def show(self, events: list[Event]) -> None:
        """Render and queue events."""
        if not self._begun:
            self._begun = True
            self._begin_segment()
        if self._untold:
            self._tell()
        if events:
            lines = self._form.lines(events, self._engine.offset, self.sequence)
            self.sequence += len(events)
            self._put(lines, events)
        written = self._output.written()
        if written:
            self._stopped = False
            self._engine.delivered(written)

    def switch(self, fd: int) -> int:
        """Write everything from the next event on to this descriptor of a file, and close the one before after that.

        Returns the number of the first line in there.
        """
        begun = os.lseek(fd, 0, os.SEEK_END) > 0  # fstat(2) may come as a call that a confined process may not
        first = self._switch(lambda: self._output.switch(fd))
        header = b"" if begun else self._form.header()
        if header:
            self._output.put(Batch([header], len(header), Counter()))
        return first

    @property
    def following(self) -> int:
        """The number of the first line behind a switch() or put_off() that is made now."""
        return self.sequence + int(self._chain is not None and self._begun)

    def put_off(self, output: Durable, *, stays: bool = False) -> int:
        """As switch(), to what its output will be given later; ``stays`` as of Durable.put_off()."""
        return self._switch(lambda: output.put_off(stays=stays))

    def _switch(self, switch: Callable[[], None]) -> int:
        self._end_segment()
        switch()
        self.size, first = 0, self.sequence
        if self._begun:
            self._begin_segment()
        return first

    def _begin_segment(self) -> None:
        """With a chain: the record that a file begins with."""
        if (chain := self._chain) is not None:
            self._segment(BEGIN, lambda line: _filled(line, chain.first()))

    def _end_segment(self, *, final: bool = False) -> None:
        """With a chain: the record that a file ends with."""
        if (chain := self._chain) is not None and self._begun:
            self._segment(END, lambda line: chain.seal(_filled(line, chain.last(final=final))))

    def _segment(self, action: str, fill: Callable[[bytes], bytes]) -> None:
        """A record at an end of a file: what it says is known when all before it is written, its place is now."""
        notice = Notice(action, boottime(), "state", {"segment": _UNFILLED})
        line = b"".join(self._form.lines([notice], self._engine.offset, self.sequence))
        self.sequence += 1
        self._output.later(lambda: [fill(line)])

    def _put(self, lines: list[bytes], events: list[Event]) -> None:
        firsts = Counter(map(_FIRST, events))  # of notices their actions
        kinds = Counter({kind: count for kind, count in firsts.items() if isinstance(kind, int)})
        size = sum(map(len, lines))
        if self._put_patiently(Batch(lines, size, kinds)):
            self.size += size
            return
        losses = [
            notice.body["loss"]
            for notice in [*events, *self._engine.lost(kinds, events[0].time, events[-1].time)]
            if isinstance(notice, Notice) and "loss" in notice.body
        ]
        if notices := len(events) - kinds.total():  # no kind of the ledger, but numbers that no line has
            losses.append(
                {
                    "kind": "notice",
                    "stage": "sink",
                    "count": notices,
                    "first": events[0].time,
                    "last": events[-1].time,
                }
            )
        for loss in losses:
            key = loss["kind"], loss["stage"]
            self._untold[key] = _joined(self._untold[key], loss) if key in self._untold else loss

    def _put_patiently(self, batch: Batch) -> bool:
        if not self._patience:
            return self._output.put(batch, self._patience)
        began = time.monotonic()
        put = self._output.put(batch, self._patience)
        self._patience = max(self._patience - (time.monotonic() - began), 0.0)
        self._stopped = not put
        return put

    def _tell(self) -> None:
        """Tell the losses as soon as there is room for it."""
        notices = [Notice("tracer-loss", loss["last"], "metric", {"loss": loss}) for loss in self._untold.values()]
        lines = self._form.lines(notices, self._engine.offset, self.sequence)
        if self._output.put(Batch(lines, sum(map(len, lines)), Counter())):
            self.sequence += len(notices)
            self._untold.clear()

    def tell(self, action: str, body: dict[str, Any]) -> None:
        """Say something of the tracer itself, now."""
        self.show([Notice(action, boottime(), "event", body)])

    def filter(self, filters: Filters) -> None:
        """Show only this from the next event on. Raises ValueError for a network that is none."""
        self._engine.view = self._engine.view.replaced(filters)

    def gap(self, reason: str, first: int, last: int, **more: Any) -> None:
        """Tell that an unknown number of lines is missing from that time (boottime ns)."""
        body = {"reason": reason, "exact": False, "first": first, "last": last, **more}
        self.show([self._engine.gap(body, last)])

    def ledger(self, turn: Turn) -> dict[str, Any]:
        """Write the ledger as of a turn that was a cut, the last one after everything else is written; its body."""
        self._output.flush(_FLUSH_SECONDS if turn.last else _LEDGER_SECONDS)
        written = self._output.written()
        if written:
            self._engine.delivered(written)
        statement = self._engine.statement(turn)
        ledger: dict[str, Any] = statement.body["ledger"]
        self.complete = ledger["complete"]
        self.show([statement])
        return ledger

    def close(self) -> None:
        """Write what is queued and end. Raises CommandError when the output failed; a closed pipe is a normal end."""
        self._end_segment(final=True)
        self._output.flush(_FLUSH_SECONDS)
        self._output.close()
        if self._output.error is not None:
            left = sum(self._engine.queued.values())
            told = f"; {left:,} events that waited are lost" if self._output.tells_lost and left else ""
            raise CommandError(f"{self._output.error}{told}", Exit.FAILURE)


def _filled(line: bytes, body: dict[str, Any]) -> bytes:
    """The line of a record that had nothing to say yet, with what it says."""
    return line.replace(_UNFILLED_MEMBER, orjson.dumps(body)[1:-1])


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two losses of one kind and stage as one interval."""
    both = {
        **one,
        "count": one["count"] + other["count"],
        "first": min(one["first"], other["first"]),
        "last": max(one["last"], other["last"]),
    }
    if "cpus" in both or "cpus" in other:
        both["cpus"] = sorted({*one.get("cpus", ()), *other.get("cpus", ())})
    if "causes" in both or "causes" in other:
        both["causes"] = dict(Counter(one.get("causes", {})) + Counter(other.get("causes", {})))
    return both


def open_output(path: Path | None, *, keep: bool = False) -> tuple[int, str]:
    """The descriptor to write to, and its name; ``keep`` what is in a file. Raises CommandError."""
    if path is None or str(path) == "-":
        if sys.stdout is None:
            raise CommandError("stdout is closed: name a file with --output", Exit.FAILURE)
        return sys.stdout.fileno(), "stdout"
    try:
        return open_file(path, keep=keep), str(path)
    except OutputError as error:
        raise CommandError(str(error), Exit.FAILURE) from error


def begin_line(fd: int, name: str, path: Path | None) -> None:
    """End the line that a killed worker may have left unfinished at the end of the output. Raises CommandError."""
    try:
        if path is not None and stat.S_ISREG(os.fstat(fd).st_mode):
            with path.open("rb") as file:
                if not file.seek(0, os.SEEK_END) or (file.seek(-1, os.SEEK_END) and file.read() == b"\n"):
                    return
        os.write(fd, b"\n")
    except BrokenPipeError:
        return  # the stream will find out, and end as it should
    except OSError as failed:
        raise CommandError(f"can't write {name}: {failed.strerror}", Exit.FAILURE) from failed


def make_format(
    name: str | None, session: Session, fd: int, privacy: Privacy | None = None, places: Places | None = None
) -> Format:
    """The format asked for; by itself pretty on a terminal and ecs elsewhere. Raises CommandError.

    It shows no more than ``privacy`` lets it; without that, all but secrets. ``places`` are told in ecs and ocsf.
    """
    privacy = privacy or Privacy(Redactor())
    return privacy.form(_make_format(name, privacy.session(session), fd, privacy.redactor, places))


def _make_format(
    name: str | None, session: Session, fd: int, redactor: Redactor | None, places: Places | None
) -> Format:
    terminal = is_terminal(fd)
    name = name or ("pretty" if terminal else "ecs")
    if name == "ecs":
        return Ecs(session, redactor, places)
    if name == "ocsf":
        from tracer.formats.ocsf import Ocsf  # the default starts the sooner without it

        return Ocsf(session, redactor, places)
    if name != "pretty":
        raise CommandError(f"--format {name!r}: give one of {', '.join(FORMATS)}", Exit.USAGE)
    from tracer.formats.pretty import Pretty  # not for the stream of a SIEM, which starts the sooner

    colour = terminal and not os.environ.get("NO_COLOR")
    columns = shutil.get_terminal_size().columns if terminal else None
    pretty = Pretty(session, colour=colour, width=columns, redactor=redactor)
    if terminal:
        signal.signal(signal.SIGWINCH, lambda *_: pretty.resize(shutil.get_terminal_size().columns))
    try:
        os.write(fd, pretty.header())
    except BrokenPipeError:
        return pretty  # the stream will find out, and end as it should
    except OSError as failed:
        name = "stdout" if fd == 1 else "the output"
        raise CommandError(f"can't write {name}: {failed.strerror}", Exit.FAILURE) from failed
    return pretty
