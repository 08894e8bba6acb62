"""What an ECS line must be, and events to make lines of: for the tests of the ECS format."""

import csv
import ipaddress
import json
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests import wire
from tests.formats import events
from tests.formats.events import NOW, OFFSET, SESSION
from tracer.formats.ecs import Ecs
from tracer.model import (
    IDS,
    RING_KINDS,
    Cgroup,
    Event,
    Flag,
    Ids,
    Image,
    Kind,
    Notice,
    Process,
)
from tracer.pipeline.engine import Engine
from tracer.pipeline.turns import Lost
from tracer.pipeline.view import Filters

LINE_BYTES = 32_000
VERSION = "9.4.0"

# The fields of ECS 9.4.0 that we use, checked by hand against its list; [] is a field that ECS has as an array.
FIELDS = {
    "@timestamp": "date",
    "agent.ephemeral_id": "keyword",
    "agent.id": "keyword",
    "agent.name": "keyword",
    "agent.type": "keyword",
    "agent.version": "keyword",
    "client.bytes": "long",
    "client.ip": "ip",
    "client.packets": "long",
    "client.port": "long",
    "container.id": "keyword",
    "container.runtime": "keyword",
    "destination.bytes": "long",
    "destination.domain": "keyword",
    "destination.ip": "ip",
    "destination.packets": "long",
    "destination.port": "long",
    "dns.answers.class": "keyword",
    "dns.answers.data": "keyword",
    "dns.answers.name": "keyword",
    "dns.answers.ttl": "long",
    "dns.answers.type": "keyword",
    "dns.header_flags": "keyword[]",
    "dns.id": "keyword",
    "dns.question.class": "keyword",
    "dns.question.name": "keyword",
    "dns.question.type": "keyword",
    "dns.resolved_ip": "ip[]",
    "dns.response_code": "keyword",
    "dns.type": "keyword",
    "ecs.version": "keyword",
    "error.code": "keyword",
    "event.action": "keyword",
    "event.category": "keyword[]",
    "event.duration": "long",
    "event.end": "date",
    "event.kind": "keyword",
    "event.outcome": "keyword",
    "event.sequence": "long",
    "event.start": "date",
    "event.type": "keyword[]",
    "host.architecture": "keyword",
    "host.boot.id": "keyword",
    "host.hostname": "keyword",
    "host.id": "keyword",
    "host.name": "keyword",
    "host.os.kernel": "keyword",
    "host.os.type": "keyword",
    "http.request.method": "keyword",
    "http.version": "keyword",
    "network.bytes": "long",
    "network.community_id": "keyword",
    "network.direction": "keyword",
    "network.iana_number": "keyword",
    "network.packets": "long",
    "network.protocol": "keyword",
    "network.transport": "keyword",
    "network.type": "keyword",
    "orchestrator.resource.id": "keyword",
    "orchestrator.resource.type": "keyword",
    "orchestrator.type": "keyword",
    "process.args": "keyword[]",
    "process.args_count": "long",
    "process.command_line": "wildcard",
    "process.end": "date",
    "process.entity_id": "keyword",
    "process.executable": "keyword",
    "process.exit_code": "long",
    "process.group.id": "keyword",
    "process.group.name": "keyword",
    "process.group_leader.pid": "long",
    "process.name": "keyword",
    "process.parent.entity_id": "keyword",
    "process.parent.executable": "keyword",
    "process.parent.name": "keyword",
    "process.parent.pid": "long",
    "process.pid": "long",
    "process.session_leader.pid": "long",
    "process.start": "date",
    "process.thread.id": "long",
    "process.user.id": "keyword",
    "process.user.name": "keyword",
    "process.vpid": "long",
    "process.working_directory": "keyword",
    "related.ip": "ip[]",
    "server.bytes": "long",
    "server.domain": "keyword",
    "server.ip": "ip",
    "server.packets": "long",
    "server.port": "long",
    "source.bytes": "long",
    "source.ip": "ip",
    "source.packets": "long",
    "source.port": "long",
    "tls.client.server_name": "keyword",
    "url.domain": "keyword",
}
# The values of ECS 9.4.0 that we use, and the types that it expects for a category.
KINDS = {"event", "state", "metric"}
TYPES = {
    "process": {"access", "change", "end", "info", "start"},
    "network": {"access", "allowed", "connection", "denied", "end", "info", "protocol", "start"},
}
OUTCOMES = {"success", "failure", "unknown"}
MAY_BE_EMPTY = {"process.args", "process.command_line"}  # one argument that is empty
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z")


@cache
def own_list() -> dict[str, str]:
    """ECS's own field list, where TRACER_ECS_FIELDS names it (generated/csv/fields.csv of the ECS project)."""
    name = os.environ.get("TRACER_ECS_FIELDS")
    if not name:
        return {}
    with Path(name).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["ECS_Version"] for row in rows} == {VERSION}
    return {row["Field"]: row["Type"] + "[]" * ("array" in row["Normalization"]) for row in rows}


@cache
def own_values() -> dict[str, Any]:
    """ECS's own allowed values, where TRACER_ECS_VALUES names a JSON file of them."""
    name = os.environ.get("TRACER_ECS_VALUES")
    found: dict[str, Any] = json.loads(Path(name).read_text()) if name else {}
    return found


def rendered(event: Event, offset: int = OFFSET, sequence: int = 7) -> bytes:
    """The line of an event."""
    return Ecs(SESSION).render(event, offset, sequence)


def read(line: bytes) -> dict[str, Any]:
    """A line as the standard library's parser reads it, which must take it as it is."""
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert len(line) < LINE_BYTES
    found: dict[str, Any] = json.loads(line.decode(), parse_constant=pytest.fail)
    return found


def shown(event: Event, **options: Any) -> dict[str, Any]:
    """What a line says."""
    return read(rendered(event, **options))


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a document by their dotted names."""
    if isinstance(value, dict):
        assert value or path.startswith("tracer."), f"{path} is empty"
        for name, part in value.items():
            yield from leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for part in value:
            yield from leaves(part, path)
    else:
        yield path, value


def is_of(kind: str, value: Any) -> bool:
    """Whether a value is of an ECS type."""
    if kind == "date":
        return isinstance(value, str) and STAMP.fullmatch(value) is not None
    if kind == "ip":
        return isinstance(value, str) and str(ipaddress.ip_address(value)) == value
    if kind == "long":
        return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63
    assert kind in ("keyword", "wildcard", "match_only_text"), kind
    return isinstance(value, str) and value != ""


def check(document: dict[str, Any]) -> None:
    """Every field is one of ECS, with its type, or is under tracer; nothing is null; event.* has allowed values."""
    fields = own_list() or FIELDS
    for name, value in leaves(document):
        assert value is not None, name
        if name.startswith("tracer."):
            assert not isinstance(value, list) or None not in value, name
            continue
        assert name in fields, f"{name} is no field of ECS"
        kind = fields[name]
        if kind.endswith("[]"):
            assert isinstance(value, list), name
            assert value, name
            assert all(is_of(kind[:-2], each) or (name in MAY_BE_EMPTY and each == "") for each in value), name
        elif not (name in MAY_BE_EMPTY and value == ""):
            assert is_of(kind, value), (name, value)
    check_values(document["event"])
    assert document["ecs"]["version"] == VERSION
    assert document["tracer"]["schema"] == 1
    assert document["tracer"]["backend"] == SESSION.backend


def check_values(event: dict[str, Any]) -> None:
    """event.kind, category, type and outcome have values that ECS allows, together."""
    values = own_values()
    kinds = set(values.get("event.kind", ())) or KINDS
    outcomes = set(values.get("event.outcome", ())) or OUTCOMES
    types = {name: set(row["expected_event_types"]) for name, row in values.get("event.category", {}).items()} or TYPES
    assert event["kind"] in kinds
    assert event.get("outcome", "unknown") in outcomes
    assert ("category" in event) == ("type" in event)
    for category in event.get("category", ()):
        assert set(event["type"]) <= types[category]


def full_process() -> Process:
    """A process of which everything is known."""
    made = events.process(b"curl", uid=33)
    made.told = IDS.pack(*Ids(7, 33, 0, 0, 0, 1000, 3, 100, 200, 4026531840, 4026531836))
    made.cgroup = 55
    made.image = Image(
        1,
        b"/usr/bin/env",
        b"/srv",
        b"./run",
        b"/usr/bin/env",
        b"env\0\0a b\0",
        3,
        9,
        8 << 20 | 1,
        99,
        int(Flag.SCRIPT | Flag.DELETED | Flag.EXECFD | Flag.DETACHED | Flag.TRUNCATED_ARGS | Flag.TRUNCATED_FILE),
    )
    made.within = Cgroup(
        b"/a.slice/x.scope/y", 1, b"a.slice", b"x.scope", b"y.service", b"c0ffee", "docker", (b"outer",), "pod-uid"
    )
    return made


def bare_process() -> Process:
    """A process of which only the identity is known."""
    return Process(5, 77, "entity", b"x")


def notices() -> list[Notice]:
    """What the tracer says of itself, as the engine makes it."""
    engine = Engine(wire.BOOT_ID, Filters(kinds=frozenset(RING_KINDS)))
    failed = {"attempts": 5, "failed": 2, "no_space": 2, "map_full": 1, "failed_first": NOW, "failed_last": NOW + 5}
    turn = wire.turn(counters=wire.tallies({(1, Kind.CLOSE): failed}), last=True, missed={"process_exec": 1})
    lost = Lost(NOW, NOW - 5, "core", ["process_exec: its link is closed"])
    made = [*engine.feed(wire.start()), *engine.feed(lost), *engine.feed(turn), engine.statement(turn)]
    assert len(made) == 5
    return [event for event in made if isinstance(event, Notice)]
