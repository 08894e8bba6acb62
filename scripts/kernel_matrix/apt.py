"""Fetches packages of any Debian suite and architecture with the ordinary apt client, apart from the system's state."""

import hashlib
import os
import re
import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.sources import system_mirror

FRESH_S = 24 * 3600.0  # how long the lists of a suite are good enough
UPDATE_S = 600
DOWNLOAD_S = 1800

_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<digest>\S*)$", re.MULTILINE)
_FETCHED = re.compile(r"^Fetched (?P<count>[\d,.]+) (?P<unit>k?M?G?B) in ", re.MULTILINE)
_UNITS = {"B": 1, "kB": 1_000, "MB": 1_000_000, "GB": 1_000_000_000}


class Package(NamedTuple):
    """One package file of the mirror: the name apt gives the file, its size in bytes and its digest."""

    file: str
    size: int
    digest: str


class Fetched(NamedTuple):
    """What was fetched over the network: bytes, and the seconds that took."""

    size: int
    seconds: float

    def __add__(self, other: object) -> "Fetched":
        """The sum, by field."""
        if not isinstance(other, Fetched):
            return NotImplemented
        return Fetched(self.size + other.size, self.seconds + other.seconds)


NOTHING = Fetched(0, 0.0)


def parse_uris(text: str) -> list[Package]:
    """The package files in what `apt-get --print-uris` says."""
    return [Package(match["file"], int(match["size"]), match["digest"]) for match in _URI.finditer(text)]


def parse_fetched(text: str) -> int:
    """The bytes that `apt-get update` says it has fetched, 0 if it fetched nothing."""
    match = _FETCHED.search(text)
    return int(float(match["count"].replace(",", "")) * _UNITS[match["unit"]]) if match else 0


def parse_depends(fields: str) -> list[str]:
    """The names in a Depends field, the first of each alternative, without versions."""
    names = (part.split("|")[0].split("(")[0].split(":")[0].strip() for part in fields.split(","))
    return [name for name in names if name]


def digest_of(packages: Iterable[Package]) -> str:
    """A key that is the same for the same files."""
    text = "\n".join(sorted(f"{package.file} {package.digest}" for package in packages))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Apt:
    """The apt client for one suite and one architecture, with directories of its own under `place`."""

    def __init__(self, place: Path, suite: str, arch: str) -> None:
        self.suite = suite
        self.arch = arch
        self.base = place / f"{suite}-{arch}"
        self.archives = self.base / "archives"
        self.fetched = NOTHING
        self._nothing = self.base / "nothing"
        for part in ("lists/partial", "archives/partial", "nothing/partial", "parts", "state"):
            (self.base / part).mkdir(parents=True, exist_ok=True)
        (self.base / "state/status").touch()
        (self.base / "apt.conf").touch()

    def _options(self, archives: Path) -> list[str]:
        base = self.base
        settings = {
            "APT::Architecture": self.arch,
            "APT::Architectures": self.arch,
            "APT::Sandbox::User": "",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Dir::Etc::sourcelist": f"{base}/sources.list",
            "Dir::Etc::sourceparts": f"{base}/parts",
            "Dir::Etc::preferencesparts": f"{base}/parts",
            "Dir::State": f"{base}/state",
            "Dir::State::Lists": f"{base}/lists",
            "Dir::State::status": f"{base}/state/status",
            "Dir::Cache": str(base),
            "Dir::Cache::archives": str(archives),
        }
        return [f"-o{name}={value}" for name, value in settings.items()]

    def _run(self, *command: str, limit: float, archives: Path | None = None, cwd: Path | None = None) -> str:
        tool, *rest = command
        try:
            done = subprocess.run(
                [tool, *self._options(archives or self.archives), *rest],
                capture_output=True,
                text=True,
                check=False,
                timeout=limit,
                cwd=cwd,
                env={**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"},
            )
        except FileNotFoundError:
            raise MatrixError(
                f"{tool} is missing: the kernels come from Debian's archive, by its package client"
            ) from None
        except subprocess.TimeoutExpired:
            raise MatrixError(f"{self.suite}: {tool} {rest[-1]} took longer than {limit:.0f} s") from None
        if done.returncode:
            said = [line for line in done.stderr.splitlines() if line.startswith("E:")] or done.stderr.splitlines()
            raise MatrixError(f"{self.suite} ({self.arch}): {tool} {' '.join(rest)}: {' '.join(said[-2:])}")
        return done.stdout

    def update(self, *, fresh_s: float = FRESH_S) -> None:
        """Fetch the package lists unless they are younger than `fresh_s` seconds.

        Raises MatrixError when the mirror does not give them.
        """
        stamp = self.base / "updated"
        mirror = system_mirror()
        # Only the packages: the system may have asked for descriptions of desktop programs too.
        options = f"arch={self.arch} target=Packages signed-by={mirror.keyring}"
        text = f"deb [{options}] {mirror.uri} {self.suite} main\n"
        sources = self.base / "sources.list"
        age_s = time.time() - stamp.stat().st_mtime if stamp.exists() else float("inf")
        if age_s < fresh_s and sources.exists() and sources.read_text() == text:
            return
        sources.write_text(text)
        begin = time.monotonic()
        said = self._run("apt-get", "-q", "-oAPT::Update::Error-Mode=any", "update", limit=UPDATE_S)
        self.fetched += Fetched(parse_fetched(said), time.monotonic() - begin)
        stamp.touch()

    def show(self, package: str) -> dict[str, str]:
        """The fields of the newest version of `package`; empty when the suite does not have it."""
        try:
            text = self._run("apt-cache", "show", "--no-all-versions", package, limit=60)
        except MatrixError:
            return {}
        fields: dict[str, str] = {}
        for line in text.split("\n\n", maxsplit=1)[0].splitlines():
            name, colon, value = line.partition(": ")
            if colon and not name.startswith(" "):
                fields[name] = value
        return fields

    def closure(self, names: Sequence[str]) -> list[Package]:
        """The files of these packages and of all that they depend on, as apt resolves that for an empty system.

        Raises MatrixError when something is not there.
        """
        # Into a directory without files: apt leaves out what it has.
        text = self._run(
            *("apt-get", "-qq", "--yes", "--no-install-recommends", "--print-uris", "install", *names),
            limit=120,
            archives=self._nothing,
        )
        return parse_uris(text)

    def only(self, names: Sequence[str]) -> list[Package]:
        """The files of just these packages. Raises MatrixError when one is not there."""
        text = self._run("apt-get", "-qq", "--print-uris", "download", *names, limit=120, archives=self._nothing)
        return parse_uris(text)

    def download(self, names: Sequence[str], packages: Sequence[Package], *, closure: bool) -> list[Path]:
        """Fetch the files that are not there yet, and return the paths of all, in the order given.

        Raises MatrixError when the mirror does not have one (any more).
        """
        paths = [self.archives / package.file for package in packages]
        absent = [package for package, path in zip(packages, paths, strict=True) if not path.exists()]
        if absent:
            begin = time.monotonic()
            if closure:
                how = ("--yes", "--no-install-recommends", "--download-only", "install")
                self._run("apt-get", "-qq", *how, *names, limit=DOWNLOAD_S)
            else:
                self._run("apt-get", "-qq", "download", *names, limit=DOWNLOAD_S, cwd=self.archives)
            self.fetched += Fetched(sum(package.size for package in absent), time.monotonic() - begin)
        lost = [path.name for path in paths if not path.exists()]
        if lost:
            raise MatrixError(f"{self.suite}: apt did not leave {', '.join(lost)}")
        return paths

    def forget(self, keep: Iterable[Path]) -> None:
        """Remove the package files that are not among `keep`: once unpacked they are of no use."""
        kept = set(keep)
        for path in self.archives.glob("*.deb"):
            if path not in kept:
                path.unlink()


def unpack(paths: Iterable[Path], root: Path) -> None:
    """Unpack package files under `root`; no script of a package runs. Raises MatrixError for a broken file."""
    root.mkdir(parents=True, exist_ok=True)
    for path in paths:
        done = subprocess.run(["dpkg-deb", "-x", path, root], capture_output=True, text=True, check=False)
        if done.returncode:
            path.unlink(missing_ok=True)  # so that the next try fetches it again
            raise MatrixError(f"{path.name} does not unpack: {done.stderr.strip()}")
