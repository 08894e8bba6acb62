"""Turn the probes' records into events: order, processes, flows, filters and ledger together, without any I/O."""

from __future__ import annotations

import uuid
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, cast

from tracer.model import Answered, Event, ExecFailed, Kind, KindEvent, Notice, ProcessEvent, ProcessExited, SocketEvent
from tracer.pipeline.aggregate import Aggregator
from tracer.pipeline.flood import FloodTable
from tracer.pipeline.flows import FlowTable
from tracer.pipeline.ledger import Ledger, Loss
from tracer.pipeline.moves import UPDATE_NS, MoveTable
from tracer.pipeline.order import Order
from tracer.pipeline.processes import ProcessTable
from tracer.pipeline.turns import (
    Accounted,
    Collapsed,
    Confined,
    DeviceTotals,
    Found,
    Input,
    Known,
    Lost,
    Moves,
    Start,
    Turn,
    Unheard,
)
from tracer.pipeline.view import Filters, View
from tracer.probes.records import FACTS, FLAGS, KIND, SLOT, START, TGID, TID, TIME, Record, decode, frames
from tracer.probes.wire import SORTS

if TYPE_CHECKING:
    from tracer.pipeline.naming import Naming

__all__ = ["Engine"]

PORTION: Final = 256  # records: with what is made of them about half a megabyte

# The classes' own constructors would look at each item again; a look at an enum costs as much.
_new = tuple.__new__
_kind = itemgetter(0)
_time = itemgetter(1)
_held_time = itemgetter(0)
_start = itemgetter(START)
_EVER: Final = 1 << 64
_EXEC: Final = Kind.EXEC
_EXIT: Final = Kind.EXIT
_PAYLOAD: Final = Kind.PAYLOAD


class Engine:
    """Feed it the inputs in order; it gives back the events to show, in order.

    What becomes of the shown events is told back by delivered() and lost(), so that the ledger can account for them.
    """

    def __init__(
        self,
        boot_id: str,
        filters: Filters,
        most: int | None = None,
        update_ns: int = UPDATE_NS,
        aggregate_ns: int = 0,
    ) -> None:
        """``boot_id`` as the kernel prints it; after ``most`` shown events the rest is filtered. Raises ValueError.

        Flows that go on moving bytes are told of every ``update_ns``; short ones that are alike are one record within
        ``aggregate_ns``, unless that is 0.
        """
        self.processes = ProcessTable(uuid.UUID(boot_id).bytes)
        self.flows = FlowTable(self.processes)
        self.moves = MoveTable(self.flows, update_ns)
        self.order = Order()
        self.flood = FloodTable(self.processes)
        self.ledger = Ledger()
        self._aggregator: Aggregator | None = None
        if aggregate_ns:
            self._aggregator = Aggregator(aggregate_ns, self.flows, self.ledger.aggregated, self.ledger.found)
        self.view = View(filters)
        self.offset = 0  # wall clock minus CLOCK_BOOTTIME, ns
        self._uncounted: list[str] = []  # what the backend may miss without knowing
        self._most = most
        self.shown = 0
        self.queued: Counter[int] = Counter()  # handed over, not yet delivered or lost
        self._naming: Naming | None = None
        self._heard = False  # whether a record gave no event, or several, since the last portion
        self._more: list[Answered] = []  # of a record that gave several events all but the first
        handlers: dict[int, Callable[[Record, bool], KindEvent | None]] = {
            Kind.EXEC: self._executed,
            Kind.EXEC_FAILED: self._exec_failed,
            Kind.FORK: self._forked,
            Kind.EXIT: self._exited,
            Kind.CONNECT: self.flows.event,
            Kind.ATTEMPT: self.flows.event,
            Kind.ACCEPT: self.flows.event,
            Kind.LISTEN: self.flows.event,
            Kind.CLOSE: self._socket_closed,
            Kind.FLOW: self._part_found,
            Kind.FLOW_END: self._socket_closed,
            Kind.OWNER: self._part_found,
            Kind.TAIL: self._tail_ended,
            Kind.PAYLOAD: self._payload,
            Kind.PROCESS_FOUND: self._found_process,
            Kind.SOCKET_FOUND: self.flows.event,
        }
        self._handlers: Final = [handlers.get(kind, self.flows.event) for kind in Kind]  # the kinds are 0, 1, 2, …

    def read_names(self, *, with_quic: bool) -> None:
        """Read the names in PAYLOAD records, which are of no use before; those of QUIC only if so.

        Loads the parsers, and for QUIC `cryptography`. Raises ImportError without that.
        """
        from tracer.pipeline.naming import Naming

        self._naming = Naming(self.processes, self.flows, with_quic=with_quic)
        self._handlers[Kind.LISTEN] = self._handlers[Kind.SOCKET_FOUND] = self._socket_told

    @property
    def full(self) -> bool:
        """Whether as many events were shown as were asked for."""
        return self._most is not None and self.shown >= self._most

    def feed(self, item: Input) -> list[Event]:
        """Take in one input and give all the events that are ready now."""
        return [event for events in self.portions(item) for event in events]

    def portions(self, item: Input) -> Iterator[list[Event]]:
        """What feed() gives, in portions that a processor's cache holds from record to line.

        Take all of them before the next input.
        """
        if isinstance(item, Turn):
            self.offset = self.processes.clock = item.offset
            return self._turn(item)
        if isinstance(item, Found):
            self.offset = self.processes.clock = item.offset
            return self._found(item)
        if isinstance(item, Moves):
            return self._moved(item)
        if isinstance(item, Known):
            self._learn(item.processes)
            return iter(())
        if isinstance(item, Start):
            self.offset = self.processes.clock = item.facts["offset"]
            return iter([self._start(item)])
        return iter([self._notices(item)])

    def _notices(self, item: Confined | Collapsed | Accounted | Lost | Unheard) -> list[Event]:
        if isinstance(item, Collapsed):
            return list[Event](self.flood.take(item))
        if isinstance(item, Accounted):
            return [_wire_notice(item.now, row) for row in item.rows]
        return [self._notice(item)]

    def _notice(self, item: Confined | Lost | Unheard) -> Notice:
        """What the backend, and not the kernel, has to say."""
        if isinstance(item, Confined):
            return Notice("tracer-confinement", item.now, "state", {"confinement": item.facts})
        if isinstance(item, Lost):
            self.ledger.gaps += 1
            change = {"state": "lost", "backend": item.backend, "reasons": item.reasons, "first": item.since}
            return Notice("tracer-backend", item.now, "event", {"change": change})
        self.ledger.unheard += item.missing
        loss = Loss("unknown", "ring", item.missing, item.first, item.last, item.cpus, {item.what: item.missing})
        return self._loss_notice(loss, item.last)

    def _start(self, start: Start) -> list[Event]:
        facts = start.facts
        self.flows.counted = bool(facts["coverage"].get("moved"))
        self._uncounted = list(facts["coverage"].get("uncounted", ()))
        notices: list[Event] = [
            Notice("tracer-coverage", facts["now"], "state", {"coverage": facts["coverage"]}),
            Notice("tracer-session-start", facts["now"], "event", {"session": facts["started"]}),
        ]
        if facts.get("gap"):
            self.ledger.gaps += 1
            change = {"state": "restarted", **facts["gap"], "last": facts["now"]}
            notices.append(Notice("tracer-backend", facts["now"], "event", {"change": change}))
        if facts.get("blind"):
            notices.append(self.gap(facts["blind"], facts["now"]))
        return notices

    def gap(self, body: dict[str, Any], now: int) -> Notice:
        """What to say of a time from which lines are missing: unless the gap is ``exact`` nobody knows how many."""
        self.ledger.gaps += not body["exact"]
        return Notice("tracer-gap", now, "event", {"gap": body})

    def _found(self, found: Found) -> Iterator[list[Event]]:
        """Records of the iterators become the first state; what the stream knows better is left to it."""
        for data in (found.processes, found.sockets):
            records = [decode(frame, 0) for frame in frames(data)]
            if data is found.processes:
                records.sort(key=_start)  # a parent before its children, though pids start over
            self.ledger.found.update([record[KIND] for record in records])
            events = self._whole([self._handlers[record[KIND]](record, False) for record in records])
            self.view.widen(self.processes)  # who is whose descendant shows only when all are known
            yield self._shown(events, self.view.wants_found)

    def _moved(self, moves: Moves) -> Iterator[list[Event]]:
        events = self.moves.take(moves)
        while portion := list(islice(events, PORTION)):
            for event in portion:
                if self._naming is not None and event.kind is Kind.FLOW_END:
                    self._naming.gone(
                        event.time, (event.netns, event.transport, event.local_port, event.remote, event.remote_port)
                    )
            self.ledger.found.update([event.kind for event in portion])
            yield self._shown(list[KindEvent](portion))

    def _learn(self, processes: bytes) -> None:
        for record in sorted((decode(frame, 0) for frame in frames(processes)), key=_start):
            if self.processes.find(record[TGID], record[START]) is None:
                self.processes.executed(record)
        self.view.widen(self.processes)

    def _turn(self, turn: Turn) -> Iterator[list[Event]]:
        order, ledger, handlers = self.order, self.ledger, self._handlers
        for run in turn.runs:
            order.add(run)
        released, late = order.release(None if turn.last else turn.drained_at)
        ledger.late += late
        if late:
            yield self._shown(self._whole(order.handled(released[:late], handlers, late=True)))
        begin = late
        if self.flood.waiting:
            for unseen in self.flood.due(order.cut if not turn.last else _EVER):
                end = bisect_left(released, unseen, lo=begin, key=_held_time)
                if end > begin:
                    yield self._shown(self._whole(order.handled(released[begin:end], handlers)))
                    begin = end
        for at in range(begin, len(released), PORTION):
            yield self._shown(self._whole(order.handled(released[at : at + PORTION], handlers)))
        yield self._due(turn)
        ledger.tallies(turn.tallies)
        yield [self._loss_notice(loss, turn.now) for loss in ledger.losses(turn.now, turn.last)]

    def _whole(self, made: list[KindEvent | None]) -> list[KindEvent]:
        """The events without the gaps that records left which are told by others, and with those that share one."""
        if not self._heard:
            return cast("list[KindEvent]", made)
        self._heard = False
        events = [event for event in made if event is not None]
        if self._more:
            events += self._more
            events.sort(key=_time)
            self._more = []
        return events

    def _shown(self, events: list[KindEvent], wants: Callable[[KindEvent], bool] | None = None) -> list[Event]:
        """Those that were asked for, counted; the others are counted as filtered."""
        kinds = Counter(map(_kind, events))
        if self._most is None and self.view.wants_all(kinds):
            if self._aggregator is None:
                self.shown += len(events)
                self.queued.update(kinds)
                return list[Event](events)
            return self._handed(self._aggregator.take(events))
        wants = wants or self.view.wants
        wanted = [event for event in events if wants(event)]
        if len(wanted) < len(events):
            self.ledger.filtered.update(kinds)
            self.ledger.filtered.subtract([event[0] for event in wanted])
        return self._handed(wanted if self._aggregator is None else self._aggregator.take(wanted))

    def _handed(self, wanted: list[KindEvent]) -> list[Event]:
        """These are shown, as far as not too many were."""
        if self._most is not None:
            room = max(0, self._most - self.shown)
            self.ledger.filtered.update([event[0] for event in wanted[room:]])
            del wanted[room:]
        self.shown += len(wanted)
        self.queued.update(map(_kind, wanted))
        return list[Event](wanted)

    def _due(self, turn: Turn) -> list[Event]:
        """What was held back to be one record of several; after the last turn nothing is any more."""
        if self._aggregator is None:
            return []
        due = self._aggregator.due(None if turn.last else turn.now)
        if turn.last:
            self._aggregator = None
        return self._handed(due)

    def _executed(self, record: Record, late: bool) -> ProcessEvent:
        process = self.processes.executed(record)
        return _new(ProcessEvent, (_EXEC, record[TIME], late, process, record[TID], record[FLAGS]))

    def _found_process(self, record: Record, late: bool) -> ProcessEvent:
        process = self.processes.executed(record)
        return ProcessEvent(Kind.PROCESS_FOUND, record[TIME], late, process, record[TID], record[FLAGS])

    def _forked(self, record: Record, late: bool) -> ProcessEvent:
        process = self.processes.forked(record)
        return ProcessEvent(Kind.FORK, record[TIME], late, process, record[TID], record[FLAGS])

    def _exec_failed(self, record: Record, late: bool) -> ExecFailed:
        process = self.processes.identified(record)
        error, file, _, data = record[FACTS:]
        requested, args = data[:file].rstrip(b"\0"), data[file:]
        return ExecFailed(
            Kind.EXEC_FAILED, record[TIME], late, process, record[TID], error, requested, args, record[FLAGS]
        )

    def _exited(self, record: Record, late: bool) -> ProcessExited:
        time, _, _, _, tid, _, _, _, flags, _, _, _, _, cpu_ns, max_rss, status, _ = record
        return _new(
            ProcessExited,
            (_EXIT, time, late, self.processes.exited(record), tid, status, cpu_ns, max_rss, flags),
        )

    def _payload(self, record: Record, late: bool) -> Answered | None:
        self._heard = True
        answered = self._naming.heard(record, late) if self._naming is not None else []
        if not answered:
            self.ledger.aggregated[_PAYLOAD] += 1
            return None
        self._more += answered[1:]
        self.ledger.found[_PAYLOAD] += len(answered) - 1
        return answered[0]

    def _socket_told(self, record: Record, late: bool) -> SocketEvent:
        event = self.flows.event(record, late)
        if self._naming is not None and not event.remote_port:
            self._naming.serves(event.netns, event.process, event.local_port)
        return event

    def _socket_closed(self, record: Record, late: bool) -> SocketEvent:
        if self._naming is not None and self._naming.recogniser:
            self._naming.ending(record)
        event = self.flows.event(record, late)
        self.moves.ended(event.socket)
        return event

    def _tail_ended(self, record: Record, late: bool) -> SocketEvent | None:
        event = self.flows.event(record, late)
        if not self.flows.repeated:
            return event
        self.ledger.aggregated[Kind.TAIL] += 1
        self._heard = True
        return None

    def _part_found(self, record: Record, late: bool) -> SocketEvent:
        event = self.flows.event(record, late)
        if self.flows.ends is not None:
            self.moves.placed(event, record[SLOT], self.flows.ends)
        return event

    def delivered(self, kinds: Counter[int]) -> None:
        """Events of these kinds were written."""
        self.ledger.delivered.update(kinds)
        self.queued.subtract(kinds)

    def lost(self, kinds: Counter[int], first: int, last: int) -> list[Event]:
        """Events of these kinds, from ``first`` to ``last`` (boottime ns), could not be written; gives what to say."""
        self.ledger.sink_lost.update(kinds)
        self.queued.subtract(kinds)
        return [self._loss_notice(loss, last) for loss in self.ledger.sink_losses(first, last)]

    def statement(self, turn: Turn) -> Notice:
        """The ledger as of a turn that was a cut."""
        held = self._aggregator.held() if self._aggregator is not None else Counter[int]()
        body = self.ledger.statement(
            in_flight=self.order.held_by_kind() + self.queued + held,
            undecodable=self.order.undecodable,
            missing=self.order.missing,
            missed=turn.missed,
            evicted={"processes": self.processes.evicted, "flows": self.flows.evicted}
            | (self._naming.counts() if self._naming is not None else {}),
            final=turn.last,
            uncounted=self._uncounted,
            moved=self.moves.statement(self.flows.told),
        )
        return Notice("tracer-ledger", turn.now, "metric", {"ledger": body})

    @staticmethod
    def _loss_notice(loss: Loss, now: int) -> Notice:
        body: dict[str, Any] = {
            "kind": loss.kind,
            "stage": loss.stage,
            "count": loss.records,
            "first": loss.first,
            "last": loss.last,
        }
        if loss.cpus:
            body["cpus"] = loss.cpus
        if loss.causes:
            body["causes"] = loss.causes
        return Notice("tracer-loss", now, "metric", {"loss": body})


def _wire_notice(now: int, row: DeviceTotals) -> Notice:
    interface: dict[str, Any] = {"index": row.interface} | ({"name": row.name} if row.name else {})
    told: dict[str, Any] = {"interface": interface}
    for at, (name, (owned, *others)) in enumerate((("out", row.out), ("in", row.into))):
        ownerless = dict(zip(SORTS[1:], others, strict=True))
        told[name] = {"owned": owned, "ownerless": ownerless, "total": owned + sum(others), "headers": row.headers[at]}
        if row.counted is not None:
            told[name]["counted"] = row.counted[at]
    return Notice("tracer-wire", now, "metric", {"netns": row.netns, "wire": told})
