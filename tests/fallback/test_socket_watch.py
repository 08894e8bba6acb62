"""Sockets by comparison: told once, with who has them open and which side began, or without what can't be known."""

from collections.abc import Iterator
from itertools import count

import pytest

from tests.fallback.fake_files import HOME, Machine, Made, refused, tcp
from tracer.fallback.proc_net import parse
from tracer.fallback.process_watch import ProcessWatch
from tracer.fallback.socket_watch import ATTEMPT_AFTER_NS, SocketChange, SocketWatch
from tracer.model import NS_PER_TICK, TCP_STATES, Kind, Role

HERE, THERE, ANY = "127.0.0.1", "10.0.0.2", "0.0.0.0"
OURS, SERVICE = 40_000, 443
NOW = 10**12  # of the clock here, ns
LISTENING = tcp((ANY, SERVICE), (ANY, 0), "LISTEN", 1)


class Watching:
    """A machine and its sockets; the first look is taken at once."""

    def __init__(self, *processes: Made, lines: tuple[str, ...] = ()) -> None:
        self.machine = Machine(*(processes or (Made(7),)))
        self.machine.tables[HOME] = list(lines)
        self.times: Iterator[int] = count(NOW)
        self.late = 0
        self.processes = ProcessWatch(self.machine, self.machine)
        self.sockets = SocketWatch(self.machine, lambda: next(self.times) + self.late, (32768, 60999))
        assert self.look() == []

    def look(self, *lines: str, netns: int = HOME) -> list[SocketChange]:
        """One look, at these sockets if any are given."""
        if lines:
            self.machine.tables[netns] = list(lines)
        self.processes.look()
        return self.sockets.look(self.processes.living)

    def empty(self) -> list[SocketChange]:
        """One look at no sockets."""
        self.machine.tables[HOME] = []
        return self.look()


def told(changes: list[SocketChange]) -> list[tuple[Kind, int, int]]:
    """What was told, of whom, and on which side they are."""
    return [(kind, flow.owner.pid, flow.role) for kind, flow, _ in changes]


def connected(inode: int = 5, state: str = "ESTABLISHED", remote: tuple[str, int] = (THERE, SERVICE)) -> str:
    """A connection from a port that the kernel chose."""
    return tcp((HERE, OURS), remote, state, inode)


def holding(pid: int, *inodes: int, parent: int = 1, netns: int = HOME) -> Made:
    """A process that has these sockets open."""
    fds = {number: f"socket:[{inode}]" for number, inode in enumerate(inodes, 3)}
    return Made(pid, parent=parent, netns=netns, fds={0: "/dev/null", **fds})


def test_connect_and_close() -> None:
    """A connection to a service is its holder's connect, and its end is told with the state before it, each once."""
    watch = Watching(holding(7, 5))
    assert told(watch.look(connected())) == [(Kind.CONNECT, 7, Role.CONNECT)]
    assert watch.look() == []
    assert watch.look(connected(0, "FIN_WAIT1")) == [], "the kernel is not done with it"
    ((kind, flow, state),) = watch.look(connected(0, "TIME_WAIT"))
    assert (kind, flow.owner.pid, TCP_STATES[state]) == (Kind.CLOSE, 7, "FIN_WAIT1")
    assert watch.empty() == []


def test_accept_by_what_listens() -> None:
    """A connection to a port that is listened on is an accept, also once the listener has gone."""
    watch = Watching(holding(7, 1, 5), lines=(LISTENING,))
    accepted = tcp((HERE, SERVICE), (THERE, OURS), "ESTABLISHED", 5)
    assert watch.look(tcp((ANY, 8), (ANY, 0), "LISTEN", 9)) == []
    assert told(watch.look(accepted)) == [(Kind.ACCEPT, 7, Role.ACCEPT)]


def test_accept_by_having_waited() -> None:
    """What had no inode waited to be accepted: it is nobody's until it has one, and never told if it never has."""
    watch = Watching(holding(7, 5))
    waiting = tcp((HERE, 50_000), (THERE, 51_000), "ESTABLISHED", 0)
    assert watch.look(waiting) == []
    assert told(watch.look(waiting.replace(" 0 1 00", " 5 1 00"))) == [(Kind.ACCEPT, 7, Role.ACCEPT)]
    watch = Watching(holding(7, 5))
    assert watch.look(waiting) == []
    assert watch.empty() == []


def test_both_ends_here() -> None:
    """Of a connection over loopback each end is told as what it is, the ports told apart by what listens."""
    watch = Watching(holding(7, 1, 6), holding(8, 5), lines=(LISTENING,))
    ends = connected(5, remote=(HERE, SERVICE)), tcp((HERE, SERVICE), (HERE, OURS), "ESTABLISHED", 6)
    assert sorted(told(watch.look(LISTENING, *ends))) == [
        (Kind.CONNECT, 8, Role.CONNECT),
        (Kind.ACCEPT, 7, Role.ACCEPT),
    ]


def test_side_that_can_not_be_told() -> None:
    """With nothing to tell by the next look may show a listener; after that the connection is told without a side."""
    for found in ((), (tcp((HERE, 50_000), (ANY, 0), "LISTEN", 1),)):
        watch = Watching(holding(7, 5))
        unclear = tcp((HERE, 50_000), (THERE, 51_000), "ESTABLISHED", 5)
        assert watch.look(unclear) == []
        changes = [change for change in watch.look(unclear, *found) if change.kind is not Kind.LISTEN]
        wanted = (Kind.ACCEPT, 7, Role.ACCEPT) if found else (Kind.CONNECT, 7, Role.NONE)
        assert told(changes) == [wanted]
    watch = Watching(holding(7, 5))
    watch.look(tcp((HERE, 50_000), (THERE, 51_000), "ESTABLISHED", 5))
    assert told(watch.empty()) == [(Kind.CLOSE, 7, Role.NONE)], "gone by then: only its end is known"


def test_pending_connect() -> None:
    """A connect is told when its outcome is known; one without an answer is attempted after about 3 s, and once."""
    watch = Watching(holding(7, 5))
    assert watch.look(connected(5, "SYN_SENT")) == []
    watch.late = ATTEMPT_AFTER_NS + 1_000_000
    assert told(watch.look()) == [(Kind.ATTEMPT, 7, Role.CONNECT)]
    assert watch.look() == []
    ((kind, flow, state),) = watch.look(connected())
    assert (kind, flow.pending, TCP_STATES[state]) == (Kind.CONNECT, True, "SYN_SENT")


def test_connect_whose_outcome_is_not_seen() -> None:
    """A pending connect that is gone may have failed or come and gone: attempted, and over, no more."""
    watch = Watching(holding(7, 5))
    watch.look(connected(5, "SYN_SENT"))
    changes = watch.empty()
    assert [change.kind for change in changes] == [Kind.ATTEMPT, Kind.CLOSE]
    assert {TCP_STATES[change.state] for change in changes} == {"SYN_SENT"}


def test_same_addresses_again() -> None:
    """Another inode at the same addresses is another connection: one closed, one opened, with flows of their own."""
    watch = Watching(holding(7, 5, 6))
    ((_, first, _),) = watch.look(connected(5))
    changes = watch.look(connected(6))
    assert told(changes) == [(Kind.CLOSE, 7, Role.CONNECT), (Kind.CONNECT, 7, Role.CONNECT)]
    assert changes[0].flow is first
    assert changes[1].flow.id != first.id


def test_two_namespaces() -> None:
    """Equal addresses in two network namespaces are two connections, each its own holder's."""
    watch = Watching(holding(7, 5), holding(8, 6, netns=99))
    watch.machine.tables[99] = [connected(6)]
    changes = watch.look(connected(5))
    assert {(flow.netns, flow.owner.pid) for _, flow, _ in changes} == {(HOME, 7), (99, 8)}


def test_namespace_without_a_process() -> None:
    """When the last process of a namespace has gone its connections are over, but those that one took along."""
    watch = Watching(Made(1), holding(7, 5, netns=99), holding(8, 6, netns=99))
    watch.look(connected(5), connected(6, remote=(THERE, 80)), netns=99)
    watch.machine.end(7)
    watch.machine.processes[8].netns = HOME
    # Where a process is, is asked anew only now and then.
    changes = [change for _ in range(20) for change in watch.look()]
    assert told(changes) == [(Kind.CLOSE, 7, Role.CONNECT)]
    assert {flow.inode for flow in watch.sockets.flows()} == {6}


def test_listener_and_reuseport() -> None:
    """Each socket that listens is told once, also several at one address; that one stops is not told."""
    watch = Watching(holding(7, 1), holding(8, 2))
    changes = watch.look(LISTENING, tcp((ANY, SERVICE), (ANY, 0), "LISTEN", 2))
    assert sorted(told(changes)) == [(Kind.LISTEN, 7, Role.LISTEN), (Kind.LISTEN, 8, Role.LISTEN)]
    assert watch.look(LISTENING) == []


@pytest.mark.parametrize(
    ("processes", "owner"),
    [
        ([holding(7, 5)], 7),
        ([holding(7, 5), holding(8, 5, parent=7)], 7),
        ([holding(8, 5, parent=7), holding(9, 5, parent=8), holding(7, 5)], 7),
        ([holding(8, 5, parent=7), holding(9, 5, parent=7), holding(7)], 0),
        ([holding(7, 5), holding(8, 5)], 0),
        ([holding(7, 6)], 0),
    ],
    ids=["one", "child", "grandchild", "siblings", "strangers", "nobody"],
)
def test_owner_is_known_or_left_out(processes: list[Made], owner: int) -> None:
    """The only holder owns it, or the one from which all others have it by fork; of any others nobody can tell."""
    watch = Watching(*processes)
    changes = watch.look(connected()) or watch.look()
    assert told(changes) == [(Kind.CONNECT, owner, Role.CONNECT)]


def test_accepted_by_a_parent_that_has_closed_it() -> None:
    """A child that is no older than the connection it has may have it from who accepted it: no owner is named.

    A worker that was there before has accepted it itself, and so has a new process that listens itself.
    """
    accepted = tcp((HERE, SERVICE), (THERE, OURS), "ESTABLISHED", 5)
    now = NOW // NS_PER_TICK
    for start, held, owner in ((now + 1, [5], 0), (now - 50, [5], 8), (now + 1, [1, 5], 8)):
        watch = Watching(Made(1, start=1), lines=() if owner == 8 and len(held) == 2 else (LISTENING,))
        worker = holding(8, *held)
        worker.start = start
        watch.machine.add(worker)
        changes = watch.look(LISTENING, accepted) + watch.look()
        assert (Kind.ACCEPT, owner, Role.ACCEPT) in told(changes)


def test_owner_that_may_not_be_looked_into() -> None:
    """Refused is not absent: the socket is told without an owner, and who refused is known."""
    refuses = holding(7, 5)
    watch = Watching(Made(1), refuses)
    refuses.looks_refused = True
    changes = watch.look(connected()) or watch.look()
    assert told(changes) == [(Kind.CONNECT, 0, Role.CONNECT)]
    assert watch.sockets.refused == {7}


def test_table_that_may_not_be_read() -> None:
    """A namespace whose tables are refused is noted, and its connections are not taken for ended."""
    watch = Watching(holding(7, 5))
    watch.look(connected())
    reading = watch.machine.read

    def read(pid: int, name: str, most: int = 1 << 20, *, start: int = 0) -> bytes:
        if name == "net/tcp":
            raise refused()
        return reading(pid, name, most, start=start)

    watch.machine.read = read  # type: ignore[method-assign]
    assert watch.look() == []
    assert watch.sockets.closed == {HOME}
    watch.machine.read = reading  # type: ignore[method-assign]
    assert told(watch.empty()) == [(Kind.CLOSE, 7, Role.CONNECT)]
    assert watch.sockets.closed == set()


def test_owner_that_has_executed_since_it_was_described() -> None:
    """Its socket is told by the next look, when it is known what it runs: never with the program from before."""
    watch = Watching(holding(7, 5))
    watch.machine.tables[HOME] = [connected()]
    watch.machine.processes[7].image = (7, 8, 9)
    assert watch.sockets.look(watch.processes.living) == []
    assert told(watch.look()) == [(Kind.CONNECT, 7, Role.CONNECT)]


def test_owner_with_a_pid_that_came_again() -> None:
    """Who has the pid by now is not who was looked at: nobody is blamed."""
    watch = Watching(Made(1), holding(7, 5))
    watch.machine.tables[HOME] = [connected()]
    watch.machine.add(holding(7, 5)).start = 5000
    watch.sockets.look(watch.processes.living)  # which still knows the one before
    assert [flow.owner.pid for flow in watch.sockets.flows()] == [0]


def test_half_open_and_orphans_are_nobodys() -> None:
    """Half-open connections, those that their processes have closed already, and TIME_WAIT are not told."""
    watch = Watching(holding(7, 5))
    lines = [connected(0, state, (THERE, port)) for port, state in enumerate(("SYN_RECV", "FIN_WAIT2", "LAST_ACK"), 1)]
    assert watch.look(*lines, connected(0, "TIME_WAIT")) == []
    assert watch.empty() == []


def test_from_before() -> None:
    """What the first look finds is not told as new; its end is, and the outcome of a connect that was pending."""
    watch = Watching(holding(7, 5, 6), lines=(connected(5), connected(6, "SYN_SENT", (THERE, 80))))
    assert {(flow.before, flow.opened, flow.owner.pid) for flow in watch.sockets.flows()} == {(True, 0, 7)}
    changes = watch.look(connected(6, remote=(THERE, 80)))
    assert sorted(told(changes)) == [(Kind.CONNECT, 7, Role.CONNECT), (Kind.CLOSE, 7, Role.NONE)]


def test_table_that_left_one_out() -> None:
    """A long table is read in parts and may leave one out: only what a second reading misses too has ended."""
    filling = [tcp((HERE, port), (THERE, SERVICE), "ESTABLISHED", port) for port in range(40_001, 40_041)]
    watch = Watching(holding(7, 5), lines=(connected(), *filling))
    reading = watch.machine.read
    tables = iter([filling, [connected(), *filling]])

    def read(pid: int, name: str, most: int = 1 << 20, *, start: int = 0) -> bytes:
        if name == "net/tcp":
            watch.machine.tables[HOME] = next(tables)
        return reading(pid, name, most, start=start)

    watch.machine.read = read  # type: ignore[method-assign]
    assert watch.look() == []
    assert list(tables) == []


def test_kernel_without_ipv6() -> None:
    """Where there is no tcp6 the rest is seen."""
    watch = Watching(holding(7, 5))
    watch.machine.has_ipv6 = False
    assert told(watch.look(connected())) == [(Kind.CONNECT, 7, Role.CONNECT)]


def test_empty_tables_are_not_read() -> None:
    """A namespace in which the kernel counts no TCP socket costs no look through the table."""
    watch = Watching()
    watch.machine.asked.clear()
    watch.look()
    assert {name for _, name in watch.machine.asked} == {"net/sockstat", "net/sockstat6"}


def test_addresses_of_both_families() -> None:
    """Words of the machine's order become addresses: IPv4 mapped, IPv6 as it is; each table's family is kept."""
    watch = Watching(holding(7, 5, 6))
    six = tcp(("2001:db8::1", OURS), ("2001:db8::2", SERVICE), "ESTABLISHED", 6)
    flows = {change.flow.inode: change.flow.ends for change in watch.look(connected(), six)}
    assert flows[5].local == bytes(10) + b"\xff\xff\x7f\0\0\1"
    assert flows[6].remote == bytes.fromhex("20010db8000000000000000000000002")
    assert (flows[5].family, flows[6].family, flows[5].local_port, flows[6].remote_port) == (2, 10, OURS, SERVICE)


def test_line_that_was_cut() -> None:
    """A line without its end is left out, whatever it says."""
    line = connected()
    assert [entry.inode for entry in parse(f"title\n{line}\n{line[:60]}".encode())] == [5]
