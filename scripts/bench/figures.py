"""The arithmetic of the benchmark, and the rows it ends in: medians, ratios of interleaved runs, budgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Final

__all__ = ["Paired", "Row", "Spread", "fitted", "table"]

_HEADS: Final = ("what", "budget", "median", "spread", "", "")


@dataclass(frozen=True)
class Spread:
    """Median, least and most of some figures."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; raises ValueError for none."""
        if not values:
            raise ValueError("no values: nothing was measured")
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True)
class Paired:
    """Runs without and with something, taken in turn: values at the same place were measured one after the other."""

    without: Sequence[float]
    with_it: Sequence[float]

    @property
    def ratios(self) -> Spread:
        """Of the ratio of each pair. Raises ValueError when there are none, or not as many of one as of the other."""
        return Spread.of([one / base for base, one in zip(self.without, self.with_it, strict=True)])

    @property
    def of_medians(self) -> float:
        """The median with it over the median without: what drifts within a pair matters less here."""
        return Spread.of(self.with_it).median / Spread.of(self.without).median

    @property
    def of_least(self) -> float:
        """The fastest run with it over the fastest without: what is left when nothing else ran at the time."""
        return min(self.with_it) / min(self.without)

    @property
    def noise(self) -> Spread:
        """Of the ratio of each run without it to the one without it before: what nothing at all differs by."""
        return Spread.of([after / before for before, after in zip(self.without, self.without[1:], strict=False)])


@dataclass(frozen=True)
class Row:
    """One line of the table. ``budget`` is the most that is allowed, or with ``at_least`` the least; None: none is set.

    ``form`` is a format specification of the numbers, ``unit`` comes behind them. ``wrong`` are findings that no figure
    outweighs: lost or miscounted events.
    """

    name: str
    group: str
    spread: Spread | None
    budget: float | None = None
    at_least: bool = False
    form: str = ".3f"
    unit: str = ""
    note: str = ""
    wrong: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """``ok``, ``over`` or ``under`` the budget, ``WRONG`` for miscounted events, nothing where nothing is asked."""
        if self.wrong:
            return "WRONG"
        if self.budget is None or self.spread is None:
            return ""
        # What is printed is what counts: a figure that reads as the budget keeps to it.
        value, budget = (
            float(format(number, self.form).replace(",", "")) for number in (self.spread.median, self.budget)
        )
        if self.at_least:
            return "ok" if value >= budget else "under"
        return "ok" if value <= budget else "over"

    @property
    def cells(self) -> tuple[str, str, str, str, str, str]:
        """The row as it is printed."""
        budget = middle = around = ""
        if self.budget is not None:
            budget = f"{'≥' if self.at_least else '≤'} {self._shown(self.budget)}"
        if self.spread is not None:
            middle = self._shown(self.spread.median)
            if self.spread.least != self.spread.most:
                around = f"{self.spread.least:{self.form}} to {self.spread.most:{self.form}}"
        return (
            self.name,
            budget,
            middle,
            around,
            self.verdict,
            "; ".join([*self.wrong, *([self.note] if self.note else [])]),
        )

    def _shown(self, value: float) -> str:
        return f"{value:{self.form}}{self.unit}"

    def as_json(self) -> dict[str, Any]:
        """The row for a program to read."""
        return asdict(self) | {"verdict": self.verdict}


def fitted(rows: Sequence[Row]) -> list[int]:
    """The width of each column, its head included."""
    lines = [_HEADS, *(row.cells for row in rows)]
    return [max(len(line[column]) for line in lines) for column in range(len(_HEADS))]


def table(rows: Sequence[Row]) -> str:
    """The rows for people, by group."""
    widths = fitted(rows)
    lines = []
    group = ""
    for cells, row_group in [(_HEADS, ""), *((row.cells, row.group) for row in rows)]:
        if row_group != group:
            lines += ["", row_group]
            group = row_group
        name, *numbers, verdict, note = (cell if column else cell.ljust(widths[0]) for column, cell in enumerate(cells))
        right = [cell.rjust(width) for cell, width in zip(numbers, widths[1:4], strict=True)]
        lines.append("  ".join(["", name, *right, verdict.ljust(widths[4]), note]).rstrip())
    return "\n".join(lines)
