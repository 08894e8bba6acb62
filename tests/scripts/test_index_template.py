"""The index template is that of docs/events.md, and has a place of the right type for all that occurs."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from scripts.index_template import fields, template
from tests.test_docs import EVENTS, TYPES, leaves, rendered

TEMPLATE = Path(__file__).parents[2] / "docs" / "fleet" / "index-template.json"
IN_JSON = {"string": str, "long": int, "boolean": bool}


@pytest.fixture(name="mappings", scope="module")
def _mappings() -> dict[str, Any]:
    """What the template in docs/fleet says of fields."""
    found: dict[str, Any] = json.loads(TEMPLATE.read_text())["template"]["mappings"]
    return found


def type_of(mappings: dict[str, Any], path: str, value: object) -> str:
    """The type that a value gets, as Elasticsearch finds it: its own mapping, else the first pattern that fits."""
    here: Any = mappings
    for name in path.split("."):
        here = here.get("properties", {}).get(name, {})
    if "type" in here:
        return str(here["type"])
    for pattern in mappings["dynamic_templates"]:
        (told,) = pattern.values()
        like = re.escape(told["path_match"]).replace(r"\*", ".*")
        if re.fullmatch(like, path) and isinstance(value, IN_JSON[told["match_mapping_type"]]):
            return str(told["mapping"]["type"])
    return "none"


def test_template_is_that_of_the_page() -> None:
    """`python -m scripts.index_template > docs/fleet/index-template.json` was run since the page was changed."""
    assert json.loads(TEMPLATE.read_text()) == template(EVENTS.read_text())
    assert len(fields(EVENTS.read_text())) > 200


def test_every_field_has_a_type(mappings: dict[str, Any]) -> None:
    """Each value of each event would be taken, and is of the type that it gets."""
    for line in rendered():
        for path, value in leaves(line):
            # The page's tables have names in angle brackets; a path that occurs is one of what they stand for.
            name = re.sub(r"<[^>]*>", "x", path)
            for each in value if isinstance(value, list) else [value]:
                kind = type_of(mappings, name, each)
                assert kind in TYPES, path
                assert TYPES[kind](each), (path, each)
