"""A whole run with emulators that a test plays: what becomes of kernels that cannot be had, and of a hypervisor."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from scripts.kernel_matrix import __main__, kernels, qemu
from scripts.kernel_matrix.apt import Apt, Package
from scripts.kernel_matrix.cache import Cache
from scripts.kernel_matrix.config import Kernel, Matrix, Userland
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.guests import Guests, Job
from scripts.kernel_matrix.matrix import Plan, Wanted, arguments, run_matrix, traps_for
from scripts.kernel_matrix.results import Results
from scripts.kernel_matrix.workshop import Prepared, Workshop
from tests.scripts.kernel_matrix.columns import ending, trap

DOCTOR = {"guest": "doctor", "doctor": {"btf": {"status": "ok"}}}
READY = {"guest": "ready", "kernel": "6.1.0-50"}


def kernel(name: str, **capabilities: bool | int) -> Kernel:
    """A kernel with one backend."""
    return Kernel(name, "bookworm", "amd64", ("image",), (), ("core",), ("core",), False, 0, capabilities)


def matrix(*listed: Kernel) -> Matrix:
    """A list of kernels."""
    return Matrix(Userland("bookworm", (), ()), listed, ())


@pytest.fixture(name="commands")
def _commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, qemu.Guest]]:
    """Workshop and emulator are played: "gone" cannot be had, the others pass trap 1. Gives what was booted."""
    booted: list[tuple[str, qemu.Guest]] = []

    def prepare(_self: Workshop, wanted: Kernel, backend: str) -> Prepared:
        if wanted.name == "gone":
            raise MatrixError("the mirror has none")
        guest = qemu.Guest("amd64", Path("/k"), Path("/i"), (), 100, ())
        return Prepared(wanted, backend, guest, "6.1.0-50", "6.1.176-1", "")

    def command(guest: qemu.Guest, _console: Path, accel: str = "tcg") -> list[str]:
        booted.append((accel, guest))
        lines = [json.dumps(line) for line in (READY, DOCTOR, trap(1), *ending())]
        return [sys.executable, "-c", f"print({chr(10).join(lines)!r})"]

    monkeypatch.setattr(Workshop, "prepare", prepare)
    monkeypatch.setattr(qemu, "command", command)
    return booted


def run(tmp_path: Path, listed: Matrix, accel: str = "tcg") -> Results:
    """Run all of a list, with trap 1 alone."""
    plan = Plan(source=tmp_path, accel=accel, host=False, traps=(1,))
    return run_matrix(Cache(tmp_path / "cache"), listed, Wanted(), plan)


@pytest.mark.usefixtures("commands")
def test_run(tmp_path: Path) -> None:
    """Columns come in the order of the list, with release, times and what the guests said."""
    results = run(tmp_path, matrix(kernel("6.1", btf=True), kernel("6.12")))
    assert results.passed
    assert [column.name for column in results.columns] == ["6.1/core", "6.12/core"]
    assert results.columns[0].release == "6.1.0-50"
    assert results.columns[0].rows[1].result == "ok"
    assert results.cost["fetched_bytes"] == 0


@pytest.mark.usefixtures("commands")
def test_kernel_that_cannot_be_had(tmp_path: Path) -> None:
    """A kernel that cannot be had fails the run, and the others still run."""
    results = run(tmp_path, matrix(kernel("gone"), kernel("6.1")))
    assert not results.passed
    assert [column.problems for column in results.columns] == [["the mirror has none"], []]


@pytest.mark.usefixtures("commands")
def test_capability_that_is_not_there(tmp_path: Path) -> None:
    """A guest whose doctor finds other capabilities than the list expects fails the run."""
    results = run(tmp_path, matrix(kernel("6.1", lsm=True)))
    assert results.columns[0].problems == ["lsm: matrix.toml expects yes, doctor found no"]


def test_hypervisor_is_tried(
    tmp_path: Path, commands: list[tuple[str, qemu.Guest]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hypervisor is used after it has booted a guest, and never when it hangs one."""
    monkeypatch.setattr("os.access", lambda *_: True)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert run(tmp_path, matrix(kernel("6.1")), "kvm").columns[0].accel == "kvm"
    assert [accel for accel, _ in commands] == ["kvm", "kvm"]
    assert commands[0][1].arguments == ("--run", "true")

    def hang(_guest: qemu.Guest, _console: Path, accel: str = "tcg") -> list[str]:
        lines = [json.dumps(line) for line in (READY, DOCTOR, trap(1), *ending())]
        script = "raise SystemExit('the processor is stuck')" if accel == "kvm" else f"print({chr(10).join(lines)!r})"
        return [sys.executable, "-c", script]

    monkeypatch.setattr(qemu, "command", hang)
    results = run(tmp_path, matrix(kernel("6.1")), "kvm")
    assert (results.columns[0].accel, results.passed) == ("tcg", True)


def test_no_hypervisor(tmp_path: Path, commands: list[tuple[str, qemu.Guest]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without /dev/kvm nothing is tried."""
    monkeypatch.setattr("os.access", lambda *_: False)
    assert run(tmp_path, matrix(kernel("6.1")), "kvm").columns[0].accel == "tcg"
    assert [accel for accel, _ in commands] == ["tcg"]


def test_nothing_to_run(tmp_path: Path) -> None:
    """A choice that leaves nothing is an error, not a pass."""
    with pytest.raises(MatrixError, match="nothing to run"):
        run_matrix(Cache(tmp_path), matrix(kernel("6.1")), Wanted(backends=("bcc",)), Plan(tmp_path, host=False))


def test_arguments(tmp_path: Path) -> None:
    """What goes through a kernel's command line has no space in it, and the command comes out again as it was."""
    plan = Plan(tmp_path, traps=(4, 28), run="echo 'two words' \"$x\"; true")
    told = arguments(plan, "bcc", 10, hide_btf=True)
    assert not any(part != part.strip() or " " in part or '"' in part for part in told)
    assert "--hide-btf" in told
    assert told[told.index("--traps") :][:2] == ("--traps", "4,28")
    assert "--few" not in told
    assert "--few" in arguments(Plan(tmp_path, few=True), "core", 10)


def test_traps_of_a_column(tmp_path: Path) -> None:
    """All of the corpus, or those asked for; where less is enough, thousands of sockets are left to core."""
    traps = tmp_path / "tests/traps"
    traps.mkdir(parents=True)
    for name in ("test_01_softirq.py", "test_44_many.py"):
        (traps / name).touch()
    for plan, backend, told in (
        (Plan(tmp_path), "bcc", (1, 44)),
        (Plan(tmp_path, few=True), "core", (1, 44)),
        (Plan(tmp_path, few=True), "bcc", (1,)),
        (Plan(tmp_path, few=True, traps=(44,)), "bcc", (44,)),
    ):
        assert traps_for(plan, backend) == told
        assert ("--traps" in arguments(plan, backend, 10)) is (told != (1, 44))


class Suite(Apt):
    """A suite whose mirror a test plays: `broken` is what it fails with."""

    broken = ""
    version = "1"

    def update(self, *, fresh_s: float = 0) -> None:
        """The lists are always there."""

    def show(self, package: str) -> dict[str, str]:  # noqa: ARG002 - as Apt has it
        """One package without dependencies."""
        return {"Version": self.version}

    def only(self, names: Sequence[str]) -> list[Package]:
        """One file a version."""
        return [Package(f"{names[0]}_{self.version}.deb", 1, self.version)]

    def download(self, names: Sequence[str], packages: Sequence[Package], *, closure: bool) -> list[Path]:  # noqa: ARG002 - as Apt has it
        """Nothing to unpack, or no mirror."""
        if self.broken:
            raise MatrixError(self.broken)
        return []


def test_cached_kernel_stands_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the newest kernel cannot be fetched, the last one stands in and says why; without one it is an error."""
    monkeypatch.setattr(kernels, "Apt", Suite)
    cache = Cache(tmp_path)
    monkeypatch.setattr(Suite, "broken", "404 Not Found")
    with pytest.raises(MatrixError, match="404"):
        kernels.fetch(cache, "sid", "amd64", ["linux-image"])
    monkeypatch.setattr(Suite, "broken", "")
    first = kernels.fetch(cache, "sid", "amd64", ["linux-image"])
    assert (first.version, first.stale, first.root.is_dir()) == ("1", "", True)
    monkeypatch.setattr(Suite, "version", "2")
    monkeypatch.setattr(Suite, "broken", "404 Not Found")
    assert kernels.fetch(cache, "sid", "amd64", ["linux-image"]) == first._replace(stale="404 Not Found")
    monkeypatch.setattr(Suite, "broken", "")
    assert kernels.fetch(cache, "sid", "amd64", ["linux-image"]).version == "2"


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C is one line and its own code."""

    def interrupt(*_args: object) -> Results:
        raise KeyboardInterrupt

    monkeypatch.setattr(__main__, "run_matrix", interrupt)
    monkeypatch.setenv("TRACER_MATRIX_CACHE", str(tmp_path))
    assert __main__.main(["--no-host"]) == 130
    assert capsys.readouterr().err == "kernel-matrix: interrupted\n"


def test_known_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Results of a file are shown, and decide the code, without a run."""
    results = Results({1: "one"}, [], {})
    (tmp_path / "results.json").write_text(json.dumps(results.as_json()))
    assert __main__.main(["--from", str(tmp_path / "results.json")]) == 1
    assert "0 columns" in capsys.readouterr().out


def test_jobs_that_cannot_start(tmp_path: Path) -> None:
    """An emulator that is not installed is the error of the run, and nothing is left running."""

    def command(_console: Path) -> list[str]:
        raise MatrixError("qemu is missing")

    with pytest.raises(MatrixError, match="qemu"), Guests(tmp_path, 1, 100, lambda _job, _line: None) as guests:
        guests.run([Job("a", 1, command)], lambda _outcome, _again: None)
