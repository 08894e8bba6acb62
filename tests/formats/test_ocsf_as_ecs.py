"""What an OCSF line says in the terms of ECS: what the same event's ECS line says."""

import pytest

from tests.formats.ocsf_as_ecs import as_ecs
from tests.formats.ocsf_lines import flat, in_ecs, shown
from tests.formats.required import Table, lacking
from tests.formats.test_ecs import CORPUS
from tracer.model import Event, Notice

# What ECS says twice, and what OCSF has no place for but in events of processes.
TWICE = {"agent.name", "host.hostname"}
LEADER = "process.group_leader.pid"
# A pod whose id is no UUID, as that of the corpus, has a place in events of processes only.
# The container of flows of several processes has none, either: OCSF has it in a process.
CONTAINER = {"container.id", "container.runtime"}
POD = {"orchestrator.type", "orchestrator.resource.type", "orchestrator.resource.id"}


def unordered(found: dict[str, object]) -> dict[str, object]:
    """The fields, the two addresses in the order of their names: which is whose is told elsewhere."""
    return {
        name: sorted(each) if name == "related.ip" and isinstance(each, list) else each for name, each in found.items()
    }


@pytest.mark.parametrize("event", CORPUS, ids=lambda event: type(event).__name__)
def test_same_event(event: Event) -> None:
    """Field by field, but for what ECS says twice and OCSF does not have."""
    ecs = {name: each for name, each in flat(in_ecs(event)).items() if name not in TWICE}
    if not str(ecs["event.action"]).startswith("process-"):
        several = CONTAINER if "process.pid" not in ecs else set()
        ecs = {name: each for name, each in ecs.items() if name not in POD | several | {LEADER}}
    assert unordered(flat(as_ecs(shown(event)))) == unordered(ecs)


def test_class_of_another_action_is_refused() -> None:
    """A line whose class is not that of its action is no event."""
    line = shown(next(event for event in CORPUS if not isinstance(event, Notice)))
    line["type_uid"] += 1
    with pytest.raises(AssertionError):
        as_ecs(line)


def test_field_that_is_lacking_is_counted() -> None:
    """What an event must carry and does not is told with its name, and the table is not full any more."""
    event = in_ecs(next(event for event in CORPUS if not isinstance(event, Notice)))
    table = Table()
    table.add(event)
    before = lacking(event)
    assert "process.pid" not in before
    del event["process"]["pid"]
    assert lacking(event) == ["process.pid", *before]
    assert "process.pid" not in lacking(event, ["process.pid"])
    other = Table()
    other.add(event)
    table.merge(other)
    assert not table.full
    assert table.events == {event["event"]["action"]: 2}
    assert any(line.strip() == "process.pid: lacking in 1 of 2" for line in table.lines())
