"""The figures and `tracer status`: what one writes the other reads, and says when it is not of today."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cli import commands
from tracer.cli import facts, status
from tracer.cli.errors import CommandError, Exit
from tracer.cli.figures import render
from tracer.cli.stats import NOTHING, Measured

LEDGER: dict[str, Any] = {
    "complete": False,
    "final": False,
    "by_kind": {
        "exec": {"delivered": 1000, "aggregated": 1, "filtered": 20, "lost": 7, "in_flight": 3},
        "close": {"delivered": 234, "aggregated": 0, "filtered": 0, "lost": 0, "in_flight": 0},
    },
    "total": {"lost": 7, "lost_by_stage": {"emit": 5, "ring": 0, "late": 0, "decode": 0, "sink": 2}},
    "missed": {"programs": {"accept": 4}, "map_full": {"connect": 2}, "gaps": 1},
}
CONFINED = {"layers": {"user": "off", "capabilities": "enforced", "landlock_files": "partial", "seccomp": "enforced"}}


@pytest.fixture
def session() -> Iterator[Measured]:
    """A session of this boot."""
    made = Measured(version="1.2.3", backend="core", boot_id=facts.boot_id(), hooks_refused=2, every_s=10.0)
    made.confined(CONFINED)
    yield made
    made.close()


def written(path: Path, session: Measured, ledger: Any = LEDGER, *, running: bool = True) -> Path:
    """The stats file of a session as of a ledger."""
    path.write_bytes(render(session.facts(ledger, events=1234, lag_s=0.0125, running=running)))
    return path


def test_prometheus_reads_it(tmp_path: Path, session: Measured) -> None:
    """The package's own parser finds each metric once, with its type and unit, all of ours by their names."""
    text = written(tmp_path / "t.prom", session).read_text()
    families = list(text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(name.startswith("tracer") for name in names)
    values = {(each.name, *each.labels.values()): each.value for family in families for each in family.samples}
    assert values["tracer_records_total", "delivered", "exec"] == 1000
    assert values["tracer_lost_records_total", "sink"] == 2
    assert values["tracer_missed_total", "gaps"] == 1
    assert values["tracer_lag_seconds",] == 0.0125
    assert values["tracer_confined", "landlock_files"] == 0.0
    assert ("tracer_confined", "user") not in values
    assert all(family.documentation for family in families)


def test_status_reads_what_is_written(tmp_path: Path, session: Measured) -> None:
    """Each figure comes out as it went in; memory and CPU are those of this process."""
    found = status.read(written(tmp_path / "t.prom", session))
    assert found["state"] == "running"
    assert (found["version"], found["backend"], found["events"], found["hooks_refused"]) == ("1.2.3", "core", 1234, 2)
    assert found["records"] == {"delivered": 1234, "aggregated": 1, "filtered": 20, "lost": 7, "in_flight": 3}
    assert found["lost_by_stage"] == LEDGER["total"]["lost_by_stage"]
    assert found["missed"] == {"programs": 4, "map_full": 2, "gaps": 1}
    assert found["confined"] == {"capabilities": True, "landlock_files": False, "seccomp": True}
    assert found["complete"] is False
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert 0.5 < found["memory_bytes"] / resident < 2
    assert 0 < found["cpu_s"] <= sum(os.times()[:2]) + 0.1  # of which the ticks are hundredths


def test_status_for_people(tmp_path: Path, session: Measured) -> None:
    """A line for each thing that there is to know, with losses and missing layers named; the code is 0."""
    lines: list[str] = []
    file = written(tmp_path / "t.prom", session)
    assert status.status(file, json_lines=False, write=lines.append, sandbox=False) is Exit.OK
    told = dict(line.split(None, 1) for line in "".join(lines).splitlines())
    assert told["running"].startswith("for ")
    assert told["backend"] == "core; 2 hook(s) refused"
    assert told["events"].startswith("1,234; records: 1,234 delivered")
    assert told["lost"] == "7 (5 emit, 2 sink); missed: 4 programs, 2 map full, 1 gaps; the stream is not complete"
    assert told["lag"].startswith("12.5 ms")
    assert told["confined"] == "capabilities, seccomp; missing: landlock_files"
    assert max(map(len, "".join(lines).splitlines())) <= 120


@pytest.mark.parametrize(
    ("old", "new", "state"),
    [
        (None, None, "running"),
        ("tracer_running 1.0", "tracer_running 0.0", "ended"),
        (facts.boot_id(), "00000000-0000-0000-0000-000000000000", "stale"),
    ],
)
def test_state(tmp_path: Path, session: Measured, old: str | None, new: str | None, state: str) -> None:
    """It runs, has ended in order, or is of another boot; the code tells."""
    path = written(tmp_path / "t.prom", session)
    if old is not None and new is not None:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    finished = commands.run("status", path, "--json")
    assert json.loads(finished.stdout)["state"] == state
    assert finished.returncode == (Exit.OK if state == "running" else Exit.FAILURE)


@pytest.mark.parametrize(("seconds", "state"), [(29.0, "running"), (31.0, "stale"), (-5.0, "stale")])
def test_stale(tmp_path: Path, session: Measured, monkeypatch: pytest.MonkeyPatch, seconds: float, state: str) -> None:
    """After three intervals without an update it is taken for dead, and so is one of the future: another boot's."""
    path = written(tmp_path / "t.prom", session)
    clock = time.clock_gettime
    monkeypatch.setattr(time, "clock_gettime", lambda which: clock(which) + seconds)
    found = status.read(path)
    assert found["state"] == state
    if state == "stale":
        assert dict(status.rows(found))["running"].startswith("no more, as it seems: updated ")


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "is the service running"),
        (b"", "about to start"),
        (b"node_load1 0.5\n", "no stats file of tracer"),
        (b"\xff\x00{{{", "no stats file of tracer"),
        (b'tracer_info{version="x"} 1\n', "no stats file of tracer"),
    ],
)
def test_no_stats_file(tmp_path: Path, content: bytes | None, word: str) -> None:
    """An absent, empty or foreign file is one line that says what to do, and code 1."""
    path = tmp_path / "t.prom"
    if content is not None:
        path.write_bytes(content)
    commands.assert_refused(commands.run("status", path), Exit.FAILURE, word, str(path))


def test_hostile_file(tmp_path: Path, session: Measured) -> None:
    """Who can write the file can't drive the terminal of who asks."""
    path = written(tmp_path / "t.prom", session)
    path.write_text(path.read_text().replace('version="1.2.3"', 'version="\x1b[2J"'))
    finished = commands.run("status", path)
    assert "\x1b" not in finished.stdout


def test_before_the_first_ledger(tmp_path: Path, session: Measured) -> None:
    """Between the start and the first ledger all counts are 0, and nothing is missing."""
    found = status.read(written(tmp_path / "t.prom", session, NOTHING))
    assert found["state"] == "running"
    assert found["complete"] is True
    assert not any(found["records"].values())


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without prometheus-client the error says how to get it."""
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    with pytest.raises(CommandError, match=r"pip install 'tracer\[service\]'"):
        status.read(tmp_path / "t.prom")
