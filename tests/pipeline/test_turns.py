"""The recording's frames: what was packed comes back, and what was cut or changed raises RecordingError alone."""

import contextlib
import json
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tracer.model import Kind
from tracer.pipeline.order import RingRun
from tracer.pipeline.turns import (
    FRAME,
    Accounted,
    DeviceTotals,
    Found,
    Input,
    Lost,
    RecordingError,
    Start,
    Turn,
    Unheard,
    pack,
    unpack,
)
from tracer.probes.wire import SORTS

U64 = st.integers(0, 2**64 - 1)
S64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def runs(draw: st.DrawFn) -> RingRun:
    """What a ring may give: records of any bytes, of any CPU."""
    items = draw(st.lists(st.binary(max_size=80), max_size=4))
    made = wire.ring_run(*items, cpu=draw(st.integers(0, 65535)), ring=draw(st.integers(0, 255)))
    return made._replace(lost=draw(st.integers(0, 2**32 - 1)), drained=draw(st.booleans()))


TURNS = st.builds(
    Turn,
    now=U64,
    offset=S64,
    drained_at=U64,
    runs=st.lists(runs(), max_size=4),
    tallies=st.binary(max_size=200),
    cut=st.booleans(),
    last=st.booleans(),
    missed=st.dictionaries(st.text(max_size=10), st.integers(0, 2**63), max_size=3),
)
FOUND = st.builds(Found, now=U64, offset=S64, processes=st.binary(max_size=100), sockets=st.binary(max_size=100))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
UNHEARD = st.builds(
    Unheard,
    what=st.text(max_size=20),
    missing=U64,
    first=U64,
    last=U64,
    cpus=st.lists(st.integers(0, 65535), max_size=4),
)
STARTS = st.builds(Start, facts=st.dictionaries(st.text(), JSON, max_size=4))
SUMS = st.lists(S64, min_size=len(SORTS), max_size=len(SORTS))
BOTH = st.lists(U64, min_size=2, max_size=2)
DEVICES = st.builds(
    DeviceTotals,
    netns=U64,
    interface=U64,
    name=st.text(max_size=15),
    out=SUMS,
    into=SUMS,
    headers=BOTH,
    counted=st.none() | BOTH,
)
ACCOUNTS = st.builds(Accounted, now=U64, rows=st.lists(DEVICES, max_size=3))
DEVICE = DeviceTotals(1, 2, "eth0", [3] * len(SORTS), [4] * len(SORTS), [5, 6], [7, 8])
LOSTS = st.builds(Lost, now=U64, since=U64, backend=st.text(), reasons=st.lists(st.text(), max_size=3))
TURN = wire.turn(
    wire.ring_run(wire.executed(seq=0), wire.exited(seq=1)),
    wire.ring_run(wire.socket(Kind.CLOSE), cpu=1, ring=1),
    counters=wire.tallies({}),
    missed={"process_exec": 2},
)


def taken_apart(frame: bytes) -> tuple[int, bytes]:
    """The type and content of one whole frame."""
    kind, length = FRAME.unpack_from(frame)
    assert len(frame) == FRAME.size + length
    return kind, frame[FRAME.size :]


@given(st.one_of(STARTS, FOUND, TURNS, LOSTS, UNHEARD, ACCOUNTS))
def test_what_was_packed_comes_back(item: Input) -> None:
    """Every item of every sort is the same after a round trip."""
    assert unpack(*taken_apart(pack(item))) == item


def test_unpacked_turn_feeds_like_the_first() -> None:
    """The positions of the records, which are not kept, are found again."""
    again = unpack(*taken_apart(pack(TURN)))
    assert isinstance(again, Turn)
    assert [run.offsets for run in again.runs] == [run.offsets for run in TURN.runs]
    assert [len(run.offsets) for run in again.runs] == [2, 1]


def attempt(kind: int, content: bytes) -> Input | None:
    """The item, or None where RecordingError is raised; anything else fails the test."""
    with contextlib.suppress(RecordingError):
        return unpack(kind, content)
    return None


@pytest.mark.parametrize(
    "item",
    [TURN, wire.found(b"abc", b"de"), wire.start(), Lost(2, 1, "core", ["dead"]), Accounted(9, [DEVICE])],
    ids=["turn", "found", "start", "lost", "account"],
)
def test_cut_frame_is_no_other_frame(item: Input) -> None:
    """Content cut at any length is refused, or differs from the item in what was cut; it never comes back as whole."""
    kind, content = taken_apart(pack(item))
    for length in range(len(content)):
        assert attempt(kind, content[:length]) != item


def test_cut_turn_is_refused() -> None:
    """A turn says how long it is: cut anywhere, or with something behind it, it is refused."""
    kind, content = taken_apart(pack(TURN))
    for length in range(len(content)):
        with pytest.raises(RecordingError):
            unpack(kind, content[:length])
    with pytest.raises(RecordingError):
        unpack(kind, content + b"\0")


@given(st.integers(0, 2**16), st.integers(1, 255))
def test_changed_turn_is_a_turn_or_refused(at: int, by: int) -> None:
    """One byte of a turn changed: another turn, or RecordingError."""
    kind, content = taken_apart(pack(TURN))
    changed = bytearray(content)
    changed[at % len(content)] ^= by
    attempt(kind, bytes(changed))


@given(st.integers(0, 255), st.binary(max_size=300))
def test_any_bytes_are_an_item_or_refused(kind: int, content: bytes) -> None:
    """Whatever a frame holds it is an item, or RecordingError; a type that there isn't always is."""
    assert attempt(kind, content) is None or kind <= 8


@pytest.mark.parametrize("field", DeviceTotals._fields)
@pytest.mark.parametrize("other", ["x", [1], {"a": 1}, [1.5, 2], None, [True, 1], [[1], [2]]])
def test_account_of_other_things_is_refused(field: str, other: Any) -> None:
    """Totals of which a member is of another sort than it has to be are refused; only its own count may be missing."""
    if (field, other) in (("name", "x"), ("counted", None)):
        return
    kind, content = taken_apart(pack(Accounted(9, [DEVICE._replace(**{field: other})])))
    with pytest.raises(RecordingError):
        unpack(kind, content)


def test_record_without_length_is_refused() -> None:
    """Ring data in which a record claims to be 0 bytes long is refused; it would never end."""
    broken = TURN._replace(runs=[RingRun(0, 0, struct.pack("=IHH", 9, 0, 0) + bytes(16), 0, True, [])])
    with pytest.raises(RecordingError):
        unpack(*taken_apart(pack(broken)))


@pytest.mark.parametrize(
    "facts",
    [b"", b"{", b"\xff", b"[]", b"7", b"null", b'"x"', b"[" * 100_000, b"9" * 5000],
    ids=["nothing", "open", "binary", "list", "number", "null", "text", "nested", "long"],
)
def test_start_without_facts_is_refused(facts: bytes) -> None:
    """A start whose content is no JSON object is refused."""
    with pytest.raises(RecordingError):
        unpack(0, facts)


@pytest.mark.parametrize("missed", [[1], 7, "x", {"program": "many"}, {"program": None}, {"program": [1]}])
def test_missed_programs_are_counts(missed: Any) -> None:
    """A turn whose missed programs are not names with counts is refused."""
    name = "x" * 20  # long enough to be written over by any of these
    kind, content = taken_apart(pack(TURN._replace(missed={name: 1})))
    kept = json.dumps({name: 1}).encode()
    assert kept in content
    with pytest.raises(RecordingError):
        unpack(kind, content.replace(kept, json.dumps(missed).encode().ljust(len(kept))))


@pytest.mark.parametrize(
    "change",
    [
        {"what": 7},
        {"what": None},
        {"missing": -1},
        {"missing": "9"},
        {"first": None},
        {"last": 1.5},
        {"cpus": 3},
        {"cpus": ["x"]},
    ],
    ids=str,
)
def test_unheard_is_counts_and_times(change: dict[str, Any]) -> None:
    """What was not heard has a name, whole numbers and CPUs; anything else is refused."""
    told = Unheard("proc_connector", 9, 10, 20, [0, 1])._asdict()
    assert unpack(6, json.dumps(told).encode()) == Unheard("proc_connector", 9, 10, 20, [0, 1])
    with pytest.raises(RecordingError):
        unpack(6, json.dumps(told | change).encode())
