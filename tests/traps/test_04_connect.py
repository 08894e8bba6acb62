"""Trap 4: EINPROGRESS is not success. Each way for a connect to end is told apart, with its errno and its latency."""

import errno

import pytest

from tests.tracing import actions, find, one, shorten
from tests.traps.checks import (
    ATTEMPTED,
    CLOSED,
    FAILED,
    NS,
    OPENED,
    check_accepted,
    check_closed,
    check_failed,
    check_opened,
    check_time,
    lines,
    only,
    skip_missing,
)
from tests.traps.conftest import MakeTrace, Run, Seen, see_by_softirq

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see_by_softirq(trace, run, "trap_04_connect", _all_told)


def _all_told(seen: Seen) -> bool:
    """Whether each connect that failed for want of an answer has some end: a timer's softirq brings it."""
    late = [line for line in lines(seen.truth, "connect") if line["label"] in {"no-neighbour", "timed-out"}]
    return all(find(seen.events, FAILED, line["pid"]) for line in late)


@pytest.mark.parametrize("label", ["success", "reset"])
def test_success(seen: Seen, label: str) -> None:
    """A connect that ends well is opened once, not failed; the accept and both ends, reset or not, follow."""
    truth, events = seen
    line = only(truth, "connect", label=label)
    check_opened(truth, events, line | {"local_ip": "127.0.0.1", "after_ns": line["done_ns"]})
    check_accepted(truth, events, only(truth, "accept", label=label))
    for closed in lines(truth, "close", label=label):
        check_closed(events, closed)
    assert actions(events, line["pid"]) == {
        "socket-listening": 1,
        "connection-opened": 1,
        "connection-accepted": 1,
        "connection-closed": 2,
        "process-exited": 1,
    }


def test_reset_names_the_error(seen: Seen) -> None:
    """The end that was reset says ECONNRESET; the end that reset has no error."""
    truth, events = seen
    errors = {
        event["network"]["direction"]: event.get("error", {}).get("code")
        for event in find(events, CLOSED, only(truth, "connect", label="reset")["pid"])
    }
    assert errors == {"egress": "ECONNRESET", "ingress": None}


@pytest.mark.parametrize(
    ("label", "others"),
    [
        ("refused", {}),
        ("no-route", {}),
        ("no-neighbour", {}),
        ("no-port", {}),
        ("timed-out", {"socket-listening": 1, "connection-opened": 1}),
        ("gave-up", {"socket-listening": 1, "connection-opened": 1}),
    ],
)
def test_failure(seen: Seen, label: str, others: dict[str, int]) -> None:
    """A connect that fails is reported once, with the errno, and with nothing that says it was ever open.

    Some cases need a connection beside, which fills a queue: that one is opened and closed.
    """
    truth, events = seen
    skip_missing(truth, "veth" if label == "no-neighbour" else "")
    line = only(truth, "connect", label=label)
    if label == "gave-up":
        # SO_SNDTIMEO ends the waiting, not the connecting: told when the caller closes, as connect(2) told it.
        assert line["result"] == errno.EINPROGRESS
    failed = check_failed(truth, events, line)
    assert not find(events, CLOSED, tracer__socket__id=failed["tracer"]["socket"]["id"])
    counted = actions(events, line["pid"])
    closed = counted.pop(CLOSED, 0)
    assert counted == {FAILED: 1, "process-exited": 1, **others}
    assert closed == others.get(OPENED, 0)


def test_second_connect_changes_nothing(seen: Seen) -> None:
    """Asking for a connect on a socket that is connected (EISCONN) opens nothing and fails nothing."""
    truth, events = seen
    assert only(truth, "connect", label="again")["result"] == errno.EISCONN
    line = only(truth, "connect", label="again-first")
    check_opened(truth, events, line)
    assert actions(events, line["pid"]) == {
        "socket-listening": 1,
        "connection-opened": 1,
        "connection-closed": 1,
        "process-exited": 1,
    }


def test_latency_of_waiting(seen: Seen) -> None:
    """The latency of a connect that timed out is all the time it took, not the time of the call."""
    truth, events = seen
    line = only(truth, "connect", label="timed-out")
    event = one(events, FAILED, line["pid"])
    assert event["event"]["duration"] > 1.4 * NS


def test_pending_is_attempted_first(seen: Seen) -> None:
    """A connect still pending after three seconds is reported as attempted, and concluded when it fails."""
    truth, events = seen
    line = only(truth, "connect", label="pending")
    failed = check_failed(truth, events, line)
    attempted = one(events, ATTEMPTED, line["pid"])
    assert attempted["tracer"]["socket"]["id"] == failed["tracer"]["socket"]["id"]
    for path in ("source", "destination"):
        assert {key: attempted[path][key] for key in ("ip", "port")} == {
            key: failed[path][key] for key in ("ip", "port")
        }
    assert attempted["process"]["entity_id"] == failed["process"]["entity_id"]
    assert attempted["event"].get("outcome", "unknown") == "unknown", shorten(attempted)
    assert events.index(attempted) < events.index(failed)
    check_time(truth, attempted, {"before_ns": line["before_ns"] + int(2.5 * NS), "after_ns": line["done_ns"]})
    assert failed["event"]["duration"] > 4.4 * NS


def test_nothing_else_is_attempted(seen: Seen) -> None:
    """Connects that were decided within three seconds are never reported as attempted."""
    truth, events = seen
    pids = {line["pid"] for line in lines(truth, "connect")} - {only(truth, "connect", label="pending")["pid"]}
    assert not [event for event in find(events, ATTEMPTED) if event["process"]["pid"] in pids]


def test_never_accepted_is_nobodys(seen: Seen) -> None:
    """Connections that waited in a queue until their listener was gone were never accepted, and nobody closes them."""
    truth, events = seen
    for line in lines(truth, "connect", label="filler"):
        assert not find(events, "connection-accepted", line["pid"])
        ends = find(events, CLOSED, source__port=line["local_port"], destination__port=line["remote_port"])
        assert [event["network"]["direction"] for event in ends] == ["egress"], [shorten(event) for event in ends]
