"""What people type: every right form is read as meant, every wrong one is one line that says what would be right."""

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracer.cli import options
from tracer.cli.errors import CommandError, Exit
from tracer.model import RING_KINDS, Kind
from tracer.pipeline.view import DEFAULT_KINDS, Filters, View

KIB = 1 << 10
ARABIC = "\u0663"  # digits that are no ASCII
SUPERSCRIPT = "\u00b2"
LONG = "9" * 5000  # more digits than int() takes


def refused(call: Any, *args: Any, **keywords: Any) -> str:
    """The message of a CommandError, which must be a usage error of one line."""
    with pytest.raises(CommandError) as error:
        call(*args, **keywords)
    assert error.value.code == Exit.USAGE
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("65536", 65_536),
        ("64k", 64 * KIB),
        ("64K", 64 * KIB),
        ("64KiB", 64 * KIB),
        ("64 kb", 64 * KIB),
        (" 8M ", 8 << 20),
        ("8MB", 8 << 20),
        ("1g", 1 << 30),
        ("65536b", 65_536),
    ],
)
def test_size(text: str, value: int) -> None:
    """A number with or without a unit, in powers of 1,024."""
    assert options.size("--buffer", text, 16 * KIB, 1 << 30) == value


@pytest.mark.parametrize(
    "text", ["", "lots", "-1", "1.5M", "8X", "M", "15K", "2G", "8M8M", "0x10000", LONG, LONG + "G", SUPERSCRIPT]
)
def test_bad_size(text: str) -> None:
    """Anything else, and what is too small or too large, is refused with the bounds."""
    message = refused(options.size, "--buffer", text, 16 * KIB, 1 << 30)
    assert message.startswith("--buffer ")
    assert "16K" in message
    assert "1024M" in message


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10.0), ("1.5s", 1.5), ("200ms", 0.2), ("5m", 300.0), ("2h", 7200.0), ("366d", 366 * 86400.0), (" 1 ", 1.0)],
)
def test_duration(text: str, seconds: float) -> None:
    """A number with or without a unit, in seconds."""
    assert options.duration("--duration", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "0.0", "1e3", "inf", "nan", "1 s", "5x", ".5", "367d", LONG, "s"])
def test_bad_duration(text: str) -> None:
    """Anything else, nothing at all and more than a year is refused with examples."""
    message = refused(options.duration, "--duration", text)
    assert message.startswith("--duration ")
    assert "5m" in message


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused(text: str) -> None:
    """No text raises anything but a usage error, in any option."""
    codes: set[Exit] = set()
    calls: list[tuple[Any, dict[str, Any]]] = [
        (lambda: options.size("--buffer", text, 1, 1 << 40), {}),
        (lambda: options.duration("--duration", text), {}),
    ]
    calls += [
        (options.filters, {name: [text]})
        for name in ("pid", "comm", "exe", "uid", "port", "cidr", "event", "netns")
        if name != "netns" or not text.startswith("/")
    ]
    for call, keywords in calls:
        try:
            call(**keywords)
        except CommandError as error:
            codes.add(error.code)
    assert codes <= {Exit.USAGE}


def test_no_filter() -> None:
    """Without any option everything is shown but the forks."""
    assert options.filters() == Filters()
    assert options.filters().kinds == DEFAULT_KINDS == frozenset(RING_KINDS) - {Kind.FORK} | {Kind.UPDATE}


def test_filters() -> None:
    """Each option is read into its filter, repeated ones together."""
    found = options.filters(
        pid=["1", "4194304"],
        children=True,
        comm=["a*", "b"],
        exe=["/usr/*"],
        uid=["0", "33"],
        port=["1", "65535"],
        cidr=["10.1.2.3/8", "::1"],
        event=["exec,exit", "fork"],
        netns=["4026531840"],
    )
    assert found == Filters(
        kinds=frozenset({Kind.EXEC, Kind.EXIT, Kind.FORK}),
        pids=frozenset({1, 4194304}),
        children=True,
        comms=["a*", "b"],
        exes=["/usr/*"],
        uids=frozenset({0, 33}),
        ports=frozenset({1, 65535}),
        cidrs=["10.0.0.0/8", "::1/128"],
        netns=frozenset({4026531840}),
    )


BROUGHT = {Kind.CONNECT: Kind.ATTEMPT, Kind.FLOW: Kind.FLOW_END, Kind.CLOSE: Kind.TAIL}


@pytest.mark.parametrize("kind", sorted({*RING_KINDS, Kind.UPDATE} - {*BROUGHT, *BROUGHT.values(), Kind.PAYLOAD}))
def test_event_names(kind: Kind) -> None:
    """Each kind has the name that the ledger gives it."""
    assert options.filters(event=[kind.label]).kinds == {kind}


@pytest.mark.parametrize(("kind", "brought"), BROUGHT.items())
def test_what_comes_with_another(kind: Kind, brought: Kind) -> None:
    """Who asks for connects gets those that have no answer yet, and so on; what is brought has no name of its own."""
    assert options.filters(event=[kind.label]).kinds == {kind, brought}
    assert kind.label in refused(options.filters, event=[brought.label])


def test_answers_of_dns() -> None:
    """What the ledger calls payload gives no events but the answers of DNS, and is asked for by that name."""
    assert options.filters(event=["dns"]).kinds == {Kind.PAYLOAD}
    assert "dns" in refused(options.filters, event=["payload"])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pid", "0"),
        ("pid", "-1"),
        ("pid", "4194305"),
        ("pid", "x"),
        ("pid", ""),
        ("pid", LONG),
        ("pid", SUPERSCRIPT),
        ("port", "0"),
        ("port", "65536"),
        ("port", "http"),
        ("port", "1-5"),
        ("uid", "4294967295"),
        ("uid", "-1"),
        ("uid", "no such user"),
        ("uid", ""),
        ("uid", "a\0b"),
        ("uid", SUPERSCRIPT),
        ("cidr", "foo"),
        ("cidr", "10.0.0.0/33"),
        ("cidr", "10.0.0"),
        ("cidr", ""),
        ("event", "bogus"),
        ("event", ""),
        ("event", "exec,"),
        ("event", "EXEC"),
        ("netns", "0"),
        ("netns", "x"),
        ("netns", ""),
        ("netns", "/no/such/namespace"),
        ("netns", "/proc/self/no-such"),
        ("netns", "/proc/self/cwd"),
        ("netns", SUPERSCRIPT),
        ("comm", ""),
        ("exe", "x" * 4097),
    ],
)
def test_bad_filters(name: str, value: str) -> None:
    """A value that an option can't have is refused with the option's name and what would be right."""
    message = refused(options.filters, **{name: [value]})
    assert message.startswith(f"--{name} ")
    assert "give" in message


def test_children_need_a_parent() -> None:
    """--children without --pid says what is missing."""
    assert "--pid" in refused(options.filters, children=True)


def test_user_by_name() -> None:
    """A user's name is looked up."""
    assert options.filters(uid=["root"]).uids == {0}


def test_netns_by_path(tmp_path: Path) -> None:
    """A namespace's file gives its inode: that of a process by what its link names, another by its own."""
    own = Path("/proc/self/ns/net").stat().st_ino
    assert options.filters(netns=["/proc/self/ns/net"]).netns == {own}
    assert options.filters(netns=[f"/proc/{os.getpid()}/ns/net"]).netns == {own}
    there = tmp_path / "ns"
    there.touch()
    assert options.filters(netns=[str(there)]).netns == {there.stat().st_ino}
    assert options.filters(netns=[str(own)]).netns == {own}


def test_digits_of_any_script() -> None:
    """Digits are what int() takes; what only looks like one is refused (see the bad values)."""
    assert options.filters(port=[ARABIC]).ports == {3}


@pytest.mark.parametrize("name", ["comm", "exe"])
def test_name_that_is_no_text(name: str) -> None:
    """Bytes of a glob that are no UTF-8 become the escapes by which such names are matched, and can be told as JSON."""
    text = os.fsdecode(b"a\xff*")
    found = options.filters(comm=[text] if name == "comm" else [], exe=[text] if name == "exe" else [])
    values = found.as_json()[name]
    assert values == [r"a\xff*"]
    values[0].encode()
    View(found)
