"""The decoder's layouts against the compiled structs, and the decoder against bytes that nobody vouches for."""

import re
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts import build_bpf
from tests import wire
from tests.probes.btf import Btf, Leaf, section
from tracer import model
from tracer.model import Kind
from tracer.probes import records
from tracer.probes.backend import OBJECTS
from tracer.probes.records import DecodeError, Tally, decode, frames, read_tallies
from tracer.probes.wire import DEVICE, SORTS

ROOT = Path(__file__).parents[2]
STRUCTS = {
    "header": (records.HEADER, wire.HEADER),
    "exec_record": (records.EXEC, wire.EXEC),
    "exec_failed_record": (records.EXEC_FAILED, wire.EXEC_FAILED),
    "fork_record": (records.FORK, wire.FORK),
    "exit_record": (records.EXIT, wire.EXIT),
    "socket_record": (records.SOCKET, wire.SOCKET),
    "payload_record": (records.PAYLOAD, wire.PAYLOAD),
    "part": (records.PART, wire.PART),
    "moved": (records.MOVED, ("bytes", "unplaced", "filtered", "lost")),
    "device_bytes": (DEVICE, wire.DEVICE_BYTES),
    "tally": (records.TALLY, Tally._fields),
    "knobs": (records.KNOBS, ("filters", "kinds", "preemptible", "flood_ns")),
    "flood": (records.FLOOD, wire.FLOOD),
    "unseen": (records.UNSEEN, wire.UNSEEN),
}
ENUMS = ("kind", "ring", "record_flag", "role", "direction", "knob_filter", "wire_kind", "via")
FORMS = {"b": "signed", "h": "signed", "i": "signed", "q": "signed", "s": "bytes"}
RECORDS = [
    wire.executed(),
    wire.executed(kind=Kind.PROCESS_FOUND),
    wire.exec_failed(),
    wire.forked(),
    wire.exited(),
    *(wire.socket(kind) for kind in sorted(wire.SOCKETS)),
    wire.payload(b"first bytes"),
]


@pytest.fixture(scope="module", name="btf")
def _btf(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    """The types of bpf/tracer.h as the compiler of the probes lays them out.

    The probes' own objects only keep the types that their maps and programs name, so here is one that names them all.
    """
    root = tmp_path_factory.mktemp("layouts")
    sources = root / build_bpf.SOURCES
    sources.mkdir()
    for name in ("kernel.h", "tracer.h"):
        (sources / name).write_text((ROOT / "bpf" / name).read_text())
    lines = ['#include "kernel.h"', '#include "tracer.h"']
    lines += [f"struct {name} *a_{name};" for name in STRUCTS]
    lines += [f"enum {name} an_{name};" for name in ENUMS]
    source = build_bpf.SOURCES / "layouts.bpf.c"
    (root / source).write_text("\n".join(lines) + "\n")
    return Btf(section((root / build_bpf.compile_bpf(root, source)).read_bytes(), ".BTF"))


def laid_out(layout: struct.Struct) -> list[Leaf]:
    """Offset, size and form of each item of a struct format."""
    assert layout.format.startswith("=")
    found = []
    at = 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.format):
        size = struct.calcsize(f"={code}")
        if code == "s":
            found.append(Leaf(at, int(count or 1), "bytes"))
            at += found[-1].size
            continue
        for _ in range(int(count or 1)):
            found.append(Leaf(at, size, FORMS.get(code, "unsigned")))
            at += size
    return found


@pytest.mark.parametrize("name", STRUCTS)
def test_layout_is_the_compiled_one(btf: Btf, name: str) -> None:
    """Each struct has the size of its format, and each member the offset, size, sign and place in the order."""
    layout, names = STRUCTS[name]
    compiled = btf.struct(name)
    assert compiled.about == layout.size
    members = list(btf.leaves(compiled))
    assert [leaf for _, leaf in members] == laid_out(layout)
    assert [member for member, _ in members] == list(names)


def test_shipped_objects_have_the_same_shared_structs() -> None:
    """The objects that are loaded were compiled from this contract: their tally and knobs are those of the decoder."""
    for name in ("process", "tcp"):
        btf = Btf(section((OBJECTS / f"{name}.bpf.o").read_bytes(), ".BTF"))
        for shared in ("tally", "knobs"):
            layout, names = STRUCTS[shared]
            members = list(btf.leaves(btf.struct(shared)))
            assert [leaf for _, leaf in members] == laid_out(layout)
            assert [member for member, _ in members] == list(names)


def test_positions_are_those_of_the_header() -> None:
    """The constants that index a decoded record name the header's members, and KIND_AT is the byte of its kind."""
    positions = [getattr(records, name.upper()) for name in wire.HEADER]
    assert positions == list(range(len(wire.HEADER)))
    assert laid_out(records.HEADER)[records.KIND].at == records.KIND_AT


def test_enums_are_the_compiled_ones(btf: Btf) -> None:
    """Kind, Flag and Role have the names and numbers of bpf/tracer.h's enums."""
    kinds = btf.enum("kind")
    assert kinds.pop("KIND_TRACER_FOUND") == len(Kind)  # only between loader and iterator
    assert kinds.pop("KINDS") == len(model.RING_KINDS)
    assert kinds == {f"KIND_{kind.name}": kind for kind in Kind}
    assert btf.enum("record_flag") == {f"FLAG_{flag.name}": flag for flag in model.Flag}
    assert btf.enum("role") == {f"ROLE_{role.name}": role for role in model.Role}
    assert btf.enum("via") == {f"VIA_{via.name}": via for via in model.Via}
    assert btf.enum("direction") == {"DIRECTION_OUT": records.OUT, "DIRECTION_IN": records.IN}
    assert btf.enum("wire_kind") == {
        **{f"WIRE_{name.upper()}": number for number, name in enumerate(SORTS)},
        "WIRE_KINDS": len(SORTS),
    }
    assert btf.enum("ring") == {"RING_LIFECYCLE": 0, "RING_BULK": 1, "RINGS": 2}


def test_tcp_states_are_those_of_the_probes() -> None:
    """Every state that the probes know by number has that place among the names."""
    defined = re.findall(r"^#define TCP_(\w+) (\d+)$", (ROOT / "bpf/kernel.h").read_text(), re.MULTILINE)
    assert len(defined) >= 5
    assert {name: model.TCP_STATES[int(number)] for name, number in defined} == {name: name for name, _ in defined}


@pytest.mark.live
def test_tcp_states_are_those_of_the_kernel() -> None:
    """The names of TCP states are those of the running kernel's own enum."""
    kernel = Btf(Path("/sys/kernel/btf/vmlinux").read_bytes()).enum_with("TCP_ESTABLISHED")
    last = kernel.pop("TCP_MAX_STATES")
    named = {name.removeprefix("TCP_"): number for name, number in kernel.items()}
    known = {name: number for number, name in enumerate(model.TCP_STATES) if name}
    assert known.items() <= named.items()
    assert set(named) - set(known) <= {"BOUND_INACTIVE"}  # since 6.8, and only for diagnostics
    assert last >= len(model.TCP_STATES)


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: Kind(record[records.KIND_AT]).label)
def test_decodes_wherever_it_lies(record: bytes) -> None:
    """A record decodes to the same whatever is before and behind it: header first, then its members, then its data."""
    alone = decode(record, 0)
    assert alone[: len(wire.HEADER)] == (
        wire.NOW,
        0,
        wire.NOW - wire.SECOND,
        4242,
        4242,
        0,
        record[records.KIND_AT],
        int(record[records.KIND_AT] in wire.BULK),
        0,
    )
    assert decode(b"\xff" * 24 + record + b"\xff" * 24, 24) == alone


def test_data_goes_to_its_lengths() -> None:
    """The data of an exec is as long as its six lengths say, and not as long as what happens to follow."""
    record = wire.executed(b"/bin/a", b"/b", [b"c", b"d"], requested=b"e", interpreter=b"f", cgroup_path=b"/g/h")
    assert decode(record + b"more", 0)[-1] == b"a\0bin\0b\0e\0f\0h\0g\0c\0d\0"
    assert decode(wire.exec_failed(b"x", [b"y"]) + b"more", 0)[-1] == b"x\0y\0"


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: Kind(record[records.KIND_AT]).label)
def test_cut_anywhere_is_refused(record: bytes) -> None:
    """A record that ends early is a DecodeError at every length, in its variable part too."""
    for length in range(len(record)):
        with pytest.raises(DecodeError):
            decode(record[:length], 0)


@pytest.mark.parametrize("kind", [Kind.UPDATE, len(Kind), 200, 255])
def test_unknown_kind_is_refused(kind: int) -> None:
    """A kind that the contract doesn't have is a DecodeError that names it."""
    with pytest.raises(DecodeError, match=str(kind)):
        decode(bytes(records.KIND_AT) + bytes([kind]) + bytes(400), 0)


@given(st.binary(max_size=600), st.integers(0, 700), st.sampled_from([None, *range(len(Kind) + 1)]))
def test_hostile_bytes_give_a_record_or_a_decode_error(data: bytes, at: int, kind: int | None) -> None:
    """Whatever the bytes, decode gives a tuple whose data lie inside them, or raises DecodeError, and nothing else."""
    if kind is not None and at + records.KIND_AT < len(data):
        data = data[: at + records.KIND_AT] + bytes([kind]) + data[at + records.KIND_AT + 1 :]
    try:
        record = decode(data, at)
    except DecodeError:
        return
    assert record[records.KIND] in set(Kind)
    assert len(record) > len(wire.HEADER)
    if record[records.KIND] in (Kind.EXEC, Kind.PROCESS_FOUND):
        assert len(record[-1]) == sum(record[-8:-2])
    elif record[records.KIND] == Kind.EXEC_FAILED:
        assert len(record[-1]) == record[-2] + record[-3]


@given(st.lists(st.binary(max_size=40), max_size=8))
def test_frames_give_back_what_was_framed(items: list[bytes]) -> None:
    """Splitting an iterator's output gives the records that were put in."""
    assert list(frames(wire.framed(*items))) == items


@given(st.binary(max_size=64))
def test_hostile_frames_give_bytes_or_a_decode_error(data: bytes) -> None:
    """Whatever an iterator's output holds, it splits into pieces of itself, or DecodeError is raised."""
    try:
        pieces = list(frames(data))
    except DecodeError:
        return
    assert wire.framed(*pieces) == data


def test_frames_cut_anywhere_are_refused() -> None:
    """An output that ends inside a size or inside a record is a DecodeError, not a shorter record."""
    data = wire.framed(b"abcdef", b"gh")
    whole = {0, 10, len(data)}
    for length in range(len(data) + 1):
        if length in whole:
            list(frames(data[:length]))
            continue
        with pytest.raises(DecodeError):
            list(frames(data[:length]))


def test_tallies_come_by_cpu_and_kind() -> None:
    """The counters of a map are found at their CPU and kind; a rest that is no whole CPU is left out."""
    data = wire.tallies({(0, Kind.EXEC): {"attempts": 5}, (1, Kind.CLOSE): {"failed": 7, "map_full": 9}})
    read = read_tallies(data + bytes(100), len(model.RING_KINDS))
    assert len(read) == 2
    assert {(cpu, kind): tally for cpu, kinds in enumerate(read) for kind, tally in enumerate(kinds) if any(tally)} == {
        (0, Kind.EXEC): Tally(*[0] * 12)._replace(attempts=5),
        (1, Kind.CLOSE): Tally(*[0] * 12)._replace(failed=7, map_full=9),
    }


@given(st.binary(max_size=2000), st.integers(1, 12))
def test_tallies_of_any_bytes(data: bytes, kinds: int) -> None:
    """A counters map of any size is read as far as it holds whole CPUs."""
    read: list[list[Any]] = read_tallies(data, kinds)
    assert len(read) == len(data) // records.TALLY.size // kinds
    assert all(len(row) == kinds for row in read)
