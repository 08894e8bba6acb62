"""ECS lines: fields that ECS has, with its types and values, our own under tracer, each fact in its place."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats import events
from tests.formats.ecs_lines import (
    FIELDS,
    KINDS,
    OUTCOMES,
    TYPES,
    VERSION,
    bare_process,
    check,
    full_process,
    leaves,
    notices,
    own_list,
    own_values,
    read,
    shown,
)
from tests.formats.events import NOW, OFFSET, SECOND, SESSION
from tracer.formats.ecs import ECS_VERSION, Ecs
from tracer.model import (
    SOCKET_KINDS,
    TCP_STATES,
    Event,
    ExecFailed,
    Flag,
    Kind,
    Merged,
    Names,
    Notice,
    Process,
    ProcessEvent,
    ProcessExited,
    Role,
)
from tracer.pipeline import whose

HAS_LISTS = pytest.mark.may_skip("the field list of ECS itself is no part of this project")


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
    for kind in sorted(SOCKET_KINDS - {Kind.PAYLOAD}):
        for owner in (full_process(), bare_process(), None):
            for role in Role:
                found.append(events.socket(kind, process=owner, role=role, flags=3))
                found.append(events.socket(kind, process=owner, role=role, error=104, late=True))
                found.append(events.socket(kind, process=owner, role=role, mapped=True, community_id="", rtt_us=0))
                found.append(
                    events.socket(kind, process=owner, role=role, local="::1", remote="::1", ipv6=True, opened=0)
                )
        found.append(events.socket(kind, state=TCP_STATES.index("LISTEN"), remote="0.0.0.0", remote_port=0))
        for transport, protocol in (("udp", 17), ("icmp", 1), ("mptcp", 262), ("packet", 0)):
            moved = {"moved_out": 7, "moved_in": 11, "calls_out": 1, "calls_in": 3, "via": 31}
            flow = {"transport": transport, "protocol": protocol, "socket": 5, "role": Role.SENT}
            found.append(events.socket(kind, **flow, **moved))
        for names in (events.KNOWN, events.SAID, Names(protocol="dns"), Names(domain=b"\xff.example", source="http")):
            for role in (Role.CONNECT, Role.ACCEPT, Role.RECEIVED):
                found.append(events.socket(kind, role=role, names=names))
                found.append(events.socket(kind, role=role, names=names, transport="packet", protocol=0, socket=5))
    for owner in (full_process(), None):
        for role in (Role.CONNECT, Role.ACCEPT, Role.SENT, Role.RECEIVED):
            merged = Merged(23, NOW - 99, NOW, 7, owner or full_process())
            several = {"process": owner, "role": role, "merged": merged, "local": "0.0.0.0", "local_port": 0}
            found.append(events.socket(Kind.AGGREGATE, **several, moved_out=5, moved_in=6, calls_out=1, calls_in=2))
            found.append(events.socket(Kind.AGGREGATE, **several, error=111))
    for late in (False, True):
        for owner in (full_process(), bare_process(), None):
            found.append(events.answered(process=owner, late=late))
            found.append(events.answered(process=owner, late=late, cut=True, flow=0))
        found.append(events.answered(code="NXDOMAIN", answers=(), addresses=(), protocol="mdns", community_id=""))
        found.append(events.answered(malformed=True, question=None, answers=(), header_flags=(), ipv6=True))
        found.append(events.answered(question=(b"\xff\\..example", "TYPE4711", "CLASS9")))
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
        "connection-update",
        "connection-aggregated",
        "connection-owner-changed",
        "dns-answered",
        "socket-listening",
        "tracer-coverage",
        "tracer-session-start",
        "tracer-loss",
        "tracer-backend",
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
        "netns_name": "host",
        "cgroup": {
            "id": 55,
            "path": "/a.slice/x.scope/y",
            "version": 1,
            "slice": "a.slice",
            "unit": "x.scope",
            "user_unit": "y.service",
            "around": ["outer"],
        },
    }
    assert document["container"] == {"id": "c0ffee", "runtime": "docker"}
    assert document["orchestrator"] == {"type": "kubernetes", "resource": {"type": "pod", "id": "pod-uid"}}


def test_sockets_have_the_group_of_their_process() -> None:
    """A socket's line says whose it is as its process's does, and has the name of the socket's own namespace."""
    for kind in (Kind.CONNECT, Kind.CLOSE, Kind.LISTEN):
        event = events.socket(kind, process=full_process(), netns=4026531840)
        document = shown(event)
        check(document)
        whole = shown(ProcessEvent(Kind.FORK, NOW, False, full_process(), 1))
        assert document["container"] == whole["container"]
        assert document["orchestrator"] == whole["orchestrator"]
        assert document["tracer"]["cgroup"] == whole["tracer"]["cgroup"]
        assert document["tracer"]["netns_name"] == "host"
        assert "netns_name" not in shown(event._replace(netns=5))["tracer"]


def test_only_the_id_of_a_group() -> None:
    """A group of which the path is not known has its id alone; container and unit are left out."""
    process = full_process()
    process.within = None
    document = shown(ProcessEvent(Kind.FORK, NOW, False, process, 1))
    assert document["tracer"]["cgroup"] == {"id": 55}
    assert not {"container", "orchestrator"} & document.keys()
    process = full_process()
    process.cgroup = 0
    process.within = whose.read(b"/builds/" + b"a" * 64)
    document = shown(ProcessEvent(Kind.FORK, NOW, False, process, 1))
    assert document["tracer"]["cgroup"] == {"path": "/builds/" + "a" * 64}
    assert document["container"] == {"id": "a" * 64}


def test_what_is_unknown_is_left_out() -> None:
    """Of a process known only by its identity a line has nothing but that."""
    process = shown(ProcessEvent(Kind.FORK, NOW, False, bare_process(), 5))["process"]
    assert process.keys() == {"pid", "entity_id", "name", "start", "thread"}
    assert "process" not in shown(events.socket(Kind.CLOSE, process=None))


@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_start_is_exact(start: int, offset: int) -> None:
    """A process's start is its boot time plus the offset, to the nanosecond."""
    process = Process(5, start, "entity", b"x")
    process.clock = offset
    document = shown(ProcessEvent(Kind.FORK, start, False, process, 5), offset=offset)
    assert document["process"]["start"] == document["@timestamp"]
    assert document["tracer"]["process"]["start_ns"] == start
    assert document["@timestamp"].endswith(f".{(start + offset) % SECOND:09d}Z")


def test_clock_step_changes_no_start() -> None:
    """When the wall clock is set, later lines of a known process have the new time, and the start it always had."""
    ecs = Ecs(SESSION)
    process = full_process()
    event = events.socket(Kind.CLOSE, process=process)
    first, second = (read(ecs.render(event, OFFSET + step, 0)) for step in (0, 3600 * SECOND))
    assert first["process"]["start"] == "2023-11-14T22:13:18.542000000Z"
    assert second["process"]["start"] == first["process"]["start"]
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


def test_names_of_a_flow() -> None:
    """What is known of a flow's names is told of who was called, whichever end this is, each fact in its place."""
    for kind in (Kind.CONNECT, Kind.CLOSE, Kind.UPDATE, Kind.OWNER, Kind.TAIL):
        document = shown(events.socket(kind, names=events.KNOWN))
        assert document["destination"]["domain"] == document["server"]["domain"] == "example.org"
        assert "domain" not in document["source"]
        assert document["destination"]["ip"] == "93.184.215.14"
        assert document["network"]["protocol"] == "tls"
        assert document["tls"] == {"client": {"server_name": "www.example.org"}}
        assert document["tracer"]["name"] == {
            "from": "dns",
            "how": "process",
            "asked": ["example.org", "cdn.example"],
            "ambiguous": True,
        }
        assert document["tracer"]["tls"] == {
            "offered_version": "1.3",
            "offered_protocols": ["h2", "http/1.1"],
            "ech": True,
            "cut": True,
            "malformed": True,
        }
        called = shown(events.socket(kind, role=Role.ACCEPT, names=events.SAID))
        assert called["destination"]["domain"] == "example.org"
        assert called["destination"]["ip"] == "10.0.0.1"
        assert "domain" not in called["source"]
        assert called["url"] == {"domain": "example.org"}
        assert called["http"] == {"version": "1.1", "request": {"method": "GET"}}
        assert called["tracer"]["name"] == {"from": "http"}
        assert called["tracer"]["http"] == {"malformed": True}


def test_an_answer_of_dns() -> None:
    """Question, answers, addresses and code of an answer, the way it came, and who asked."""
    document = shown(events.answered())
    assert document["event"] == {
        "kind": "event",
        "category": ["network"],
        "type": ["protocol", "info"],
        "action": "dns-answered",
        "outcome": "success",
        "sequence": 7,
    }
    assert document["dns"] == {
        "type": "answer",
        "id": "4711",
        "response_code": "NOERROR",
        "header_flags": ["RD", "RA"],
        "question": {"name": "www.example.org", "type": "A", "class": "IN"},
        "answers": [
            {"name": "www.example.org", "type": "CNAME", "class": "IN", "ttl": 60, "data": "example.org"},
            {"name": "example.org", "type": "A", "class": "IN", "ttl": 300, "data": "93.184.215.14"},
        ],
        "resolved_ip": ["93.184.215.14"],
    }
    assert document["source"] == document["client"] == {"ip": "10.0.0.1", "port": 40000}
    assert document["destination"] == document["server"] == {"ip": "10.0.0.53", "port": 53}
    assert document["network"] == {
        "transport": "udp",
        "type": "ipv4",
        "iana_number": "17",
        "protocol": "dns",
        "direction": "egress",
        "community_id": "1:x",
    }
    assert document["related"]["ip"] == ["10.0.0.1", "10.0.0.53", "93.184.215.14"]
    assert document["process"]["pid"] == 4242
    assert document["tracer"]["socket"] == {"id": "5"}
    for changes in ({"code": "NXDOMAIN"}, {"malformed": True}):
        assert shown(events.answered(**changes))["event"]["outcome"] == "failure"
    assert shown(events.answered(malformed=True))["tracer"]["dns"] == {"malformed": True}
    assert shown(events.answered(cut=True))["tracer"]["truncated"] == ["dns.answers"]


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
