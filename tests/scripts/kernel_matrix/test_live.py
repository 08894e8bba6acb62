"""The matrix with real guests, of one kernel: what is broken on purpose must be told for what it is.

They fetch that kernel when the cache has none, and otherwise take a few seconds each to boot.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
KERNEL = "6.1"
# To fetch and build everything, on a slow line and a busy machine.
LIMIT_S = 900
pytestmark = pytest.mark.timeout(LIMIT_S + 60)

NOT_COPIED = shutil.ignore_patterns(".*", "dist", "build", "objects", "__pycache__", "node_modules")
# Reads an address of the program's own making, which no verifier lets through.
WILD_READ = "\tif (*(volatile unsigned int *)1UL)\n\t\treturn 0;\n"


def matrix(*options: str) -> tuple[int, str]:
    """The code of a run of one guest, and all it printed."""
    command = [sys.executable, "-m", "scripts.kernel_matrix", "--kernel", f"{KERNEL}/core", *options]
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="backslashreplace",
        check=False,
        timeout=LIMIT_S,
    )
    return done.returncode, done.stdout


def test_broken_probe(tmp_path: Path) -> None:
    """A probe that the verifier refuses fails the matrix, which names kernel, trap and the verifier's reason."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_COPIED)
    probe = tree / "bpf/process.bpf.c"
    head = r'(SEC\("tp_btf/sched_process_exit"\)\n(?:.*\n)*?\{\n)'
    text, count = re.subn(head, lambda match: match[1] + WILD_READ, probe.read_text(), count=1)
    assert count == 1
    probe.write_text(text)
    code, told = matrix("--source", str(tree), "--trap", "22", "--no-attribution")
    assert code == 1, told
    assert re.search(rf"^{re.escape(KERNEL)}/core: trap 22: ", told, re.MULTILINE), told
    assert "process_exit" in told, told
    assert "invalid mem access" in told, told
    assert "1 columns, 1 with problems" in told, told


def test_panic() -> None:
    """A guest whose kernel panics is reported as lost, with the panic's own words."""
    code, told = matrix("--run", "echo c >/proc/sysrq-trigger")
    assert code == 1, told
    assert f"{KERNEL}/core: lost: Kernel panic - not syncing: sysrq triggered crash" in told, told


def test_hang() -> None:
    """A guest that stops is reported as lost when its limit is over, and what it did until then is told."""
    code, told = matrix("--silent", "10", "--run", "kill -STOP $PPID; sleep 1000")
    assert code == 1, told
    assert "is ready" in told, told
    assert f"{KERNEL}/core: lost: it gave no sign of life for 10 s" in told, told


def test_command() -> None:
    """A command that ends well is a run that ends well, and is told with what it printed."""
    code, told = matrix("--run", "uname -r; wc -l /proc/self/mounts")
    assert code == 0, told
    assert re.search(rf"^{re.escape(KERNEL)}\.\S+-cloud-amd64$", told, re.MULTILINE), told
