"""What is said of TCP sockets, from dumps and notifications that the test makes up."""

import socket
from typing import Any

import pytest

from tests.fallback.fake_files import HOME, Machine, Made
from tests.fallback.test_heard import BORN, NOW, Busy, Running
from tracer.fallback import diag_watch, heard
from tracer.fallback.diag import ALL_STATES, CLOSE, CLOSE_WAIT, ESTABLISHED, LISTEN, SYN_SENT, Info, TcpSocket
from tracer.fallback.diag_watch import LONGEST_NS, DiagWatch
from tracer.fallback.heard import Heard
from tracer.fallback.holders import Search
from tracer.model import NS_PER_TICK, Flag, Kind, Role
from tracer.probes.records import FLAGS, KIND, TGID, decode

HERE = bytes(10) + b"\xff\xff\x7f\0\0\1"
SECOND = 1_000_000_000
ROLE = 24  # positions in a socket record
SENT, RECEIVED = 12, 13


def tcp(cookie: int, port: int, peer: int, state: int = ESTABLISHED, *, inode: int = 0, **facts: Any) -> TcpSocket:
    """A socket of 127.0.0.1."""
    info = facts.pop("info", Info(0, 0, 0, 0, 0, 0, 0))
    made = TcpSocket(socket.AF_INET, state, HERE, port, HERE, peer, cookie, 1001, inode, 0, 0, 0, info)
    return made._replace(**facts)


def info(sent: int = 0, acked: int = 0, received: int = 0, segments: int = 0, rtt: int = 9) -> Info:
    """What the kernel counted."""
    return Info(sent, acked, received, segments, 0, rtt, 0)


class FakeDiag:
    """sock_diag of a namespace whose sockets the test puts there."""

    def __init__(self) -> None:
        self.there: list[TcpSocket] = []
        self.gone: list[TcpSocket] = []
        self.overruns = 0
        self.dumps: list[int] = []
        self.closed = False

    def dump(self, states: int) -> list[TcpSocket]:
        """Those in one of the states."""
        self.dumps.append(states)
        return [each for each in self.there if states >> each.state & 1]

    def destroyed(self) -> list[TcpSocket]:
        """Those that have ended."""
        found, self.gone = self.gone, []
        return found

    def fileno(self) -> int:
        """None."""
        return -1

    def close(self) -> None:
        """Noted."""
        self.closed = True


class Counting(Busy):
    """A machine with counters."""

    opens = 0

    def read(self, pid: int, name: str, most: int = 1 << 20, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        if name == "net/snmp":
            return f"Ip: A\nIp: 1\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 200 {self.opens} 0\n".encode()
        return super().read(pid, name, most, start=start)


class Stage:
    """A machine with a server (100) and a client (200), its sockets, and a clock that only the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        for module in (heard, diag_watch):
            monkeypatch.setattr(module, "boottime", self.tick)
        self.server, self.client = Running(100, start=BORN), Running(200, start=BORN)
        self.machine = Counting(self.server, self.client)
        self.said: list[tuple[Any, ...]] = []
        self.heard = Heard(self.machine, lambda _: None, set())
        self.heard.learn()
        self.diag = FakeDiag()
        monkeypatch.setattr(diag_watch, "_diag", lambda *_: self.diag)
        self.pulses = 0
        self.watch = DiagWatch(self.machine, self.heard, lambda record: self.said.append(decode(record, 0)), self.pulse)

    def tick(self) -> int:
        """Time goes on by itself, a little."""
        self.now += 1000
        return self.now

    def pulse(self) -> None:
        """Counted."""
        self.pulses += 1

    def look(self, times: int = 1, apart: int = LONGEST_NS, *, opens: bool = True) -> None:
        """So many looks, each with a change of the counters before it."""
        for _ in range(times):
            self.now += apart
            self.machine.opens += opens
            self.watch.look()

    def told(self) -> list[tuple[Kind, int, int]]:
        """Kind, owner and role of what was said."""
        return [(Kind(record[KIND]), record[TGID], record[ROLE]) for record in self.said]


@pytest.fixture(name="stage")
def _stage(monkeypatch: pytest.MonkeyPatch) -> Stage:
    stage = Stage(monkeypatch)
    stage.watch.start()
    return stage


def pair(stage: Stage, *, client: int = 11, server: int = 12) -> tuple[TcpSocket, TcpSocket]:
    """Both ends of a connection, and their descriptors."""
    stage.client.fds[3] = f"socket:[{client}]"
    stage.server.fds[4] = f"socket:[{server}]"
    ends = (
        tcp(1, 4000, 80, inode=client, info=info(sent=5, acked=6)),
        tcp(2, 80, 4000, inode=server, info=info(received=5, segments=1)),
    )
    stage.diag.there += ends
    return ends


def test_connection_and_its_end(stage: Stage) -> None:
    """Who began is told by the counters of bytes, whose it is by the inode, at the end by the cookie, with totals."""
    mine, theirs = pair(stage)
    stage.look()
    assert stage.told() == [(Kind.CONNECT, 200, Role.CONNECT), (Kind.ACCEPT, 100, Role.ACCEPT)]
    assert {record[FLAGS] for record in stage.said} == {Flag.APPROXIMATE | Flag.BY_INODE}
    stage.said.clear()
    stage.diag.there.clear()
    stage.diag.gone = [
        mine._replace(state=CLOSE, inode=0, info=info(sent=7, acked=9, received=1)),
        theirs._replace(state=CLOSE, inode=0, waiting=1, info=info(acked=1, received=8, segments=1)),
    ]
    stage.watch.hear()
    assert stage.told() == [(Kind.CLOSE, 200, Role.CONNECT), (Kind.CLOSE, 100, Role.ACCEPT)]
    assert {record[FLAGS] for record in stage.said} == {Flag.APPROXIMATE | Flag.BY_COOKIE}
    assert [(record[SENT], record[RECEIVED]) for record in stage.said] == [(7, 0), (0, 7)]


def test_connection_that_no_dump_saw(stage: Stage) -> None:
    """Its end is told with its totals and without an owner; which side began, only if somebody listened there."""
    stage.diag.there = [tcp(9, 80, 0, LISTEN, inode=90)]
    stage.server.fds[5] = "socket:[90]"
    stage.look()
    stage.said.clear()
    ended = tcp(1, 80, 4000, CLOSE, info=info(sent=3, acked=3))
    stage.diag.gone = [ended, ended._replace(cookie=2, port=81)]
    stage.watch.hear()
    assert stage.told() == [(Kind.CLOSE, 0, Role.ACCEPT), (Kind.CLOSE, 0, Role.NONE)]
    assert stage.said[0][SENT] == 3
    assert {record[FLAGS] for record in stage.said} == {Flag.APPROXIMATE}


def test_what_the_program_reset_has_no_totals(stage: Stage) -> None:
    """The kernel has forgotten them, and the peer, which is known from before."""
    mine, _ = pair(stage)
    stage.look()
    stage.said.clear()
    stage.diag.gone = [mine._replace(state=CLOSE, remote_port=0, info=info(rtt=0))]
    stage.watch.hear()
    assert stage.told() == [(Kind.CLOSE, 200, Role.CONNECT)]
    assert stage.said[0][FLAGS] == Flag.APPROXIMATE | Flag.BY_COOKIE | Flag.NO_TOTALS


def test_what_was_never_seen_and_is_forgotten_is_counted(stage: Stage) -> None:
    """A connect that failed, or a reset before a look: no line could tell of it, the ledger does."""
    unused = tcp(5, 0, 0, CLOSE, remote=bytes(10) + b"\xff\xff" + bytes(4), info=info(rtt=0))
    stage.diag.gone = [tcp(3, 4000, 0, CLOSE, info=info(rtt=0)), tcp(4, 4000, 80, CLOSE, info=info(rtt=0)), unused]
    stage.watch.hear()
    assert stage.said == []
    assert sum(stage.watch.missed.values()) == 2


def test_socket_that_waits_to_be_accepted_is_told_when_it_is(stage: Stage) -> None:
    """Without an inode it is nobody's yet."""
    waiting = tcp(1, 80, 4000, info=info())
    stage.diag.there = [waiting]
    stage.look(3)
    assert stage.said == []
    stage.server.fds[4] = "socket:[12]"
    stage.diag.there = [waiting._replace(inode=12)]
    stage.look()
    assert stage.told() == [(Kind.ACCEPT, 100, Role.ACCEPT)]


def test_pending_connect_is_attempted_once_then_told(stage: Stage) -> None:
    """After 3 s it is said to be pending; when it is there after all, it is told with its duration."""
    stage.client.fds[3] = "socket:[11]"
    stage.diag.there = [tcp(1, 4000, 80, SYN_SENT, inode=11)]
    stage.look(31)
    assert stage.told() == [(Kind.ATTEMPT, 200, Role.CONNECT)]
    stage.diag.there = [tcp(1, 4000, 80, inode=11, info=info(acked=1))]
    stage.look()
    assert stage.told()[1:] == [(Kind.CONNECT, 200, Role.CONNECT)]


def test_who_can_not_be_found_is_nobody(stage: Stage) -> None:
    """After the likely, the namespace and all processes were looked through, it is told without an owner."""
    stage.diag.there = [tcp(1, 4000, 80, inode=99, info=info(acked=1))]
    stage.look(2)
    assert stage.said == []
    stage.look()
    assert stage.told() == [(Kind.CONNECT, 0, Role.CONNECT)]
    assert stage.said[0][FLAGS] == Flag.APPROXIMATE


def test_everything_is_dumped_only_when_something_came(stage: Stage) -> None:
    """While the counters stand still, sockets that listen are asked for, and now and then everything."""
    stage.diag.dumps.clear()
    stage.look(12, opens=False)
    assert stage.diag.dumps.count(ALL_STATES) <= 3
    assert stage.diag.dumps.count(1 << LISTEN) >= 9
    stage.diag.dumps.clear()
    stage.look(5)
    assert stage.diag.dumps == [ALL_STATES] * 5


def test_overrun_is_followed_by_two_dumps(stage: Stage) -> None:
    """What neither of them has any more has ended unheard: told without totals, and counted. The rest is there."""
    mine, theirs = pair(stage)
    stage.look()
    stage.said.clear()
    stage.diag.overruns = 1
    stage.diag.there = [theirs]
    stage.look(2)
    assert stage.told() == [(Kind.CLOSE, 200, Role.CONNECT)]
    assert stage.said[0][FLAGS] == Flag.APPROXIMATE | Flag.BY_COOKIE | Flag.NO_TOTALS
    assert sum(stage.watch.missed.values()) == 1
    stage.look(3)
    assert len(stage.said) == 1
    assert mine.cookie != theirs.cookie


def test_namespace_without_processes_is_let_go(stage: Stage) -> None:
    """An open socket would keep it alive. What was open in it is told to have ended."""
    pair(stage)
    stage.look()
    stage.said.clear()
    for process in (stage.server, stage.client):
        process.netns = HOME + 1
        stage.heard.look_again(process.pid)
    first = stage.diag
    stage.diag = FakeDiag()
    stage.look(30)
    assert first.closed
    assert not stage.diag.closed
    assert {kind for kind, _, _ in stage.told()} == {Kind.CLOSE}
    assert len(stage.said) == 2


def test_snapshot_is_told_once(stage: Stage) -> None:
    """What was there at the start is found, not opened, and its end is told by its cookie."""
    fresh = DiagWatch(stage.machine, stage.heard, lambda record: stage.said.append(decode(record, 0)), stage.pulse)
    mine, _ = pair(stage)
    fresh.start()
    found = [decode(record, 0) for record in fresh.found()]
    assert [(record[KIND], record[TGID]) for record in found] == [(Kind.SOCKET_FOUND, 200), (Kind.SOCKET_FOUND, 100)]
    assert list(fresh.found()) == []
    assert stage.said == []
    stage.diag.gone = [mine._replace(state=CLOSE, inode=0)]
    fresh.hear()
    assert stage.told() == [(Kind.CLOSE, 200, Role.CONNECT)]
    assert stage.said[0][10] == 0  # opened: before the start


def test_what_waited_at_the_start_is_told_when_it_is_accepted(stage: Stage) -> None:
    """A connection that nobody had accepted yet is no part of the snapshot, and has its owner when it is."""
    fresh = DiagWatch(stage.machine, stage.heard, lambda record: stage.said.append(decode(record, 0)), stage.pulse)
    waiting = tcp(1, 80, 4000, info=info())
    stage.diag.there = [waiting]
    fresh.start()
    assert list(fresh.found()) == []
    stage.server.fds[4] = "socket:[12]"
    stage.diag.there = [waiting._replace(inode=12)]
    stage.now += SECOND
    fresh.look()
    assert stage.told() == [(Kind.ACCEPT, 100, Role.ACCEPT)]


@pytest.mark.parametrize(
    ("state", "counted", "active"),
    [
        (ESTABLISHED, info(sent=5, acked=6), True),
        (ESTABLISHED, info(sent=5, acked=5), False),
        (CLOSE_WAIT, info(sent=0, acked=1), True),
        (ESTABLISHED, info(sent=5, acked=4), None),
        (ESTABLISHED, info(sent=5, acked=7), None),
        (ESTABLISHED, info(sent=5, acked=6)._replace(unacked=1), None),
        (CLOSE, info(sent=5, acked=6), None),
        (SYN_SENT, info(), True),
        (ESTABLISHED, None, None),
    ],
)
def test_who_began(state: int, counted: Info | None, active: bool | None) -> None:
    """The one whose SYN was counted; where a FIN may have been, or something is on its way, that is not known."""
    assert tcp(1, 2, 3, state, info=counted).active is active


@pytest.mark.parametrize(
    ("state", "counted", "waiting", "shutdown", "received"),
    [
        (ESTABLISHED, info(received=7, segments=1), 0, 0, 7),
        (ESTABLISHED, info(received=8, segments=1), 0, 1, 7),
        (CLOSE_WAIT, info(received=8, segments=1), 0, 0, 7),
        (CLOSE_WAIT, info(received=1), 0, 0, 0),
        (CLOSE, info(received=8, segments=1), 1, 0, 7),
        (CLOSE, info(received=1), 0, 0, 0),
        (CLOSE, info(received=8, segments=1), 0, 0, 8),
        (CLOSE, None, 0, 0, 0),
    ],
)
def test_fin_is_no_byte(state: int, counted: Info | None, waiting: int, shutdown: int, received: int) -> None:
    """The peer's FIN is not counted wherever it is known to have come."""
    assert tcp(1, 2, 3, state, info=counted, waiting=waiting, shutdown=shutdown).received == received


# Whose a socket is.


class Family(Busy):
    """A machine where descriptors change while they are looked at."""

    def __init__(self, *processes: Made) -> None:
        super().__init__(*processes)
        self.then: dict[int, dict[int, str]] = {}  # pid -> its descriptors after the first look at it

    def fds(self, pid: int, *, start: int = 0) -> dict[int, bytes]:
        """See ProcFiles."""
        found = Machine.fds(self, pid, start=start)
        if pid in self.then:
            self.processes[pid].fds = self.then.pop(pid)
        return found


def family(*fds: dict[int, str]) -> tuple[Family, Search]:
    """A line of processes from 100 up, each the parent of the next, all forked in the second of the socket."""
    processes = [Running(100 + place, start=BORN + place, parent=99 + place) for place in range(len(fds))]
    for process, held in zip(processes, fds, strict=True):
        process.fds = held
    machine = Family(*processes)
    known = Heard(machine, lambda _: None, set())
    known.learn()
    return machine, Search(machine, known, lambda: None)


SOCKET = {3: "socket:[7]"}


@pytest.mark.parametrize(
    ("fds", "owner"),
    [
        (({}, SOCKET), 101),
        ((SOCKET, SOCKET), 100),
        ((SOCKET, {}, SOCKET), 100),
        (({}, SOCKET, SOCKET), 101),
    ],
)
def test_eldest_holder_is_the_owner(fds: tuple[dict[int, str], ...], owner: int) -> None:
    """Who has a socket from an ancestor that has it is not its owner, also where only the youngest is looked at."""
    machine, search = family(*(dict(held) for held in fds))
    assert search.owners({7: 0}, list(machine.processes)) == {7: owner}
    youngest = max(pid for pid, process in machine.processes.items() if process.fds)
    assert search.owners({7: 0}, [youngest]) == {7: owner}


def test_start_is_known_to_the_tick_alone() -> None:
    """A child that was forked in the tick in which the socket was made may have it from its parent."""
    _, search = family(dict(SOCKET), dict(SOCKET))
    made = (BORN + 1) * NS_PER_TICK + 1  # a moment after the child's start, as far as that is known
    assert search.owners({7: made}, [101]) == {7: 100}
    assert search.owners({7: made + NS_PER_TICK}, [101]) == {
        7: 101
    }  # older than the socket: it can't have inherited it


def test_child_that_closes_it_meanwhile_is_not_the_owner() -> None:
    """A child between its fork and its exec has what its parent had; its parent may have closed it just before."""
    machine, search = family({}, dict(SOCKET))
    machine.then[101] = {}
    assert search.owners({7: 0}, [101]) == {}


def test_two_that_are_not_kin_own_nothing() -> None:
    """Who made it can't be told."""
    machine, search = family(dict(SOCKET))
    machine.add(Running(300, start=BORN, parent=1)).fds = dict(SOCKET)
    known = Heard(machine, lambda _: None, set())
    known.learn()
    search = Search(machine, known, lambda: None)
    assert search.owners({7: 0}, [100, 300]) == {}
    assert search.owners({8: 0}, [100, 300]) == {}


def test_parent_that_can_not_be_looked_into_may_be_the_owner() -> None:
    """So nobody is named, unless the child is older than the socket."""
    machine, search = family({}, dict(SOCKET))
    machine.processes[100].looks_refused = True
    assert search.owners({7: 0}, [101]) == {}
    assert search.owners({7: (BORN + 9) * NS_PER_TICK}, [101]) == {7: 101}


def test_refusal_finds_nothing_and_fails_nothing() -> None:
    """Who can't be looked into may have it: nobody is named in its place."""
    machine, search = family(dict(SOCKET))
    machine.processes[100].looks_refused = True
    assert search.owners({7: 0}, [100]) == {}
