"""The filters: all that were given must hold, any value of each."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tracer.model import (
    IDS,
    RING_KINDS,
    TCP_STATES,
    ExecFailed,
    Image,
    Kind,
    KindEvent,
    Process,
    ProcessEvent,
    ProcessExited,
    Role,
    SocketEvent,
)
from tracer.pipeline.processes import ProcessTable
from tracer.pipeline.view import DEFAULT_KINDS, Filters, View
from tracer.probes.records import decode


def process(tgid: int = 10, comm: bytes = b"curl", exe: bytes = b"/usr/bin/curl", **changes: Any) -> Process:
    """A process that runs this executable."""
    made = Process(tgid, 1, "entity", comm)
    made.image = Image(1, exe, b"/", exe, b"", b"", 0, 0, 1, 1, 0) if exe else None
    made.uid = changes.get("uid", 0)
    made.told = IDS.pack(1, *(0,) * 8, changes.get("netns", 1), 0)
    return made


def executed(**changes: Any) -> ProcessEvent:
    """An exec by such a process."""
    return ProcessEvent(Kind.EXEC, 1, False, process(**changes), 10)


def socket(kind: Kind = Kind.CONNECT, owner: Process | None = None, **changes: Any) -> SocketEvent:
    """A socket event from 10.0.0.1:40000 to 192.0.2.7:443, by itself of nobody."""
    fields: dict[str, Any] = dict.fromkeys(SocketEvent._fields, 0)
    fields |= {"kind": kind, "late": False, "process": owner, "role": Role.CONNECT, "netns": 1}
    fields |= {"local": "10.0.0.1", "local_port": 40_000, "remote": "192.0.2.7", "remote_port": 443}
    return SocketEvent(**(fields | changes))


def wants(event: KindEvent, **filters: Any) -> bool:
    """Whether a view with these filters, and all kinds unless given, shows the event."""
    return View(Filters(**({"kinds": frozenset(RING_KINDS)} | filters))).wants(event)


def test_no_filter_shows_everything_but_forks() -> None:
    """By itself every kind is shown, except the forks."""
    view = View(Filters())
    assert view.wants(executed())
    assert view.wants(socket())
    assert view.wants(ExecFailed(Kind.EXEC_FAILED, 1, False, process(), 1, 2, b"", b"", 0))
    assert view.wants(ProcessExited(Kind.EXIT, 1, False, process(), 1, 0, 0, 0, 0))
    assert not view.wants(ProcessEvent(Kind.FORK, 1, False, process(), 1))


@pytest.mark.parametrize("kind", sorted(set(RING_KINDS) - {Kind.ATTEMPT, Kind.FLOW_END, Kind.TAIL}))
def test_kinds(kind: Kind) -> None:
    """Only the kinds that were asked for."""
    event = socket(kind) if kind >= Kind.CONNECT else ProcessEvent(kind, 1, False, process(), 1)
    assert wants(event, kinds=frozenset({kind}))
    assert not wants(event, kinds=frozenset(RING_KINDS) - {kind})


def test_snapshot_comes_with_what_it_stands_for() -> None:
    """What was found is shown with what would have told of it: execs, connects and accepts, listens."""
    running = ProcessEvent(Kind.PROCESS_FOUND, 1, False, process(), 1)
    for event, kind in (
        (running, Kind.EXEC),
        (socket(Kind.SOCKET_FOUND, state=1), Kind.CONNECT),
        (socket(Kind.SOCKET_FOUND, state=1), Kind.ACCEPT),
        (socket(Kind.SOCKET_FOUND, state=TCP_STATES.index("LISTEN")), Kind.LISTEN),
        (socket(Kind.ATTEMPT), Kind.CONNECT),
    ):
        assert wants(event, kinds=frozenset({kind}))
        assert not wants(event, kinds=frozenset({Kind.EXIT}))
    assert not wants(socket(Kind.SOCKET_FOUND, state=1), kinds=frozenset({Kind.LISTEN}))
    assert not wants(socket(Kind.SOCKET_FOUND, state=10), kinds=frozenset({Kind.CONNECT}))


def found(tgid: int) -> list[KindEvent]:
    """What is found of a process: itself and a connection at the start, and a pending connect at the end."""
    return [
        ProcessEvent(Kind.PROCESS_FOUND, 1, False, process(tgid), 1),
        socket(Kind.SOCKET_FOUND, process(tgid), state=1),
        socket(Kind.ATTEMPT, process(tgid), state=2),
    ]


def test_pid() -> None:
    """Of what was found only that process is shown; what comes through the rings was filtered by the kernel."""
    for event in found(10):
        assert View(Filters(pids=frozenset({10, 99}))).wants_found(event)
        assert not View(Filters(pids=frozenset({11}))).wants_found(event)
    assert not View(Filters(pids=frozenset({10}))).wants_found(socket(Kind.SOCKET_FOUND))
    assert wants(executed(tgid=10), pids=frozenset({11}))
    assert wants(socket(Kind.ATTEMPT, process(10)), pids=frozenset({11}))


@pytest.mark.parametrize("children", [True, False])
def test_descendants_are_found_where_asked(children: bool) -> None:
    """With children the snapshot shows the descendants of a wanted process too; without, and of others, none."""
    table = ProcessTable(bytes(16))
    for child, parent in ((20, 10), (30, 20), (21, 11)):
        table.forked(decode(wire.forked(tgid=child, start=1, parent_tgid=parent, parent_start=1), 0))
    view = View(Filters(pids=frozenset({10}), children=children))
    assert view.widen(table) == ({10, 20, 30} if children else {10})
    for tgid, shown in ((10, True), (20, children), (30, children), (21, False)):
        assert [view.wants_found(event) for event in found(tgid)] == [shown] * 3


@pytest.mark.parametrize(
    ("pattern", "comm", "shown"),
    [
        ("curl", b"curl", True),
        ("cur", b"curl", False),
        ("url", b"curl", False),
        ("c*", b"curl", True),
        ("c?rl", b"curl", True),
        ("[a-d]url", b"curl", True),
        ("CURL", b"curl", False),
        ("a.b", b"axb", False),
        ("a*b", b"a\nb", True),
        ("*\\xff", b"a\xff", True),
        ("a?xff", b"a\xff", True),
    ],
)
def test_comm_globs(pattern: str, comm: bytes, shown: bool) -> None:
    """The whole name must match, case counts, and bytes that are no UTF-8 are matched as their escapes."""
    assert wants(executed(comm=comm), comms=[pattern]) is shown
    assert wants(executed(comm=comm), comms=["nothing", pattern]) is shown
    assert wants(socket(owner=process(comm=comm)), comms=[pattern]) is shown


def test_exe_globs() -> None:
    """The whole path must match; a process of which none is known matches only what matches nothing."""
    assert wants(executed(), exes=["/usr/bin/*"])
    assert wants(executed(), exes=["*/curl"])
    assert not wants(executed(), exes=["curl"])
    assert not wants(executed(exe=b""), exes=["?*"])
    assert not wants(socket(), exes=["*"])


def test_uid() -> None:
    """Only processes of that user."""
    for made in (executed(uid=33), socket(owner=process(uid=33))):
        assert wants(made, uids=frozenset({33}))
        assert not wants(made, uids=frozenset({0}))


@pytest.mark.parametrize(("port", "shown"), [(443, True), (40_000, True), (80, False)])
def test_port(port: int, shown: bool) -> None:
    """Either end's port counts, and asking for one leaves processes out."""
    assert wants(socket(), ports=frozenset({port})) is shown
    assert wants(socket(), ports=frozenset({port, 1})) is shown
    assert not wants(executed(), ports=frozenset({port}))


@pytest.mark.parametrize(
    ("network", "shown"),
    [
        ("10.0.0.0/8", True),
        ("192.0.2.7", True),
        ("192.0.2.0/29", True),
        ("192.0.3.0/24", False),
        ("2001:db8::/32", False),
        ("::/0", False),
        ("0.0.0.0/0", True),
    ],
)
def test_cidr(network: str, shown: bool) -> None:
    """Either end's address counts; networks of the other family hold none of them."""
    assert wants(socket(), cidrs=[network]) is shown
    assert wants(socket(), cidrs=["198.51.100.0/24", network]) is shown
    assert not wants(executed(), cidrs=[network])


def test_cidr_of_ipv6() -> None:
    """The same for IPv6."""
    event = socket(local="2001:db8::1", remote="::1", ipv6=True)
    assert wants(event, cidrs=["2001:db8::/32"])
    assert not wants(event, cidrs=["0.0.0.0/0"])


def test_bad_network_is_a_value_error() -> None:
    """A view can't be made of what is no network."""
    with pytest.raises(ValueError, match="nonsense"):
        View(Filters(cidrs=["nonsense"]))


def test_netns() -> None:
    """The socket's namespace counts for sockets, the process's for processes."""
    assert wants(socket(netns=5), netns=frozenset({5}))
    assert not wants(socket(owner=process(netns=5)), netns=frozenset({5}))
    assert wants(executed(netns=5), netns=frozenset({5}))
    assert not wants(executed(), netns=frozenset({5}))


def test_all_filters_must_hold() -> None:
    """Filters of several sorts narrow each other."""
    event = socket(owner=process(10, uid=33))
    assert wants(event, uids=frozenset({33}), ports=frozenset({443}), comms=["c*"])
    assert not wants(event, uids=frozenset({33}), ports=frozenset({80}), comms=["c*"])
    assert not wants(event, uids=frozenset({0}), ports=frozenset({443}), comms=["c*"])
    assert not wants(event, uids=frozenset({33}), ports=frozenset({443}), comms=["d*"])


FILTERS = st.builds(
    Filters,
    kinds=st.frozensets(st.sampled_from(RING_KINDS)),
    pids=st.frozensets(st.integers(1, 1 << 22)),
    children=st.booleans(),
    comms=st.lists(st.text()),
    exes=st.lists(st.text()),
    uids=st.frozensets(st.integers(0, 1 << 32)),
    ports=st.frozensets(st.integers(1, 65535)),
    cidrs=st.lists(st.sampled_from(["10.0.0.0/8", "::/0"])),
    netns=st.frozensets(st.integers(1, 1 << 32)),
)


@given(FILTERS)
def test_filters_survive_a_recording(filters: Filters) -> None:
    """What is kept of the filters makes the same ones again."""
    assert Filters.from_json(filters.as_json()) == filters


def test_default_filters_are_told() -> None:
    """Without any filter only the kinds are told."""
    assert Filters().as_json() == {"event": sorted(kind.label for kind in DEFAULT_KINDS)}


@pytest.mark.parametrize("broken", [{}, {"event": ["nonsense"]}])
def test_foreign_filters_are_refused(broken: dict[str, Any]) -> None:
    """Anything that was not kept so is a KeyError or ValueError."""
    with pytest.raises((KeyError, ValueError)):
        Filters.from_json(broken)
