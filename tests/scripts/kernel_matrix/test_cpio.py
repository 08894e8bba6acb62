"""The archive that the kernel unpacks."""

import io
import stat

import pytest

from scripts.kernel_matrix.cpio import Newc


def entries(data: bytes) -> list[tuple[str, int, bytes, tuple[int, int]]]:
    """Name, mode, contents and device number of each entry, read as the kernel's documentation tells."""
    found: list[tuple[str, int, bytes, tuple[int, int]]] = []
    at = 0
    while True:
        assert at % 4 == 0
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * index : at + 14 + 8 * index], 16) for index in range(13)]
        name = data[at + 110 : at + 110 + numbers[11]]
        assert name.endswith(b"\0")
        at += 110 + numbers[11]
        at += -at % 4
        contents = data[at : at + numbers[6]]
        at += numbers[6]
        at += -at % 4
        if name == b"TRAILER!!!\0":
            return found
        found.append((name[:-1].decode(), numbers[1], contents, (numbers[9], numbers[10])))


def test_archive() -> None:
    """Files, their directories before them and once, and devices come out as they went in, in whole blocks."""
    out = io.BytesIO()
    with Newc(out) as archive:
        archive.device("dev/console", 5, 1)
        archive.file("/bin/busybox", b"\x7fELF!", 0o755)
        archive.file("bin/other", b"")
        archive.directory("bin")
    assert len(out.getvalue()) % 512 == 0
    assert entries(out.getvalue()) == [
        ("dev", stat.S_IFDIR | 0o755, b"", (0, 0)),
        ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)),
        ("bin", stat.S_IFDIR | 0o755, b"", (0, 0)),
        ("bin/busybox", stat.S_IFREG | 0o755, b"\x7fELF!", (0, 0)),
        ("bin/other", stat.S_IFREG | 0o644, b"", (0, 0)),
    ]


def test_twice() -> None:
    """A name cannot be there twice, nor can the root."""
    with Newc(io.BytesIO()) as archive:
        archive.file("init", b"1")
        with pytest.raises(ValueError, match="init"):
            archive.file("/init", b"2")
        with pytest.raises(ValueError, match="root"):
            archive.file("/", b"")


def test_failed_archive_has_no_end() -> None:
    """What broke off is not made to look whole."""
    out = io.BytesIO()
    with pytest.raises(KeyError), Newc(out):
        raise KeyError
    assert out.getvalue() == b""
