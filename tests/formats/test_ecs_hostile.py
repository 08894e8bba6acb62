"""ECS lines of events whose bytes may be anything: valid, short, marked where cut, and nothing lost in silence."""

from base64 import b64decode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats import events
from tests.formats.ecs_lines import (
    check,
    full_process,
    leaves,
    shown,
)
from tests.formats.events import NOW
from tracer.model import (
    Answered,
    Event,
    ExecFailed,
    Flag,
    Image,
    Kind,
    Names,
    Notice,
    Parent,
    ProcessEvent,
    ProcessExited,
    Resource,
)
from tracer.pipeline import whose

LONG = 12_288  # ARGS_BYTES of bpf/tracer.h
PATHS = 4096  # PATH_BYTES
HOSTILE = {
    "invalid": b"\xff",
    "control": b"\x01",
    "escape": b"\x1b",
    "quote": b'"',
    "backslash": b"\\",
    "newline": b"\n",
    "delete": b"\x7f",
    "surrogate": b"\xed\xa0\x80",
    "wide": "😀".encode(),
    "separator": "\u2028".encode(),
    "empty": b"\0",
    "plain": b"x",
}
SHAPES = ["exec", "found", "failed", "exited", "connect", "named", "answered"]


def filled(unit: bytes, size: int) -> bytes:
    """So many bytes of a unit."""
    return (unit * size)[:size]


def hostile(shape: str, unit: bytes) -> Event:
    """An event whose every text is as long as the probes let it be, of one unit."""
    path = b"/" + filled(unit.replace(b"\0", b"x"), PATHS - 1)
    name = filled(unit.replace(b"\0", b"x"), 15)
    args = filled(unit, LONG - 1) + b"\0"
    file = filled(unit.replace(b"\0", b"x"), 1023)
    process = full_process()
    process.comm = name
    process.parent = Parent(4200, 5, "parent", name, path)
    process.image = Image(1, path, path, file, file, args, LONG, 99_999, 1, 1, int(Flag.SCRIPT))
    process.within = whose.read(b"/" + filled(unit.replace(b"\0", b"x"), 1023))
    if shape == "failed":
        return ExecFailed(Kind.EXEC_FAILED, NOW, True, process, 5, 2, file, args, 0)
    if shape == "exited":
        return ProcessExited(Kind.EXIT, NOW, True, process, 5, 9, 1, 1, 0)
    if shape == "connect":
        return events.socket(Kind.CLOSE, process=process, late=True)
    text = filled(unit, 1024)
    if shape == "named":
        said: dict[str, Any] = {"hello": True, "server_name": text, "offered": (text[:255],) * 16}
        names = Names(domain=text, source="dns", how="netns", asked=(text,) * 17, protocol="tls", **said)
        return events.socket(Kind.CLOSE, process=process, late=True, names=names)
    if shape == "answered":
        answers = (Resource(text[:1009], "TXT", "IN", 1, text[:256]),) * 64
        addresses = tuple(f"192.0.2.{number}" for number in range(64))
        question = (text[:1009], "TXT", "IN")
        return events.answered(process=process, late=True, question=question, answers=answers, addresses=addresses)
    return ProcessEvent(Kind.EXEC if shape == "exec" else Kind.PROCESS_FOUND, NOW, True, process, 5)


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("shape", SHAPES)
def test_longest_hostile_line_fits(shape: str, unit: bytes) -> None:
    """However long and whatever its bytes, a line is valid, under the limit, and says who did what."""
    document = shown(hostile(shape, unit))
    check(document)
    assert document["process"]["pid"] == 4242
    assert document["process"]["entity_id"] == "entity"
    assert document["process"]["parent"]["pid"] == 4200


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_cut_is_named(shape: str, unit: bytes) -> None:
    """A field that is not whole is named in tracer.truncated, and one that is whole is not."""
    event = hostile(shape, unit)
    document = shown(event)
    truncated = set(document["tracer"].get("truncated", ()))
    assert not isinstance(event, Notice)
    process = event.process
    assert process is not None
    assert process.image is not None
    assert process.parent is not None
    whole: dict[str, Any] = {
        "process.executable": process.image.executable.decode(errors="backslashreplace"),
        "process.parent.executable": process.parent.executable.decode(errors="backslashreplace"),
    }
    if shape in ("exec", "found"):
        args = process.image.args[:-1].decode(errors="backslashreplace")
        whole["process.args"] = args.split("\0")
        whole["process.command_line"] = args.replace("\0", " ")
        whole["process.working_directory"] = process.image.cwd.decode(errors="backslashreplace")
    if isinstance(event, ExecFailed):
        whole["tracer.exec.args"] = event.args[:-1].decode(errors="backslashreplace").split("\0")
        whole["tracer.exec.requested"] = event.requested.decode(errors="backslashreplace")
    present = dict(leaves(document))
    assert {name for name, text in whole.items() if present.get(name) != text} == truncated & whole.keys()


TEXTS = st.binary(max_size=40).map(lambda raw: raw.replace(b"\0", b""))


ANY = (
    st.sampled_from(SHAPES),
    st.fixed_dictionaries(dict.fromkeys(["comm", "exe", "cwd", "file", "interp", "cgroup", "parent", "above"], TEXTS)),
    st.lists(TEXTS, min_size=1, max_size=6),
)


def short(shape: str, texts: dict[str, bytes], args: list[bytes]) -> Event:
    """An event with these texts, so short that nothing is cut."""
    joined = b"\0".join(args)
    process = full_process()
    process.comm = texts["comm"] or b"x"
    process.parent = Parent(4200, 5, "parent", texts["above"], texts["parent"])
    process.image = Image(
        1,
        texts["exe"],
        texts["cwd"],
        texts["file"],
        texts["interp"],
        joined + b"\0",
        len(args),
        len(joined) + 1,
        1,
        1,
        0,
    )
    process.within = whose.read(texts["cgroup"])
    event = hostile(shape, b"x")
    assert not isinstance(event, Notice)
    event = event._replace(process=process)
    if isinstance(event, Answered):
        event = event._replace(answers=event.answers[:1])  # so short that nothing is cut
    if isinstance(event, ExecFailed):
        event = event._replace(requested=texts["file"] or b"x", args=joined + b"\0")
    return event


@given(*ANY)
def test_any_bytes_are_told_and_kept(shape: str, texts: dict[str, bytes], args: list[bytes]) -> None:
    """Any bytes make a valid line; what is not UTF-8 is shown with escapes and kept as it was, in base64."""
    event = short(shape, texts, args)
    assert not isinstance(event, Notice)
    process = event.process
    assert process is not None
    joined = b"\0".join(args)
    document = shown(event)
    check(document)
    assert document["process"]["name"] == process.comm.decode(errors="backslashreplace")
    expected = {process.comm, texts["exe"], texts["parent"], texts["above"]}
    if shape in ("exec", "found"):
        expected |= {texts["cwd"], texts["file"], texts["interp"], joined}
        assert document["process"]["args"] == joined.decode(errors="backslashreplace").split("\0")
    elif shape == "failed":
        expected |= {texts["file"], joined}
    expected.add(texts["cgroup"])
    kept = {b64decode(text, validate=True) for text in document["tracer"].get("raw", {}).values()}
    assert kept == {raw for raw in expected if raw != raw.decode(errors="ignore").encode()}


def test_name_of_a_raw_field() -> None:
    """Raw bytes are found under the name of their field."""
    process = full_process()
    process.comm = b"a\xff"
    assert process.image is not None
    process.image = process.image._replace(executable=b"/b\xff", args=b"c\xff\0d\0")
    raw = shown(ProcessEvent(Kind.EXEC, NOW, False, process, 5))["tracer"]["raw"]
    assert {name: b64decode(text) for name, text in raw.items()} == {
        "process.name": b"a\xff",
        "process.executable": b"/b\xff",
        "process.args": b"c\xff\0d",
    }


def test_arguments_that_look_like_escapes() -> None:
    """Text that looks like JSON's own escapes stays text, and splits no argument."""
    args = [rb"\u0000", rb"a\u0000b", b"\\", b'"', b'","', b"\\\\u0000", b"\x00"[:0]]
    found = shown(events.executed(events.image(*args)))["process"]
    assert found["args"] == [arg.decode() for arg in args]
    assert found["command_line"] == " ".join(arg.decode() for arg in args)


def test_long_command_line_of_the_tracer_itself() -> None:
    """What somebody gave the tracer on its own command line makes no line too long either."""
    line = ["tracer", "live", *["--comm", "\x01" * 4000] * 10]
    document = shown(events.notice("tracer-session-start", session={"command_line": line}))
    check(document)
    assert "tracer.session.command_line" in document["tracer"]["truncated"]
