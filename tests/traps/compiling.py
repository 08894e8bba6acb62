"""How a trap program is compiled: for the tests, and for the wheel, which carries the programs compiled."""

import os
import platform
import shlex
import subprocess
from pathlib import Path

__all__ = [
    "FLAGS",
    "PACKAGES",
    "PROGRAMS",
    "CompileError",
    "command",
    "compile_program",
    "compiler",
    "default_compiler",
    "packages",
]

PROGRAMS = Path(__file__).parent / "programs"
# Static, so that the same file runs in a guest that has no libraries.
FLAGS = ("-std=gnu11", "-O1", "-static", "-pthread", "-D_GNU_SOURCE", "-Wall", "-Wextra")
PACKAGES = "on Debian and Ubuntu: apt-get install gcc libc6-dev"
# For another architecture, as Debian calls it; N is the version of gcc.
CROSS_PACKAGES = "on Debian and Ubuntu: apt-get install clang lld libc6-dev-{0}-cross libgcc-N-dev-{0}-cross"
DEBIAN_NAMES = {"aarch64": "arm64", "x86_64": "amd64"}


class CompileError(Exception):
    """A program could not be compiled; the message says why, and the fix where it is known."""


def compiler(machine: str = "") -> tuple[str, ...]:
    """The C compiler with its options: $CC, else default_compiler()."""
    return tuple(shlex.split(os.environ.get("CC", ""))) or default_compiler(machine)


def default_compiler(machine: str = "") -> tuple[str, ...]:
    """The C compiler for ``machine``: gcc for this one, for another clang, which the probes are built by too."""
    if machine in {"", platform.machine()}:
        return ("gcc",)
    # It needs of a cross compiler only the libraries.
    return ("clang", f"--target={machine}-linux-gnu", "-fuse-ld=lld")


def packages(machine: str = "") -> str:
    """How to get what compiles a program for ``machine``, by default this one."""
    if machine in {"", platform.machine()}:
        return PACKAGES
    return CROSS_PACKAGES.format(DEBIAN_NAMES.get(machine, machine))


def command(source: Path, target: Path, cc: tuple[str, ...], *extra: str) -> list[str]:
    """The command that compiles one program with the compiler ``cc``; ``extra`` are more options."""
    return [*cc, *FLAGS, *extra, str(source), "-o", str(target)]


def compile_program(source: Path, target: Path, cc: tuple[str, ...], *extra: str, machine: str = "") -> None:
    """Compile one program for ``machine``, by default this one. Raises CompileError."""
    try:
        done = subprocess.run(command(source, target, cc, *extra), capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(
            f"the trap programs need a C compiler: {cc[0]}: {error.strerror}; {packages(machine)}"
        ) from error
    if done.returncode:
        raise CompileError(
            f"{source.name} does not compile with {cc[0]} ({packages(machine)}):\n{done.stderr.rstrip()}"
        )
