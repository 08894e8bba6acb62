"""Print the index template for Elasticsearch and OpenSearch that the tables of docs/events.md amount to."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Final

__all__ = ["fields", "template"]

_PAGE: Final = Path(__file__).parents[1] / "docs" / "events.md"
_KEYWORD_MOST: Final = 1024  # ECS's default: what is longer is kept and shown, but not searched
_IN_JSON: Final = {"keyword": "string", "date": "string", "ip": "string", "long": "long", "boolean": "boolean"}
_FIELDS_MOST: Final = 2000  # of the page, and of what comes under a name in angle brackets


def fields(page: str) -> dict[str, str]:
    """Field -> type, from the tables whose columns are field, type and meaning; ``<name>`` stands for any name."""
    found: dict[str, str] = {}
    inside = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if cells[1:3] == ["field", "type"]:
            inside = True
        elif not line.startswith("|"):
            inside = False
        elif inside and not cells[1].startswith("--"):
            found[cells[1].strip("`")] = cells[2].partition(" ")[0]
    return found


def template(page: str) -> dict[str, Any]:
    """The template of data streams named ``tracer-*``."""
    properties: dict[str, Any] = {}
    patterns = []
    for field, kind in fields(page).items():
        mapping: dict[str, Any] = {"type": kind}
        if kind in {"keyword", "wildcard"}:
            mapping["ignore_above"] = _KEYWORD_MOST
        if "<" in field:
            match = {"path_match": re.sub("<[^>]*>", "*", field), "match_mapping_type": _IN_JSON[kind]}
            patterns.append({re.sub("[<>]", "", field): {**match, "mapping": mapping}})
            continue
        inner = properties
        *path, last = field.split(".")
        for name in path:
            inner = inner.setdefault(name, {"properties": {}})["properties"]
        inner[last] = mapping
    return {
        "index_patterns": ["tracer-*"],
        "data_stream": {},
        "priority": 200,
        "template": {
            "settings": {"index.mapping.total_fields.limit": _FIELDS_MOST},
            "mappings": {"date_detection": False, "dynamic_templates": patterns, "properties": properties},
        },
    }


if __name__ == "__main__":
    json.dump(template(_PAGE.read_text()), sys.stdout, indent=2)
    print()
