"""OCSF lines: valid events of their classes, with the facts that ECS tells of the same events, and our own beside."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.formats import events
from tests.formats.ecs_lines import bare_process, full_process, notices
from tests.formats.events import NOW, OFFSET, SECOND, SESSION
from tests.formats.ocsf_lines import OTHERWISE, assert_same, check, flat, forget, in_ecs, read, shown
from tests.formats.test_ecs import corpus
from tests.formats.test_ecs_hostile import ANY, HOSTILE, SHAPES, hostile, short
from tracer.formats.ocsf import Ocsf
from tracer.formats.ocsf_socket import _KNOWN_MOST
from tracer.model import Event, ExecFailed, Flag, Kind, Notice, ProcessEvent, Role

CORPUS = corpus()


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
        "connection-aggregated": {(4001, 6)},
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
    compared: set[str] = set()
    for event in CORPUS:
        compared |= assert_same(shown(event), in_ecs(event))
    assert {name for event in CORPUS for name in flat(in_ecs(event))} - compared == OTHERWISE


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
    stream = [
        events.socket(Kind.CLOSE, sent=3, received=4, flags=flags, opened=opened) for flags, opened in ((0, 1), (1, 0))
    ]
    assert traffic(form, *stream) == [(7, 7), (None, 7)]  # where no calls are counted, TCP's own
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


def test_how_many_flows_are_kept_is_documented() -> None:
    """docs/ocsf.md says of how many flows the last totals are kept."""
    assert f"more than {_KNOWN_MOST:,} were open" in (Path(__file__).parents[2] / "docs/ocsf.md").read_text()


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


@given(*ANY)
def test_any_bytes_are_told_as_in_ecs(shape: str, texts: dict[str, bytes], args: list[bytes]) -> None:
    """Any bytes make a valid line with what ECS tells of them, and the bytes of what is not UTF-8 beside them."""
    event = short(shape, texts, args)
    document = shown(event)
    check(document)
    assert_same(document, in_ecs(event))


def test_what_the_kernel_cut_is_named() -> None:
    """What the kernel side could not take whole is named by the fields that OCSF has for it."""
    process = full_process()
    told = shown(ProcessEvent(Kind.EXEC, NOW, False, process, 5))["unmapped"]["tracer"]["truncated"]
    assert told == ["process.cmd_line", "unmapped.tracer.process.args", "unmapped.tracer.process.requested"]
    event = ExecFailed(Kind.EXEC_FAILED, NOW, False, process, 5, 2, b"/no", b"no\0", int(Flag.TRUNCATED_FILE))
    assert shown(event)["unmapped"]["tracer"]["truncated"] == ["unmapped.tracer.exec.requested"]
    assert shown(events.answered(cut=True))["unmapped"]["tracer"]["truncated"] == ["answers"]
