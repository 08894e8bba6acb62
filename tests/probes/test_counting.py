"""What counts the bytes that calls move: which programs on which kernel, what is blind without, and that each does."""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.probes.test_core import Helper, make
from tracer.probes import core
from tracer.probes.backend import Backend
from tracer.probes.core import Core
from tracer.probes.hooks import BY_RETURN, CLASSIC, COUNTS, MOVE_RETURNS, MOVES, STAND_INS, blind_spots
from tracer.probes.kernel_types import BTF, KernelTypes
from tracer.probes.records import PLACED

ROOT = Path(__file__).parents[2]
PLAIN = {hook.program for hooks in MOVES.values() for hook in hooks}
RETURNS = {program for each in MOVE_RETURNS for program, _ in each.programs}
BLIND = {hook.blind for hooks in MOVES.values() for hook in hooks}
CHANGED = {hook.blind for hook in MOVES["data"] if hook.program in BY_RETURN}


class Types(KernelTypes):
    """Those of a made-up kernel."""

    def __init__(self, *names: str) -> None:
        self._names = "".join(f"\0{name}\0" for name in names).encode()
        self._place = Path("/nonexistent/vmlinux")


def chosen(types: KernelTypes, *, returns: bool, preemptible: bool = False) -> dict[str, set[str]]:
    """The programs that a kernel with these types gets, by source."""
    backend = make()
    backend._preemptible = preemptible
    return {name: {hook.program for hook in hooks} for name, hooks in backend._choose_moves(types, returns).items()}


# The tables.


def test_programs_are_where_the_tables_say() -> None:
    """Each program at the return of a function, and each at a classic tracepoint, is in the source at that place."""
    source = (ROOT / "bpf/moves.bpf.c").read_text()
    found = set(re.findall(r'^(?:SENDS|RECEIVES)\((\w+), "(\w+)",', source, re.MULTILINE))
    found |= {
        (program, function) for function, program in re.findall(r'SEC\("fexit/(\w+)"\)\nint BPF_PROG\((\w+)', source)
    }
    assert found == {(program, function) for each in MOVE_RETURNS for program, function in each.programs}
    data = (ROOT / "bpf/data.bpf.c").read_text()
    classic = dict(re.findall(r'SEC\("tp/([\w/]+)"\)\nint (\w+)\(', data))
    stand_ins = STAND_INS["data"]
    hooks = [*CLASSIC.values(), *stand_ins.values()]
    assert {hook.tracepoint: hook.program for hook in hooks} == classic
    # The rest is where softirqs are off, and so where nothing preempts or interrupts it.
    assert {hook.program for hook in MOVES["data"]} - CLASSIC.keys() == {*stand_ins, "datagram_queued"}


def test_each_way_sees_everything() -> None:
    """With all programs of one of the three ways nothing of what is moved is blind."""
    assert not BLIND & set(blind_spots(PLAIN))
    assert not BLIND & set(blind_spots((PLAIN - CLASSIC.keys()) | {hook.program for hook in CLASSIC.values()}))
    old = set(blind_spots((PLAIN - set(BY_RETURN)) | RETURNS))
    assert not old & (BLIND | {each.blind for each in MOVE_RETURNS})


def test_what_is_missing_is_blind() -> None:
    """Without the tracepoints all is told as blind in one; with some functions, exactly what the others would see."""
    assert set(blind_spots(PLAIN - set(BY_RETURN))) >= CHANGED
    modules = {program for program in RETURNS if program.startswith(("vsock", "packet"))}
    found = set(blind_spots((PLAIN - set(BY_RETURN)) | (RETURNS - modules)))
    assert not found & CHANGED
    wanted = {each.blind for each in MOVE_RETURNS if {program for program, _ in each.programs} <= modules}
    assert found & {each.blind for each in MOVE_RETURNS} == wanted
    assert all("module" in blind for blind in wanted)


# The choice.


def test_choice_by_what_there_is() -> None:
    """Tracepoints where they are, the functions that there are where not, the classic ones where need be."""
    new, old = Types("btf_trace_sock_send_length"), Types("inet_sendmsg", "inet_recvmsg", "vsock_stream_sendmsg")
    plain = {hook.program for hook in MOVES["data"]}
    assert chosen(new, returns=True) == chosen(new, returns=False)
    assert chosen(new, returns=True).keys() == MOVES.keys()
    assert chosen(new, returns=True)["data"] == plain
    classic = {hook.program for hook in CLASSIC.values()}
    assert chosen(new, returns=True, preemptible=True)["data"] == (plain - CLASSIC.keys()) | classic
    assert chosen(old, returns=True)["data"] == plain - set(BY_RETURN)
    assert chosen(old, returns=True)["moves"] == {"inet_sends", "inet_receives", "vsock_stream_sends"}
    assert chosen(old, returns=False).keys() == MOVES.keys()
    assert chosen(old, returns=False)["data"] == plain - set(BY_RETURN)


def test_kernel_types(tmp_path: Path) -> None:
    """Whole names alone are found, in the kernel, in modules that are there; a kernel without types has none."""
    (tmp_path / "vmlinux").write_bytes(b"\0inet_sendmsg\0btf_trace_one\0")
    (tmp_path / "vsock").write_bytes(b"\0vsock_dgram_sendmsg\0")
    types = KernelTypes(tmp_path / "vmlinux")
    assert types.has("inet_sendmsg")
    assert not types.has("inet_send")
    assert not types.has("sendmsg")
    assert types.has_tracepoint("one")
    assert types.has_function("inet_sendmsg")
    assert types.has_function("vsock_dgram_sendmsg", "af_packet", "vsock")
    assert not types.has_function("vsock_dgram_sendmsg", "af_packet")
    assert not KernelTypes(tmp_path / "none").has("inet_sendmsg")
    (tmp_path / "empty").touch()
    assert not KernelTypes(tmp_path / "empty").has("")
    (tmp_path / "large").write_bytes(bytes(5_000_011) + b"the_last\0")
    assert KernelTypes(tmp_path / "large").has("the_last")


# What they count, on this kernel.

WORK = """
listener = socket.create_server(('127.0.0.1', 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]
for _ in range(3):
    client.sendall(bytes(70001))
    left = 70001
    while left:
        left -= len(server.recv(left))
client.close()
server.close()
one, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
one.bind(('127.0.0.1', 0))
for _ in range(5):
    other.sendto(bytes(1201), one.getsockname())
    one.recvfrom(2000)
"""
STREAM, DATAGRAMS = 210003, 6005


@pytest.fixture(name="counting", params=["plain", "classic"])
def _counting(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Core]:
    """A backend that counts by tracepoints, typed ones or classic ones."""
    monkeypatch.setattr(core, "_tracepoints_can_be_preempted", lambda _: request.param == "classic")
    with make() as backend:
        yield backend


@pytest.mark.live
def test_every_byte_once(counting: Core) -> None:
    """Both ways of a connection, and of datagrams, to the byte and to the call, by either set of programs."""
    coverage = counting.start()
    assert coverage.moved
    assert sum(coverage.hooks.keys() >= pair for pair in COUNTS) == 1
    helper = Helper()
    counting.moved()  # what comes from here on is told by the next call
    helper.do(f"exec({WORK!r})")
    parts = parts_of(counting, helper.pid)
    missed = counting.missed()
    helper.process.communicate(timeout=20)
    # The connection's parts have ended with it, the datagrams' are there.
    assert {(part["out"], part["in"], part["calls_out"], part["calls_in"]) for part in parts} == {
        (DATAGRAMS, 0, 5, 0),
        (0, DATAGRAMS, 0, 5),
    }
    assert not {*missed} & (PLAIN | {hook.program for hook in CLASSIC.values()})


@pytest.mark.live
def test_every_byte_of_a_connection(counting: Core) -> None:
    """While it is open each end has its part: what it sent or took, and nothing else."""
    counting.start()
    helper = Helper()
    helper.do(f"exec({WORK.replace('client.close()', '').replace('server.close()', '')!r})")
    found = Counter((part["out"], part["in"]) for part in parts_of(counting, helper.pid))
    helper.process.communicate(timeout=20)
    assert found[STREAM, 0] == found[0, STREAM] == 1


def parts_of(backend: Backend, pid: int) -> list[dict[str, Any]]:
    """The parts of a process that are there, and that have moved anything."""
    moved = backend.moved()
    assert moved is not None
    names = ("place", "flow", "start", "out", "in", "calls_out", "calls_in", "tgid", "via", "socket")
    rows = [dict(zip(names, row, strict=True)) for row in PLACED.iter_unpack(moved.parts)]
    return [row for row in rows if row["tgid"] == pid and row["flow"]]


@pytest.mark.live
def test_this_kernel_has_types() -> None:
    """Its own file is read, and has what every kernel has."""
    types = KernelTypes(BTF)
    assert types.has("task_struct")
    assert types.has_tracepoint("tcp_rcv_space_adjust")
    assert types.has_function("inet_sendmsg")
    assert not types.has("no_such_name_in_any_kernel")
