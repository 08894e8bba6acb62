"""Make process records of what the proc connector says, with what /proc still tells of each process right after.

The connector has the times, pids and exit statuses; who began when, and what is run, is only in /proc, and gone with
the process. So each process is looked at as soon as it is heard of. What can't be read any more is left out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Final, NamedTuple

from tracer.fallback.connector import ProcEvent, What
from tracer.fallback.files import ProcFiles
from tracer.fallback.glimpse import NOBODY, Brief, Glimpse, Glimpses, Place, Told, bare
from tracer.fallback.owners import Candidate
from tracer.fallback.telling import executed, exited, forked
from tracer.model import NS_PER_TICK, Flag, Kind
from tracer.probes.records import HEADER, KIND, START, TGID, TID, TIME
from tracer.probes.source import boottime

__all__ = ["HOLD_NS", "Heard", "Known"]

HOLD_NS: Final = 2_000_000
"""How long a look at a program is doubted: another exec of the process may have been under way. An exec is told this
much after its process has the new program, unless it is stopped between (ptrace)."""

_APPROXIMATE: Final = int(Flag.APPROXIMATE)
_YOUNG_NS: Final = 5_000_000_000
_EACH_TIME: Final = 32  # processes that are looked at each time


class Known:
    """A process that lives. (pid, start) is its identity; ``start`` in ns since boot, to the tick.

    ``record`` is what is known of it (struct exec_record), ``place`` tells its program from the next. ``seen`` is when
    it was found by a look instead of being heard of, ``settled`` since when it is certain to be in ``netns``.
    """

    __slots__ = ("leaderless", "netns", "place", "record", "seen", "settled", "start")

    def __init__(self, record: bytes, place: Place | None = None, seen: int = 0) -> None:
        """As a look at it tells, or what is known of its parent."""
        self.place = place
        self.seen = seen
        self.settled = boottime()
        self.leaderless = False  # its first thread has ended, others run on
        self.become(record)

    def become(self, record: bytes) -> None:
        """Something new is known of it."""
        self.record = record
        self.start: int = HEADER.unpack_from(record)[START]
        self.netns = Told.of(record).ids.netns


class _Held(NamedTuple):
    """A record that waits for its turn, and until when: an exec for certainty, others for an exec before them."""

    record: bytes
    pid: int
    until: int
    place: Place | None


class Heard:
    """Who lives, and what to say of them. ``put`` takes the records, in the order in which the connector told."""

    def __init__(self, files: ProcFiles, put: Callable[[bytes], object], without: Collection[int]) -> None:
        """``without`` are processes that are not looked at: they are filtered anyway."""
        self._files = files
        self._glimpses = Glimpses(files)
        self._put = put
        self._without = frozenset(without)
        self._held: deque[_Held] = deque()
        self.living: dict[int, Known] = {}
        self.members: dict[int, set[int]] = {}
        """The processes of each network namespace, as far as is known."""
        self._looked_at = 0
        self.unknown = 0
        """Exits of processes that nothing was known of."""

    # Knowing.

    def learn(self) -> None:
        """Take in every process that runs now, without a word."""
        for pid in self._files.pids():
            began = boottime()
            record = self._described(pid)
            if record is not None:
                self._know(pid, Known(record, self._place(*_identity(record)), began))

    def relearn(self) -> None:
        """After a gap: tell what has changed meanwhile, as far as a look can see it. Raises OSError."""
        self.release(boottime(), everything=True)
        there = {pid: self._glimpses.brief(pid) for pid in self._files.pids()}
        now = boottime()
        for pid, known in list(self.living.items()):
            brief = there.get(pid)
            if pid not in there or (brief is not None and (brief.start != known.start or _is_over(brief))):
                self._say(exited(known.record, now, status=None, cpu_ticks=0, flags=_APPROXIMATE), pid)
                self._forget(pid)
        found = [(brief.start, pid, brief) for pid, brief in there.items() if brief is not None]
        for _, pid, brief in sorted(found):
            same = self.living.get(pid)
            if same is None:
                self._find(pid, brief)
            elif brief.place is not None and brief.place != same.place:
                same.seen = boottime()
                self._execute(pid, same, same.seen, look=True)
        self.release(boottime(), everything=True)

    def _find(self, pid: int, brief: Brief) -> None:
        """A process that began in a gap."""
        record = self._described(pid)
        if record is None or pid in self._without or _is_over(brief) or _identity(record) != (pid, brief.start):
            return
        now = boottime()
        self._know(pid, Known(record, brief.place, now))
        self._say(forked(record, now, forker=0, flags=_APPROXIMATE), pid)
        if brief.executed:
            self._say(executed(record, now, flags=_APPROXIMATE), pid)

    def _described(self, pid: int) -> bytes | None:
        with suppress(OSError, ValueError):
            return self._glimpses.record(pid)
        return None

    def _place(self, pid: int, start: int) -> Place | None:
        brief = self._glimpses.brief(pid)
        return brief.place if brief is not None and brief.start == start else None

    def _know(self, pid: int, known: Known) -> None:
        self.living[pid] = known
        if known.netns:
            self.members.setdefault(known.netns, set()).add(pid)

    def _forget(self, pid: int) -> None:
        known = self.living.pop(pid)
        self._leave(pid, known.netns)

    def _leave(self, pid: int, netns: int) -> None:
        members = self.members.get(netns)
        if members is not None:
            members.discard(pid)
            if not members:
                del self.members[netns]

    def _become(self, pid: int, known: Known, record: bytes) -> None:
        before = known.netns
        known.become(record)
        if known.netns != before:
            self._leave(pid, before)
            if known.netns:
                self.members.setdefault(known.netns, set()).add(pid)

    def look_again(self, pid: int) -> int:
        """The network namespace that a process is in now, which may be another any time; 0 when that can't be told."""
        netns, _ = self._glimpses.namespaces(pid)
        known = self.living.get(pid)
        if netns and known is not None and netns != known.netns:
            told = Told.of(known.record)
            self._become(pid, known, told._replace(ids=told.ids._replace(netns=netns)).put_into(known.record))
            known.settled = boottime()
        return netns

    def look_around(self) -> None:
        """See who has gone to another network namespace without a word: the young, and some of the others in turn."""
        now = boottime()
        young = [pid for pid, known in self.living.items() if now - known.start < _YOUNG_NS]
        others = [pid for pid in self.living if pid > self._looked_at]
        turn = sorted(others)[:_EACH_TIME]
        self._looked_at = turn[-1] if len(turn) == _EACH_TIME else 0
        for pid in {*young[-_EACH_TIME:], *turn}:
            self.look_again(pid)

    def candidate(self, pid: int) -> Candidate | None:
        """A process as one that may have a socket."""
        known = self.living.get(pid)
        return None if known is None else Candidate(pid, self._glimpses.ticks(known.start))

    def parent_of(self, pid: int) -> int:
        """Whose child a process is, as far as is known; 0 where it is not."""
        known = self.living.get(pid)
        return 0 if known is None else Told.of(known.record).parent

    # Hearing.

    def take(self, events: Iterable[ProcEvent]) -> None:
        """Make records of what was heard. Raises OSError when /proc itself is gone."""
        events = list(events)
        ended = {event.tgid for event in events if event.what == What.EXIT and event.pid == event.tgid}
        for event in events:
            what = event.what
            if what == What.FORK:
                if event.pid == event.tgid:
                    self._forked(event)
            elif what == What.EXEC:
                self._executed(event, look=event.tgid not in ended)
            elif what == What.EXIT:
                self._exited(event)
            elif event.pid == event.tgid:
                self._changed(event)

    def release(self, heard: int, *, everything: bool = False) -> None:
        """Let go of the records whose time had come at ``heard`` (boottime ns), from when on the connector was read."""
        held = self._held
        while held and (everything or held[0].until <= heard):
            self._put(held.popleft().record)

    @property
    def due(self) -> int:
        """When the next record can go (boottime ns); 0: none is held."""
        return self._held[0].until if self._held else 0

    def _say(self, record: bytes, pid: int, until: int = 0, place: Place | None = None) -> None:
        if until or self._held:
            self._held.append(_Held(record, pid, until, place))
        else:
            self._put(record)

    def _forked(self, event: ProcEvent) -> None:
        pid, parent = event.tgid, event.second
        if pid in self._without or parent in self._without:
            return
        known = self.living.get(pid)
        if known is not None:
            if known.seen > event.time:  # found by a look since
                return
            self._forget(pid)  # its exit was not heard
        above = self.living.get(parent)
        base = above.record if above is not None else self._looked_up(parent)
        told = Told.of(base)
        # It is still there to tell when it began, or it began just before its message.
        brief, netns, pidns = self._glimpses.newborn(pid)
        exact = brief is not None and brief.start <= event.time  # else another one has the pid by now
        start = brief.start if brief is not None and exact else event.time - event.time % NS_PER_TICK
        if not exact:
            netns = pidns = 0
        ids = told.ids._replace(netns=netns, pidns=pidns, vpid=0)  # clone(2) may give it namespaces of its own
        if pidns and pidns == told.ids.pidns and told.ids.vpid == parent:
            ids = ids._replace(vpid=pid)  # where the parent's is the one it has outside, so is the child's
        parent_pid, parent_start = _identity(base)
        told = told._replace(parent=parent, parent_start=parent_start if parent_pid == parent else 0, ids=ids)
        head = list(HEADER.unpack_from(base))
        head[TIME], head[START], head[TGID], head[TID], head[KIND] = event.time, start, pid, pid, Kind.PROCESS_FOUND
        record = told.put_into(HEADER.pack(*head) + base[HEADER.size :])
        forker, place = parent, above.place if above is not None else None
        if exact and brief is not None and not brief.executed and brief.place is not None and brief.place != place:
            # What it runs is not its parent's: who forked it is another one (CLONE_PARENT).
            record, forker, place = bare(record), 0, brief.place
        child = Known(record, place)
        if netns == Told.of(base).ids.netns:
            child.settled = event.time  # its parent was there before, and it still is
        self._know(pid, child)
        self._say(forked(record, event.time, forker=forker, flags=0 if exact else _APPROXIMATE), pid)

    def _looked_up(self, pid: int) -> bytes:
        """The record of a process that was not heard of, because it began in a gap."""
        record = self._described(pid)
        if record is None:
            return NOBODY
        self._know(pid, Known(record, self._place(*_identity(record))))
        return record

    def _executed(self, event: ProcEvent, *, look: bool) -> None:
        pid = event.tgid
        known = self.living.get(pid)
        if pid in self._without or (known is not None and known.seen > event.time):
            return
        if known is None:
            self._looked_up(pid)
            known = self.living.get(pid)
            if known is None:
                self.unknown += 1
                return
        self._execute(pid, known, event.time, look=look)

    def _execute(self, pid: int, known: Known, time: int, *, look: bool) -> None:
        glimpse = self._glimpses.again(known.record) if look else None
        if glimpse is None:
            glimpse = Glimpse(_unnamed(known.record), None)
        record, place = glimpse
        self._doubt(pid, time, place)
        netns = known.netns
        self._become(pid, known, record)
        known.place = place
        moved = netns != known.netns
        if moved:
            known.settled = boottime()
        if moved or known.settled > time:  # it went to another: before this exec, or since
            told = Told.of(record)
            record = told._replace(ids=told.ids._replace(netns=0)).put_into(record)
        self._say(executed(record, time, flags=_APPROXIMATE), pid, boottime() + HOLD_NS, place)

    def _doubt(self, pid: int, time: int, place: Place | None) -> None:
        """What was read after an exec of the same process may have been this one's program already."""
        for at, held in enumerate(self._held):
            doubtful = held.place is not None and time < held.until and place in (None, held.place)
            if held.pid == pid and doubtful:
                self._held[at] = held._replace(record=_unnamed(held.record), place=None)

    def _exited(self, event: ProcEvent) -> None:
        pid = event.tgid
        known = self.living.get(pid)
        if known is None:
            self.unknown += event.pid == pid and pid not in self._without
            return
        if event.pid != pid and not known.leaderless:
            return
        brief = self._glimpses.brief(pid)
        ours = brief is not None and brief.start == known.start
        if brief is not None and ours and not _is_over(brief):
            known.leaderless = True
            return
        cpu = self._glimpses.cpu_ticks(pid) if ours else 0
        self._say(exited(known.record, event.time, status=event.first & 0xFFFF, cpu_ticks=cpu), pid)
        self._forget(pid)

    def sweep(self) -> None:
        """Look after processes whose first thread has ended: who is gone by now was not heard to go."""
        for pid, known in [(pid, known) for pid, known in self.living.items() if known.leaderless]:
            brief = self._glimpses.brief(pid)
            if brief is None or brief.start != known.start or _is_over(brief):
                self._say(exited(known.record, boottime(), status=None, cpu_ticks=0, flags=_APPROXIMATE), pid)
                self._forget(pid)

    def _changed(self, event: ProcEvent) -> None:
        pid, what = event.tgid, event.what
        known = self.living.get(pid)
        if known is None:
            return
        told = Told.of(known.record)
        if what == What.COMM:
            told = told._replace(comm=event.name)
        elif what == What.UID:
            told = told._replace(ids=told.ids._replace(uid=event.first, euid=event.second))
        elif what == What.GID:
            told = told._replace(ids=told.ids._replace(gid=event.first, egid=event.second))
        elif what == What.SID:
            told = told._replace(ids=told.ids._replace(session=pid, group=pid))
        known.record = told.put_into(known.record)


def _identity(record: bytes) -> tuple[int, int]:
    header = HEADER.unpack_from(record)
    return header[TGID], header[START]


def _is_over(brief: Brief) -> bool:
    """Whether all its threads have ended."""
    return brief.ended and brief.threads <= 1


def _unnamed(record: bytes) -> bytes:
    """The record without what the process runs, and without the name that it has from that."""
    return Told.of(record)._replace(comm=b"").put_into(bare(record))
