"""Trap 19: a pid inside a namespace is not the pid outside."""

import pytest

from tests.tracing import Event, actions, find, one
from tests.traps.checks import CLOSED, EXECUTED, NS_PER_TICK, OPENED, Line, check_exit, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event]) -> None:
    """Each inmate is told with the pid that the first namespace has for it, its own beside, and its parent likewise."""
    program = only(truth, "program")
    inmates = lines(truth, "inmate")
    assert [line["label"] for line in inmates] == ["outer", "inner"]
    assert only(truth, "top")["pid"] == inmates[0]["ppid"]
    assert len({line["pidns"] for line in inmates}) == 2
    for line in inmates:
        executed = one(events, EXECUTED, line["pid"])
        process = executed["process"]
        assert process["vpid"] == line["vpid"] == 2
        assert process["args"][:2] == ["inmate", line["label"]]
        assert process["executable"] == program["exe"]
        assert process["parent"]["pid"] == line["ppid"]
        assert executed["tracer"]["pidns"] == line["pidns"]
        assert executed["tracer"]["process"]["start_ns"] // NS_PER_TICK == line["start_ticks"]
        ends = {"source__port": line["local_port"], "destination__port": line["remote_port"]}
        opened, closed = one(events, OPENED, line["pid"], **ends), one(events, CLOSED, line["pid"], **ends)
        exited = check_exit(truth, events, {"pid": line["pid"], "status": line["exit_code"] << 8})
        for event in (opened, closed, exited):
            assert event["process"]["entity_id"] == process["entity_id"]
            assert event["process"]["vpid"] == 2
            assert event["process"]["parent"]["pid"] == line["ppid"]
        assert actions(events, line["pid"]) == {
            "process-executed": 1,
            "connection-opened": 1,
            "connection-closed": 1,
            "process-exited": 1,
        }
    # Nothing is attributed to whoever has the inner pids outside.
    ports = {line["local_port"] for line in inmates}
    owners = {event["process"]["pid"] for event in events if event.get("source", {}).get("port") in ports}
    assert owners == {line["pid"] for line in inmates} | {program["pid"]}
    assert {event["process"]["vpid"] for event in find(events, pid=program["pid"])} == {program["pid"]}


def test_nested_pid_namespaces(trace: MakeTrace, run: Run) -> None:
    """One namespace inside another: both pids of each process, and no confusion with who has those numbers here."""
    truth, events = see(trace, run, "trap_19_pidns")
    check(truth, events)
