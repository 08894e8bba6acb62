"""The broker and its worker: questions answered as if asked directly, and neither outlives the other."""

import errno
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracer.fallback import broker
from tracer.fallback.asked import AskedFiles, BrokerLostError
from tracer.fallback.broker import Broker
from tracer.fallback.files import (
    CGROUP,
    CGROUP_PART,
    EXE_FILE,
    EXE_PART,
    FILES,
    GLANCES,
    LINKS,
    DirectFiles,
    ExeFile,
    Part,
    gone,
)
from tracer.fallback.procfs import ProcFinder
from tracer.fallback.protocol import Asks, Question
from tracer.model import NS_PER_TICK
from tracer.probes.records import START, TGID, decode, frames

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
DEADLINE = 30


@contextmanager
def served(made: Broker | None = None) -> Iterator[tuple[AskedFiles, socket.socket]]:
    """A worker's side of a broker that a thread is, and the bare socket under it."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    serving = made or Broker(("procfs",))

    def serve() -> None:
        serving._serve(here)
        here.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield AskedFiles(there, DEADLINE), there
    finally:
        there.close()
        thread.join(DEADLINE)
        assert not thread.is_alive()


@pytest.fixture(name="asked")
def _asked() -> Iterator[AskedFiles]:
    """A worker's side."""
    with served() as (asked, _):
        yield asked


@pytest.fixture(name="child")
def _child() -> Iterator[int]:
    """A process that waits."""
    with subprocess.Popen(["/bin/sleep", "600"]) as child:
        yield child.pid
        child.kill()


def starts(pid: int) -> int:
    """When a process began, in ticks."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def test_asked_is_as_direct(asked: AskedFiles, child: int) -> None:
    """Every question has the answer that it has without a broker."""
    direct = DirectFiles()
    assert child in asked.pids()
    for start in (0, starts(child)):
        for name in FILES:
            if name not in {"stat", "status", "io", "timens_offsets", "net/tcp", "net/tcp6", "net/snmp"}:  # they change
                assert asked.read(child, name, start=start) == direct.read(child, name, start=start), name
        for name in LINKS:
            assert asked.link(child, name, start=start) == direct.link(child, name, start=start), name
        assert asked.fds(child, start=start) == direct.fds(child, start=start)
        assert asked.exe(child, start=start) == direct.exe(child, start=start)
        assert asked.cgroup(child, start=start) == direct.cgroup(child, start=start)
    assert asked.read(child, "comm", 2) == direct.read(child, "comm", 2)
    assert asked.read_each([child, os.getpid()], "comm") == direct.read_each([child, os.getpid()], "comm")


def test_glance_is_every_answer_at_once(asked: AskedFiles, child: int) -> None:
    """Each part is what its own question is answered with; of who is gone each is refused as gone."""
    direct = DirectFiles()
    changing = {"stat", "status"}
    for number, names in enumerate(GLANCES):
        parts = asked.glance(child, number)
        assert len(parts) == len(names)
        for name, part, other in zip(names, parts, direct.glance(child, number), strict=True):
            assert not part.errno
            if name in changing:
                assert part.data.split()[:2] == direct.read(child, name).split()[:2]
                continue
            assert part == other, name
            if name in LINKS:
                assert part.data == direct.link(child, name)
            elif name in FILES:
                assert part.data == direct.read(child, name)
        named = dict(zip(names, parts, strict=True))
        if EXE_FILE in named:
            assert ExeFile(*EXE_PART.unpack(named[EXE_FILE].data)) == direct.exe(child)
            assert named[CGROUP].data[CGROUP_PART.size :] == direct.cgroup(child).path
        gone = asked.glance(1 << 22, number)
        assert {part.data for part in gone} == {b""}
        assert {part.errno for part in gone} <= {errno.ENOENT, errno.ESRCH}


def test_glance_of_other_parts_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts too few, or longer than the answer, are not taken."""
    files = DirectFiles()
    monkeypatch.setattr(files, "glance", lambda *_: [Part(0, b"x")])
    with served(Broker(("netlink",), files=files)) as (asked, _), pytest.raises(BrokerLostError):
        asked.glance(1, 0)


def test_snapshot_through_the_broker(asked: AskedFiles) -> None:
    """The processes that are found through a broker are those that are there, each with its start."""
    finder = ProcFinder(asked)
    found = {record[TGID]: record for record in (decode(frame, 0) for frame in frames(finder.processes(frozenset())))}
    for pid in (os.getpid(), os.getppid(), 1):
        assert found[pid][START] // NS_PER_TICK == starts(pid)
    assert finder.hidden() == 0


def test_many_pids_in_one_question(asked: AskedFiles, monkeypatch: pytest.MonkeyPatch, child: int) -> None:
    """More pids than fit a question are asked for in several."""
    monkeypatch.setattr("tracer.fallback.asked.PIDS_MOST", 2)
    wanted = [child, os.getpid(), os.getppid(), 1, 1 << 22]
    assert asked.read_each(wanted, "comm").keys() == set(wanted[:4])


def test_large_answers(tmp_path: Path) -> None:
    """A file of megabytes comes whole, and no more than was asked for."""
    content = bytes(range(256)) * (3 << 12)
    place = tmp_path / "5" / "net"
    place.mkdir(parents=True)
    (place / "tcp").write_bytes(content)
    with served(Broker(("procfs",), files=DirectFiles(tmp_path))) as (asked, _):
        assert asked.read(5, "net/tcp") == content
        assert asked.read(5, "net/tcp", 100_000) == content[:100_000]
        assert asked.pids() == [5]


def test_refusals_come_through(child: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each refusal has the errno that it has without a broker; who has another start is gone."""

    def refuse(*_: object, **__: object) -> bytes:
        raise PermissionError(errno.EACCES, "no")

    def break_down(*_: object, **__: object) -> ExeFile:
        raise ValueError("a file that is not what it should be")

    refusing = DirectFiles()
    monkeypatch.setattr(refusing, "link", refuse)
    monkeypatch.setattr(refusing, "exe", break_down)
    with served(Broker(("procfs",), files=refusing)) as (asked, _):
        with pytest.raises(PermissionError):
            asked.link(child, "exe")
        with pytest.raises(OSError, match="Input/output") as strange:
            asked.exe(child)
        assert strange.value.errno == errno.EIO
        for ask in (asked.fds, asked.cgroup):
            with pytest.raises(OSError, match="No such") as told:
                ask(child, start=starts(child) + 1)
            assert gone(told.value)
        with pytest.raises(ValueError, match="none of"):
            asked.read(child, "environ")
        assert asked.read(child, "comm") == b"sleep\n"  # it goes on


def test_descriptors_are_handed_over(asked: AskedFiles) -> None:
    """A socket of sock_diag comes as a descriptor of this process's own; a refused one is an error."""
    fd = asked.open_diag()
    with socket.socket(fileno=fd) as diag:
        assert (diag.family, diag.proto) == (socket.AF_NETLINK, 4)
        assert not os.get_inheritable(fd)
    os.close(asked.open_diag(os.getpid()))
    with pytest.raises(FileNotFoundError):
        asked.open_diag(1 << 22)


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.binary(max_size=100), st.sampled_from([Question(Asks.READ, 0, 1).pack() + b"x", b"\1" + bytes(40)]))
)
def test_whatever_a_worker_sends(data: bytes) -> None:
    """Any datagram is answered as a question or ends the service; the broker neither hangs nor fails."""
    with served() as (_, end):
        end.settimeout(DEADLINE)
        end.send(data)
        assert not end.recv(1 << 20) or data[:1] in {bytes([what]) for what in Asks if what is not Asks.OUTPUT}


class Deaf:
    """A broker that does as it is told instead of answering."""

    def __init__(self, act: Callable[[socket.socket], None]) -> None:
        self.act = act

    def __enter__(self) -> AskedFiles:
        here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.ends = here, there
        self.act(here)
        return AskedFiles(there, 0.2)

    def __exit__(self, *_: object) -> None:
        for end in self.ends:
            end.close()


@pytest.mark.parametrize(
    ("act", "why"),
    [
        (lambda _: None, "does not answer"),
        (lambda end: end.close(), "is gone"),
        (lambda end: end.send(b"\0"), "protocol"),
        (lambda end: end.send(struct.pack("<iI", 0, 1 << 31)), "protocol"),
        (lambda end: end.send(struct.pack("<iI", -5, 0)), "protocol"),
        (lambda end: socket.send_fds(end, [struct.pack("<iI", 0, 0)], [0]), "descriptor"),
    ],
)
def test_broker_that_is_none(act: Callable[[socket.socket], None], why: str) -> None:
    """A broker that is gone, silent or says nonsense is told as lost, which is no error of the process asked about."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with Deaf(act) as asked, pytest.raises(BrokerLostError, match=why):
        asked.read(1, "stat")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64))
def test_whatever_a_broker_answers(data: bytes) -> None:
    """Every answer to every question is taken apart, or told as lost."""

    def act(end: socket.socket) -> None:
        for _ in range(6):
            end.send(struct.pack("<iI", 0, len(data)) + data)

    with Deaf(act) as asked:
        for ask in (
            asked.pids,
            lambda: asked.fds(1),
            lambda: asked.exe(1),
            lambda: asked.cgroup(1),
            lambda: asked.read_each([1], "stat"),
            asked.open_diag,
        ):
            try:
                ask()
            except BrokerLostError:
                continue


# Whole processes.

COMMON = """
import os, signal, sys, time
from tracer.fallback.broker import Broker
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())
def note(line):
    say("broker:", line)
ending = []
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, lambda number, _: ending.append(number))
role = Broker(("netlink", "procfs"), say=note).run()
if isinstance(role, int):
    say("over", role)
    sys.exit(role)
say("worker", os.getpid(), os.getppid() == role.broker)
"""


@contextmanager
def running(code: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A broker whose worker runs ``code``: the process, and the first worker's pid."""
    command = [sys.executable, "-c", COMMON + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            words = process.stdout.readline().split()
            assert (words[0], words[2]) == ("worker", "True"), words
            yield process, int(words[1])
        finally:
            process.kill()


def patched(constant: str) -> str:
    """COMMON with a constant of the broker's set before it begins."""
    return COMMON.replace("role = Broker", f"import tracer.fallback.broker as broker; broker.{constant}\nrole = Broker")


def rest(process: subprocess.Popen[str]) -> list[str]:
    """The lines until both have ended."""
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()  # communicate() would leave out what was read ahead with the first line
    process.wait(timeout=DEADLINE)
    return lines


WAITS = """
while not ending and not role.files.gone():
    time.sleep(0.01)
say("ends by", *[int(number) for number in ending] or ["broker"])
sys.exit(7)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_go_to_the_worker(number: signal.Signals) -> None:
    """A signal to the broker ends the worker in order, and the broker with the worker's code."""
    with running(WAITS) as (process, worker):
        assert worker != process.pid
        process.send_signal(number)
        assert rest(process) == [f"ends by {int(number)}", "over 7"]
    assert process.returncode == 7


def test_worker_ends_with_its_broker() -> None:
    """A broker that is killed is found out by the worker, through its socket and by a signal, and it ends."""
    with running(WAITS) as (process, _):
        process.kill()
        assert rest(process) in (["ends by broker"], ["ends by 15"])


def test_worker_that_waits_ends_with_its_broker() -> None:
    """The same for a worker that does not look: the kernel sends it SIGTERM."""
    with running("signal.signal(15, lambda *_: (say('told'), os._exit(0))); say('waits'); time.sleep(600)") as found:
        process, _ = found
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        process.kill()
        assert rest(process) == ["told"]


def test_broker_ends_with_its_worker() -> None:
    """The code of the worker is the broker's."""
    with running("sys.exit(3)") as (process, _):
        assert rest(process) == ["over 3"]
    assert process.returncode == 3


LOSES = """
gap = role.gap
say(role.ladder, gap and (gap.backend, gap.reason, gap.first, gap.killed), role.began, role.events)
role.files.alive(0, 5, 10)
if gap is None or gap.reason != "third":
    role.files.lost(0, "third" if gap and gap.reason == "second" else "second" if gap else "first", 7, 11)
sys.exit(9 if gap and gap.reason == "third" else 1)
"""


def test_fresh_worker_after_a_loss() -> None:
    """A worker whose backend is lost is followed by another that knows what is missing; the next backend if need be."""
    with running(LOSES) as (process, _):
        told = [line for line in rest(process) if not line.startswith("worker")]
    assert told == [
        "('netlink', 'procfs') None 0 0",
        "broker: first; a fresh worker starts with netlink",
        "('netlink', 'procfs') ('netlink', 'first', 7, False) 5 11",
        "broker: second; a fresh worker starts with procfs",
        "('procfs',) ('netlink', 'second', 7, False) 5 22",
        "broker: third; a fresh worker starts with procfs",
        "('procfs',) ('procfs', 'third', 7, False) 5 33",
        "over 9",
    ]
    assert process.returncode == 9


KILLED = """
if role.gap is None:
    role.files.alive(1, 1234, 3)
    time.sleep(600)
say(role.ladder, role.gap.backend, role.gap.reason, role.gap.first, role.gap.killed)
"""


def test_fresh_worker_after_a_death() -> None:
    """A worker that is killed is followed by another: missing is what came after it said that all was well.

    The backend is the one that it had come to; those before it are not tried again.
    """
    with running(KILLED) as (process, worker):
        deadline = time.monotonic() + DEADLINE
        while "nanosleep" not in Path(f"/proc/{worker}/wchan").read_text() and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(worker, signal.SIGKILL)
        told = rest(process)
    assert told[0] == "broker: the worker was killed by SIGKILL; a fresh worker starts with procfs"
    assert told[2:] == ["('procfs',) procfs the worker was killed by SIGKILL 1234 True", "over 0"]


def test_losses_have_an_end() -> None:
    """Who loses its backend again and again ends with 1."""
    with running("role.files.lost(0, 'bad', 1, 0); sys.exit(1)") as (process, _):
        told = rest(process)
    assert sum(line.startswith("worker") for line in told) == broker._LOSSES_MOST
    assert told[-2:] == ["broker: bad; lost 6 times in a short time, so this is the end", "over 1"]


def test_worker_that_breaks_the_protocol() -> None:
    """A worker that sends what is no question is killed, and not followed by another."""
    with running(
        "import socket; socket.socket(fileno=role.files.fd).send(b'open /etc/shadow'); time.sleep(600)"
    ) as run:
        process, _ = run
        told = rest(process)
    assert told[0].startswith("broker: the worker did not keep to the protocol")
    assert told[1] == "over 1"


def test_worker_that_is_stopped_ends() -> None:
    """A worker that was stopped goes on when it is told to end, and ends in order."""
    with running(WAITS) as (process, worker):
        os.kill(worker, signal.SIGSTOP)
        deadline = time.monotonic() + DEADLINE
        while ") T " not in Path(f"/proc/{worker}/stat").read_text():
            assert time.monotonic() < deadline
        process.terminate()
        assert rest(process) == ["ends by 15", "over 7"]


REOPENS = COMMON.replace("say=note", "say=note, ends=lambda number: number != signal.SIGHUP")


def test_signal_that_does_not_end_it() -> None:
    """A SIGHUP that is no end goes to the worker, and a worker that is killed after it has a successor."""
    code = """
while signal.SIGTERM not in ending:
    if ending: say("heard", *map(int, ending)); ending.clear()
    time.sleep(0.01)
sys.exit(5)
"""
    command = [sys.executable, "-c", REOPENS + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            for _ in range(2):
                worker = int(process.stdout.readline().split()[1])
                process.send_signal(signal.SIGHUP)
                assert process.stdout.readline() == "heard 1\n"
                os.kill(worker, signal.SIGKILL)
                assert "a fresh worker" in process.stdout.readline()
            assert process.stdout.readline().startswith("worker")
            process.terminate()
            assert rest(process) == ["over 5"]
        finally:
            process.kill()


def test_signal_that_is_ignored_stays_so() -> None:
    """Who starts it with SIGHUP ignored has it ignored by broker and worker."""
    ignoring = COMMON.replace("role = Broker", "signal.signal(signal.SIGHUP, signal.SIG_IGN)\nrole = Broker")
    command = [sys.executable, "-c", ignoring + WAITS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        try:
            worker = int(process.stdout.readline().split()[1])
            for pid in (process.pid, worker):
                os.kill(pid, signal.SIGHUP)
            process.terminate()
            assert rest(process) == ["ends by 15", "over 7"]
        finally:
            process.kill()


def test_worker_that_takes_long_is_told_of() -> None:
    """A worker that does not end soon is told of at once, and not only when it is killed."""
    code = "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); say('waits'); time.sleep(600)"
    limits = "import tracer.fallback.broker as b; b._END_WITHIN_S, b._SAID_AFTER_S = 2, 0.1\nrole = Broker"
    command = [sys.executable, "-c", COMMON.replace("role = Broker", limits) + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == "waits\n"
        process.terminate()
        assert rest(process) == [
            "broker: the worker has not ended yet, by a slow output maybe; in 2 s it will be killed",
            "broker: the worker did not end within 2 s, and was killed",
            "over 1",
        ]


def test_worker_that_does_not_end() -> None:
    """A worker that was told to end and does not is killed; the code says so."""
    code = "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); say('waits'); time.sleep(600)"
    patched = COMMON.replace(
        "role = Broker", "import tracer.fallback.broker as b; b._END_WITHIN_S = 0.2\nrole = Broker"
    )
    command = [sys.executable, "-c", patched + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == "waits\n"
        process.terminate()
        assert rest(process) == ["broker: the worker did not end within 0 s, and was killed", "over 1"]


def test_worker_that_does_not_end_when_asked_again() -> None:
    """Who asks again and again waits no longer: the time for the worker runs from the first time."""
    code = "signal.pthread_sigmask(signal.SIG_BLOCK, [15]); say('waits'); time.sleep(600)"
    patched = COMMON.replace("role = Broker", "import tracer.fallback.broker as b; b._END_WITHIN_S = 1\nrole = Broker")
    command = [sys.executable, "-c", patched + code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert process.stdout.readline() == "waits\n"
        for _ in range(100):
            process.terminate()
            time.sleep(0.1)
            if process.poll() is not None:
                break
        ended = process.poll() is not None
        process.kill()
        assert ended
        assert rest(process) == ["broker: the worker did not end within 1 s, and was killed", "over 1"]


def test_worker_that_hangs_up() -> None:
    """A worker that closes its socket and lives on is killed: nobody would serve it, nor end with it."""
    patched = COMMON.replace(
        "role = Broker", "import tracer.fallback.broker as b; b._LAST_BREATH_S = 0.2\nrole = Broker"
    )
    command = [sys.executable, "-c", patched + "role.files.close(); signal.pthread_sigmask(0, [15]); time.sleep(600)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert any("killed by SIGKILL" in line for line in rest(process))
