"""The published schemas: every event fits them, they are what the documents say, and later releases may add."""

import json
from typing import Any

import pytest

from scripts import event_schema
from tests.cli.commands import run
from tests.formats import events
from tests.formats.ocsf_lines import in_ecs, shown
from tests.formats.schemas import faults, published
from tests.formats.test_ecs import corpus
from tracer.formats.ecs import ECS_VERSION, SCHEMA
from tracer.formats.ocsf import OCSF_VERSION
from tracer.model import Event, Kind

CORPUS = corpus()


def test_they_are_made_of_the_documents() -> None:
    """What the package carries is what `python -m scripts.event_schema` makes of docs/events.md and docs/ocsf.md."""
    assert {form: place.read_text() for form, place in event_schema.PLACES.items()} == event_schema.made()


@pytest.mark.parametrize("event", CORPUS, ids=lambda event: type(event).__name__)
def test_every_event_fits(event: Event) -> None:
    """Each line fits the schema of its format with nothing in it that the schema lacks."""
    assert faults(in_ecs(event), "ecs") == []
    assert faults(shown(event), "ocsf") == []


@pytest.mark.parametrize(
    ("form", "path", "value"),
    [
        ("ecs", "process.pid", "4242"),
        ("ecs", "event.outcome", "failure"),
        ("ecs", "event.sequence", None),
        ("ecs", "@timestamp", "yesterday"),
        ("ecs", "source.ip", "example.org"),
        ("ecs", "tracer.schema", 2),
        ("ecs", "tracer.attribution", 1),
        ("ocsf", "type_uid", 400107),
        ("ocsf", "metadata.sequence", "7"),
        ("ocsf", "unmapped.tracer.netns", "1"),
        ("ocsf", "time", 1.5),
    ],
)
def test_what_does_not_fit(form: str, path: str, value: Any) -> None:
    """A value of another type, or that does not go with the action, or that is missing, is found where it is."""
    event = events.socket(Kind.CONNECT)
    document = in_ecs(event) if form == "ecs" else shown(event)
    assert faults(document, form, closed=False) == []
    here: dict[str, Any] = document
    *above, last = path.split(".")
    for name in above:
        here = here[name]
    if value is None:
        del here[last]
    else:
        here[last] = value
    found = faults(document, form, closed=False)
    assert found
    assert any(path.startswith(where) for where, _ in found)


@pytest.mark.parametrize("form", ["ecs", "ocsf"])
def test_what_a_later_release_may_add_fits(form: str) -> None:
    """As the rule says: a new field, a new action and a newer minor version fit the schema of the same version."""
    event = events.executed(events.image(b"x"))
    document = in_ecs(event) if form == "ecs" else shown(event)
    document["process"]["new"] = 1
    own = document["tracer"] if form == "ecs" else document["unmapped"]["tracer"]
    own["new"] = {"also": "new"}
    if form == "ecs":
        document["event"]["action"] = "process-teleported"
        document["ecs"]["version"] = "9.5.0"
    else:
        document["metadata"]["event_code"] = "process-teleported"
        document["metadata"]["version"] = "1.9.0"
    assert faults(document, form, closed=False) == []
    assert faults(document, form)


def test_versions() -> None:
    """The schemas are of the versions that lines have."""
    for form, version in (("ecs", ECS_VERSION), ("ocsf", OCSF_VERSION)):
        schema = published(form)
        assert schema["$id"] == f"urn:tracer:schema:{form}:{SCHEMA}"
        assert f"{version}, version {SCHEMA} " in schema["title"]


@pytest.mark.parametrize("form", ["ecs", "ocsf"])
def test_the_command_prints_them(form: str) -> None:
    """`tracer schema` prints the schema of the format, ECS by itself; another name is a mistake of usage."""
    options = [] if form == "ecs" else ["--format", form]
    done = run("schema", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == published(form)
    wrong = run("schema", "--format", "pretty")
    assert wrong.returncode == 2
    assert wrong.stderr == "tracer: --format 'pretty': give ecs or ocsf\n"
