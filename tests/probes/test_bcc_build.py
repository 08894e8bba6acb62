"""What is needed to compile on a machine, what is kept of it, and what is said when it fails; BCC itself is a fake."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.probes.fake_bcc import fake_bcc, interpreter_with
from tracer.probes import bcc_build, code_cache
from tracer.probes.bcc_build import BuildError, Built, build

RELEASE = os.uname().release
MAPS = {"events": 1000, "knobs": 1001}
PROGRAMS = ("process_exec", "process_exit")

Bcc = Callable[[str], None]


@pytest.fixture(name="bcc")
def _bcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bcc:
    """A machine with the right headers, an empty cache, and a BCC whose compiler does as told."""
    build_directory(tmp_path / "lib", f'#define UTS_RELEASE "{RELEASE}"\n')
    monkeypatch.setattr(bcc_build, "MODULES", tmp_path / "lib")
    monkeypatch.setattr(code_cache, "place", lambda: tmp_path / "cache")

    def use(answer: str) -> None:
        monkeypatch.setattr(bcc_build, "_INTERPRETERS", (interpreter_with(tmp_path, fake_bcc(answer)),))

    return use


def build_directory(modules: Path, release: str | None) -> Path:
    """A directory of headers that says which kernel it is of."""
    place = modules / RELEASE / "build"
    (place / "include/generated").mkdir(parents=True)
    if release is not None:
        (place / "include/generated/utsrelease.h").write_text(release)
    return place


def built() -> Built:
    """The programs of the fake compiler."""
    return build(MAPS, PROGRAMS, 16)


# Headers.


def test_headers_of_this_kernel(bcc: Bcc, tmp_path: Path) -> None:
    """Headers that name the running kernel are taken."""
    assert bcc_build.headers() == tmp_path / "lib" / RELEASE / "build"


@pytest.mark.parametrize(
    ("release", "words"),
    [
        ('#define UTS_RELEASE "5.4.0-1-other"\n', "another kernel, 5.4.0-1-other"),
        (f'#define UTS_RELEASE "{RELEASE}-rt"\n', f"another kernel, {RELEASE}-rt"),
        ("", "does not say"),
        (None, "does not say"),
    ],
)
def test_other_headers_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, release: str | None, words: str
) -> None:
    """Headers of another kernel, however near, or of nobody knows which, are refused with what to install."""
    build_directory(tmp_path, release)
    monkeypatch.setattr(bcc_build, "MODULES", tmp_path)
    with pytest.raises(BuildError, match=words) as error:
        bcc_build.headers()
    assert f"linux-headers-{RELEASE}" in str(error.value)


def test_missing_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without headers the message says where they would be, and what to install."""
    monkeypatch.setattr(bcc_build, "MODULES", tmp_path)
    with pytest.raises(BuildError, match="are missing: no ") as error:
        bcc_build.headers()
    assert str(tmp_path / RELEASE / "build") in str(error.value)
    assert f"linux-headers-{RELEASE}" in str(error.value)


def test_release_in_the_other_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where utsrelease.h is not among the headers, kernel.release tells."""
    place = build_directory(tmp_path, None)
    (place / "include/config").mkdir()
    (place / "include/config/kernel.release").write_text(f"{RELEASE}\n")
    monkeypatch.setattr(bcc_build, "MODULES", tmp_path)
    assert bcc_build.headers() == place


def test_nothing_is_compiled_against_other_headers(bcc: Bcc, tmp_path: Path) -> None:
    """The compiler is not even asked when the headers are another kernel's, also when there is code in the cache."""
    bcc("return b'12345678'")
    assert built().cached is False
    shutil.rmtree(tmp_path / "lib")
    build_directory(tmp_path / "lib", '#define UTS_RELEASE "5.4.0"\n')
    with pytest.raises(BuildError, match="another kernel"):
        built()


# Compiling.


def test_sources_and_flags_reach_the_compiler(bcc: Bcc, tmp_path: Path) -> None:
    """The compiler gets both sources as one, the maps' numbers, the position of the result, and a bare environment."""
    bcc(
        "import os\n"
        f"open({str(tmp_path / 'seen')!r}, 'w').write(repr((flags, sorted(os.environ))) + text)\n"
        "return b'12345678'"
    )
    result = built()
    assert result.code == dict.fromkeys(PROGRAMS, b"12345678")
    assert result.version == "9.9"
    seen = (tmp_path / "seen").read_text()
    for flag in ("-DTRACER_BCC", "-DFD_events=1000", "-DFD_knobs=1001", "-DSYS_EXIT_RET=16"):
        assert f"'{flag}'" in seen
    assert "BPF_PROG(process_exec" in seen
    assert "BPF_PROG(socket_state_change" in seen
    assert "BCC_LACKS_UAPI" not in seen
    assert "'PATH'" in seen
    assert "'HOME'" not in seen


def test_second_attempt_with_what_this_bcc_lacks(bcc: Bcc, tmp_path: Path) -> None:
    """Headers that this BCC is too old for compile at the second attempt; what the first one said is not shown."""
    bcc("if '-DBCC_LACKS_UAPI' not in flags:\n    raise Exception('no')\nreturn b'12345678'")
    assert built().code == dict.fromkeys(PROGRAMS, b"12345678")


def test_first_error_line_is_told(bcc: Bcc, capfd: pytest.CaptureFixture[str]) -> None:
    """clang's first error becomes the reason, of the attempt that failed with less; nothing comes out on stderr."""
    bcc(
        "sys.stderr.write('In file included from a.h:1:\\na.h:7:1: warning: odd\\n')\n"
        "if '-DBCC_LACKS_UAPI' not in flags:\n"
        "    sys.stderr.write('a.h:8:2: error: four structs\\na.h:9:2: error: and more\\n')\n"
        "else:\n"
        "    sys.stderr.write('fs.h:2442:1: error: static_assert failed\\n1 error generated.\\n')\n"
        "raise Exception('Failed to compile BPF module <text>')"
    )
    with pytest.raises(BuildError, match=r"kernel: fs\.h:2442:1: error: static_assert failed$"):
        built()
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_failure_without_a_message_of_clangs(bcc: Bcc) -> None:
    """Where there is no error line, BCC's own words are the reason."""
    bcc("raise Exception('Failed to load BPF program')")
    with pytest.raises(BuildError, match=r"kernel: Failed to load BPF program$"):
        built()


def test_compiler_that_dies(bcc: Bcc) -> None:
    """A compiler that is killed is told as that, with its last words."""
    bcc("import os\nsys.stderr.write('LLVM ERROR: out of memory\\n')\nsys.stderr.flush()\nos.kill(os.getpid(), 9)")
    with pytest.raises(BuildError, match="by signal 9: LLVM ERROR: out of memory"):
        built()


def test_wrong_bcc_is_passed_over(bcc: Bcc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyPI's bcc in the own environment does not matter where the system's interpreter has the real one."""
    bcc("return b'12345678'")
    (tmp_path / "venv").mkdir()
    wrong = interpreter_with(tmp_path / "venv", "class Lattice: pass\n")
    monkeypatch.setattr(bcc_build, "_INTERPRETERS", (wrong, *bcc_build._INTERPRETERS))
    assert built().version == "9.9"
    assert bcc_build.binding()["interpreter"] == str(tmp_path / "python3")
    monkeypatch.setattr(bcc_build, "_INTERPRETERS", (wrong,))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(BuildError, match=r"the wrong bcc: .*modules/bcc\.py.*unrelated.*python3-bpfcc"):
        built()


def test_code_that_is_none(bcc: Bcc) -> None:
    """A program that is missing from what was compiled is an error that names it."""
    bcc("return b''")
    with pytest.raises(BuildError, match="process_exec"):
        built()


# The cache.


def test_second_build_comes_from_the_cache(bcc: Bcc) -> None:
    """What was compiled is not compiled again, and no interpreter is started for it."""
    bcc("return b'12345678'")
    first = built()
    bcc("raise Exception('compiled again')")
    second = built()
    assert (first.cached, second.cached) == (False, True)
    assert (second.code, second.version) == (first.code, first.version)
    with pytest.raises(BuildError, match="compiled again"):
        build(MAPS, PROGRAMS, 16, fresh=True)


@pytest.mark.parametrize("what", ["maps", "programs", "position", "source", "release", "version"])
def test_anything_that_matters_compiles_again(
    bcc: Bcc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str
) -> None:
    """Other maps, programs or tracepoint layouts, a changed source, another kernel or build of it: compiled anew."""
    bcc("return b'12345678'")
    built()
    maps, programs, position = dict(MAPS), PROGRAMS, 16
    if what == "maps":
        maps["events"] = 1002
    elif what == "programs":
        programs = ("process_exec", "process_fork")
    elif what == "position":
        position = 24
    elif what == "source":
        copy = tmp_path / "bpf"
        shutil.copytree(bcc_build._SOURCE_PLACES[1], copy)
        with (copy / "tracer.h").open("a") as header:
            header.write("/* changed */\n")
        monkeypatch.setattr(bcc_build, "_SOURCE_PLACES", (copy,))
    else:
        real = os.uname()
        fields = dict(zip(("sysname", "nodename", "release", "version", "machine"), real, strict=True))
        fields[what] += "x"
        monkeypatch.setattr(os, "uname", lambda: os.uname_result(list(fields.values())))
        if what == "release":
            build_place = tmp_path / "lib" / fields["release"] / "build/include/generated"
            build_place.mkdir(parents=True)
            (build_place / "utsrelease.h").write_text(f'#define UTS_RELEASE "{fields["release"]}"\n')
    assert build(maps, programs, position).cached is False


def test_without_a_cache_it_works(bcc: Bcc, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that can't be written to costs a compilation each time, and nothing else."""
    monkeypatch.setattr(code_cache, "place", lambda: Path("/proc/nowhere"))
    bcc("return b'12345678'")
    assert [built().cached, built().cached] == [False, False]
