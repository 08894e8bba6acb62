"""Trap 42: names that break parsers and terminals."""

import json
import re
from base64 import b64decode

import pytest

from tests.tracing import LINE_BYTES, Event, Trace, find, one, shorten
from tests.traps.checks import EXECUTED, OPENED, Line, check_exec, check_network, lines, only, text
from tests.traps.conftest import MakeTrace, Run

pytestmark = pytest.mark.live

PROGRAM = "trap_42_names"


@pytest.fixture(name="session", scope="module")
def _session(trace: MakeTrace, run: Run) -> tuple[Trace, list[Line]]:
    with trace("--buffer", "32M") as seen:
        truth = run(PROGRAM)
    seen.assert_complete()
    return seen, truth


@pytest.fixture(name="events")
def _events(session: tuple[Trace, list[Line]]) -> list[Event]:
    return session[0].events


@pytest.fixture(name="truth")
def _truth(session: tuple[Trace, list[Line]]) -> list[Line]:
    return session[1]


def check_raw(event: Event, field: str, raw: bytes) -> None:
    """A field that lost something when it was decoded has its bytes beside."""
    assert b64decode(event["tracer"]["raw"][field], validate=True).rstrip(b"\0") == raw, shorten(event)


def check_cut(event: Event, counted: Line, whole: list[str]) -> None:
    """Arguments that do not fit: their true number, those that are there as they were, and a mark that some are not."""
    process = event["process"]
    assert process["args_count"] == counted["count"], shorten(event)
    kept = process["args"]
    assert "process.args" in event["tracer"]["truncated"], shorten(event)
    assert kept[:-1] == whole[: len(kept) - 1]
    assert whole[len(kept) - 1].startswith(kept[-1].removesuffix("…"))
    assert kept != whole


def test_lines_are_lines(session: tuple[Trace, list[Line]]) -> None:
    """Every line is JSON in UTF-8 without raw control characters, and short enough for a shipper's buffer."""
    seen, _ = session
    for line in seen.lines:
        assert len(line) < LINE_BYTES
        assert isinstance(json.loads(line), dict)
        assert not re.search(rb"[\x00-\x1f]", line)
    everything = find(seen.events, pid=only(session[1], "program")["pid"])
    assert everything


def test_hostile_name(truth: list[Line], events: list[Event]) -> None:
    """A name with a line end, an escape sequence and bytes that are no UTF-8 is whole, on connects and exits alike."""
    check_network(truth, events)
    line = only(truth, "named")
    opened = one(events, OPENED, line["pid"])
    assert opened["process"]["name"] == text(line["comm_hex"]) == "nl\n\x1b[31m\\xff\\xfe"
    check_raw(opened, "process.name", bytes.fromhex(line["comm_hex"]))
    exited = one(events, "process-exited", line["pid"])
    assert exited["process"]["name"] == text(line["comm_hex"])
    check_raw(exited, "process.name", bytes.fromhex(line["comm_hex"]))


def test_hostile_paths(truth: list[Line], events: list[Event]) -> None:
    """An executable and a working directory with such names are whole."""
    line = only(truth, "exec", label="path")
    event = check_exec(truth, events, line)
    assert "\n" in event["process"]["executable"]
    assert "\n" in event["process"]["working_directory"]
    check_raw(event, "process.executable", bytes.fromhex(line["exe_hex"]))
    check_raw(event, "process.working_directory", bytes.fromhex(line["cwd_hex"]))
    check_raw(event, "process.name", bytes.fromhex(line["comm_hex"]))


def test_hostile_arguments(truth: list[Line], events: list[Event]) -> None:
    """Line ends, escapes, quotes, nothing at all, surrogates, reversing marks: each argument is what it was."""
    line = only(truth, "exec", label="arguments")
    event = check_exec(truth, events, line)
    assert event["process"]["args_count"] == 10
    assert event["process"]["args"][4] == ""
    raw = b"\0".join(bytes.fromhex(argument) for argument in line["args_hex"])
    check_raw(event, "process.args", raw)
    assert "truncated" not in event["tracer"]


def test_four_kilobytes(truth: list[Line], events: list[Event]) -> None:
    """One argument of 4 KiB is there to its last byte, and so is the one after it."""
    counted = only(truth, "counted", label="long")
    event = check_exec(truth, events, only(truth, "exec", label="long"))
    assert event["process"]["args_count"] == counted["count"] == 3
    assert event["process"]["args"] == ["plain", "a" * 4096, "after"]
    assert "truncated" not in event["tracer"]


@pytest.mark.parametrize(("label", "shown"), [("long-control", "\x01"), ("long-invalid", "\\xff")])
def test_what_grows_when_it_is_escaped(truth: list[Line], events: list[Event], label: str, shown: str) -> None:
    """5,000 bytes that take five or six each: whole, or cut with a mark, but in a line that is short enough."""
    counted = only(truth, "counted", label=label)
    event = one(events, EXECUTED, counted["pid"])
    whole = [label.removeprefix("long-"), shown * 5000, "after"]
    if "truncated" in event["tracer"]:
        check_cut(event, counted, whole)
    else:
        assert event["process"]["args"] == whole
    assert event["process"]["args_count"] == counted["count"] == 3


def test_two_megabytes(truth: list[Line], events: list[Event]) -> None:
    """2 MiB of arguments are cut with a mark; their number is the true one."""
    counted = only(truth, "counted", label="huge")
    assert counted["total"] > 2 << 20
    event = one(events, EXECUTED, counted["pid"])
    check_cut(event, counted, ["huge", *(chr(ord("A") + index) * 104857 for index in range(1, 21))])
    assert len("".join(event["process"]["args"])) > 4096


def test_ten_thousand_arguments(truth: list[Line], events: list[Event]) -> None:
    """10,007 arguments are cut with a mark; their number is the true one."""
    counted = only(truth, "counted", label="many")
    event = one(events, EXECUTED, counted["pid"])
    check_cut(event, counted, ["many", *["x"] * 10006])
    assert event["process"]["args_count"] == 10007


def test_pretty_view_cannot_be_driven(trace: MakeTrace, run: Run) -> None:
    """The view for people shows all of it without control characters, reversing marks, or bytes that are no UTF-8."""
    with trace(form="pretty") as seen:
        truth = run(PROGRAM)
    everything = b"\n".join(seen.lines).decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", everything)
    for hostile in ("\\x1b", "\\n", "\\xff"):
        assert hostile in everything
    for line in [*lines(truth, "counted"), *lines(truth, "named")]:
        assert str(line["pid"]) in everything
