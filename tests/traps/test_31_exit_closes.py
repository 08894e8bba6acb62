"""Trap 31: the end of a process closes its sockets, after the end."""

import pytest

from tests.tracing import actions, find, one, shorten
from tests.traps.checks import CLOSED, OPENED, boot_ns, check_closed, check_exit, check_network, lines, only
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_31_exit_closes")


def test_everything_is_closed_once(seen: Seen) -> None:
    """Every connection of the cases ends once for each of its two processes."""
    check_network(*seen)


@pytest.mark.parametrize("label", ["quiet", "unread", "unsent", "acceptor", "many"])
def test_closed_by_the_end(seen: Seen, label: str) -> None:
    """The close is the ended process's, with its identity, its bytes and the kernel's state; so is the other end's."""
    truth, events = seen
    ended = only(truth, "ended", label=label)
    exited = check_exit(truth, events, ended)
    for line in lines(truth, "close", label=label):
        event = check_closed(events, line)
        if line["pid"] == ended["pid"]:
            assert event["process"]["entity_id"] == exited["process"]["entity_id"]
            assert event["process"]["executable"] == exited["process"]["executable"], shorten(event)
    count = len(lines(truth, "close", label=label, pid=ended["pid"]))
    opening = "connection-accepted" if label == "acceptor" else OPENED
    assert actions(events, ended["pid"]) == {opening: count, CLOSED: count, "process-exited": 1}


def test_a_connection_may_outlive_its_process(seen: Seen) -> None:
    """Bytes still to be taken keep the connection: its close comes long after the exit, and is its own."""
    truth, events = seen
    line = only(truth, "outlived")
    closed = one(events, CLOSED, line["pid"])
    exited = one(events, "process-exited", line["pid"])
    assert events.index(exited) < events.index(closed)
    assert boot_ns(truth, closed) > line["reaped_ns"] - 5_000_000
    assert len(find(events, CLOSED, source__port=line["local_port"])) == 2
