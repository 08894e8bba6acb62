"""The benchmark's arithmetic, its parsing, and that its recordings are what they claim to be; nothing is timed."""

import io
import json
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from scripts.bench import __main__ as bench
from scripts.bench import feeder, history, mix, others, overhead, rendering, report, session, startup, throughput
from scripts.bench.figures import Paired, Row, Spread, table
from scripts.bench.programs import BenchError, Took, build, busy_seconds, run
from tracer.cli.errors import Exit
from tracer.cli.replay import replay
from tracer.model import Kind
from tracer.pipeline.turns import FRAME, MAGIC, Input, Turn, unpack
from tracer.probes.records import FACTS, KIND, TGID, decode

SMALL = mix.Mix(4_000, 200_000)


def row(median: float, budget: float | None = 1.15, **changes: Any) -> Row:
    """A row with nothing special about it."""
    return Row("work", "group", Spread(median, median - 0.1, median + 0.2), budget, **changes)


def test_spread_is_median_least_and_most() -> None:
    """The median of an even count lies between the two in the middle; no value is an error."""
    assert Spread.of([5, 1, 2, 4]) == Spread(3, 1, 5)
    with pytest.raises(ValueError, match="nothing was measured"):
        Spread.of([])


def test_paired_ratios_are_of_neighbours() -> None:
    """Each pair gives one ratio; those of medians and of the fastest are others; noise is from base run to base run."""
    paired = Paired([2.0, 4.0, 10.0], [2.2, 4.0, 30.0])
    assert paired.ratios == Spread(1.1, 1.0, 3.0)
    assert paired.of_medians == pytest.approx(1.0)
    assert paired.of_least == pytest.approx(1.1)
    assert paired.noise == Spread(2.25, 2.0, 2.5)


def test_paired_wants_as_many_of_both() -> None:
    """A run without its partner is a mistake of the benchmark, not a figure."""
    with pytest.raises(ValueError, match="zip"):
        _ = Paired([1.0, 2.0], [1.0]).ratios


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (row(1.15), "ok"),
        (row(1.1504), "ok"),  # reads as 1.150
        (row(1.151), "over"),
        (row(9.0, None), ""),
        (row(1.0, wrong=["3 lost"]), "WRONG"),
        (row(199_999, 200_000, at_least=True, form=",.0f"), "under"),
        (row(200_000, 200_000, at_least=True, form=",.0f"), "ok"),
        (Row("work", "group", None, 1.0), ""),
    ],
)
def test_verdict(found: Row, verdict: str) -> None:
    """What is printed is what is compared with the budget, and a lost event outweighs every figure."""
    assert found.verdict == verdict


def test_table_has_every_row_under_its_group() -> None:
    """Budget, median and spread stand in columns under their heads, findings first among the notes."""
    lines = table([row(1.05, note="quiet"), row(1.25, wrong=["3 lost"], note="noisy")]).split("\n")
    assert lines[1:3] == ["", "group"]
    assert lines[3].split() == ["work", "≤", "1.150", "1.050", "0.950", "to", "1.250", "ok", "quiet"]
    assert lines[4].endswith("WRONG  3 lost; noisy")
    end = lines[0].index("median") + len("median")
    assert [line[end - 5 : end] for line in lines[3:5]] == ["1.050", "1.250"]


def test_rows_of_a_group_come_together() -> None:
    """Groups come in the order of their first rows, whatever was measured in between."""
    rows = [Row(name, group, None) for name, group in (("a", "one"), ("b", "two"), ("c", "one"))]
    assert [each.name for each in report.in_groups(rows)] == ["a", "c", "b"]


def test_markdown_and_json_hold_the_figures() -> None:
    """The README's section has a table for each group; JSON has the spread, the verdict and the machine."""
    facts = report.machine()
    rows = [row(1.05), Row("other | tool", "beside", None, note="can't run here: no headers")]
    text = report.markdown(rows, facts)
    assert "| work | ≤ 1.150 | 1.050 | 0.950 to 1.250 | ok |" in text
    assert "| other \\| tool |  |  |  | can't run here: no headers |" in text
    assert facts["kernel"] in text
    found = json.loads(json.dumps(report.as_json(rows, facts)))
    assert found["rows"][0]["spread"] == {"median": 1.05, "least": pytest.approx(0.95), "most": 1.25}
    assert found["rows"][0]["verdict"] == "ok"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("sh: 1: modprobe: not found\nUnable to find headers. Try this.\nTraceback\n  x\n", "Unable to find headers"),
        ("one\n\n  two  words \n\n", "two words"),
        ("", "it said nothing"),
    ],
)
def test_reason_is_the_line_that_tells(said: str, told: str) -> None:
    """Of a tool's last words the first line that names a failure is kept, else the last, never a whole traceback."""
    assert others.reason(said) == told


def test_mistakes_name_each_action_that_differs() -> None:
    """Missing and surplus lines are both mistakes; what agrees is not mentioned."""
    found = overhead.mistakes({"a": 2, "b": 3, "c": 1}, {"a": 2, "b": 4})
    assert found == ["4 b instead of 3", "0 c instead of 1"]


def test_own_program_did_what_it_says(tmp_path: Path) -> None:
    """The workloads count what they do, and take no port with them: a second run works as the first."""
    programs = build(tmp_path)
    for name, count in (("spawn", 3), ("connect", 7), ("serve", 7), ("stream", 1)):
        command = [programs.workloads, name, count, *([programs.nop] if name == "spawn" else [])]
        took = run(list(map(str, command)))
        assert took.said["count"] == count
        assert took.said["pid"] == took.pid
    with pytest.raises(BenchError, match="ended with 2: usage"):
        run([programs.workloads, "spawn", "0"])


def test_busy_is_all_but_idle_and_waiting() -> None:
    """User, nice, system, interrupts and stolen time count, in ticks of 1/100 s; guests are part of user already."""
    assert busy_seconds("cpu  100 20 30 5000 700 8 2 40 9 9\ncpu0 1 1\n") == pytest.approx(2.0)


def test_expected_lines_are_those_of_the_workload() -> None:
    """Connections give a line at both ends for their close; spawned programs are found by their parent."""
    took = Took(77, 1.0, 1.0, {})
    lines = {workload.key: workload.lines(took) for workload in overhead.WORKLOADS}
    assert lines["spawn"][0] == b'"parent":{"pid":77,'
    assert lines["connect"][0] == b'"process":{"pid":77,'
    assert lines["connect"][1] == {
        "connection-opened": 20_011,
        "connection-accepted": 20_011,
        "connection-closed": 40_022,
    }


def ledger_line(**changes: Any) -> bytes:
    """A line as the tracer ends its output with."""
    ledger = {"total": {"lost": 0}, "balanced": True, "complete": True, "missed": {}, "final": True} | changes
    return json.dumps({"event": {"action": "tracer-ledger"}, "tracer": {"ledger": ledger}}).encode() + b"\n"


def test_ledger_is_the_last_line(tmp_path: Path) -> None:
    """Only a final ledger at the very end counts; anything else is an error, not an empty ledger."""
    output = tmp_path / "lines"
    output.write_bytes(b'{"event":{}}\n' * 10_000 + ledger_line())
    assert session.problems(session.ledger_of(output)) == []
    for ending in (b'{"event":{"action":"process-executed"}}\n', b"cut sho", ledger_line(final=False)):
        output.write_bytes(ledger_line() + ending)
        with pytest.raises(BenchError, match="does not end in"):
            session.ledger_of(output)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"total": {"lost": 3}, "complete": False}, ["3 lost"]),
        ({"balanced": False, "complete": False}, ["the ledger does not balance"]),
        ({"complete": False, "missed": {"programs": {"x": 1}}}, ['not complete: {"programs": {"x": 1}}']),
    ],
)
def test_problems_of_a_ledger(changes: dict[str, Any], told: list[str]) -> None:
    """Loss, imbalance and skipped probes are each told."""
    line = json.loads(ledger_line(**changes))
    assert session.problems(line["tracer"]["ledger"]) == told


def test_actions_are_counted_among_the_right_lines(tmp_path: Path) -> None:
    """Lines of others don't count."""
    output = tmp_path / "lines"
    mine, other = (
        b'{"event":{"action":"a"},"process":{"pid":7,}}\n',
        b'{"event":{"action":"a"},"process":{"pid":77,}}\n',
    )
    output.write_bytes(mine * 3 + other * 5)
    assert session.count_actions(output, b'"process":{"pid":7,') == {"a": 3}


def test_only_events_end_the_wait_for_the_first() -> None:
    """What the tracer says of itself is no event; a cut line is none yet."""
    assert startup.is_event(b'{"event":{"action":"process-running"}}')
    assert not startup.is_event(b'{"event":{"action":"tracer-coverage"}}')
    assert not startup.is_event(b'{"event":{"kind"')


def test_map_memory_counts_each_map_once() -> None:
    """Two descriptors of one map are one map; what is no map is left out."""
    one, two = (
        f"pos:\t0\nmap_type:\t2\nmemlock:\t{size}\nmap_id:\t{number}\n" for number, size in ((4, 4096), (9, 8192))
    )
    assert startup.map_memory([one, two, one, "pos:\t0\nprog_id:\t3\nmemlock:\t4096\n"]) == {4: 4096, 9: 8192}


def test_mix_is_a_quarter_each_from_distinct_processes() -> None:
    """Times only grow, each process has one record of each kind in the order of life, an exec has 8 arguments."""
    by_process: dict[int, list[int]] = defaultdict(list)
    last = 0
    for record in mix.records(SMALL):
        found = decode(bytes(record.data), 0)
        assert (found[0], found[KIND]) == (record.time, record.kind)
        assert record.time >= last
        last = record.time
        by_process[found[TGID]].append(found[KIND])
        if found[KIND] == Kind.EXEC:
            argc, lengths, data = found[FACTS + 3], found[FACTS + 4 : FACTS + 10], found[-1]
            assert argc == 8
            assert sum(lengths) == len(data)
            assert data[-lengths[-1] :].count(b"\0") == 8
    assert len(by_process) == SMALL.events // 4
    assert set(map(tuple, by_process.values())) == {mix.KINDS}


def inputs(data: bytes) -> list[Input]:
    """What a recording holds."""
    assert data.startswith(MAGIC)
    at = len(MAGIC)
    found = []
    while at < len(data):
        kind, length = FRAME.unpack_from(data, at)
        at += FRAME.size + length
        found.append(unpack(kind, data[at - length : at]))
    return found


def recorded(wanted: mix.Mix) -> bytes:
    """The recording of a mix."""
    file = io.BytesIO()
    mix.write(wanted, file)
    return file.getvalue()


def test_recording_is_like_a_live_one() -> None:
    """All four rings are used, no turn reads over 64 KiB of one, and the same mix is always the same recording."""
    data = recorded(SMALL)
    turns = [item for item in inputs(data) if isinstance(item, Turn)]
    assert {(run.cpu, run.ring) for turn in turns for run in turn.runs} == {(0, 0), (0, 1), (1, 0), (1, 1)}
    sizes = [len(run.data) for turn in turns for run in turn.runs]
    assert max(sizes) <= 64 << 10
    assert max(sizes) > 60 << 10
    assert [turn.last for turn in turns] == [False] * (len(turns) - 1) + [True]
    assert data == recorded(SMALL)


def test_recording_replays_without_loss_and_with_true_counts(tmp_path: Path) -> None:
    """Each event of the mix becomes one line of 900 bytes or more, and the ledger agrees to the last one."""
    recording, output = mix.make(SMALL, tmp_path / "mix"), tmp_path / "lines"
    assert replay(recording, "ecs", output, fail_on_loss=True) is Exit.OK
    assert throughput.wrong_with(output, SMALL) == []
    each = SMALL.events // 4
    counts: Counter[str] = Counter()
    who: dict[str, int] = Counter()
    sizes = []
    for line in output.read_bytes().splitlines(keepends=True):
        event = json.loads(line)
        action = event["event"]["action"]
        if action.startswith("tracer-") or action == "process-running":
            continue
        counts[action] += 1
        who[event["process"]["entity_id"]] += 1
        assert event["process"]["parent"]["name"] == "bash"
        sizes.append(len(line))
        if action == "process-executed":
            assert len(event["process"]["args"]) == event["process"]["args_count"] == 8
    actions = ("process-executed", "connection-opened", "connection-closed", "process-exited")
    assert counts == dict.fromkeys(actions, each)
    assert set(who.values()) == {4}
    assert len(who) == each
    assert min(sizes) >= 900


def test_looking_back_has_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is found with its four events, each run is told of, and nothing is left where it was made."""
    monkeypatch.setattr(history, "_MIX", SMALL)
    *words, row = history.look_back(tmp_path, 2)
    assert words == ["lines made", "run 1 of 2", "run 2 of 2"]
    assert isinstance(row, Row)
    assert row.wrong == []
    assert row.facts["bytes"] > 0
    assert list(tmp_path.iterdir()) == []


def test_rendering_has_a_row_for_each_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every event of the mix is rendered in each format, and a run tells of it; nothing is left where it was made."""
    monkeypatch.setattr(rendering, "_MIX", SMALL)
    *words, ecs, ocsf = rendering.render(tmp_path, 2)
    assert words == ["run 1 of 2", "run 2 of 2"]
    assert isinstance(ecs, Row)
    assert isinstance(ocsf, Row)
    assert (ecs.budget, ocsf.budget) == (1.5, 2.0)
    for row in (ecs, ocsf):
        assert row.facts["events"] >= SMALL.events
        assert len(row.facts["without_redaction"]) == 2
        assert row.facts["bytes_per_line"] > 900
    assert list(tmp_path.iterdir()) == []


def test_slow_mix_has_a_ledger_every_ten_seconds(tmp_path: Path) -> None:
    """A recording that lasts closes its books as a live session does, and balances each time."""
    recording, output = mix.make(mix.Mix(400, 8), tmp_path / "mix"), tmp_path / "lines"
    assert replay(recording, "ecs", output) is Exit.OK
    lines = map(json.loads, output.read_bytes().splitlines())
    ledgers = [line["tracer"]["ledger"] for line in lines if line["event"]["action"] == "tracer-ledger"]
    assert [ledger["final"] for ledger in ledgers] == [False] * 4 + [True]
    assert all(ledger["balanced"] for ledger in ledgers)


def test_wrong_counts_are_told(tmp_path: Path) -> None:
    """A recording of fewer events than it should have is not taken for the real one."""
    recording, output = mix.make(mix.Mix(400, 1_000), tmp_path / "mix"), tmp_path / "lines"
    assert replay(recording, "ecs", output) is Exit.OK
    assert "100 exec instead of 101" in throughput.wrong_with(output, mix.Mix(404, 1_000))


def test_templates_fill_every_place_of_the_feeder() -> None:
    """Each place has the record of its step, which fits; the numbers are those of the program."""
    found = dict(feeder.templates())
    assert sorted(found) == list(range(feeder.GROUPS * 4))
    for place, template in found.items():
        size = int.from_bytes(template[:4], "little")
        assert 0 < size <= len(template) - 4
        assert decode(template[4 : 4 + size], 0)[KIND] == mix.KINDS[place % 4]
    source = Path(feeder.__file__).with_name("feeder.bpf.c").read_text()
    defined = dict(re.findall(r"#define (\w+) (\d+)", source))
    wanted = {"GROUPS": feeder.GROUPS, "STEPS": feeder.STEPS, "MOST": feeder.MOST, "BYTES": len(template) - 4}
    assert {name: int(defined[name]) for name in wanted} == wanted


def test_arguments_name_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    """A part that does not exist is a usage error that names those that do."""
    with pytest.raises(SystemExit) as ended:
        bench.main(["--only", "nothing"])
    assert ended.value.code == 2
    assert "replay" in capsys.readouterr().err
