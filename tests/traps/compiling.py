"""How a trap program is compiled: for the tests, and for the wheel, which carries the programs compiled."""

import os
import shlex
import subprocess
from pathlib import Path

__all__ = ["FLAGS", "PACKAGES", "PROGRAMS", "CompileError", "command", "compile_program", "compiler"]

PROGRAMS = Path(__file__).parent / "programs"
# Static, so that the same file runs in a guest that has no libraries.
FLAGS = ("-std=gnu11", "-O1", "-static", "-pthread", "-D_GNU_SOURCE", "-Wall", "-Wextra")
PACKAGES = "on Debian and Ubuntu: apt-get install gcc libc6-dev"


class CompileError(Exception):
    """A program could not be compiled; the message says why, and the fix where it is known."""


def compiler() -> tuple[str, ...]:
    """The C compiler with its options: $CC (a cross compiler, say), else gcc."""
    return tuple(shlex.split(os.environ.get("CC", ""))) or ("gcc",)


def command(source: Path, target: Path, cc: tuple[str, ...], *extra: str) -> list[str]:
    """The command that compiles one program with the compiler ``cc``; ``extra`` are more options."""
    return [*cc, *FLAGS, *extra, str(source), "-o", str(target)]


def compile_program(source: Path, target: Path, cc: tuple[str, ...], *extra: str) -> None:
    """Compile one program. Raises CompileError."""
    try:
        done = subprocess.run(command(source, target, cc, *extra), capture_output=True, text=True, check=False)
    except OSError as error:
        raise CompileError(f"the trap programs need a C compiler: {cc[0]}: {error.strerror}; {PACKAGES}") from error
    if done.returncode:
        raise CompileError(f"{source.name} does not compile with {cc[0]} ({PACKAGES}):\n{done.stderr.rstrip()}")
