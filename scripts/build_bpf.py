"""Compile the BPF programs of bpf/ into the objects that the loader opens: for `make bpf` and for the wheel.

The objects are for this machine's architecture, or for that of TRACER_ARCH in the environment (as uname -m names it):
clang needs no other compiler for that. Each architecture's objects have a directory of their own.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path("bpf")
OBJECTS = Path("tracer/probes/objects")

# What libbpf's bpf_tracing.h wants to be told about the registers of the machine.
TARGET_ARCH = {"x86_64": "x86", "aarch64": "arm64"}

PACKAGES = "on Debian and Ubuntu: apt-get install clang llvm libbpf-dev linux-libc-dev"


class BuildError(Exception):
    """The objects could not be built; the message says why, and the fix where it is known."""


def target_machine() -> str:
    """Return the architecture to build for: TRACER_ARCH, or this machine. Raises BuildError for an unknown one."""
    machine = os.environ.get("TRACER_ARCH") or platform.machine()
    if machine not in TARGET_ARCH:
        raise BuildError(f"no probes for machine {machine}: only {', '.join(TARGET_ARCH)}")
    return machine


def object_of(source: Path, machine: str) -> Path:
    """Return where the object of a source goes, relative to the root of the project."""
    return OBJECTS / machine / f"{source.name.removesuffix('.c')}.o"


def sources(root: Path) -> list[Path]:
    """Return every BPF program of the project, relative to its root, in a stable order."""
    return sorted(path.relative_to(root) for path in (root / SOURCES).glob("*.bpf.c"))


def include_flags(machine: str) -> list[str]:
    """Return the flags by which clang finds asm/types.h: Debian keeps it apart per architecture, and bpf is none.

    The second place is that of the packages for cross building; a place that is not there does no harm.
    """
    return ["-isystem", f"/usr/include/{machine}-linux-gnu", "-isystem", f"/usr/{machine}-linux-gnu/include"]


def compile_bpf(root: Path, source: Path) -> Path:
    """Compile one program and return its object, both relative to `root`.

    The object is for target_machine(). It keeps its BTF, which the loader needs, and loses its DWARF. It replaces an
    older one in one step, so that two builds at once, or a program that is just loading it, never see half an object.

    Raises BuildError when a tool or header is missing, when the machine is not supported, and when clang refuses.
    """
    machine = target_machine()
    clang = _tool("CLANG", "clang")
    strip = _tool("LLVM_STRIP", "llvm-strip")
    flags = ["-target", "bpf", "-mcpu=v3", f"-D__TARGET_ARCH_{TARGET_ARCH[machine]}"]
    flags += include_flags(machine)
    probe = _run([clang, *flags, "-E", "-x", "c", "-", "-o", os.devnull], root, "#include <bpf/bpf_helpers.h>\n")
    if probe.returncode:
        raise BuildError(f"bpf/bpf_helpers.h, a header of libbpf, is missing; {PACKAGES}")

    # BTF carries the names of source files: keep the place of the checkout out of the object.
    flags += ["-g", "-O2", "-Wall", "-Wextra", "-Werror", f"-ffile-prefix-map={root.resolve()}=."]
    target = object_of(source, machine)
    (root / target).parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=(root / target).parent, prefix=".build-") as scratch:
        built = Path(scratch) / target.name
        for command in ([clang, *flags, "-c", str(source), "-o", str(built)], [strip, "-g", str(built)]):
            result = _run(command, root)
            if result.returncode:
                raise BuildError(f"{source} does not build:\n{result.stderr.rstrip()}")
        built.replace(root / target)
    return target


def _tool(variable: str, name: str) -> str:
    wanted = os.environ.get(variable) or name
    found = shutil.which(wanted)
    if found is None:
        raise BuildError(f"{wanted} is missing; {PACKAGES}")
    return found


def _run(command: list[str], root: Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=root, input=text, capture_output=True, text=True, check=False)


def main(arguments: list[str]) -> int:
    """Compile the named sources, or all, and return the exit code."""
    root = Path(__file__).resolve().parent.parent
    try:
        for source in [Path(name) for name in arguments] or sources(root):
            print(compile_bpf(root, source))
    except BuildError as error:
        print(f"build_bpf: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
