"""Fetches the kernels of Debian's suites and makes of each what a guest boots from: image, initramfs, module disk."""

import hashlib
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.kernel_matrix.apt import NOTHING, Apt, Fetched, digest_of, parse_depends, unpack
from scripts.kernel_matrix.cache import Cache
from scripts.kernel_matrix.cpio import Newc
from scripts.kernel_matrix.disks import make_disk, tool_path
from scripts.kernel_matrix.errors import MatrixError

FORMAT = "1"  # of what is made here: part of every key
LABEL = "kernel"

# What the initramfs must load before the guest's disks and its result port are there. What a kernel has built in has no
# file, and needs none.
BOOT_MODULES = ("virtio_pci", "virtio_blk", "virtio_console", "virtio_rng", "ext4")

# The metapackages of a suite name the packages of one release; those of 7.2 have the image and the modules apart.
_FOLLOWED = re.compile(r"linux-(image|binary|modules|base|headers)-")


class Tree(NamedTuple):
    """Unpacked packages, the version of the first one, and why newer ones could not be had, or nothing."""

    root: Path
    key: str
    version: str
    stale: str
    fetched: Fetched


class Bootable(NamedTuple):
    """What a guest of this kernel boots from. `release` is what uname -r will say."""

    release: str
    version: str
    stale: str
    image: Path
    initramfs: Path
    disk: Path
    fetched: Fetched


def follow(apt: Apt, names: Sequence[str]) -> list[str]:
    """The packages that hold the kernel of these metapackages: they and their dependencies that are kernel packages.

    Raises MatrixError when a named one does not exist.
    """
    found: list[str] = []
    ahead = list(names)
    while ahead:
        name = ahead.pop(0)
        fields = apt.show(name)
        if not fields:
            raise MatrixError(f"{apt.suite} ({apt.arch}) has no package {name}")
        found.append(name)
        below = [depended for depended in parse_depends(fields.get("Depends", "")) if _FOLLOWED.match(depended)]
        ahead += [depended for depended in below if depended not in found and depended not in ahead]
    return found


def fetch(cache: Cache, suite: str, arch: str, names: Sequence[str], *, refresh: bool = False) -> Tree:
    """The newest kernel packages of a suite, unpacked; or the last ones that could be had, and why.

    Raises MatrixError when there are none at all.
    """
    apt = Apt(cache.place / "apt", suite, arch)
    note = f"kernel-{suite}-{arch}-{'-'.join(names)}"
    try:
        try:
            key, version = _fetch(cache, apt, names, refresh=refresh)
        except MatrixError:
            # Lists of yesterday name files that the mirror may have replaced since.
            key, version = _fetch(cache, apt, names, refresh=True)
    except MatrixError as error:
        last = cache.recall(note)
        path = cache.place / "trees" / str(last.get("key"))
        if not path.is_dir():
            raise
        return Tree(path, last["key"], last["version"], str(error), apt.fetched)
    cache.remember(note, {"key": key, "version": version})
    return Tree(cache.place / "trees" / key, key, version, "", apt.fetched)


def _fetch(cache: Cache, apt: Apt, names: Sequence[str], *, refresh: bool) -> tuple[str, str]:
    apt.update(**({"fresh_s": 0.0} if refresh else {}))
    wanted = follow(apt, names)
    version = apt.show(wanted[0]).get("Version", "")
    packages = apt.only(wanted)
    key = f"{apt.suite}-{apt.arch}-{digest_of(packages)}"

    def make(target: Path) -> None:
        unpack(apt.download(wanted, packages, closure=False), target)
        apt.forget(())

    cache.entry(f"trees/{key}", make)
    return key, version


def find_image(root: Path) -> tuple[Path, str]:
    """The kernel image of an unpacked tree, and its release. Raises MatrixError unless there is exactly one."""
    images = [*root.glob("boot/vmlinu[xz]-*"), *root.glob("usr/lib/modules/*/vmlinu[xz]")]
    if len(images) != 1:
        raise MatrixError(f"{len(images)} kernel images in {root}, one was expected")
    name = images[0].name
    return images[0], name.partition("-")[2] or images[0].parent.name


def modules_of(root: Path, release: str) -> Path:
    """The directory of the modules in an unpacked tree. Raises MatrixError when there is none."""
    for place in (root / "usr/lib/modules" / release, root / "lib/modules" / release):
        if (place / "kernel").is_dir():
            return place
    raise MatrixError(f"no modules of {release} in {root}")


def read_module(path: Path) -> bytes:
    """The contents of a module, unpacked. Raises MatrixError for a compression that Python cannot undo."""
    if path.suffix == ".ko":
        return path.read_bytes()
    if path.suffix == ".xz":
        return lzma.decompress(path.read_bytes())
    raise MatrixError(f"{path.name}: only plain and xz modules can be put into an initramfs")


def depends_of(module: bytes) -> list[str]:
    """The names of the modules that a module needs, from its .modinfo."""
    match = re.search(rb"\0depends=([^\0]*)\0", module)
    return [name.decode() for name in match[1].split(b",") if name] if match else []


def load_order(files: dict[str, Path], wanted: Iterable[str], read: Callable[[Path], bytes]) -> dict[str, bytes]:
    """The modules to load and their contents, each after those it needs; what has no file is left out."""
    order: dict[str, bytes] = {}

    def add(name: str, below: tuple[str, ...]) -> None:
        if name in order or name not in files or name in below:
            return
        module = read(files[name])
        for needed in depends_of(module):
            add(needed, (*below, name))
        order[name] = module

    for name in wanted:
        add(name, ())
    return order


INIT = Path(__file__).with_name("initramfs.sh")


def write_initramfs(target: Path, busybox: Path, modules: dict[str, bytes]) -> None:
    """Write the initramfs: a static shell, the modules, and the script that mounts the disks."""
    with target.open("wb") as out, Newc(out) as archive:
        archive.device("dev/console", 5, 1)
        archive.file("bin/busybox", busybox.read_bytes(), 0o755)
        archive.file("init", INIT.read_bytes(), 0o755)
        for name, module in modules.items():
            archive.file(f"modules/{name}.ko", module)
        archive.file("modules/order", "\n".join(f"{name}.ko" for name in modules).encode() + b"\n")


def module_files(place: Path) -> dict[str, Path]:
    """The modules under a directory by the names the kernel knows them by."""
    return {path.name.partition(".ko")[0].replace("-", "_"): path for path in place.rglob("*.ko*")}


def write_disk(target: Path, modules: Path, release: str, headers: Path | None) -> None:
    """Write the disk with the modules, and with the headers where `headers` is an unpacked tree that has them.

    Raises MatrixError when depmod is missing or fails, or the headers are of another release.
    """
    with Cache(target.parent).scratch() as root:
        staged = root / "lib/modules" / release
        shutil.copytree(modules, staged, symlinks=True, copy_function=os.link)
        for name in ("build", "source"):
            (staged / name).unlink(missing_ok=True)
        try:
            done = subprocess.run(
                ["depmod", "-b", root, release],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PATH": tool_path()},
            )
        except FileNotFoundError:
            raise MatrixError("depmod is missing: apt-get install kmod") from None
        if done.returncode:
            raise MatrixError(f"depmod: {done.stderr.strip()}")
        (root / "src").mkdir()
        if headers is not None:
            _stage_headers(headers / "usr/src", root / "src", staged, release)
        make_disk(root, target, LABEL)


def _stage_headers(source: Path, target: Path, modules: Path, release: str) -> None:
    own = source / f"linux-headers-{release}"
    if not own.is_dir():
        raise MatrixError(f"the headers are not those of {release}, but {', '.join(p.name for p in source.iterdir())}")
    for tree in source.iterdir():
        # Of the other architectures' headers nothing is read, and they are half of all files.
        shutil.copytree(
            tree,
            target / tree.name,
            symlinks=True,
            ignore=lambda place, names: (
                [name for name in names if name not in {"x86", "arm64"}] if Path(place).name == "arch" else []
            ),
            copy_function=os.link,
        )
    common = next(iter(path for path in source.iterdir() if path.name.endswith("-common")), own)
    (modules / "build").symlink_to(f"/usr/src/{own.name}")
    (modules / "source").symlink_to(f"/usr/src/{common.name}")


def prepare(cache: Cache, tree: Tree, headers: Tree | None, busybox: Path) -> Bootable:
    """Make what a guest boots from, or take it from the cache.

    Raises MatrixError when the tree is not that of a kernel, or a tool is missing.
    """
    image, release = find_image(tree.root)
    modules = modules_of(tree.root, release)
    key = f"{tree.key}-{hashlib.sha256(INIT.read_bytes() + FORMAT.encode()).hexdigest()[:8]}"
    initramfs = cache.entry(
        f"images/{key}.initramfs",
        lambda target: write_initramfs(target, busybox, load_order(module_files(modules), BOOT_MODULES, read_module)),
    )
    name = f"{key}-{headers.key}" if headers else key
    disk = cache.entry(
        f"images/{name}.disk",
        lambda target: write_disk(target, modules, release, headers.root if headers else None),
    )
    os.utime(tree.root)
    fetched = tree.fetched + (headers.fetched if headers else NOTHING)
    stale = tree.stale or (headers.stale if headers else "")
    return Bootable(release, tree.version, stale, image, initramfs, disk, fetched)
