"""Say an OCSF line in the terms of ECS, so that what holds for events in ECS can be asked of those in OCSF.

Nothing is made up: what the line lacks, the event lacks. Classes and activities become what ECS calls them by a table
of their own, checked by hand against docs/ocsf.md and docs/events.md.
"""

from typing import Any

from tests.formats.ocsf_lines import OWN_OF_PROCESS, SAME, SAME_OF_PROCESS, flat, place

Document = dict[str, Any]

PROCESS, NETWORK = ["process"], ["network"]
# What ECS says of an action: kind, category, type; and what OCSF does: the numbers of class and activity.
ACTIONS: dict[str, tuple[str, list[str], list[str], set[int]]] = {
    "process-executed": ("event", PROCESS, ["start"], {100701}),
    "process-exec-failed": ("event", PROCESS, ["start"], {100701}),
    "process-forked": ("event", PROCESS, ["start"], {99}),
    "process-exited": ("event", PROCESS, ["end"], {100702}),
    "process-running": ("state", PROCESS, ["info"], {100799}),
    "connection-opened": ("event", NETWORK, ["connection", "start"], {400101}),
    "connection-failed": ("event", NETWORK, ["connection"], {400104, 400105}),
    "connection-attempted": ("event", NETWORK, ["connection", "start"], {400199}),
    "connection-accepted": ("event", NETWORK, ["connection", "start"], {400101}),
    "connection-closed": ("event", NETWORK, ["connection", "end"], {400102, 400103}),
    "connection-update": ("event", NETWORK, ["connection", "info"], {400106}),
    "connection-open": ("state", NETWORK, ["info"], {400106}),
    "connection-aggregated": ("event", NETWORK, ["connection", "info"], {400106}),
    "connection-owner-changed": ("event", NETWORK, ["connection", "info"], {99}),
    "dns-answered": ("event", NETWORK, ["protocol", "info"], {400302}),
    "socket-listening": ("event", NETWORK, ["start"], {400107}),
    "tracer-coverage": ("state", PROCESS, ["info"], {99}),
    "tracer-session-start": ("event", PROCESS, ["info"], {99}),
    "tracer-confinement": ("state", PROCESS, ["info"], {99}),
    "tracer-loss": ("metric", PROCESS, ["info"], {99}),
    "tracer-backend": ("event", PROCESS, ["info"], {99}),
    "tracer-gap": ("event", PROCESS, ["info"], {99}),
    "tracer-config": ("event", PROCESS, ["info"], {99}),
    "tracer-wire": ("metric", NETWORK, ["info"], {99}),
    "tracer-flood": ("metric", PROCESS, ["info"], {99}),
    "tracer-ledger": ("metric", PROCESS, ["info"], {99}),
    "tracer-segment": ("state", PROCESS, ["info"], {99}),
    "tracer-segment-end": ("state", PROCESS, ["info"], {99}),
}
OUTCOMES = {0: "unknown", 1: "success", 2: "failure"}
DIRECTIONS = {0: "unknown", 1: "ingress", 2: "egress"}
# Members of the process that ECS has elsewhere, and of what is ours those that ECS has no need of.
MOVED_OURS = ("duration_ns", "http", "dns", "pod")
HTTP = ("host", "method", "version")
NAMES = {"file.path": "executable", "answers": "dns.answers"}
CONTAINER = {"uid": "id", "runtime": "runtime"}


def as_ecs(document: Document) -> Document:
    """The event of an OCSF line. Raises AssertionError where class and activity are not those of the action."""
    action = document["metadata"]["event_code"]
    kind, category, types, numbers = ACTIONS[action]
    assert document["type_uid"] in numbers, (action, document["type_uid"])
    event: Document = {"ecs": {"version": "9.4.0"}, "tracer": ours(document)}
    event["host"] = {"os": {"type": document["device"]["os"]["type"].lower()}}
    # One that listened before the start has no outcome.
    if action == "socket-listening" and "status_id" not in document:
        kind, types = "state", ["info"]
    event["event"] = {"kind": kind, "category": category, "type": types}
    if "status_id" in document:
        event["event"]["outcome"] = OUTCOMES[document["status_id"]]
    event["agent"] = {"type": document["device"]["agent_list"][0]["name"]}
    found = flat(document)
    own = OWN_OF_PROCESS if action.startswith("process-") else ()
    of_process = [f"process.{name}" for name in (*SAME_OF_PROCESS, *own)]
    for name in (*(name for name in SAME if not name.startswith("dns.answers.")), *of_process):
        where = place(document, name)
        # An end without an address has this machine's name in its place, which ECS leaves out.
        if where in found and not (name == "destination.domain" and "name" not in event["tracer"]):
            put(event, name, found[where])
    actor = document.get("process") or document["unmapped"].get("process") or document.get("actor", {}).get("process")
    if actor and "session_leader" in event.get("process", {}):
        leader = event["process"]["session_leader"]
        leader["pid"] = int(leader["pid"])
    container = actor.get("container", {}) if actor else {}
    for here, there in CONTAINER.items():
        if here in container:
            put(event, f"container.{there}", container[here])
    pod = container.get("pod_uuid", document["unmapped"]["tracer"].get("pod"))
    if pod is not None:
        event["orchestrator"] = {"type": "kubernetes", "resource": {"type": "pod", "id": pod}}
    if "process" in event:
        lists(event["process"])
    network(document, event)
    if action == "dns-answered":
        answers(document, event)
    return event


def put(event: Document, name: str, value: Any) -> None:
    """Set the field of a dotted name."""
    *path, last = name.split(".")
    for part in path:
        event = event.setdefault(part, {})
    event[last] = value


def lists(process: Document) -> None:
    """Arguments are a list in ECS, however few."""
    if "args" in process and not isinstance(process["args"], list):
        process["args"] = [process["args"]]


def ours(document: Document) -> Document:
    """What is under tracer in ECS."""
    found: Document = {key: each for key, each in document["unmapped"]["tracer"].items() if key not in MOVED_OURS}
    http = {key: each for key, each in document["unmapped"]["tracer"].get("http", {}).items() if key not in HTTP}
    if http:
        found["http"] = http
    dns = document["unmapped"]["tracer"].get("dns", {})
    rest = {key: each for key, each in dns.items() if key not in {"id", "names", "resolved_ip", "header_flags"}}
    if rest:
        found["dns"] = rest
    if "process" in found:
        own = {"args", "args_count", "group_leader"}
        found["process"] = {key: each for key, each in found["process"].items() if key not in own}
    if "truncated" in found:
        # The line of the command is the same arguments.
        names = [truncated(name) for name in found["truncated"] if not name.endswith("process.cmd_line")]
        found["truncated"] = names
    return found


def truncated(name: str) -> str:
    """The name that ECS has for what was cut."""
    name = name.removeprefix("unmapped.").removeprefix("actor.")
    for here, there in NAMES.items():
        name = name.replace(here, there)
    return name.removeprefix("tracer.") if name.startswith("tracer.process.args") else name


def network(document: Document, event: Document) -> None:
    """What OCSF tells of a flow in numbers, and ECS twice."""
    about = document.get("connection_info") or document["unmapped"].get("connection_info")
    if about is None:
        return
    if about["protocol_num"] >= 0:
        put(event, "network.iana_number", str(about["protocol_num"]))
    if "protocol_ver_id" in about:
        put(event, "network.type", {4: "ipv4", 6: "ipv6"}[about["protocol_ver_id"]])
    listening = event["event"]["action"] == "socket-listening"
    if not listening:
        put(event, "network.direction", DIRECTIONS[about["direction_id"]])
    if "source" in event and not listening:
        event["client"] = event["source"]
    if "destination" in event or listening:
        event["server"] = event["source"] if listening else event["destination"]
    ends = [event[end]["ip"] for end in ("source", "destination") if "ip" in event.get(end, {})]
    if ends and not listening:
        event["related"] = {"ip": list(dict.fromkeys(ends))}


def answers(document: Document, event: Document) -> None:
    """An answer of DNS."""
    own = document["unmapped"]["tracer"].get("dns", {})
    number = document.get("query", {}).get("packet_uid", own.get("id"))
    put(event, "dns.id", str(number))
    put(event, "dns.type", "answer")
    for name in ("header_flags", "resolved_ip"):
        if name in own:
            put(event, f"dns.{name}", own[name])
    ends = event["related"]["ip"]
    event["related"] = {"ip": list(dict.fromkeys([*ends, *own.get("resolved_ip", [])]))}
    if "answers" in document:
        told = [
            {key: each[there] for key, there in (("type", "type"), ("class", "class"), ("ttl", "ttl")) if there in each}
            | {"name": name, "data": each["rdata"]}
            for each, name in zip(document["answers"], own["names"], strict=True)
        ]
        put(event, "dns.answers", told)
