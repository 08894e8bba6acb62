"""ECS lines: fields that ECS has, with its types and values; our own under tracer; valid and short whatever comes."""

import csv
import ipaddress
import json
import os
import re
from base64 import b64decode
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tests.formats import events
from tests.formats.events import NOW, OFFSET, SECOND, SESSION
from tracer.formats.ecs import ECS_VERSION, Ecs
from tracer.model import (
    RING_KINDS,
    TCP_STATES,
    Event,
    ExecFailed,
    Flag,
    Image,
    Kind,
    Notice,
    Parent,
    Process,
    ProcessEvent,
    ProcessExited,
    Role,
)
from tracer.pipeline.engine import Engine
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
    "client.port": "long",
    "destination.bytes": "long",
    "destination.ip": "ip",
    "destination.port": "long",
    "ecs.version": "keyword",
    "error.code": "keyword",
    "event.action": "keyword",
    "event.category": "keyword[]",
    "event.duration": "long",
    "event.kind": "keyword",
    "event.outcome": "keyword",
    "event.sequence": "long",
    "event.type": "keyword[]",
    "host.architecture": "keyword",
    "host.boot.id": "keyword",
    "host.hostname": "keyword",
    "host.id": "keyword",
    "host.name": "keyword",
    "host.os.kernel": "keyword",
    "host.os.type": "keyword",
    "network.bytes": "long",
    "network.community_id": "keyword",
    "network.direction": "keyword",
    "network.iana_number": "keyword",
    "network.transport": "keyword",
    "network.type": "keyword",
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
    "server.ip": "ip",
    "server.port": "long",
    "source.bytes": "long",
    "source.ip": "ip",
    "source.port": "long",
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
HAS_LISTS = pytest.mark.may_skip("the field list of ECS itself is no part of this project")


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
    made.gid, made.euid, made.egid, made.vpid = 0, 0, 0, 7
    made.session, made.group, made.netns, made.pidns, made.cgroup = 100, 200, 4026531840, 4026531836, 55
    made.loginuid, made.audit_session = 1000, 3
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
        b"x.scope",
        int(Flag.SCRIPT | Flag.DELETED | Flag.EXECFD | Flag.DETACHED | Flag.TRUNCATED_ARGS | Flag.TRUNCATED_FILE),
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
    made = [*engine.feed(wire.start()), *engine.feed(turn), engine.statement(turn)]
    assert len(made) == 4
    return [event for event in made if isinstance(event, Notice)]


def corpus() -> list[Event]:
    """Every kind of event, each with everything known and with as little as there can be."""
    found: list[Event] = list(notices())
    for process in (full_process(), bare_process()):
        for late in (False, True):
            found += [ProcessEvent(kind, NOW, late, process, 5) for kind in (Kind.EXEC, Kind.FORK, Kind.PROCESS_FOUND)]
            found += [
                ExecFailed(Kind.EXEC_FAILED, NOW, late, process, 5, error, b"/no", args, flags)
                for error, args, flags in (
                    (2, b"no\0-x\0", int(Flag.TRUNCATED_ARGS | Flag.TRUNCATED_FILE)),
                    (512, b"", int(Flag.FAULT_ARGS)),
                    (0, b"no\0", int(Flag.SECCOMP_KILLED)),
                )
            ]
            found += [
                ProcessExited(Kind.EXIT, NOW, late, process, 5, status, 7, 8, flags)
                for status, flags in ((0, 0), (3 << 8, 0), (9, 0), (0x8B, int(Flag.CORE)), (40, 0))
            ]
    for kind in sorted(wire.BULK):
        for owner in (full_process(), bare_process(), None):
            for role in Role:
                found.append(events.socket(kind, process=owner, role=role, flags=3))
                found.append(events.socket(kind, process=owner, role=role, error=104, late=True))
                found.append(events.socket(kind, process=owner, role=role, mapped=True, community_id="", rtt_us=0))
                found.append(
                    events.socket(kind, process=owner, role=role, local="::1", remote="::1", ipv6=True, opened=0)
                )
        found.append(events.socket(kind, state=TCP_STATES.index("LISTEN"), remote="0.0.0.0", remote_port=0))
    return found


CORPUS = corpus()


@pytest.mark.parametrize("event", CORPUS, ids=lambda event: type(event).__name__)
def test_fields_are_those_of_ecs(event: Event) -> None:
    """Each line has fields of ECS with their types and allowed values, and beside them only tracer.*; never a null."""
    check(shown(event))


def test_every_kind_of_event_is_rendered() -> None:
    """The corpus has every kind and every action, so that nothing escapes the test above."""
    kinds = {event.kind for event in CORPUS if not isinstance(event, Notice)}
    assert kinds == set(Kind)
    assert {shown(event)["event"]["action"] for event in CORPUS} == {
        "process-executed",
        "process-exec-failed",
        "process-forked",
        "process-exited",
        "process-running",
        "connection-opened",
        "connection-failed",
        "connection-attempted",
        "connection-accepted",
        "connection-closed",
        "connection-open",
        "socket-listening",
        "tracer-coverage",
        "tracer-session-start",
        "tracer-loss",
        "tracer-ledger",
    }


def test_list_has_no_field_that_is_unused() -> None:
    """Every field of the list that is checked by hand occurs."""
    used = {name for event in CORPUS for name, _ in leaves(shown(event)) if not name.startswith("tracer.")}
    assert used == set(FIELDS)


@HAS_LISTS
def test_list_agrees_with_ecs() -> None:
    """The list that is checked by hand says what ECS's own says."""
    listed = own_list()
    if not listed:
        pytest.skip("TRACER_ECS_FIELDS names no field list")
    assert {name: listed.get(name) for name in FIELDS} == FIELDS


@HAS_LISTS
def test_values_agree_with_ecs() -> None:
    """The values that are checked by hand are among ECS's own, and the expected types are the same."""
    values = own_values()
    if not values:
        pytest.skip("TRACER_ECS_VALUES names no values")
    assert values["ecs"] == VERSION == ECS_VERSION
    assert set(values["event.kind"]) >= KINDS
    assert set(values["event.outcome"]) == OUTCOMES
    assert {name: set(values["event.category"][name]["expected_event_types"]) for name in TYPES} == TYPES


def test_table_of_events() -> None:
    """Kind, category, type, action and outcome of each event."""
    listening = TCP_STATES.index("LISTEN")
    table: list[tuple[Event, str, str, list[str], str, str | None]] = [
        (events.executed(events.image(b"x")), "event", "process", ["start"], "process-executed", "success"),
        (events.executed(events.image(b"x"), Kind.FORK), "event", "process", ["start"], "process-forked", "success"),
        (
            events.executed(events.image(b"x"), Kind.PROCESS_FOUND),
            "state",
            "process",
            ["info"],
            "process-running",
            None,
        ),
        (events.failed(2, b"x"), "event", "process", ["start"], "process-exec-failed", "failure"),
        (events.exited(0), "event", "process", ["end"], "process-exited", "success"),
        (events.exited(256), "event", "process", ["end"], "process-exited", "failure"),
        (events.exited(9), "event", "process", ["end"], "process-exited", "failure"),
    ]
    table += [
        (events.socket(kind, **fields), form, "network", types, action, outcome)
        for kind, fields, form, types, action, outcome in (
            (Kind.CONNECT, {}, "event", ["connection", "start"], "connection-opened", "success"),
            (Kind.CONNECT, {"error": 111}, "event", ["connection"], "connection-failed", "failure"),
            (Kind.ATTEMPT, {}, "event", ["connection", "start"], "connection-attempted", "unknown"),
            (Kind.ACCEPT, {"role": Role.ACCEPT}, "event", ["connection", "start"], "connection-accepted", "success"),
            (Kind.CLOSE, {}, "event", ["connection", "end"], "connection-closed", "success"),
            (Kind.CLOSE, {"error": 104}, "event", ["connection", "end"], "connection-closed", "failure"),
            (Kind.LISTEN, {"role": Role.LISTEN}, "event", ["start"], "socket-listening", "success"),
            (Kind.SOCKET_FOUND, {"role": Role.NONE}, "state", ["info"], "connection-open", None),
            (Kind.SOCKET_FOUND, {"role": Role.LISTEN, "state": listening}, "state", ["info"], "socket-listening", None),
        )
    ]
    for event, kind, category, types, action, outcome in table:
        told = shown(event)["event"]
        assert (told["kind"], told["category"], told["type"]) == (kind, [category], types), action
        assert (told["action"], told.get("outcome")) == (action, outcome)
        assert told["sequence"] == 7
        snapshot = event.kind in (Kind.PROCESS_FOUND, Kind.SOCKET_FOUND) if not isinstance(event, Notice) else False
        assert shown(event)["tracer"].get("snapshot", False) is snapshot


def test_everything_of_a_process() -> None:
    """What is known of a process and its program is all told, in its place."""
    document = shown(ProcessEvent(Kind.EXEC, NOW, False, full_process(), 4243))
    process, tracer = document["process"], document["tracer"]
    assert document["@timestamp"] == "2023-11-14T22:13:20.042000000Z"
    assert process == {
        "pid": 4242,
        "vpid": 7,
        "entity_id": "entity",
        "name": "curl",
        "executable": "/usr/bin/env",
        "args": ["env", "", "a b"],
        "args_count": 3,
        "command_line": "env  a b",
        "working_directory": "/srv",
        "start": "2023-11-14T22:13:18.542000000Z",
        "thread": {"id": 4243},
        "user": {"id": "33", "name": "www-data"},
        "group": {"id": "0", "name": "root"},
        "parent": {"pid": 4200, "entity_id": "parent", "name": "bash", "executable": "/usr/bin/bash"},
        "session_leader": {"pid": 100},
        "group_leader": {"pid": 200},
    }
    assert sorted(tracer["process"].pop("flags")) == ["deleted", "descriptor", "memfd", "script"]
    assert sorted(tracer.pop("truncated")) == ["process.args", "tracer.process.requested"]
    assert tracer == {
        "schema": 1,
        "backend": "core",
        "process": {
            "start_ns": NOW - SECOND * 3 // 2,
            "exe": {"dev": "8:1", "inode": 99},
            "euid": 0,
            "loginuid": 1000,
            "audit_session": 3,
            "requested": "./run",
            "script": "./run",
            "interpreter": "/usr/bin/env",
        },
        "netns": 4026531840,
        "pidns": 4026531836,
        "cgroup": {"id": 55, "name": "x.scope"},
    }


def test_what_is_unknown_is_left_out() -> None:
    """Of a process known only by its identity a line has nothing but that."""
    process = shown(ProcessEvent(Kind.FORK, NOW, False, bare_process(), 5))["process"]
    assert process.keys() == {"pid", "entity_id", "name", "start", "thread"}
    assert "process" not in shown(events.socket(Kind.CLOSE, process=None))


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_start_is_exact(start: int, offset: int) -> None:
    """A process's start is its boot time plus the offset, to the nanosecond."""
    process = Process(5, start, "entity", b"x")
    document = shown(ProcessEvent(Kind.FORK, start, False, process, 5), offset=offset)
    assert document["process"]["start"] == document["@timestamp"]
    assert document["tracer"]["process"]["start_ns"] == start
    assert document["@timestamp"].endswith(f".{(start + offset) % SECOND:09d}Z")


def test_clock_step_reaches_every_field() -> None:
    """When the wall clock is set, later lines of a known process have the new time everywhere."""
    ecs = Ecs(SESSION)
    process = full_process()
    event = events.socket(Kind.CLOSE, process=process)
    first, second = (read(ecs.render(event, OFFSET + step, 0)) for step in (0, 3600 * SECOND))
    assert first["process"]["start"] == "2023-11-14T22:13:18.542000000Z"
    assert second["process"]["start"] == "2023-11-14T23:13:18.542000000Z"
    assert second["@timestamp"] == "2023-11-14T23:13:20.042000000Z"


@pytest.mark.parametrize(
    ("status", "flags", "code", "wanted"),
    [
        (0, 0, 0, {}),
        (3 << 8, 0, 3, {}),
        (9, 0, 137, {"signal": 9, "signal_name": "SIGKILL"}),
        (0x8B, int(Flag.CORE), 139, {"signal": 11, "signal_name": "SIGSEGV", "core_dumped": True}),
        (34, 0, 162, {"signal": 34, "signal_name": "SIGRTMIN"}),
        (37, 0, 165, {"signal": 37, "signal_name": "SIGRTMIN+3"}),
    ],
)
def test_exit_status(status: int, flags: int, code: int, wanted: dict[str, Any]) -> None:
    """The code as shells tell it, the signal by number and name, the core dump, and the raw status."""
    document = shown(events.exited(status, flags))
    assert document["process"]["exit_code"] == code
    assert document["process"]["end"] == document["@timestamp"]
    own = document["tracer"]["process"]
    assert own["exit_status"] == status
    assert {name: own[name] for name in ("signal", "signal_name", "core_dumped") if name in own} == wanted
    assert (own["cpu_ns"], own["max_rss_bytes"]) == (3_400_000, 3000 * 4096)
    assert document["event"]["duration"] == SECOND * 3 // 2


def test_failed_exec() -> None:
    """The error by name and number, and what was asked for; nothing of an errno where seccomp killed it."""
    document = shown(events.failed(13, b"/x", b"x", b"-y"))
    assert document["error"] == {"code": "EACCES"}
    assert document["tracer"]["exec"] == {"requested": "/x", "args": ["x", "-y"], "errno": 13}
    killed = shown(events.failed(0, b"/x")._replace(flags=int(Flag.SECCOMP_KILLED)))
    assert "error" not in killed
    assert killed["tracer"]["exec"] == {"requested": "/x", "seccomp_killed": True}


@pytest.mark.parametrize(
    ("role", "initiator", "direction"),
    [
        (Role.CONNECT, "10.0.0.1", "egress"),
        (Role.ACCEPT, "93.184.215.14", "ingress"),
        (Role.NONE, "10.0.0.1", "unknown"),
    ],
)
def test_source_is_the_initiator(role: Role, initiator: str, direction: str) -> None:
    """Source and client are who opened the connection, with the bytes that it sent; the direction is the process's."""
    document = shown(events.socket(Kind.CLOSE, role=role))
    local = {"ip": "10.0.0.1", "port": 40_000, "bytes": 12_345}
    remote = {"ip": "93.184.215.14", "port": 443, "bytes": 1_100_000}
    assert document["source"] == document["client"] == (local if initiator == local["ip"] else remote)
    assert document["destination"] == document["server"] == (remote if initiator == local["ip"] else local)
    network = document["network"]
    assert (network["direction"], network["bytes"]) == (direction, 1_112_345)
    assert (network["transport"], network["type"], network["iana_number"]) == ("tcp", "ipv4", "6")
    assert sorted(document["related"]["ip"]) == ["10.0.0.1", "93.184.215.14"]
    tcp = document["tracer"]["tcp"]
    assert (tcp["bytes_sent"], tcp["bytes_received"], tcp["state"]) == (12_345, 1_100_000, "LAST_ACK")


def test_durations() -> None:
    """A connect lasts until its outcome, a connection from its opening; what began before the trace has no duration."""
    for kind in (Kind.CONNECT, Kind.CLOSE, Kind.ATTEMPT):
        assert shown(events.socket(kind))["event"]["duration"] == 12_300_000
    assert "duration" not in shown(events.socket(Kind.CLOSE, opened=0))["event"]
    assert "duration" not in shown(events.socket(Kind.ACCEPT))["event"]


def test_socket_says_which() -> None:
    """The flow in hexadecimal, the mark of a mapped address, and the errno by name and number."""
    document = shown(events.socket(Kind.CONNECT, flow=0xABC123, mapped=True, error=111))
    assert document["tracer"]["socket"] == {"id": "abc123", "mapped": True}
    assert document["error"] == {"code": "ECONNREFUSED"}
    assert document["tracer"]["tcp"]["errno"] == 111
    assert "mapped" not in shown(events.socket(Kind.CONNECT))["tracer"]["socket"]


def test_listener() -> None:
    """A listening socket is a server with its backlog, and has no peer."""
    document = shown(events.socket(Kind.LISTEN, role=Role.LISTEN, remote="0.0.0.0", remote_port=0))
    assert document["server"] == {"ip": "10.0.0.1", "port": 40_000}
    assert document["tracer"]["listen"] == {"backlog": 511}
    assert not {"destination", "client"} & document.keys()


def test_late_is_marked() -> None:
    """A late event says so, another says nothing of it."""
    assert shown(events.socket(Kind.CLOSE, late=True))["tracer"]["late"] is True
    assert "late" not in shown(events.socket(Kind.CLOSE))["tracer"]


def test_loss_is_an_interval_of_wall_time() -> None:
    """The interval of a loss is told as dates."""
    (loss,) = [shown(event) for event in notices() if event.action == "tracer-loss"]
    assert loss["tracer"]["loss"] == {
        "kind": "close",
        "stage": "emit",
        "count": 2,
        "first": "2023-11-14T22:13:20.042000000Z",
        "last": "2023-11-14T22:13:20.042000005Z",
        "cpus": [1],
        "causes": {"no_space": 2},
    }


# Bytes that may be anything.

LONG = 12_288  # ARGS_BYTES of bpf/tracer.h
PATHS = 4096  # PATH_BYTES
HOSTILE = {
    "invalid": b"\xff",
    "control": b"\x01",
    "escape": b"\x1b",
    "quote": b'"',
    "backslash": b"\\",
    "newline": b"\n",
    "delete": b"\x7f",
    "surrogate": b"\xed\xa0\x80",
    "wide": "😀".encode(),
    "separator": "\u2028".encode(),
    "empty": b"\0",
    "plain": b"x",
}
SHAPES = ["exec", "found", "failed", "exited", "connect"]


def filled(unit: bytes, size: int) -> bytes:
    """So many bytes of a unit."""
    return (unit * size)[:size]


def hostile(shape: str, unit: bytes) -> Event:
    """An event whose every text is as long as the probes let it be, of one unit."""
    path = b"/" + filled(unit.replace(b"\0", b"x"), PATHS - 1)
    name = filled(unit.replace(b"\0", b"x"), 15)
    args = filled(unit, LONG - 1) + b"\0"
    file = filled(unit.replace(b"\0", b"x"), 1023)
    process = full_process()
    process.comm = name
    process.parent = Parent(4200, 5, "parent", name, path)
    process.image = Image(1, path, path, file, file, args, LONG, 99_999, 1, 1, filled(unit, 255), int(Flag.SCRIPT))
    if shape == "failed":
        return ExecFailed(Kind.EXEC_FAILED, NOW, True, process, 5, 2, file, args, 0)
    if shape == "exited":
        return ProcessExited(Kind.EXIT, NOW, True, process, 5, 9, 1, 1, 0)
    if shape == "connect":
        return events.socket(Kind.CLOSE, process=process, late=True)
    return ProcessEvent(Kind.EXEC if shape == "exec" else Kind.PROCESS_FOUND, NOW, True, process, 5)


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("shape", SHAPES)
def test_longest_hostile_line_fits(shape: str, unit: bytes) -> None:
    """However long and whatever its bytes, a line is valid, under the limit, and says who did what."""
    document = shown(hostile(shape, unit))
    check(document)
    assert document["process"]["pid"] == 4242
    assert document["process"]["entity_id"] == "entity"
    assert document["process"]["parent"]["pid"] == 4200


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_cut_is_named(shape: str, unit: bytes) -> None:
    """A field that is not whole is named in tracer.truncated, and one that is whole is not."""
    event = hostile(shape, unit)
    document = shown(event)
    truncated = set(document["tracer"].get("truncated", ()))
    assert not isinstance(event, Notice)
    process = event.process
    assert process is not None
    assert process.image is not None
    assert process.parent is not None
    whole: dict[str, Any] = {
        "process.executable": process.image.executable.decode(errors="backslashreplace"),
        "process.parent.executable": process.parent.executable.decode(errors="backslashreplace"),
    }
    if shape in ("exec", "found"):
        args = process.image.args[:-1].decode(errors="backslashreplace")
        whole["process.args"] = args.split("\0")
        whole["process.command_line"] = args.replace("\0", " ")
        whole["process.working_directory"] = process.image.cwd.decode(errors="backslashreplace")
    if isinstance(event, ExecFailed):
        whole["tracer.exec.args"] = event.args[:-1].decode(errors="backslashreplace").split("\0")
        whole["tracer.exec.requested"] = event.requested.decode(errors="backslashreplace")
    present = dict(leaves(document))
    assert {name for name, text in whole.items() if present.get(name) != text} == truncated & whole.keys()


TEXTS = st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b""))


@given(
    st.sampled_from(SHAPES),
    st.fixed_dictionaries(dict.fromkeys(["comm", "exe", "cwd", "file", "interp", "cgroup", "parent", "above"], TEXTS)),
    st.lists(TEXTS, min_size=1, max_size=6),
)
def test_any_bytes_are_told_and_kept(shape: str, texts: dict[str, bytes], args: list[bytes]) -> None:
    """Any bytes make a valid line; what is not UTF-8 is shown with escapes and kept as it was, in base64."""
    joined = b"\0".join(args)
    process = full_process()
    process.comm = texts["comm"] or b"x"
    process.parent = Parent(4200, 5, "parent", texts["above"], texts["parent"])
    process.image = Image(
        1,
        texts["exe"],
        texts["cwd"],
        texts["file"],
        texts["interp"],
        joined + b"\0",
        len(args),
        len(joined) + 1,
        1,
        1,
        texts["cgroup"],
        0,
    )
    event = hostile(shape, b"x")
    assert not isinstance(event, Notice)
    event = event._replace(process=process)
    if isinstance(event, ExecFailed):
        event = event._replace(requested=texts["file"] or b"x", args=joined + b"\0")
    document = shown(event)
    check(document)
    assert document["process"]["name"] == process.comm.decode(errors="backslashreplace")
    expected = {process.comm, texts["exe"], texts["parent"], texts["above"]}
    if shape in ("exec", "found"):
        expected |= {texts["cwd"], texts["file"], texts["interp"], joined}
        assert document["process"]["args"] == joined.decode(errors="backslashreplace").split("\0")
    elif shape == "failed":
        expected |= {texts["file"], joined}
    if shape != "connect":
        expected.add(texts["cgroup"])
    kept = {b64decode(text, validate=True) for text in document["tracer"].get("raw", {}).values()}
    assert kept == {raw for raw in expected if raw != raw.decode(errors="ignore").encode()}


def test_name_of_a_raw_field() -> None:
    """Raw bytes are found under the name of their field."""
    process = full_process()
    process.comm = b"a\xff"
    assert process.image is not None
    process.image = process.image._replace(executable=b"/b\xff", args=b"c\xff\0d\0")
    raw = shown(ProcessEvent(Kind.EXEC, NOW, False, process, 5))["tracer"]["raw"]
    assert {name: b64decode(text) for name, text in raw.items()} == {
        "process.name": b"a\xff",
        "process.executable": b"/b\xff",
        "process.args": b"c\xff\0d",
    }


def test_arguments_that_look_like_escapes() -> None:
    """Text that looks like JSON's own escapes stays text, and splits no argument."""
    args = [rb"\u0000", rb"a\u0000b", b"\\", b'"', b'","', b"\\\\u0000", b"\x00"[:0]]
    found = shown(events.executed(events.image(*args)))["process"]
    assert found["args"] == [arg.decode() for arg in args]
    assert found["command_line"] == " ".join(arg.decode() for arg in args)


def test_long_command_line_of_the_tracer_itself() -> None:
    """What somebody gave the tracer on its own command line makes no line too long either."""
    line = ["tracer", "live", *["--comm", "\x01" * 4000] * 10]
    document = shown(events.notice("tracer-session-start", session={"command_line": line}))
    check(document)
    assert "tracer.session.command_line" in document["tracer"]["truncated"]
