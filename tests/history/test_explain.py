"""How the process of an event is known: each link is what the stream says, and each weakness is told."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tracer.history.explain import Explanation, explain
from tracer.history.gather import context, search

SESSION = Path(__file__).parents[1] / "data" / "session.jsonl"
EVENTS = [json.loads(line) for line in SESSION.read_bytes().splitlines()]
SEQUENCES = [each["event"]["sequence"] for each in EVENTS]


def explained(path: Path, sequence: int) -> Explanation:
    """The one event of that number, explained by its file."""
    sources = [("here", path)]
    (found,) = search(sources, sequence)
    return explain(found, context(sources, found))


def changed(tmp_path: Path, events: list[dict[str, Any]]) -> Path:
    """A file of these events."""
    path = tmp_path / "events.jsonl"
    path.write_text("".join(f"{json.dumps(each, separators=(',', ':'))}\n" for each in events))
    return path


def one(action: str) -> dict[str, Any]:
    """The first event of that kind."""
    return next(each for each in EVENTS if each["event"]["action"] == action)


def number(action: str) -> int:
    """Its number."""
    return int(one(action)["event"]["sequence"])


def says(told: Explanation, about: str) -> str:
    """What the links about something say."""
    return " | ".join(link.says for link in told.chain if link.about == about)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_each_event_of_a_real_stream_is_explained(sequence: int) -> None:
    """Each has a source; each that has a process has its identity made again, and nothing speaks against it."""
    told = explained(SESSION, sequence)
    assert says(told, "source")
    assert told.event["sequence"] == sequence
    assert told.event["line"] == SEQUENCES.index(sequence) + 1
    if told.process is not None:
        assert "it agrees" in says(told, "identity")
        assert told.doubts == []
        assert told.sure
        assert "nothing was lost" in says(told, "ledger")


def test_an_exit_is_led_back_to_its_fork_and_exec() -> None:
    """The links name the events that tell of the beginning, of the program, and of the probe."""
    told = explained(SESSION, 5)
    by_about = {link.about: link for link in told.chain}
    assert by_about["beginning"].sequence == 3
    assert by_about["program"].sequence == 4
    assert "/usr/bin/true" in by_about["program"].says
    assert by_about["source"].sequence == 0
    assert "sched_process_exit" in by_about["source"].says
    assert "11393" in by_about["parent"].says


@pytest.mark.parametrize(
    ("attribution", "words", "sure"),
    [
        ("kernel", "owner's own context", True),
        ("cookie", "cookie", True),
        ("inode", "descriptor of this socket's inode", False),
        ("new", "does not know", False),
    ],
)
def test_each_attribution_has_its_words(tmp_path: Path, attribution: str, words: str, sure: bool) -> None:
    """What the kernel said is sure; what was found by looking, or is of a newer version, is not."""
    events = copy.deepcopy(EVENTS)
    sequence = number("connection-accepted")
    events[SEQUENCES.index(sequence)]["tracer"]["attribution"] = attribution
    told = explained(changed(tmp_path, events), sequence)
    assert words in says(told, "owner")
    assert told.sure is sure


def test_a_process_that_is_not_known_is_not_guessed(tmp_path: Path) -> None:
    """A socket of the kernel's own, or one that nobody was seen to accept: no process, and why."""
    events = copy.deepcopy(EVENTS)
    sequence = number("connection-accepted")
    at = SEQUENCES.index(sequence)
    del events[at]["process"], events[at]["tracer"]["attribution"]
    told = explained(changed(tmp_path, events), sequence)
    assert told.process is None
    assert "nobody is guessed" in says(told, "owner")
    assert not told.sure
    events[at]["tracer"]["attribution"] = "kernel-socket"
    assert "kernel's own" in says(explained(changed(tmp_path, events), sequence), "owner")


def test_a_changed_identity_is_noticed(tmp_path: Path) -> None:
    """Another pid in all lines of a process: its entity id does not agree any more."""
    events = copy.deepcopy(EVENTS)
    sequence = number("process-executed")
    entity = events[SEQUENCES.index(sequence)]["process"]["entity_id"]
    for each in events:
        if each.get("process", {}).get("entity_id") == entity:
            each["process"]["pid"] = 7
    told = explained(changed(tmp_path, events), sequence)
    assert any("was changed" in doubt for doubt in told.doubts)
    assert not told.sure


@pytest.mark.parametrize(
    ("member", "value", "words"),
    [
        ("late", True, "too late to be put in order"),
        ("quality", ["approximate"], "time is that of the look"),
        ("quality", ["of-tomorrow"], "does not know"),
        ("truncated", ["process.args"], "cut: process.args"),
        ("redacted", ["process.args"], "secrets taken out"),
    ],
)
def test_each_flag_is_a_doubt(tmp_path: Path, member: str, value: Any, words: str) -> None:
    """What a line says of its own quality is said in words."""
    events = copy.deepcopy(EVENTS)
    sequence = number("process-executed")
    events[SEQUENCES.index(sequence)]["tracer"][member] = value
    told = explained(changed(tmp_path, events), sequence)
    assert any(words in doubt for doubt in told.doubts), told.doubts
    assert not told.sure


def test_losses_around_an_event_are_told(tmp_path: Path) -> None:
    """By the ledgers before and after it, by kind, and by a loss whose times it is between; not by others."""
    events = copy.deepcopy(EVENTS)
    sequence = number("connection-accepted")
    at = SEQUENCES.index(sequence)
    ledger = copy.deepcopy(events[-1])
    ledger["event"]["sequence"] = 1
    ledger["tracer"]["ledger"]["total"]["lost"] = 2
    ledger["tracer"]["ledger"]["by_kind"]["exit"]["lost"] = 2
    events[1] = ledger
    last = events[-1]["tracer"]["ledger"]
    last["total"]["lost"], last["by_kind"]["exit"]["lost"], last["by_kind"]["exec"]["lost"] = 9, 2, 7
    last["missed"]["programs"] = {"process_exec": 3}
    when = events[at]["@timestamp"]
    for first, end, count in ((when, when, 7), ("2026-11-23T03:30:00Z", "2026-11-23T03:31:00Z", 99)):
        loss = copy.deepcopy(events[0])
        loss["event"] |= {"action": "tracer-loss", "sequence": 2 if count == 7 else 90}
        loss["tracer"] = {"loss": {"kind": "exec", "stage": "emit", "count": count, "first": first, "last": end}}
        events.append(loss)
    told = explained(changed(tmp_path, events), sequence)
    doubts = " | ".join(told.doubts)
    assert "7 records were lost between event 1 and event 28: 7 of exec" in doubts
    assert "of exit" not in doubts, "they were lost before"
    assert "3 times" in doubts
    assert "7 of exec lost at emit" in doubts
    assert "99" not in doubts
    assert not told.sure


def test_a_stream_that_is_cut_promises_nothing(tmp_path: Path) -> None:
    """Without a ledger after it nobody knows whether anything was lost, and without a beginning what feeds it."""
    sequence = number("connection-accepted")
    at = SEQUENCES.index(sequence)
    told = explained(changed(tmp_path, EVENTS[at : at + 1]), sequence)
    assert any("no ledger follows" in doubt for doubt in told.doubts)
    assert "coverage record is not here" in says(told, "source")
    assert "beginning of this run is not in these files" in says(told, "beginning")
    assert not told.sure


def test_the_snapshot_is_evidence(tmp_path: Path) -> None:
    """A process that was found at the start, and its parents up to the first: each has the line that tells of it."""
    events = copy.deepcopy(EVENTS)
    accepted = events[SEQUENCES.index(number("connection-accepted"))]["process"]
    parent = accepted["parent"]
    made = [events[0]]
    for who, above in ((accepted, parent["entity_id"]), (parent, "")):
        found = copy.deepcopy(one("process-forked"))
        found["event"] |= {"action": "process-running", "kind": "state", "sequence": len(made)}
        found["process"] = {**who, "parent": {"entity_id": above}} if above else {**who, "parent": {}}
        found["tracer"]["snapshot"] = True
        made.append(found)
    told = explained(changed(tmp_path, made + events[3:]), number("connection-accepted"))
    assert "it was there before the start" in says(told, "beginning")
    (above,) = [link for link in told.chain if link.about == "parent"]
    assert above.sequence == 2
    assert "/usr/bin/unshare" in above.says
    snapshot = explained(changed(tmp_path, made + events[3:]), 1)
    assert "what was there before the start" in says(snapshot, "source")


def test_two_runs_may_have_the_same_numbers(tmp_path: Path) -> None:
    """Both are found, and each by its run; what the other run says is not taken for this one's."""
    other = copy.deepcopy(EVENTS)
    for each in other:
        each["agent"]["ephemeral_id"] = "other"
    other[-1]["tracer"]["ledger"]["total"]["lost"] = 5
    sources = [("here", changed(tmp_path, EVENTS + other))]
    assert [found.run for found in search(sources, 5)] == ["run", "other"]
    (found,) = search(sources, 5, "run")
    assert explain(found, context(sources, found)).doubts == []
    (found,) = search(sources, 5, "other")
    assert any("5 records were lost" in doubt for doubt in explain(found, context(sources, found)).doubts)
