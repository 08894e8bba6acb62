"""Trap 37: writing about events makes events."""

import pytest

from tests.tracing import find, one, shorten, value
from tests.traps.checks import lines, only
from tests.traps.conftest import MakeTrace, Run

pytestmark = pytest.mark.live

KINDS = ("exec", "exec-failed", "fork", "exit", "connect", "accept", "listen", "close")
EVERYTHING = [option for kind in KINDS for option in ("--event", kind)]


def test_tracer_is_not_in_its_own_stream(trace: MakeTrace, run: Run) -> None:
    """While it writes hundreds of lines, nothing in the stream is about the tracer itself, and the coverage says so."""
    with trace("--buffer", "32M", *EVERYTHING) as seen:
        pid = seen.pid
        truth = run("trap_28_short")
    own = [
        event
        for event in seen.events
        if pid in {value(event, "process.pid"), value(event, "process.parent.pid")}
        and not event["event"]["action"].startswith("tracer-")
    ]
    assert not own, [shorten(event) for event in own[:5]]
    # The stream did see what happened meanwhile.
    assert len(find(seen.events, "process-executed", process__parent__pid=only(truth, "program")["pid"])) == 211
    assert len(lines(truth, "blip")) == 211
    coverage = one(seen.events, "tracer-coverage")
    assert pid in coverage["tracer"]["coverage"]["excluded"]
    assert "pid_namespace" not in coverage["tracer"]["coverage"]
    seen.assert_complete()


def test_another_instance_is_not_in_the_stream(trace: MakeTrace, run: Run) -> None:
    """A tracer that runs already is excluded as well, and named: two of them don't feed each other."""
    with trace("--buffer", "32M", *EVERYTHING) as first, trace("--buffer", "32M", *EVERYTHING) as second:
        run("trap_05_source_port")
    assert first.pid in one(second.events, "tracer-coverage")["tracer"]["coverage"]["excluded"]
    assert not find(second.events, pid=first.pid)
    assert not find(second.events, pid=second.pid)
    first.assert_complete()
    second.assert_complete()
