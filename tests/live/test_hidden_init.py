"""Where the kernel hides process 1 from BPF, the coverage record says so, and nowhere else."""

import pytest

from tests.tracing import Trace, find, value

pytestmark = pytest.mark.live


def test_hidden_process_1_is_told() -> None:
    """Process 1 is in the snapshot, or the coverage record names it as what can't be seen: one of the two."""
    with Trace("--duration", "0.2") as trace:
        trace.process.wait(20)
    seen = bool(find(trace.events, "process-running", 1))
    blind = value(trace.one("tracer-coverage"), "tracer.coverage.blind")
    hidden = any(each.startswith("process 1, which this kernel hides") for each in blind)
    assert hidden is not seen
