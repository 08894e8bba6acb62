"""The script that runs in the guests, run here with a tracer that a test plays."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[3] / "vagrant/guest"
# What a tracer would print: its arguments after the first are in the row, so that a test sees them.
TRACER = """\
import json, os, sys
command, *rest = sys.argv[1:]
if command == "doctor" and "--prove" in rest:
    print(json.dumps({"strict": False}))
    sys.exit(1)
elif command == "live":
    print("tracer: the sandbox is not whole", file=sys.stderr)
    sys.exit(6 if "--sandbox-strict" in rest else 0)
elif command == "doctor":
    print(json.dumps({"btf": {"status": "ok"}, "uid": os.getuid()}))
elif MODE == "broken":
    sys.exit("tracer: the verifier says no")
else:
    told = {"told": rest, "patience": os.environ["TRACER_TEST_PATIENCE"], "few": os.environ.get("TRACER_TEST_FEW")}
    print(json.dumps({"trap": 4, "result": "pass", **told}))
    print(json.dumps({"selftest": {"kernel": "x"}}))
"""


def run(tmp_path: Path, *options: str, mode: str = "good") -> tuple[int, list[dict[str, Any]]]:
    """The code of the script and its lines."""
    tracer = tmp_path / "tracer.py"
    tracer.write_text(TRACER.replace("MODE", repr(mode)))
    results = tmp_path / "results"
    command = [
        sys.executable,
        str(SCRIPT),
        "--host",
        "--results",
        str(results),
        "--tracer",
        f"{sys.executable} {tracer}",
        *options,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, [json.loads(line) for line in results.read_text().splitlines()]


def test_lines(tmp_path: Path) -> None:
    """First the machine, then doctor, the rows of each backend as they are, and at last the end."""
    code, lines = run(
        tmp_path, "--processes", "0", "--backend", "core", "--backend", "bcc", "--patience", "3", "--traps", "4"
    )
    assert code == 0
    assert lines[0]["guest"] == "ready"
    assert lines[0]["kernel"]
    assert lines[1]["doctor"]["btf"] == {"status": "ok"}
    assert [line.get("backend") for line in lines if line.get("guest") == "begin"] == ["core", "bcc"]
    rows = [line for line in lines if "trap" in line]
    assert rows[1]["told"] == ["--json", "--backend", "bcc", "--trap", "4"]
    assert float(rows[1]["patience"]) == 3
    assert rows[1]["few"] is None
    assert lines[-1] == {"guest": "end", "code": 0}


def test_few(tmp_path: Path) -> None:
    """With --few the traps are told that a tenth is enough."""
    _, lines = run(tmp_path, "--processes", "0", "--few")
    assert [line["few"] for line in lines if "trap" in line] == ["1"]


def test_broken(tmp_path: Path) -> None:
    """A step that gives nothing is told with its last words, and the run comes to its end."""
    code, lines = run(tmp_path, "--processes", "0", mode="broken")
    assert code == 1
    (error,) = [line for line in lines if line["guest"] == "error"]
    assert (error["step"], error["backend"]) == ("selftest", "core")
    assert "the verifier says no" in error["message"]
    assert lines[-1] == {"guest": "end", "code": 1}


def test_command(tmp_path: Path) -> None:
    """A command comes percent-encoded and takes the place of the rest; its code and output are told."""
    code, lines = run(tmp_path, "--run", "echo%20one%3B%20exit%207")
    assert code == 0
    assert lines[1:] == [{"guest": "ran", "code": 7, "output": "one\n"}, {"guest": "end", "code": 0}]


def test_signs_of_life(tmp_path: Path) -> None:
    """With --alive the guest says that it lives while a step takes its time."""
    _, lines = run(tmp_path, "--alive", "0.05", "--run", "sleep%201")
    assert {"guest": "alive"} in lines


@pytest.mark.parametrize("mode", ["good", "broken"])
def test_attribution(tmp_path: Path, mode: str) -> None:
    """The checks run after the rows; a generator that fails is a result that did not come, and the next is made."""
    generator = tmp_path / "generator"
    generator.write_text("#!/bin/sh\nexit 3\n")
    generator.chmod(0o755)
    generators = ("--generator", str(generator), "--traffic", str(generator))
    code, lines = run(tmp_path, "--processes", "101", *generators, mode=mode)
    assert code == 1
    assert [line["step"] for line in lines if line.get("guest") == "error"][-2:] == ["attribution", "bytes"]
    told = [line for line in lines if line.get("guest") == "sandbox"]
    assert told == [{"guest": "sandbox", "proof": {"strict": False}, "strict": {"code": 6, "lines": 0}}]
