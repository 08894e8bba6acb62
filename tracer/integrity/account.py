"""Recount a stream: its numbers without a gap that nobody tells of, its lines by kind against every ledger."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final, NamedTuple

from tracer.integrity.fields import Facts
from tracer.model import Kind

__all__ = ["Account", "BadPlaceError", "Place"]

LEDGER: Final = "tracer-ledger"
LOSS: Final = "tracer-loss"
CHANGE: Final = "tracer-backend"
_TERMS: Final = ("delivered", "aggregated", "filtered", "lost", "in_flight")

_new: Final = tuple.__new__  # the class's own constructor would take longer
# Kinds of the ledger that lines do not tell apart are counted together.
_GROUPS: Final = {
    kind.label: action
    for action, kinds in {
        "process-executed": [Kind.EXEC],
        "process-exec-failed": [Kind.EXEC_FAILED],
        "process-forked": [Kind.FORK],
        "process-exited": [Kind.EXIT],
        "process-running": [Kind.PROCESS_FOUND],
        "connection-opened": [Kind.CONNECT, Kind.ATTEMPT, Kind.FLOW],
        "connection-accepted": [Kind.ACCEPT],
        "connection-closed": [Kind.CLOSE, Kind.FLOW_END],
        "connection-update": [Kind.TAIL, Kind.UPDATE],
        "connection-aggregated": [Kind.AGGREGATE],
        "connection-owner-changed": [Kind.OWNER],
        "dns-answered": [Kind.PAYLOAD],
        "socket-listening": [Kind.LISTEN],
        "connection-open": [Kind.SOCKET_FOUND],
    }.items()
    for kind in kinds
}
_COUNTED_AS: Final = {"connection-failed": "connection-opened", "connection-attempted": "connection-opened"}
_LISTENING: Final = "socket-listening"
_FOUND: Final = "connection-open"  # listening sockets too, of those that were there before
_KNOWN: Final = frozenset(_GROUPS.values())


class Place(NamedTuple):
    """Where something is: a file by its name, a line from 1 on, and the byte that it begins at; 0 and -1: unknown."""

    file: str
    line: int
    byte: int


class BadPlaceError(Exception):
    """The first place where the stream is not as it must be; the message says what is wrong there."""

    def __init__(self, place: Place, what: str) -> None:
        """``what`` goes behind the place."""
        super().__init__(what)
        self.place = place


class _Session:
    """What was counted of one session."""

    __slots__ = ("counts", "final", "highest", "lowest", "seen_from_start", "unknown")

    def __init__(self, *, seen_from_start: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.unknown = False  # whether there are actions of another version
        # How many lines of a group came before those that are here: between these bounds.
        self.lowest: dict[str, int] = {}
        self.highest: dict[str, int] = {}
        self.seen_from_start = seen_from_start
        self.final: bool = False


class Account:
    """Feed it each line's facts in order. ``chained``: numbers go on from session to session."""

    def __init__(self, *, chained: bool) -> None:
        """Nothing counted yet."""
        self._chained = chained
        self.file = ""
        """The file that the lines are from."""
        self.line = 0  # the last one of it that was taken
        self._name = ""
        self._session = _Session(seen_from_start=False)
        self.next = -1
        self.sessions = 0
        self.open_ended = 0  # sessions before the last one that have no last ledger
        self.lost: Counter[str] = Counter()  # by stage, as the loss records tell
        self.gaps = 0  # intervals of an unknown number of events, as told
        self.complete = True  # as all last ledgers tell
        self._missing = 0  # numbers that no line has
        self._told = 0  # lines that the output could not take, as told
        self._gap: tuple[Place, int, int] | None = None  # the oldest that is not told of: where, from, to

    def take(self, facts: Facts, line: int, byte: int) -> None:
        """Count a line, which is the file's number ``line`` and begins at ``byte``. Raises BadPlaceError."""
        sequence, session, action, _, own = facts
        self.line = line
        place = _new(Place, (self.file, line, byte))
        if session != self._name:
            self._begin(facts, place)
        elif sequence != self.next:
            self._jump(sequence, place)
        self.next = sequence + 1
        counted = _COUNTED_AS.get(action, action)
        if counted in _KNOWN:
            if action == _LISTENING and own.get("snapshot"):
                counted = _FOUND
            self._session.counts[counted] += 1
            if self._session.final:
                raise BadPlaceError(place, "an event behind the last ledger of its session")
        elif action == LEDGER:
            self._check(own.get("ledger"), place)
        elif action == LOSS:
            self._lose(own.get("loss"), place)
        elif action == CHANGE:
            self.gaps += 1
        elif not action.startswith("tracer-"):
            self._session.unknown = True
        elif "gap" in own:
            gap = own["gap"]
            self.gaps += not (isinstance(gap, dict) and gap.get("exact") is True)

    def end(self) -> None:
        """There are no more lines. Raises BadPlaceError."""
        self._settle()

    @property
    def ended(self) -> bool:
        """Whether the last session has its last ledger."""
        return self._session.final

    def _begin(self, facts: Facts, place: Place) -> None:
        first = not self.sessions
        if not first:
            if self._chained:
                if facts.sequence != self.next:
                    self._jump(facts.sequence, place)
            elif facts.sequence:
                raise BadPlaceError(place, f"a session whose first line has number {facts.sequence}, not 0")
            self._settle()
            self.open_ended += not self._session.final
        self.sessions += 1
        self._name = facts.session
        self._session = _Session(seen_from_start=not first or not facts.sequence)

    def _jump(self, sequence: int, place: Place) -> None:
        if sequence > self.next:
            if self._gap is None:
                self._gap = place, self.next, sequence
            self._missing += sequence - self.next
            return
        if self._gap is not None and self._gap[1] <= sequence < self._gap[2]:
            where, missing, found = self._gap
            self._gap = None
            raise BadPlaceError(
                where, f"line number {found} where {missing} should be, and {sequence} comes later: moved"
            )
        raise BadPlaceError(
            place, f"line number {sequence} where {self.next} should be: it was there before, or was moved"
        )

    @property
    def gap(self) -> BadPlaceError | None:
        """The first lines that are missing and that nothing tells of yet."""
        if self._gap is None or self._missing <= self._told:
            return None
        where, first, found = self._gap
        last = found - 1
        which = f"line {first} is" if first == last else f"lines {first} to {last} are"
        return BadPlaceError(where, f"{which} missing before this one, and no loss record tells of it")

    def _settle(self) -> None:
        """All that is missing must have been told by the end of a session."""
        if (gap := self.gap) is not None:
            raise gap
        self._missing = self._told = 0
        self._gap = None

    def _lose(self, loss: Any, place: Place) -> None:
        count = loss.get("count") if isinstance(loss, dict) else None
        stage = loss.get("stage") if isinstance(loss, dict) else None
        if type(count) is not int or count < 0 or type(stage) is not str:
            raise BadPlaceError(place, "a loss record that does not say how much was lost, and where")
        self.lost[stage] += count
        if stage == "sink":
            self._told += count
            if self._told >= self._missing:
                self._gap = None

    def _check(self, ledger: Any, place: Place) -> None:
        try:
            rows = {str(kind): {term: int(row[term]) for term in ("attempts", *_TERMS)} for kind, row in _rows(ledger)}
            stages = {str(kind): sum(map(int, row["lost_by_stage"].values())) for kind, row in _rows(ledger)}
            final, complete = bool(ledger["final"]), bool(ledger["complete"])
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as odd:
            raise BadPlaceError(place, "a ledger that can't be read") from odd
        for kind, row in rows.items():
            if (final and row["attempts"] != sum(row[term] for term in _TERMS)) or row["lost"] != stages[kind]:
                raise BadPlaceError(place, f"the ledger does not balance for {kind}: {_words(row)}")
        if not self._session.unknown:
            self._recount(rows, place)
        if final:
            self._session.final = True
            self.complete = self.complete and complete

    def _recount(self, rows: dict[str, dict[str, int]], place: Place) -> None:
        """Delivered is what was written before; of what is in flight some may have been."""
        session = self._session
        delivered: Counter[str] = Counter()
        within: Counter[str] = Counter()
        for kind, row in rows.items():
            group = _GROUPS.get(kind)
            if group is None:  # a kind of another version: its lines may be among any
                session.unknown = True
                return
            delivered[group] += row["delivered"]
            within[group] += row["delivered"] + row["in_flight"]
        for group in _KNOWN & (delivered.keys() | session.counts.keys()):
            here, least, most = session.counts[group], delivered[group], within[group]
            if not session.seen_from_start:
                # As many must have come before the first of these files as every ledger has more than are here.
                lowest = session.lowest[group] = max(session.lowest.get(group, 0), least - here)
                highest = session.highest[group] = min(session.highest.get(group, most - here), most - here)
                right = lowest <= highest
            else:
                right = least <= here <= most
            if not right:
                kinds = ", ".join(kind for kind in rows if _GROUPS[kind] == group)
                told = f"{least:,} to {most:,}" if most > least else f"{least:,}"
                raise BadPlaceError(place, f"the ledger tells of {told} lines of {kinds}, and there are {here:,}")


def _rows(ledger: Any) -> Any:
    return ledger["by_kind"].items()


def _words(row: dict[str, int]) -> str:
    return f"{row['attempts']:,} attempts, and {' + '.join(f'{row[term]:,} {term}' for term in _TERMS)}"
