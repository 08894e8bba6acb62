"""Check that a segment follows the one before it, is of whom it says, and ends as it began."""

from __future__ import annotations

import hashlib
from collections.abc import Collection

from tracer.integrity.account import BadPlaceError, Place
from tracer.integrity.chain import BEGIN, END, MARK_DIGITS
from tracer.integrity.fields import Facts
from tracer.integrity.read import Lines
from tracer.integrity.seals import Begin, End, Previous, SealError, Signing, begin_of, end_of

__all__ = ["Links"]


class Links:
    """The segments so far, as far as the next one depends on them."""

    def __init__(self, keys: Collection[bytes] = ()) -> None:
        """One of the long-term ``keys`` must have certified every session; without any they must all have the same."""
        self._keys = keys
        self.chain = ""
        self.keys: list[str] = []  # long-term public keys, as they came
        self.before: Previous | None = None  # the segment before, as it is on disk
        self.place = Place("", 0, -1)  # of its last line
        self.ending: End | None = None  # its last record
        self.signing: Signing | None = None  # its key

    def begin(self, told: Facts, place: Place) -> Begin:
        """The first record of the next segment. Raises BadPlaceError."""
        if told.action != BEGIN:
            raise BadPlaceError(place, f"the first line is no {BEGIN}, as every file of a chain has it")
        try:
            begin = begin_of(told.own)
            if begin.signing is not None:
                begin.signing.check(begin.chain, begin.number)
        except SealError as odd:
            raise BadPlaceError(place, str(odd)) from odd
        self._check_order(begin, place)
        self._check_key(begin, place)
        self.chain = begin.chain
        return begin

    def _check_order(self, begin: Begin, place: Place) -> None:
        before, told = self.before, begin.previous
        if before is None:
            return
        where = self.place
        if begin.chain != self.chain:
            raise BadPlaceError(place, f"another chain begins here ({begin.chain}): nothing ties it to the one before")
        if begin.number == before.number:
            raise BadPlaceError(place, f"segment {begin.number} is there twice: it is in {where.file} too")
        if begin.number != before.number + 1:
            first, last = before.number + 1, begin.number - 1
            which = f"segment {first} is" if first == last else f"segments {first} to {last} are"
            raise BadPlaceError(place, f"{which} missing before this one, which is {begin.number}")
        if told is None or told == before:
            return
        if told.ended and not before.ended:
            raise BadPlaceError(where, f"the last record of segment {before.number} is missing behind this line")
        raise BadPlaceError(
            Place(where.file, 0, -1),
            f"segment {before.number} is not as it was when {place.file} was begun: it had {told.size:,} bytes with "
            f"the digest {told.digest[:MARK_DIGITS]}…, and now has {before.size:,} with {before.digest[:MARK_DIGITS]}…",
        )

    def _check_key(self, begin: Begin, place: Place) -> None:
        signing, before, end = begin.signing, self.signing, self.ending
        if signing is None:
            if self._keys:
                raise BadPlaceError(place, f"segment {begin.number} is not signed")
            if end is not None and end.next:
                raise BadPlaceError(place, f"segment {begin.number} is not signed, and the one before names its key")
            return
        key = signing.key.hex()
        if self._keys and signing.key not in self._keys:
            raise BadPlaceError(place, f"segment {begin.number} is of a session that another key has certified: {key}")
        if signing.first != begin.number and self.before is not None:  # else a session begins, after any end
            if end is None or before is None or (signing.root, signing.first) != (before.root, before.first):
                raise BadPlaceError(place, f"segment {begin.number} is of another session than the one before it")
            if end.next != signing.public:
                raise BadPlaceError(place, f"segment {begin.number} has another key than the one before it names")
        if key not in self.keys:
            if self.keys and not self._keys:
                raise BadPlaceError(
                    place, f"another key certifies from here on, {key}: if it is yours, give all by --key"
                )
            self.keys.append(key)

    def end(self, told: Facts, line: bytes, begin: Begin, digest: str, place: Place, first: Place, lines: Lines) -> End:
        """The last record, a line without its newline. Raises BadPlaceError.

        ``digest`` is that of all before it in its segment, which begins at ``first``. The file, ``lines``, is read
        again if that is wrong.
        """
        if told.action != END:
            raise BadPlaceError(place, f"a record of a segment in the midst of one, and that is no {END}")
        try:
            end = end_of(told.own)
        except SealError as odd:
            raise BadPlaceError(place, f"{odd}") from odd
        if (end.chain, end.number) != (begin.chain, begin.number):
            raise BadPlaceError(place, f"the last record is of segment {end.number}, the first one of {begin.number}")
        if digest != end.digest:
            raise _located(end, first, place, lines)
        if (end.lines, end.size) != (place.line - first.line, place.byte - first.byte):
            raise BadPlaceError(place, f"the last record tells of {end.lines:,} lines and {end.size:,} bytes before it")
        signing = begin.signing
        if (end.proof[0] == "signature") != (signing is not None):
            raise BadPlaceError(
                place, f"the last record has a {end.proof[0]}, which is not what its segment began with"
            )
        if bool(end.next) != (signing is not None and not end.final):
            raise BadPlaceError(place, "the last record names a next key where none is due, or none where one is")
        if not end.is_right(line + b"\n", signing.public if signing is not None else b""):
            raise BadPlaceError(
                place, f"the {end.proof[0]} of the last record is wrong: this line was changed, or forged"
            )
        return end

    def ended(self, begin: Begin, end: End | None, found: Previous, place: Place) -> None:
        """The segment was read: this is what was found of it, and where it ends."""
        self.before, self.ending, self.signing, self.place = found, end, begin.signing, place


def _located(end: End, first: Place, place: Place, lines: Lines) -> BadPlaceError:
    """Which lines of a segment are not as they were: between the last digest that holds and the first that doesn't."""
    digest = hashlib.sha256()
    marks = iter(end.marks)
    at, expected = next(marks, (-1, ""))
    base, bad, last = first.byte, first, place.line - 1
    lines.rewind()
    for number, line in enumerate(lines, 1):
        if number < first.line:
            continue
        digest.update(line + b"\n")
        size = lines.offset + len(line) + 1 - base
        if number >= place.line or at < 0:
            break
        if size < at:
            continue
        if size > at or digest.hexdigest()[:MARK_DIGITS] != expected:
            last = number
            break
        bad = Place(place.file, number + 1, base + size)
        at, expected = next(marks, (-1, ""))
    return BadPlaceError(
        bad, f"something was changed, removed or added in lines {bad.line:,} to {last:,}: the digest does not match"
    )
