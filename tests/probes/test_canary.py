"""Probes that are dead are found out: by their links, and those that can be tried by what they do not see."""

import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.confine.forks import in_fork
from tracer.confine.apply import confine
from tracer.confine.plan import Plan, State
from tracer.confine.seccomp_filter import WORKER, on_descriptors
from tracer.model import RING_KINDS, SOCKET_KINDS, Kind
from tracer.probes import canary, health
from tracer.probes.backend import KernelFilters
from tracer.probes.canary import CALLS, Canary
from tracer.probes.core import HOOKS, Core
from tracer.probes.health import mark, what_became
from tracer.probes.libbpf_binding import BpfError
from tracer.probes.records import read_tallies

pytestmark = pytest.mark.live

EVERYTHING = KernelFilters(SOCKET_KINDS, frozenset(), False, frozenset(), frozenset(), frozenset(), [])
# What is tried wherever it is attached, confined or not; where functions take the place of tracepoints, more is.
TRIED = {
    "process_fork",
    "process_exit",
    "socket_state_change",
    "exit_accept",
    "exit_accept4",
    "exit_listen",
    "exit_connect",
    "exit_execve",
    "exit_execveat",
}


@pytest.fixture(name="core")
def _core() -> Iterator[Core]:
    """Probes that run, by tracepoints alone."""
    assert HOOKS[1] == "tracepoints"
    with suppress(BpfError), Core(EVERYTHING, 1 << 20, 4096, "tracepoints") as core:  # what is dead can't be detached
        core.start()
        yield core


def kill(core: Core, program: str) -> None:
    """Close what keeps a program attached."""
    os.close(core._watch._marks[program][0])


def confined(core: Core) -> None:
    """Confine this process as a running tracer is."""
    core.seal()
    verdicts = confine(Plan(calls=WORKER + on_descriptors(CALLS, *core.tried))).verdicts
    assert {verdict.state for verdict in verdicts.values()} <= {State.ENFORCED, State.OFF, State.ABSENT, State.PARTIAL}


def test_all_is_well(core: Core) -> None:
    """Probes that live are not suspected, and trying them makes no record and leaves nothing open."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        assert core.silent() == []
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert len(core.tried) == 2


def test_trying_is_counted_as_filtered(core: Core) -> None:
    """What this process does itself is counted and filtered, kind by kind, and nothing of it comes out."""
    before = read_tallies(core.tallies(), len(RING_KINDS))
    core.silent()
    after = read_tallies(core.tallies(), len(RING_KINDS))
    for kind in (Kind.FORK, Kind.EXIT, Kind.EXEC_FAILED, Kind.LISTEN, Kind.ACCEPT, Kind.CONNECT):
        grown = sum(now[kind].filtered - then[kind].filtered for then, now in zip(before, after, strict=True))
        assert grown >= 1, kind
    own = os.getpid()
    assert all(own.to_bytes(4, sys.byteorder) not in run.data for run in core.read(1 << 20))


def test_dead_links_are_told(core: Core) -> None:
    """Each program whose link is closed is told, by name."""
    for program in list(core._watch._marks):
        kill(core, program)
        told = core.silent()
        assert f"{program}: its link is closed" in told
    assert len(core.silent()) == len(core._watch._marks)
    with pytest.raises(BpfError, match="detaching"):
        core.detach()


@pytest.mark.parametrize("enter", [lambda _: None, confined], ids=["not confined", "confined"])
def test_probes_that_do_not_see(enter: Callable[[Core], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where links can't be asked about, the probes that can be tried are found out, each by its own trial."""
    monkeypatch.setattr(canary, "_WITHIN_S", 0.05)
    monkeypatch.setattr(health, "what_became", lambda *_: None)

    # What a second program of the same kind would see in its place.
    again = {"socket_state_change": ("state_change_again", "state_change_stand_in")}

    def try_it(program: str) -> tuple[list[str], list[str]]:
        core = Core(EVERYTHING, 1 << 20, 4096, "tracepoints").__enter__()  # the fork's end gives it back
        core.start()
        enter(core)
        before = core.silent()
        for each in {program, *again.get(program, ())} & core._watch._marks.keys():
            kill(core, each)
        # Another tracer's doings on this machine are filtered as well, and may hide it for once.
        looks = (core.silent() for _ in range(5))
        return before, next(filter(None, looks), [])

    found = set()
    for program in ("process_exec", "syn_again", *sorted(TRIED)):
        before, told = in_fork(lambda program=program: try_it(program))  # type: ignore[misc]
        assert before == []
        found |= {program for each in told if program in each.partition(":")[0]}
    assert found == TRIED


def test_links_by_their_identity(core: Core) -> None:
    """A descriptor that leads to another link, or to anything else, is told apart from the one that it was."""
    one, other = (core._watch._marks[program][0] for program in ("process_fork", "process_exit"))
    before = mark(one)
    assert what_became(one, before) is None
    os.dup2(other, one)
    assert what_became(one, before) == "its link's descriptor leads elsewhere"
    with socket.socket() as anything:
        os.dup2(anything.fileno(), one)
    assert (what_became(one, before) or "").startswith("its link is closed")


def test_perf_events_by_their_identity(core: Core) -> None:
    """The same where a program sits on a perf event, as tracepoints' do before Linux 5.15."""
    one, other = (ring.fd for ring in core.rings.rings[:2])
    before = mark(one)
    assert before.link is None
    assert what_became(one, before) is None
    assert what_became(other, before) == "its link's descriptor leads elsewhere"
    with pytest.raises(OSError, match="ioctl"):
        mark(os.open("/dev/null", os.O_RDONLY))


def test_without_privilege_there_are_no_sockets() -> None:
    """Who may not make a network namespace tries without sockets, and nothing is left open."""

    def ask() -> list[int]:
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        tried = Canary()
        tried.open()
        return tried.fds

    assert in_fork(ask) == []


def test_sockets_lead_nowhere() -> None:
    """The sockets are in a namespace of their own, where nobody can connect to them; this thread stays where it was."""
    tried = Canary()
    before = Path("/proc/thread-self/ns/net").readlink()
    tried.open()
    try:
        bound = socket.socket(fileno=os.dup(tried.fds[0]))
        with bound, socket.socket() as client:
            bound.listen(1)
            client.settimeout(5)
            with pytest.raises(ConnectionRefusedError):
                client.connect(("127.0.0.1", bound.getsockname()[1]))
    finally:
        tried.close()
    assert Path("/proc/thread-self/ns/net").readlink() == before
    assert tried.fds == []
