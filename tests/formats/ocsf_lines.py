"""What an OCSF line must be: for the tests of the OCSF format."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ocsf_json_schema import OcsfJsonSchemaEmbedded, get_ocsf_schema

from tests.formats.events import OFFSET, SESSION
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import OCSF_VERSION, PROFILES, Ocsf
from tracer.model import Event, Notice

LINE_BYTES = 32_000


@cache
def schemas() -> OcsfJsonSchemaEmbedded:
    """OCSF's own schemas, of the version that lines say they have."""
    return OcsfJsonSchemaEmbedded(get_ocsf_schema(version=OCSF_VERSION))


@cache
def validator(class_uid: int, profiles: tuple[str, ...]) -> Draft202012Validator:
    """What validates events of a class; no attribute that the class lacks is let through."""
    schema = schemas().get_class_schema(schemas().lookup_class_name_from_uid(class_uid), list(profiles))
    assert schema["additionalProperties"] is False
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def check(document: dict[str, Any]) -> None:
    """The document is a valid event of its class, with the profiles that it names; its numbers and names agree."""
    assert document["metadata"]["version"] == OCSF_VERSION
    assert document["metadata"]["profiles"] == list(PROFILES)
    errors = list(validator(document["class_uid"], PROFILES).iter_errors(document))
    assert not errors, [(error.json_path, error.message) for error in errors]
    assert document["type_uid"] == document["class_uid"] * 100 + document["activity_id"]
    found = schemas().schema.schema["classes"][schemas().lookup_class_name_from_uid(document["class_uid"])]
    assert document["class_name"] == found["caption"]
    if document["activity_id"] != 99:  # of its own name
        assert (
            document["activity_name"]
            == found["attributes"]["activity_id"]["enum"][str(document["activity_id"])]["caption"]
        )
    assert document["unmapped"]["tracer"]["schema"] == 1
    for name, value in leaves(document):
        assert value is not None, name


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a document by their dotted names."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from leaves(part, f"{path}.{name}".removeprefix("."))
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for part in value:
            yield from leaves(part, path)
    else:
        yield path, value


def forget(event: Event) -> None:
    """Drop what another format has kept with the parts of an event: a process of the program has one format."""
    if isinstance(event, Notice):
        return
    names = getattr(event, "names", None)
    if names is not None:
        names.rendered = None
    if event.process is not None:
        event.process.rendered = None
        for part in (event.process.parent, event.process.within):
            if part is not None:
                part.rendered = None


def read(line: bytes) -> dict[str, Any]:
    """A line as the standard library's parser reads it, which must take it as it is; no member comes twice."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) < LINE_BYTES

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        assert len(found) == len(pairs), [name for name, _ in pairs]
        return found

    document: dict[str, Any] = json.loads(line.decode(), parse_constant=pytest.fail, object_pairs_hook=once)
    return document


def shown(event: Event, offset: int = OFFSET, sequence: int = 7) -> dict[str, Any]:
    """What a line says in OCSF."""
    forget(event)
    try:
        return read(Ocsf(SESSION).render(event, offset, sequence))
    finally:
        forget(event)


def in_ecs(event: Event, offset: int = OFFSET, sequence: int = 7) -> dict[str, Any]:
    """What a line says of the same event in ECS."""
    forget(event)
    try:
        return read(Ecs(SESSION).render(event, offset, sequence))
    finally:
        forget(event)
