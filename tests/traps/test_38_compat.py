"""Trap 38: system calls of 32-bit programs."""

import pytest

from tests.tracing import ABSENT, find, one, shorten, value
from tests.traps.checks import (
    ACCEPTED,
    EXEC_FAILED,
    FAILED,
    check_accepted,
    check_exec,
    check_failed,
    check_opened,
    lines,
    only,
    skip_missing,
)
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import check_flows, check_no_strangers

pytestmark = pytest.mark.live

WAYS = ["socketcall", "own-call"]
BLIND = "32-bit"


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    seen = see(trace, run, "trap_38_compat")
    skip_missing(seen.truth, "32-bit system calls")
    skip_missing(seen.truth, "32-bit system calls by int 0x80, which are x86's")
    return seen


def blind(seen: Seen) -> bool:
    """The coverage record says that some of it can't be seen."""
    return any(BLIND in text for text in one(seen.events, "tracer-coverage")["tracer"]["coverage"]["blind"])


@pytest.mark.parametrize("way", WAYS)
def test_connect(seen: Seen, way: str) -> None:
    """A connect by either way is told like any other: by whom, to where, how long."""
    truth, events = seen
    (line,) = (line for line in lines(truth, "connect", label=way) if not line["errno"])
    check_opened(truth, events, line)


@pytest.mark.parametrize("way", WAYS)
def test_refused(seen: Seen, way: str) -> None:
    """A refused connect has failed, with its errno."""
    truth, events = seen
    check_failed(truth, events, next(line for line in lines(truth, "connect", label=way) if line["errno"] == 111))


@pytest.mark.parametrize("way", WAYS)
def test_no_route(seen: Seen, way: str) -> None:
    """A connect that fails before it begins is told with the right errno, or the coverage says that it can't be."""
    truth, events = seen
    line = next(line for line in lines(truth, "connect", label=way) if line["errno"] == 101)
    found = find(events, FAILED, line["pid"], destination__port=line["remote_port"], destination__ip="192.0.2.1")
    if found or not blind(seen):
        check_failed(truth, events, line)


@pytest.mark.parametrize("way", WAYS)
def test_accept(seen: Seen, way: str) -> None:
    """An accept is the accepting process's, or the coverage says that it can't be seen; never another's."""
    truth, events = seen
    line = only(truth, "accept", label=way)
    ends = {"source__port": line["remote_port"], "destination__port": line["local_port"]}
    found = find(events, ACCEPTED, tracer__netns=line["netns"], **ends)
    assert {value(event, "process.pid") for event in found} <= {line["pid"]}, [shorten(event) for event in found]
    if found or not blind(seen):
        check_accepted(truth, events, line)


@pytest.mark.parametrize("way", WAYS)
def test_bytes(seen: Seen, way: str) -> None:
    """Bytes over TCP and UDP are counted like those of other calls."""
    truth, events = seen
    assert len(check_flows(truth, events, label=way)) == 4


def test_exec(seen: Seen) -> None:
    """An exec by a 32-bit call is told with its arguments; one that failed with its errno, or that it can't be."""
    truth, events = seen
    check_exec(truth, events, only(truth, "exec"))
    failed = only(truth, "exec-failed")
    found = find(events, EXEC_FAILED, failed["pid"])
    if found or not blind(seen):
        event = one(events, EXEC_FAILED, failed["pid"])
        assert event["error"]["code"] == "ENOENT", shorten(event)


def test_nothing_else(seen: Seen) -> None:
    """No call was taken for another that has its number among the 64-bit ones, and nobody else has any of it."""
    truth, events = seen
    check_no_strangers(truth, events)
    for event in find(events, pid=only(truth, "program")["pid"]):
        assert value(event, "error.code") in {ABSENT, "ECONNREFUSED", "ENETUNREACH"}, shorten(event)
