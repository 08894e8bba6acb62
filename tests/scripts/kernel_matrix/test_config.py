"""The one list of kernels: the file itself, and what is refused."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from scripts.kernel_matrix.config import load, parse
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.matrix import Wanted, choose

FILE = Path(__file__).parents[3] / "vagrant/matrix.toml"
TEXT = """\
[userland]
suite = "bookworm"
packages = ["python3"]
bcc = ["python3-bpfcc"]
[[kernel]]
name = "6.1"
suite = "bookworm"
arch = "amd64"
packages = ["linux-image-cloud-amd64"]
headers = []
backends = ["core", "bcc"]
tested = ["core"]
capabilities = { btf = true, landlock_abi = 2 }
[[missing]]
trap = 34
kernels = ["6.1"]
backends = ["core"]
reason = "no clock"
because = "it has none"
"""


def changed(old: str, new: str) -> dict[str, Any]:
    """The parsed text with one thing changed."""
    assert old in TEXT
    return tomllib.loads(TEXT.replace(old, new, 1))


def test_own_file() -> None:
    """The project's file has the kernels that are promised, with core on all and bcc on two and without BTF."""
    matrix = load(FILE)
    names = {kernel.name: kernel for kernel in matrix.kernels}
    assert {"5.10", "6.1", "6.12", "7.2"} <= {*names}
    assert {kernel.arch for kernel in matrix.kernels} == {"amd64", "arm64"}
    assert all("core" in kernel.backends or kernel.hide_btf for kernel in matrix.kernels)
    assert {"5.10", "6.1"} <= {kernel.name for kernel in matrix.kernels if "bcc" in kernel.backends}
    assert any(kernel.hide_btf and kernel.backends == ("bcc",) for kernel in matrix.kernels)


def test_what_make_test_runs() -> None:
    """`make test` runs one backend on each kernel of this machine's architecture: bcc on 6.1, core on the others."""
    chosen = [(kernel.name, backend) for kernel, backend in choose(load(FILE), Wanted(tested=True))]
    assert chosen == [("5.10", "core"), ("6.1", "bcc"), ("6.12", "core"), ("7.2", "core")]


def test_names_suites() -> None:
    """Suites and metapackages are listed, never a version."""
    for kernel in load(FILE).kernels:
        assert kernel.suite in {"bullseye", "bookworm", "trixie", "sid"}
        assert not any(character.isdigit() for name in kernel.packages for character in name.replace("64", ""))


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (Wanted(), ["6.1/core", "6.1/bcc"]),
        (Wanted(("6.1/bcc",)), ["6.1/bcc"]),
        (Wanted(("6.1",), ("core",)), ["6.1/core"]),
        (Wanted(tested=True), ["6.1/core"]),
        (Wanted(("host",)), []),
    ],
)
def test_choose(wanted: Wanted, chosen: list[str]) -> None:
    """Columns are chosen by kernel, backend, both, or by what is tested."""
    matrix = parse(tomllib.loads(TEXT))
    assert [f"{kernel.name}/{backend}" for kernel, backend in choose(matrix, wanted)] == chosen


@pytest.mark.parametrize(("name", "why"), [("6.2", "no kernel 6.2"), ("6.1/netlink", "no backend netlink")])
def test_choose_unknown(name: str, why: str) -> None:
    """A kernel or backend that is not there is said, with what is."""
    with pytest.raises(MatrixError, match=why):
        choose(parse(tomllib.loads(TEXT)), Wanted((name,)))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ('suite = "bookworm"\narch', "arch", "suite must be a text"),
        ('"amd64"', '"mips"', "arch mips"),
        ('["core", "bcc"]', '["core", "kprobe"]', "backends must be"),
        ('["core", "bcc"]', '["bcc"]', "tested must be"),
        ("btf = true", "btf = 1", "btf is a bool"),
        ("landlock_abi = 2", "landlock_abi = true", "landlock_abi is a int"),
        ("btf = true", "ebpf = true", "ebpf"),
        ('tested = ["core"]', 'testet = ["core"]', "testet"),
        ("headers = []", 'headers = "x"', "headers must be a list"),
        ('kernels = ["6.1"]', 'kernels = ["6.2"]', "6.2"),
        ('because = "it has none"', "", "because must be"),
        ('packages = ["python3"]\n', "", "packages must be"),
    ],
)
def test_refused(old: str, new: str, why: str) -> None:
    """What is wrong, misspelt or left out is an error that names it."""
    with pytest.raises(MatrixError, match=why):
        parse(changed(old, new))


def test_same_name_twice() -> None:
    """Two kernels of one name are refused, and so is a file without any."""
    found = tomllib.loads(TEXT)
    found["kernel"] *= 2
    with pytest.raises(MatrixError, match="own name"):
        parse(found)
    with pytest.raises(MatrixError, match="own name"):
        parse({"userland": found["userland"]})


def test_not_a_file(tmp_path: Path) -> None:
    """A file that is not there or is no TOML is one line with its name."""
    with pytest.raises(MatrixError, match=r"none\.toml"):
        load(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[")
    with pytest.raises(MatrixError, match=r"bad\.toml"):
        load(tmp_path / "bad.toml")
