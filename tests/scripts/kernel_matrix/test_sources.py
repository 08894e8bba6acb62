"""Finding the Debian mirror in apt's configuration, whatever form that has."""

from pathlib import Path

import pytest

from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.sources import KEYRING, Source, find_mirror, parse_deb822, parse_list, system_mirror

DEB822 = """\
# a comment
Types: deb deb-src
# another
URIs: http://one.example/debian/
 http://two.example/debian
Suites: bookworm
Signed-By: /usr/share/keyrings/some.gpg

Types: deb-src
URIs: http://sources.example/debian

Types: deb
Enabled: no
URIs: http://disabled.example/debian

Types: deb
URIs: http://three.example/other
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
"""


def test_deb822() -> None:
    """Every address of every enabled stanza for binary packages comes, with its keyring where that is a file."""
    assert list(parse_deb822(DEB822)) == [
        Source("http://one.example/debian", "/usr/share/keyrings/some.gpg"),
        Source("http://two.example/debian", "/usr/share/keyrings/some.gpg"),
        Source("http://three.example/other", ""),
    ]


def test_one_line() -> None:
    """Lines of binary packages come, with and without options; comments and sources do not."""
    text = """\
deb http://one.example/debian bookworm main
# deb http://commented.example/debian bookworm main
deb-src http://sources.example/debian bookworm main
deb [arch=amd64 signed-by=/keys.gpg] http://two.example/debian/ bookworm main contrib
"""
    assert list(parse_list(text)) == [
        Source("http://one.example/debian", ""),
        Source("http://two.example/debian", "/keys.gpg"),
    ]


def test_mirror_is_debian() -> None:
    """The first archive that ends in /debian is the mirror: not its security archive, not somebody else's."""
    sources = [Source(f"http://a.example/{name}", "") for name in ("debian-security", "node", "debian", "x/debian")]
    assert find_mirror(sources) == Source("http://a.example/debian", KEYRING)


def test_no_mirror() -> None:
    """Without one the message names the variable that helps."""
    with pytest.raises(MatrixError, match="TRACER_MATRIX_MIRROR"):
        find_mirror([Source("http://a.example/ubuntu", "")])


def test_system_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both forms of files are read, others are not; the variable wins over them; missing keys are said."""
    monkeypatch.delenv("TRACER_MATRIX_MIRROR", raising=False)
    keys = tmp_path / "keys.gpg"
    keys.touch()
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (parts / "a.list").write_text("deb http://node.example/node bookworm main\n")
    (parts / "b.list.save").write_text("deb http://old.example/debian bookworm main\n")
    (parts / "c.sources").write_text(f"Types: deb\nURIs: http://m.example/debian\nSigned-By: {keys}\n")
    assert system_mirror(tmp_path) == Source("http://m.example/debian", str(keys))
    (tmp_path / "sources.list").write_text(f"deb [signed-by={keys}] http://first.example/debian x main\n")
    assert system_mirror(tmp_path).uri == "http://first.example/debian"
    keys.unlink()
    with pytest.raises(MatrixError, match="debian-archive-keyring"):
        system_mirror(tmp_path)
