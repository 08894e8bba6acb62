"""Build a .deb for each release of Debian: the program, its libraries from PyPI beside it, the service, manuals.

python -m scripts.deb [--release bookworm] [--out dist]

Libraries with machine code are for one version of Python, so each release has a package of its own. They are fetched by
pip as wheels for that release, on whatever machine this runs; nothing is compiled but the probes. Needs dpkg-deb.
"""

import argparse
import gzip
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Final, NamedTuple

import tracer
from scripts import manuals

ROOT: Final = Path(__file__).parent.parent
PACKAGING: Final = ROOT / "packaging"
LIBRARIES: Final = "usr/lib/tracer"
EXTRAS: Final = "geoip,service"
# The wheels that pip may take, newest first; Debian 12 has glibc 2.36.
PLATFORMS: Final = ("manylinux_2_28", "manylinux_2_17", "manylinux2014", "manylinux_2_12", "manylinux2010", "linux")
ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


class Release(NamedTuple):
    """A release of Debian: its number and its version of Python."""

    number: int
    python: tuple[int, int]

    @property
    def depends(self) -> str:
        """The interpreter that the libraries are for."""
        major, minor = self.python
        return f"python3 (>= {major}.{minor}), python3 (<< {major}.{minor + 1})"


RELEASES: Final = {"bookworm": Release(12, (3, 11)), "trixie": Release(13, (3, 13))}


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--release", action="append", choices=sorted(RELEASES), help="by itself all of them")
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    asked = parser.parse_args()
    asked.out.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tracer-deb-") as scratch:
        wheels = Path(scratch, "wheels")
        own = build_wheels(wheels)
        for name in asked.release or RELEASES:
            stage = Path(scratch, name)
            install(own, wheels, stage / LIBRARIES, RELEASES[name])
            add_files(stage)
            print(build(stage, RELEASES[name], asked.out))


def machine() -> str:
    """The architecture that the package is for, as the kernel calls it."""
    return os.environ.get("TRACER_ARCH") or platform.machine()


def build_wheels(into: Path) -> Path:
    """Make the program's wheel, and those of libraries that PyPI has only as sources."""
    pip("wheel", "--no-deps", "--wheel-dir", into, ROOT)
    (own,) = into.iterdir()
    pip("wheel", "--no-deps", "--wheel-dir", into, "sdnotify")
    return own


def install(own: Path, wheels: Path, target: Path, release: Release) -> None:
    """Put the program and its libraries, of the versions for a release, into a directory."""
    version = ".".join(map(str, release.python))
    platforms = [word for each in PLATFORMS for word in ("--platform", f"{each}_{machine()}")]
    only = ["--only-binary=:all:", "--implementation=cp", f"--python-version={version}", *platforms]
    wanted = f"tracer[{EXTRAS}] @ {own.as_uri()}"
    pip("install", "--no-compile", "--find-links", wheels, *only, "--target", target, wanted)
    shutil.rmtree(target / "bin", ignore_errors=True)


def pip(*arguments: str | Path) -> None:
    """Run pip, quietly."""
    quiet = {"PIP_QUIET": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    subprocess.run([sys.executable, "-m", "pip", *arguments], env=os.environ | quiet, check=True)


def add_files(stage: Path) -> None:
    """Put beside the libraries what makes a package of them."""
    put(PACKAGING / "debian/launcher", stage / "usr/bin/tracer", 0o755)
    put(PACKAGING / "systemd/tracer.service", stage / "usr/lib/systemd/system/tracer.service")
    for kind in ("sysusers.d", "tmpfiles.d"):
        put(PACKAGING / kind / "tracer.conf", stage / "usr/lib" / kind / "tracer.conf")
    put(PACKAGING / "tracer.toml", stage / "etc/tracer/tracer.toml")
    documents = stage / "usr/share/doc/tracer"
    put(PACKAGING / "logrotate/tracer", documents / "examples/logrotate")
    for name in ("README.md", "SECURITY.md"):
        put(ROOT / name, documents / name)
    write(documents / "copyright", (PACKAGING / "debian/copyright.in").read_text().replace("@BUNDLED@", bundled(stage)))
    write(documents / "changelog.gz", gzip.compress((ROOT / "CHANGELOG.md").read_bytes(), mtime=0))
    for name, text in manuals.pages().items():
        section = name.rpartition(".")[2]
        write(stage / f"usr/share/man/man{section}/{name}.gz", gzip.compress(text.encode(), mtime=0))
    for place, text in manuals.completions().items():
        write(stage / place, text)


def bundled(stage: Path) -> str:
    """The libraries in the package, their versions and licenses, as lines of the copyright file."""
    found = []
    for metadata in sorted((stage / LIBRARIES).glob("*.dist-info/METADATA")):
        head = HeaderParser().parsestr(metadata.read_text())
        told = head["License-Expression"] or head["License"] or ""
        classified = [each.rpartition(":: ")[2] for each in head.get_all("Classifier", ()) if "License ::" in each]
        short = told if told and len(told) < 60 and "\n" not in told else ", ".join(classified) or "see its directory"
        found.append(f" {head['Name']} {head['Version']}: {short}")
    return "\n".join(found)


def put(source: Path, target: Path, mode: int = 0o644) -> None:
    """Copy a file."""
    write(target, source.read_bytes(), mode)


def write(target: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Make a file, and the directories above it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content.encode() if isinstance(content, str) else content)
    target.chmod(mode)


def build(stage: Path, release: Release, out: Path) -> Path:
    """Make the package of what is in ``stage``, and give its path."""
    files = sorted(path for path in stage.rglob("*") if path.is_file())
    for path in stage.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    version = f"{tracer.__version__}+deb{release.number}"
    architecture = ARCHITECTURES[machine()]
    words = {
        "VERSION": version,
        "ARCHITECTURE": architecture,
        "SIZE": str(sum(path.stat().st_size for path in files) // 1024),
        "PYTHON": release.depends,
    }
    control = (PACKAGING / "debian/control.in").read_text()
    for name, word in words.items():
        control = control.replace(f"@{name}@", word)
    write(stage / "DEBIAN/control", control)
    for name in ("postinst", "prerm", "postrm"):
        put(PACKAGING / "debian" / name, stage / "DEBIAN" / name, 0o755)
    write(stage / "DEBIAN/conffiles", "/etc/tracer/tracer.toml\n")
    write(stage / "DEBIAN/md5sums", "".join(sums(stage, files)))
    package = out / f"tracer_{version}_{architecture}.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "--build", stage, package], check=True, stdout=subprocess.DEVNULL)
    return package


def sums(stage: Path, files: list[Path]) -> Iterator[str]:
    """The lines by which dpkg --verify finds what was changed."""
    for path in files:
        name = path.relative_to(stage)
        if name.parts[0] != "etc":
            yield f"{hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()}  {name}\n"


if __name__ == "__main__":
    main()
