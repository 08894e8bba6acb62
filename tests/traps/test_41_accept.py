"""Trap 41: whichever hook reports an accept, it must find the accepted socket, and not another argument."""

import pytest

from tests.tracing import ABSENT, Event, Trace, find, one, shorten, value
from tests.traps.checks import ACCEPTED, CLOSED, Line, check_accepted, check_network, lines, skip_missing
from tests.traps.conftest import MakeTrace, Run

pytestmark = pytest.mark.live

ACCEPTS = 101
# What can report an accept: the return of the calls, or of the function that they end in.
CALLS = {"sys_exit_accept", "sys_exit_accept4"}
FUNCTION = "inet_csk_accept"


@pytest.fixture(name="session", scope="module")
def _session(trace: MakeTrace, run: Run) -> tuple[Trace, list[Line]]:
    with trace("--buffer", "32M") as seen:
        truth = run("trap_41_accept")
    seen.assert_complete()
    return seen, truth


def coverage(seen: Trace) -> Event:
    """What the stream says of how it was made."""
    found: Event = one(seen.events, "tracer-coverage")["tracer"]["coverage"]
    return found


def test_every_accept(session: tuple[Trace, list[Line]]) -> None:
    """101 accepts by accept and accept4 are the acceptors', each with the socket that the call returned."""
    seen, truth = session
    check_network(truth, seen.events)
    accepts = lines(truth, "accept")
    assert len(accepts) == ACCEPTS
    assert {line["label"] for line in accepts} == {"accept", "accept4"}
    assert len({line["pid"] for line in accepts}) == 2
    for line in accepts:
        flow = check_accepted(truth, seen.events, line)["tracer"]["socket"]["id"]
        closed = one(seen.events, CLOSED, line["pid"], tracer__socket__id=flow)
        # Each has a number of bytes that is its own: the socket is the one that carried them.
        assert (closed["source"]["bytes"], closed["destination"]["bytes"]) == (line["number"] + 1, 0), shorten(closed)


def test_coverage_names_the_hook(session: tuple[Trace, list[Line]]) -> None:
    """The coverage record says what reports accepts: the calls, or the function they end in, or one for the other."""
    hooks = coverage(session[0])["hooks"]
    places = {section.rpartition("/")[2] for section in hooks.values()} & {*CALLS, FUNCTION}
    assert places in (CALLS, {FUNCTION}, {*CALLS, FUNCTION}), hooks


def test_io_uring(session: tuple[Trace, list[Line]]) -> None:
    """Accepts through io_uring are the process's where the hook sees them; else that is said, nobody is blamed."""
    seen, truth = session
    skip_missing(truth, "io_uring")
    skip_missing(truth, "io_uring accept")
    accepts = lines(truth, "ring-accept")
    assert len(accepts) == 7
    blind = "who accepted a connection through io_uring" in coverage(seen)["blind"]
    for line in accepts:
        if not blind:
            check_accepted(truth, seen.events, line)
        ends = {"source__port": line["remote_port"], "destination__port": line["local_port"]}
        incoming = find(seen.events, network__direction="ingress", tracer__netns=line["netns"], **ends)
        actions = [event["event"]["action"] for event in incoming]
        assert actions.count(ACCEPTED) == (0 if blind else 1), [shorten(event) for event in incoming]
        owners = {value(event, "process.pid") for event in incoming} - {ABSENT}
        assert owners <= {line["pid"]}, [shorten(event) for event in incoming]
