"""The published JSON Schemas as validators: as they are, and closed, so that no field that they lack is let through."""

import json
from copy import deepcopy
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator


def published(form: str) -> dict[str, Any]:
    """The schema that the package carries."""
    found: dict[str, Any] = json.loads(files("tracer.formats").joinpath(f"schema_{form}.json").read_text())
    return found


def close(schema: Any) -> None:
    """Let no object have a member that its description lacks, nor an action that is not known."""
    if isinstance(schema, dict):
        alternatives = schema.get("anyOf", [])
        if any("not" in json.dumps(each) for each in alternatives):
            alternatives.pop()
        if schema.get("type") == "object" and "properties" in schema:
            schema.setdefault("additionalProperties", False)
        for name, part in schema.items():
            if name != "anyOf":
                close(part)
    elif isinstance(schema, list):
        for part in schema:
            close(part)


@cache
def validator(form: str, *, closed: bool = False) -> Draft202012Validator:
    """What validates lines of a format. What OCSF's own members are, its own schema tells: only ours are closed."""
    schema = deepcopy(published(form))
    Draft202012Validator.check_schema(schema)
    if closed and form == "ecs":
        close(schema)
    elif closed:
        close(schema["properties"]["unmapped"]["properties"]["tracer"])
        schema["anyOf"].pop()
    return Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)


def faults(document: dict[str, Any], form: str, *, closed: bool = True) -> list[tuple[str, str]]:
    """What is wrong with a line: where, and what."""
    return [
        (".".join(map(str, error.absolute_path)), error.message[:300])
        for error in validator(form, closed=closed).iter_errors(document)
    ]
