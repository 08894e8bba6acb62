"""A CPU that has no ring: without the sandbox it is heard soon after its first loss; with it every loss is counted."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracing import PATIENCE, READY, find
from tracer.probes.libbpf_binding import online_cpus

pytestmark = pytest.mark.live

# The tracer, told at its start that the last CPU is offline; from then on the truth.
TRACER = """
import tracer.probes.rings as rings
truth, told = rings.online_cpus, []
def online_cpus():
    told.append(1)
    return truth()[:-1] if len(told) == 1 else truth()
rings.online_cpus = online_cpus
from tracer.cli.entry import run
run()
"""
LIVE = ["live", "--json", "--event", "exec", "--no-snapshot", "--buffer", "4M"]


def run_on(cpu: int, name: str) -> None:
    """A process that executes on one CPU."""
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); os.execv('/bin/true', [{name!r}])"
    subprocess.run([sys.executable, "-c", code], check=True)


def read(output: Path) -> list[dict[str, Any]]:
    """The whole lines written up to now."""
    whole = output.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


def is_told(output: Path, name: str, within: float) -> bool:
    """Whether an exec of that name comes within so many seconds."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if any(event.get("process", {}).get("args") == [name] for event in read(output)):
            return True
        time.sleep(0.02)
    return False


@pytest.fixture(name="ready")
def _ready(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Starts the tracer with more options; gives it, ready, and its output."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> tuple[subprocess.Popen[bytes], Path]:
        output, errors = tmp_path / "events", tmp_path / "errors"
        command = [sys.executable, "-c", TRACER, *LIVE, *options, "--output", str(output)]
        with errors.open("wb") as stderr:
            started.append(subprocess.Popen(command, stderr=stderr))
        deadline = time.monotonic() + 20 * PATIENCE
        while READY not in errors.read_text():
            assert started[0].poll() is None, errors.read_text()
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.02)
        return started[0], output

    yield start
    for tracer in started:
        tracer.kill()
        tracer.wait()


def check_losses(events: list[dict[str, Any]], cpu: int) -> dict[str, Any]:
    """The last ledger, which balances; all losses are of that CPU, for the want of a ring, and told as intervals."""
    ledger: dict[str, Any] = events[-1]["tracer"]["ledger"]
    assert ledger["balanced"] is True
    losses = [event["tracer"]["loss"] for event in find(events, "tracer-loss")]
    assert sum(loss["count"] for loss in losses) == ledger["total"]["lost"] > 0
    assert all(loss["cpus"] == [cpu] and set(loss["causes"]) == {"no_ring"} for loss in losses), losses
    assert ledger["complete"] is False
    return ledger


@pytest.mark.may_skip("there is no other CPU")
@pytest.mark.skipif(len(online_cpus()) < 2, reason="needs two CPUs")
def test_a_cpu_without_a_ring(ready: Callable[..., tuple[subprocess.Popen[bytes], Path]]) -> None:
    """Records of a CPU that came later are counted as lost; then it has a ring, and all are told."""
    cpu = online_cpus()[-1]
    tracer, output = ready("--no-sandbox")
    for number in range(100):  # the first is lost, and one of the next is told
        run_on(cpu, f"knock {number}")
        if is_told(output, f"knock {number}", 0.3 * PATIENCE):
            break
    for number in range(23):
        run_on(cpu, f"after {number}")
    tracer.terminate()
    assert tracer.wait(20 * PATIENCE) == os.EX_OK
    events = read(output)
    told = [event["process"]["args"][0] for event in events if "args" in event.get("process", {})]
    assert [name for name in told if name.startswith("after ")] == [f"after {number}" for number in range(23)]
    assert "knock 0" not in told
    check_losses(events, cpu)


@pytest.mark.may_skip("there is no other CPU")
@pytest.mark.skipif(len(online_cpus()) < 2, reason="needs two CPUs")
def test_a_cpu_without_a_ring_while_confined(ready: Callable[..., tuple[subprocess.Popen[bytes], Path]]) -> None:
    """A confined tracer can open no ring: every record of that CPU is counted as lost, and the coverage record says so.

    Of 23 processes there, not one is told and not one is missing from the count.
    """
    cpu = online_cpus()[-1]
    tracer, output = ready()
    for number in range(23):
        run_on(cpu, f"unheard {number}")
    tracer.terminate()
    assert tracer.wait(20 * PATIENCE) == os.EX_OK
    events = read(output)
    assert not [event for event in events if event.get("process", {}).get("args", [""])[0].startswith("unheard")]
    coverage = events[0]["tracer"]["coverage"]
    assert [blind for blind in coverage["blind"] if "CPUs that come online later" in blind]
    assert check_losses(events, cpu)["by_kind"]["exec"]["lost"] >= 23
