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
    "event.start": "start_time_dt",
    "event.end": "end_time_dt",
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
        if "count" in document and "process" not in document["actor"]:  # of several processes there is no pid
            return f"actor.{SAME_OF_PROCESS[short].replace('file.path', 'app_name')}"
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
    merged = getattr(event, "merged", None)
    for process in (event.process, merged.owner if merged is not None else None):
        if process is None:
            continue
        process.rendered = None
        for part in (process.parent, process.within):
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


def assert_same(ocsf: dict[str, Any], ecs: dict[str, Any]) -> set[str]:
    """A line of OCSF has every fact of the same event's line of ECS; which fields of that were compared."""
    found, compared = flat(ocsf), set()
    of_process = ecs["event"]["action"].startswith("process-")
    for name, value in flat(ecs).items():
        if name in OTHERWISE:
            continue
        if name == "process.group_leader.pid" and not of_process:
            continue  # has no place in a process of OCSF, and what is our own of it is told in its own events
        same = str(value) if name == "process.session_leader.pid" else value
        if name == "tracer.redacted":  # names fields, each as its own format does
            named = [place(ocsf, each) for each in (value if isinstance(value, list) else [value])]
            same = sorted(named) if isinstance(value, list) else named[0]
        if name == "dns.answers.name" and not isinstance(same, list):
            same = [same]
        assert found.get(place(ocsf, name)) == same, (name, ecs)
        compared.add(name)
    return compared
