"""What is shown of bytes that may be anything: nothing that moves a cursor, hides or misleads, and nothing lost."""

import errno
import shlex
import subprocess
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from tracer.formats import text
from tracer.formats.text import (
    command_line,
    cut,
    decoded,
    errno_name,
    errno_words,
    human_bytes,
    human_duration,
    pad,
    printable,
    quote,
    visible,
    width,
)

# Bytes as an attacker would choose them: any, and UTF-8 of what matters to a terminal.
hostile = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda chars: chars.encode("utf-8", "surrogatepass")),
    st.lists(
        st.sampled_from(["\x1b[2J", "\n", "\u202e", "\u2066", "\u200d", "e\u0301", "\u0301", "漢", "🇩🇪", "\\", "'"])
    )
    .map("".join)
    .map(str.encode),
)

FORBIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}


def misleading(shown: str) -> list[str]:
    """Return the characters that no line for people may hold."""
    return [char for char in shown if unicodedata.category(char) in FORBIDDEN]


@given(hostile)
def test_printable_is_plainly_visible(raw: bytes) -> None:
    """For any bytes there is no control, format, unassigned or separating character, and no lone surrogate."""
    shown = printable(raw)
    assert misleading(shown) == []
    assert shown.encode().decode() == shown


@given(hostile, st.integers(1, 40))
def test_printable_is_bounded(raw: bytes, limit: int) -> None:
    """It is never longer than the limit, and says with an ellipsis that there was more."""
    whole, shown = printable(raw), printable(raw, limit)
    assert len(shown) <= limit
    assert shown == whole if len(whole) <= limit else shown.endswith("…")


def test_printable_has_a_limit_of_its_own() -> None:
    """A path of PATH_MAX bytes comes out whole with every byte escaped, a megabyte does not."""
    assert printable(b"\xff" * 4096) == r"\xff" * 4096
    assert len(printable(b"a" * 1_000_000)) == 16_384


@given(st.lists(hostile, min_size=2, max_size=2, unique=True))
def test_printable_is_unambiguous(two: list[bytes]) -> None:
    """Different bytes look different: an escape in the result is never a backslash that was there before."""
    assert printable(two[0]) != printable(two[1])


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"nginx: worker", "nginx: worker"),
        (b"a\nb\tc\r", r"a\nb\tc\r"),
        (b"\x1b]0;owned\x07", r"\x1b]0;owned\a"),
        (b"\x00\x7f", r"\x00\x7f"),
        ("\u009b2J".encode(), r"\u009b2J"),  # C1's CSI
        (b"\x9b2J", r"\x9b2J"),  # the same byte alone is no UTF-8
        ("\u202etxt.exe".encode(), r"\u202etxt.exe"),
        ("\u2067a\u2069".encode(), r"\u2067a\u2069"),
        ("a\u2028b\u2029".encode(), r"a\u2028b\u2029"),
        ("a\u200db\u200bc\ufeff".encode(), r"a\u200db\u200bc\ufeff"),
        ("a\ufe0f\u3164\u00a0".encode(), r"a\ufe0f\u3164\u00a0"),  # a variation selector, a filler, a hard space
        ("\U000e0041".encode(), r"\U000e0041"),  # a tag character
        (b"\xed\xa0\x80", r"\xed\xa0\x80"),  # a surrogate written as UTF-8
        (b"C:\\new", r"C:\\new"),
        ("Grüße 漢字".encode(), "Grüße 漢字"),
        ("e\u0301".encode(), "e\u0301"),
        ("\u0301e".encode(), r"\u0301e"),  # would combine with what stands before it
        (b"", ""),
    ],
)
def test_printable_examples(raw: bytes, shown: str) -> None:
    """Ordinary text in any script stays, everything that acts on a terminal or deceives an eye is spelled out."""
    assert printable(raw) == shown


def test_heaps_of_marks_are_escaped() -> None:
    """A character carries a few combining marks, not a heap that would cover the lines above."""
    shown = printable(("o" + "\u0300" * 10).encode())
    assert shown == "o" + "\u0300" * 4 + r"\u0300" * 6


@given(hostile)
def test_decoded_keeps_text_and_flags_the_rest(raw: bytes) -> None:
    """UTF-8 comes out as it is; anything else is flagged, and what comes out can be written as UTF-8."""
    shown, lossy = decoded(raw)
    shown.encode()
    try:
        assert (shown, lossy) == (raw.decode(), False)
    except UnicodeDecodeError:
        assert lossy


def test_decoded_example() -> None:
    """Bytes that are no UTF-8 are named one by one, controls are left to JSON."""
    assert decoded(b"a\xffb\n") == ("a\\xffb\n", True)


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        (["ls", "-l", "/tmp/x.y", "--sort=time", "user@host:p%20"], "ls -l /tmp/x.y --sort=time user@host:p%20"),
        (["echo", "two words", ""], "echo 'two words' ''"),
        (["echo", "it's"], 'echo "it\'s"'),
        (["echo", "it's $5"], "echo 'it'\\''s $5'"),
        (["echo", "a\nb", "c'\\\t"], r"echo $'a\nb' $'c\'\\\t'"),
        (["cat", "Grüße"], "cat Grüße"),
        (["cat", "x\udcff"], r"cat $'x\xff'"),
        (["sh", "-c", "a | b > c"], "sh -c 'a | b > c'"),
        ([], ""),
    ],
)
def test_quote_examples(args: list[str], shown: str) -> None:
    """Quotes appear only where a shell would need them, and in the form that is easiest to read."""
    assert quote(args) == shown


@given(st.lists(st.text(st.characters(codec="ascii", exclude_categories=["Cc"])), max_size=6))
def test_quote_means_the_arguments(args: list[str]) -> None:
    """A shell's reading of the quoted line is the arguments again, whatever visible characters they hold."""
    assert shlex.split(quote(args)) == args


def test_quote_means_the_arguments_to_bash() -> None:
    """What can't be seen comes back byte for byte through bash's own quoting."""
    args = [b"a\nb\tc", b"\x1b[2J'\\", b"\xff\xfe", "\u202e\U000e0041\u009b".encode(), b"it's $x `y`", b"-", b"~"]
    line = "LC_ALL=C.UTF-8; printf '%s\\0' " + command_line(b"".join(arg + b"\0" for arg in args))
    answer = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert answer.split(b"\0")[:-1] == args


@given(st.lists(hostile.map(lambda raw: raw.replace(b"\0", b"")), min_size=1, max_size=6))
def test_command_line_is_quote(args: list[bytes]) -> None:
    """The short cut for plain arguments gives what quote() gives, and nothing misleading is in either."""
    raw = b"".join(arg + b"\0" for arg in args)
    shown = command_line(raw)
    assert shown == quote([arg.decode("utf-8", "surrogateescape") for arg in args])
    assert misleading(shown) == []


def test_command_line_without_its_end() -> None:
    """Arguments cut off in the middle are shown as far as they go, none at all as nothing."""
    assert command_line(b"ls\0-l") == "ls -l"
    assert command_line(b"") == ""
    assert command_line(b"\0") == "''"


@pytest.mark.parametrize(
    ("shown", "cells"),
    [("abc", 3), ("漢字", 4), ("e\u0301", 1), ("→ µs…", 5), ("🙂", 2), ("🇩🇪", 4), ("☰", 2), ("ﾊ", 1), ("", 0)],
)
def test_width_examples(shown: str, cells: int) -> None:
    """Wide characters and what some terminals show wide take two cells, marks none, arrows and half-width forms one."""
    assert width(shown) == cells


@given(hostile, st.integers(0, 60))
def test_cut_fits(raw: bytes, cells: int) -> None:
    """A cut text is never wider than asked, is whole if it fitted, and is a start with an ellipsis if not."""
    whole = printable(raw)
    shown = cut(whole, cells)
    assert width(shown) <= cells
    if width(whole) <= cells:
        assert shown == whole
    elif cells:
        assert shown.endswith("…")
        assert whole.startswith(shown[:-1])
        assert width(shown) >= cells - 1  # a wide character may leave one cell free


@given(hostile, st.integers(0, 60))
def test_pad_fills(raw: bytes, cells: int) -> None:
    """A padded text is exactly as wide as asked."""
    assert width(pad(printable(raw), cells)) == cells


@given(hostile)
@example(("\U00010330" + "\U0001e8d0" * 9).encode() * 200)  # letters and marks of 4 bytes each
@example(("\U00010330" + "\U0001e8d0" * 4).encode() * 200)
def test_a_cell_holds_few_bytes(raw: bytes) -> None:
    """No text is narrower than its bytes allow, so that cutting the bytes first never changes a cut line."""
    assume(raw)
    assert width(command_line(raw)) * text.BYTES_A_CELL >= len(raw)


def test_tables_are_bounded() -> None:
    """A text of every character there is leaves no table larger than its limit."""
    every = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x20000)]))
    width(visible(every))
    assert len(text._VISIBLE) <= text._TABLE_LIMIT
    assert len(text._CELLS) <= text._TABLE_LIMIT


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (1_100_000, "1.1 MB"),
        (8 << 30, "8.6 GB"),
        ((1 << 64) - 1, "18.4 EB"),
    ],
)
def test_human_bytes(count: int, shown: str) -> None:
    """Sizes have SI units and about three digits, also where rounding reaches the next unit."""
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("ns", "shown"),
    [
        (-5, "0 µs"),
        (0, "0 µs"),
        (98_000, "98 µs"),
        (100_000, "0.1 ms"),
        (12_300_000, "12.3 ms"),
        (99_949_999, "99.9 ms"),
        (100_000_000, "0.10 s"),
        (840_000_000, "0.84 s"),
        (9_994_999_999, "9.99 s"),
        (9_996_000_000, "10.0 s"),
        (59_949_000_000, "59.9 s"),
        (59_960_000_000, "1 min 0 s"),
        (3_599_400_000_000, "59 min 59 s"),
        (3_599_600_000_000, "1 h 0 min"),
        (86_399_000_000_000, "1 d 0 h"),
        (90_000_000_000_000, "1 d 1 h"),
    ],
)
def test_human_duration(ns: int, shown: str) -> None:
    """Times are in the unit a person would use; no rounding shows 60 s, 60 min or 24 h."""
    assert human_duration(ns) == shown


def test_errno_names() -> None:
    """Errnos have the kernel's names where the C library has two, and a number where there is none."""
    assert [errno_name(number) for number in (2, 11, 35, 95, 512)] == [
        "ENOENT",
        "EAGAIN",
        "EDEADLK",
        "EOPNOTSUPP",
        "errno 512",
    ]
    assert errno_words(errno.ENOENT) == "no such file or directory"
    assert errno_words(errno.EIO) == "input/output error"
    assert errno_words(1 << 31) == "unknown error"
