"""Prepares guests: what each kernel and backend boots from, every part fetched and built once."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from scripts.kernel_matrix import kernels, programs, qemu, userland
from scripts.kernel_matrix.apt import NOTHING
from scripts.kernel_matrix.cache import Cache
from scripts.kernel_matrix.config import Kernel, Matrix


class Prepared(NamedTuple):
    """A guest that can be booted, and the kernel in it. `stale` says why newer parts could not be had, or nothing."""

    kernel: Kernel
    backend: str
    guest: qemu.Guest
    release: str
    version: str
    stale: str


class Workshop:
    """Makes guests of the tree `source`; `say` is told what is being done. Raises MatrixError when that cannot be."""

    def __init__(
        self, cache: Cache, matrix: Matrix, source: Path, say: Callable[[str], None], *, refresh: bool = False
    ) -> None:
        self._cache = cache
        self._matrix = matrix
        self._source = source
        self._say = say
        self._refresh = refresh
        self._trees: dict[tuple[str, str, tuple[str, ...]], kernels.Tree] = {}
        self._userlands: dict[tuple[str, bool], userland.Userland] = {}
        self._programs: dict[str, Path] = {}
        self.fetched = NOTHING

    def prepare(self, kernel: Kernel, backend: str) -> Prepared:
        """The guest for a kernel and a backend. Raises MatrixError when a part cannot be had."""
        with_bcc = backend == "bcc"
        root = self._userland(kernel.arch, with_bcc=with_bcc)
        tree = self._tree(kernel, kernel.packages)
        headers = self._tree(kernel, kernel.headers) if with_bcc else None
        boot = kernels.prepare(self._cache, tree, headers, root.busybox)
        drives = (
            qemu.Drive(userland.LABEL, root.disk),
            qemu.Drive(kernels.LABEL, boot.disk),
            qemu.Drive(programs.LABEL, self._program(kernel.arch)),
        )
        guest = qemu.Guest(kernel.arch, boot.image, boot.initramfs, drives, qemu.MEMORY_MIB[backend], ())
        return Prepared(kernel, backend, guest, boot.release, boot.version, boot.stale or root.stale)

    def _userland(self, arch: str, *, with_bcc: bool) -> userland.Userland:
        key = (arch, with_bcc)
        if key not in self._userlands:
            self._say(f"root file system for {arch}{' with BCC' if with_bcc else ''}")
            wanted = self._matrix.userland
            packages = (*wanted.packages, *(wanted.bcc if with_bcc else ()))
            needs = userland.requirements(self._source / "pyproject.toml")
            found = userland.fetch(self._cache, wanted.suite, arch, packages, needs, refresh=self._refresh)
            self.fetched += found.fetched
            self._userlands[key] = found
        return self._userlands[key]

    def _tree(self, kernel: Kernel, names: tuple[str, ...]) -> kernels.Tree:
        key = (kernel.suite, kernel.arch, names)
        if key not in self._trees:
            self._say(f"{', '.join(names)} of {kernel.suite}")
            found = kernels.fetch(self._cache, kernel.suite, kernel.arch, names, refresh=self._refresh)
            self.fetched += found.fetched
            self._trees[key] = found
        return self._trees[key]

    def _program(self, arch: str) -> Path:
        if arch not in self._programs:
            self._programs[arch] = programs.make_program(self._cache, self._source, arch)
        return self._programs[arch]
