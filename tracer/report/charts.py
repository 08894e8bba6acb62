"""The charts of a report, as SVG in the page: lives of processes, events over time, latencies of system calls."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from tracer.formats.text import cut, human_duration, visible
from tracer.report.markup import Markup, join, tag
from tracer.report.summary import Process, Summary, Syscall

__all__ = ["KINDS", "activity", "latency", "lives"]

KINDS: Final = {
    "process": "processes",
    "network": "network",
    "file": "files",
    "refused": "refused and failed",
    "other": "other",
}
"""The kinds of events that are told apart by colour, and their names."""

_WIDTH: Final = 1100
_LEFT: Final = 190  # pixels for the names of processes
_BINS: Final = 110
_HIGH: Final = 120
_ROW: Final = 18
_TICKS: Final = 6
_SHORT: Final = 2  # pixels of the shortest life that is shown


class _Scale:
    """Where a moment is on a chart."""

    def __init__(self, first: int, last: int, left: int = _LEFT) -> None:
        self.first = first
        self.span = max(last - first, 1)
        self._left = left

    def at(self, when: int) -> float:
        part = min(max(when - self.first, 0), self.span) / self.span
        return round(self._left + part * (_WIDTH - self._left - 10), 1)

    def ticks(self, height: int) -> list[Markup]:
        """Lines for some moments, with how long after the first one they are."""
        made = []
        for number in range(_TICKS):
            since = self.span * number // (_TICKS - 1)
            x = self.at(self.first + since)
            anchor = "end" if number == _TICKS - 1 else "start" if number == 0 else "middle"
            made.append(tag("line", x1=x, x2=x, y1=0, y2=height, class_="grid"))
            made.append(
                tag(
                    "text",
                    f"+{human_duration(since)}" if since else "0",
                    x=x,
                    y=height + 13,
                    text_anchor=anchor,
                    class_="axis",
                )
            )
        return made


def activity(summary: Summary) -> Markup:
    """How many events of each kind there were in each part of the time, as stacked bars."""
    scale = _Scale(summary.first, summary.last)
    counts = [dict.fromkeys(KINDS, 0) for _ in range(_BINS)]
    for when, kind in summary.moments:
        counts[min(max(when - scale.first, 0) * _BINS // (scale.span + 1), _BINS - 1)][kind] += 1
    most = max((sum(each.values()) for each in counts), default=0) or 1
    wide = (_WIDTH - _LEFT - 10) / _BINS
    bars = []
    for number, each in enumerate(counts):
        y = float(_HIGH)
        for kind, count in each.items():
            if count:
                high = round(count / most * (_HIGH - 12), 2)
                y -= high
                x = round(_LEFT + number * wide, 1)
                bars.append(tag("rect", x=x, y=round(y, 2), width=round(wide - 1, 1), height=high, class_=kind))
    label = tag("text", f"{most:,} at most", x=_LEFT - 8, y=22, text_anchor="end", class_="axis")
    title = tag("title", f"{len(summary.moments):,} events over {human_duration(scale.span)}")
    return tag("svg", title, *scale.ticks(_HIGH), label, *bars, view_box=f"0 0 {_WIDTH} {_HIGH + 20}", role="img")


def lives(processes: Sequence[Process], first: int, last: int) -> Markup:
    """When these processes were there; one whose beginning or end is not known reaches to the edge."""
    scale = _Scale(first, last)
    height = len(processes) * _ROW + 4
    rows = []
    for number, process in enumerate(processes):
        y = number * _ROW + 3
        begin, end = scale.at(process.start or first), scale.at(process.end or last)
        shown = cut(visible(f"{process.label} ({process.pid})"), 26)
        life = human_duration(process.end - process.start) if process.end and process.start else ""
        about = f"{process.label} ({process.pid}) {life} {process.exit}".rstrip()
        rows.append(tag("text", shown, x=_LEFT - 8, y=y + 10, text_anchor="end"))
        rows.append(
            tag(
                "rect",
                tag("title", about),
                x=begin,
                y=y,
                width=max(round(end - begin, 1), _SHORT),
                height=_ROW - 5,
                rx=2,
                class_="life" if not process.exit.startswith("killed") else "refused",
            )
        )
    return tag("svg", *scale.ticks(height), *rows, view_box=f"0 0 {_WIDTH} {height + 20}", role="img")


def latency(syscall: Syscall) -> Markup:
    """How often a system call took how long, in powers of two."""
    used = [bucket for bucket, count in enumerate(syscall.histogram) if count > 0]
    if not used:
        return Markup("")
    low, high = used[0], used[-1]
    buckets = range(low, high + 1)
    most = max(syscall.histogram)
    wide = 260 / max(len(buckets), 8)
    bars = []
    for number, bucket in enumerate(buckets):
        count = max(syscall.histogram[bucket], 0)
        tall = round(count / most * 70, 1)
        words = f"{count:,} of {human_duration(1 << bucket)} to {human_duration(1 << (bucket + 1))}"
        bars.append(
            tag(
                "rect",
                tag("title", words),
                x=round(number * wide, 1),
                y=round(74 - tall, 1),
                width=round(wide - 1, 1),
                height=tall,
                class_="process",
            )
        )
    ends = join(
        [
            tag("text", _nanoseconds(1 << low), x=0, y=88, class_="axis"),
            tag("text", _nanoseconds(1 << (high + 1)), x=260, y=88, text_anchor="end", class_="axis"),
        ]
    )
    line = tag("line", x1=0, x2=260, y1=74.5, y2=74.5, class_="grid")
    return tag("svg", tag("title", f"latency of {syscall.name}"), line, *bars, ends, view_box="0 0 260 92", role="img")


def _nanoseconds(count: int) -> str:
    return f"{count} ns" if count < 1000 else human_duration(count)
