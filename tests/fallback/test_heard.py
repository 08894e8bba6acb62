"""What is made of the connector's messages, with a machine that changes exactly when the test says."""

import errno
import os
import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.fallback.fake_files import FORKED, HOME, Machine, Made, gone
from tracer.fallback import heard as module
from tracer.fallback.connector import ProcEvent, What
from tracer.fallback.glimpse import NOBODY, Told
from tracer.fallback.heard import HOLD_NS, Heard
from tracer.model import NS_PER_TICK, UNSET_ID, Flag, Kind
from tracer.probes.records import FACTS, FLAGS, KIND, PARENT_TGID, START, TGID, TIME, decode

SECOND = 1_000_000_000
BORN = 1000  # ticks
NOW = BORN * NS_PER_TICK + SECOND
OTHER = HOME + 1


class Running(Made):
    """A process with a program: ``place`` is where its arguments are."""

    place: tuple[int, int] = (5000, 5010)
    exe: str = "/bin/first"
    uid: int = 1001
    dies_before: str = ""  # the file or link whose reading finds it gone

    def stat(self) -> bytes:
        """Its /proc/PID/stat, with the place of its arguments."""
        head, _, tail = super().stat().decode().rpartition(")")
        fields = tail.split()
        fields[45], fields[46] = map(str, self.place)
        return f"{head}) {' '.join(fields)}\n".encode()


class Busy(Machine):
    """A machine whose files tell of a program, too."""

    def _there(self, pid: int, name: str) -> Running:
        process = self._of(pid)
        assert isinstance(process, Running)
        if process.dies_before == name:
            self.end(pid)
            raise gone()
        return process

    def read(self, pid: int, name: str, most: int = 1 << 20, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        if not pid:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        process = self._there(pid, name)
        if name == "cmdline":
            return process.exe.encode() + b"\0"
        if name == "status":
            return f"Uid:\t{process.uid}\t{process.uid}\nGid:\t7\t7\nNSpid:\t{pid}\n".encode()
        if name in ("loginuid", "sessionid"):
            return str(UNSET_ID).encode()
        return super().read(pid, name, most, start=start)

    def link(self, pid: int, name: str, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        process = self._there(pid, name)
        assert not start
        links = {"exe": process.exe, "cwd": "/home", "ns/net": f"net:[{process.netns}]", "ns/pid": "pid:[9]"}
        return links[name].encode()

    def open_diag(self, pid: int | None = None) -> int:
        """See ProcFiles."""
        raise NotImplementedError(pid)


class Stage:
    """A machine with a shell (100), what is heard of it, and a clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        monkeypatch.setattr(module, "boottime", lambda: self.now)
        self.shell = Running(100, start=BORN - 500)
        self.machine = Busy(self.shell)
        self.said: list[tuple[Any, ...]] = []
        self.heard = Heard(self.machine, lambda record: self.said.append(decode(record, 0)), {1})
        self.heard.learn()

    def run(self, pid: int = 200, **facts: Any) -> Running:
        """A process that runs, or another under its pid."""
        process = Running(pid, start=facts.pop("start", BORN), parent=100)
        for name, value in facts.items():
            setattr(process, name, value)
        self.machine.add(process)
        return process

    def tell(self, what: What, pid: int = 200, *values: int, thread: int = 0, name: bytes = b"") -> None:
        """A message of now."""
        first, second = (*values, 0, 0)[:2]
        self.heard.take([ProcEvent(what, self.now, 0, thread or pid, pid, first, second, name)])

    def fork(self, pid: int = 200, parent: int = 100) -> None:
        """The shell forks."""
        self.tell(What.FORK, pid, parent, parent)

    def pass_time(self, ns: int) -> None:
        """So much later, with the connector read in between."""
        self.now += ns
        self.heard.release(self.now)

    def kinds(self) -> list[Kind]:
        """What was said."""
        return [Kind(record[KIND]) for record in self.said]


@pytest.fixture(name="stage")
def _stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    return Stage(monkeypatch)


def exe_of(record: tuple[Any, ...]) -> bytes:
    """The program that an exec's record names."""
    sizes = record[FACTS + 4 : FACTS + 10]
    return bytes(record[-1][: sizes[0]])


def netns_of(record: tuple[Any, ...]) -> int:
    """The network namespace that a record names."""
    return int(struct.unpack_from("=I", record[12], 4 * 9)[0])


def test_fork_exec_exit(stage: Stage) -> None:
    """Each is told with the message's time and the start that /proc had; an exec after it was held."""
    stage.run(flags=FORKED)
    stage.fork()
    stage.pass_time(1000)
    stage.run(exe="/bin/second", place=(7000, 7010))
    executed = stage.now
    stage.tell(What.EXEC)
    assert stage.kinds() == [Kind.FORK]
    stage.pass_time(HOLD_NS)
    stage.machine.end(200)
    stage.tell(What.EXIT, 200, 3 << 8, 17)
    assert stage.kinds() == [Kind.FORK, Kind.EXEC, Kind.EXIT]
    fork, execution, end = stage.said
    assert {record[START] for record in stage.said} == {BORN * NS_PER_TICK}
    assert {record[TGID] for record in stage.said} == {200}
    assert {record[PARENT_TGID] for record in stage.said} == {100}
    assert (fork[FLAGS], execution[FLAGS], end[FLAGS]) == (0, Flag.APPROXIMATE, 0)
    assert execution[TIME] == executed
    assert exe_of(execution) == b"second\0bin\0"
    assert end[-2] == 3 << 8


@pytest.mark.parametrize("gone_before", ["exe", "cmdline", "status", "stat"])
def test_what_is_gone_is_left_out(stage: Stage, gone_before: str) -> None:
    """A process that ends while it is looked at has what was read of it before, and nothing that was not."""
    stage.run(flags=FORKED)
    stage.fork()
    stage.run(exe="/bin/second", place=(7000, 7010), dies_before=gone_before)
    stage.tell(What.EXEC)
    stage.pass_time(HOLD_NS)
    assert stage.kinds() == [Kind.FORK, Kind.EXEC]
    assert exe_of(stage.said[1]) == (b"" if gone_before in ("exe", "stat") else b"second\0bin\0")
    assert b"first" not in stage.said[1][-1]


def test_first_of_two_execs_does_not_get_the_seconds_program(stage: Stage) -> None:
    """When the look after the first exec saw what the second runs already, the first is told without a program."""
    stage.run(flags=FORKED)
    stage.fork()
    stage.run(exe="/bin/second", place=(7000, 7010))
    stage.tell(What.EXEC)
    stage.pass_time(HOLD_NS // 2)
    stage.tell(What.EXEC)
    stage.pass_time(HOLD_NS)
    assert [exe_of(record) for record in stage.said if record[KIND] == Kind.EXEC] == [b"", b"second\0bin\0"]


@pytest.mark.parametrize(("between", "place"), [(HOLD_NS // 2, (8000, 8010)), (2 * HOLD_NS, (7000, 7010))])
def test_two_execs_that_are_told_apart(stage: Stage, between: int, place: tuple[int, int]) -> None:
    """By another address space, or by the time between them, both programs are certain."""
    stage.run(flags=FORKED)
    stage.fork()
    stage.run(exe="/bin/second", place=(7000, 7010))
    stage.tell(What.EXEC)
    stage.pass_time(between)
    stage.run(exe="/bin/third", place=place)
    stage.tell(What.EXEC)
    stage.pass_time(HOLD_NS)
    told = [exe_of(record) for record in stage.said if record[KIND] == Kind.EXEC]
    assert told == [b"second\0bin\0", b"third\0bin\0"]


def test_second_exec_that_is_gone_leaves_the_first_in_doubt(stage: Stage) -> None:
    """Nothing can be compared then, so neither says what it ran."""
    stage.run(flags=FORKED)
    stage.fork()
    stage.run(exe="/bin/second", place=(7000, 7010))
    stage.tell(What.EXEC)
    stage.machine.end(200)
    stage.tell(What.EXEC)
    stage.pass_time(HOLD_NS)
    assert [exe_of(record) for record in stage.said if record[KIND] == Kind.EXEC] == [b"", b""]


def test_records_keep_their_order_behind_one_that_is_held(stage: Stage) -> None:
    """What comes after an exec waits with it."""
    stage.run(flags=FORKED)
    stage.fork()
    stage.tell(What.EXEC)
    stage.machine.end(200)
    stage.tell(What.EXIT, 200, 0, 17)
    assert stage.kinds() == [Kind.FORK]
    stage.pass_time(HOLD_NS)
    assert stage.kinds() == [Kind.FORK, Kind.EXEC, Kind.EXIT]


@pytest.mark.parametrize("start", [None, BORN + 300])
def test_start_of_a_process_that_is_gone_is_its_messages(stage: Stage, start: int | None) -> None:
    """Who is gone, or has a successor under its pid, began when its message was sent, and that is approximate."""
    if start is not None:
        stage.run(start=start)
    stage.fork()
    stage.tell(What.EXIT, 200, 0, 17)
    assert stage.kinds() == [Kind.FORK, Kind.EXIT]
    for record in stage.said:
        assert record[START] == stage.now - stage.now % NS_PER_TICK
    assert stage.said[0][FLAGS] == Flag.APPROXIMATE


def test_threads_are_no_processes(stage: Stage) -> None:
    """A new thread and its end say nothing."""
    stage.tell(What.FORK, 100, 100, 100, thread=101)
    stage.tell(What.EXIT, 100, 0, 0, thread=101)
    assert stage.said == []


def test_leader_that_ends_first_ends_with_the_last_thread(stage: Stage) -> None:
    """The first thread's end says nothing while others run; the last one's is the process's, with its status."""
    stage.shell.state, stage.shell.threads = "Z", 2
    stage.tell(What.EXIT, 100, 0, 17)
    assert stage.said == []
    stage.shell.threads = 1
    stage.tell(What.EXIT, 100, 7 << 8, 0, thread=101)
    assert stage.kinds() == [Kind.EXIT]
    assert stage.said[0][-2] == 7 << 8


def test_leaderless_process_whose_end_was_not_heard(stage: Stage) -> None:
    """It is found to be gone, without a status."""
    stage.shell.state, stage.shell.threads = "Z", 2
    stage.tell(What.EXIT, 100, 0, 17)
    stage.heard.sweep()
    assert stage.said == []
    stage.machine.end(100)
    stage.heard.sweep()
    assert stage.kinds() == [Kind.EXIT]
    assert stage.said[0][FLAGS] == Flag.APPROXIMATE | Flag.NO_STATUS


def test_child_that_runs_something_else_is_not_its_parents(stage: Stage) -> None:
    """With CLONE_PARENT the parent is not who forked: no program is taken from it."""
    stage.run(flags=FORKED, place=(9000, 9010))
    stage.fork()
    assert stage.said[0][-2:] == (0, 0)  # nobody's program


def test_child_that_has_executed_already_is_its_parents(stage: Stage) -> None:
    """A look that comes after the exec is no sign of another forker."""
    stage.run(place=(9000, 9010))
    stage.fork()
    assert stage.said[0][-2:] == (100, 100)


def test_ids_follow_the_messages(stage: Stage) -> None:
    """Ids and names are those of the messages, also when the process is gone; a child has its parent's."""
    stage.tell(What.UID, 100, 55, 66)
    stage.tell(What.GID, 100, 77, 88)
    stage.tell(What.SID, 100)
    stage.tell(What.COMM, 100, name=b"renamed")
    stage.fork()
    told = Told.of(stage.heard.living[200].record)
    assert (told.ids.uid, told.ids.euid, told.ids.gid, told.ids.egid) == (55, 66, 77, 88)
    assert (told.ids.session, told.ids.group, told.comm) == (100, 100, b"renamed")


def test_unknown_parent_leaves_everything_unknown(stage: Stage) -> None:
    """A child of who is not known, and gone, is nobody's in particular: least of all root's."""
    stage.fork(200, parent=150)
    told = Told.of(stage.heard.living[200].record)
    assert told.parent == 150
    assert (told.ids.uid, told.ids.gid, told.parent_start) == (UNSET_ID, UNSET_ID, 0)
    assert Told.of(NOBODY).comm == b""


def test_namespace_that_changed_is_not_said_of_the_exec(stage: Stage) -> None:
    """Whether it went there before the exec or since, nobody knows; from then on it is known."""
    stage.run(flags=FORKED)
    stage.fork()
    stage.run(exe="/bin/second", place=(7000, 7010), netns=OTHER)
    stage.tell(What.EXEC)
    stage.pass_time(HOLD_NS)
    assert netns_of(stage.said[0]) == HOME
    assert netns_of(stage.said[1]) == 0
    stage.machine.end(200)
    stage.tell(What.EXIT, 200, 0, 17)
    assert netns_of(stage.said[2]) == OTHER


def test_namespace_that_was_seen_too_late_is_not_said_of_the_exec(stage: Stage) -> None:
    """A look after the fork that came only after the exec says where it is now, unless it is where its parent was."""
    stage.run(exe="/bin/second", place=(7000, 7010), netns=OTHER)
    stage.run(201, exe="/bin/second", place=(7000, 7010))
    events = [
        ProcEvent(what, stage.now - 1000, 0, pid, pid, 100, 100, b"")
        for pid in (200, 201)
        for what in (What.FORK, What.EXEC)
    ]
    stage.heard.take(events)
    stage.pass_time(HOLD_NS)
    told = {record[TGID]: netns_of(record) for record in stage.said if record[KIND] == Kind.EXEC}
    assert told == {200: 0, 201: HOME}


def test_child_that_is_gone_may_be_in_a_namespace_of_its_own(stage: Stage) -> None:
    """Its parent's is not said of it, nor a pid inside."""
    stage.fork()
    ids = Told.of(stage.heard.living[200].record).ids
    assert (ids.netns, ids.pidns, ids.vpid) == (0, 0, 0)
    assert stage.heard.members == {HOME: {100}}


def test_process_that_went_to_another_namespace_is_found(stage: Stage) -> None:
    """Nothing tells of unshare(2) and setns(2): the young are looked at each time, and in turn all others."""
    old = [stage.run(pid, start=1) for pid in range(1000, 1100)]
    for process in old:
        stage.fork(process.pid)
    young = stage.run(200, start=(NOW // NS_PER_TICK) - 100)
    stage.fork(200)
    young.netns = OTHER
    stage.heard.look_around()
    assert stage.heard.members[OTHER] == {200}
    old[-1].netns = OTHER
    for _ in range(5):
        stage.heard.look_around()
    assert stage.heard.members[OTHER] == {200, old[-1].pid}


def test_members_of_namespaces(stage: Stage) -> None:
    """A process is in one namespace, moves when that is seen, and leaves when it ends."""
    child = stage.run(flags=FORKED)
    stage.fork()
    assert stage.heard.members == {HOME: {100, 200}}
    child.netns = OTHER
    assert stage.heard.look_again(200) == OTHER
    assert stage.heard.members == {HOME: {100}, OTHER: {200}}
    stage.tell(What.EXIT, 200, 0, 17)
    assert stage.heard.members == {HOME: {100}, OTHER: {200}}  # not over: it is there, and runs
    stage.machine.end(200)
    stage.heard.sweep()
    assert stage.heard.members == {HOME: {100}}


def test_exit_of_whom_nobody_knew_is_counted(stage: Stage) -> None:
    """Without a start there is nothing to call it by."""
    stage.tell(What.EXIT, 300, 0, 17)
    stage.tell(What.EXIT, 1, 0, 17)  # left out anyway
    assert stage.said == []
    assert stage.heard.unknown == 1


def test_gap_is_followed_by_what_has_changed(stage: Stage) -> None:
    """Who ended, began, or runs something else is told as found by a look, and by no message of before again."""
    stage.run(200)
    stage.fork(200)
    stage.run(201)
    stage.fork(201)
    stage.said.clear()
    before = stage.now
    stage.machine.end(200)
    stage.run(201, exe="/bin/second", place=(7000, 7010))
    stage.run(202, exe="/bin/third", start=BORN + 1)
    stage.run(203, flags=FORKED, start=BORN + 2)
    stage.now += SECOND
    stage.heard.relearn()
    told = [(Kind(record[KIND]), record[TGID]) for record in stage.said]
    assert told == [
        (Kind.EXIT, 200),
        (Kind.EXEC, 201),
        (Kind.FORK, 202),
        (Kind.EXEC, 202),
        (Kind.FORK, 203),
    ]
    assert stage.said[0][FLAGS] == Flag.APPROXIMATE | Flag.NO_STATUS
    assert all(record[FLAGS] & Flag.APPROXIMATE for record in stage.said)
    stage.said.clear()
    for what in (What.FORK, What.EXEC):
        stage.heard.take([ProcEvent(what, before, 0, 202, 202, 100, 100, b"")])
    stage.heard.release(stage.now + SECOND)
    assert stage.said == []


def test_refusal_is_no_end(stage: Stage) -> None:
    """Who can't be looked at any more is still there."""
    stage.shell.stat_refused = True
    stage.heard.relearn()
    assert stage.said == []
    assert 100 in stage.heard.living


def test_without_a_change_a_gap_says_nothing(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look at the same machine has nothing to tell."""
    stage.run()
    stage.fork()
    stage.said.clear()
    looks: list[Callable[[], None]] = [stage.heard.relearn, stage.heard.relearn]
    for look in looks:
        look()
    assert stage.said == []
