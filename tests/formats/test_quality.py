"""How an owner is known and what of a record is not exact: told by every format, and nothing made up beside it."""

import pytest

from tests.formats.ecs_lines import shown
from tests.formats.events import NOW, OFFSET, SECOND, SESSION, executed, exited, image, notice, socket
from tracer.formats.pretty import Pretty
from tracer.formats.pretty_notices import LOUD, QUIET, describe
from tracer.model import Event, Flag, Kind, Role

LOOKED = int(Flag.APPROXIMATE)
FOUND = int(Flag.APPROXIMATE | Flag.NO_TOTALS | Flag.BY_INODE)


def line(event: Event) -> str:
    """The event for people, without colours or cuts."""
    return Pretty(SESSION, colour=False, width=None).render(event, OFFSET, 0).decode().rstrip("\n")


@pytest.mark.parametrize(
    ("marks", "wanted"),
    [
        (0, "kernel"),
        (Flag.BY_COOKIE, "cookie"),
        (Flag.BY_INODE, "inode"),
        (Flag.BY_COOKIE | Flag.APPROXIMATE, "cookie"),
    ],
)
def test_how_the_owner_is_known(marks: int, wanted: str) -> None:
    """In words in ECS; for people only where it is not the kernel that told. Without an owner nothing is said."""
    for kind in (Kind.CONNECT, Kind.LISTEN, Kind.CLOSE, Kind.SOCKET_FOUND):
        event = socket(kind, marks=int(marks))
        assert shown(event)["tracer"]["attribution"] == wanted
        assert (f"(by {wanted})" in line(event)) is (wanted != "kernel")
        assert "attribution" not in shown(event._replace(process=None))["tracer"]


def test_sockets_of_the_kernel() -> None:
    """That nobody can be the owner is told in its place, in every kind of event; an owner that is known is believed."""
    for kind in (Kind.CONNECT, Kind.LISTEN, Kind.CLOSE, Kind.FLOW, Kind.FLOW_END, Kind.UPDATE):
        event = socket(kind, marks=int(Flag.KERNEL))
        assert shown(event._replace(process=None))["tracer"]["attribution"] == "kernel-socket"
        assert shown(event)["tracer"]["attribution"] == "kernel"


def test_quality_of_processes() -> None:
    """Approximate times are marked; an unknown status is no status, no code and no outcome, and so are unknown sums."""
    started = executed(image(b"sh"))._replace(flags=LOOKED)
    assert shown(started)["tracer"]["quality"] == ["approximate"]
    assert line(started).endswith(" ~")
    assert "quality" not in shown(executed(image(b"sh")))["tracer"]
    ended = exited(0, LOOKED | int(Flag.NO_STATUS))._replace(cpu_ns=0, max_rss=0)
    document = shown(ended)
    assert document["tracer"]["quality"] == ["approximate", "no-status"]
    assert document["event"]["outcome"] == "unknown"
    assert "exit_code" not in document["process"]
    assert not {"exit_status", "cpu_ns", "max_rss_bytes"} & document["tracer"]["process"].keys()
    assert "status unknown" in line(ended)
    assert "exit 0" not in line(ended)


def test_cpu_time_without_memory() -> None:
    """What is known of the sums is told, also where the other is not."""
    own = shown(exited(0)._replace(max_rss=0))["tracer"]["process"]
    assert own["cpu_ns"] == 3_400_000
    assert "max_rss_bytes" not in own


@pytest.mark.parametrize(
    ("kind", "action", "outcome"),
    [
        (Kind.CONNECT, "connection-opened", "success"),
        (Kind.ACCEPT, "connection-accepted", "success"),
        (Kind.ATTEMPT, "connection-attempted", "unknown"),
        (Kind.CLOSE, "connection-closed", "unknown"),
        (Kind.SOCKET_FOUND, "connection-open", None),
    ],
)
def test_sockets_without_totals(kind: Kind, action: str, outcome: str | None) -> None:
    """No byte, retransmit or round trip is told that was not counted; how an end came about is not known either."""
    role = Role.ACCEPT if kind is Kind.ACCEPT else Role.CONNECT
    event = socket(kind, role=role, marks=FOUND, sent=0, received=0, retransmits=0, rtt_us=0, opened=NOW - SECOND)
    document = shown(event)
    assert (document["event"]["action"], document["event"].get("outcome")) == (action, outcome)
    assert document["tracer"]["quality"] == ["approximate", "no-totals"]
    for end in ("source", "destination", "client", "server"):
        assert document[end].keys() == {"ip", "port"}
    assert "bytes" not in document["network"]
    assert document["tracer"].get("tcp", {}).keys() <= {"state"}
    for word in (" B", "backlog", "retransmit"):
        assert word not in line(event)
    assert line(event).endswith("(by inode) ~")


def test_listener_without_backlog() -> None:
    """A backlog that is not known is left out."""
    for kind in (Kind.LISTEN, Kind.SOCKET_FOUND):
        event = socket(kind, role=Role.LISTEN, state=10, marks=FOUND)
        assert "listen" not in shown(event)["tracer"]
        assert "backlog" not in line(event)
        assert shown(event._replace(marks=0))["tracer"]["listen"] == {"backlog": event.backlog}


def test_connection_of_which_nobody_knows_who_began() -> None:
    """It is told with its ends, and no arrow says who opened it."""
    event = socket(Kind.CONNECT, role=Role.NONE, marks=FOUND)
    assert shown(event)["network"]["direction"] == "unknown"
    assert "10.0.0.1:40000 ↔ 93.184.215.14:443" in line(event)
    assert "→" not in line(event)


def test_state_and_duration_that_are_not_known() -> None:
    """Without a state before the event there is none; without a beginning there is no duration."""
    document = shown(socket(Kind.CONNECT, marks=FOUND, state=0, opened=0))
    assert "tcp" not in document["tracer"]
    assert "duration" not in document["event"]
    closed = shown(socket(Kind.CLOSE, marks=FOUND, opened=NOW - SECOND))
    assert closed["event"]["duration"] == SECOND


def test_end_of_which_only_the_end_is_known() -> None:
    """For people a close without totals is not called cut off: the state was that of a look."""
    told = line(socket(Kind.CLOSE, marks=FOUND, state=1))
    assert "cut off" not in told
    assert ", ~" not in told


def test_what_can_not_be_counted() -> None:
    """A ledger that can't count everything says so, without alarm unless something was lost; the coverage, the fix."""
    ledger = {"total": {"delivered": 3, "lost": 0}, "missed": {"uncounted": ["what is short"]}, "complete": False}
    text, severity = describe(notice("tracer-ledger", ledger=ledger), SESSION, OFFSET)
    assert (text, severity) == ("ledger: 3 events, 0 lost; not counted: what is short", QUIET)
    ledger["total"] = {"delivered": 3, "lost": 1}
    assert describe(notice("tracer-ledger", ledger=ledger), SESSION, OFFSET)[1] is LOUD
    coverage = {"backend": "procfs", "hooks": {"a": "b"}, "uncounted": ["what is short"], "fix": "run it with sudo"}
    text, _ = describe(notice("tracer-coverage", coverage=coverage), SESSION, OFFSET)
    assert "can't count: what is short" in text
    assert text.endswith("fix: run it with sudo")
