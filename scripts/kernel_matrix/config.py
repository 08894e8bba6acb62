"""Reads vagrant/matrix.toml, the one list of kernels and of what each cannot do."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scripts.kernel_matrix.errors import MatrixError

ARCHES = ("amd64", "arm64")
BACKENDS = ("core", "bcc")
# What a guest's doctor is asked about, and the type of the answer.
CAPABILITIES = {"btf": bool, "headers": bool, "fentry": bool, "kprobe": bool, "lsm": bool, "landlock_abi": int}


class Kernel(NamedTuple):
    """One kernel of the matrix: metapackages of a suite, backends (`tested`: by `make test`), what it must offer."""

    name: str
    suite: str
    arch: str
    packages: tuple[str, ...]
    headers: tuple[str, ...]
    backends: tuple[str, ...]
    tested: tuple[str, ...]
    hide_btf: bool
    reruns: int
    capabilities: Mapping[str, bool | int]


class Missing(NamedTuple):
    """A trap, or some of its cases, that kernels have no means for: the guest must give a reason with these words."""

    trap: int
    kernels: tuple[str, ...]
    backends: tuple[str, ...]
    reason: str
    because: str


class Userland(NamedTuple):
    """What the guests' root file system is made of: a suite, its packages, and those that the BCC backend adds."""

    suite: str
    packages: tuple[str, ...]
    bcc: tuple[str, ...]


class Matrix(NamedTuple):
    """The whole file."""

    userland: Userland
    kernels: tuple[Kernel, ...]
    missing: tuple[Missing, ...]

    def kernel(self, name: str) -> Kernel:
        """The kernel of that name. Raises MatrixError when there is none."""
        for kernel in self.kernels:
            if kernel.name == name:
                return kernel
        raise MatrixError(f"no kernel {name} in the matrix: {', '.join(kernel.name for kernel in self.kernels)}")


def load(path: Path) -> Matrix:
    """The matrix of a file. Raises MatrixError when it is not one, and says where it is wrong."""
    try:
        found = tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise MatrixError(f"{path}: {error}") from error
    try:
        return parse(found)
    except MatrixError as error:
        raise MatrixError(f"{path}: {error}") from None


def parse(found: dict[str, Any]) -> Matrix:
    """The matrix in a parsed file; its tables `box` are for the Vagrantfile. Raises MatrixError."""
    _known("the file", found, {"userland", "kernel", "missing", "box"})
    userland = found.get("userland", {})
    _known("userland", userland, {"suite", "packages", "bcc"})
    kernels = tuple(_kernel(entry) for entry in found.get("kernel", []))
    names = [kernel.name for kernel in kernels]
    if not kernels or len({*names}) != len(names):
        raise MatrixError("there must be kernels, each of its own name")
    missing = tuple(_missing(entry, kernels) for entry in found.get("missing", []))
    return Matrix(
        Userland(_text(userland, "suite"), _texts(userland, "packages"), _texts(userland, "bcc")), kernels, missing
    )


def _kernel(entry: dict[str, Any]) -> Kernel:
    _known("a kernel", entry, {*Kernel._fields})
    name = _text(entry, "name")
    kernel = Kernel(
        name,
        _text(entry, "suite"),
        _text(entry, "arch"),
        _texts(entry, "packages"),
        _texts(entry, "headers"),
        _texts(entry, "backends"),
        _texts(entry, "tested") if "tested" in entry else (),
        bool(entry.get("hide_btf", False)),
        int(entry.get("reruns", 0)),
        entry.get("capabilities", {}),
    )
    if kernel.arch not in ARCHES:
        raise MatrixError(f"kernel {name}: arch {kernel.arch} is none of {', '.join(ARCHES)}")
    if not kernel.backends or {*kernel.backends} - {*BACKENDS}:
        raise MatrixError(f"kernel {name}: backends must be some of {', '.join(BACKENDS)}")
    if {*kernel.tested} - {*kernel.backends}:
        raise MatrixError(f"kernel {name}: tested must be some of its backends")
    _known(f"the capabilities of kernel {name}", kernel.capabilities, {*CAPABILITIES})
    for capability, value in kernel.capabilities.items():
        if type(value) is not CAPABILITIES[capability]:
            raise MatrixError(f"kernel {name}: {capability} is a {CAPABILITIES[capability].__name__}")
    return kernel


def _missing(entry: dict[str, Any], kernels: tuple[Kernel, ...]) -> Missing:
    _known("a missing", entry, {*Missing._fields})
    found = Missing(
        int(entry.get("trap", 0)),
        _texts(entry, "kernels"),
        _texts(entry, "backends"),
        _text(entry, "reason"),
        _text(entry, "because"),
    )
    unknown = {*found.kernels} - {kernel.name for kernel in kernels} - {"host"}
    if unknown:
        raise MatrixError(f"trap {found.trap} is missing on kernels that are not listed: {', '.join(sorted(unknown))}")
    return found


def _known(what: str, entry: Mapping[str, Any], names: set[str]) -> None:
    unknown = sorted({*entry} - names)
    if unknown:
        raise MatrixError(f"{what} has keys that nothing reads: {', '.join(unknown)}")


def _text(entry: dict[str, Any], name: str) -> str:
    value = entry.get(name)
    if not isinstance(value, str) or not value:
        raise MatrixError(f"{name} must be a text: {entry}")
    return value


def _texts(entry: dict[str, Any], name: str) -> tuple[str, ...]:
    value = entry.get(name)
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise MatrixError(f"{name} must be a list of texts: {entry}")
    return tuple(value)
