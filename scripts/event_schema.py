"""Make the JSON Schemas that `tracer schema` prints of the tables of docs/events.md and docs/ocsf.md."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

__all__ = ["PLACES", "made"]

_DOCS: Final = Path(__file__).parents[1] / "docs"
_FORMATS: Final = Path(__file__).parents[1] / "tracer" / "formats"
PLACES: Final = {name: _FORMATS / f"schema_{name}.json" for name in ("ecs", "ocsf")}
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_OF_OBJECTS: Final = frozenset(  # fields of which a line has a list
    {"dns.answers", "tracer.bundle.files.open"}
    | {f"tracer.bundle.{name}" for name in ("lineage", "sockets", "listeners", "mappings", "children")}
)
_TYPES: Final[dict[str, dict[str, Any]]] = {
    "keyword": {"type": "string"},
    "wildcard": {"type": "string"},
    "long": {"type": "integer"},
    "boolean": {"type": "boolean"},
    "date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z$"},
    "geo_point": {
        "type": "object",
        "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
        "required": ["lat", "lon"],
    },
    "ip": {"type": "string", "anyOf": [{"format": "ipv4"}, {"format": "ipv6"}]},
}
_ALWAYS: Final = (  # what every line has
    *("@timestamp", "ecs.version", "event.kind", "event.category", "event.type", "event.action", "event.sequence"),
    *("host.id", "host.name", "host.hostname", "host.architecture", "host.boot.id", "host.os.type", "host.os.kernel"),
    *("agent.id", "agent.name", "agent.type", "agent.version", "agent.ephemeral_id", "tracer.schema"),
    "tracer.backend",
)
_SAME: Final = {"agent.type": "tracer", "host.os.type": "linux", "tracer.schema": 1}
_IN_OCSF: Final = (
    *("metadata", "category_uid", "class_uid", "class_name", "activity_id", "activity_name", "type_uid", "severity_id"),
    *("time", "time_dt", "device", "unmapped"),
)


def _rows(page: str, first: str) -> Iterator[list[str]]:
    """The rows, as cells, of every table whose first column has this title."""
    inside = False
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not cells[0].startswith("--"):
            yield cells


def _put(schema: dict[str, Any], field: str, kind: str, meaning: str) -> None:
    """Describe a field by its dotted name; ``<name>`` stands for any member."""
    here, path = schema, ""
    *above, last = field.split(".")
    for name in above:
        path = f"{path}.{name}".removeprefix(".")
        here = _member(here, name)
        here.setdefault("type", "array" if path in _OF_OBJECTS else "object")
        if path in _OF_OBJECTS:
            here = here.setdefault("items", {"type": "object"})
    word, _, many = kind.partition(" ")
    told: dict[str, Any] = dict(_TYPES[word])
    if field in _SAME:
        told = {"const": _SAME[field]}
    if many:
        told = {"type": "array", "items": told}
    _member(here, last).update(({"description": _plain(meaning)} if meaning else {}) | told)


def _member(schema: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = (
        schema.setdefault("additionalProperties", {})
        if name.startswith("<")
        else schema.setdefault("properties", {}).setdefault(name, {})
    )
    return found


def _plain(text: str) -> str:
    """A cell without its marks."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text).replace("`", "")


def _require(schema: dict[str, Any], field: str) -> None:
    for name in field.split("."):
        required = schema.setdefault("required", [])
        if name not in required:
            required.append(name)
        schema = schema["properties"][name]


def _actions(page: str) -> list[dict[str, Any]]:
    """What `event` may be, by the table of actions."""
    found = []
    for action, *cells in _rows(page, "action"):
        kind, category, types, outcomes = ([word for word in cell.split(", ") if word != "-"] for cell in cells[:4])
        told: dict[str, Any] = {"action": {"const": action.strip("`")}, "kind": {"const": kind[0]}}
        told |= {"category": {"const": category}, "type": {"const": types}}
        told["outcome"] = {"enum": outcomes} if outcomes else False
        found.append({"properties": told} | ({"required": ["outcome"]} if outcomes else {}))
    # There may be new ones in the same version.
    return [*found, {"properties": {"action": {"not": {"enum": _known(page)}}}}]


def _known(page: str) -> list[str]:
    """The actions that there are."""
    return list(dict.fromkeys(cells[0].strip("`") for cells in _rows(page, "action")))


def _ecs(page: str) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "$schema": _DIALECT,
        "$id": "urn:tracer:schema:ecs:1",
        "title": "A line of tracer in the Elastic Common Schema 9.4.0, version 1 of what is under tracer",
        "type": "object",
    }
    for field, kind, *meaning in _rows(page, "field"):
        _put(schema, field.strip("`"), kind, " | ".join(meaning))
    for field in _ALWAYS:
        _require(schema, field)
    schema["properties"]["event"]["anyOf"] = _actions(page)
    return schema


def _ocsf(events: str, page: str) -> dict[str, Any]:
    own = _ecs(events)["properties"]["tracer"]
    for field, kind, meaning in _rows(page, "field"):
        _put({"properties": {"tracer": own}}, field.strip("`").removeprefix("unmapped."), kind, meaning)
    ours = _known(events)
    classes = []
    for action, name, _, uids in _rows(page, "action"):
        named = action.strip("`")
        codes = [code for code in ours if code.startswith("tracer-")] if named == "tracer-…" else [named]
        told: dict[str, Any] = {
            "class_name": {"const": name},
            "type_uid": {"enum": [int(each) for each in uids.split(",")]},
        }
        told["metadata"] = {"properties": {"event_code": {"enum": codes}}}
        classes.append({"properties": told})
    other = {"metadata": {"properties": {"event_code": {"not": {"enum": ours}}}}}
    classes.append({"properties": other})
    whole = {"type": "integer"}
    text = {"type": "string"}
    metadata = {
        "type": "object",
        "properties": {"version": text, "sequence": whole, "event_code": text},
        "required": ["version", "product", "profiles", "sequence", "event_code"],
    }
    numbers = ("category_uid", "class_uid", "activity_id", "type_uid", "severity_id", "time")
    return {
        "$schema": _DIALECT,
        "$id": "urn:tracer:schema:ocsf:1",
        "$comment": "All other members are those of OCSF 1.8.0, which has schemas of its own: https://schema.ocsf.io/1.8.0/",
        "title": "A line of tracer in OCSF 1.8.0, version 1 of what is under unmapped.tracer",
        "type": "object",
        "properties": {
            "metadata": metadata,
            **dict.fromkeys(numbers, whole),
            "class_name": text,
            "activity_name": text,
            "time_dt": _TYPES["date"],
            "device": {"type": "object"},
            "unmapped": {"type": "object", "properties": {"tracer": own}, "required": ["tracer"]},
        },
        "required": list(_IN_OCSF),
        "anyOf": classes,
    }


def made() -> dict[str, str]:
    """The text of each schema by the name of its format."""
    events, ocsf = ((_DOCS / f"{name}.md").read_text() for name in ("events", "ocsf"))
    found = {"ecs": _ecs(events), "ocsf": _ocsf(events, ocsf)}
    return {name: json.dumps(schema, indent=1, ensure_ascii=False) + "\n" for name, schema in found.items()}


if __name__ == "__main__":
    for form, schema_text in made().items():
        PLACES[form].write_text(schema_text)
        print(f"wrote {PLACES[form]}", file=sys.stderr)
