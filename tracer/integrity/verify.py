"""Verify a stream from its files alone: lines, numbers, ledgers, chain and signatures, up to the first bad place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tracer.integrity.account import Account, BadPlaceError, Place
from tracer.integrity.chain import BEGIN, END
from tracer.integrity.fields import Facts, NoEventError, facts
from tracer.integrity.files import Part, arranged
from tracer.integrity.head import Head
from tracer.integrity.links import Links
from tracer.integrity.read import Lines, UnreadableError
from tracer.integrity.seals import Begin, End, Previous

__all__ = ["Report", "Verifier", "as_json"]

_RECORDS: Final = frozenset({BEGIN, END})
_TELL_EVERY: Final = 4096  # lines


@dataclass(slots=True)
class Report:
    """What was found. Numbers are those of what was read: up to ``bad``, if there is such a place."""

    files: int = 0
    lines: int = 0
    size: int = 0  # bytes, unpacked
    first: int = -1
    last: int = -1
    sessions: int = 0
    open_ended: int = 0  # sessions but the last that have no last ledger
    ended: bool = False  # the last session has its last ledger
    chain: str = ""
    segments: list[int] = field(default_factory=list)  # the first and the last
    sealed: int = 0  # segments with their last record
    signed: int = 0  # of them
    unsealed: list[int] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)  # long-term public keys
    lost: dict[str, int] = field(default_factory=dict)  # by stage, as told
    gaps: int = 0
    complete: bool = False  # as all ledgers say
    tail: bool = False  # whether a head was found again
    head: Head | None = None
    bad: Place | None = None
    what: str = ""

    @property
    def right(self) -> bool:
        """Whether there is no bad place."""
        return not self.what


class _Open:
    """A segment that is being read."""

    __slots__ = ("begin", "digest", "end", "head_at", "place")

    def __init__(self, begin: Begin, place: Place, head: int) -> None:
        """``place`` is that of its first line, ``head`` as Verifier._head_in() gives it."""
        self.begin = begin
        self.end: End | None = None
        self.place = place
        self.digest = hashlib.sha256()
        self.head_at = place.byte + head if head >= 0 else -1  # in the file


class Verifier:
    """Goes through files once."""

    def __init__(
        self,
        keys: Collection[bytes] = (),
        expect: Head | None = None,
        progress: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """With ``keys`` one of them must have certified every session; ``expect`` must be in the stream.

        ``progress`` is told bytes on disk: how many were read, of how many.
        """
        self._keys = keys
        self._expect = expect
        self._progress = progress
        self._report = Report()
        self._links = Links(keys)
        self._done = self._all = 0

    def run(self, paths: Iterable[Path]) -> Report:
        """Verify the stream in these files, in whatever order they are given."""
        parts = arranged(paths)
        chained = any(part.begin is not None for part in parts)
        self._all = sum(part.size for part in parts)
        account = Account(chained=chained)
        report = self._report
        try:
            self._check_asked(parts, chained=chained)
            for part, following in zip(parts, [*parts[1:], None], strict=True):
                account.file, account.line = str(part.path), 0
                report.files += 1
                self._part(part, following, account, chained=chained)
            self._last(account)
        except BadPlaceError as found:
            first = account.gap or found  # a line that is missing was missing before the digest told of it
            report.bad, report.what = first.place, str(first)
        finally:
            for part in parts:
                if part.lines is not None:
                    part.lines.close()
        report.sessions, report.open_ended = account.sessions, account.open_ended
        report.ended, report.last = account.ended, account.next - 1
        report.chain, report.keys = self._links.chain, self._links.keys
        report.lost, report.gaps = dict(account.lost), account.gaps
        report.complete = account.complete and account.ended and not account.open_ended and not account.gaps
        return report

    def _part(self, part: Part, following: Part | None, account: Account, *, chained: bool) -> None:
        name = str(part.path)
        if part.empty and not chained:
            return
        try:
            lines = part.open()
        except UnreadableError as why:
            raise BadPlaceError(Place(name, 0, -1), f"the file {why}") from why
        try:
            if chained:
                self._segments(name, lines, following, account)
            else:
                self._stream(name, lines, account)
        except UnreadableError as why:
            raise BadPlaceError(Place(name, account.line + 1, lines.offset), str(why)) from why
        finally:
            lines.close()
        self._done += lines.size
        self._progress(self._done, self._all)

    def _stream(self, name: str, lines: Lines, account: Account) -> None:
        """A file without a chain."""
        number = 0
        for number, line in enumerate(lines, 1):
            told = self._read(name, number, line, lines)
            account.take(told, number, lines.offset)
            if told.action in _RECORDS:
                raise BadPlaceError(Place(name, number, lines.offset), "a record of a chain that has no beginning")
        if lines.torn:
            raise _torn(name, number + 1, lines)
        self._report.size += lines.offset

    def _read(self, name: str, number: int, line: bytes, lines: Lines) -> Facts:
        try:
            told = facts(line)
        except NoEventError as odd:
            raise BadPlaceError(Place(name, number, lines.offset), str(odd)) from odd
        report = self._report
        if report.first < 0:
            report.first = told.sequence
        report.lines += 1
        if not number % _TELL_EVERY:
            self._progress(self._done + lines.read, self._all)
        return told

    def _segments(self, name: str, lines: Lines, following: Part | None, account: Account) -> None:
        """A file of a chain: a segment, or several where it was reopened in place."""
        open_: _Open | None = None
        number = 0
        for number, line in enumerate(lines, 1):
            told = self._read(name, number, line, lines)
            if open_ is None or told.action == BEGIN:
                self._close(open_, name, number - 1, lines.offset, account)
                place = Place(name, number, lines.offset)
                begin = self._links.begin(told, place)
                open_ = _Open(begin, place, self._head_in(begin))
                account.take(told, number, lines.offset)
            else:
                account.take(told, number, lines.offset)
                if open_.end is not None:
                    raise BadPlaceError(Place(name, number, lines.offset), "a line behind the last one of its segment")
                if told.action == END or "segment" in told.own:
                    place = Place(name, number, lines.offset)
                    open_.end = self._links.end(
                        told, line, open_.begin, open_.digest.hexdigest(), place, open_.place, lines
                    )
            open_.digest.update(line)
            open_.digest.update(b"\n")
            if lines.offset + len(line) + 1 == open_.head_at:
                self._at_head(open_.digest.hexdigest(), Place(name, number, lines.offset))
        if open_ is None:
            raise BadPlaceError(Place(name, 1, 0), "an empty file: every one of the others begins with its segment")
        if lines.torn and not _is_told_of(lines.torn, open_.begin, following):
            raise _torn(name, number + 1, lines)
        self._close(open_, name, number, lines.offset, account, lines.torn)

    def _close(
        self, open_: _Open | None, name: str, number: int, offset: int, account: Account, torn: bytes = b""
    ) -> None:
        """All lines of a segment were read; the last one is ``number``, and ends before ``offset``."""
        if open_ is None:
            return
        begin, end, report = open_.begin, open_.end, self._report
        place = Place(name, number, offset)
        if open_.head_at >= 0 and not report.tail:
            raise BadPlaceError(place, f"the end was removed: it ends before the head, at byte {open_.head_at:,}")
        open_.digest.update(torn)
        size = offset - open_.place.byte + len(torn)
        found = Previous(begin.number, open_.digest.hexdigest(), size, end is not None, len(torn))
        self._links.ended(begin, end, found, place)
        report.segments = [*report.segments[:1], begin.number]
        report.size += size
        report.head = Head(begin.chain, begin.number, account.next - 1, size, found.digest, found.ended)
        if end is None:
            report.unsealed.append(begin.number)
        else:
            report.sealed += 1
            report.signed += begin.signing is not None

    def _head_in(self, begin: Begin) -> int:
        """How many bytes of this segment are before the head; -1: it is not in it."""
        expect = self._expect
        return expect.size if expect is not None and expect.segment == begin.number else -1

    def _check_asked(self, parts: list[Part], *, chained: bool) -> None:
        """What was asked for can be answered. Files may begin right behind the head, if that ends a segment."""
        expect = self._expect
        if not chained and (self._keys or expect is not None):
            raise BadPlaceError(Place(str(parts[0].path), 1, 0), "there is no chain, and so no key and no head")
        if expect is None:
            return
        begins = [part.begin for part in parts if part.begin is not None]
        first = min(begins, key=_number_of)
        place = Place(str(parts[0].path), 1, 0)
        if first.chain != expect.chain:
            raise BadPlaceError(place, f"the head is of another chain: {expect.chain}")
        if first.number > expect.segment:
            told = first.previous
            if told is None or (told.number, told.digest, told.size) != (expect.segment, expect.digest, expect.size):
                raise BadPlaceError(
                    place,
                    f"it begins with segment {first.number}, and nothing ties that to the head in {expect.segment}",
                )
            self._report.tail = True

    def _at_head(self, digest: str, place: Place) -> None:
        if self._expect is not None and digest != self._expect.digest:
            raise BadPlaceError(place, "what was written up to here is not what the head says: it was changed since")
        self._report.tail = True

    def _last(self, account: Account) -> None:
        """There are no more files."""
        account.end()
        expect, end, place = self._expect, self._links.ending, self._links.place
        if expect is not None and not self._report.tail:
            last = self._report.segments[-1]
            raise BadPlaceError(
                place, f"the end was removed: this is segment {last}, and the head is in segment {expect.segment}"
            )
        if end is not None and not end.final:
            raise BadPlaceError(
                place, f"segment {end.number + 1} is missing behind this line, which says that it follows"
            )


def _is_told_of(torn: bytes, begin: Begin, following: Part | None) -> bool:
    """Whether the session behind a killed one has found the cut line."""
    if following is None or following.begin is None or following.begin.previous is None:
        return False
    told = following.begin.previous
    return (told.number, told.torn, told.ended) == (begin.number, len(torn), False)


def _number_of(begin: Begin) -> int:
    return begin.number


def _torn(name: str, number: int, lines: Lines) -> BadPlaceError:
    what = f"the last line is cut short: {len(lines.torn):,} bytes without a newline"
    return BadPlaceError(Place(name, number, lines.offset), what)


def as_json(report: Report) -> dict[str, Any]:
    """The report as `tracer verify --json` gives it."""
    bad = report.bad
    return {
        "ok": report.right,
        "bad": None if bad is None else {"file": bad.file, "line": bad.line, "byte": bad.byte, "what": report.what},
        "files": report.files,
        "lines": report.lines,
        "bytes": report.size,
        "sequence": [report.first, report.last],
        "sessions": report.sessions,
        "without_last_ledger": report.open_ended + (not report.ended),
        "chain": report.chain or None,
        "segments": report.segments,
        "sealed": report.sealed,
        "signed": report.signed,
        "unsealed": report.unsealed,
        "keys": report.keys,
        "lost": report.lost,
        "gaps": report.gaps,
        "complete": report.complete,
        "tail": "as the head says" if report.tail else "not provable",
    }
