"""The proc connector, heard: every fork, exec and exit of known programs, and every message that was lost, counted."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracer.fallback.connector import Connector, Gap, ProcEvent, What
from tracer.probes.unusable import UnusableError

pytestmark = pytest.mark.live

PROCESSES = 23
ROOM = 8 << 20
SETTLE_S = 5.0
TRIES = 50

# Renames itself so often, on one CPU: each is one message of it.
RENAMER = """
import ctypes, os, sys
cpu, times = int(sys.argv[1]), int(sys.argv[2])
os.sched_setaffinity(0, [cpu])
libc = ctypes.CDLL(None)
for _ in range(times):
    libc.prctl(15, b"renamer", 0, 0, 0)
"""
# The first thread ends long before the process, whose last thread gives the code.
LEADERLESS = """
import ctypes, os, threading, time
def last():
    time.sleep(0.2)
    os._exit(7)
threading.Thread(target=last).start()
ctypes.CDLL(None).syscall(60, 0) if os.uname().machine == "x86_64" else ctypes.CDLL(None).syscall(93, 0)
"""


@pytest.fixture(name="connector")
def _connector() -> Iterator[Connector]:
    with Connector(ROOM) as connector:
        yield connector


def heard(connector: Connector) -> list[ProcEvent]:
    """Everything that was sent before this; where there is little room, others may take it from the last message."""
    events: list[ProcEvent] = []
    for _ in range(TRIES):
        more, came = connector.sync()
        events += more
        if came:
            return events
    pytest.fail(f"{TRIES} times something came between")


def test_forks_execs_and_exits_of_known_processes(connector: Connector) -> None:
    """23 children give 23 forks, execs and exits, of the right pids and parent, in order, with their codes."""
    codes = {}
    for number in range(PROCESSES):
        with subprocess.Popen(["/bin/sh", "-c", f"exit {number}"]) as child:
            child.wait()
        codes[child.pid] = number
    events = [event for event in heard(connector) if event.tgid in codes]
    kinds = {pid: [event.what for event in events if event.tgid == pid] for pid in codes}
    assert kinds == {pid: [What.FORK, What.EXEC, What.EXIT] for pid in codes}
    assert {event.second for event in events if event.what == What.FORK} == {os.getpid()}
    assert {event.tgid: event.first >> 8 for event in events if event.what == What.EXIT} == codes
    assert connector.lost == connector.overruns == connector.strangers == 0
    assert connector.gaps() == []


def test_times_are_those_of_the_boot_clock(connector: Connector) -> None:
    """A message's time lies between a look at the boot-time clock before and one after what it tells of."""
    before = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait()
    after = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    times = [event.time for event in heard(connector) if event.tgid == child.pid]
    assert len(times) == len(("fork", "exec", "exit"))
    assert before < times[0] < times[1] < times[2] < after + 1_000_000  # the exit is told after wait(2) can return


def test_signals(connector: Connector) -> None:
    """A process that a signal ends has that signal in its status."""
    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        child.send_signal(signal.SIGKILL)
        child.wait()
    exits = [event for event in heard(connector) if event.tgid == child.pid and event.what == What.EXIT]
    assert [event.first for event in exits] == [signal.SIGKILL]


def test_threads_are_told_apart(connector: Connector) -> None:
    """Threads fork and exit with a pid that is not their process's; processes never."""
    threads = 5
    for _ in range(threads):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join()
    own = [event for event in heard(connector) if event.tgid == os.getpid()]
    counts = Counter(event.what for event in own if event.pid != event.tgid)
    assert counts[What.FORK] == threads
    assert counts[What.EXIT] == threads
    assert not [event for event in own if event.pid == event.tgid and event.what in (What.FORK, What.EXIT)]


def test_leader_that_ends_first(connector: Connector) -> None:
    """When the first thread ends first there are two exits; the last one's status is that of the process."""
    child = subprocess.run([sys.executable, "-c", LEADERLESS], check=False)
    assert child.returncode == 7
    exits = [event for event in heard(connector) if event.what == What.EXIT]
    ours = [event for event in exits if any(event.tgid == leader.tgid and leader.first == 0 for leader in exits)]
    last = [event for event in ours if event.first == 7 << 8]
    assert len(last) == 1
    assert last[0].pid != last[0].tgid


def test_new_names_and_ids(connector: Connector) -> None:
    """A new name and new ids of a process are told with what they are now."""
    code = "import os; open('/proc/self/comm', 'w').write('renamed'); os.setgid(65533); os.setuid(65534)"
    with subprocess.Popen([sys.executable, "-c", code]) as child:
        child.wait()
    told = {event.what: event for event in heard(connector) if event.tgid == child.pid}
    assert told[What.COMM].name == b"renamed"
    assert (told[What.UID].first, told[What.UID].second) == (65534, 65534)
    assert (told[What.GID].first, told[What.GID].second) == (65533, 65533)


def test_loss_is_counted_to_the_message() -> None:
    """What a socket without room lost is what a second one with room heard more, and lies in intervals."""
    with Connector(ROOM) as witness, Connector(4096) as small:
        heard(witness)
        heard(small)
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        cpu = min(os.sched_getaffinity(0))
        subprocess.run([sys.executable, "-c", RENAMER, str(cpu), "1009"], check=True)
        got = small.read()
        assert small.overruns == 1
        got += heard(small)
        ended = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        gaps = small.gaps()
        assert small.overrun is False
        truth = heard(witness)
        assert witness.lost == 0
        keys = {(event.cpu, event.time) for event in truth}
        # What came late is in both; what one of them alone heard is what the other lost.
        newest = max(event.time for event in got)
        expected = [event for event in truth if began < event.time <= newest]
        assert {(event.cpu, event.time) for event in got} <= keys
        told = sum(gap.missing for gap in gaps)
        assert told == small.lost
        assert told >= 1009 - len(got)
        # Messages of kinds that are not events (ptrace, core dumps) have numbers, too.
        assert len(expected) <= len(got) + told <= len(expected) + 3
        assert all(began - 1_000_000_000 < gap.first < gap.last < ended for gap in gaps)
        assert {gap.cpu for gap in gaps} >= {cpu}


def test_sync_finds_what_was_lost_last() -> None:
    """Without any later message a loss shows only by the ones that sync() makes itself."""
    with Connector(4096) as small:
        heard(small)
        subprocess.run([sys.executable, "-c", RENAMER, "0", "101"], check=True)
        small.read()
        before = small.lost
        heard(small)
        assert small.lost > before


def test_readable_when_something_waits(connector: Connector) -> None:
    """The descriptor becomes readable with the next message, so that nobody has to poll."""
    heard(connector)
    with subprocess.Popen(["/bin/true"]) as child:
        assert select.select([connector], [], [], SETTLE_S)[0]
        child.wait()


def test_affinity_and_name_stay_as_they_were(connector: Connector) -> None:
    """sync() leaves the thread on the CPUs that it may run on, and with its name."""
    before = os.sched_getaffinity(0), Path("/proc/thread-self/comm").read_bytes()
    heard(connector)
    assert (os.sched_getaffinity(0), Path("/proc/thread-self/comm").read_bytes()) == before


UNUSABLE = """
import sys
from tracer.fallback.connector import Connector
from tracer.probes.unusable import UnusableError
try:
    Connector(1 << 20)
except UnusableError as error:
    print(error.code, error)
"""


@pytest.mark.parametrize(
    ("prefix", "code", "word"),
    [
        (["unshare", "--net"], 4, "network namespace"),
        (["unshare", "--pid", "--fork"], 4, "pid and user namespace"),
    ],
)
def test_where_it_does_not_reach(prefix: list[str], code: int, word: str) -> None:
    """In other namespaces the kernel refuses or says nothing: one line with the fix, within seconds, not a hang."""
    ran = subprocess.run(
        [*prefix, sys.executable, "-c", UNUSABLE], capture_output=True, text=True, check=True, timeout=30
    )
    assert ran.stdout.startswith(f"{code} ")
    assert word in ran.stdout


def test_numbers_that_come_again() -> None:
    """A number that was seen, or one from before, is no gap of four billion messages."""
    with Connector(ROOM) as connector:
        heard(connector)
        cpu, (number, when) = next(iter(connector._numbers.items()))
        connector._numbers[cpu] = (number + 1) & 0xFFFFFFFF, when
        heard(connector)
        assert connector.lost == 0
        assert Gap(cpu, 0, 0, 0) not in connector.gaps()


def test_no_privilege_is_said() -> None:
    """Whoever lacks the right to hear gets code 3 and the fix; since Linux 6.6 nobody lacks it."""
    from tracer.fallback.connector import _unusable

    refused = _unusable(PermissionError(1, "no"))
    assert isinstance(refused, UnusableError)
    assert refused.code == 3
    assert "CAP_NET_ADMIN" in str(refused)


def test_library_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyroute2 the backend is not to be had, and the line has the fix."""
    monkeypatch.setitem(sys.modules, "pyroute2.netlink.connector.cn_proc", None)
    with pytest.raises(UnusableError, match="pip install 'pyroute2") as missing:
        Connector(ROOM)
    assert missing.value.code == 4
