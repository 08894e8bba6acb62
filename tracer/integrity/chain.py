"""Chain the files of a stream: each begins with the digest of the one before, and ends with its own, signed or not.

A file of a chained stream is a segment, or several where it was reopened in place. The first record of a segment is a
notice ``tracer-segment``, its last one, which it gets when it is complete, a notice ``tracer-segment-end``. Both have
what is told here under ``tracer.segment``.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from tracer.integrity.keys import KeyTree

    _Key = tuple[Ed25519PrivateKey, list[str]]

__all__ = [
    "BEGIN",
    "END",
    "MARK_DIGITS",
    "PROOF_DIGITS",
    "VERSION",
    "Chain",
    "ChainError",
    "Tail",
    "key_context",
    "sealed_message",
]

BEGIN: Final = "tracer-segment"
END: Final = "tracer-segment-end"
VERSION: Final = 1
MARK_DIGITS: Final = 16  # hexadecimal, of SHA-256
_STEP: Final = 1 << 16  # bytes from mark to mark at first
_MARKS_MOST: Final = 64
PROOF_DIGITS: Final = {"signature": 128, "checksum": 64}  # hexadecimal: of Ed25519, and of SHA-256


class ChainError(Exception):
    """The chain was not asked in the order that a segment is written in, or got another line than the one it made."""


class Tail(NamedTuple):
    """Where a chain ends on disk: what the next segment has to begin with.

    ``digest`` is the SHA-256 of the ``size`` bytes of segment ``number``, as hexadecimal digits; ``ended`` whether it
    has its last record; ``torn`` are the bytes of a line without an end behind all whole ones. ``sequence`` is the
    number of the last whole line, -1 if there is none.
    """

    chain: str
    number: int
    digest: str
    size: int
    ended: bool
    torn: int
    sequence: int


def key_context(chain: str, first: int) -> str:
    """What the key tree of the session that begins with segment ``first`` signs beside its keys."""
    return f"{chain} {first}"


def sealed_message(chain: str, number: int, digest: str, line: bytes) -> bytes:
    """What a segment's key signs: the digest of all before the last line, and that line with zeros as its proof."""
    return f"tracer segment 1\n{chain}\n{number}\n{digest}\n{hashlib.sha256(line).hexdigest()}\n".encode()


class Chain:
    """Makes the records that tie segments together; it knows nothing of files.

    Of each segment, in this order: first(), and last(), whose line goes through seal() before it is written. feed()
    gets every byte once it is written, those of the first and the last line too. Of a segment that was not ended, as
    its process was killed, the next session's Tail tells. Only one process may have it.
    """

    def __init__(self, after: Tail | None = None, key: Path | None = None) -> None:
        """Go on behind ``after``, or begin a chain; sign with keys that the long-term one in ``key`` has certified.

        With a key, make it while there is one thread, and before confinement. Raises keys.KeyFileError, OSError.
        """
        self.id = os.urandom(16).hex() if after is None else after.chain
        self._number = 0 if after is None else after.number + 1
        self._before = None if after is None else _told(after)
        self._open = False
        self._ending = ""  # the proof's member of the record that last() has made
        self._tree: KeyTree | None = None
        self._own: _Key | None = None  # of this segment, or of the next where none is open
        self._next: _Key | None = None  # of the one behind it, once that is named
        self._session: dict[str, Any] = {}
        if key is not None:
            self._certify(key)
        self._begin()

    def _certify(self, key: Path) -> None:
        from tracer.integrity.keys import KeyTree, certify

        self._tree = KeyTree(key_context(self.id, self._number))
        public, certificate = certify(key, self.id, self._number, self._tree.root)
        self._session = {
            "first": self._number,
            "key": public.hex(),
            "root": self._tree.root.hex(),
            "certificate": certificate.hex(),
        }
        self._own = self._tree.take()

    def _begin(self) -> None:
        self._hash = hashlib.sha256()
        self._lines = self._size = 0
        self._digest = ""
        self._sealed = False
        self._marks: list[tuple[int, str]] = []
        self._step = _STEP

    @property
    def number(self) -> int:
        """The number of the segment that was begun last."""
        return self._number

    @property
    def is_open(self) -> bool:
        """Whether a segment was begun and not ended."""
        return self._open

    def first(self) -> dict[str, Any]:
        """The body of the notice ``tracer-segment``, which a segment begins with. Raises ChainError."""
        if self._open:
            raise ChainError(f"segment {self._number} is not ended")
        if self._session and self._own is None:
            raise ChainError("the session that signs has ended")
        if self._sealed:
            self._follow()
        self._open = True
        told: dict[str, Any] = {"version": VERSION, "chain": self.id, "number": self._number}
        if self._before is not None:
            told["previous"] = self._before
        if self._own is not None:
            from tracer.integrity.keys import public_bytes

            key, path = self._own
            told["signing"] = {"public": public_bytes(key).hex(), "session": self._session, "path": path}
        return {"segment": told}

    def _follow(self) -> None:
        """What was fed since the last segment was begun is the one before."""
        self._before = {"number": self._number, "digest": self._hash.hexdigest(), "bytes": self._size, "ended": True}
        self._number += 1
        self._begin()

    def feed(self, data: bytes) -> None:
        """These bytes were written to the segment."""
        self._hash.update(data)
        self._size += len(data)
        self._lines += data.count(b"\n")
        if self._size >= (self._marks[-1][0] if self._marks else 0) + self._step and data.endswith(b"\n"):
            self._mark()

    def _mark(self) -> None:
        """Keep the digest of all so far: it will tell in what part of the segment something was changed."""
        self._marks.append((self._size, self._hash.hexdigest()[:MARK_DIGITS]))
        if len(self._marks) == _MARKS_MOST:
            self._marks = self._marks[1::2]
            self._step *= 2

    def last(self, *, final: bool = False) -> dict[str, Any]:
        """The body of the notice ``tracer-segment-end``, of which the proof is yet to come.

        ``final``: no other segment of this session follows. Raises ChainError, keys.KeysSpentError.
        """
        if not self._open or self._ending:
            raise ChainError("no segment is open")
        self._digest = self._hash.hexdigest()
        told: dict[str, Any] = {
            "version": VERSION,
            "chain": self.id,
            "number": self._number,
            "lines": self._lines,
            "bytes": self._size,
            "digest": self._digest,
            "marks": {str(size): digest for size, digest in self._marks},
            "final": final,
        }
        self._ending = "checksum" if self._own is None else "signature"
        if self._tree is not None and not final:
            from tracer.integrity.keys import public_bytes

            self._next = self._tree.take()
            told["next"] = public_bytes(self._next[0]).hex()
        told[self._ending] = "0" * PROOF_DIGITS[self._ending]
        return {"segment": told}

    def seal(self, line: bytes) -> bytes:
        """Put the proof into the line that was made of last(), and end the segment. Raises ChainError.

        The key that signs it is dropped.
        """
        if not self._ending:
            raise ChainError("no segment is being ended")
        name = self._ending
        blank = f'"{name}":"{"0" * PROOF_DIGITS[name]}"'.encode()
        if line.count(blank) != 1 or line.count(b"\n") != 1 or not line.endswith(b"\n"):
            raise ChainError(f"this is no line of the record that ends segment {self._number}")
        message = sealed_message(self.id, self._number, self._digest, line)
        proof = hashlib.sha256(message).hexdigest() if self._own is None else self._own[0].sign(message).hex()
        self._own, self._next = self._next, None
        self._open, self._ending = False, ""
        self._sealed = True
        return line.replace(blank, f'"{name}":"{proof}"'.encode())


def _told(tail: Tail) -> dict[str, Any]:
    told: dict[str, Any] = {"number": tail.number, "digest": tail.digest, "bytes": tail.size, "ended": tail.ended}
    return told | ({"torn": tail.torn} if tail.torn else {})
