"""Change inputs at random: bytes, lengths, pieces moved, doubled and taken from others, words of the protocols."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

INPUT_MOST: Final = 8192  # twice what the parsers look at
_NUMBERS: Final = (0, 1, 2, 3, 4, 5, 15, 16, 31, 32, 63, 64, 127, 128, 191, 192, 193, 253, 254, 255)
_WIDE: Final = (
    0,
    1,
    4,
    5,
    253,
    255,
    256,
    257,
    511,
    512,
    1023,
    1024,
    4095,
    4096,
    0x3FFF,
    0x4000,
    0x7FFF,
    0x8000,
    0xFFFF,
)

# What a parser tells by itself alone, and chance would seldom make.
WORDS: Final = (
    *(
        b"\xc0\x0c",
        b"\xc0\x0d",
        b"\xc0\x00",
        b"\0\1\0\1",
        b"\0\x1c\0\1",
        b"\0\5\0\1",
        b"\0\x29\x10\0",
        b"\0\4\xc0\0\2\1",
    ),
    *(b"\x16\x03\x01", b"\x16\x03\x03\0\1", b"\x17\x03\x03", b"\1\0\1\xfc\x03\x03", b"\0\0", b"\0\x10", b"\0\x2b"),
    *(b"\xfe\x0d", b"\x0a\x0a", b"\0\x0e\0\0\x0b", b"\0\3\2h2"),
    *(
        b"GET ",
        b"CONNECT ",
        b" HTTP/1.1\r\n",
        b"\r\nHost: ",
        b"\r\n",
        b"\r\n ",
        b": ",
        b"http://",
        b"PRI * HTTP/2.0\r\n",
    ),
    *(b"\x06\0\x40", b"\x02\0\0\0\0", b"\x03", b"\x1c", b"\x40\x06", b"\x80\0\0\0", b"\xff" * 8),
    *(b"\xc0\0\0\0\1", b"\xd0\x6b\x33\x43\xcf", b"\x08\x83\x94\xc8\xf0\x3e\x51\x57\x08"),
)


def mutated(rng: random.Random, corpus: Sequence[bytes]) -> bytes:
    """One input of the corpus after one to sixteen changes, mostly few; at most INPUT_MOST bytes."""
    data = bytearray(rng.choice(corpus))
    for _ in range(1 << rng.choice((0, 0, 0, 1, 1, 2, 3, 4))):
        _CHANGES[int(rng.random() * len(_CHANGES))](rng, data, corpus)
    return bytes(data[:INPUT_MOST])


def _flip(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        data[rng.randrange(len(data))] = rng.choice(_NUMBERS)


def _step(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if data:
        at = rng.randrange(len(data))
        data[at] = (data[at] + rng.choice((-2, -1, 1, 2))) & 0xFF


def _number(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    if len(data) >= 2:
        at = rng.randrange(len(data) - 1)
        data[at : at + 2] = rng.choice(_WIDE).to_bytes(2, "big")


def _cut(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data) + 1) :]


def _remove(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    del data[at : at + 1 + int(rng.expovariate(0.1))]


def _double(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    piece = data[at : at + 1 + int(rng.expovariate(0.05))]
    data[at:at] = piece * rng.choice((1, 1, 1, 2, 8, 64))
    del data[INPUT_MOST:]


def _word(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    word = rng.choice(WORDS)
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, len(word)))] = word


def _noise(rng: random.Random, data: bytearray, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    noise = rng.randbytes(1 + int(rng.expovariate(0.1)))
    data[at : at + rng.choice((0, len(noise)))] = noise


def _splice(rng: random.Random, data: bytearray, corpus: Sequence[bytes]) -> None:
    other = rng.choice(corpus)
    at = rng.randrange(len(other) + 1)
    piece = other[at : at + rng.choice((8, 64, 512, INPUT_MOST))]
    at = rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, len(piece), INPUT_MOST))] = piece
    del data[INPUT_MOST:]


_CHANGES: Final = (_flip, _byte, _step, _number, _number, _cut, _remove, _double, _word, _noise, _splice)
