"""The compiled programs: no loop in them is one that kernels before 6.8 refuse, which no newer kernel would tell."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tracer.probes.backend import OBJECTS

_SECTION: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_INSTRUCTION: Final = struct.Struct("<BBhi")
_FUNCTION: Final = 2  # STT_FUNC
_JUMPS: Final = (5, 6)  # BPF_JMP, BPF_JMP32
_CALL, _EXIT, _ALWAYS, _LOAD_64 = 0x80, 0x90, 0x00, 0x18
_DISCOVERED, _EXPLORED = 1, 2


def functions(path: Path) -> Iterator[tuple[str, bytes]]:
    """The functions of an object, by name, with their instructions."""
    data = path.read_bytes()
    start = struct.unpack_from("<Q", data, 40)[0]
    size, count, _ = struct.unpack_from("<HHH", data, 58)
    sections = [_SECTION.unpack_from(data, start + at * size) for at in range(count)]
    symbols = next(section for section in sections if section[1] == 2)  # SHT_SYMTAB
    names = sections[symbols[6]][4]
    for at in range(symbols[4], symbols[4] + symbols[5], _SYMBOL.size):
        name, info, _, section, value, length = _SYMBOL.unpack_from(data, at)
        if info & 15 == _FUNCTION and length:
            begin = sections[section][4] + value
            yield data[names + name : data.index(0, names + name)].decode(), data[begin : begin + length]


def back_edge(code: bytes) -> tuple[int, int] | None:
    """Where an instruction that is no jump leads back into a loop, by the search of check_cfg() before 6.8."""
    instructions = list(_INSTRUCTION.iter_unpack(code))
    state: dict[int, int] = {0: _DISCOVERED}
    path = [(0, following(instructions, 0))]
    while path:
        at, left = path[-1]
        if not left:
            state[at] = _EXPLORED
            path.pop()
            continue
        to, may_loop = left.pop(0)
        if state.get(to) is None:
            state[to] = _DISCOVERED
            path.append((to, following(instructions, to)))
        elif state[to] == _DISCOVERED and not may_loop:
            return at, to
    return None


def following(instructions: list[tuple[int, int, int, int]], at: int) -> list[tuple[int, bool]]:
    """What may come after an instruction, and whether that may be one that is on the way already."""
    code, _, offset, _ = instructions[at]
    if code & 7 not in _JUMPS:
        return [(at + (2 if code == _LOAD_64 else 1), False)]
    kind = code & 0xF0
    if kind == _EXIT:
        return []
    if kind == _CALL:
        return [(at + 1, False)]
    if kind == _ALWAYS:
        return [(at + 1 + offset, True)]
    return [(at + 1, True), (at + 1 + offset, True)]


@pytest.mark.parametrize("path", sorted(OBJECTS.glob("*.bpf.o")), ids=lambda path: path.name)
def test_no_loop_is_entered_in_its_middle(path: Path) -> None:
    """Every loop ends with a jump to its head; else process_exec, for one, was refused by 6.1 and taken by 6.18."""
    found = list(functions(path))
    assert found or path.name == "maps.bpf.o"
    assert {name: edge for name, code in found if (edge := back_edge(code))} == {}


def instruction(code: int, offset: int = 0) -> bytes:
    """One instruction, whose registers and number are no matter here."""
    return _INSTRUCTION.pack(code, 0, offset, 0)


def test_the_search_tells_them_apart() -> None:
    """A loop that is entered in its middle and falls into its own head is found; a plain one is not."""
    move, jump, branch, leave = 0xB7, 0x05, 0x15, 0x95
    plain = [instruction(move), instruction(move), instruction(branch, -2), instruction(leave)]
    turned = [instruction(jump, 1), instruction(move), instruction(branch, -2), instruction(leave)]
    assert back_edge(b"".join(plain)) is None
    assert back_edge(b"".join(turned)) == (1, 2)
