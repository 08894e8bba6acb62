"""The compile step and the wheel, tried on copies of the project with a program of their own."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from scripts import build_bpf, build_corpus
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


def sections(path: Path) -> set[str]:
    """Return the names of the sections of an object file."""
    lines = subprocess.run(["llvm-readelf", "-S", "-W", path], capture_output=True, text=True, check=True).stdout
    return {word for line in lines.splitlines() for word in line.split() if word.startswith(".")}


def test_object(project: Path) -> None:
    """The object has the BTF that a loader needs, no DWARF, and nothing of where it was built."""
    target = project / build_bpf.compile_bpf(project, Path("bpf/toy.bpf.c"))
    assert target == project / "tracer/probes/objects/toy.bpf.o"
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


def test_unknown_machine(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose registers the probes do not know is refused by name."""
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
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


def test_wheel(project: Path, tmp_path: Path) -> None:
    """The wheel is for Linux on this architecture and every Python 3, and holds today's sources and their objects."""
    stale = project / "tracer/probes/objects/gone.bpf.o"
    stale.parent.mkdir(parents=True)
    stale.touch()
    result = build_wheel(project, tmp_path / "out")
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "out").iterdir()
    assert wheel.name.endswith(f"-py3-none-linux_{os.uname().machine}.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(name).decode() for name in names if name.endswith("/WHEEL"))
    assert [name for name in names if name.endswith(".o")] == ["tracer/probes/objects/toy.bpf.o"]
    assert "tracer/probes/bpf/toy.bpf.c" in names
    assert "Root-Is-Purelib: false" in metadata


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
        build_corpus.pack_programs(project, tmp_path / name, ("gcc",))
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
