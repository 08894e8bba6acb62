"""The compiled programs against what verifiers of older kernels refuse, of which this machine's says nothing.

What is found here cost a matrix run to find out first: a loop that 6.1 took for one without an end, and functions that
together have more stack than there was before 6.13 gave each its own.
"""

import struct
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tracer.probes.backend import OBJECTS

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QQ")
_INSTRUCTION: Final = struct.Struct("<BBhi")
_SYMBOLS, _RELOCATIONS = 2, 9  # SHT_SYMTAB, SHT_REL
_A_FUNCTION: Final = 2  # STT_FUNC
_JUMPS: Final = (5, 6)  # BPF_JMP, BPF_JMP32
_ACCESSES: Final = (1, 2, 3)  # BPF_LDX, BPF_ST, BPF_STX
_CALL, _EXIT, _ALWAYS, _LOAD_64, _MOVE, _ADD, _CALLS = 0x80, 0x90, 0x00, 0x18, 0xBF, 0x07, 0x85
_STACK: Final = 10  # the register that is the stack's
_STACK_MOST: Final = 512  # MAX_BPF_STACK
_DISCOVERED, _EXPLORED = 1, 2

OBJECT_FILES: Final = sorted(OBJECTS.glob("*.bpf.o"))

Place = tuple[int, int]  # number of the section, offset in it
Instructions = list[tuple[int, int, int, int]]


class Function(NamedTuple):
    """A function of an object: its instructions, and which other functions it calls."""

    name: str
    code: Instructions
    calls: list[Place]


def functions(path: Path) -> dict[Place, Function]:
    """The functions of an object by their places."""
    data = path.read_bytes()
    start = struct.unpack_from("<Q", data, 40)[0]
    size, count, _ = struct.unpack_from("<HHH", data, 58)
    sections = [_SECTION.unpack_from(data, start + at * size) for at in range(count)]
    table = next(section for section in sections if section[1] == _SYMBOLS)
    names = sections[table[6]][4]
    symbols = [_SYMBOL.unpack_from(data, at) for at in range(table[4], table[4] + table[5], _SYMBOL.size)]
    called: dict[Place, tuple[int, int]] = {}
    for section in sections:
        if section[1] != _RELOCATIONS:
            continue
        for at in range(section[4], section[4] + section[5], _RELOCATION.size):
            offset, info = _RELOCATION.unpack_from(data, at)
            symbol = symbols[info >> 32]
            called[section[7], offset] = symbol[3], symbol[4]
    found = {}
    for name, info, _, section, value, length in symbols:
        if info & 15 != _A_FUNCTION or not length:
            continue
        begin = sections[section][4] + value
        code = list(_INSTRUCTION.iter_unpack(data[begin : begin + length]))
        calls = []
        for at, (what, registers, _, number) in enumerate(code):
            if what == _CALLS and registers >> 4 == 1:  # BPF_PSEUDO_CALL
                offset = value + at * 8
                where = called.get((section, offset), (section, offset))
                calls.append((where[0], where[1] + (number + 1) * 8))
        found[section, value] = Function(data[names + name : data.index(0, names + name)].decode(), code, calls)
    return found


def back_edge(code: Instructions) -> tuple[int, int] | None:
    """Where an instruction that is no jump leads back into a loop, by the search of check_cfg() before 6.8.

    Since commit 10e14e9652bf any may.
    """
    state: dict[int, int] = {0: _DISCOVERED}
    path = [(0, following(code, 0))]
    while path:
        at, left = path[-1]
        if not left:
            state[at] = _EXPLORED
            path.pop()
            continue
        to, may_loop = left.pop(0)
        if state.get(to) is None:
            state[to] = _DISCOVERED
            path.append((to, following(code, to)))
        elif state[to] == _DISCOVERED and not may_loop:
            return at, to
    return None


def following(code: Instructions, at: int) -> list[tuple[int, bool]]:
    """What may come after an instruction, and whether that may be one that is on the way already."""
    what, _, offset, _ = code[at]
    if what & 7 not in _JUMPS:
        return [(at + (2 if what == _LOAD_64 else 1), False)]
    kind = what & 0xF0
    if kind == _EXIT:
        return []
    if kind == _CALL:
        return [(at + 1, False)]
    if kind == _ALWAYS:
        return [(at + 1 + offset, True)]
    return [(at + 1, True), (at + 1 + offset, True)]


def frame(code: Instructions) -> int:
    """Bytes of the stack that a function uses itself."""
    deepest, pointers = 0, set()
    for what, registers, offset, number in code:
        target, source = registers & 15, registers >> 4
        if what & 7 in _ACCESSES and _STACK in ((source,) if what & 7 == 1 else (target,)):
            deepest = max(deepest, -offset)
        if what == _ADD and target in pointers:
            deepest = max(deepest, -number)
        if what == _MOVE and source == _STACK:
            pointers.add(target)
        else:
            pointers.discard(target)
    return deepest


def stack(found: dict[Place, Function], place: Place) -> tuple[int, list[str]]:
    """The most bytes that a function and those that it calls use together, as check_max_stack_depth() adds them up."""
    function = found[place]
    below = max((stack(found, called) for called in function.calls), default=(0, []))
    own = max(frame(function.code), 1)
    return below[0] + (own + 31) // 32 * 32, [function.name, *below[1]]


@pytest.mark.parametrize("path", OBJECT_FILES, ids=lambda path: path.name)
def test_no_loop_is_entered_in_its_middle(path: Path) -> None:
    """Every loop ends with a jump to its head; else process_exec, for one, was refused by 6.1 and taken by 6.18."""
    found = functions(path)
    assert found or path.name == "maps.bpf.o"
    assert {each.name: edge for each in found.values() if (edge := back_edge(each.code))} == {}


@pytest.mark.parametrize("path", OBJECT_FILES, ids=lambda path: path.name)
def test_the_stack_is_enough(path: Path) -> None:
    """No chain of calls needs more than 512 bytes together."""
    found = functions(path)
    deepest = {names[0]: (depth, names) for depth, names in (stack(found, place) for place in found)}
    assert {name: chain for name, chain in deepest.items() if chain[0] > _STACK_MOST} == {}


def instruction(what: int, offset: int = 0) -> tuple[int, int, int, int]:
    """One instruction, whose registers and number are no matter here."""
    return what, 0, offset, 0


def test_the_search_tells_loops_apart() -> None:
    """A loop that is entered in its middle and falls into its own head is found; a plain one is not."""
    move, jump, branch, leave = 0xB7, 0x05, 0x15, 0x95
    plain = [instruction(move), instruction(move), instruction(branch, -2), instruction(leave)]
    turned = [instruction(jump, 1), instruction(move), instruction(branch, -2), instruction(leave)]
    assert back_edge(plain) is None
    assert back_edge(turned) == (1, 2)


def test_the_sum_of_stacks() -> None:
    """Each frame counts in steps of 32 bytes, at least one, along the deepest chain."""
    store = (0x7B, _STACK, -40, 0)  # *(u64 *)(r10 - 40) = r0
    found = {
        (1, 0): Function("outer", [store], [(1, 8), (1, 16)]),
        (1, 8): Function("inner", [(0xBF, _STACK << 4 | 2, 0, 0), (0x07, 2, 0, -264)], []),
        (1, 16): Function("flat", [instruction(0x95)], []),
    }
    assert stack(found, (1, 0)) == (64 + 288, ["outer", "inner"])
    assert stack(found, (1, 16)) == (32, ["flat"])


def test_calls_are_followed() -> None:
    """The chains of the objects lead through functions of their own, so that their sums are of more than one."""
    found = functions(OBJECTS / "data.bpf.o")
    chains = [stack(found, place)[1] for place in found]
    assert any(chain[0] == "bytes_sent" and chain[-1] == "via_now" for chain in chains)
