"""The netlink backend with a connector and sock_diag that the test makes up: what it reads when, and what it says."""

import errno
from collections.abc import Iterator
from typing import cast

import pytest

from tests.fallback.test_heard import NOW, Busy, Running
from tracer.fallback import netlink
from tracer.fallback.connector import Gap, ProcEvent, What
from tracer.fallback.netlink import Netlink
from tracer.model import SOCKET_KINDS, Kind
from tracer.probes.privileges import Privileges
from tracer.probes.records import KIND_AT
from tracer.probes.rings import Run
from tracer.probes.source import KernelFilters, SourceLostError, Unheard
from tracer.probes.unusable import UnusableError

EVERYTHING = KernelFilters(SOCKET_KINDS, frozenset(), False, frozenset(), frozenset(), frozenset(), [])
PRIVILEGED = Privileges(frozenset({"CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"}), 40, True, 0)


class FakeConnector:
    """A connector: what it tells next, and how it fails."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.waiting: list[ProcEvent] = []
        self.lost: list[Gap] = []
        self.overrun = False
        self.answers = True
        self.can_sync = True
        self.error: OSError | None = None
        self.closed = False
        self.syncs = 0

    def read(self, most: int = 1024) -> list[ProcEvent]:
        """What waits."""
        if self.error is not None:
            raise self.error
        found, self.waiting = self.waiting[:most], self.waiting[most:]
        return found

    def sync(self) -> tuple[list[ProcEvent], bool]:
        """The same, and whether it answers."""
        self.syncs += 1
        if self.answers:
            self.overrun = False
        return self.read(), self.answers

    def gaps(self) -> list[Gap]:
        """What was lost."""
        found, self.lost = self.lost, []
        return found

    def close(self) -> None:
        """Noted."""
        self.closed = True


class FakeSockets:
    """No sockets at all."""

    def __init__(self, *_: object) -> None:
        self.refused = {4026532000: "Operation not permitted"}
        self.missed = {"failed_connects": 3}
        self.overruns = 0
        self.due = 1 << 62
        self.hurried = 0

    def start(self) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""

    def hear(self) -> None:
        """Nothing."""

    def look(self) -> None:
        """Nothing."""

    def hurry(self) -> None:
        """Counted."""
        self.hurried += 1

    def found(self) -> Iterator[bytes]:
        """None."""
        return iter(())


@pytest.fixture(name="source")
def _source(monkeypatch: pytest.MonkeyPatch) -> Iterator[Netlink]:
    monkeypatch.setattr(netlink, "Connector", FakeConnector)
    monkeypatch.setattr(netlink, "DiagWatch", FakeSockets)
    monkeypatch.setattr(netlink, "privileges", lambda: PRIVILEGED)
    with Netlink(EVERYTHING, 1 << 20, Busy(Running(100)), [99]) as source:
        source.start()
        yield source


def connector(source: Netlink) -> FakeConnector:
    """Its connector."""
    return cast("FakeConnector", source._connector)


def kinds(runs: list[Run]) -> list[Kind]:
    """What is in some runs."""
    return [Kind(run.data[at + KIND_AT]) for run in runs for at in run.offsets]


def fork(pid: int) -> ProcEvent:
    """Of 100."""
    return ProcEvent(What.FORK, NOW, 0, pid, pid, 100, 100, b"")


def test_coverage_and_snapshot(source: Netlink) -> None:
    """What can't be opened is refused with the reason; tracer and broker are left out; the connector has its buffer."""
    coverage = source.start()
    assert coverage.refused == {"network namespace 4026532000": "Operation not permitted"}
    assert coverage.excluded == source.excluded
    assert 99 in source.excluded
    assert coverage.buffer == {"lifecycle": 1 << 19, "bulk": 1 << 19, "connector": 1 << 20}
    assert source.processes()
    assert source.sockets() == b""


def test_what_is_heard_is_read(source: Netlink) -> None:
    """A message that waits is a record of the next read; one that is left makes the ring not drained."""
    connector(source).waiting = [fork(200)]
    runs = source.read(1 << 20)
    assert kinds(runs) == [Kind.FORK]
    assert all(run.drained for run in runs)
    connector(source).waiting = [fork(pid) for pid in range(1 << 22, (1 << 22) + 1000)]  # numbers that no process has
    runs = source.read(1 << 20)
    assert not any(run.drained for run in runs)
    assert len(kinds(runs)) + len(kinds(source.read(1 << 20))) == 1000


def test_cut_hears_everything(source: Netlink) -> None:
    """The connector is made to tell all, what is held is let go, and the counters agree with the records."""
    connector(source).waiting = [
        fork(200),
        ProcEvent(What.EXEC, NOW, 0, 200, 200, 0, 0, b""),
        ProcEvent(What.EXIT, NOW, 0, 200, 200, 0, 17, b""),
    ]
    cut = source.cut()
    assert kinds(cut.runs) == [Kind.FORK, Kind.EXEC, Kind.EXIT]
    assert cut.settled
    assert connector(source).syncs == 1


def test_gaps_are_one_interval(source: Netlink) -> None:
    """The gaps of all CPUs since the last time are summed up, and told once."""
    connector(source).lost = [Gap(1, 3, 50, 60), Gap(0, 4, 40, 55)]
    assert source.unheard() == [Unheard("proc_connector", 7, 40, 60, [0, 1])]
    assert source.unheard() == []


def test_overrun_is_followed_by_a_look(source: Netlink) -> None:
    """After an overrun everybody is looked at again, the sockets too, and what began meanwhile is told."""
    machine = source._files
    assert isinstance(machine, Busy)
    machine.add(Running(300))
    connector(source).overrun = True
    runs = source.read(1 << 20)
    assert kinds(runs) == [Kind.FORK, Kind.EXEC]
    assert cast("FakeSockets", source._sockets).hurried == 1
    assert not connector(source).overrun


def test_silence_is_found(source: Netlink) -> None:
    """A connector that does not answer is dead; one that can't be asked is not called so."""
    assert source.silent() == []
    connector(source).answers = False
    assert len(source.silent()) == 1
    connector(source).can_sync = False
    assert source.silent() == []


def test_failing_socket_loses_the_backend(source: Netlink) -> None:
    """Any error but the one that means overrun is the end of the backend, and no traceback."""
    connector(source).error = OSError(errno.EBADF, "Bad file descriptor")
    for ask in (lambda: source.read(1), source.cut, source.silent):
        with pytest.raises(SourceLostError, match="proc connector"):
            ask()


def test_missed_is_named(source: Netlink) -> None:
    """What sockets and connector missed, without what is 0."""
    assert source.missed() == {"failed_connects": 3}
    connector(source).waiting = [ProcEvent(What.EXIT, NOW, 0, 777, 777, 0, 17, b"")]
    source.read(1)
    assert source.missed() == {"failed_connects": 3, "exits_of_unknown": 1}


def test_nothing_is_heard_after_the_end(source: Netlink) -> None:
    """Once detached it gives what waits, and takes in nothing."""
    source.detach()
    connector(source).waiting = [fork(200)]
    assert source.read(1 << 20) == []
    assert source.cut().runs == []
    assert source.silent() == []


def test_without_privilege_it_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code 3, and what is lacking."""
    monkeypatch.setattr(netlink, "privileges", lambda: PRIVILEGED._replace(held=frozenset()))
    with pytest.raises(UnusableError, match="CAP_NET_ADMIN") as refused, Netlink(EVERYTHING, 1 << 20, Busy()):
        pass
    assert refused.value.code == 3


def test_ends_of_the_with_close_the_connector(source: Netlink) -> None:
    """What was opened is closed."""
    source.__exit__(None, None, None)
    assert connector(source).closed
