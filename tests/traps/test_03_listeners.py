"""Trap 3: who listens is not who accepts."""

import pytest

from tests.tracing import Event, find
from tests.traps.checks import ACCEPTED, CLOSED, EXECUTED, LISTENING, Line, check_exec, check_network, lines, only, text
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live

GREETING = 13


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_03_listeners")


def check_acceptors(truth: list[Line], events: list[Event], label: str) -> None:
    """Each acceptor accepted as often as it says, and each of its connections ended for it, with its greeting sent."""
    for acceptor in lines(truth, "acceptor", label=label):
        accepts = lines(truth, "accept", label=label, pid=acceptor["pid"])
        assert len(accepts) == acceptor["count"]
        ports = {line["remote_port"] for line in accepts}
        ours = [event for event in find(events, ACCEPTED, acceptor["pid"]) if event["source"]["port"] in ports]
        assert len(ours) == acceptor["count"]
        ends = [event for event in find(events, CLOSED, acceptor["pid"]) if event["source"]["port"] in ports]
        assert len(ends) == acceptor["count"]
        assert {(event["source"]["bytes"], event["destination"]["bytes"]) for event in ends} <= {(0, GREETING)}
        assert {event["tracer"]["tcp"]["state"] for event in ends} <= {"FIN_WAIT2"}


def test_every_connection_is_told(seen: Seen) -> None:
    """All listeners, connects, accepts and closes of the three cases are there once, with the right owners."""
    check_network(*seen)


def test_prefork(seen: Seen) -> None:
    """Workers that inherited the listener accept for themselves; the parent alone listens and accepts nothing."""
    truth, events = seen
    program = only(truth, "program")
    port = lines(truth, "connect", label="prefork")[0]["remote_port"]
    assert len(lines(truth, "acceptor", label="prefork")) == 4
    check_acceptors(truth, events, "prefork")
    assert {event["process"]["pid"] for event in find(events, LISTENING, server__port=port)} == {program["pid"]}
    assert not find(events, ACCEPTED, program["pid"])


def test_reuseport(seen: Seen) -> None:
    """Two processes listen on one port; each accepts what the kernel gave it."""
    truth, events = seen
    port = lines(truth, "connect", label="reuseport")[0]["remote_port"]
    acceptors = lines(truth, "acceptor", label="reuseport")
    assert len(acceptors) == 2
    assert sum(line["count"] for line in acceptors) == 23
    check_acceptors(truth, events, "reuseport")
    listeners = [event["process"]["pid"] for event in find(events, LISTENING, server__port=port)]
    assert sorted(listeners) == sorted(line["pid"] for line in acceptors)
    sockets = {event["tracer"]["socket"]["id"] for event in find(events, LISTENING, server__port=port)}
    assert len(sockets) == 2


def test_activation(seen: Seen) -> None:
    """A service that was handed its listener through exec accepts under its own executable, and does not listen."""
    truth, events = seen
    program, service = only(truth, "program"), only(truth, "exec", label="activation")
    port = lines(truth, "connect", label="activation")[0]["remote_port"]
    check_acceptors(truth, events, "activation")
    executed = check_exec(truth, events, service, parent=program["pid"])
    accepts = find(events, ACCEPTED, service["pid"], server__port=port)
    assert len(accepts) == 5
    assert {event["process"]["executable"] for event in accepts} == {text(service["exe_hex"])}
    assert {event["process"]["entity_id"] for event in accepts} == {executed["process"]["entity_id"]}
    (listening,) = find(events, LISTENING, server__port=port)
    assert listening["process"]["pid"] == program["pid"]
    assert listening["process"]["executable"] == program["exe"]
    assert len(find(events, EXECUTED, service["pid"])) == 1
