"""Hostile files end in a bad place that is named, never in a traceback, and take little memory."""

import gzip
import os
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.integrity.written import Writer, lines_of, plain, stream
from tracer.integrity.chain import Chain
from tracer.integrity.verify import Report, Verifier

MEMORY_MOST = 16 << 20
ODD: tuple[object, ...] = (None, -1, 1.5, "x", [], {}, True, "9" * 5000, 10**15)


def verified(*paths: Path) -> Report:
    """The report of a stream."""
    return Verifier().run(paths)


def zeros(pack: Callable[[bytes], bytes], flush: Callable[[], bytes]) -> bytes:
    """A quarter of a gigabyte of zeros, packed."""
    return b"".join([*(pack(bytes(1 << 20)) for _ in range(256)), flush()])


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_zip_bombs_are_left_after_a_line(tmp_path: Path, kind: str) -> None:
    """A quarter of a gigabyte without a newline ends where the first line is too long, in little memory."""
    if kind == "gzip":
        packer = zlib.compressobj(9, zlib.DEFLATED, 31)
        data = zeros(packer.compress, packer.flush)
    else:
        packed = zstandard.ZstdCompressor(19).compressobj()
        data = zeros(packed.compress, packed.flush)
    assert len(data) < 1 << 19
    (tmp_path / "bomb").write_bytes(data)
    tracemalloc.start()
    try:
        report = verified(tmp_path / "bomb")
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert report.what == "a line of 32,000 bytes or more"
    assert report.bad is not None
    assert report.bad.line == 1
    assert most < MEMORY_MOST


def test_a_bomb_of_zstd_windows_is_refused(tmp_path: Path) -> None:
    """A frame that asks for two gigabytes of memory gets none."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "bomb").write_bytes(packed.compress(b'{"a":1}\n' * 1000) + packed.flush())
    assert verified(tmp_path / "bomb").what == "the compressed data is damaged"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\0" * 100_000, "a line of 32,000 bytes or more"),
        (b'{"a":"' + b"x" * 40_000 + b'"}\n', "a line of 32,000 bytes or more"),
        (b"[" * 31_000 + b"\n", "no JSON object"),
        (b'{"a":' * 5_000 + b"1" + b"}" * 5_000 + b"\n", "no JSON: "),
        (b'{"a":[1}\n', "no JSON: "),
        (b'{"a":"\xff"}\n', "no JSON: "),
        (b'{"a":NaN}\n', "no JSON: "),
        *(
            (line + b"\n", "no JSON object")
            for line in (b"\xff\xfe", b"", b"\r", b"hello", b"1", b"null", b"[]", b" {}")
        ),
        (b"{} \n", "no JSON object"),
        (b"{}\n", "no event of tracer"),
        (b'{"metadata":[],"device":7}\n', "no event of tracer"),
        (b'{"event":{"sequence":"1"}}\n', "no event of tracer"),
        (b"{}", "cut short"),
        (b"\x1f\x8b", "the compressed data is cut short"),
        (b"\x1f\x8b\xff\xff", "the compressed data is damaged"),
        (b"\x28\xb5\x2f\xfd", "the compressed data is cut short"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 50, "the compressed data is damaged"),
    ],
)
def test_what_is_no_stream_is_named(tmp_path: Path, data: bytes, what: str) -> None:
    """Lines that are too long, too deep, no JSON, no object, no event, binary, or no compressed data."""
    (tmp_path / "file").write_bytes(data)
    report = verified(tmp_path / "file")
    assert what in report.what
    assert report.bad is not None
    assert report.bad.file == str(tmp_path / "file")


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    """Links, pipes that nobody writes to, directories, devices, and what is not there."""
    plain(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "plain.jsonl")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for path, what in (
        (tmp_path / "link", "it is a symbolic link"),
        (tmp_path / "pipe", "is no regular file"),
        (tmp_path / "directory", "is no regular file"),
        (Path("/dev/zero"), "is no regular file"),
        (tmp_path / "nowhere", "No such file"),
    ):
        assert what in verified(path).what


def test_odd_records_of_segments_are_bad_places(tmp_path: Path) -> None:
    """Every member of the first and the last record replaced by things of other types."""
    files = stream(tmp_path, segments=1)
    lines = lines_of(files[0])
    for place in (0, -1):
        whole = orjson.loads(lines[place])
        for member in whole["tracer"]["segment"]:
            for odd in ODD:
                changed = orjson.loads(lines[place])
                changed["tracer"]["segment"][member] = odd
                if changed == whole:
                    continue
                new = orjson.dumps(changed) + b"\n"
                files[0].write_bytes(b"".join([new, *lines[1:]] if not place else [*lines[:-1], new]))
                assert not verified(files[0]).right, (member, odd)


LEDGERS: list[object] = [None, 1, "x", [], {}, {"exec": 1}, {"exec": {"attempts": []}}, {"exec": None}]


@pytest.mark.parametrize("odd", LEDGERS)
def test_odd_ledgers_are_bad_places(tmp_path: Path, odd: object) -> None:
    """A ledger without rows as they must be is no ledger; one without any rows tells of no line."""
    writer = Writer(tmp_path, None)
    writer.begin()
    writer.events(3)
    writer.put(writer.notice("tracer-ledger", {"ledger": {"by_kind": odd, "final": True, "complete": True}}))
    assert "ledger" in verified(writer.files[0]).what


@settings(max_examples=300, deadline=None)
@given(
    junk=st.one_of(
        st.binary(max_size=300),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(1 << 63), 1 << 63) | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: orjson.dumps(value) + b"\n"),
    )
)
def test_junk_in_the_midst_raises_nothing(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    """Any bytes, or any JSON, among lines as they must be."""
    directory = tmp_path_factory.mktemp("junk")
    writer = Writer(directory, Chain())
    writer.begin()
    writer.events(2)
    writer.put(junk)
    writer.events(2)
    assert verified(writer.files[0]).right == (junk == b"")


@settings(max_examples=300, deadline=None)
@given(junk=st.binary(max_size=2000), pack=st.sampled_from([gzip.compress, zstandard.compress, bytes]))
def test_junk_files_raise_nothing(
    tmp_path_factory: pytest.TempPathFactory, junk: bytes, pack: Callable[[bytes], bytes]
) -> None:
    """Any bytes, packed or not, behind the magic of a format or not."""
    path = tmp_path_factory.mktemp("junk") / "file"
    for magic in (b"", b"\x1f\x8b\x08\x00", b"\x28\xb5\x2f\xfd"):
        path.write_bytes(magic + pack(junk))
        assert verified(path).right == (not magic and not junk)
