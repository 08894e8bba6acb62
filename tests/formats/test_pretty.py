"""The lines for people: what they say, that they fit, and that nothing hostile gets through them."""

import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.events import (
    NOW,
    OFFSET,
    SECOND,
    SESSION,
    answered,
    executed,
    exited,
    failed,
    image,
    notice,
    process,
    socket,
)
from tracer.formats.pretty import Pretty
from tracer.formats.text import width
from tracer.model import (
    TCP_STATES,
    Cgroup,
    Event,
    ExecFailed,
    Flag,
    Kind,
    Merged,
    Names,
    Notice,
    Parent,
    ProcessEvent,
    ProcessExited,
    Resource,
    Role,
)
from tracer.pipeline import whose

SGR = re.compile(r"\x1b\[[0-9;]*m")


def line(event: Event, cells: int | None = None, colour: bool = False) -> str:
    """The rendered line without its newline."""
    rendered = Pretty(SESSION, colour=colour, width=cells).render(event, OFFSET, 1).decode()
    assert rendered.endswith("\n")
    return rendered[:-1]


def detail(event: Event) -> str:
    """The event's word and what follows it, with one space between, where nothing is cut."""
    at = Pretty(SESSION, colour=False, width=None).header().index(b"EVENT")
    shown = line(event)
    return f"{shown[at : at + 9].rstrip()} {shown[at + 10 :]}"


EVERY: list[Event] = [
    executed(image(b"curl", b"-s", b"http://x.example/" + b"long" * 60)),
    executed(image(b"bash"), Kind.FORK),
    executed(image("漢字".encode() * 50), Kind.PROCESS_FOUND),
    failed(2, b"/usr/local/sbin/" + b"x" * 200, b"x", b"-a"),
    exited(0),
    exited(139),
    *(socket(kind, remote="2001:db8:85a3:1234:5678:8a2e:370:7334") for kind in Kind if 4 <= kind <= 8),
    socket(Kind.SOCKET_FOUND, process=None, role=Role.NONE),
    socket(Kind.CLOSE, names=Names(domain=b"long." * 50, source="tls", protocol="tls")),
    answered(question=(b"long." * 50, "A", "IN")),
    notice("tracer-session-start", session={"uid": 0}),
    notice("tracer-coverage", coverage={"hooks": {"on_exec": "tp_btf"}, "blind": ["much"] * 40}),
    notice("tracer-loss", loss={"kind": "connect", "stage": "emit", "count": 5, "first": 1, "last": 2, "cpus": [0]}),
    notice("tracer-ledger", ledger={"total": {"delivered": 1, "lost": 0}}),
    notice("tracer-else", anything="x" * 200),
]


def test_a_line() -> None:
    """A line has local time, pid, user, name, event and detail, in the columns of the header."""
    pretty = Pretty(SESSION, colour=False, width=None)
    assert pretty.header() == b"TIME             PID USER         NAME            EVENT     DETAIL\n"
    assert pretty.render(executed(image(b"curl", b"-s", b"a b")), OFFSET, 1) == (
        b"22:13:20.042    4242 root         curl            exec      curl -s 'a b' (parent bash 4200) in /root\n"
    )


@pytest.mark.parametrize(
    ("event", "shown"),
    [
        (executed(image(b"curl", executable=b"/usr/bin/curl")), "exec curl (parent bash 4200) in /root"),
        (executed(image(b"sh", executable=b"/bin/dash")), "exec sh (parent bash 4200) in /root [/bin/dash]"),
        (executed(image(executable=b"/bin/x")), "exec /bin/x (parent bash 4200) in /root"),
        (executed(image(b"x", executable=b"/x", flags=Flag.DETACHED)), "exec [memfd] x (parent bash 4200) in /root"),
        (executed(image(b"x", executable=b"/x", flags=Flag.DELETED)), "exec [deleted] x (parent bash 4200) in /root"),
        (executed(image(b"x", executable=b"/x", flags=Flag.TRUNCATED_ARGS)), "exec x … (parent bash 4200) in /root"),
        (
            executed(image(executable=b"/x", flags=Flag.FAULT_ARGS | Flag.SCRIPT)),
            "exec /x (arguments unreadable) (parent bash 4200) in /root",
        ),
        (
            executed(image(b"python3", b"./x.py", executable=b"/usr/bin/python3.11", flags=Flag.SCRIPT)),
            "exec python3 ./x.py (parent bash 4200) in /root",
        ),
        (executed(image(flags=Flag.KTHREAD), Kind.PROCESS_FOUND), "running kernel thread"),
        (executed(image(b"x"), Kind.FORK), "fork child of bash 4200"),
        (failed(2, b"/bin/nope", b"nope", b"-x y"), "no exec /bin/nope '-x y': ENOENT no such file or directory"),
        (failed(13, b"./x"), "no exec ./x: EACCES permission denied"),
        (failed(0, b"/bin/true", b"true"), "no exec /bin/true: killed by seccomp"),
        (exited(0), "exit exit 0, lived 1.50 s, CPU 3.4 ms, peak 12.3 MB"),
        (exited(7 << 8), "exit exit 7, lived 1.50 s, CPU 3.4 ms, peak 12.3 MB"),
        (exited(9), "exit killed by SIGKILL, lived 1.50 s, CPU 3.4 ms, peak 12.3 MB"),
        (exited(0x8B), "exit killed by SIGSEGV (core dumped), lived 1.50 s, CPU 3.4 ms, peak 12.3 MB"),
        (exited(31, Flag.SECCOMP_KILLED), "exit killed by SIGSYS (seccomp), lived 1.50 s, CPU 3.4 ms, peak 12.3 MB"),
        (exited(40), "exit killed by signal 40, lived 1.50 s, CPU 3.4 ms, peak 12.3 MB"),
        (socket(Kind.CONNECT), "connect → 93.184.215.14:443 in 12.3 ms"),
        (socket(Kind.CONNECT, remote="2001:db8::1"), "connect → [2001:db8::1]:443 in 12.3 ms"),
        (
            socket(Kind.CONNECT, remote="127.0.0.1", remote_port=81, error=111, opened=NOW - 100_000, established=0),
            "connect → 127.0.0.1:81 refused (ECONNREFUSED) after 0.1 ms",
        ),
        (
            socket(Kind.CONNECT, error=1, opened=0, established=0),
            "connect → 93.184.215.14:443 operation not permitted (EPERM)",
        ),
        (socket(Kind.ATTEMPT, remote="10.0.0.1", remote_port=80), "connect → 10.0.0.1:80 no answer yet"),
        (
            socket(Kind.ACCEPT, role=Role.ACCEPT, local_port=8080, remote="10.0.0.2", remote_port=41234),
            "accept :8080 ← 10.0.0.2:41234",
        ),
        (
            socket(Kind.LISTEN, role=Role.LISTEN, local="::", local_port=80),
            "listen listening on [::]:80 backlog 511",
        ),
        (
            socket(Kind.CLOSE, opened=NOW - 840_000_000),
            "close → 93.184.215.14:443 12.3 kB out, 1.1 MB in, 0.84 s",
        ),
        (
            socket(Kind.CLOSE, role=Role.ACCEPT, local_port=80, retransmits=3, sent=0, received=5),
            "close :80 ← 93.184.215.14:443 0 B out, 5 B in, 12.3 ms, 3 retransmits",
        ),
        (
            socket(Kind.CLOSE, error=104, retransmits=1),
            "close → 93.184.215.14:443 reset (ECONNRESET), 12.3 kB out, 1.1 MB in, 12.3 ms, 1 retransmit",
        ),
        (
            socket(Kind.CLOSE, state=TCP_STATES.index("ESTABLISHED"), role=Role.NONE, opened=0),
            "close 10.0.0.1:40000 ↔ 93.184.215.14:443 cut off in ESTABLISHED, 12.3 kB out, 1.1 MB in",
        ),
        (
            socket(Kind.CLOSE, role=Role.LISTEN, local="0.0.0.0", local_port=80, opened=NOW - 90 * SECOND),
            "close no longer listening on 0.0.0.0:80 after 1 min 30 s",
        ),
        (
            socket(Kind.SOCKET_FOUND, role=Role.NONE, opened=0),
            "open 10.0.0.1:40000 ↔ 93.184.215.14:443 12.3 kB out, 1.1 MB in",
        ),
        (
            socket(Kind.SOCKET_FOUND, role=Role.NONE, state=TCP_STATES.index("LISTEN"), local="::1", local_port=631),
            "listening on [::1]:631 backlog 511",
        ),
    ],
)
def test_details(event: Event, shown: str) -> None:
    """Each event says what a person wants of it."""
    assert detail(event) == shown


def test_late_events_say_so() -> None:
    """An event that came out of order is marked, since its time alone would look like a mistake."""
    assert line(socket(Kind.CONNECT, late=True)).endswith("in 12.3 ms (late)")


def test_who() -> None:
    """The user is a name where there is one, a number where not, and a dash for nobody known; so are pid and name."""

    def who(event: Event) -> list[str]:
        return line(event).split()[1:4]

    assert who(executed(image(b"x"), uid=33)) == ["4242", "www-data", "curl"]
    assert who(executed(image(b"x"), uid=1234)) == ["4242", "1234", "curl"]
    assert who(executed(image(b"x"), uid=-1)) == ["4242", "-", "curl"]
    assert who(socket(Kind.CLOSE, process=None, uid=33)) == ["-", "www-data", "-"]


def test_a_new_name_shows() -> None:
    """A process that renames itself or changes its user is shown as it is now, not as it was."""
    pretty = Pretty(SESSION, colour=False, width=None)
    changing = process(b"first")
    before = pretty.render(ProcessEvent(Kind.FORK, NOW, False, changing, 1), OFFSET, 1)
    changing.comm, changing.uid = b"second", 33
    after = pretty.render(ProcessEvent(Kind.FORK, NOW, False, changing, 1), OFFSET, 2)
    assert b" root " in before
    assert b" first " in before
    assert b" www-data " in after
    assert b" second " in after


def test_time_moves_on() -> None:
    """Each line has its own time, to the millisecond, also across seconds and back."""
    pretty = Pretty(SESSION, colour=False, width=None)
    times = [
        pretty.render(socket(Kind.ACCEPT, time=NOW + step), OFFSET, 1)[:12]
        for step in (0, 1_000_000, SECOND, 40 * SECOND, 0)
    ]
    assert times == [b"22:13:20.042", b"22:13:20.043", b"22:13:21.042", b"22:14:00.042", b"22:13:20.042"]


def test_without_a_width_nothing_is_cut() -> None:
    """Where the output is no terminal, arguments and paths come whole, however long."""
    args = [b"x" * 3000, b"y" * 3000]
    shown = line(executed(image(b"prog", *args, cwd=b"/" + b"z" * 3000)))
    assert b" ".join(args).decode() in shown
    assert shown.endswith(" in /" + "z" * 3000 + " [/usr/bin/curl]")


def test_extras_come_whole_or_not_at_all() -> None:
    """Parent and directory are shown where they fit beside the command, never in part."""
    event = executed(image(b"curl", b"-s", cwd=b"/srv/www/the-long-site"))
    shown = {line(event, cells)[line(event, cells).index("curl -s") :] for cells in range(100, 140)}
    parent, cwd = " (parent bash 4200)", " in /srv/www/the-long-site"
    assert shown == {f"curl -s{parent}", f"curl -s{parent}{cwd}"}


DOCKER = whose.read(b"/system.slice/docker-" + b"3f2a1b4c5d6e7089" * 4 + b".scope")
NGINX = whose.read(b"/system.slice/nginx.service")
WHOSE = [
    (DOCKER, "docker 3f2a1b4c5d6e"),
    (whose.read(b"/builds/" + b"3f2a1b4c5d6e7089" * 4), "container 3f2a1b4c5d6e"),
    (whose.read(b"/lxc.payload.a-name-longer-than-an-id"), "lxc a-name-longer-than-an-id"),
    (whose.read(b"/lxc.payload.a\x1b[2J"), r"lxc a\x1b[2J"),
    (NGINX, "nginx.service"),
    (whose.read(b"/user.slice/user-7.slice/user@7.service/app.slice/pipewire.service"), "pipewire.service"),
    (whose.read(b"/user.slice/user-7.slice/user@7.service/app.slice/app-x.scope"), ""),
    (whose.read(b"/user.slice/user-7.slice/user@7.service"), ""),
    (whose.read(b"/user.slice/user-7.slice/session-3.scope"), ""),
    (whose.read(b"/"), ""),
]


@pytest.mark.parametrize(("within", "shown"), WHOSE)
def test_whose(within: Cgroup, shown: str) -> None:
    """Every line of a process has its container, by twelve digits of an id, or its service; nothing for a session."""
    for event in (executed(image(b"curl")), exited(0), socket(Kind.CLOSE), socket(Kind.ACCEPT), failed(2, b"/x")):
        assert not isinstance(event, Notice)
        assert event.process is not None
        before = line(event)
        event.process.within = within
        added = f" · {shown}" if shown else ""
        assert line(event).replace(added, "", 1) == before
        assert added in line(event)


def test_whose_gives_way() -> None:
    """A container comes before the parent, but not before what happened, and only if it fits as a whole."""
    event = executed(image(b"curl", b"-s", b"http://x"))
    event.process.within = DOCKER
    assert line(event, 100).endswith("exec      curl -s http://x · docker 3f2a1b4c5d6e in /root")
    assert line(event, 90).endswith("exec      curl -s http://x (parent bash 4200)")
    closed = socket(Kind.CLOSE)
    assert closed.process is not None
    closed.process.within = NGINX
    assert line(closed, 140).endswith("12.3 kB out, 1.1 MB in, 12.3 ms · nginx.service")
    assert line(closed, 110).endswith("12.3 kB out, 1.1 MB in, 12.3 ms")


def test_the_errno_survives_a_long_command() -> None:
    """In a narrow terminal it is the command that is cut, not the reason why it failed."""
    shown = line(failed(2, b"/usr/local/" + b"x" * 200, b"x"), 100)
    assert shown.endswith("…: ENOENT")
    assert width(shown) == 100


def test_hundred_cells_hold_the_ordinary() -> None:
    """At 100 cells an exit, a refused connection and a closed one of a usual length are whole."""
    for event in (exited(0), socket(Kind.CONNECT, error=111), socket(Kind.CLOSE, remote="10.1.2.3")):
        assert "…" not in line(event, 100)


@pytest.mark.parametrize("cells", [1, 12, 13, 40, 79, 80, 100, 101, 120, 160, 250])
@pytest.mark.parametrize("event", EVERY, ids=lambda event: getattr(event, "action", None) or event.kind.label)
def test_lines_fit(event: Event, cells: int) -> None:
    """No line is wider than the terminal, with colours or without, and the colours take no cells."""
    shown, coloured = line(event, cells), line(event, cells, colour=True)
    assert width(shown) <= cells
    assert SGR.sub("", coloured) == shown


@pytest.mark.parametrize("cells", [1, 40, 80, 100, 200])
def test_header_fits(cells: int) -> None:
    """The titles fit too."""
    assert width(Pretty(SESSION, colour=False, width=cells).header().decode()[:-1]) <= cells


def test_resize() -> None:
    """After a resize lines and titles are those of a terminal that always had the new width."""
    pretty = Pretty(SESSION, colour=False, width=200)
    for event in EVERY:
        pretty.render(event, OFFSET, 1)
    for cells in (100, None, 130):
        pretty.resize(cells)
        fresh = Pretty(SESSION, colour=False, width=cells)
        assert pretty.header() == fresh.header()
        assert [pretty.render(e, OFFSET, 1) for e in EVERY] == [fresh.render(e, OFFSET, 1) for e in EVERY]


def test_columns_line_up() -> None:
    """The event stands under its title in every line, also with wide characters or too long a name before it."""
    for cells in (100, 130, 200):
        columns = Pretty(SESSION, colour=False, width=cells).header().decode()
        for comm in (b"sh", "漢字漢字漢".encode(), b"\x1b[2J\x1b[2J\x1b[2J", b"fifteen-bytes-x"):
            shown = line(executed(image(b"x"), comm=comm), cells)
            before = shown[: shown.index(" exec ") + 1]
            assert width(before) == columns.index("EVENT")


@pytest.mark.parametrize(
    ("event", "codes"),
    [
        (executed(image(b"x")), "1"),
        (failed(2, b"/x"), "31"),
        (exited(0), "2"),
        (exited(7 << 8), "2"),
        (exited(15), "2"),
        (exited(9), "31"),
        (exited(0x8B), "31"),
        (socket(Kind.CONNECT), "36"),
        (socket(Kind.CONNECT, error=111), "31"),
        (socket(Kind.ACCEPT), "36"),
        (socket(Kind.CLOSE, error=104), "31"),
        (socket(Kind.SOCKET_FOUND), "2"),
        (executed(image(b"x"), Kind.PROCESS_FOUND), "2"),
        (executed(image(b"x"), Kind.FORK), None),
        (notice("tracer-loss", loss={"count": 1}), "1;97;41"),
        (notice("tracer-ledger", ledger={"total": {"lost": 1}}), "1;97;41"),
        (notice("tracer-ledger", ledger={"total": {"lost": 0}, "complete": True}), "2"),
        (notice("tracer-coverage", coverage={}), None),
    ],
)
def test_colours(event: Event, codes: str | None) -> None:
    """Each line has at most one colour, which is put back at its end, and none unless asked for."""
    found = SGR.findall(line(event, colour=True))
    assert found == ([f"\x1b[{codes}m", "\x1b[0m"] if codes else [])
    assert line(event, colour=True).endswith("\x1b[0m") == bool(codes)
    assert "\x1b" not in line(event)


hostile = st.one_of(
    st.binary(max_size=60),
    st.text(max_size=40).map(lambda chars: chars.encode("utf-8", "surrogatepass")),
    st.sampled_from([b"\n", b"\x1b[2J\r", "\u202e漢\u200d".encode(), b"\xff\x9b", b"a\0\nb", "\u0301".encode() * 30]),
)


@given(hostile, st.lists(hostile, max_size=5), hostile, hostile, st.sampled_from([None, 20, 80, 100, 133]))
def test_hostile_names_stay_on_their_line(
    comm: bytes, args: list[bytes], path: bytes, cwd: bytes, cells: int | None
) -> None:
    """Whatever a process is called: one newline, at the end, no other control character, and never too wide."""
    runs = image(*args, executable=path, cwd=cwd)
    subject = process(comm, runs)
    subject.parent = Parent(1, 1, "p", comm, path)
    pretty = Pretty(SESSION._replace(users={0: comm.decode("utf-8", "surrogateescape")}), colour=False, width=cells)
    events: list[Event] = [
        ProcessEvent(Kind.EXEC, NOW, True, subject, 1),
        ProcessEvent(Kind.FORK, NOW, False, subject, 1),
        ProcessEvent(Kind.PROCESS_FOUND, NOW, False, subject, 1),
        ExecFailed(Kind.EXEC_FAILED, NOW, False, subject, 1, 2, path, runs.args, 0),
        ProcessExited(Kind.EXIT, NOW, False, subject, 1, 0, 1, 1, 0),
        socket(Kind.CONNECT, process=subject),
        notice("tracer-coverage", coverage={"hooks": {}, "blind": [comm.decode("latin-1")]}),
        notice("tracer-unknown", text=path.decode("utf-8", "surrogateescape")),
    ]
    for event in events:
        shown = pretty.render(event, OFFSET, 1).decode()
        assert shown.count("\n") == 1
        assert shown.endswith("\n")
        assert not [char for char in shown[:-1] if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
        if cells is not None:
            assert width(shown[:-1]) <= cells


@given(st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 32) - 1))
def test_any_number_is_rendered(large: int, other: int, small: int) -> None:
    """Numbers that make no sense, as a damaged recording may hold them, still give a line."""
    pretty = Pretty(SESSION, colour=True, width=100)
    runs = process()
    runs.start = large
    events: list[Event] = [
        ProcessExited(Kind.EXIT, other, False, runs, 1, small, large, other, small),
        *(
            socket(
                kind,
                time=other,
                opened=large,
                established=other,
                sent=large,
                received=other,
                retransmits=small,
                error=small,
                backlog=small,
                state=small & 0xFF,
                role=small & 3,
                uid=small,
            )
            for kind in Kind
            if kind in {Kind.CONNECT, Kind.ATTEMPT, Kind.ACCEPT, Kind.LISTEN, Kind.CLOSE, Kind.SOCKET_FOUND}
        ),
    ]
    for event in events:
        assert pretty.render(event, OFFSET, 1).count(b"\n") == 1


def test_names_of_flows() -> None:
    """Whom a flow goes to is told by name and address, and what it speaks; of who is called, by what name."""
    only = Names(domain=b"example.org", source="dns", how="process", asked=(b"example.org",))
    tls = Names(domain=b"example.org", source="tls", protocol="tls", hello=True, server_name=b"example.org")
    quic = Names(domain=b"example.org", source="quic", protocol="quic")
    datagrams = {"transport": "udp", "protocol": 17}
    for event, shown in (
        (socket(Kind.CONNECT, names=only), "connect → example.org (93.184.215.14):443 in 12.3 ms"),
        (
            socket(Kind.CONNECT, names=only, error=111),
            "connect → example.org (93.184.215.14):443 refused (ECONNREFUSED) after 12.3 ms",
        ),
        (socket(Kind.ATTEMPT, names=only), "connect → example.org (93.184.215.14):443 no answer yet"),
        (socket(Kind.CONNECT, names=only, remote="2001:db8::1"), "connect → example.org (2001:db8::1):443 in 12.3 ms"),
        (
            socket(Kind.CLOSE, names=tls, opened=NOW - 840_000_000),
            "close → example.org (93.184.215.14):443 tcp tls 12.3 kB out, 1.1 MB in, 0.84 s",
        ),
        (
            socket(Kind.CLOSE, names=tls, role=Role.ACCEPT, local_port=443),
            "close :443 ← 93.184.215.14:443 tcp tls for example.org 12.3 kB out, 1.1 MB in, 12.3 ms",
        ),
        (
            socket(Kind.UPDATE, names=tls, moved_out=7, moved_in=11),
            "moved → example.org (93.184.215.14):443 tcp tls 7 B out, 11 B in, 12.3 ms",
        ),
        (
            socket(Kind.FLOW, names=quic, role=Role.SENT, **datagrams),
            "flow → example.org (93.184.215.14):443 udp quic",
        ),
        (
            socket(Kind.FLOW_END, names=quic, role=Role.RECEIVED, local_port=443, moved_out=1, moved_in=2, **datagrams),
            "end :443 ← 93.184.215.14:443 udp quic for example.org 1 B out, 2 B in, 12.3 ms",
        ),
        (socket(Kind.FLOW, names=only, role=Role.SENT, **datagrams), "flow → example.org (93.184.215.14):443 udp"),
    ):
        assert detail(event) == shown


def test_answers_of_dns() -> None:
    """An answer is told with the question, what came of it, and from whom."""
    cname = Resource(b"www.example.org", "CNAME", "IN", 60, b"example.org")
    for event, shown in (
        (answered(), "dns www.example.org A = 93.184.215.14 from 10.0.0.53:53"),
        (
            answered(addresses=("192.0.2.1", "192.0.2.2")),
            "dns www.example.org A = 192.0.2.1, 192.0.2.2 from 10.0.0.53:53",
        ),
        (answered(addresses=(), answers=(cname,)), "dns www.example.org A = example.org from 10.0.0.53:53"),
        (answered(addresses=(), answers=()), "dns www.example.org A: no answer from 10.0.0.53:53"),
        (answered(code="NXDOMAIN", answers=()), "dns www.example.org A: NXDOMAIN from 10.0.0.53:53"),
        (answered(malformed=True, question=None), "dns ?: an answer that can't be read from 10.0.0.53:53"),
        (
            answered(question=(b"x", "TXT", "CH"), protocol="llmnr"),
            "dns x CH TXT = 93.184.215.14 by llmnr from 10.0.0.53:53",
        ),
        (answered(cut=True), "dns www.example.org A = 93.184.215.14 … from 10.0.0.53:53"),
    ):
        assert detail(event) == shown


@pytest.mark.parametrize("name", [b"example.org", b"a-rather-long-name." * 12 + b"example.org", "漢字".encode() * 40])
@pytest.mark.parametrize("cells", [100, 120, 160])
def test_bytes_survive_a_long_name(name: bytes, cells: int) -> None:
    """A name leaves room for what was moved: it is cut, and its address left out, before that falls off the end."""
    names = Names(domain=name, source="tls", protocol="tls")
    for role in (Role.CONNECT, Role.ACCEPT):
        shown = line(socket(Kind.CLOSE, names=names, role=role, local_port=443), cells)
        assert role == Role.ACCEPT or " tls " in shown
        assert "12.3 kB out, 1.1 MB in" in shown, shown
        assert width(shown) <= cells
    assert f"{name.decode()} (93.184.215.14):443" in line(socket(Kind.CLOSE, names=names))


@given(hostile, hostile, st.sampled_from([None, 20, 80, 100, 133]))
def test_hostile_names_of_flows(domain: bytes, data: bytes, cells: int | None) -> None:
    """No name that somebody asked for, said or answered drives the terminal or leaves its line."""
    names = Names(domain=domain, source="tls", protocol="tls")
    resources = (Resource(domain, "TXT", "IN", 1, data),)
    for event in (
        socket(Kind.CLOSE, names=names),
        socket(Kind.CLOSE, names=names, role=Role.ACCEPT),
        socket(Kind.FLOW, names=names, role=Role.SENT, transport="udp", protocol=17),
        answered(question=(domain, "TXT", "IN"), answers=resources, addresses=()),
    ):
        shown = line(event, cells)
        assert not [char for char in shown if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}], shown
        assert cells is None or width(shown) <= cells


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"moved_out": 5, "moved_in": 6}, "flows 23 times → 93.184.215.14:443 tcp 5 B out, 6 B in, within 1.50 s"),
        ({"role": Role.ACCEPT, "local_port": 80}, "flows 23 times :80 ← 93.184.215.14 tcp, within 1.50 s"),
        ({"error": 111}, "flows 23 times → 93.184.215.14:443 tcp refused (ECONNREFUSED), within 1.50 s"),
        ({"process": None}, "flows 23 times → 93.184.215.14:443 tcp, within 1.50 s, /usr/bin/curl"),
    ],
)
def test_several_flows(changes: dict[str, Any], shown: str) -> None:
    """Short flows that are one record are counted, with the other end, what went wrong, their bytes and whose."""
    owner = process(runs=image(b"curl"))
    merged = Merged(23, NOW - 1_500_000_000, NOW, 7, owner)
    event = socket(Kind.AGGREGATE, **({"process": owner, "merged": merged, "local": "0.0.0.0"} | changes))
    assert detail(event) == shown
    assert width(line(event, 80)) <= 80
