"""Trap 14: connections and datagrams by io_uring, in the caller, in a worker thread, in a thread of the kernel."""

import pytest

from tests.tracing import one, shorten, value
from tests.traps.checks import ACCEPTED, OPENED, check_accepted, check_failed, check_opened, lines, only, skip_missing
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import check_flows, check_no_strangers, fits, need_counting

pytestmark = pytest.mark.live

MODES = ["inline", "worker", "sqpoll"]


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_14_io_uring")


def needs(seen: Seen, mode: str) -> None:
    """Skip where this kernel has no such ring."""
    skip_missing(seen.truth, f"io_uring {mode}")


@pytest.mark.parametrize("mode", MODES)
def test_connect(seen: Seen, mode: str) -> None:
    """A connect is its process's, whichever thread did it; one that is refused has failed."""
    needs(seen, mode)
    truth, events = seen
    for line in lines(truth, "connect", label=mode):
        if line.get("result"):
            check_failed(truth, events, by_any_thread(seen, line, "connection-failed") if mode != "inline" else line)
        else:
            check_opened(truth, events, by_any_thread(seen, line, OPENED) if mode != "inline" else line)


@pytest.mark.parametrize("mode", MODES)
def test_accept(seen: Seen, mode: str) -> None:
    """An accept is the process's whose ring it was."""
    needs(seen, mode)
    truth, events = seen
    if mode == "sqpoll":
        skip_missing(truth, "io_uring accept with SQPOLL")
    accepts = lines(truth, "accept", label=mode)
    assert len(accepts) == 2
    coverage = one(events, "tracer-coverage")["tracer"]["coverage"]
    blind = "who accepted a connection through io_uring" in coverage["blind"]
    if blind:
        need_counting(events)
    for line in accepts:
        # Where accepts through io_uring aren't seen themselves, whoever moves the first byte has accepted.
        done = only(truth, "flow", label=mode, pid=line["pid"], transport="tcp") if blind else line
        bounded = {**line, "after_ns": done["after_ns"]}
        check_accepted(truth, events, by_any_thread(seen, bounded, ACCEPTED) if mode != "inline" else bounded)


@pytest.mark.parametrize("mode", MODES)
def test_stream(seen: Seen, mode: str) -> None:
    """Send and receive: every byte is the process's, and came by io_uring."""
    needs(seen, mode)
    assert len(check_flows(*seen, label=mode, transport="tcp")) == 4


@pytest.mark.parametrize("mode", MODES)
def test_datagrams(seen: Seen, mode: str) -> None:
    """Messages to and from sockets without a peer: every one, with its peer, by io_uring."""
    needs(seen, mode)
    assert len(check_flows(*seen, label=mode, transport="udp")) == 2


def test_nothing_else(seen: Seen) -> None:
    """Nobody else has any of it: no thread of the kernel, no worker as a process of its own."""
    need_counting(seen.events)
    check_no_strangers(*seen)


def by_any_thread(seen: Seen, line: dict[str, object], action: str) -> dict[str, object]:
    """The line with the thread that the event has: which one of the process worked is the kernel's choice."""
    flow = {**line, "transport": "tcp", "egress": action != ACCEPTED}
    if "local_ip" not in flow:
        flow["local_ip"] = "0.0.0.0"
    mine = [event for event in seen.events if event["event"]["action"] == action and fits(event, flow)]
    event = one(mine, action, int(str(line["pid"])))
    thread = value(event, "process.thread.id")
    assert isinstance(thread, int), shorten(event)
    assert thread > 0
    return {**line, "tid": thread}


def test_program(seen: Seen) -> None:
    """The program did what it was to do: each kind of ring that there is was used for connect, accept and datagrams."""
    truth = seen.truth
    assert only(truth, "program")
    absent = {line["facility"] for line in lines(truth, "missing")}
    for mode in MODES:
        if f"io_uring {mode}" not in absent:
            assert len(lines(truth, "flow", label=mode)) == 6
