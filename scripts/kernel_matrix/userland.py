"""Makes the guests' root file system of Debian packages and Python wheels, for any architecture, as a disk image."""

import compileall
import hashlib
import py_compile
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.kernel_matrix.apt import Apt, Fetched, Package, digest_of, unpack
from scripts.kernel_matrix.cache import Cache
from scripts.kernel_matrix.disks import make_disk
from scripts.kernel_matrix.errors import MatrixError

FORMAT = "1"  # of what is made here: part of every key
LABEL = "userland"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# The interpreter of Debian 12, which the userland is of.
PYTHON = (3, 11)
# glibc of Debian 12 is 2.36, so these run there; the newest first.
_MANYLINUX = ("manylinux_2_34", "manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux2010")
_PIP_S = 600

# Nothing runs these in a guest, and they are a third of the image.
_UNUSED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/i18n",
)


class Userland(NamedTuple):
    """The root disk, the static shell for the initramfs, and why newer packages could not be had, or nothing."""

    disk: Path
    busybox: Path
    stale: str
    fetched: Fetched


def requirements(pyproject: Path) -> list[str]:
    """What pip has to install beside tracer for the corpus: its dependencies and those of its extra `selftest`."""
    project = tomllib.loads(pyproject.read_text())["project"]
    extras = project["optional-dependencies"]
    return sorted({*project["dependencies"], *extras.get("selftest", ["pytest>=8", "pytest-timeout", "communityid"])})


def fetch(
    cache: Cache, suite: str, arch: str, packages: Sequence[str], wanted: Sequence[str], *, refresh: bool = False
) -> Userland:
    """The root disk with these packages and Python requirements; or the last one that could be made, and why.

    Raises MatrixError when there is none at all.
    """
    apt = Apt(cache.place / "apt", suite, arch)
    asked = hashlib.sha256("\n".join([suite, *packages, "", *wanted]).encode()).hexdigest()[:12]
    note = f"userland-{arch}-{asked}"
    stale = ""
    try:
        try:
            key = _fetch(cache, apt, packages, wanted, refresh=refresh)
        except MatrixError:
            key = _fetch(cache, apt, packages, wanted, refresh=True)
    except MatrixError as error:
        key = str(cache.recall(note).get("key"))
        stale = str(error)
        if not (cache.place / "images" / key).is_dir():
            raise
    cache.remember(note, {"key": key})
    place = cache.place / "images" / key
    return Userland(place / "disk", place / "busybox", stale, apt.fetched)


def _fetch(cache: Cache, apt: Apt, names: Sequence[str], wanted: Sequence[str], *, refresh: bool) -> str:
    apt.update(**({"fresh_s": 0.0} if refresh else {}))
    packages = apt.closure(names)
    text = "\n".join([FORMAT, digest_of(packages), *wanted])
    key = f"userland-{apt.arch}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    cache.entry(f"images/{key}", lambda target: _make(cache, apt, names, packages, wanted, target))
    return key


def _make(
    cache: Cache, apt: Apt, names: Sequence[str], packages: list[Package], wanted: Sequence[str], target: Path
) -> None:
    paths = apt.download(names, packages, closure=True)
    site = install(cache, wanted, apt.arch)
    with cache.scratch() as root:
        root.chmod(0o755)
        unpack(paths, root)
        arrange(root, site)
        target.mkdir()
        shutil.copy(root / "bin/busybox", target / "busybox")
        make_disk(root, target / "disk", LABEL)


def install(cache: Cache, wanted: Sequence[str], arch: str) -> Path:
    """The directory into which pip installed these requirements for Python 3.11 on that architecture.

    Raises MatrixError with pip's last line when it fails.
    """
    machine = MACHINES[arch]
    key = hashlib.sha256("\n".join([FORMAT, machine, *wanted]).encode()).hexdigest()[:16]

    def make(target: Path) -> None:
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
        command += ["--target", str(target), "--only-binary=:all:", "--implementation", "cp"]
        command += ["--python-version", ".".join(map(str, PYTHON))]
        command += [part for tag in _MANYLINUX for part in ("--platform", f"{tag}_{machine}")]
        try:
            done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False, timeout=_PIP_S)
        except subprocess.TimeoutExpired:
            raise MatrixError(f"pip took longer than {_PIP_S} s") from None
        if done.returncode:
            raise MatrixError(f"pip: {' '.join(done.stderr.strip().splitlines()[-1:])}")

    return cache.entry(f"python/{machine}-{key}", make)


def arrange(root: Path, site: Path) -> None:
    """Make of unpacked packages a root that boots: accounts, links and places to mount on, and the Python packages."""
    for unused in _UNUSED:
        shutil.rmtree(root / unused, ignore_errors=True)
    for place in ("proc", "sys", "dev", "run", "tmp", "root", "opt/tracer", "opt/kernel", "usr/src", "usr/lib/modules"):
        (root / place).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    # Debian 12 ships both /lib and /usr/lib, and lets the package usrmerge tie them together at installation.
    for name in ("bin", "sbin", "lib", "lib64"):
        merge(root, name)
    (root / "usr/bin/sh").unlink(missing_ok=True)
    (root / "usr/bin/sh").symlink_to("dash")
    (root / "etc/passwd").write_text(
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n"
    )
    (root / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    (root / "etc/machine-id").write_text("0" * 31 + "1\n")
    target = root / "opt/python"
    shutil.copytree(site, target, symlinks=True)
    # A .pth and not PYTHONPATH, which a test that starts a program with an environment of its own would lose.
    (root / "usr/lib/python3/dist-packages/tracer-matrix.pth").write_text("/opt/tracer/python\n/opt/python\n")
    compile_python(root / "usr/lib/python3.11", "/usr/lib/python3.11")
    compile_python(root / "usr/lib/python3", "/usr/lib/python3")
    compile_python(target, "/opt/python")


def merge(root: Path, name: str) -> None:
    """Move what is in /NAME into /usr/NAME and leave a link, so that every path works either way."""
    old, new = root / name, root / "usr" / name
    if old.is_symlink():
        return
    new.mkdir(parents=True, exist_ok=True)
    if old.is_dir():
        shutil.copytree(old, new, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(old)
    old.symlink_to(f"usr/{name}")


def compile_python(place: Path, name: str) -> None:
    """Compile what is under `place`, which the guest has under `name`, if this interpreter is of the guest's version.

    An emulated machine needs many seconds for what takes one here. Checks of the time stamps are left out.
    """
    if sys.version_info[:2] == PYTHON:
        compileall.compile_dir(
            str(place),
            quiet=2,
            stripdir=str(place),
            prependdir=name,
            workers=0,
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )
