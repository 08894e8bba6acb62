"""Processes by comparison: who came, executed and went is told once and rightly, whatever comes between two looks."""

import os
import subprocess

import pytest

from tests.fallback.fake_files import FORKED, KTHREAD, NONE, UNSEEN, Machine, Made
from tracer.fallback import process_watch
from tracer.fallback.process_watch import Changes, ProcessWatch
from tracer.fallback.stat import parse


def watching(*processes: Made, hidden: bool = False) -> tuple[Machine, ProcessWatch]:
    """A machine that was looked at once, and the watch."""
    machine = Machine(*processes)
    watch = ProcessWatch(machine, machine, hidden=hidden)
    watch.look()
    return machine, watch


def pids(changes: Changes) -> tuple[list[int], list[int], list[int]]:
    """Who was born, executed, and is gone."""
    born, executed, gone = ([process.pid for process in part] for part in changes)
    return born, executed, gone


def test_first_look_finds_all_and_the_next_nothing() -> None:
    """The first look describes every process; as long as nothing changes no look tells anything or asks again."""
    machine = Machine(Made(1), Made(2, flags=KTHREAD, image=NONE))
    watch = ProcessWatch(machine, machine)
    assert pids(watch.look()) == ([1, 2], [], [])
    machine.asked.clear()
    assert pids(watch.look()) == ([], [], [])
    assert machine.asked == []


def test_comes_and_goes() -> None:
    """A process that is new was born, one that is not there any more is gone, each once."""
    machine, watch = watching(Made(1))
    machine.add(Made(7, start=2000))
    assert pids(watch.look()) == ([7], [], [])
    machine.end(7)
    assert pids(watch.look()) == ([], [], [7])
    assert pids(watch.look()) == ([], [], [])


def test_pid_that_comes_again_is_another_process() -> None:
    """With another start it is another process: the old one is gone, the new one born, in one look."""
    machine, watch = watching(Made(7, start=1000))
    machine.add(Made(7, start=1001))
    changes = watch.look()
    assert pids(changes) == ([7], [], [7])
    assert (changes.gone[0].stat.start, changes.born[0].stat.start) == (1000, 1001)


def test_refusal_is_no_absence() -> None:
    """A process that can't be read any more is there until it is gone; one that never could is counted, not told."""
    machine, watch = watching(Made(7), Made(8, stat_refused=True))
    assert (list(watch.living), watch.unreadable) == ([7], 1)
    machine.processes[7].stat_refused = True
    assert pids(watch.look()) == ([], [], [])
    assert (list(watch.living), watch.unreadable) == ([7], 2)
    machine.processes[7].stat_refused = False
    assert pids(watch.look()) == ([], [], [])
    machine.end(7)
    assert pids(watch.look()) == ([], [], [7])


def test_first_exec_by_the_kernels_mark() -> None:
    """Who was forked and then executes is told, also where nothing else of it can be seen."""
    for image in ((10, 20, 30), UNSEEN):
        machine, watch = watching(Made(7, flags=FORKED, image=image))
        assert not watch.living[7].executed
        machine.processes[7].flags = 0
        assert pids(watch.look()) == ([], [7], [])
        assert pids(watch.look()) == ([], [], [])


def test_later_execs_by_the_address_space() -> None:
    """Another address space is another exec, also of the same program; other flags, names and times are none."""
    machine, watch = watching(Made(7))
    for image in ((10, 20, 31), (11, 20, 31), (11, 21, 31)):
        machine.processes[7].image = image
        assert pids(watch.look()) == ([], [7], [])
    machine.processes[7].comm = "another name"
    machine.processes[7].flags = 0x400000
    assert pids(watch.look()) == ([], [], [])


def test_exec_that_is_not_for_this_user() -> None:
    """Where the address space is hidden, or becomes so, a second exec can't be known and is not told."""
    machine, watch = watching(Made(7, image=UNSEEN))
    machine.processes[7].image = (10, 20, 30)
    assert pids(watch.look()) == ([], [], [])
    machine.processes[7].image = UNSEEN
    assert pids(watch.look()) == ([], [], [])
    machine.processes[7].image = (10, 20, 99)
    assert pids(watch.look()) == ([], [7], []), "known before, and another now"


def test_in_the_middle_of_an_exec() -> None:
    """Half of what can be read then is of before: the next look tells, and tells it once."""
    machine, watch = watching(Made(7))
    machine.processes[7].image = NONE
    assert pids(watch.look()) == ([], [], [])
    machine.add(Made(8, start=2000, image=NONE))
    assert pids(watch.look()) == ([], [], [])
    machine.processes[7].image = machine.processes[8].image = (40, 50, 60)
    assert pids(watch.look()) == ([8], [7], [])


class Changing(Machine):
    """A process that executes again each time it is described, so often."""

    def __init__(self, *processes: Made, times: int) -> None:
        super().__init__(*processes)
        self.times = times

    def record(self, pid: int) -> bytes | None:
        """Describe it, and let it execute meanwhile."""
        found = super().record(pid)
        if self.times:
            self.times -= 1
            low, high, stack = self.processes[pid].image
            self.processes[pid].image = (low, high, stack + 1)
        return found


@pytest.mark.parametrize(("times", "told"), [(1, True), (2, True), (3, False)])
def test_executes_while_it_is_described(times: int, told: bool) -> None:
    """A description is of one program: it is made again until nothing changed meanwhile, or left to the next look."""
    machine = Changing(Made(7), times=times)
    watch = ProcessWatch(machine, machine)
    assert pids(watch.look()) == ([7] if told else [], [], [])
    if told:
        assert watch.living[7].image == parse(machine.processes[7].stat()).image
    else:
        assert pids(watch.look()) == ([7], [], [])


def test_zombie_has_ended() -> None:
    """A zombie is gone, once, with its status; its disappearance says nothing more."""
    machine, watch = watching(Made(7))
    machine.processes[7].state, machine.processes[7].status = "Z", 3 << 8
    (ended,) = watch.look().gone
    assert (ended.pid, ended.status) == (7, 3 << 8)
    assert pids(watch.look()) == ([], [], [])
    machine.end(7)
    assert pids(watch.look()) == ([], [], [])


def test_status_that_was_not_seen() -> None:
    """A process that is gone without a trace has no status, nor has a zombie that this user may not look into."""
    machine, watch = watching(Made(7), Made(8, image=UNSEEN))
    machine.end(7)
    machine.processes[8].state = "Z"
    assert [(process.pid, process.status) for process in watch.look().gone] == [(8, None), (7, None)]


@pytest.mark.parametrize(
    ("flags", "last", "zombie", "other"),
    [
        (FORKED, FORKED, False, True),
        (FORKED, FORKED, True, False),
        (FORKED, 0, True, True),
        (0, 0, False, False),
        (0, 0, True, False),
        (KTHREAD | FORKED, KTHREAD | FORKED, False, False),
    ],
)
def test_program_at_the_end(flags: int, last: int, zombie: bool, other: bool) -> None:
    """Who was only forked may have executed since the last look, but if its zombie says that it has not."""
    machine, watch = watching(Made(7, flags=flags))
    made = machine.processes[7]
    made.flags, made.state = last, "Z" if zombie else "S"
    if not zombie:
        machine.end(7)
    (ended,) = watch.look().gone
    assert ended.has_other_program is other


def test_leader_that_ended_first() -> None:
    """A process lives as long as one of its threads does."""
    machine, watch = watching(Made(7, threads=2))
    machine.processes[7].state = "Z"
    assert pids(watch.look()) == ([], [], [])
    machine.processes[7].threads = 1
    assert pids(watch.look()) == ([], [], [7])


def test_zombie_that_was_never_seen_alive() -> None:
    """What has come and gone between two looks is not told."""
    machine, watch = watching(Made(1))
    machine.add(Made(7, start=2000, state="Z"))
    assert pids(watch.look()) == ([], [], [])


def test_absent_where_procfs_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid a process that is not shown any more is gone only if the kernel knows no such process."""
    machine, watch = watching(Made(7), hidden=True)
    monkeypatch.setattr(os, "sched_getaffinity", _asked(PermissionError()))
    process = machine.processes.pop(7)
    assert pids(watch.look()) == ([], [], [])
    machine.add(process)
    assert pids(watch.look()) == ([], [], [])
    machine.end(7)
    monkeypatch.setattr(os, "sched_getaffinity", _asked(ProcessLookupError()))
    assert pids(watch.look()) == ([], [], [7])


def _asked(answer: OSError) -> object:
    def ask(_: int) -> None:
        raise answer

    return ask


def test_existence_of_real_processes() -> None:
    """One that runs exists, a zombie too, and one that is gone does not."""
    with subprocess.Popen(["/bin/true"]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_watch._exists(os.getpid())
        assert process_watch._exists(child.pid)
    assert not process_watch._exists(child.pid)


def test_name_may_hold_anything() -> None:
    """The name in the file is everything between the first bracket and the last."""
    made = Made(7, comm="a) S 1 (b\n")
    assert parse(made.stat()).comm == b"a) S 1 (b\n"
    assert parse(made.stat()).start == 1000


def test_of_this_very_process() -> None:
    """The file of a real process, this one, parses, and says what the system calls say."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 (as the kernel gives it, in one read)
        stat = parse(file.read())
    assert stat.parent == os.getppid()
    assert stat.executed
    assert stat.settled
    assert not stat.ended
    assert stat.image is not None


@pytest.mark.parametrize("text", [b"", b"1 (x S 1", b"1 (x) S 1 2 3", b"garbage"])
def test_no_stat(text: bytes) -> None:
    """What is no such file is refused."""
    with pytest.raises(ValueError, match="no stat"):
        parse(text)
