"""What is read from the answers of the apt client."""

from pathlib import Path

import pytest

from scripts.kernel_matrix.apt import (
    NOTHING,
    Apt,
    Fetched,
    Package,
    digest_of,
    parse_depends,
    parse_fetched,
    parse_uris,
    unpack,
)
from scripts.kernel_matrix.errors import MatrixError

URIS = """\
'http://m.example/debian/pool/gcc-12-base_12.2.0-14_amd64.deb' gcc-12-base_12.2.0-14_amd64.deb 37596 MD5Sum:8e7e
'http://m.example/debian/pool/l/linux_6.1%2bx_amd64.deb' linux_6.1%2bx_amd64.deb 1500 SHA256:6f32
"""


def test_uris() -> None:
    """File, size and digest of each package come; other lines are passed over."""
    assert parse_uris("Reading…\n" + URIS) == [
        Package("gcc-12-base_12.2.0-14_amd64.deb", 37596, "MD5Sum:8e7e"),
        Package("linux_6.1%2bx_amd64.deb", 1500, "SHA256:6f32"),
    ]
    assert parse_uris("") == []


def test_depends() -> None:
    """Names come without versions and architectures, and of alternatives the first."""
    assert parse_depends("kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.1) | x, gcc-16:any") == [
        *("kmod", "linux-base", "initramfs-tools", "gcc-16"),
    ]
    assert parse_depends("") == []


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("Get:1 x\nFetched 8,940 kB in 3s (2,980 kB/s)\nReading…\n", 8_940_000),
        ("Fetched 12.5 MB in 1min 2s (1 B/s)\n", 12_500_000),
        ("Fetched 312 B in 0s (0 B/s)\n", 312),
        ("Hit:1 x\nReading package lists...\n", 0),
    ],
)
def test_fetched(text: str, size: int) -> None:
    """The bytes are those that apt says, whatever their unit."""
    assert parse_fetched(text) == size


def test_key() -> None:
    """The key depends on the files and digests, not on their order."""
    one, other = parse_uris(URIS)
    assert digest_of([one, other]) == digest_of([other, one])
    assert digest_of([one]) != digest_of([one._replace(digest="MD5Sum:ffff")])


def test_fetched_adds_up() -> None:
    """Bytes and seconds are summed by field."""
    assert NOTHING + Fetched(3, 1.5) + Fetched(4, 0.5) == Fetched(7, 2.0)


def test_broken_file(tmp_path: Path) -> None:
    """A file that is no package is an error that names it, and is gone, so that the next run fetches it again."""
    broken = tmp_path / "broken_1_amd64.deb"
    broken.write_bytes(b"no archive")
    with pytest.raises(MatrixError, match=r"broken_1_amd64\.deb"):
        unpack([broken], tmp_path / "root")
    assert not broken.exists()


def test_own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mirror that is not there is an error in one line, and nothing but the given directory is written."""
    keys = tmp_path / "keys.gpg"
    keys.touch()
    monkeypatch.setattr("scripts.kernel_matrix.sources.KEYRING", str(keys))
    monkeypatch.setenv("TRACER_MATRIX_MIRROR", f"file://{tmp_path}/nothing/debian")
    apt = Apt(tmp_path / "apt", "bookworm", "arm64")
    with pytest.raises(MatrixError, match=r"bookworm \(arm64\): apt-get") as raised:
        apt.update()
    assert "\n" not in str(raised.value)
    assert f"file:{tmp_path}" in (tmp_path / "apt/bookworm-arm64/sources.list").read_text().replace("///", "/")
    assert not (tmp_path / "apt/bookworm-arm64/updated").exists()
    assert apt.show("no-such-package") == {}
