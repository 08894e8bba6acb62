"""Read types out of BTF: of an ELF object's .BTF section, or of the kernel's own.

The layout is that of the kernel's include/uapi/linux/btf.h.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

INT, ARRAY, STRUCT, UNION, ENUM = 1, 3, 4, 5, 6
# Bytes behind the 12 of struct btf_type: fixed, or by the number of members.
FIXED = {INT: 4, ARRAY: 12, 14: 4, 17: 4}  # INT, ARRAY, VAR, DECL_TAG
BY_MEMBER = {STRUCT: 12, UNION: 12, ENUM: 8, 13: 8, 15: 12, 19: 12}  # FUNC_PROTO, DATASEC, ENUM64
REFERS = {2, 8, 9, 10, 11, 18}  # PTR, TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG: the size is of what they name


class Member(NamedTuple):
    """A member of a struct; ``at`` is its offset in bytes."""

    name: str
    at: int
    type: int


class Type(NamedTuple):
    """One BTF type; ``about`` is its size or the type that it refers to."""

    kind: int
    name: str
    about: int
    members: list[Member]
    values: dict[str, int]
    extra: tuple[int, ...]


class Leaf(NamedTuple):
    """A member that has no members: where it is, how large, and whether it is a signed number or an array of bytes."""

    at: int
    size: int
    form: str  # "signed", "unsigned" or "bytes"


def section(elf: bytes, wanted: str) -> bytes:
    """The content of a section of a little-endian ELF64 file."""
    assert elf[:6] == b"\x7fELF\x02\x01"
    (table,) = struct.unpack_from("<Q", elf, 40)
    size, count, names = struct.unpack_from("<HHH", elf, 58)
    headers = [struct.unpack_from("<II16xQQ", elf, table + i * size) for i in range(count)]
    strings = headers[names][2]
    for name, _, offset, length in headers:
        begin = strings + name
        if elf[begin : elf.index(b"\0", begin)].decode() == wanted:
            return elf[offset : offset + length]
    raise KeyError(wanted)


class Btf:
    """The types of one BTF blob."""

    def __init__(self, data: bytes) -> None:
        magic, _, _, header, types, types_size, strings, _ = struct.unpack_from("<HBBIIIII", data)
        assert magic == 0xEB9F
        self._data = data
        self._strings = header + strings
        self.types = [Type(0, "void", 0, [], {}, ()), *self._walk(header + types, header + types + types_size)]

    def _name(self, offset: int) -> str:
        begin = self._strings + offset
        return self._data[begin : self._data.index(b"\0", begin)].decode()

    def _walk(self, at: int, end: int) -> Iterator[Type]:
        while at < end:
            name, info, about = struct.unpack_from("<III", self._data, at)
            at += 12
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            size = FIXED.get(kind, 0) + BY_MEMBER.get(kind, 0) * count
            members: list[Member] = []
            values: dict[str, int] = {}
            if kind == STRUCT:
                triples = struct.iter_unpack("<III", self._data[at : at + size])
                members = [Member(self._name(n), (bits & 0xFFFFFF) // 8, t) for n, t, bits in triples]
            elif kind == ENUM:
                values = {self._name(n): value for n, value in struct.iter_unpack("<Ii", self._data[at : at + size])}
            extra = struct.unpack_from(f"<{FIXED.get(kind, 0) // 4}I", self._data, at)
            yield Type(kind, self._name(name), about, members, values, extra)
            at += size

    def struct(self, name: str) -> Type:
        """The struct of that name."""
        return next(found for found in self.types if found.kind == STRUCT and found.name == name)

    def enum(self, name: str) -> dict[str, int]:
        """The names and values of the enum of that name."""
        return next(found.values for found in self.types if found.kind == ENUM and found.name == name)

    def enum_with(self, value: str) -> dict[str, int]:
        """The names and values of the enum that has this value."""
        return next(found.values for found in self.types if value in found.values)

    def _real(self, number: int) -> Type:
        found = self.types[number]
        while found.kind in REFERS and found.kind != 2:
            found = self.types[found.about]
        return found

    def leaves(self, number_or_type: int | Type, at: int = 0) -> Iterator[tuple[str, Leaf]]:
        """The members of a struct, those of structs in it too, each by its own name; each number of an array."""
        outer = number_or_type if isinstance(number_or_type, Type) else self._real(number_or_type)
        for member in outer.members:
            inner = self._real(member.type)
            where = at + member.at
            if inner.kind == STRUCT:
                yield from self.leaves(inner, where)
            elif inner.kind == ARRAY:
                element, count = self._real(inner.extra[0]), inner.extra[2]
                if element.about > 1:
                    for number in range(count):
                        yield f"{member.name}[{number}]", self._leaf(element, where + number * element.about)
                elif count:
                    yield member.name, Leaf(where, count, "bytes")
            else:
                yield member.name, self._leaf(inner, where)

    @staticmethod
    def _leaf(number: Type, at: int) -> Leaf:
        assert number.kind == INT, number.name
        return Leaf(at, number.about, "signed" if number.extra[0] >> 24 & 1 else "unsigned")
