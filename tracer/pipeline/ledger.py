"""Prove that nothing is missing, or say what is: every attempt is accounted for by a counter of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tracer.model import RING_KINDS, Kind
from tracer.probes.records import Tally, read_tallies

__all__ = ["Ledger", "Loss"]

_KINDS: Final = len(RING_KINDS)
_QUIET_NS: Final = 250_000_000  # ends a burst of failures, as in bpf/common.bpf.h
_STAGES: Final = ("emit", "ring", "late", "decode", "sink")


class Loss(NamedTuple):
    """Records of one kind that did not get through, as an interval (boottime ns)."""

    kind: str
    stage: str
    records: int
    first: int
    last: int
    cpus: list[int]
    causes: dict[str, int]


class _Reported:
    """What of one (cpu, kind)'s failures has been said already."""

    __slots__ = ("count", "first", "last", "no_ring", "no_slot", "no_space")

    def __init__(self) -> None:
        self.count = self.last = self.no_space = self.no_ring = self.no_slot = 0
        self.first = 0  # where what has not been said began, or 0


class Ledger:
    """attempts = delivered + aggregated + filtered + lost + in flight, by kind, since the start.

    The kernel side counts attempts, filtered and failed; this side counts what it filters, can't decode, delivers and
    can't deliver, what it makes part of other events, and what it holds. No term is the difference of others, so that a
    mistake shows as an imbalance.
    """

    def __init__(self) -> None:
        """Nothing counted yet."""
        self.delivered: Counter[int] = Counter()
        self.filtered: Counter[int] = Counter()  # by the view; the kernel's own are in its tallies
        self.aggregated: Counter[int] = Counter()  # no event of their own: what they tell is in others
        self.found: Counter[int] = Counter()  # of the iterators, and events that share a record with another
        self.sink_lost: Counter[int] = Counter()
        self.late = 0
        self.unheard = 0  # messages of unknown kinds that a backend without probes had no room for
        self.gaps = 0  # intervals of which nobody knows what is missing: a backend was lost
        self.no_ring = 0  # records of CPUs that had no ring, as of the last losses()
        self._sink_reported: Counter[int] = Counter()
        self._tallies: list[list[Tally]] = []
        self._reported: dict[tuple[int, int], _Reported] = {}
        self.raw = b""  # the newest counters
        self._looked = 1 << 64  # when losses() was asked last, ns

    def tallies(self, data: bytes) -> None:
        """Take in the kernel's counters (the tallies map, all CPUs)."""
        if data != self.raw:
            self.raw = data
            self._tallies = read_tallies(data, _KINDS)

    def losses(self, now: int, everything: bool) -> list[Loss]:
        """The losses not told yet whose burst is over (or all of them)."""
        found: dict[int, list[tuple[int, Tally, _Reported]]] = {}
        looked, self._looked = self._looked, now
        no_ring = 0
        for cpu, kinds in enumerate(self._tallies):
            for kind, tally in enumerate(kinds):
                if not tally.failed:
                    continue
                no_ring += tally.no_ring
                reported = self._reported.get((cpu, kind))
                if reported is None:
                    reported = self._reported[cpu, kind] = _Reported()
                if tally.failed <= reported.count:
                    continue
                if not reported.first:
                    # The kernel keeps the newest burst's beginning alone; a long look away may have missed another.
                    first = min(tally.failed_first, looked) if now - looked > _QUIET_NS else tally.failed_first
                    reported.first = max(first, reported.last)
                if everything or now - tally.failed_last > _QUIET_NS:
                    found.setdefault(kind, []).append((cpu, tally, reported))
        self.no_ring = no_ring
        return [self._loss(Kind(kind), parts) for kind, parts in found.items()]

    @staticmethod
    def _loss(kind: Kind, parts: list[tuple[int, Tally, _Reported]]) -> Loss:
        count, causes = 0, Counter[str]()
        first, last = 1 << 64, 0
        for _, tally, reported in parts:
            count += tally.failed - reported.count
            for cause in ("no_space", "no_ring", "no_slot"):
                causes[cause] += getattr(tally, cause) - getattr(reported, cause)
                setattr(reported, cause, getattr(tally, cause))
            first, reported.first = min(first, reported.first), 0
            last = max(last, tally.failed_last)
            reported.count, reported.last = tally.failed, tally.failed_last
        return Loss(
            kind.label, "emit", count, first, last, [cpu for cpu, _, _ in parts], {k: v for k, v in causes.items() if v}
        )

    def sink_losses(self, first: int, last: int) -> list[Loss]:
        """What the output could not take, not told yet."""
        found = self.sink_lost - self._sink_reported
        self._sink_reported = Counter(self.sink_lost)
        return [Loss(Kind(kind).label, "sink", count, first, last, [], {}) for kind, count in sorted(found.items())]

    def _sum(self, kind: int, what: str) -> int:
        return sum(getattr(kinds[kind], what) for kinds in self._tallies)

    @property
    def failed_with_number(self) -> int:
        """Failures in the kernel that used up a sequence number."""
        return sum(t.failed - t.no_slot for kinds in self._tallies for t in kinds)

    def statement(
        self,
        *,
        in_flight: Counter[int],
        undecodable: Counter[int],
        missing: int,
        missed: dict[str, int],
        evicted: dict[str, int],
        final: bool,
        uncounted: Sequence[str] = (),
        moved: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The ledger record's body; ``missing`` are the gaps that the sequence numbers show.

        ``uncounted`` is what the backend may miss without knowing: with that nothing can be called complete.
        """
        by_kind: dict[str, Any] = {}
        total: Counter[str] = Counter()
        stages: Counter[str] = Counter()
        balanced = True
        for kind in RING_KINDS:
            row = self._row(kind, in_flight[kind], undecodable[kind])
            balanced &= self._balances(row)
            by_kind[kind.label] = row
        for found in (Kind.PROCESS_FOUND, Kind.SOCKET_FOUND, Kind.UPDATE, Kind.AGGREGATE):
            row = self._found_row(found, in_flight[found])
            balanced &= self._balances(row)
            by_kind[found.label] = row
        for row in by_kind.values():
            for term, value in row.items():
                if term == "lost_by_stage":
                    stages.update(value)
                else:
                    total[term] += value
        # A gap in the numbers that no failure explains: lost between the ring and us, of a kind nobody knows.
        unexplained = max(0, missing - self.failed_with_number) + self.unheard
        stages["ring"] += unexplained
        total["lost"] += unexplained
        nameless = sum(count for kind, count in undecodable.items() if kind >= _KINDS)
        stages["decode"] += nameless
        total["lost"] += nameless
        gone = {name: count for name, count in missed.items() if count} | {n: c for n, c in evicted.items() if c}
        full = {kind.label: count for kind in RING_KINDS if (count := self._sum(kind, "map_full"))}
        truncated = sum(self._sum(kind, "truncated") for kind in RING_KINDS)
        beside: dict[str, Any] = {"programs": gone, "map_full": full}
        if uncounted:
            beside["uncounted"] = list(uncounted)
        if self.gaps:
            beside["gaps"] = self.gaps
        body: dict[str, Any] = {
            "total": {**total, "lost_by_stage": {stage: stages[stage] for stage in _STAGES}},
            "by_kind": by_kind,
            "missed": beside,
            "late": self.late,
            "truncated": truncated,
            "final": final,
            "balanced": balanced,
            "complete": balanced and not total["lost"] and not any(beside.values()),
        }
        if moved is not None:
            body["bytes"] = moved
            body["complete"] = body["complete"] and moved.get("balanced", True) and not moved["lost"]
        return body

    def _row(self, kind: Kind, in_flight: int, undecodable: int) -> dict[str, Any]:
        stages = {"emit": self._sum(kind, "failed"), "ring": 0, "late": 0, "decode": undecodable}
        stages["sink"] = self.sink_lost[kind]
        return {
            "attempts": self._sum(kind, "attempts") + self.found[kind],
            "delivered": self.delivered[kind],
            "aggregated": self._sum(kind, "collapsed") + self.aggregated[kind],
            "filtered": self._sum(kind, "filtered") + self.filtered[kind],
            "lost": sum(stages.values()),
            "lost_by_stage": stages,
            "in_flight": in_flight,
        }

    def _found_row(self, kind: Kind, in_flight: int) -> dict[str, Any]:
        lost = self.sink_lost[kind]
        return {
            "attempts": self.found[kind],
            "delivered": self.delivered[kind],
            "aggregated": 0,
            "filtered": self.filtered[kind],
            "lost": lost,
            "lost_by_stage": {"emit": 0, "ring": 0, "late": 0, "decode": 0, "sink": lost},
            "in_flight": in_flight,
        }

    @staticmethod
    def _balances(row: dict[str, Any]) -> bool:
        terms = ("delivered", "aggregated", "filtered", "lost", "in_flight")
        return bool(row["attempts"] == sum(row[term] for term in terms))
