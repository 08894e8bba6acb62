"""The compile step and the wheel, tried on copies of the project with a program of their own."""

import io
import os
import platform
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts import build_bpf, build_corpus
from tests.probes.btf import Btf, section
from tests.traps.compiling import PACKAGES

ROOT = Path(__file__).parent.parent

TOY = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct toy_record { __u64 when; };

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct toy_record);
} toy SEC(".maps");

SEC("raw_tp/sched_process_exit")
int toy_exit(void *ctx)
{
	(void)ctx;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of one BPF program and one trap program, with the build of this one."""
    for name in (
        "pyproject.toml",
        "hatch_build.py",
        "LICENSE",
        "scripts/build_bpf.py",
        "scripts/build_corpus.py",
        "tests/__init__.py",
        "tests/traps/__init__.py",
        "tests/traps/compiling.py",
        "tracer/__init__.py",
        ".gitignore",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    readme = ROOT / "README.md"
    if readme.exists():
        shutil.copy(readme, tmp_path)
    (tmp_path / "bpf").mkdir()
    (tmp_path / "bpf/toy.bpf.c").write_text(TOY)
    (tmp_path / "tests/traps/programs").mkdir()
    (tmp_path / "tests/traps/programs/trap_99_toy.c").write_text("int main(void) { return 99; }\n")
    return tmp_path


# A program that names a register of the caller, which only the right architecture's types have.
REGISTERS = """
#include "kernel.h"
#include "tracer.h"
#include "compat.h"

SEC("tp/syscalls/sys_exit_execve")
int first_argument(struct trace_event_raw_sys_exit *ctx)
{
	const struct pt_regs *regs = user_regs((void *)bpf_get_current_task());

	(void)ctx;
	return REGS_ARG1(regs) == 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
"""


def sections(path: Path) -> set[str]:
    """Return the names of the sections of an object file."""
    lines = subprocess.run(["llvm-readelf", "-S", "-W", path], capture_output=True, text=True, check=True).stdout
    return {word for line in lines.splitlines() for word in line.split() if word.startswith(".")}


def test_object(project: Path) -> None:
    """The object has the BTF that a loader needs, no DWARF, and nothing of where it was built."""
    target = project / build_bpf.compile_bpf(project, Path("bpf/toy.bpf.c"))
    assert target == project / f"tracer/probes/objects/{platform.machine()}/toy.bpf.o"
    assert {".BTF", ".BTF.ext", ".maps"} <= sections(target)
    assert not any(name.startswith((".debug", ".rel.debug")) for name in sections(target))
    assert str(project).encode() not in target.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["toy.bpf.o"]


def test_warnings_stop_the_build(project: Path) -> None:
    """A warning of clang is an error that shows the line, and the object that was there stays."""
    source = project / "bpf/toy.bpf.c"
    target = project / build_bpf.compile_bpf(project, Path("bpf/toy.bpf.c"))
    before = target.read_bytes()
    source.write_text(TOY.replace("(void)ctx;", ""))
    with pytest.raises(build_bpf.BuildError, match=r"(?s)toy\.bpf\.c does not build:.*unused parameter 'ctx'"):
        build_bpf.compile_bpf(project, Path("bpf/toy.bpf.c"))
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["toy.bpf.o"]


@pytest.mark.parametrize(("machine", "field", "foreign"), [("x86_64", "di", "orig_x0"), ("aarch64", "orig_x0", "di")])
def test_other_architecture(
    project: Path, monkeypatch: pytest.MonkeyPatch, machine: str, field: str, foreign: str
) -> None:
    """Any machine compiles for each architecture, with the registers of that one, and keeps them apart."""
    for name in ("kernel.h", "tracer.h", "compat.h"):
        shutil.copy(ROOT / "bpf" / name, project / "bpf")
    (project / "bpf/toy.bpf.c").write_text(REGISTERS)
    monkeypatch.setenv("TRACER_ARCH", machine)
    target = build_bpf.compile_bpf(project, Path("bpf/toy.bpf.c"))
    assert target == Path(f"tracer/probes/objects/{machine}/toy.bpf.o")
    btf = Btf(section((project / target).read_bytes(), ".BTF"))
    members = {member.name for member in btf.struct("pt_regs").members}
    assert field in members
    assert foreign not in members


@pytest.mark.parametrize("variable", ["CLANG", "LLVM_STRIP"])
def test_missing_tool(project: Path, variable: str) -> None:
    """Without a tool the command ends with one line that names it and the packages, and exit code 1."""
    result = subprocess.run(
        [sys.executable, project / "scripts/build_bpf.py"],
        env=os.environ | {variable: "no-such-tool"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert result.stderr == f"build_bpf: no-such-tool is missing; {build_bpf.PACKAGES}\n"


def test_missing_header(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libbpf's headers the error names them and the packages in one line."""
    # A clang that looks into no system directory is what a machine without libbpf-dev looks like.
    bare = tmp_path / "bare-clang"
    bare.write_text('#!/bin/sh\nexec clang -nostdinc "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setenv("CLANG", str(bare))
    monkeypatch.setattr(build_bpf, "include_flags", lambda _machine: [])
    with pytest.raises(build_bpf.BuildError) as caught:
        build_bpf.compile_bpf(project, Path("bpf/toy.bpf.c"))
    assert str(caught.value) == f"bpf/bpf_helpers.h, a header of libbpf, is missing; {build_bpf.PACKAGES}"


@pytest.mark.parametrize("asked", [False, True])
def test_unknown_machine(project: Path, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    """A machine whose registers the probes do not know is refused by name, this one or one that was asked for."""
    monkeypatch.setattr("platform.machine", lambda: "x86_64" if asked else "riscv64")
    if asked:
        monkeypatch.setenv("TRACER_ARCH", "riscv64")
    with pytest.raises(build_bpf.BuildError, match="no probes for machine riscv64: only x86_64, aarch64"):
        build_bpf.compile_bpf(project, Path("bpf/toy.bpf.c"))


def build_wheel(project: Path, out: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the wheel of a project without any network."""
    pip = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    return subprocess.run(
        [*pip, "--wheel-dir", out, project],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_wheel(project: Path, tmp_path: Path, machine: str) -> None:
    """The wheel is for Linux on its architecture and every Python 3, and holds its objects of today's sources alone."""
    for stale in ("toy.bpf.o", "x86_64/gone.bpf.o", "aarch64/gone.bpf.o", "riscv64/toy.bpf.o"):
        left = project / "tracer/probes/objects" / stale
        left.parent.mkdir(parents=True, exist_ok=True)
        left.touch()
    result = build_wheel(project, tmp_path / "out", TRACER_ARCH=machine)
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name.endswith(f"-py3-none-linux_{machine}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith("/WHEEL"))
        assert machines(archive) == {"trap_99_toy": {"x86_64": 62, "aarch64": 183}[machine]}
    assert [name for name in names if name.endswith(".o")] == [f"tracer/probes/objects/{machine}/toy.bpf.o"]
    assert "tracer/probes/bpf/toy.bpf.c" in names
    assert "Root-Is-Purelib: false" in metadata
    assert f"Tag: py3-none-linux_{machine}\n" in metadata


def machines(archive: zipfile.ZipFile) -> dict[str, int]:
    """The trap programs that a wheel carries, and the e_machine of each one's ELF header (elf.h)."""
    with (
        archive.open("tracer/corpus/tests/traps/programs.tar.xz") as packed,
        tarfile.open(fileobj=packed, mode="r:xz") as programs,
    ):
        heads = {entry.name: programs.extractfile(entry) for entry in programs}
        return {name: struct.unpack("<18xH", head.read(20))[0] for name, head in heads.items() if head is not None}


def test_whole_wheel_for_the_other_architecture(tmp_path: Path) -> None:
    """This project's own wheel for the architecture that is not this one: each object and program is for that one."""
    other, register, number = {"x86_64": ("aarch64", "orig_x0", 183), "aarch64": ("x86_64", "di", 62)}[
        platform.machine()
    ]
    project = tmp_path / "project"
    for name in ("tracer", "bpf", "scripts", "tests"):
        shutil.copytree(ROOT / name, project / name, ignore=shutil.ignore_patterns("__pycache__", "objects"))
    for name in ("pyproject.toml", "hatch_build.py", "LICENSE", "README.md", ".gitignore"):
        shutil.copy(ROOT / name, project)
    result = build_wheel(project, tmp_path / "out", TRACER_ARCH=other, CC="")
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name.endswith(f"-py3-none-linux_{other}.whl")
    with zipfile.ZipFile(wheel) as archive:
        objects = {name for name in archive.namelist() if name.endswith(".o")}
        names = {path.name.removesuffix(".c") for path in (ROOT / "bpf").glob("*.bpf.c")}
        assert objects == {f"tracer/probes/objects/{other}/{name}.o" for name in names}
        btf = Btf(section(archive.read(f"tracer/probes/objects/{other}/process.bpf.o"), ".BTF"))
        programs = machines(archive)
    assert register in {member.name for member in btf.struct("pt_regs").members}
    sources = {path.stem for path in (ROOT / "tests/traps/programs").glob("*.c")}
    assert programs == dict.fromkeys(sources, number)


def test_wheel_of_two_architectures(project: Path, tmp_path: Path) -> None:
    """A compiler that compiles for another machine than the wheel is for makes no wheel, and is named."""
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
    result = build_wheel(project, tmp_path / "out", TRACER_ARCH=other, CC="gcc")
    assert result.returncode != 0
    assert f"gcc does not compile for {other}" in result.stdout + result.stderr


def test_wheel_carries_the_corpus(project: Path, tmp_path: Path) -> None:
    """The wheel holds the tests and, in one archive, their programs: static, stripped, without the build's paths."""
    result = build_wheel(project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("tracer/corpus/")}
        packed = archive.read("tracer/corpus/tests/traps/programs.tar.xz")
    assert names == {
        "tracer/corpus/bpf/toy.bpf.c",
        "tracer/corpus/tests/__init__.py",
        "tracer/corpus/tests/traps/__init__.py",
        "tracer/corpus/tests/traps/compiling.py",
        "tracer/corpus/tests/traps/programs.tar.xz",
    }
    with tarfile.open(fileobj=io.BytesIO(packed)) as programs:
        assert programs.getnames() == ["trap_99_toy"]
        data = programs.extractfile("trap_99_toy")
        assert data is not None
        program = tmp_path / "trap_99_toy"
        program.write_bytes(data.read())
        program.chmod(programs.getmember("trap_99_toy").mode)
    assert subprocess.run([program], check=False).returncode == 99
    assert not {".interp", ".dynamic", ".symtab", ".debug_info"} & sections(program)
    assert str(project).encode() not in program.read_bytes()
    assert not (project / "tracer/corpus").exists()


def test_the_same_programs_give_the_same_archive(project: Path, tmp_path: Path) -> None:
    """Built twice, the archive is the same to the byte: nothing of when or where it was built is in it."""
    made = []
    for name in ("one", "two"):
        build_corpus.pack_programs(project, tmp_path / name, platform.machine())
        made.append((tmp_path / name).read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    ("variable", "message"),
    [
        ("CLANG", f"no-such-tool is missing; {build_bpf.PACKAGES}"),
        ("CC", f"the trap programs need a C compiler: no-such-tool: No such file or directory; {PACKAGES}"),
    ],
)
def test_wheel_without_compiler(project: Path, tmp_path: Path, variable: str, message: str) -> None:
    """Without clang or gcc no wheel is made, and the reason is one line, not a traceback."""
    result = build_wheel(project, tmp_path / "out", **{variable: "no-such-tool"})
    assert result.returncode != 0
    assert message in result.stdout + result.stderr
    assert "Traceback" not in result.stdout + result.stderr


def test_wheel_without_probes(project: Path, tmp_path: Path) -> None:
    """A tree without BPF programs makes no wheel."""
    (project / "bpf/toy.bpf.c").unlink()
    result = build_wheel(project, tmp_path / "out")
    assert result.returncode != 0
    assert "no BPF programs" in result.stdout + result.stderr
