"""Trap 22: a process names itself as it likes."""

import pytest

from tests.tracing import find, one
from tests.traps.checks import EXECUTED, OPENED, check_network, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def test_names_are_labels(trace: MakeTrace, run: Run) -> None:
    """Each connect has the name of its moment, and the executable and identity that no name changes."""
    truth, events = see(trace, run, "trap_22_comm")
    check_network(truth, events)
    program = only(truth, "program")
    executed = one(events, EXECUTED, program["pid"])
    assert executed["process"]["name"] == "trap_22_comm"
    named = lines(truth, "named")
    assert [line["name"] for line in named] == ["sshd", "exactly-fifteen", "longer-than-the", ""]
    for line in named:
        opened = one(events, OPENED, program["pid"], source__port=line["local_port"])
        assert opened["process"].get("name", "") == line["name"]
    everything = find(events, pid=program["pid"])
    assert {event["process"]["executable"] for event in everything} == {program["exe"]}
    assert {event["process"]["entity_id"] for event in everything} == {executed["process"]["entity_id"]}
