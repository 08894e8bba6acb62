"""Check what the first and the last record of a segment say: the digests, the keys and the proof."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from tracer.integrity.chain import PROOF_DIGITS, VERSION, key_context, sealed_message

__all__ = ["Begin", "End", "Previous", "SealError", "Signing", "begin_of", "end_of"]


class SealError(Exception):
    """A record is not what it must be; the message says why."""


class Previous(NamedTuple):
    """What a segment says of the one before it."""

    number: int
    digest: str
    size: int
    ended: bool
    torn: int


class Signing(NamedTuple):
    """Whose a segment is: its key, the session's first segment and root key, and the long-term key and certificate."""

    public: bytes
    path: list[object]
    first: int
    root: bytes
    key: bytes
    certificate: bytes

    def check(self, chain: str, number: int) -> None:
        """The long-term key has certified the session, which leads to this segment's key. Raises SealError."""
        from tracer.integrity.keys import is_certified, is_leaf

        if not is_certified(self.key, self.certificate, chain, self.first, self.root):
            raise SealError("its session is not certified by the key that it names")
        if not is_leaf(key_context(chain, self.first), self.root, number - self.first, self.path, self.public):
            raise SealError("its key is not the one that its session has for this segment")


class Begin(NamedTuple):
    """The first record."""

    chain: str
    number: int
    previous: Previous | None
    signing: Signing | None


class End(NamedTuple):
    """The last record; ``proof`` is the name of its member, and what that holds."""

    chain: str
    number: int
    lines: int
    size: int
    digest: str
    marks: list[tuple[int, str]]
    final: bool
    next: bytes
    proof: tuple[str, str]

    def is_right(self, line: bytes, public: bytes) -> bool:
        """Whether the proof is that of this line (with its newline) and of the digest, by a key or, with b"", none."""
        name, told = self.proof
        member = f'"{name}":"{told}"'.encode()
        if line.count(member) != 1:
            return False
        blank = line.replace(member, f'"{name}":"{"0" * PROOF_DIGITS[name]}"'.encode())
        message = sealed_message(self.chain, self.number, self.digest, blank)
        if not public:
            return hashlib.sha256(message).hexdigest() == told
        from tracer.integrity.keys import is_signed

        return is_signed(public, bytes.fromhex(told), message)


def begin_of(own: dict[str, Any]) -> Begin:
    """The first record, from what is ours in it. Raises SealError."""
    found = _segment_of(own)
    try:
        previous = found.get("previous")
        signing = found.get("signing")
        told = Begin(
            _text(found["chain"]),
            _number(found["number"]),
            None if previous is None else _previous(previous),
            None if signing is None else _signing(signing),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as odd:
        raise SealError("a first record that can't be read") from odd
    if (told.previous is None) != (told.number == 0):
        raise SealError("only segment 0 has none before it")
    return told


def end_of(own: dict[str, Any]) -> End:
    """The last record, from what is ours in it. Raises SealError."""
    found = _segment_of(own)
    try:
        proof = next(name for name in PROOF_DIGITS if name in found)
        return End(
            _text(found["chain"]),
            _number(found["number"]),
            _number(found["lines"]),
            _number(found["bytes"]),
            _text(found["digest"]),
            sorted((int(size), _text(digest)) for size, digest in found["marks"].items()),
            found["final"] is True,
            _bytes(found["next"], 32) if "next" in found else b"",
            (proof, _bytes(found[proof], PROOF_DIGITS[proof] // 2).hex()),
        )
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as odd:
        raise SealError("a last record that can't be read") from odd


def _segment_of(own: dict[str, Any]) -> dict[str, Any]:
    found = own.get("segment")
    if not isinstance(found, dict):
        raise SealError("a record of a segment that says nothing of it")
    if found.get("version") != VERSION:
        raise SealError(f"a chain of another version ({found.get('version')!r}): take the tracer that made it")
    return found


def _previous(found: Any) -> Previous:
    torn = _number(found.get("torn", 0))
    return Previous(
        _number(found["number"]), _text(found["digest"]), _number(found["bytes"]), found["ended"] is True, torn
    )


def _signing(found: Any) -> Signing:
    session, path = found["session"], found["path"]
    if type(path) is not list:
        raise TypeError
    return Signing(
        _bytes(found["public"], 32),
        path,
        _number(session["first"]),
        _bytes(session["root"], 32),
        _bytes(session["key"], 32),
        _bytes(session["certificate"], 64),
    )


def _text(value: Any) -> str:
    if type(value) is not str:
        raise TypeError
    return value


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError
    return value


def _bytes(value: Any, size: int) -> bytes:
    """Hexadecimal digits; fromhex() also takes spaces and capitals, which nobody writes here."""
    data = bytes.fromhex(_text(value))
    if len(data) != size or data.hex() != value:
        raise ValueError
    return data
