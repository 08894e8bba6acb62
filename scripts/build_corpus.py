"""Put the trap corpus together for the wheel: its tests as they are, its programs compiled into one archive."""

import lzma
import struct
import sys
import tarfile
import tempfile
from pathlib import Path

# Run by its path or from the build hook: the module it shares with the tests lies in the project.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.build_bpf import BuildError, target_machine  # after the path that they need
from tests.traps.compiling import CompileError, compile_program, compiler

__all__ = ["ARCHIVE", "CORPUS", "CompileError", "corpus_files", "pack_programs"]

# Where it lies in the wheel, and what of the project is in it.
CORPUS = "tracer/corpus"
_FILES = ("tests/__init__.py", "tests/conftest.py", "tests/tracing.py", "tests/traps/*.py", "bpf/*.[ch]")
ARCHIVE = "tests/traps/programs.tar.xz"
# e_machine of an ELF file, from elf.h.
_ELF_MACHINE = {"x86_64": 62, "aarch64": 183}


def corpus_files(root: Path) -> dict[str, str]:
    """The files of the corpus, absolute path in the project -> path in the wheel."""
    found = sorted(path for pattern in _FILES for path in root.glob(pattern))
    return {str(path): f"{CORPUS}/{path.relative_to(root)}" for path in found}


def pack_programs(root: Path, target: Path, machine: str) -> int:
    """Compile every program for ``machine``, stripped, into one solid archive; returns how many there are.

    Each holds much the same libc: in one stream with a window over several of them it is stored about once. The same
    programs give the same bytes. Raises CompileError.
    """
    cc = compiler(machine)
    sources = sorted((root / "tests/traps/programs").glob("*.c"))
    with tempfile.TemporaryDirectory(prefix="corpus-") as scratch:
        filters = [{"id": lzma.FILTER_LZMA2, "preset": 9, "dict_size": 32 << 20}]
        with (
            lzma.open(target, "wb", check=lzma.CHECK_CRC64, filters=filters) as stream,
            tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for source in sources:
                program = Path(scratch) / source.stem
                # The name of the project's directory must not be in what is compiled from it.
                compile_program(source, program, cc, "-s", f"-ffile-prefix-map={root.resolve()}=.", machine=machine)
                # $CC may be a compiler for any machine.
                if struct.unpack_from("<H", program.read_bytes(), 18)[0] != _ELF_MACHINE[machine]:
                    raise CompileError(f"{' '.join(cc)} does not compile for {machine}: set CC to what does")
                entry = tarfile.TarInfo(source.stem)
                entry.size, entry.mode = program.stat().st_size, 0o755
                with program.open("rb") as data:
                    archive.addfile(entry, data)
                program.unlink()
    return len(sources)


def main(arguments: list[str]) -> int:
    """Write the archive to the path given: for a guest that has the tests but no compiler.

    The programs are for this machine's architecture, or that of TRACER_ARCH.
    """
    if len(arguments) != 1:
        print("usage: build_corpus.py FILE", file=sys.stderr)
        return 2
    try:
        count = pack_programs(Path(__file__).resolve().parent.parent, Path(arguments[0]), target_machine())
    except (BuildError, CompileError) as error:
        print(f"build_corpus: {error}", file=sys.stderr)
        return 1
    print(f"{arguments[0]}: {count} programs, {Path(arguments[0]).stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
