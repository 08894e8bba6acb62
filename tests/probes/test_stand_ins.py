"""Stand-ins: of two programs at one place either does the work, never both, whichever of them the kernel skips."""

import struct
from collections import Counter
from typing import Any

import pytest

from tests.probes.test_core import Helper, make, of, records
from tracer.model import Kind
from tracer.probes import core, libbpf
from tracer.probes.core import Core
from tracer.probes.health import Watch
from tracer.probes.hooks import STAND_INS
from tracer.probes.records import KIND, TGID

pytestmark = pytest.mark.live

FIRSTS = {first for pairs in STAND_INS.values() for first in pairs}
SECONDS = {second.program for pairs in STAND_INS.values() for second in pairs.values()} | {"state_change_again"}
WORK = """
listener = socket.create_server(('127.0.0.1', 0), backlog=1)
for _ in range(11):
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
    client.close()
    server.close()
for _ in range(3):
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
    server.send(bytes(9))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes([1] + [0] * 7))
    client.close()
    server.close()
for _ in range(5):
    socket.socket().connect_ex(('127.0.0.1', 1))
for _ in range(7):
    subprocess.run(['true'])
"""
CONNECTIONS = """
for _ in range(61):
    client = socket.create_connection(listener.getsockname())
    server = listener.accept()[0]
    client.close()
    server.close()
"""
# The servers of the three that are reset hold their sockets longer than there is a connection.
EXPECTED = {Kind.LISTEN: 1, Kind.CONNECT: 19, Kind.ACCEPT: 14, Kind.CLOSE: 28, Kind.TAIL: 3}


class Nothing:
    """A program that is not attached: the kernel skips it each time."""

    fd = -1  # nothing can be asked about it

    def destroy(self) -> None:
        """There is nothing to end."""


@pytest.mark.parametrize("skipped", [set(), FIRSTS, SECONDS], ids=["none", "firsts", "stand-ins"])
@pytest.mark.parametrize("preemptible", [False, True], ids=["plain", "preemptible"])
def test_each_event_comes_once(monkeypatch: pytest.MonkeyPatch, *, preemptible: bool, skipped: set[str]) -> None:
    """With both, with the stand-ins alone and with the first alone the records are the same, one for each event."""
    attach = Core._attach
    if not preemptible:
        skipped = {"socket_state_change"} if skipped == FIRSTS else {"state_change_again"} & skipped
    monkeypatch.setattr(core, "_tracepoints_can_be_preempted", lambda _: preemptible)
    monkeypatch.setattr(
        Core, "_attach", lambda self, name, number: Nothing() if name in skipped else attach(self, name, number)
    )
    keep = Watch.keep
    monkeypatch.setattr(Watch, "keep", lambda self, name, fd: keep(self, name, fd) if fd >= 0 else None)
    helper = Helper()
    with make() as tracer:
        coverage = tracer.start()
        helper.do(f"exec({WORK!r})")
        tracer.detach()
        found = records(tracer.cut().runs)
        missed = tracer.missed()
    helper.process.communicate(timeout=20)
    preempted = {"exec_stand_in", "state_change_stand_in", "stream_gone_stand_in"}
    stand_ins = preempted if preemptible else {"state_change_again"}
    assert coverage.hooks.keys() >= {"process_exec", "socket_state_change", *stand_ins}
    counts: Counter[Any] = Counter(of(found, helper.pid))
    assert {kind: counts[kind] for kind in EXPECTED} == EXPECTED
    children = [record[TGID] for record in found if record[KIND] == Kind.FORK and record[-1] == helper.pid]
    assert len(children) == len(set(children)) == 7
    for child in children:
        kinds = [kind for kind in of(found, child) if kind != Kind.EXEC_FAILED]  # one a directory before the right one
        assert kinds == [Kind.FORK, Kind.EXEC, Kind.EXIT]
    assert missed == {}


def test_missed_is_what_both_may_have_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two programs the lesser count, of returns and their stand-ins the lesser sum, and others' own."""
    skipped = {
        "process_exec": 7,
        "exec_stand_in": 2,
        "socket_state_change": 4,
        "state_change_stand_in": 0,
        "accept_returns": 3,
        "exit_accept": 1,
        "exit_accept4": 1,
        "listen_returns": 1,  # whose tracepoint is not attached
        "syn_again": 5,
        # Both ways to pass over execs that failed; for the one seccomp killed there is no stand-in.
        "execve_returns": 3,
        "execveat_returns": 1,
        "exec_killed": 6,
        "execve_again": 0,
        "execveat_again": 0,
        "connect_returns": 2,
        "connect_denied": 2,
        "connect_again": 3,
    }
    names = list(skipped)
    tracer = make()
    tracer._programs = {name: number for number, name in enumerate(names)}
    tracer._preemptible = True
    tracer._stand_ins = {first: second for pairs in STAND_INS.values() for first, second in pairs.items()}
    monkeypatch.setattr(libbpf, "program_info", lambda fd: libbpf.ProgramInfo(fd, 0, skipped[names[fd]]))
    tracer._hands = struct.pack("=2Q", 0, 0)  # type: ignore[assignment]
    assert tracer.missed() == {
        "process_exec": 2,
        "accept_returns": 2,
        "listen_returns": 1,
        "syn_again": 5,
        "exec_killed": 6,
        "connect_returns": 3,
    }


def test_two_that_are_never_skipped_both(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without preemption a softirq is all that comes between, and of the two it finds one free: nothing is missed."""
    skipped = {"socket_state_change": 4, "state_change_again": 3, "syn_again": 1}
    names = list(skipped)
    tracer = make()
    tracer._programs = {name: number for number, name in enumerate(names)}
    monkeypatch.setattr(libbpf, "program_info", lambda fd: libbpf.ProgramInfo(fd, 0, skipped[names[fd]]))
    assert tracer.missed() == {"syn_again": 1}


def test_every_change_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those that say nothing: the kernel counts them with the others when it skips the stand-in for them."""
    monkeypatch.setattr(core, "_tracepoints_can_be_preempted", lambda _: True)
    helper = Helper()
    helper.do("listener = socket.create_server(('127.0.0.1', 0))")
    with make() as tracer:
        tracer.start()
        put_before, _ = struct.unpack_from("=2Q", tracer._hands)
        helper.do(f"exec({CONNECTIONS!r})")
        put, taken = struct.unpack_from("=2Q", tracer._hands)
    helper.process.communicate(timeout=20)
    # SYN_SENT, ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE; ESTABLISHED, CLOSE_WAIT, LAST_ACK, CLOSE: five of them tell.
    assert put - put_before >= 61 * 9
    assert abs(put - taken) <= core._ON_THEIR_WAY


@pytest.mark.parametrize(
    ("put", "taken", "missed"),
    [
        (100, 97, 0),  # the three that the stand-in was skipped for the first had seen to
        (100, 98, 1),
        (100, 100, 3),
        (100, 96, 0),  # one is on its way
        (10_000, 2, 3),  # it always comes first: no more can be told than that
    ],
)
def test_what_was_handed_on_tells_what_both_skipped(
    monkeypatch: pytest.MonkeyPatch, put: int, taken: int, missed: int
) -> None:
    """Of three changes that the stand-in was skipped for, missed are those that the first had not handed on to it."""
    skipped = {"socket_state_change": 40, "state_change_stand_in": 3}
    names = list(skipped)
    tracer = make()
    tracer._programs = {name: number for number, name in enumerate(names)}
    tracer._preemptible = True
    tracer._stand_ins = STAND_INS["tcp"]
    tracer._hands = struct.pack("=2Q", put, taken)  # type: ignore[assignment]
    monkeypatch.setattr(libbpf, "program_info", lambda fd: libbpf.ProgramInfo(fd, 0, skipped[names[fd]]))
    assert tracer.missed() == ({"socket_state_change": missed} if missed else {})
