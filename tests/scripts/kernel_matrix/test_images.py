"""The root file system and the program disk, made of small trees."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from scripts.kernel_matrix import programs
from scripts.kernel_matrix.disks import make_disk, size_of, tool_path
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.userland import arrange, merge, requirements

ROOT = Path(__file__).parents[3]


def read_from(disk: Path, name: str) -> bytes:
    """A file of an ext4 image, read with the file system's own tool."""
    environment = {**os.environ, "PATH": tool_path()}
    done = subprocess.run(["debugfs", "-R", f"cat {name}", disk], capture_output=True, check=True, env=environment)
    return done.stdout


def test_disk(tmp_path: Path) -> None:
    """An image holds the tree as it is, with room to write, and is labelled."""
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/program").write_bytes(b"x" * 100_000)
    (tree / "bin").symlink_to("usr/bin")
    disk = tmp_path / "disk"
    make_disk(tree, disk, "userland")
    assert size_of(tree) == (25 * 4096 + 3 * 4096, 4)
    assert read_from(disk, "/bin/program") == b"x" * 100_000
    told = subprocess.run(
        ["dumpe2fs", "-h", disk],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": tool_path()},
    ).stdout
    facts = dict(line.split(":", 1) for line in told.splitlines() if ":" in line)
    assert facts["Filesystem volume name"].strip() == "userland"
    assert int(facts["Free blocks"]) * 4096 > 16 << 20


def test_no_tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without mke2fs the message names its package; a tree that cannot be read is said too."""
    (tmp_path / "tree").mkdir()
    monkeypatch.setattr("scripts.kernel_matrix.disks.tool_path", lambda: str(tmp_path))
    with pytest.raises(MatrixError, match="e2fsprogs"):
        make_disk(tmp_path / "tree", tmp_path / "disk", "x")
    monkeypatch.undo()
    with pytest.raises(MatrixError, match="mke2fs"):
        make_disk(tmp_path / "tree", tmp_path / "none/disk", "x")


def test_merge(tmp_path: Path) -> None:
    """/lib goes into /usr/lib, whatever is there already, and both names lead to every file."""
    for name in ("lib/modules/a", "usr/lib/modules/b", "usr/lib/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "lib/link").symlink_to("modules/a")
    merge(tmp_path, "lib")
    merge(tmp_path, "lib")
    assert (tmp_path / "lib").readlink() == Path("usr/lib")
    assert (tmp_path / "usr/lib/modules/a").read_text() == "lib/modules/a"
    assert (tmp_path / "lib/modules/b").read_text() == "usr/lib/modules/b"
    assert (tmp_path / "usr/lib/link").readlink() == Path("modules/a")


def test_arrange(tmp_path: Path) -> None:
    """A root has a shell, accounts and places to mount on, finds the Python packages, and carries no manuals."""
    root, site = tmp_path / "root", tmp_path / "site"
    for name in (
        "bin/dash",
        "usr/share/doc/x/copyright",
        "usr/lib/python3/dist-packages/x.py",
        "usr/lib/python3.11/y.py",
        "etc/x",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    site.mkdir()
    (site / "orjson.py").write_text("")
    arrange(root, site)
    assert (root / "bin/sh").resolve() == root / "usr/bin/dash"
    assert (root / "opt/python/orjson.py").exists()
    added = (root / "usr/lib/python3/dist-packages/tracer-matrix.pth").read_text().split()
    assert added == ["/opt/tracer/python", "/opt/python"]
    assert not (root / "usr/share/doc").exists()
    assert (root / "etc/passwd").read_text().startswith("root:x:0:0:")
    for place in ("proc", "sys", "dev", "tmp", "run", "opt/tracer", "opt/kernel"):
        assert (root / place).is_dir()


def test_requirements() -> None:
    """What the guests get of Python packages is what tracer and its self-test ask for, and never tracer itself."""
    names = requirements(ROOT / "pyproject.toml")
    assert {"orjson>=3.9", "communityid", "pytest>=8"} <= {*names}
    assert not any(name.startswith(("tracer", "bcc")) for name in names)


@pytest.fixture(name="tree")
def _tree(tmp_path: Path) -> Path:
    """A tree with what the program disk is made of, and what it is not made of."""
    tree = tmp_path / "tree"
    for name in (
        "tracer/a.py",
        "bpf/p.bpf.c",
        "tests/traps/test_01.py",
        "tests/cli/test_x.py",
        "vagrant/guest",
        "docs/x.md",
    ):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    for name in ("tracer/probes/objects/p.o", "tracer/__pycache__/a.pyc"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    return tree


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("tracer/a.py", True),
        ("bpf/p.bpf.c", True),
        ("tests/traps/test_01.py", True),
        ("vagrant/guest", True),
        ("bpf/new.h", True),
        ("tests/cli/test_x.py", False),
        ("docs/x.md", False),
        ("tracer/probes/objects/p.o", False),
        ("tracer/__pycache__/a.pyc", False),
    ],
)
def test_key(tree: Path, name: str, counts: bool) -> None:
    """A change of what is in the wheel or runs in the guest gives another disk; another change, or place, does not."""
    before = programs.key_of(tree)
    copy = tree.with_name("copy")
    shutil.copytree(tree, copy)
    assert programs.key_of(copy) == before
    (copy / name).write_text("changed")
    assert (programs.key_of(copy) != before) is counts


def test_wheel_does_not_build(tmp_path: Path) -> None:
    """A tree that does not build is an error with the end of what was said."""
    (tmp_path / "pyproject.toml").write_text("[build-system]\nrequires = []\nbuild-backend = 'nothing_there'\n")
    with pytest.raises(MatrixError, match="nothing_there"):
        programs.build_wheel(tmp_path, tmp_path / "wheels", "x86_64")
