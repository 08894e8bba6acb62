"""Processes of the past: found by pid and time, entity id or program, in files of either format, compressed or not."""

from __future__ import annotations

import gzip
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
import zstandard

from tests.report.stories import at, event, process
from tracer.history.lines import NoEventError, event_of
from tracer.history.past import Past, PastError, Wanted
from tracer.history.story import Story
from tracer.report import plain
from tracer.report.words import words

DATA = Path(__file__).parents[1] / "data"
SESSION = DATA / "session.jsonl"
ROOT = Path(__file__).parents[2]
PARENT = "jp1XklxfbYfYwauvZxMqjQ=="  # of the recorded session: it makes four processes and all seven flows


def line(told: dict[str, Any], number: int = 0) -> bytes:
    """An event as a line of a stream."""
    told["event"]["sequence"] = number
    return orjson.dumps({**told, "tracer": told.get("tracer", {}), "agent": {"ephemeral_id": "run"}}) + b"\n"


def used_twice() -> list[dict[str, Any]]:
    """Pid 4242 is two processes, one after the other; each makes a child of the same pid 4243."""
    made = []
    for number, begin in enumerate((1_000, 5_000)):
        first = process(4242, f"/bin/parent{number}", 1, start=begin) | {"entity_id": f"P{number}"}
        child = process(4243, f"/bin/child{number}", 4242, start=begin + 100) | {"entity_id": f"C{number}"}
        child["parent"]["entity_id"] = f"P{number}"
        made += [
            event("process-executed", begin, first),
            event("process-executed", begin + 100, child),
            event("process-exited", begin + 200, child),
            event("process-exited", begin + 1_000, first),
        ]
    return made


def written(path: Path, events: list[dict[str, Any]]) -> Path:
    """The file of these events."""
    path.write_bytes(b"".join(line(each, number) for number, each in enumerate(events)))
    return path


def told(files: list[Path], wanted: Wanted) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The bundle and the events of the one process that is wanted."""
    with Past(files, threads=1) as past:
        (root,) = past.find(wanted)
        with Story(past, root, "it") as story:
            return story.bundle, list(story.events())


@pytest.fixture(name="ocsf", scope="module")
def _ocsf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recorded session in OCSF."""
    path = tmp_path_factory.mktemp("ocsf") / "session.jsonl"
    command = [sys.executable, "-m", "tracer", "replay", "--format", "ocsf", "-o", str(path), str(DATA / "session.raw")]
    subprocess.run(command, check=True, timeout=60, cwd=ROOT)
    return path


def test_the_recorded_tree_is_found() -> None:
    """Of the recorded session the parent has four children, and all 25 events of the five are there in their order."""
    bundle, events = told([SESSION], Wanted(entity=PARENT))
    every = [event_of(each) for each in SESSION.read_bytes().splitlines()]
    assert events == [each for each in every if "process" in each]
    assert bundle["target"] == {"pid": 11393, "entity_id": PARENT, "asked": "it"}
    assert [child["name"] for child in bundle["children"]] == ["true", "sh", "python3", "sleep"]
    assert bundle["children"][0]["args"][:2] == ["/bin/true", "one"]
    assert [above["name"] for above in bundle["lineage"]] == ["unshare"]
    assert bundle["process"]["exit_code"] == 0
    past = bundle["past"]
    assert (past["lines"], past["unreadable"], past["processes"], past["events"]) == (29, 0, 5, 25)
    assert past["begins_before"] is True, "it ran before the trace"
    assert past["complete"] is False


def test_both_formats_tell_the_same(ocsf: Path) -> None:
    """The same session in OCSF gives the same text, and the same bundle but for what OCSF leaves out."""
    pairs = [told([path], Wanted(entity=PARENT)) for path in (SESSION, ocsf)]
    one, other = ("\n".join(plain.lines(*each)) for each in pairs)
    assert one == other
    assert "ECONNREFUSED" in one
    for bundle, _ in pairs:
        del bundle["made"], bundle["process"]
    assert pairs[0][0] == pairs[1][0]


def test_compressed_files_are_read_like_plain_ones(tmp_path: Path, ocsf: Path) -> None:
    """A stream in a gzip, a zstd and a plain file, whatever their names, and an empty one: as if it were one file."""
    lines = SESSION.read_bytes().splitlines(keepends=True)
    files = [tmp_path / name for name in ("one.gz", "two", "events.jsonl", "empty [*].jsonl")]
    files[0].write_bytes(gzip.compress(b"".join(lines[:9])))
    files[1].write_bytes(zstandard.compress(b"".join(lines[9:20])))
    files[2].write_bytes(b"".join(lines[20:]))
    files[3].touch()
    whole, parts = (told(each, Wanted(entity=PARENT)) for each in ([SESSION], files))
    assert parts[1] == whole[1]
    assert parts[0]["children"] == whole[0]["children"]
    mixed = told([*files, ocsf], Wanted(entity=PARENT))
    assert len(mixed[1]) == 2 * len(whole[1]), "two formats in one call"


def test_a_pid_that_came_again_is_two_processes(tmp_path: Path) -> None:
    """By the pid alone both fit; with a time only the one that was there then, with its own child and no other."""
    path = written(tmp_path / "events.jsonl", used_twice())
    with Past([path], threads=1) as past:
        assert [each.entity for each in past.find(Wanted(pid=4242))] == ["P0", "P1"]
        assert past.find(Wanted(pid=4242, at=at(3_000))) == [], "between the two there was none"
        assert past.find(Wanted(pid=4242, at=at(500))) == []
        assert past.find(Wanted(pid=7)) == []
    for number, when in enumerate((1_500, 5_500)):
        bundle, events = told([path], Wanted(pid=4242, at=at(when)))
        assert {each["process"]["entity_id"] for each in events} == {f"P{number}", f"C{number}"}
        assert [child["executable"] for child in bundle["children"]] == [f"/bin/child{number}"]
        assert len(events) == 4


def test_a_program_is_found_with_what_it_began(tmp_path: Path) -> None:
    """By the path: who ran it; of those that one of them made, the tree of the maker has them."""
    shell = process(10, "/bin/sh", 1)
    inner = process(11, "/bin/sh", 10, start=20)
    tool = process(12, "/bin/tool", 11, start=30)
    happened = [event("process-executed", 10 * number, each) for number, each in enumerate((shell, inner, tool))]
    path = written(tmp_path / "events.jsonl", happened)
    with Past([path], threads=1) as past:
        assert [each.entity for each in past.find(Wanted(executable="/bin/sh"))] == ["E10"]
        assert [each.entity for each in past.find(Wanted(executable="/bin/tool"))] == ["E12"]
        assert past.find(Wanted(executable="/bin/none")) == []
        assert sorted(past.tree("E10")) == ["E10", "E11", "E12"]
        assert [above["entity_id"] for above in past.above("E12")] == ["E11", "E10", "E1"]


def test_a_process_that_is_told_of_after_its_child_is_between(tmp_path: Path) -> None:
    """One that forked and ran nothing has its first line when it ends: what it made is in the tree all the same."""
    happened = [
        event("process-executed", 0, process(10, "/bin/top", 1)),
        event("process-exited", 500, process(11, "/bin/top", 10)),
        event("process-executed", 100, process(12, "/bin/leaf", 11)),
    ]
    path = written(tmp_path / "events.jsonl", happened)
    bundle, events = told([path], Wanted(entity="E10"))
    assert len(events) == 3
    assert bundle["children"][0]["children"][0]["executable"] == "/bin/leaf"


def test_a_torn_line_is_counted_and_no_obstacle(tmp_path: Path) -> None:
    """The last line of a file that is being written may end anywhere: it is counted, all before it is found."""
    path = written(tmp_path / "events.jsonl", used_twice())
    path.write_bytes(path.read_bytes()[:-40])
    bundle, events = told([path], Wanted(entity="P0"))
    assert len(events) == 4
    assert bundle["past"]["unreadable"] == 1
    assert bundle["past"]["lines"] == 8
    assert not bundle["past"]["complete"]


def test_lines_that_are_no_events_are_counted(tmp_path: Path, ocsf: Path) -> None:
    """Bytes that are no text, a line that is far too long, an empty one and one of something else: 4 in each file."""
    odd = b'{"event": "\xff\xfe"}\n' + b'{"a": "' + b"x" * 60_000 + b'"}\n' + b"\n" + b"no JSON\n"
    files = []
    for number, source in enumerate((SESSION, SESSION, ocsf)):
        lines = source.read_bytes().splitlines(keepends=True)
        data = b"".join([*lines[:9], odd, *lines[9:]])
        files.append(tmp_path / f"{number}.jsonl")
        files[-1].write_bytes(gzip.compress(data) if number == 1 else data)
    bundle, events = told(files, Wanted(entity=PARENT))
    assert len(events) == 3 * 25
    assert bundle["past"]["unreadable"] == 3 * 4
    assert bundle["past"]["lines"] == 3 * (29 + 4)


def test_losses_count_where_they_touch_its_life(tmp_path: Path) -> None:
    """What was lost while the tree was there is among the events and not complete; what was lost later is neither."""

    def loss(first: int, last: int) -> dict[str, Any]:
        body = {"kind": "exec", "stage": "emit", "count": 3, "first": at(first), "last": at(last)}
        return {"@timestamp": at(last), "event": {"action": "tracer-loss"}, "tracer": {"loss": body}}

    early = event("process-executed", 0, process(1, "/sbin/init"))
    path = written(tmp_path / "events.jsonl", [early, *used_twice(), loss(1_400, 1_600), loss(8_000, 9_000)])
    bundle, events = told([path], Wanted(entity="P0"))
    assert [each["event"]["action"] for each in events].count("tracer-loss") == 1
    assert not bundle["past"]["complete"]
    bundle, events = told([path], Wanted(entity="P1"))
    assert len(events) == 4
    assert bundle["past"]["complete"]
    assert not bundle["past"]["begins_before"]


def test_a_deep_and_wide_tree_is_cut_in_the_bundle_alone(tmp_path: Path) -> None:
    """Of a chain of 101 the bundle has 64 and says so; all 101 are in the events."""
    happened = [event("process-executed", number, process(number, "/bin/x", number - 1)) for number in range(1, 103)]
    path = written(tmp_path / "events.jsonl", happened)
    bundle, events = told([path], Wanted(entity="E1"))
    assert len(events) == 102
    depth, at_level = 0, bundle["children"]
    while at_level:
        depth, at_level = depth + 1, at_level[0]["children"]
    assert depth == 64
    assert bundle["children_cut"] == 1


def test_what_is_no_stream_is_refused(tmp_path: Path) -> None:
    """Files without a line, of something else, or not there: one message that names them."""
    odd = tmp_path / "odd"
    odd.write_text("hello\n")
    empty = tmp_path / "empty"
    empty.touch()
    for files, said in (([odd], "no JSON"), ([empty], "no line"), ([tmp_path / "none"], "No such file")):
        with pytest.raises(PastError, match=said):
            Past(files)
    with pytest.raises(NoEventError):
        event_of(b'{"event": {"action": 7}}')


def test_sql_in_what_is_asked_for_is_a_text() -> None:
    """Quotes in an entity id or a path find nothing, and break nothing."""
    with Past([SESSION], threads=1) as past:
        assert past.find(Wanted(entity="' OR 1=1 --")) == []
        assert past.find(Wanted(executable="'; DROP TABLE known; --")) == []
        assert past.find(Wanted(entity=PARENT))


def test_duckdb_reads_nothing_else(tmp_path: Path) -> None:
    """What it may open is locked to the files given."""
    import duckdb

    (tmp_path / "secret").write_text("secret\n")
    with Past([SESSION], threads=1) as past, pytest.raises(duckdb.Error, match=r"(?i)permission|disabled"):
        past._db.execute(f"SELECT * FROM read_csv('{tmp_path}/secret')")  # noqa: S608 - it is refused


def test_files_and_refusals_in_ocsf_are_those_of_ecs() -> None:
    """What OCSF has as a file, or under `unmapped`, is read as ECS has it, with whose it is."""
    who = {"pid": 7, "uid": "E7", "name": "sh"}
    base = {"time_dt": at(1), "device": {"agent_list": [{"uid_alt": "run"}]}}
    renamed = {
        **base,
        "metadata": {"event_code": "file-renamed", "sequence": 1},
        "actor": {"process": who},
        "file": {"path": "/a", "name": "a"},
        "unmapped": {"tracer": {"file": {"target_path": "/b"}}},
    }
    denied = {
        **base,
        "metadata": {"event_code": "access-denied", "sequence": 2},
        "status_code": "EPERM",
        "status_id": 2,
        "unmapped": {"process": who, "tracer": {"denied": {"syscall": "connect", "address": "::1", "port": 25}}},
    }
    told = [event_of(orjson.dumps(each)) for each in (renamed, denied)]
    assert [each["process"]["entity_id"] for each in told] == ["E7", "E7"]
    assert told[0]["file"] == {"path": "/a", "name": "a", "target_path": "/b"}
    assert told[1]["event"]["outcome"] == "failure"
    assert [words(each, each["event"]["action"]) for each in told] == ["/a → /b", "connect [::1]:25: EPERM"]
