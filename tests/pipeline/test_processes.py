"""The process table: who a process is and comes from, for as long as anything may ask, and in bounded memory."""

import uuid
from base64 import b64encode
from hashlib import blake2b
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tracer.model import NS_PER_TICK, Flag, Kind, Process, entity_id
from tracer.pipeline import processes, whose
from tracer.pipeline.processes import ProcessTable
from tracer.probes.records import decode

BOOT = uuid.UUID(wire.BOOT_ID).bytes
T = wire.NOW


@pytest.fixture(name="table")
def _table() -> ProcessTable:
    """An empty table."""
    return ProcessTable(BOOT)


def execute(table: ProcessTable, *args: Any, **fields: Any) -> Process:
    """Feeds an exec."""
    return table.executed(decode(wire.executed(*args, **fields), 0))


def fork(table: ProcessTable, **fields: Any) -> Process:
    """Feeds a fork."""
    return table.forked(decode(wire.forked(**fields), 0))


def leave(table: ProcessTable, **fields: Any) -> Process:
    """Feeds an exit."""
    return table.exited(decode(wire.exited(**fields), 0))


def test_entity_id_is_known() -> None:
    """An entity id is base64 of BLAKE2b-128 over boot id, pid and start in ticks; this one was computed by hand."""
    ticks = 12_345
    digest = blake2b(BOOT + (4242).to_bytes(4, "little") + ticks.to_bytes(8, "little"), digest_size=16).digest()
    known = entity_id(BOOT, 4242, ticks * NS_PER_TICK)
    assert known == b64encode(digest).decode() == "1WXp4t5BuL2CHTsPOfFVQg=="


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**63))
def test_entity_id_floors_to_ticks(tgid: int, start: int) -> None:
    """What /proc can tell apart has different ids, and what it can't has the same."""
    tick = start // NS_PER_TICK * NS_PER_TICK
    known = entity_id(BOOT, tgid, start)
    assert known == entity_id(BOOT, tgid, tick) == entity_id(BOOT, tgid, tick + NS_PER_TICK - 1)
    assert known != entity_id(BOOT, tgid, tick + NS_PER_TICK)
    assert known != entity_id(BOOT, tgid ^ 1, start)
    assert known != entity_id(bytes(16), tgid, start)


def test_child_runs_what_its_parent_runs(table: ProcessTable) -> None:
    """A fork gives the child its parent's program and arguments, and a parent as it is now."""
    parent = execute(table, b"/bin/sh", b"/tmp", [b"sh", b"-c", b"x"], tgid=4000, start=T - 9, comm=b"sh")
    child = fork(table, tgid=4001, start=T, parent_tgid=4000, parent_start=T - 9, comm=b"sh", vpid=7, uid=33)
    assert child.image == parent.image
    assert child.parent is not None
    assert (child.parent.tgid, child.parent.start) == (4000, T - 9)
    assert child.parent.entity_id == parent.entity_id == entity_id(BOOT, 4000, T - 9)
    assert (child.parent.name, child.parent.executable) == (b"sh", b"/bin/sh")
    assert (child.comm, child.ids.vpid, child.uid) == (b"sh", 7, 33)
    assert child.entity_id == entity_id(BOOT, 4001, T) != parent.entity_id


def test_parent_stays_as_at_the_fork(table: ProcessTable) -> None:
    """That the parent execs another program, exits, or is replaced by init, does not change whose child it was."""
    execute(table, b"/bin/sh", tgid=4000, start=T - 9, comm=b"sh")
    fork(table, tgid=4001, start=T, parent_tgid=4000, parent_start=T - 9)
    execute(table, b"/bin/other", tgid=4000, start=T - 9, comm=b"other", time=T + 1)
    leave(table, tgid=4000, start=T - 9, time=T + 2)
    child = execute(table, b"/bin/x", tgid=4001, start=T, parent_tgid=1, parent_start=5, time=T + 3)
    assert child.parent is not None
    assert (child.parent.tgid, child.parent.name, child.parent.executable) == (4000, b"sh", b"/bin/sh")


def test_unknown_parent_has_an_identity(table: ProcessTable) -> None:
    """A parent that nothing was heard of has its pid, start and entity id, and no invented name."""
    child = execute(table, tgid=4001, parent_tgid=4000, parent_start=77 * NS_PER_TICK)
    assert child.parent is not None
    assert (child.parent.tgid, child.parent.start) == (4000, 77 * NS_PER_TICK)
    assert child.parent.entity_id == entity_id(BOOT, 4000, 77 * NS_PER_TICK)
    assert (child.parent.name, child.parent.executable) == (b"", b"")


def test_pid_zero_is_no_parent(table: ProcessTable) -> None:
    """The first process has no parent."""
    assert execute(table, tgid=1, parent_tgid=0).parent is None


def test_clone_parent(table: ProcessTable) -> None:
    """With CLONE_PARENT the parent is the caller's parent, and the program is the caller's."""
    execute(table, b"/bin/init", tgid=4000, start=T - 9, comm=b"init")
    execute(table, b"/bin/caller", tgid=4005, start=T - 5, comm=b"caller")
    child = fork(table, tgid=4006, start=T, parent_tgid=4000, parent_start=T - 9, forker_tgid=4005, forker_tid=4007)
    assert child.image is not None
    assert child.image.executable == b"/bin/caller"
    assert child.parent is not None
    assert (child.parent.tgid, child.parent.executable) == (4000, b"/bin/init")


def test_pid_reuse_is_another_process(table: ProcessTable) -> None:
    """The same pid with another start is another process, with nothing of the first one; both can be asked for."""
    first = execute(table, b"/bin/first", tgid=4000, start=T, comm=b"first")
    leave(table, tgid=4000, start=T, time=T + 1)
    second = fork(table, tgid=4000, start=T + NS_PER_TICK, parent_tgid=1, comm=b"second", time=T + 2)
    assert second is not first
    assert second.entity_id != first.entity_id
    assert second.image is None
    found = table.find(4000, T)
    assert found is not None
    assert (found.entity_id, found.image) == (first.entity_id, first.image)
    assert table.find(4000, T + NS_PER_TICK) is second


def test_pid_reuse_with_an_unseen_exit(table: ProcessTable) -> None:
    """Where the exit in between was lost the identities still differ, and the first is kept for what comes late."""
    first = execute(table, tgid=4000, start=T, comm=b"first")
    second = execute(table, tgid=4000, start=T + NS_PER_TICK, comm=b"second", time=T + 2)
    found = table.find(4000, T)
    assert found is not None
    assert (found.entity_id, found.image) == (first.entity_id, first.image)
    assert table.find(4000, T + NS_PER_TICK) is second
    assert table.owner(4000, T, b"first", 0, T + 3) is first


def test_exit_of_the_old_one_leaves_the_new_one(table: ProcessTable) -> None:
    """An exit that comes late is the old process's: who has the pid now lives on."""
    execute(table, tgid=4000, start=T)
    second = execute(table, tgid=4000, start=T + NS_PER_TICK)
    leave(table, tgid=4000, start=T, time=T + 5)
    assert table.find(4000, T + NS_PER_TICK) is second
    assert second.exited == 0


def test_exit_of_an_unknown_process_tells_who_it_was(table: ProcessTable) -> None:
    """Without a fork and an exec before it, an exit still has name, parent and user."""
    gone = leave(table, tgid=4000, start=T, comm=b"gone", uid=33, parent_tgid=1, parent_start=5, time=T + 5)
    assert (gone.comm, gone.uid, gone.exited) == (b"gone", 33, T + 5)
    assert gone.parent is not None
    assert gone.parent.tgid == 1


def test_exit_with_a_program_that_is_not_known(table: ProcessTable) -> None:
    """It keeps who it was and its parent, and names no program; earlier events keep theirs. It has ended."""
    before = execute(table, tgid=10, parent_tgid=9)
    after = leave(table, tgid=10, parent_tgid=9, flags=int(Flag.NO_PROGRAM))
    assert after.entity_id == before.entity_id
    assert after.parent is before.parent
    assert after.image is None
    assert before.image is not None
    assert table._living == {}
    assert table.find(10, after.start) is after


def test_exited_process_is_known_for_the_grace_time(table: ProcessTable) -> None:
    """A process that exited is found for the grace time, however many exit in it, and is forgotten sooner or later."""
    gone = execute(table, tgid=4000, start=T)
    leave(table, tgid=4000, start=T, time=T + 1)
    some = processes.EXITED_MOST // 2 - 1
    for i in range(some):
        leave(table, tgid=5000 + i, start=T, time=T + processes.GRACE_NS)
    assert table.find(4000, T) is gone
    for i in range(some):
        leave(table, tgid=50_000 + i, start=T, time=T + processes.GRACE_NS + 1)
    assert table.find(4000, T) is None
    assert table.find(5000, T) is not None


def test_exited_ones_are_bounded(table: ProcessTable) -> None:
    """A storm of short processes keeps the newest EXITED_MOST of them and few more, which is no loss."""
    count = 2 * processes.EXITED_MOST
    for i in range(count):
        leave(table, tgid=10_000 + i, start=T, time=T + i)
    assert processes.EXITED_MOST <= len(table) <= processes.EXITED_MOST * 1.25
    assert table.find(10_000, T) is None
    assert table.find(10_000 + count - processes.EXITED_MOST, T) is not None
    assert table.evicted == 0


def test_living_ones_are_bounded_and_eviction_is_counted(table: ProcessTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """More living processes than there is room for push out the oldest, and each is counted."""
    monkeypatch.setattr(processes, "LIVING_MOST", 5)
    for i in range(8):
        fork(table, tgid=100 + i, start=T + i)
    assert len(table) == 5
    assert table.evicted == 3
    assert table.find(102, T + 2) is None
    assert table.find(103, T + 3) is not None


def test_owner_makes_a_process_known(table: ProcessTable) -> None:
    """A socket's owner that nothing was heard of has the identity, name and user of the socket record."""
    owner = table.owner(4000, T, b"nc\0\0garbage", 33, T + 1)
    assert (owner.tgid, owner.start, owner.comm, owner.uid) == (4000, T, b"nc", 33)
    assert owner.entity_id == entity_id(BOOT, 4000, T)
    assert table.find(4000, T) is owner


def test_start_keeps_its_clock(table: ProcessTable) -> None:
    """A process keeps the wall clock by which it was first known, in each of its states; a later one has its own."""
    table.clock = 1_000
    assert execute(table, tgid=4000, start=T).clock == 1_000
    table.clock = 3_600_000
    assert table.owner(4000, T, b"renamed", 5, T + 1).clock == 1_000
    assert execute(table, tgid=4000, start=T).clock == 1_000
    assert leave(table, tgid=4000, start=T).clock == 1_000
    assert execute(table, tgid=4001, start=T + 5).clock == 3_600_000


def test_change_drops_what_was_rendered(table: ProcessTable) -> None:
    """A new program, name or user of a process must be seen in what is written next."""
    process = execute(table, tgid=4000, start=T, comm=b"one")
    process.rendered = "kept"
    assert table.owner(4000, T, b"one", 0, T + 1).rendered == "kept"
    assert table.owner(4000, T, b"two", 0, T + 1).rendered is None
    process.rendered = "kept"
    assert table.owner(4000, T, b"two", 5, T + 1).rendered is None
    process.rendered = "kept"
    assert execute(table, tgid=4000, start=T).rendered is None
    process.rendered = "kept"
    assert leave(table, tgid=4000, start=T, comm=b"three").rendered is None


def test_exec_has_everything_of_the_record(table: ProcessTable) -> None:
    """Each variable part of an exec record lands in the field of its name."""
    process = execute(
        table,
        b"/usr/bin/env",
        b"/srv/x",
        [b"env", b"", b"a b"],
        requested=b"./run",
        interpreter=b"/usr/bin/env",
        cgroup_path=b"/a.slice/b.scope",
        cgroup=77,
        inode=99,
        dev=9 << 20 | 3,
        argc=50,
        args_total=70_000,
        flags=Flag.SCRIPT | Flag.TRUNCATED_ARGS,
        time=T + 5,
    )
    image = process.image
    assert image is not None
    assert image._asdict() == {
        "time": T + 5,
        "executable": b"/usr/bin/env",
        "cwd": b"/srv/x",
        "requested": b"./run",
        "interpreter": b"/usr/bin/env",
        "args": b"env\0\0a b\0",
        "argc": 50,
        "args_total": 70_000,
        "dev": 9 << 20 | 3,
        "inode": 99,
        "flags": Flag.SCRIPT | Flag.TRUNCATED_ARGS,
    }
    assert process.cgroup == 77
    assert process.within == whose.read(b"/a.slice/b.scope")


def test_memfd_is_under_no_root(table: ProcessTable) -> None:
    """A program that is on no mount has the name it was given, not a path."""
    process = execute(table, raw_exe=b"memfd:payload\0", flags=Flag.DETACHED)
    assert process.image is not None
    assert process.image.executable == b"memfd:payload"
    ordinary = execute(table, raw_exe=b"memfd:payload\0")
    assert ordinary.image is not None
    assert ordinary.image.executable == b"/memfd:payload"


def test_root_is_a_path(table: ProcessTable) -> None:
    """No component at all is the root directory."""
    process = execute(table, cwd=b"/")
    assert process.image is not None
    assert process.image.cwd == b"/"


def test_kernel_thread_has_no_path(table: ProcessTable) -> None:
    """What runs no file has no executable and no working directory."""
    process = execute(table, raw_exe=b"", cwd=b"/", inode=0, args=[], kind=Kind.PROCESS_FOUND, flags=Flag.KTHREAD)
    assert process.image is not None
    assert (process.image.executable, process.image.cwd, process.image.args) == (b"", b"", b"")


NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name and b"/" not in name)


@given(st.lists(NAMES, min_size=1, max_size=60))
def test_paths_are_joined_from_the_leaf_up(names: list[bytes]) -> None:
    """Any components come out as the path from the root down to them."""
    process = execute(ProcessTable(BOOT), raw_exe=b"".join(name + b"\0" for name in reversed(names)))
    assert process.image is not None
    assert process.image.executable == b"/" + b"/".join(names)


def test_descendants(table: ProcessTable) -> None:
    """Children and theirs, whatever the order in which they became known; not those of somebody else."""
    for child, parent in ((30, 20), (20, 10), (40, 30), (11, 1), (50, 11)):
        fork(table, tgid=child, start=T, parent_tgid=parent, parent_start=T)
    assert table.descendants({10}) == {10, 20, 30, 40}
    assert table.descendants({30, 11}) == {30, 40, 11, 50}
    leave(table, tgid=40, start=T)
    assert table.descendants({10}) == {10, 20, 30}


def test_child_after_parents_exec_keeps_the_old_image(table: ProcessTable) -> None:
    """What a child runs was fixed by the fork: a later exec of its parent is the parent's alone."""
    execute(table, b"/bin/one", tgid=4000, start=T)
    child = fork(table, tgid=4001, start=T + 1, parent_tgid=4000, parent_start=T)
    execute(table, b"/bin/two", tgid=4000, start=T)
    assert child.image is not None
    assert child.image.executable == b"/bin/one"


@pytest.mark.parametrize("exited", [False, True])
@pytest.mark.parametrize(("first", "then"), [("tick", "exact"), ("exact", "tick")])
def test_start_from_proc_is_the_same_process(table: ProcessTable, first: str, then: str, exited: bool) -> None:
    """A process found in /proc, which knows its start to the tick, is the one of the kernel's records, and the reverse.

    The exact start is kept, wherever it came from, also when it is told after the exit.
    """
    starts = {"tick": 123 * NS_PER_TICK, "exact": 123 * NS_PER_TICK + 4_567}
    process = execute(table, start=starts[first])
    if exited:
        leave(table, start=starts[first])
    found = table.find(process.tgid, starts[then])
    assert found is not None
    assert found.image is process.image
    owner = table.owner(process.tgid, starts[then], b"other\0", 7, T)
    assert owner.start == starts["exact"]
    assert (owner.entity_id, owner.image) == (process.entity_id, process.image)
    assert table.find(process.tgid, starts["exact"]) is table.find(process.tgid, starts["tick"]) is owner
    assert len(table) == 1


def test_exact_starts_in_one_tick_are_two_processes(table: ProcessTable) -> None:
    """Two starts that the kernel tells exactly are two processes, however near; so are two ticks."""
    process = execute(table, start=123 * NS_PER_TICK + 1)
    assert table.find(process.tgid, 123 * NS_PER_TICK + 2) is None
    assert table.find(process.tgid, 124 * NS_PER_TICK) is None
    assert table.find(process.tgid, 123 * NS_PER_TICK) is process
