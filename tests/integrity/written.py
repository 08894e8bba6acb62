"""Streams on disk as an exporter leaves them, made through the real formats, ledger and chain."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.formats.events import NOW, OFFSET, SECOND, SESSION, answered, executed, exited, failed, image, socket
from tracer.formats.ecs import Ecs
from tracer.integrity.chain import BEGIN, END, Chain, Tail
from tracer.model import TCP_STATES, Event, Kind, Merged, Notice, Role
from tracer.pipeline.ledger import Ledger


def of_all_kinds() -> list[Any]:
    """Events of every kind that lines can be of; a format keeps in them what it has rendered, so each has its own."""
    curl = image(b"curl", b"http://example.org")
    datagrams = {"transport": "udp", "protocol": 17, "role": Role.SENT}
    return [
        executed(curl),
        failed(2, b"/bin/none", b"none"),
        executed(curl, Kind.FORK),
        exited(0),
        *(socket(kind) for kind in (Kind.CONNECT, Kind.ATTEMPT, Kind.ACCEPT, Kind.LISTEN, Kind.CLOSE, Kind.UPDATE)),
        socket(Kind.CONNECT, error=111),
        socket(Kind.FLOW, **datagrams),
        socket(Kind.FLOW_END, **datagrams, moved_out=5, moved_in=7),
        socket(Kind.AGGREGATE, merged=Merged(23, NOW - SECOND, NOW, 5)),
        socket(Kind.SOCKET_FOUND),
        socket(Kind.SOCKET_FOUND, state=TCP_STATES.index("LISTEN")),
        executed(curl, Kind.PROCESS_FOUND),
        answered(),
    ]


class Writer:
    """One session of an exporter: lines, notices, segments. With a chain that is None it is `tracer live`."""

    def __init__(
        self, directory: Path, chain: Chain | None, *, sequence: int = 0, name: str = "run", form: type = Ecs
    ) -> None:
        """Lines are numbered from ``sequence`` on; ``name`` is the session's, ``form`` how lines are written."""
        self.directory = directory
        self.chain = chain
        self.sequence = sequence
        self.form: Any = form(SESSION._replace(ephemeral_id=name))
        self.ledger = Ledger()
        self.files: list[Path] = []
        self._events = itertools.cycle(of_all_kinds())

    def lines(self, events: list[Event]) -> bytes:
        """These events as lines."""
        data = b"".join(self.form.lines(events, OFFSET, self.sequence))
        self.sequence += len(events)
        return data

    def put(self, data: bytes) -> None:
        """Write to the newest file."""
        with self.files[-1].open("ab") as file:
            file.write(data)
        if self.chain is not None:
            self.chain.feed(data)

    def begin(self, *, in_place: bool = False) -> None:
        """A file begins, or a segment in the one there is."""
        if not in_place:
            self.files.append(self.directory / f"events-{self.sequence:020}.jsonl")
        if self.chain is not None:
            self.put(self.notice(BEGIN, self.chain.first()))
        else:
            self.put(b"")

    def notice(self, action: str, body: dict[str, Any]) -> bytes:
        """The line of a notice."""
        return self.lines([Notice(action, NOW, "state", body)])

    def end(self, *, final: bool = False) -> None:
        """A file ends."""
        if self.chain is not None:
            self.put(self.chain.seal(self.notice(END, self.chain.last(final=final))))

    def events(self, count: int) -> None:
        """So many events, of all kinds in turn."""
        events = list(itertools.islice(self._events, count))
        kinds = Counter(event.kind for event in events)
        self.ledger.found.update(kinds)
        self.put(self.lines(events))
        self.ledger.delivered.update(kinds)

    def lose(self, count: int, *, told: bool = True) -> None:
        """So many events find no room; it is told at the next chance."""
        self.sequence += count
        self.ledger.found[Kind.EXEC] += count
        self.ledger.sink_lost[Kind.EXEC] += count
        if told:
            self.put(self.loss(count))

    def loss(self, count: int) -> bytes:
        """The line that tells of it."""
        body = {"kind": "exec", "stage": "sink", "count": count, "first": NOW, "last": NOW + SECOND}
        return self.notice("tracer-loss", {"loss": body})

    def state(self, *, final: bool = False, in_flight: Counter[int] | None = None) -> dict[str, Any]:
        """The body of a ledger."""
        return self.ledger.statement(
            in_flight=in_flight or Counter(), undecodable=Counter(), missing=0, missed={}, evicted={}, final=final
        )

    def account(self, *, final: bool = False) -> None:
        """A ledger."""
        self.put(self.notice("tracer-ledger", {"ledger": self.state(final=final)}))


def stream(
    directory: Path,
    *,
    segments: int = 4,
    events: int = 20,
    key: Path | None = None,
    after: Tail | None = None,
    name: str = "run",
    form: type = Ecs,
) -> list[Path]:
    """A whole session in so many files, with a ledger in each."""
    chain = Chain(after, key)
    writer = Writer(directory, chain, sequence=0 if after is None else after.sequence + 1, name=name, form=form)
    for number in range(segments):
        writer.begin()
        writer.events(events)
        writer.account(final=number == segments - 1)
        writer.end(final=number == segments - 1)
    return writer.files


def plain(directory: Path, *, events: int = 40, form: type = Ecs) -> Path:
    """What `tracer live --output FILE` leaves: a session without a chain."""
    writer = Writer(directory, None, form=form)
    writer.files = [directory / "plain.jsonl"]
    writer.events(events)
    writer.account()
    writer.events(events)
    writer.account(final=True)
    return writer.files[0]


def lines_of(path: Path) -> list[bytes]:
    """The lines of a file, with their newlines."""
    return path.read_bytes().splitlines(keepends=True)


def offsets(path: Path) -> Iterator[int]:
    """Where each line begins."""
    return itertools.accumulate((len(line) for line in lines_of(path)[:-1]), initial=0)
