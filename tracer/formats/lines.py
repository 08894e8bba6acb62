"""Make lines of events, kind by kind, from pieces of text most of which were rendered before."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

from tracer.formats.ecs_values import second_of
from tracer.formats.shorten import LINE_MOST, shortened
from tracer.model import Event

__all__ = ["Parts", "Render", "lines_of"]

Parts = tuple[str, str, str, str]
"""A line: up to its process, the process (a piece of its own because it is long, and kept), what follows that up to
what all lines end with, and that."""

Render = Callable[[Any, int, str, int], Parts]
"""Makes the pieces, of an event, wall clock minus CLOCK_BOOTTIME in ns, the event's time, and the line's number."""

_BLOCK: Final = 16  # lines put together at once: their memory is used again and again
_BYTES_MOST: Final = 4  # that a character takes in UTF-8
_TIME: Final = 1  # the position of the time in every event
_NONE: Final = ("", "", "", "")


def lines_of(
    events: Sequence[Event],
    renders: Mapping[int | str, Render],
    of_notice: Render,
    offset: int,
    sequence: int,
    first: int | None = None,
) -> list[bytes]:
    """A line for each event, in their order, numbered from ``sequence`` on; a piece may hold several.

    Rendered kind by kind, those of the kind ``first`` before all others: a processor runs the same way again much
    faster than one way after another.
    """
    places: defaultdict[int | str, list[int]] = defaultdict(list)
    if first is not None:
        places[first] = []
    for place, event in enumerate(events):
        places[event[0]].append(place)
    found: list[Parts] = [_NONE] * len(events)
    since, second = second_of(events[0][_TIME] + offset) if events else (0, "")
    since -= offset
    for kind, alike in places.items():
        render: Render = renders.get(kind, of_notice)
        for place in alike:
            event = events[place]
            rest = event[_TIME] - since
            if not 0 <= rest < 1_000_000_000:
                since, second = second_of(event[_TIME] + offset)
                since -= offset
                rest = event[_TIME] - since
            # The time as stamp() tells it, without a call.
            found[place] = render(event, offset, f"{second}{str(rest).zfill(9)}Z", sequence + place)
    blocks: list[bytes] = []
    for begin in range(0, len(found), _BLOCK):
        blocks += _joined(found[begin : begin + _BLOCK])
    return blocks


def _joined(lines: list[Parts]) -> list[bytes]:
    """The lines as bytes, all in one piece unless one may be too long.

    To put a line together by itself, and to copy that as bytes, takes longer, and more of a processor's cache.
    """
    text = "".join(chain.from_iterable(lines))
    if len(text) <= LINE_MOST and text.isascii():
        return [text.encode()]
    most = max(map(len, chain.from_iterable(lines))) * len(_NONE)  # no line has more characters, most have far less
    if (most if text.isascii() else most * _BYTES_MOST) <= LINE_MOST:
        return [text.encode()]
    whole = ["".join(line).encode() for line in lines]
    return [line if len(line) <= LINE_MOST else shortened(line) for line in whole]
