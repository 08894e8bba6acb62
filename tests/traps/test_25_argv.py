"""Trap 25: arguments are memory of the process."""

import pytest

from tests.tracing import actions
from tests.traps.checks import check_exec, lines
from tests.traps.conftest import MakeTrace, Run, Seen, see

pytestmark = pytest.mark.live


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_25_argv")


@pytest.mark.parametrize("label", ["wiped", "rewritten"])
def test_arguments_as_committed(seen: Seen, label: str) -> None:
    """Wiped by the new image at once, or rewritten by a neighbour up to the exec: told is what the image got."""
    truth, events = seen
    told = lines(truth, "exec", label=label)
    assert len(told) == 17
    for line in told:
        event = check_exec(truth, events, line)
        assert len(event["process"]["args"]) == 7
        assert "X" not in "".join(event["process"]["args"])
        assert "truncated" not in event["tracer"]
        assert actions(events, line["pid"]) == {"process-executed": 1, "process-exited": 1}
