"""Trap 35: every CPU has a ring of its own."""

import pytest

from tests.tracing import Event
from tests.traps.checks import Line, boot_ns, check_time, lines, only
from tests.traps.conftest import MakeTrace, Run, see

pytestmark = pytest.mark.live


def check(truth: list[Line], events: list[Event]) -> None:
    """The steps come in the order in which each caused the next, at their times, and none is marked late."""
    target = only(truth, "target")
    steps = sorted(lines(truth, "step"), key=lambda line: int(line["number"]))
    assert [line["number"] for line in steps] == list(range(target["steps"]))
    children = {line["child"]: line["number"] for line in steps if line["child"]}
    seen = []
    for event in events:
        action, process = event["event"]["action"], event.get("process", {})
        if action == "connection-failed" and event["destination"]["port"] == target["port"]:
            _, _, high, low = event["destination"]["ip"].split(".")
            number = int(high) * 256 + int(low)
            assert process["pid"] == steps[number]["pid"]
            seen.append((number, "connection-failed"))
        elif action in {"process-executed", "process-exited"} and process.get("pid") in children:
            number = children[process["pid"]]
            seen.append((number, action))
        else:
            continue
        assert event["tracer"].get("late") is not True
        check_time(truth, event, steps[number])
    expected: list[tuple[int, str]] = []
    for line in steps:
        kinds = ["process-executed", "process-exited"] if line["child"] else ["connection-failed"]
        expected += [(line["number"], kind) for kind in kinds]
    assert seen == expected
    times = [boot_ns(truth, event) for event in events if event.get("process", {}).get("pid") in children]
    assert times == sorted(times)


def test_order_across_cpus(trace: MakeTrace, run: Run) -> None:
    """211 steps that two CPUs take in turn come out in order, process and network records together."""
    truth, events = see(trace, run, "trap_35_order")
    check(truth, events)
    numbers = [event["event"]["sequence"] for event in events]
    assert numbers == sorted(set(numbers))
