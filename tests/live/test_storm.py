"""More records than the rings hold: what was lost is counted exactly, told as intervals, and agrees with the storm."""

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.tracing import Trace

pytestmark = pytest.mark.live

LOAD = Path(__file__).with_name("load.py")
DEADLINE = 120
EVERYTHING = ("--event", "exec,exec-failed,fork,exit,connect,accept,listen,close")
TERMS = ("delivered", "aggregated", "filtered", "lost", "in_flight")
# The ledger's kinds by the event.kind and event.action of their lines; the tracer's own lines belong to none.
KINDS = {
    ("event", "process-executed"): "exec",
    ("event", "process-exec-failed"): "exec-failed",
    ("event", "process-forked"): "fork",
    ("event", "process-exited"): "exit",
    ("event", "connection-opened"): "connect",
    ("event", "connection-failed"): "connect",
    ("event", "connection-attempted"): "attempt",
    ("event", "connection-accepted"): "accept",
    ("event", "socket-listening"): "listen",
    ("event", "connection-closed"): "close",
    ("state", "process-running"): "process-found",
    ("state", "connection-open"): "socket-found",
    ("state", "socket-listening"): "socket-found",
}
SNAPSHOT = {"process-found", "socket-found"}


@pytest.fixture(name="load")
def _load(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that will make the known records once it is told, and stays until the test is over."""
    work, count = request.param
    command = [sys.executable, str(LOAD), work, str(count)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


def overrun(trace: Trace, load: subprocess.Popen[str]) -> dict[str, int]:
    """Makes the load do its work while the tracer is stopped, so that its rings overrun; returns what the load did."""
    assert load.stdin is not None
    assert load.stdout is not None
    trace.process.send_signal(signal.SIGSTOP)
    try:
        load.stdin.write("go\n")
        load.stdin.flush()
        did: dict[str, int] = json.loads(load.stdout.readline())
    finally:
        trace.process.send_signal(signal.SIGCONT)
    return did


# Without budgets: else what a user has no room for is counted, and not lost.
SMALL = ("--buffer", "16K", "--flood-budget", "0")
STORMS = pytest.mark.parametrize("load", [("executions", 1009), ("connections", 5003)], indirect=True)


@STORMS
def test_ledger_agrees_with_the_storm_and_with_the_lines(load: subprocess.Popen[str]) -> None:
    """What the storm did = delivered + lost, kind by kind; delivered = lines; every sum of the ledger holds."""
    with Trace(*SMALL, "--pid", str(load.pid), "--children", *EVERYTHING) as trace:
        did = overrun(trace, load)
    ledger = trace.ledger
    assert ledger["final"]
    assert ledger["balanced"]
    assert ledger["total"]["lost"] > 0, "the storm was too small to show anything"
    assert not ledger["complete"]

    keys = [(event["event"]["kind"], event["event"]["action"]) for event in trace.events]
    lines = Counter(KINDS[key] for key in keys if key in KINDS)
    for kind, terms in ledger["by_kind"].items():
        assert terms["attempts"] == sum(terms[term] for term in TERMS), kind
        assert terms["lost"] == sum(terms["lost_by_stage"].values()), kind
        assert terms["in_flight"] == 0, kind
        assert terms["delivered"] == lines[kind], kind
        if kind not in SNAPSHOT:
            assert terms["delivered"] + terms["aggregated"] + terms["lost"] == did.get(kind, 0), kind
    for term in ("attempts", *TERMS):
        assert ledger["total"][term] == sum(terms[term] for terms in ledger["by_kind"].values()), term
    assert did.keys() <= ledger["by_kind"].keys()


@STORMS
def test_losses_are_intervals_that_sum_to_the_ledger(load: subprocess.Popen[str]) -> None:
    """Loss records give kind, stage, a count, and a first and last time in order; they sum to the ledger's losses."""
    with Trace(*SMALL, "--pid", str(load.pid), "--children") as trace:
        overrun(trace, load)
    sums: Counter[tuple[str, str]] = Counter()
    for event in trace.events:
        if event["event"]["action"] == "tracer-loss":
            loss: dict[str, Any] = event["tracer"]["loss"]
            assert loss["count"] > 0
            assert loss["first"] <= loss["last"]
            assert loss["cpus"] == sorted(set(loss["cpus"]))
            assert loss["cpus"]
            sums[loss["kind"], loss["stage"]] += loss["count"]
    told = {
        (kind, stage): count
        for kind, terms in trace.ledger["by_kind"].items()
        for stage, count in terms["lost_by_stage"].items()
        if count
    }
    assert told
    assert sums == told


@STORMS
@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail-on-loss",), 5)], ids=["plain", "fail-on-loss"])
def test_loss_fails_only_where_asked(load: subprocess.Popen[str], options: tuple[str, ...], code: int) -> None:
    """`--fail-on-loss` turns loss into exit code 5; without it the code stays 0."""
    with Trace(*SMALL, "--pid", str(load.pid), "--children", *options, code=code) as trace:
        overrun(trace, load)
    assert trace.ledger["total"]["lost"] > 0


def test_no_loss_no_failure() -> None:
    """`--fail-on-loss` without loss ends with 0."""
    with Trace("--fail-on-loss", "--pid", "1") as trace:
        pass
    assert trace.ledger["total"]["lost"] == 0
