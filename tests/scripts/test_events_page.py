"""docs/events.md is what its generator makes of the events, and the generator follows them."""

import pytest

from scripts.events_page import PAGE, PageError, page, types_of
from tests.test_docs import leaves, rendered

SMALL = """# Events

| action | event.kind | event.category | event.type | event.outcome | `--event` | when |
|---|---|---|---|---|---|---|
| `a-told` | event | process | start | success | exec | it happens |
| `b-gone` | event | process | start | - | - | it happened once |

| field | type | meaning |
|---|---|---|
| `x.one` | keyword | the first | of two |
| `x.gone` | long | it was there |

Words.

| field | type | meaning |
|---|---|---|
| `tracer.y.line` | wildcard | long |
| `tracer.y.many` | keyword array | |
"""
EVENT = {"action": "a-told", "kind": "event", "category": ["process"], "type": ["start"], "outcome": "failure"}


def test_the_page_is_what_the_generator_makes() -> None:
    """`python -m scripts.events_page` changes nothing."""
    fields = types_of(leaf for line in rendered() for leaf in leaves(line))
    text = PAGE.read_text()
    assert page(text, fields, [line["event"] for line in rendered()]) == text


def test_fields_follow_the_events() -> None:
    """A type is that of the values, what no event has goes, what is new stands behind its like, meanings stay."""
    fields = {"x.one": "long", "tracer.y.line": "keyword", "tracer.y.many": "keyword array", "tracer.y.new": "date"}
    rows = page(SMALL, fields, [EVENT]).splitlines()
    assert "| `x.one` | long | the first | of two |" in rows
    assert not any("x.gone" in row for row in rows)
    assert "| `tracer.y.line` | wildcard | long |" in rows
    assert rows[rows.index("| `tracer.y.many` | keyword array | |") + 1] == "| `tracer.y.new` | date | |"
    assert "Words." in rows


def test_actions_follow_the_events() -> None:
    """Outcomes are those that occur, in one order; what does not occur goes, and what is new comes last."""
    fields = {"x.one": "keyword"}
    succeeded = EVENT | {"outcome": "success"}
    fresh = {"action": "c-new", "kind": "state", "category": ["network"], "type": ["connection", "info"]}
    rows = page(SMALL, fields, [EVENT, fresh, succeeded]).splitlines()
    assert "| `a-told` | event | process | start | success, failure | exec | it happens |" in rows
    assert not any("b-gone" in row for row in rows)
    assert "| `c-new` | state | network | connection, info | - | - | |" in rows


def test_types() -> None:
    """Values tell the type; a text that looks like an address is one only if all are."""
    found = types_of(
        [
            ("number", 7),
            ("yes", True),
            ("when", "2023-11-14T22:13:20.042000000Z"),
            ("address", "2001:db8::1"),
            ("texts", ["a", "10.0.0.1"]),
            ("names", "10.0.0.1"),
            ("names", "example.org"),
        ]
    )
    assert found == {
        "number": "long",
        "yes": "boolean",
        "when": "date",
        "address": "ip",
        "texts": "keyword array",
        "names": "keyword",
    }


def test_what_can_not_be_told() -> None:
    """A field of two types, a value of none, and a field that is like no other are mistakes that are named."""
    with pytest.raises(PageError, match=r"^one is of several types: keyword, long$"):
        types_of([("one", 1), ("one", "a")])
    with pytest.raises(PageError, match="no type"):
        types_of([("one", 1.5)])
    with pytest.raises(PageError, match=r"^z: there is no table of its like"):
        page(SMALL, {"x.one": "keyword", "z": "long"}, [])
