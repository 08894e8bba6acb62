"""OCSF lines: valid events of their classes, with the facts that ECS tells of the same events, and our own beside."""

from typing import Any

import pytest

from tests.formats import events
from tests.formats.ecs_lines import bare_process, full_process, notices
from tests.formats.events import NOW, OFFSET, SECOND, SESSION
from tests.formats.ocsf_lines import check, forget, in_ecs, leaves, read, shown
from tests.formats.test_ecs import corpus
from tests.formats.test_ecs_hostile import HOSTILE, SHAPES, hostile
from tracer.formats.ocsf import Ocsf
from tracer.model import Answered, Event, ExecFailed, Flag, Kind, Notice, ProcessEvent, Role, SocketEvent

CORPUS = corpus()
LISTEN_STATE = 10
# Where the same fact is in ECS and in OCSF.
SAME = {
    "event.action": "metadata.event_code",
    "event.sequence": "metadata.sequence",
    "@timestamp": "time_dt",
    "host.id": "device.uid",
    "host.name": "device.hostname",
    "host.boot.id": "device.boot_uid",
    "host.os.kernel": "device.os.kernel_release",
    "host.architecture": "device.hw_info.cpu_architecture",
    "agent.id": "device.agent_list.uid",
    "agent.ephemeral_id": "device.agent_list.uid_alt",
    "agent.version": "device.agent_list.version",
    "error.code": "status_code",
    "event.duration": "unmapped.tracer.duration_ns",
    "process.exit_code": "exit_code",
    "network.community_id": "connection_info.community_uid",
    "network.transport": "connection_info.protocol_name",
    "source.ip": "src_endpoint.ip",
    "source.port": "src_endpoint.port",
    "destination.ip": "dst_endpoint.ip",
    "destination.port": "dst_endpoint.port",
    "destination.domain": "dst_endpoint.hostname",
    "tls.client.server_name": "tls.sni",
    "url.domain": "unmapped.tracer.http.host",
    "http.request.method": "unmapped.tracer.http.method",
    "http.version": "unmapped.tracer.http.version",
    "network.protocol": "app_protocol_name",
    "source.bytes": "cumulative_traffic.bytes_out",
    "destination.bytes": "cumulative_traffic.bytes_in",
    "network.bytes": "cumulative_traffic.bytes",
    "source.packets": "cumulative_traffic.packets_out",
    "destination.packets": "cumulative_traffic.packets_in",
    "network.packets": "cumulative_traffic.packets",
    "dns.response_code": "rcode",
    "dns.question.name": "query.hostname",
    "dns.question.type": "query.type",
    "dns.question.class": "query.class",
    "dns.answers.type": "answers.type",
    "dns.answers.class": "answers.class",
    "dns.answers.ttl": "answers.ttl",
    "dns.answers.name": "unmapped.tracer.dns.names",
    "dns.header_flags": "unmapped.tracer.dns.header_flags",
    "dns.resolved_ip": "unmapped.tracer.dns.resolved_ip",
}
SAME_OF_PROCESS = {
    "pid": "pid",
    "vpid": "namespace_pid",
    "entity_id": "uid",
    "name": "name",
    "executable": "file.path",
    "start": "created_time_dt",
    "end": "terminated_time_dt",
    "thread.id": "ptid",
    "user.id": "user.uid",
    "user.name": "user.name",
    "group.id": "group.uid",
    "group.name": "group.name",
    "session_leader.pid": "session.uid",
    "parent.pid": "parent_process.pid",
    "parent.entity_id": "parent_process.uid",
    "parent.name": "parent_process.name",
    "parent.executable": "parent_process.file.path",
    "command_line": "cmd_line",
    "working_directory": "working_directory",
}
OWN_OF_PROCESS = {"args", "args_count", "group_leader.pid"}
# What OCSF tells otherwise: in the numbers of its classes, or as what it has no place for.
OTHERWISE = {
    *("ecs.version", "event.kind", "event.category", "event.type", "event.outcome", "host.hostname", "host.os.type"),
    *("agent.name", "agent.type", "network.type", "network.iana_number", "network.direction", "related.ip", "dns.type"),
    *("client.ip", "client.port", "client.bytes", "client.packets", "server.ip", "server.port", "server.bytes"),
    *("server.packets", "server.domain", "dns.id", "dns.answers.data", "tracer.truncated"),
    *("container.id", "container.runtime", "orchestrator.type", "orchestrator.resource.type"),
    "orchestrator.resource.id",
}


def flat(document: dict[str, Any]) -> dict[str, Any]:
    """Fields by their dotted names; of a list of objects what each of them has."""
    found: dict[str, list[Any]] = {}
    for name, value in leaves(document):
        found.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def place(document: dict[str, Any], name: str) -> str:
    """Where a field of ECS is in this OCSF document."""
    inside = "" if document["class_uid"] else "unmapped."  # of what a Base Event has no member for
    if name.startswith("process.") and name not in SAME:
        short = name.removeprefix("process.")
        if short in OWN_OF_PROCESS:
            return f"unmapped.tracer.process.{short}"
        of = "actor.process." if "process" in document.get("actor", {}) and code_of(document) else f"{inside}process."
        return of + SAME_OF_PROCESS[short]
    if name.startswith("tracer."):
        return f"unmapped.{name}"
    told = SAME[name]
    if told.startswith(("src_", "dst_", "connection_", "cumulative_", "tls", "app_")):
        return inside + told
    return told


def code_of(document: dict[str, Any]) -> bool:
    """Whether the process of this event is its actor."""
    return not document["metadata"]["event_code"].startswith("process-")


@pytest.mark.parametrize("event", CORPUS, ids=lambda event: type(event).__name__)
def test_valid_in_ocsf(event: Event) -> None:
    """Each line is valid against OCSF's own schema of its class."""
    check(shown(event))


def test_every_kind_of_event_has_its_class() -> None:
    """What OCSF has a class and an activity for is an event of that, and all else a Base Event."""
    seen: dict[str, set[tuple[int, int]]] = {}
    refused = events.socket(Kind.CONNECT, error=111)
    for event in [*CORPUS, refused]:
        document = shown(event)
        code = document["metadata"]["event_code"]
        seen.setdefault(code, set()).add((document["class_uid"], document["activity_id"]))
    base = {(0, 99)}
    assert seen == {
        "process-executed": {(1007, 1)},
        "process-exec-failed": {(1007, 1)},
        "process-exited": {(1007, 2)},
        "process-running": {(1007, 99)},
        "process-forked": base,
        "connection-opened": {(4001, 1)},
        "connection-accepted": {(4001, 1)},
        "connection-closed": {(4001, 2), (4001, 3)},
        "connection-failed": {(4001, 4), (4001, 5)},
        "connection-attempted": {(4001, 99)},
        "connection-open": {(4001, 6)},
        "connection-update": {(4001, 6)},
        "connection-owner-changed": base,
        "socket-listening": {(4001, 7)},
        "dns-answered": {(4003, 2)},
        "tracer-coverage": base,
        "tracer-session-start": base,
        "tracer-loss": base,
        "tracer-backend": base,
        "tracer-ledger": base,
    }


def test_every_fact_of_ecs_is_told() -> None:
    """Each field of the same event in ECS is in its place with the same value, all of tracer.* among them."""
    compared = set()
    for event in CORPUS:
        ocsf, ecs = shown(event), flat(in_ecs(event))
        found = flat(ocsf)
        for name, value in ecs.items():
            if name in OTHERWISE:
                continue
            if name == "process.group_leader.pid" and isinstance(event, SocketEvent | Answered):
                continue  # has no place in a process of OCSF, and what is our own of it is told in its own events
            same = str(value) if name == "process.session_leader.pid" else value
            assert found.get(place(ocsf, name)) == same, (name, event)
            compared.add(name)
    told = {name for event in CORPUS for name in flat(in_ecs(event))}
    assert told - compared == OTHERWISE


def test_times_in_milliseconds() -> None:
    """Times are milliseconds since 1970, rounded down, and durations milliseconds; the exact ones are beside them."""
    for event in CORPUS:
        document = shown(event)
        wall = event.time + OFFSET
        assert document["time"] == wall // 1_000_000
        if "duration" in document:
            assert document["duration"] == document["unmapped"]["tracer"]["duration_ns"] // 1_000_000
    exited = shown(events.exited(0))
    assert exited["process"]["created_time"] == (NOW + OFFSET - SECOND * 3 // 2) // 1_000_000
    assert exited["process"]["terminated_time"] == exited["time"]
    assert exited["duration"] == 1500


def test_outcomes() -> None:
    """The status says what event.outcome says in ECS, and is absent where that is."""
    numbers = {"success": 1, "failure": 2, "unknown": 0, None: None}
    for event in CORPUS:
        assert shown(event).get("status_id") == numbers[in_ecs(event)["event"].get("outcome")]


def test_directions() -> None:
    """Inbound is what was accepted or received, outbound what was opened or sent; else it is not known who began."""
    wanted = {Role.CONNECT: 2, Role.SENT: 2, Role.ACCEPT: 1, Role.RECEIVED: 1, Role.NONE: 0, Role.LISTEN: 0}
    for role, number in wanted.items():
        for kind in (Kind.CLOSE, Kind.UPDATE):
            document = shown(events.socket(kind, role=role))
            assert document["connection_info"]["direction_id"] == number
            assert document["is_src_dst_assignment_known"] is (role is not Role.NONE)


def test_container_and_pod() -> None:
    """A pod's uid has its place if it is a UUID and there is a container; else it is among our own."""
    uid = "0f9b3a4e-8a9d-4b8e-9d3c-0d7e1a2b3c4d"
    for pod, container, wanted in ((uid, b"c0ffee", True), ("static", b"c0ffee", False), (uid, b"", False)):
        process = full_process()
        assert process.within is not None
        process.within.pod, process.within.container = pod, container
        document = shown(ProcessEvent(Kind.EXEC, NOW, False, process, 5))
        check(document)
        assert document["process"].get("container", {}).get("pod_uuid") == (pod if wanted else None)
        assert document["unmapped"]["tracer"].get("pod") == (None if wanted else pod)
    assert "container" not in shown(ProcessEvent(Kind.EXEC, NOW, False, bare_process(), 5))["process"]


def moved(kind: Kind, out: int, into: int, **changes: Any) -> Event:
    """What a flow of datagrams has moved, each of one byte."""
    fields: dict[str, Any] = {"transport": "udp", "protocol": 17, "socket": 5, "role": Role.SENT, "flow": 9}
    fields |= {"moved_out": out, "moved_in": into, "calls_out": out, "calls_in": into}
    return events.socket(kind, **(fields | changes))


def traffic(form: Ocsf, *some: Event) -> list[tuple[int | None, int]]:
    """Bytes since the last event and in all, of events that come at once."""
    for event in some:
        forget(event)
    lines = b"".join(form.lines(some, OFFSET, 0)).splitlines(keepends=True)
    found = [read(line) for line in lines]
    for event, document in zip(some, found, strict=True):
        forget(event)
        check(document)
    return [
        (document["traffic"]["bytes"] if "traffic" in document else None, document["cumulative_traffic"]["bytes"])
        for document in found
    ]


def test_traffic_since_the_last_event() -> None:
    """Beside the totals of a flow stands what it has moved since they were told last: their sum is the total."""
    form = Ocsf(SESSION)
    assert traffic(form, moved(Kind.UPDATE, 7, 3)) == [(10, 10)]
    # In one batch too, in which the end of another flow comes first.
    assert traffic(form, moved(Kind.FLOW_END, 1, 1, flow=8), moved(Kind.UPDATE, 9, 3), moved(Kind.FLOW_END, 9, 8)) == [
        (2, 2),
        (2, 12),
        (5, 17),
    ]
    assert traffic(form, moved(Kind.FLOW_END, 4, 0)) == [(4, 4)]  # nothing of the flow that ended is kept
    connection = {"transport": "tcp", "protocol": 6, "role": Role.ACCEPT}
    assert traffic(form, moved(Kind.UPDATE, 5, 5, **connection), moved(Kind.CLOSE, 6, 6, **connection)) == [
        (10, 10),
        (2, 12),
    ]
    # What was moved before the start is in no sum, and after the close nobody knows what was told last.
    assert traffic(form, moved(Kind.UPDATE, 5, 5, flags=1), moved(Kind.TAIL, 5, 6)) == [(None, 10), (None, 11)]


def test_traffic_of_more_flows_than_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a flow that had to be forgotten the totals are told, and no difference is made up; of later flows it is."""
    monkeypatch.setattr("tracer.formats.ocsf_socket._KNOWN_MOST", 2)
    form = Ocsf(SESSION)
    assert traffic(form, *[moved(Kind.UPDATE, 5, 0, flow=flow) for flow in (1, 2, 3)]) == [(5, 5)] * 3
    assert traffic(form, moved(Kind.UPDATE, 9, 0, flow=1)) == [(None, 9)]
    assert traffic(form, moved(Kind.UPDATE, 9, 0, flow=3)) == [(4, 9)]
    assert traffic(form, moved(Kind.UPDATE, 9, 0, flow=4, opened=NOW + 1)) == [(9, 9)]


def test_an_end_without_address() -> None:
    """Where nothing else is known of this end it is the machine; a peer of which nothing is known is left out."""
    document = shown(moved(Kind.UPDATE, 1, 1, transport="packet", protocol=0, local="0.0.0.0", remote="0.0.0.0"))
    check(document)
    assert document["src_endpoint"] == {"hostname": SESSION.host.name}
    assert "dst_endpoint" not in document
    assert document["connection_info"]["protocol_num"] == -1
    document = shown(moved(Kind.UPDATE, 1, 1, local="0.0.0.0"))
    assert document["src_endpoint"] == {"hostname": SESSION.host.name, "port": 40000}


def test_an_answer_of_dns() -> None:
    """Question, answers and code have their places; whose name each answer is, and the addresses, are among our own."""
    document = shown(events.answered())
    assert document["query"] == {
        "hostname": "www.example.org",
        "type": "A",
        "class": "IN",
        "opcode_id": 0,
        "packet_uid": 4711,
    }
    assert document["answers"] == [
        {"rdata": "example.org", "type": "CNAME", "class": "IN", "ttl": 60},
        {"rdata": "93.184.215.14", "type": "A", "class": "IN", "ttl": 300},
    ]
    assert (document["rcode"], document["rcode_id"]) == ("NOERROR", 0)
    assert document["unmapped"]["tracer"]["dns"]["names"] == ["www.example.org", "example.org"]
    assert shown(events.answered(code="NXDOMAIN"))["rcode_id"] == 3
    assert shown(events.answered(code="RCODE4000"))["rcode_id"] == 99
    assert shown(events.answered(question=None))["unmapped"]["tracer"]["dns"]["id"] == "4711"


def test_severity() -> None:
    """What says that something is missing is of medium severity, all else informational."""
    for event in [*CORPUS, *notices()]:
        document = shown(event)
        lost = document["metadata"]["event_code"] in {"tracer-loss", "tracer-backend"}
        assert document["severity_id"] == (3 if lost else 1)


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("shape", SHAPES)
def test_longest_hostile_line_fits(shape: str, unit: bytes) -> None:
    """However long and whatever its bytes, a line is valid, under the limit, and says what of it was cut."""
    event = hostile(shape, unit)
    assert not isinstance(event, Notice)
    assert event.process is not None
    document = shown(event)
    check(document)
    process = document["process"] if "process" in document else document["actor"]["process"]
    assert (process["pid"], process["parent_process"]["pid"]) == (4242, 4200)
    where = "process" if "process" in document else "actor.process"
    cut = set(document["unmapped"]["tracer"].get("truncated", ()))
    image = event.process.image
    assert image is not None
    whole = image.executable.decode(errors="backslashreplace") == process["file"]["path"]
    assert (f"{where}.file.path" in cut) is not whole
    if shape == "exec":
        line = image.args[:-1].decode(errors="backslashreplace").replace("\0", " ") == process["cmd_line"]
        assert line or "process.cmd_line" in cut


def test_what_the_kernel_cut_is_named() -> None:
    """What the kernel side could not take whole is named by the fields that OCSF has for it."""
    process = full_process()
    told = shown(ProcessEvent(Kind.EXEC, NOW, False, process, 5))["unmapped"]["tracer"]["truncated"]
    assert told == ["process.cmd_line", "unmapped.tracer.process.args", "unmapped.tracer.process.requested"]
    event = ExecFailed(Kind.EXEC_FAILED, NOW, False, process, 5, 2, b"/no", b"no\0", int(Flag.TRUNCATED_FILE))
    assert shown(event)["unmapped"]["tracer"]["truncated"] == ["unmapped.tracer.exec.requested"]
    assert shown(events.answered(cut=True))["unmapped"]["tracer"]["truncated"] == ["answers"]
