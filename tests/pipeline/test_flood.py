"""Floods: what was collapsed is told and accounted for, and what it leaves unknown is never taken for known."""

from typing import Any, Final

import pytest

from tests import wire
from tests.wire import NOW as T
from tracer.model import RING_KINDS, Event, Kind, Notice, ProcessEvent, SocketEvent
from tracer.pipeline.engine import Engine
from tracer.pipeline.flood import FLOODS, UNSEEN
from tracer.pipeline.turns import Collapsed, Turn, pack, unpack
from tracer.pipeline.view import Filters
from tracer.probes.records import COUNTED, NOTED

MS: Final = 1_000_000
PID: Final = 4242
START: Final = T - 5000 * MS
SHELL: Final[dict[str, Any]] = {"tgid": PID, "start": START, "comm": b"sh"}


@pytest.fixture(name="engine")
def _engine() -> Engine:
    """An engine that shows everything."""
    return Engine(wire.BOOT_ID, Filters(kinds=frozenset(RING_KINDS)))


def row(place: int, count: int, *, began: int = T, last: int = T, kind: Kind = Kind.EXEC, **fields: Any) -> bytes:
    """A row of counts."""
    given = {"dev": 8 << 20 | 1, "inode": 7, "cgroup": 0, "uid": 1000, "comm": b"sh"} | fields
    who = 1, given["cgroup"], given["inode"], START, given["dev"], given["uid"]
    return COUNTED.pack(place, began, last, count, *who, kind, 0, 1, PID, given["comm"])


def mark(time: int, tgid: int = PID, start: int = START, *, ended: bool = False, changes: int = 2) -> bytes:
    """What a process did unseen."""
    return NOTED.pack(tgid % UNSEEN + ended * UNSEEN, start, time, tgid, changes)


def floods(engine: Engine, counts: bytes, now: int = T) -> list[dict[str, Any]]:
    """What is told of these rows."""
    events = engine.feed(Collapsed(now, counts, b""))
    assert all(isinstance(event, Notice) and event.action == "tracer-flood" for event in events)
    return [event.body["flood"] for event in events if isinstance(event, Notice)]


def turn(*items: bytes, now: int, last: bool = False) -> Turn:
    """A turn with these records."""
    return wire.turn(wire.ring_run(*items), now=now, last=last)


def connect(time: int, comm: bytes = b"sh") -> bytes:
    """A connect of that process."""
    return wire.socket(Kind.CONNECT, time=time, flow=time, tgid=PID, start=START, comm=comm)


def programs(events: list[Event]) -> list[bytes | None]:
    """What the processes of the connects run, by the events."""
    owners = [event.process for event in events if isinstance(event, SocketEvent)]
    return [owner.image.executable if owner is not None and owner.image is not None else None for owner in owners]


def test_counts_are_told_once(engine: Engine) -> None:
    """Each record tells what came on top, from the end of the last one; a row of somebody else begins anew."""
    assert floods(engine, row(3, 5, last=T + 1))[0] == {
        "kind": "exec",
        "count": 5,
        "first": T,
        "last": T + 1,
        "uid": 1000,
        "name": "sh",
        "pid": PID,
        "exe": {"dev": "8:1", "inode": 7},
    }
    more = floods(engine, row(3, 12, last=T + 9))[0]
    assert (more["count"], more["first"], more["last"]) == (7, T + 1, T + 9)
    assert floods(engine, row(3, 12, last=T + 9)) == []
    other = floods(engine, row(3, 2, began=T + 99, last=T + 100, uid=1001))[0]
    assert (other["count"], other["first"], other["uid"]) == (2, T + 99, 1001)


def test_executable_has_its_path_where_a_process_runs_it(engine: Engine) -> None:
    """The path is of a process with the same device and inode, and absent where there is none."""
    engine.feed(turn(wire.executed(b"/bin/sh", time=T, **SHELL), now=T + 100 * MS, last=True))
    assert floods(engine, row(3, 5))[0]["executable"] == "/bin/sh"
    assert "executable" not in floods(engine, row(4, 5, inode=8))[0]
    assert "exe" not in floods(engine, row(5, 5, dev=0, inode=0))[0]


def test_sockets_are_by_name(engine: Engine) -> None:
    """What the first process runs is told if it ran that by then, and not what it runs since."""
    engine.feed(turn(wire.executed(b"/bin/sh", time=T, **SHELL), now=T + 100 * MS, last=True))
    socket: dict[str, Any] = {"kind": Kind.CONNECT, "dev": 0, "inode": 0}
    assert floods(engine, row(3, 5, began=T + 1, last=T + 2, **socket))[0]["executable"] == "/bin/sh"
    assert "executable" not in floods(engine, row(4, 5, began=T - 1, **socket))[0]


def test_what_finds_no_place_is_nobodys(engine: Engine) -> None:
    """The rows behind the last say of which kind, and not whose."""
    told = floods(engine, row(FLOODS + Kind.EXIT, 5, kind=Kind.EXIT))[0]
    assert told == {"kind": "exit", "count": 5, "first": T, "last": T, "other": True}


def test_ledger_has_them_as_aggregated(engine: Engine) -> None:
    """What the kernel has collapsed is a term of its own, and the equation holds."""
    counters = wire.tallies({(1, Kind.FORK): {"attempts": 9, "filtered": 2, "collapsed": 7}})
    final = wire.turn(counters=counters, last=True)
    engine.feed(final)
    ledger = engine.statement(final).body["ledger"]
    assert ledger["by_kind"]["fork"]["aggregated"] == 7
    assert ledger["balanced"]
    assert ledger["complete"]


def test_program_is_unknown_after_an_exec_that_was_not_told(engine: Engine) -> None:
    """Before it the process runs what it ran, from its time on nobody knows what, until the next exec."""
    at = T + 10 * MS
    records = [
        wire.executed(b"/bin/sh", time=T, **SHELL),
        connect(at - 1),
        connect(at),
        connect(at + 1, b"evil"),
        wire.executed(b"/bin/true", time=at + 5, **SHELL | {"comm": b"true"}),
        connect(at + 6, b"true"),
    ]
    engine.feed(Collapsed(at + MS, b"", mark(at)))
    assert programs(engine.feed(turn(*records, now=at + MS, last=True))) == [b"/bin/sh", None, None, b"/bin/true"]


def test_child_of_a_program_that_is_unknown(engine: Engine) -> None:
    """It runs nothing that is known, either."""
    fork = wire.forked(time=T + 2 * MS, tgid=5000, start=T, parent_tgid=PID, parent_start=START, comm=b"evil")
    engine.feed(Collapsed(T + 3 * MS, b"", mark(T + MS)))
    events = engine.feed(turn(wire.executed(b"/bin/sh", time=T, **SHELL), fork, now=T + 9 * MS, last=True))
    (child,) = [event.process for event in events if isinstance(event, ProcessEvent) and event.kind is Kind.FORK]
    assert child.image is None
    assert child.parent is not None
    assert child.parent.executable == b""


def test_mark_waits_for_the_records_before_it(engine: Engine) -> None:
    """What is held back for order is dealt with first, in a later turn."""
    engine.feed(turn(wire.executed(b"/bin/sh", time=T, **SHELL), now=T + 100 * MS))
    at = T + 200 * MS
    engine.feed(Collapsed(at + MS, b"", mark(at)))
    assert programs(engine.feed(turn(connect(at - 1), connect(at + 1), now=at + MS))) == []
    assert programs(engine.feed(turn(now=at + 100 * MS))) == [b"/bin/sh", None]


def test_two_in_one_place(engine: Engine) -> None:
    """Where a mark was written over, whoever could be meant runs something unknown since the look before."""
    other = {"tgid": PID + UNSEEN, "start": START, "comm": b"sh"}
    third = {"tgid": PID + 1, "start": START, "comm": b"sh"}
    records = [wire.executed(b"/bin/sh", time=T, **who) for who in (SHELL, other, third)]
    engine.feed(turn(*records, now=T + 100 * MS))
    engine.feed(Collapsed(T + 150 * MS, b"", mark(T + 150 * MS, 1, 1)))
    engine.feed(Collapsed(T + 200 * MS, b"", mark(T + 199 * MS, changes=4)))
    engine.feed(turn(now=T + 300 * MS))
    assert engine.processes.find(PID + 1, START).image is not None  # type: ignore[union-attr]
    for tgid in (PID, PID + UNSEEN):
        assert engine.processes.find(tgid, START).image is None  # type: ignore[union-attr]


def test_exit_that_was_not_told(engine: Engine) -> None:
    """The process has ended; who gets its pid, and whose fork was not told either, inherits nothing of it."""
    engine.feed(turn(wire.executed(b"/bin/sh", time=T, **SHELL), now=T + 100 * MS))
    engine.feed(Collapsed(T + 120 * MS, b"", mark(T + 110 * MS, ended=True)))
    engine.feed(turn(now=T + 200 * MS))
    assert PID not in engine.processes._living
    fork = wire.forked(time=T + 220 * MS, tgid=5000, start=T + 220 * MS, parent_tgid=PID, parent_start=T + 150 * MS)
    (child,) = engine.feed(turn(fork, now=T + 300 * MS))
    assert isinstance(child, ProcessEvent)
    assert child.process.image is None


def test_forker_is_told_by_its_start_too(engine: Engine) -> None:
    """A process whose end nobody told does not hand its program to the children of who has its pid now."""
    old = wire.executed(b"/bin/sh", time=T, **SHELL)
    fork = wire.forked(time=T + 9 * MS, tgid=5000, start=T + 9 * MS, parent_tgid=PID, parent_start=START + 999 * MS)
    events = engine.feed(turn(old, fork, now=T + 10 * MS, last=True))
    (child,) = [event.process for event in events if isinstance(event, ProcessEvent) and event.kind is Kind.FORK]
    assert child.image is None


def test_recording_keeps_them() -> None:
    """What was collapsed comes out of a recording as it went in."""
    item = Collapsed(T, row(3, 5), mark(T))
    data = pack(item)
    assert unpack(data[0], data[5:]) == item
