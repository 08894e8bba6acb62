"""The table of control groups: right by id for ever, and in bounded memory; and the groups of processes over time."""

import uuid
from typing import Any

import pytest

from tests import wire
from tracer.model import Cgroup, Flag, Kind, Process
from tracer.pipeline import cgroups, whose
from tracer.pipeline.cgroups import CgroupTable
from tracer.pipeline.flows import FlowTable
from tracer.pipeline.processes import ProcessTable
from tracer.probes.records import decode

T = wire.NOW
SHELL = {"tgid": 4000, "start": T - 9}
CHILD = {"tgid": 4001, "start": T, "parent_tgid": 4000, "parent_start": T - 9}


def components(path: bytes) -> bytes:
    """As a record has them."""
    return wire.path(path)


def test_a_group_is_known_by_its_id() -> None:
    """What a record told of a group is found by its id, and what none told of is not."""
    table = CgroupTable()
    assert table.find(7) is None
    told = table.told(7, components(b"/a.slice/b.service"), 0)
    assert told == whose.read(b"/a.slice/b.service")
    assert table.find(7) is told
    assert table.find(8) is None
    assert table.told(7, components(b"/a.slice/b.service"), 0) is told
    assert len(table) == 1


def test_flags_are_part_of_what_was_told() -> None:
    """The same components mean something else in version 1, and when the beginning is missing."""
    table = CgroupTable()
    parts = components(b"/a.slice/b.service")
    assert table.told(7, parts, Flag.CGROUP_V1).version == 1
    assert table.told(7, parts, Flag.TRUNCATED_CGROUP | Flag.SCRIPT).unit == b""
    assert table.told(7, parts, Flag.SCRIPT) == whose.read(b"/a.slice/b.service")


@pytest.mark.parametrize(
    ("number", "path", "flags"), [(1, b"/", 0), (1, b"/x", int(Flag.CGROUP_V1)), (0, b"/x", 0)], ids=["root", "v1", "0"]
)
def test_ids_that_say_nothing(number: int, path: bytes, flags: int) -> None:
    """The root of version 2 is where all are on a machine with version 1; no path is remembered for its id."""
    table = CgroupTable()
    assert table.told(number, components(path), flags).path == path
    assert table.find(number) is None


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more groups than there is room for those go that were not asked for the longest; a path is read again."""
    monkeypatch.setattr(cgroups, "KNOWN_MOST", 3)
    table = CgroupTable()
    for number in (1, 2, 3):
        table.told(number, components(b"/%d" % number), 0)
    assert table.find(1) is not None
    table.told(4, components(b"/4"), 0)
    assert [number for number in range(6) if table.find(number)] == [1, 3, 4]
    assert len(table) == 3
    assert len(table._by_path) == 1
    again = table.told(2, components(b"/2"), 0)
    assert again == whose.read(b"/2")
    assert table.find(2) is again


@pytest.fixture(name="table")
def _table() -> ProcessTable:
    return ProcessTable(uuid.UUID(wire.BOOT_ID).bytes)


def execute(table: ProcessTable, path: bytes, **fields: Any) -> Process:
    """An exec in a group."""
    return table.executed(decode(wire.executed(cgroup_path=path, **fields), 0))


def fork(table: ProcessTable, **fields: Any) -> Process:
    """A fork."""
    return table.forked(decode(wire.forked(**(CHILD | fields)), 0))


def path_of(process: Process) -> bytes | None:
    """Where a process is known to be."""
    return process.within.path if process.within is not None else None


def test_child_is_where_its_parent_is(table: ProcessTable) -> None:
    """A child in the group of the one that forked it has its path, in version 1 too, where the id is the root's."""
    shell = execute(table, b"/a.service", cgroup=7, **SHELL)
    assert fork(table, cgroup=7).within is shell.within
    old = execute(table, b"/docker/x", cgroup=1, flags=Flag.CGROUP_V1, tgid=5000, start=T)
    assert old.within is not None
    assert old.within.version == 1
    child = fork(table, cgroup=1, tgid=5001, parent_tgid=5000, parent_start=T)
    assert child.within is old.within
    assert fork(table, cgroup=1, tgid=5002, parent_tgid=5003).within is None


def test_child_made_in_another_group(table: ProcessTable) -> None:
    """Of a child that was made in a group (CLONE_INTO_CGROUP) the path is known if any exec there told of it."""
    execute(table, b"/a.service", cgroup=7, **SHELL)
    stranger = fork(table, cgroup=8)
    assert (stranger.cgroup, stranger.within) == (8, None)
    execute(table, b"/b.service", cgroup=8, tgid=6000, start=T)
    assert path_of(fork(table, cgroup=8, tgid=4002)) == b"/b.service"


def test_moves_are_followed(table: ProcessTable) -> None:
    """The next record tells of a move, be it an exec, a socket or the exit; events before it keep the old group."""
    execute(table, b"/b.service", cgroup=8, tgid=6000, start=T)
    first = execute(table, b"/a.service", cgroup=7, **SHELL)
    flows = FlowTable(table)
    event = flows.event(decode(wire.socket(Kind.CONNECT, cgroup=8, **SHELL), 0), False)
    assert event.process is not None
    assert (event.process.cgroup, path_of(event.process)) == (8, b"/b.service")
    assert (first.cgroup, path_of(first)) == (7, b"/a.service")
    again = execute(table, b"/c.service", cgroup=9, **SHELL)
    assert path_of(again) == b"/c.service"
    gone = table.exited(decode(wire.exited(cgroup=7, **SHELL), 0))
    assert (gone.cgroup, path_of(gone)) == (7, b"/a.service")


def test_group_that_nobody_told_of(table: ProcessTable) -> None:
    """Who moves to a group of which no path is known has its id and no path: not that of the group before."""
    execute(table, b"/a.service", cgroup=7, **SHELL)
    gone = table.exited(decode(wire.exited(cgroup=99, **SHELL), 0))
    assert (gone.cgroup, gone.within) == (99, None)


def test_old_socket_moves_nobody(table: ProcessTable) -> None:
    """A close has the group that its socket was opened in: the process is not put back there."""
    shell = execute(table, b"/a.service", cgroup=7, **SHELL)
    event = FlowTable(table).event(decode(wire.socket(Kind.CLOSE, cgroup=3, comm=shell.comm, **SHELL), 0), False)
    assert event.process is not None
    assert (event.process.cgroup, event.process.within) == (7, shell.within)


def test_root_and_unknown(table: ProcessTable) -> None:
    """No component is the root where a group is told of, and unknown where none is."""
    assert execute(table, b"/", cgroup=1, **SHELL).within == Cgroup(b"/", 2, b"", b"", b"", b"", "", (), "")
    assert execute(table, b"/", cgroup=0, tgid=5000, start=T).within is None
    thread = execute(table, b"/", cgroup=1, inode=0, flags=Flag.KTHREAD, tgid=2, start=3, kind=Kind.PROCESS_FOUND)
    assert thread.within is None
