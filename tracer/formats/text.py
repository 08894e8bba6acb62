"""Bytes that may be anything as text that is safe to show: escapes, shell quoting, widths in cells, sizes and times.

Everything the kernel reports of a process was chosen by that process, and may be made to move a cursor, hide a word or
reverse a line. What is not plainly visible comes out as an escape, in the notation of C, Python and bash's ``$'…'``.
"""

from __future__ import annotations

import errno
import os
import re
import unicodedata
from collections.abc import Callable
from typing import Final, TypeVar

ELLIPSIS: Final = "…"
MARKS: Final = 4  # combining marks that one character may carry; no script needs more, and a heap of them hides lines
BYTES_A_CELL: Final = 20  # the most bytes that fit one visible cell: a character of 4 bytes and MARKS marks of 4

_SHORT = {0x07: "\\a", 0x08: "\\b", 0x09: "\\t", 0x0A: "\\n", 0x0B: "\\v", 0x0C: "\\f", 0x0D: "\\r"}
_TABLE_LIMIT = 8192  # code points remembered by a table, so that a hostile name can't make it grow

# Code points that are shown as nothing (Default_Ignorable_Code_Point) or as a blank though they count as letters,
# marks or symbols; str.isprintable() already tells all other invisible ones.
_BLANKS = frozenset(
    {0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x180B, 0x180C, 0x180D, 0x180F, 0x2800, 0x3164, 0xFFA0}
    | {*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)}
)

# Wider than unicodedata of the oldest Python says: made wide in Unicode 16, and flags, which terminals disagree about.
_WIDER = frozenset([*range(0x2630, 0x2638), *range(0x268A, 0x2690), *range(0x4DC0, 0x4E00), *range(0x1F1E6, 0x1F200)])

_SAFE = r"\w@%+=:,./^-"
_safe_argument = re.compile(f"[{_SAFE}]+").fullmatch
_safe_arguments = re.compile(f"(?:[{_SAFE}]+\0)+".encode()).fullmatch  # a bytes pattern: \w is ASCII alone
_unusual = re.compile("[^ -~→←↔…µ]").search  # anything that isn't known to be one cell wide

# Where C libraries have two names for a number, the one the kernel's headers use (errno.h).
_ERRNO_NAMES = {**errno.errorcode, 11: "EAGAIN", 35: "EDEADLK", 95: "EOPNOTSUPP"}

# Below how many ns, what is one unit, how many digits: each limit is where rounding would reach the next row's form.
_SHORT_TIMES: Final = (
    (99_500, 1e3, 0, "µs"),
    (99_950_000, 1e6, 1, "ms"),
    (9_995_000_000, 1e9, 2, "s"),
    (59_950_000_000, 1e9, 1, "s"),
)

_Value = TypeVar("_Value")


class _Table(dict[int, _Value]):
    """A memory of one function of code points, in the shape that str.translate takes; bounded."""

    def __init__(self, function: Callable[[int], _Value]) -> None:
        super().__init__()
        self._function = function

    def __missing__(self, code: int) -> _Value:
        if len(self) >= _TABLE_LIMIT:
            self.clear()
        value = self[code] = self._function(code)
        return value


def _escape(code: int) -> str:
    if code in _SHORT:
        return _SHORT[code]
    if 0xDC80 <= code <= 0xDCFF:  # surrogateescape: a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _visible(code: int) -> str:
    char = chr(code)
    return char if char.isprintable() and code not in _BLANKS else _escape(code)


def _cells(code: int) -> int:
    char = chr(code)
    if code in _WIDER or unicodedata.east_asian_width(char) in "WF":
        return 2
    return 0 if unicodedata.category(char) in {"Mn", "Me"} else 1


_VISIBLE: Final = _Table(_visible)
_CELLS: Final = _Table(_cells)


def visible(text: str) -> str:
    """Return ``text`` with everything that isn't plainly visible escaped; backslashes stay as they are.

    Surrogates made by ``surrogateescape`` come out as the bytes they stand for. Combining marks that have nothing to
    combine with, or are more than MARKS in a row, are escaped too.
    """
    if text.isascii() and text.isprintable():
        return text
    text = text.translate(_VISIBLE)
    if text.isascii():
        return text
    parts = []
    run = MARKS
    for char in text:
        if char < "\u0300" or _CELLS[ord(char)]:
            run = 0
            parts.append(char)
        else:
            run += 1
            parts.append(char if run <= MARKS else _escape(ord(char)))
    return "".join(parts)


def printable(raw: bytes, limit: int = 16_384) -> str:
    """Return bytes as one run of visible characters, at most ``limit`` of them and ``…`` at the end if there was more.

    A backslash comes out doubled, so that ``\\n`` in the result is always a newline in ``raw``. The default limit
    holds a path of PATH_MAX (4,096) bytes with every one of them escaped.
    """
    text = raw[: limit * 4 + 4].decode("utf-8", "surrogateescape")  # no character is longer than 4 bytes
    if "\\" in text:
        text = text.replace("\\", "\\\\")
    text = visible(text)
    return text if len(text) <= limit else text[: max(limit - 1, 0)] + ELLIPSIS


def decoded(raw: bytes) -> tuple[str, bool]:
    """Return bytes as text for JSON, and whether that lost something: bytes that are no UTF-8 become ``\\xNN``."""
    try:
        return raw.decode(), False
    except UnicodeDecodeError:
        return raw.decode("utf-8", "backslashreplace"), True


def _quoted(argument: str) -> str:
    shown = visible(argument)
    if shown != argument:  # bash's ANSI-C quoting, in which the escapes mean what they say
        return "$'" + visible(argument.replace("\\", "\\\\").replace("'", "\\'")) + "'"
    if _safe_argument(argument):
        return argument
    if "'" not in argument:
        return f"'{argument}'"
    if not any(char in argument for char in '"$`\\!'):
        return f'"{argument}"'
    return "'" + argument.replace("'", "'\\''") + "'"


def quote(args: list[str]) -> str:
    """Return arguments as one line for a shell, quoted only where needed; what can't be seen as ``$'\\n'``.

    Arguments may be decoded with ``surrogateescape``: their bytes come out as ``$'\\xNN'``.
    """
    return " ".join(map(_quoted, args))


def command_line(raw: bytes) -> str:
    """Return NUL-terminated arguments, as the kernel has them, as quote() does."""
    if _safe_arguments(raw):
        return raw[:-1].replace(b"\0", b" ").decode("ascii")
    text = raw.decode("utf-8", "surrogateescape")
    return quote(text.removesuffix("\0").split("\0")) if text else ""


def width(text: str) -> int:
    """Return how many terminal cells visible() text takes: wide characters two, combining marks none."""
    if _unusual(text) is None:
        return len(text)
    return sum(map(_CELLS.__getitem__, map(ord, text)))


def cut(text: str, cells: int) -> str:
    """Return visible() text in at most ``cells`` cells, with ``…`` at the end if it did not fit."""
    if len(text) <= cells and _unusual(text) is None:
        return text
    if cells <= 0:
        return ""
    if _unusual(text) is None:
        return text[: cells - 1] + ELLIPSIS
    used = kept = 0
    for index, char in enumerate(text):
        used += _CELLS[ord(char)]
        if used <= cells - 1:
            kept = index + 1
        elif used > cells:
            return text[:kept] + ELLIPSIS
    return text


def pad(text: str, cells: int) -> str:
    """Return visible() text in exactly ``cells`` cells."""
    text = cut(text, cells)
    return text + " " * (cells - width(text))


def human_bytes(count: int) -> str:
    """Return a number of bytes with three digits or so and an SI unit (1 kB is 1,000 bytes)."""
    if count < 1000:
        return f"{count} B"
    value = float(count)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 99.95:
            return f"{value:.1f} {unit}"
        if value < 999.5:
            return f"{value:.0f} {unit}"
    return f"{value / 1000:.1f} EB"


def human_duration(ns: int) -> str:
    """Return nanoseconds in the unit a person would use: µs, ms, s, min, h or days. Less than nothing is nothing."""
    if ns < 59_950_000_000:
        for below, unit, digits, name in _SHORT_TIMES:
            if ns < below:
                return f"{max(ns, 0) / unit:.{digits}f} {name}"
    seconds = (ns + 500_000_000) // 1_000_000_000
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    minutes = (seconds + 30) // 60
    if minutes < 1440:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = (minutes + 30) // 60
    return f"{hours // 24} d {hours % 24} h"


def errno_name(number: int) -> str:
    """Return the kernel's name of an errno, ``ENOENT`` of 2; ``errno 512`` of one that has none."""
    return _ERRNO_NAMES.get(number) or f"errno {number}"


def errno_words(number: int) -> str:
    """Return what an errno means, in words that go into a sentence: ``no such file or directory``."""
    words = os.strerror(number) if number in _ERRNO_NAMES else "unknown error"
    return words if words[1:2].isupper() else words[:1].lower() + words[1:]


def wrapped(text: str, first: str, rest: str, end: str = "", cells: int = 100) -> list[str]:
    """Text in lines of at most ``cells``, broken at blanks, each but the last with ``end`` behind it.

    Lines begin with ``first``, then with ``rest``. A word that is too long for a line is cut; with an ``end`` it goes
    on at the margin, where a shell joins it again.
    """
    lines: list[str] = []
    line, fresh = first, True
    for word in visible(text).split(" "):
        if not fresh and width(line) + 1 + width(word) > cells - len(end):
            lines.append(line.rstrip() + end)
            line, fresh = rest, True
        line += word if fresh else f" {word}"
        fresh = False
        while width(line) > cells - len(end):
            at = len(line)
            while width(line[:at]) > cells - len(end):
                at -= 1
            lines.append(line[:at] + end.strip())
            line = ("" if end else rest) + line[at:]
    return [*lines, line]
