"""What is made of a kernel's packages."""

import io
import lzma
from pathlib import Path

import pytest

from scripts.kernel_matrix.apt import Apt
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.kernels import (
    INIT,
    depends_of,
    find_image,
    follow,
    load_order,
    module_files,
    modules_of,
    read_module,
    write_initramfs,
)
from tests.scripts.kernel_matrix.test_cpio import entries


class FakeApt(Apt):
    """A suite with the packages given: name -> Depends."""

    def __init__(self, packages: dict[str, str]) -> None:
        self.suite, self.arch = "sid", "amd64"
        self._packages = packages

    def show(self, package: str) -> dict[str, str]:
        """The fields of a package."""
        return {"Depends": self._packages[package]} if package in self._packages else {}


def test_follow() -> None:
    """The kernel's own packages are followed as far as they go, once each; compilers and tools are not."""
    apt = FakeApt({
        "linux-image-cloud-amd64": "linux-base-cloud-amd64, linux-image-7.2-cloud-amd64 (= 7.2)",
        "linux-base-cloud-amd64": "linux-base-7.2-cloud-amd64",
        "linux-base-7.2-cloud-amd64": "",
        "linux-image-7.2-cloud-amd64":
            "dracut, linux-base (>= 4), linux-binary-7.2-cloud-amd64, linux-base-7.2-cloud-amd64",
        "linux-binary-7.2-cloud-amd64": "linux-base-7.2-cloud-amd64",
    })  # fmt: skip
    assert follow(apt, ["linux-image-cloud-amd64"]) == [
        "linux-image-cloud-amd64",
        "linux-base-cloud-amd64",
        "linux-image-7.2-cloud-amd64",
        "linux-base-7.2-cloud-amd64",
        "linux-binary-7.2-cloud-amd64",
    ]
    with pytest.raises(MatrixError, match=r"sid \(amd64\) has no package linux-image-x"):
        follow(apt, ["linux-image-x"])


@pytest.mark.parametrize(
    ("path", "release"),
    [("boot/vmlinuz-6.1.0-50-cloud-amd64", "6.1.0-50-cloud-amd64"), ("usr/lib/modules/7.2-x/vmlinuz", "7.2-x")],
)
def test_image(tmp_path: Path, path: str, release: str) -> None:
    """The image and its release are found where old and where new packages have them."""
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).touch()
    assert find_image(tmp_path) == (tmp_path / path, release)
    with pytest.raises(MatrixError, match="no modules"):
        modules_of(tmp_path, release)
    (tmp_path / "lib/modules" / release / "kernel").mkdir(parents=True)
    assert modules_of(tmp_path, release) == tmp_path / "lib/modules" / release


def test_no_image(tmp_path: Path) -> None:
    """A tree without a kernel is an error."""
    with pytest.raises(MatrixError, match="0 kernel images"):
        find_image(tmp_path)


def module(*needs: str) -> bytes:
    """The part of a module that names the modules it needs."""
    return b"\x7fELF\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0name=x\0"


def test_depends_of() -> None:
    """The needs are read from .modinfo; none is no name."""
    assert depends_of(module("virtio", "virtio_ring")) == ["virtio", "virtio_ring"]
    assert depends_of(module()) == []
    assert depends_of(b"nothing of the kind") == []


def test_load_order() -> None:
    """Each comes once and after all it needs; built-in ones, and circles, do no harm."""
    contents = {
        "virtio": module(),
        "virtio_ring": module("virtio"),
        "virtio_pci": module("virtio_ring", "virtio", "built_in"),
        "one": module("two"),
        "two": module("one"),
    }
    files = {name: Path(name) for name in contents}
    order = load_order(files, ["virtio_pci", "virtio_blk", "virtio", "one"], lambda path: contents[path.name])
    assert list(order) == ["virtio", "virtio_ring", "virtio_pci", "two", "one"]
    assert order["virtio"] == contents["virtio"]


def test_modules_are_unpacked(tmp_path: Path) -> None:
    """Plain and xz modules give their contents; names are as the kernel has them; another compression is said."""
    (tmp_path / "plain.ko").write_bytes(b"plain")
    (tmp_path / "in-xz.ko.xz").write_bytes(lzma.compress(b"packed"))
    (tmp_path / "z.ko.zst").touch()
    files = module_files(tmp_path)
    assert read_module(files["plain"]) == b"plain"
    assert read_module(files["in_xz"]) == b"packed"
    with pytest.raises(MatrixError, match=r"z\.ko\.zst"):
        read_module(files["z"])


def test_initramfs(tmp_path: Path) -> None:
    """It holds the shell, the script, and the modules in the order in which they load."""
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"shell")
    target = tmp_path / "initramfs"
    write_initramfs(target, busybox, {"virtio": b"v", "virtio_blk": b"b"})
    found = {name: (mode & 0o777, data) for name, mode, data, _ in entries(io.BytesIO(target.read_bytes()).getvalue())}
    assert found["bin/busybox"] == (0o755, b"shell")
    assert found["init"] == (0o755, INIT.read_bytes())
    assert found["modules/order"][1] == b"virtio.ko\nvirtio_blk.ko\n"
    assert found["modules/virtio_blk.ko"][1] == b"b"
