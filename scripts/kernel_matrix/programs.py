"""Makes the disk with what is tested: our wheel, the guest script, and the generators of the checks."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from scripts.bytes.errors import BytesError
from scripts.bytes.generator import compile_generator
from scripts.kernel_matrix.cache import Cache
from scripts.kernel_matrix.disks import make_disk
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.userland import MACHINES, compile_python
from tests.traps.compiling import CompileError, compile_program, compiler

FORMAT = "1"  # of what is made here: part of every key
LABEL = "program"
INIT = Path(__file__).with_name("init.sh")
GUEST = Path("vagrant/guest")
STORM = Path("scripts/attribution/storm.c")
BYTES = Path("scripts/bytes")
_BUILD_S = 600

# All that the disk depends on, relative to the source tree.
_SOURCES = (
    *("tracer", "bpf", "tests/__init__.py", "tests/conftest.py", "tests/tracing.py", "tests/traps"),
    *("scripts/attribution", "scripts/bytes", "scripts/build_bpf.py", "scripts/build_corpus.py", "hatch_build.py"),
    *("vagrant/guest", "pyproject.toml", "README.md", "LICENSE"),
)
_MADE = ("__pycache__", "objects")  # the wheel makes its own objects
_KINDS = (".py", ".c", ".h", ".toml", ".md", ".txt", ".typed", "")


def sources_of(tree: Path) -> Iterator[Path]:
    """The files of a source tree that end up in the disk or decide what does."""
    for name in _SOURCES:
        place = tree / name
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        yield from (
            path
            for path in found
            if path.is_file() and path.suffix in _KINDS and not {*path.relative_to(tree).parts} & {*_MADE}
        )


def key_of(tree: Path) -> str:
    """A key of the contents of the sources, the same for the same ones wherever they are."""
    digest = hashlib.sha256(FORMAT.encode())
    for path in (*sources_of(tree), INIT):
        name = path.relative_to(tree) if path.is_relative_to(tree) else Path(path.name)
        digest.update(f"{name}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def build_wheel(tree: Path, place: Path, machine: str) -> Path:
    """Build the wheel of a source tree for a machine into `place`.

    Raises MatrixError with the end of what pip said when it does not build.
    """
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    # The build backend is in the environment of the tests already.
    command += ["--no-build-isolation", "--wheel-dir", str(place), str(tree)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        timeout=_BUILD_S,
        env={**os.environ, "TRACER_ARCH": machine},
    )
    wheels = list(place.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise MatrixError("the wheel does not build:\n" + "\n".join(done.stderr.strip().splitlines()[-30:]))
    return wheels[0]


def build_storm(tree: Path, target: Path, machine: str) -> None:
    """Compile the generator of the attribution check, static. Raises MatrixError with the compiler's message."""
    try:
        compile_program(tree / STORM, target, compiler(machine), "-std=gnu17", "-O2", machine=machine)
    except CompileError as error:
        raise MatrixError(str(error)) from error


def build_traffic(tree: Path, target: Path, machine: str) -> None:
    """Compile the generator of the check of bytes, static. Raises MatrixError with the compiler's message."""
    try:
        compile_generator(target, machine, tree)
    except BytesError as error:
        raise MatrixError(str(error)) from error


def make_program(cache: Cache, tree: Path, arch: str) -> Path:
    """The disk with the programs of a source tree, for an architecture.

    Raises MatrixError when something does not build.
    """
    machine = MACHINES[arch]

    def make(target: Path) -> None:
        with cache.scratch() as root:
            root.chmod(0o755)
            wheels = root / "wheels"
            with zipfile.ZipFile(build_wheel(tree, wheels, machine)) as wheel:
                wheel.extractall(root / "python")
            shutil.rmtree(wheels)
            compile_python(root / "python", "/opt/tracer/python")
            (root / "scripts").mkdir()
            for check in (STORM.parent, BYTES):
                shutil.copytree(tree / check, root / check, ignore=shutil.ignore_patterns("__pycache__", "traffic"))
            compile_python(root / "scripts", "/opt/tracer/scripts")
            build_storm(tree, root / "storm", machine)
            build_traffic(tree, root / "traffic", machine)
            for source, name in ((INIT, "init"), (tree / GUEST, "guest")):
                shutil.copy(source, root / name)
                (root / name).chmod(0o755)
            make_disk(root, target, LABEL)

    return cache.entry(f"images/program-{arch}-{key_of(tree)}.disk", make)
