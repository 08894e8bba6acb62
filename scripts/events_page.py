"""Bring the tables of docs/events.md up to date with the events: `python -m scripts.events_page`.

What each field and action is comes from the events that the tests render, which are all that there are; what it means
stays as it was written. A field that is new gets a row behind the one that is most like it, for somebody to explain.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

__all__ = ["PAGE", "PageError", "page", "types_of"]

PAGE: Final = Path(__file__).parents[1] / "docs" / "events.md"
_FIELDS: Final = "| field | type |"
_ACTIONS: Final = "| action | event.kind |"
_STAMP: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")
_OUTCOMES: Final = ("success", "failure", "unknown")
_WILDCARD: Final = "wildcard"  # what ECS has for a text that is long; in a line it looks like any other


class PageError(ValueError):
    """An event that no table can tell of."""


def types_of(leaves: Iterable[tuple[str, Any]]) -> dict[str, str]:
    """Field -> type, as the page writes it, from fields with their values. Raises PageError where values differ."""
    found: dict[str, set[str]] = {}
    for name, value in leaves:
        several = isinstance(value, list)
        for each in value if several else [value]:
            found.setdefault(name, set()).add(_type(each) + " array" * several)
    for name, types in found.items():
        if types in ({"keyword", "ip"}, {"keyword array", "ip array"}):  # a text may look like an address
            types.difference_update({"ip", "ip array"})
        if len(types) > 1:
            raise PageError(f"{name} is of several types: {', '.join(sorted(types))}")
    return {name: types.pop() for name, types in found.items()}


def _type(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "long"
    if isinstance(value, dict) and value.keys() == {"lon", "lat"}:
        return "geo_point"
    if not isinstance(value, str):
        raise PageError(f"{value!r}: no type of a field")
    if _STAMP.fullmatch(value):
        return "date"
    try:
        ip_address(value)
    except ValueError:
        return "keyword"
    return "ip"


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().removeprefix("|").removesuffix("|").split(" | ")]


def _tables(lines: list[str], head: str) -> Iterator[tuple[int, int]]:
    """Where the rows of each table with this head begin and end."""
    for number, line in enumerate(lines):
        if line.startswith(head):
            begin = end = number + 2
            while end < len(lines) and lines[end].startswith("|"):
                end += 1
            yield begin, end


def _field_rows(lines: list[str], types: dict[str, str]) -> None:
    """Bring the rows of fields up to date, in place. Raises PageError."""
    told: dict[str, int] = {}
    for begin, end in reversed(list(_tables(lines, _FIELDS))):
        rows = []
        for row in lines[begin:end]:
            name, kind, *meaning = _cells(row)
            known = types.get(name.strip("`"))
            if known is None:
                continue  # no event has it any more
            if (kind, known) == (_WILDCARD, "keyword"):
                known = kind
            rows.append(f"| {name} | {known} | {' | '.join(meaning)} |".replace("|  |", "| |"))
        lines[begin:end] = rows
    for begin, end in _tables(lines, _FIELDS):
        for number in range(begin, end):
            told[_cells(lines[number])[0].strip("`")] = number
    for name in sorted(types.keys() - told.keys(), reverse=True):
        alike = [(len(_common(name, other)), number) for other, number in told.items()]
        length, number = max(alike, default=(0, 0))
        if not length:
            raise PageError(f"{name}: there is no table of its like; begin one")
        lines.insert(number + 1, f"| `{name}` | {types[name]} | |")
        told = {other: at + (at > number) for other, at in told.items()}


def _common(one: str, other: str) -> list[str]:
    """The parts that two names begin with."""
    found = []
    for part, same in zip(one.split("."), other.split("."), strict=False):
        if part != same:
            break
        found.append(part)
    return found


def _action_rows(lines: list[str], events: Iterable[dict[str, Any]]) -> None:
    """Bring the rows of actions up to date, in place."""
    outcomes: dict[tuple[str, ...], set[str]] = {}
    for event in events:
        key = event["action"], event["kind"], ", ".join(event["category"]), ", ".join(event["type"])
        outcomes.setdefault(key, set()).update({event["outcome"]} if "outcome" in event else set())
    for begin, end in _tables(lines, _ACTIONS):
        rows = []
        for row in lines[begin:end]:
            action, kind, category, types, _, *rest = _cells(row)
            seen = outcomes.pop((action.strip("`"), kind, category, types), None)
            if seen is not None:
                shown = ", ".join(outcome for outcome in _OUTCOMES if outcome in seen) or "-"
                rows.append(f"| {' | '.join([action, kind, category, types, shown, *rest])} |")
        for (action, *facts), seen in outcomes.items():
            shown = ", ".join(outcome for outcome in _OUTCOMES if outcome in seen) or "-"
            rows.append(f"| `{action}` | {' | '.join([*facts, shown, '-'])} | |")
        lines[begin:end] = rows


def page(text: str, types: dict[str, str], events: Iterable[dict[str, Any]]) -> str:
    """The page with its tables up to date: ``types`` of fields, ``events`` what `event` is in each line.

    Raises PageError.
    """
    lines = text.splitlines()
    _action_rows(lines, events)
    _field_rows(lines, types)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    from tests.test_docs import leaves, rendered

    fields = types_of(leaf for line in rendered() for leaf in leaves(line))
    PAGE.write_text(page(PAGE.read_text(), fields, [line["event"] for line in rendered()]))
    print(f"wrote {PAGE}", file=sys.stderr)
