"""The self-test: outcomes of tests become rows, refusals are one line, and the wheel carries all that it needs."""

import json
import os
import subprocess
import sys
import time
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import ROOT, TRACER, assert_refused, run, shell
from tracer.cli import corpus, selftest
from tracer.cli.corpus import TITLES, Corpus, CorpusRun
from tracer.cli.errors import CommandError, Exit

ROW = {"trap", "title", "backend", "result", "cases", "reasons", "failures", "seconds"}
COVERAGE = {"backend": "core", "hooks": {"probe": "tp_btf/x"}, "refused": {}, "blind": ["much"]}

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# A corpus with every outcome that there is; its tests need no privilege.
MODULES = {
    "01_passes": """
        import pytest
        @pytest.mark.parametrize("case", ["a", "b"])
        def test_good(case): print("nobody sees this")
    """,
    "02_fails": """
        def test_good(): pass
        def test_bad(): assert {"told": 1} == {"told": 2}
    """,
    "03_partly": """
        import pytest
        def test_good(): pass
        def test_missing(): pytest.skip("this kernel has no overlay")
        def test_missing_too(): pytest.skip("this kernel has no overlay")
    """,
    "04_missing": """
        import pytest
        def test_asked(): pytest.skip("disturbs the machine: only with --disruptive")
    """,
    "05_skips": """
        import pytest
        def test_lazy(): pytest.skip("not today")
    """,
    "07_setup": """
        import pytest
        @pytest.fixture
        def thing(): raise ValueError("no thing")
        def test_thing(thing): pass
    """,
    "18_teardown": """
        import pytest
        @pytest.fixture
        def thing():
            yield 1
            raise ValueError("left behind")
        def test_thing(thing): pass
    """,
    "19_module": """
        raise ImportError("no such module")
    """,
}


@pytest.fixture(name="fake")
def _fake(tmp_path: Path) -> Corpus:
    """The fake corpus, under the names of the real one."""
    traps = tmp_path / "tests/traps"
    traps.mkdir(parents=True)
    (traps.parent / "__init__.py").touch()
    (traps / "__init__.py").touch()
    (traps.parent / "tracing.py").write_text((ROOT / "tests/tracing.py").read_text())
    (traps / "conftest.py").touch()
    modules = {}
    for name, text in MODULES.items():
        path = traps / f"test_{name}.py"
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in text.splitlines()))
        modules[int(name[:2])] = [path]
    return Corpus(tmp_path, modules, compiled=False)


@pytest.fixture(name="command")
def _command(fake: Corpus, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """The command on the fake corpus, without probes."""
    monkeypatch.setattr(selftest, "find_corpus", lambda: fake)
    monkeypatch.setattr(selftest, "_coverage", lambda _corpus, _backend: COVERAGE)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("signal.signal", lambda *_: None)  # pytest's own stay
    return fake


def rows(capfd: pytest.CaptureFixture[str], *traps: int) -> tuple[Exit, dict[int, dict[str, Any]], dict[str, Any]]:
    """The exit code, the rows by trap, and the last line; nothing else was written."""
    code = selftest.selftest("auto", list(traps), disruptive=False, json=True)
    told = capfd.readouterr()
    assert told.err == ""
    lines = [json.loads(line) for line in told.out.splitlines()]
    assert [line["trap"] for line in lines[:-1]] == sorted(traps or TITLES)
    (summary,) = lines[-1].values()
    assert lines[-1].keys() == {"selftest"}
    return code, {line["trap"]: line for line in lines[:-1]}, summary


def test_rows(command: Corpus, capfd: pytest.CaptureFixture[str]) -> None:
    """Each trap is one row in the order of the numbers: passed, failed, missing with the reason, or still to come."""
    code, found, summary = rows(capfd)
    assert code == Exit.FAILURE
    wanted = {1: "pass", 2: "fail", 3: "pass", 4: "missing", 5: "fail", 7: "fail", 18: "fail", 19: "fail"}
    assert {trap: row["result"] for trap, row in found.items()} == {trap: wanted.get(trap, "coming") for trap in TITLES}
    for trap, row in found.items():
        assert row["title"] == TITLES[trap]
        assert row.keys() == (ROW if trap in wanted else {"trap", "title", "result"})
        assert row.get("backend", "core") == "core"
    assert found[1]["cases"] == {"pass": 2, "fail": 0, "missing": 0}
    assert found[3]["cases"] == {"pass": 1, "fail": 0, "missing": 2}
    assert found[3]["reasons"] == ["this kernel has no overlay"]
    assert found[4]["reasons"] == ["disturbs the machine: only with --disruptive"]
    assert (summary["passed"], summary["failed"], summary["missing"]) == (2, 5, 1)
    assert summary["coverage"] == {name: COVERAGE[name] for name in ("hooks", "refused", "blind")}
    assert (summary["kernel"], summary["machine"]) == (os.uname().release, os.uname().machine)
    assert command.modules.keys() == wanted.keys()


@pytest.mark.parametrize(
    ("trap", "case", "words"),
    [
        (2, "test_bad", "told"),
        (5, "test_lazy", "skipped: not today"),
        (7, "test_thing", "no thing"),
        (18, "test_thing", "left behind"),
        (19, "", "no such module"),
    ],
)
def test_failures(command: Corpus, capfd: pytest.CaptureFixture[str], trap: int, case: str, words: str) -> None:
    """A case that fails, skips itself without a good reason, or breaks before or after, fails once and says why."""
    code, found, _ = rows(capfd, trap)
    assert code == Exit.FAILURE
    assert found[trap]["cases"]["fail"] == 1
    (failure,) = found[trap]["failures"]
    assert case in failure["case"]
    assert words in failure["message"]


def test_only_some(command: Corpus, capfd: pytest.CaptureFixture[str]) -> None:
    """With --trap only those run, and what passed or is missing ends with 0."""
    code, found, summary = rows(capfd, 4, 1, 6)
    assert code == Exit.OK
    assert {trap: row["result"] for trap, row in found.items()} == {1: "pass", 4: "missing", 6: "coming"}
    assert (summary["passed"], summary["failed"], summary["missing"]) == (1, 0, 1)


def test_table(command: Corpus, capfd: pytest.CaptureFixture[str]) -> None:
    """Off a terminal the table is plain lines: a row a trap, reasons and last words below, and the sum."""
    assert selftest.selftest("auto", [1, 2, 3, 4, 6], disruptive=False, json=False) == Exit.FAILURE
    told = capfd.readouterr()
    assert told.err == ""
    assert "\x1b" not in told.out
    assert "\r" not in told.out
    lines = told.out.splitlines()
    heads = [line.split("  ")[0].strip() for line in lines if not line.startswith("    ")]
    assert heads[:-1] == ["1", "2", "3", "4", "6"]
    assert "    2 of its cases not tried: this kernel has no overlay" in lines
    assert "    disturbs the machine: only with --disruptive" in lines
    assert any("test_bad" in line for line in lines)
    assert lines[-1].startswith(f"Linux {os.uname().release}")
    assert "2 passed, 1 failed, 1 missing, 1 still to come" in lines[-1]


def test_a_run_that_breaks_off(command: Corpus, capfd: pytest.CaptureFixture[str]) -> None:
    """When the run itself dies, the traps that were not done have failed, with what it said last."""
    command.modules[2][0].write_text("import os\ndef test_dies():\n    os.write(2, b'last words')\n    os._exit(9)\n")
    code, found, summary = rows(capfd, 1, 2, 3)
    assert code == Exit.FAILURE
    assert {trap: row["result"] for trap, row in found.items()} == {1: "pass", 2: "fail", 3: "fail"}
    assert "code 9" in found[3]["failures"][0]["message"]
    assert summary["failed"] == 2


def test_leaving_ends_the_run(fake: Corpus, tmp_path: Path) -> None:
    """Who leaves a run early (Ctrl-C) ends it: fixtures take down what they put up, and no process stays."""
    up, down = tmp_path / "up", tmp_path / "down"
    fake.modules[1][0].write_text(
        "import pathlib, pytest, time\n"
        "@pytest.fixture\n"
        "def thing():\n"
        f"    pathlib.Path({str(up)!r}).touch()\n"
        "    yield\n"
        f"    pathlib.Path({str(down)!r}).touch()\n"
        "def test_long(thing): time.sleep(600)\n"
    )
    with CorpusRun(fake, fake.modules[1], corpus.settings("core", disruptive=False)) as running:
        assert next(iter(running)) == {"begun": 1}
        deadline = time.monotonic() + 60
        while not up.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
    assert up.exists()
    assert down.exists()
    assert running._process.returncode is not None


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run has the backend and the patience that were asked for, and nothing of how the user set up pytest."""
    monkeypatch.setenv("PYTEST_ADDOPTS", "--exitfirst")
    monkeypatch.setenv("TRACER_REQUIRE", "1")
    monkeypatch.setenv("TRACER_TEST_PATIENCE", "10")
    monkeypatch.delenv("TRACER_TEST_DISRUPTIVE", raising=False)
    made = corpus.settings("core", disruptive=False)
    assert not {"PYTEST_ADDOPTS", "TRACER_REQUIRE", "TRACER_TEST_DISRUPTIVE"} & made.keys()
    assert (made["TRACER_TEST_BACKEND"], made["TRACER_TEST_PATIENCE"]) == ("core", "10")
    assert corpus.settings("core", disruptive=True)["TRACER_TEST_DISRUPTIVE"] == "1"


@pytest.mark.parametrize("text", ["x", "0", "-1", "nan"])
def test_bad_patience(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """A patience that is no factor is refused by name."""
    monkeypatch.setenv("TRACER_TEST_PATIENCE", text)
    with pytest.raises(CommandError, match="TRACER_TEST_PATIENCE") as caught:
        corpus.patience()
    assert caught.value.code == Exit.USAGE


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pytest, or without a compiler in a checkout, one line says what to install."""
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(CommandError, match=r"no-such-compiler is missing; .*apt-get install gcc") as caught:
        corpus.find_corpus()
    assert caught.value.code == Exit.FAILURE
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(CommandError, match=r"pytest and communityid: pip install 'tracer\[selftest\]'"):
        corpus.find_corpus()


def test_refusals() -> None:
    """A number that is no trap and a backend that does not exist are refused as wrong use, in one line."""
    assert_refused(run("selftest", "--trap", "54"), Exit.USAGE, "--trap", "54", "from 1 to 53")
    assert_refused(run("selftest", "--trap", "x"), Exit.USAGE, "--trap")


@needs_root
@pytest.mark.live
def test_unknown_backend() -> None:
    """What `tracer live` refuses, the self-test refuses with the same words and code."""
    assert_refused(run("selftest", "--backend", "bogus"), Exit.USAGE, "--backend", "bogus")


@needs_root
@pytest.mark.live
def test_closed_pipe() -> None:
    """A reader that goes away is a normal end, and ends the run."""
    finished = shell('{ "$@"; echo "code $?" >&2; } | head -n 1', "selftest", "--trap", "28", "--trap", "48", "--json")
    told = json.loads(finished.stdout)
    assert (told["trap"], told["title"], told["result"]) == (28, TITLES[28], "pass")
    assert finished.stderr == "code 0\n"


@needs_root
def test_no_root() -> None:
    """Without root it ends with the code for missing privilege and says so."""
    finished = shell('exec setpriv --reuid=65534 --clear-groups "$@"', "selftest")
    assert_refused(finished, Exit.PRIVILEGE, "root", "sudo")


def test_titles_are_those_of_the_corpus() -> None:
    """Every trap with a test is in the corpus's table under the title that the command shows, and has a module."""
    table = {}
    for line in (ROOT / "tests/traps/README.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0].isdigit():
            table[int(cells[0])] = cells
    modules = corpus.find_corpus().modules
    assert table.keys() == modules.keys()
    for trap, (_, title, _, tests) in table.items():
        assert title == TITLES[trap]
        assert {f"`{path.name}`" for path in modules[trap]} == set(tests.split(", "))


@needs_root
@pytest.mark.live
def test_installed_wheel(tmp_path: Path) -> None:
    """From a wheel alone, where no compiler and no checkout is, a trap runs, whatever else there is by those names."""
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--wheel-dir", str(tmp_path), str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 3 << 20
    place = tmp_path / "venv"
    venv.create(place, with_pip=False, symlinks=True)
    (library,) = place.glob("lib/python3*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(library)
    # What the wheel depends on comes from this environment: a link for each, and none for the project.
    for found in Path(pytest.__file__).parent.parent.iterdir():
        if "tracer" not in found.name and found.name != "__pycache__" and not (library / found.name).exists():
            (library / found.name).symlink_to(found)
    decoy = tmp_path / "elsewhere"
    for name in ("tests", "tracer"):
        (decoy / name).mkdir(parents=True)
        (decoy / name / "__init__.py").write_text("raise SystemExit('the wrong package')\n")
    (decoy / "conftest.py").write_text("raise SystemExit('the wrong conftest')\n")
    done = subprocess.run(
        [place / "bin/python", "-P", "-m", "tracer", "selftest", "--trap", "5", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=decoy,
        timeout=110,
        env={"PATH": "/usr/sbin:/sbin", "CC": "no-such-compiler", "LANG": "C.UTF-8"},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    row, summary = map(json.loads, done.stdout.splitlines())
    assert (row["trap"], row["result"], row["cases"]["pass"]) == (5, "pass", 1)
    assert summary["selftest"]["passed"] == 1
    assert TRACER[0] != str(place / "bin/python")
