"""A CPU that has no ring, as it came online later: what happens there is told, and counted where it is too much."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracing import BACKEND, PATIENCE, READY, find
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
Ready = Callable[..., tuple[subprocess.Popen[bytes], Path]]
LIVE = ["live", "--json", "--event", "exec", "--no-snapshot", "--buffer", "4M"]


def run_on(cpu: int, name: str) -> None:
    """A process that executes on one CPU."""
    code = f"import os; os.sched_setaffinity(0, [{cpu}]); os.execv('/bin/true', [{name!r}])"
    subprocess.run([sys.executable, "-c", code], check=True)


def read(output: Path) -> list[dict[str, Any]]:
    """The whole lines written up to now."""
    whole = output.read_bytes().rpartition(b"\n")[0]
    return [json.loads(line) for line in whole.splitlines()]


@pytest.fixture(name="ready")
def _ready(tmp_path: Path) -> Iterator[Ready]:
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


def losses_of(events: list[dict[str, Any]], cpu: int) -> int:
    """How many records the last ledger, which balances, counts as lost: all of that CPU, and told as intervals."""
    ledger: dict[str, Any] = events[-1]["tracer"]["ledger"]
    assert ledger["balanced"] is True
    losses = [event["tracer"]["loss"] for event in find(events, "tracer-loss")]
    assert sum(loss["count"] for loss in losses) == ledger["total"]["lost"]
    assert all(loss["cpus"] == [cpu] and set(loss["causes"]) == {"no_ring"} for loss in losses), losses
    assert ledger["complete"] is not bool(losses)
    return int(ledger["total"]["lost"])


def told_of(events: list[dict[str, Any]], name: str) -> list[str]:
    """The first arguments that begin so, in the order in which their processes are told."""
    told = [event["process"]["args"][0] for event in events if event.get("process", {}).get("args")]
    return [each for each in told if each.startswith(name)]


@pytest.mark.may_skip("there is no other CPU")
@pytest.mark.skipif(len(online_cpus()) < 2, reason="needs two CPUs")
@pytest.mark.skipif(BACKEND == "bcc", reason="bcc has no overflow")
@pytest.mark.parametrize("options", [(), ("--no-sandbox",)], ids=["confined", "not confined"])
def test_a_cpu_without_a_ring(ready: Ready, options: tuple[str, ...]) -> None:
    """What happens on a CPU that came later is told from the first record on, in order, and nothing is lost."""
    cpu = online_cpus()[-1]
    tracer, output = ready(*options)
    for number in range(101):
        run_on(cpu, f"there {number}")
    tracer.terminate()
    assert tracer.wait(20 * PATIENCE) == os.EX_OK
    events = read(output)
    assert told_of(events, "there ") == [f"there {number}" for number in range(101)]
    assert losses_of(events, cpu) == 0


@pytest.mark.may_skip("there is no other CPU")
@pytest.mark.skipif(len(online_cpus()) < 2, reason="needs two CPUs")
@pytest.mark.skipif(BACKEND == "bcc", reason="bcc has no overflow")
def test_a_cpu_without_a_ring_and_too_much(ready: Ready) -> None:
    """While the tracer is stopped the overflow fills up; what it can't take is counted, and the rest is told."""
    cpu = online_cpus()[-1]
    tracer, output = ready()
    tracer.send_signal(signal.SIGSTOP)
    long = "x" * 11_000
    script = f"for i in $(seq 401); do /bin/true much $i {long}; done"
    subprocess.run(["taskset", "-c", str(cpu), "sh", "-c", script], check=True)
    tracer.send_signal(signal.SIGCONT)
    tracer.terminate()
    assert tracer.wait(20 * PATIENCE) == os.EX_OK
    events = read(output)
    told = [event for event in events if event.get("process", {}).get("args", [""])[1:2] == ["much"]]
    assert len(told) > 50
    assert len(told) + losses_of(events, cpu) >= 401 > len(told)
