"""The Vagrantfile is valid, has a machine for each box of the one list of kernels, and keeps their results."""

import json
import os
import shutil
import stat
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
VAGRANT = ROOT / "vagrant"
BOXES: list[dict[str, Any]] = tomllib.loads((VAGRANT / "matrix.toml").read_text())["box"]
NAMES = [box["name"] for box in BOXES]
MACHINES = Path(__file__).parent / "data/machines.rb"
# The distributions that are installed on; others may be added.
COVERED = {"debian-12", "debian-13", "ubuntu-24.04", "alma-9", "alma-10"}
KEYS = {"name", "box", "suite", "kernel", "python", "packages", "backends"}

needs_vagrant = pytest.mark.skipif(shutil.which("vagrant") is None, reason="vagrant is not installed")


@pytest.fixture(name="environment", scope="module")
def _environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Vagrant keeps everything in a place of its own, and reaches no network."""
    place = tmp_path_factory.mktemp("vagrant")
    nowhere = "http://127.0.0.1:9"
    return os.environ | {
        "HOME": str(place),
        "VAGRANT_HOME": str(place / "vagrant"),
        "VAGRANT_DOTFILE_PATH": str(place / "dotfile"),
        "VAGRANT_CHECKPOINT_DISABLE": "1",
        "http_proxy": nowhere,
        "https_proxy": nowhere,
    }


def run(environment: dict[str, str], *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in the directory of the Vagrantfile."""
    return subprocess.run(command, env=environment, cwd=VAGRANT, capture_output=True, text=True, check=False)


@pytest.fixture(name="machines", scope="module")
def _machines(environment: dict[str, str]) -> dict[str, Any]:
    """The machines as Vagrant understands them."""
    done = run(environment, "ruby", MACHINES, VAGRANT)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs_vagrant
def test_validate(environment: dict[str, str]) -> None:
    """`vagrant validate` passes, and looks at a machine for each box and no others. Here is no provider to ask."""
    done = run(environment, "vagrant", "validate", "--ignore-provider", "--no-color")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Vagrantfile validated successfully." in done.stdout
    machines = [line.split()[1].removesuffix(":") for line in done.stdout.splitlines() if line.startswith("==> ")]
    assert machines == NAMES


def test_boxes() -> None:
    """Every box has a name of its own, no key that nothing reads, and what its kernel and its backends need."""
    assert len(set(NAMES)) == len(NAMES)
    assert set(NAMES) >= COVERED
    assert any(name.startswith("fedora-") for name in NAMES)
    for box in BOXES:
        assert set(box) <= KEYS, box["name"]
        assert box["kernel"], box["name"]
        backends = box.get("backends", ["core"])
        assert set(backends) <= {"core", "bcc"}, box["name"]
        needed = {"python3-bpfcc"} if "bcc" in backends else set()
        assert needed <= set(box["packages"]), box["name"]
        assert ("linux-headers-@ARCH@" in box["kernel"]) == ("bcc" in backends), box["name"]


@needs_vagrant
@pytest.mark.parametrize("box", BOXES, ids=NAMES)
def test_machine(machines: dict[str, Any], box: dict[str, Any]) -> None:
    """A machine has its box, memory for its backends, and is given its kernel, packages and backends to run."""
    machine = machines[box["name"]]
    backends = box.get("backends", ["core"])
    assert machine["box"] == box["box"]
    assert machine["virtualbox"] == {"--memory": "3072" if "bcc" in backends else "1536", "--cpus": 2}
    steps = machine["steps"]
    assert list(steps) == ["kernel", "wheel", "guest", "check", "install", "run"]
    assert steps["kernel"] == ["kernel", box.get("suite", ""), *box["kernel"]]
    assert steps["install"][:2] == ["install", box.get("python", "python3")]
    assert steps["install"][2].startswith("tracer-")
    assert steps["install"][3:] == box["packages"]
    assert steps["run"] == ["run", *backends]
    # The script that the guests of `make matrix` run, and beside it the check that it starts.
    assert steps["guest"] == ["guest", "/var/tmp/tracer/guest"]
    assert steps["check"] == [str(ROOT / "scripts/attribution"), "/var/tmp/tracer/scripts/attribution"]
    assert machine["triggers"] == ["up", "provision"]


@needs_vagrant
@pytest.mark.parametrize(
    ("last", "said"),
    [
        ({"guest": "end", "code": 1}, ["error: attribution core: no compiler"]),
        (
            {"trap": 2, "result": "pass"},
            ["error: attribution core: no compiler", "error: the run did not come to its end"],
        ),
    ],
)
def test_results_are_kept(environment: dict[str, str], tmp_path: Path, last: dict[str, Any], said: list[str]) -> None:
    """What a machine says is kept under its name, counted, and an error or a run that broke off is told."""
    # A Vagrantfile keeps results beside itself.
    place = tmp_path / "project/vagrant"
    place.mkdir(parents=True)
    for name in ("Vagrantfile", "matrix.toml"):
        shutil.copy(VAGRANT / name, place)
    lines = [
        {"guest": "ready"},
        {"trap": 1, "result": "pass"},
        {"trap": 4, "result": "fail"},
        {"guest": "error", "step": "attribution", "backend": "core", "message": "no compiler"},
        last,
    ]
    results = tmp_path / "debian-13.jsonl"
    results.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = run(environment, "ruby", MACHINES, place, results)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    kept = place / "results/debian-13.jsonl"
    assert kept.read_text() == results.read_text()
    passed = 1 + ("trap" in last)
    assert found["debian-13"]["said"] == [*said, f"info: {kept}: {passed} pass, 1 fail"]
    assert found["debian-12"]["said"] == []


@needs_vagrant
def test_old_python(environment: dict[str, str], tmp_path: Path) -> None:
    """Where python3 can't read TOML, one line says what is needed."""
    old = tmp_path / "bin/python3"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho \"ModuleNotFoundError: No module named 'tomllib'\" >&2\nexit 1\n")
    old.chmod(0o755)
    path = f"{old.parent}{os.pathsep}{environment['PATH']}"
    done = run(environment | {"PATH": path}, "vagrant", "validate", "--ignore-provider")
    assert done.returncode != 0
    message = "vagrant/matrix.toml can't be read, which takes Python 3.11 as python3: ModuleNotFoundError"
    assert message in done.stderr


@pytest.mark.parametrize("name", ["provision", "guest"])
def test_programs_of_the_machines(name: str) -> None:
    """What a machine runs is in one place, whatever starts it, and can be run."""
    assert (VAGRANT / name).stat().st_mode & stat.S_IXUSR


def test_provision_is_a_script() -> None:
    """The shell finds no mistake in its grammar, and without a step it says which there are."""
    subprocess.run(["bash", "-n", VAGRANT / "provision"], check=True)
    done = subprocess.run([VAGRANT / "provision"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: provision kernel|install|run ARGUMENT...\n"
