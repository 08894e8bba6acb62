"""The attribution check itself: doctored outputs must lower recall and precision by exactly what was doctored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.attribution import check
from scripts.attribution.compare import Comparison, Row, TruthError, entity_id

Line = dict[str, Any]
HOME, MAIN, NOISE = 4026531833, 4026532177, 4026532178
DIRECTORY = "/run/generator"
BOOT = "7a1c1f0e-5a55-4b0b-9d1c-0123456789ab"
CLIENTS = 3
# One exec and exit for the root and each client, one exit for each of the two workers, five records a connection.
RECORDS = {"exec": 7, "connect": 6, "exit": 9, "listen": 6, "accept": 6, "close": 12, "overall": 46}


def truth_line(role: str, side: str, pid: int, parent: int, netns: int, **fields: object) -> Line:
    """One line as the generator writes it."""
    line: Line = {"role": role, "side": side, "pid": pid, "ppid": parent, "start": 1000 + pid, "netns": netns}
    line |= {"local_port": 0, "port": 0, "exit_code": 0, "exe": f"{DIRECTORY}/storm", "argv": ["storm", "3"]}
    return line | fields


def truth_lines() -> list[Line]:
    """A root, one worker a side, and three clients each, on the same ports."""
    lines = [truth_line("root", "root", 100, 1, HOME)]
    for side, worker, netns, exe in (("main", 101, MAIN, "client"), ("noise", 102, NOISE, "noise")):
        for index in range(CLIENTS):
            port = 20000 + index
            facts = {"local_port": 40000 + index, "port": port, "exit_code": index, "exe": f"{DIRECTORY}/{exe}"}
            argv = [exe, str(port), "", f"two words {worker}"]
            lines.append(truth_line("client", side, worker * 10 + index, worker, netns, argv=argv, **facts))
        lines.append(truth_line("worker", side, worker, 100, netns))
    return lines


def event(action: str, who: Line, **fields: object) -> Line:
    """An ECS record with the fields that the check reads."""
    process = {"pid": who["pid"], "executable": who["exe"], "parent": {"pid": who["ppid"]}}
    process["entity_id"] = entity_id(BOOT, who["pid"], who["start"])
    if action == "process-executed":
        process["args"] = [*who["argv"]]
    line = {"event": {"kind": "event", "action": action}, "process": process, "tracer": {"netns": who["netns"]}}
    return line | {"host": {"boot": {"id": BOOT}}} | fields


def endpoints(who: Line, direction: str) -> Line:
    """The network part of a connection's record."""
    source, destination = ({"ip": "127.0.0.1", "port": who[port]} for port in ("local_port", "port"))
    return {"network": {"direction": direction}, "source": source, "destination": destination}


def ledger(**changes: object) -> Line:
    """A final ledger of 100 exec attempts, balanced and without loss unless changed."""
    terms = {"attempts": 100, "delivered": 60, "aggregated": 0, "filtered": 40, "lost": 0, "in_flight": 0} | changes
    claims = {"final": True, "balanced": True, "complete": True}
    own = {"ledger": {"total": terms, "by_kind": {"exec": terms}, **claims}}
    return {"event": {"kind": "metric", "action": "tracer-ledger"}, "tracer": own}


def right_output() -> list[Line]:
    """What a tracer without fault writes about truth_lines(), with a snapshot record and a stranger in between."""
    lines = truth_lines()
    stranger = truth_line("none", "none", 5000, 1, HOME, exe="/usr/bin/true", argv=["true"])
    output = [event("process-executed", stranger), event("process-running", lines[0])]
    output[1]["event"]["kind"] = "state"
    workers = {line["pid"]: line for line in lines if line["role"] == "worker"}
    for line in lines:
        if line["role"] != "worker":
            output.append(event("process-executed", line))
        if line["role"] == "client":
            server = workers[line["ppid"]]
            listening = {"server": {"ip": "127.0.0.1", "port": line["port"]}}
            output.append(event("socket-listening", server, **listening))
            output.append(event("connection-opened", line, **endpoints(line, "egress")))
            output.append(event("connection-accepted", server, **endpoints(line, "ingress")))
            output.append(event("connection-closed", line, **endpoints(line, "egress")))
            output.append(event("connection-closed", server, **endpoints(line, "ingress")))
        process_exit = event("process-exited", line)
        process_exit["process"]["exit_code"] = line["exit_code"]
        output.append(process_exit)
    return [*output, ledger()]


def find(output: list[Line], action: str, pid: int) -> Line:
    """The record with this action and pid; there has to be one."""
    return next(line for line in output if line["event"]["action"] == action and line["process"]["pid"] == pid)


def compared(directory: Path, output: list[Line], truth: list[Line] | None = None) -> Comparison:
    """Writes both files and compares them."""
    files = directory / "output", directory / "truth"
    for path, lines in zip(files, (output, truth or truth_lines()), strict=True):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return check.compare_files(*files, CLIENTS)


def row(comparison: Comparison, kind: str) -> Row:
    """The table's row of one kind."""
    return next(row for row in comparison.rows if row.kind == kind)


def test_right_output_is_exact(tmp_path: Path) -> None:
    """An output without fault has recall and precision 1.0 in every row, whatever strangers and snapshots say."""
    result = compared(tmp_path, right_output())
    assert {row.kind: row.expected for row in result.rows} == RECORDS
    assert all(row.exact and row.recall == row.precision == 1.0 for row in result.rows)
    assert result.passed
    assert not result.problems


def _wrong_pid(output: list[Line]) -> None:
    find(output, "connection-opened", 1010)["process"]["pid"] = 1011


def _wrong_parent(output: list[Line]) -> None:
    find(output, "connection-opened", 1010)["process"]["parent"]["pid"] = 102


def _wrong_netns(output: list[Line]) -> None:
    find(output, "connection-opened", 1010)["tracer"]["netns"] = NOISE


def _wrong_source_port(output: list[Line]) -> None:
    find(output, "connection-opened", 1010)["source"]["port"] = 0


def _wrong_exe(output: list[Line]) -> None:
    find(output, "connection-opened", 1010)["process"]["executable"] = f"{DIRECTORY}/noise"


def _wrong_entity(output: list[Line]) -> None:
    find(output, "connection-opened", 1010)["process"]["entity_id"] = entity_id(BOOT, 1010, 1)


@pytest.mark.parametrize(
    "doctor", [_wrong_pid, _wrong_parent, _wrong_netns, _wrong_source_port, _wrong_exe, _wrong_entity]
)
def test_one_wrong_field_is_one_missing_and_one_extra(tmp_path: Path, doctor: Callable[[list[Line]], None]) -> None:
    """A record with one field wrong lowers recall and precision of its kind by one record, and of no other."""
    output = right_output()
    doctor(output)
    result = compared(tmp_path, output)
    assert row(result, "connect") == Row("connect", 6, 6, 5)
    assert row(result, "overall") == Row("overall", 46, 46, 45)
    assert [each.kind for each in result.rows if not each.exact] == ["connect", "overall"]
    assert result.missing.total() == result.extra.total() == 1
    assert not result.passed


def test_lost_argument_is_one_missing_and_one_extra(tmp_path: Path) -> None:
    """An exec whose empty argument is not told does not match."""
    output = right_output()
    find(output, "process-executed", 1010)["process"]["args"].remove("")
    result = compared(tmp_path, output)
    assert row(result, "exec") == Row("exec", 7, 7, 6)
    assert not result.passed


def test_missing_exit_lowers_recall_alone(tmp_path: Path) -> None:
    """An absent exit record lowers recall and leaves precision at 1."""
    output = right_output()
    output.remove(find(output, "process-exited", 1021))
    result = compared(tmp_path, output)
    assert row(result, "exit") == Row("exit", 9, 8, 8)
    assert row(result, "exit").recall == pytest.approx(8 / 9)
    assert row(result, "exit").precision == 1.0
    assert not result.passed


def test_duplicated_connect_lowers_precision_alone(tmp_path: Path) -> None:
    """A connection told twice lowers precision and leaves recall at 1."""
    output = right_output()
    output.insert(3, find(output, "connection-opened", 1022))
    result = compared(tmp_path, output)
    assert row(result, "connect") == Row("connect", 6, 7, 6)
    assert row(result, "connect").recall == 1.0
    assert row(result, "connect").precision == pytest.approx(6 / 7)
    assert not result.passed


@pytest.mark.parametrize(
    "stray",
    [
        {"exe": f"{DIRECTORY}/client"},
        {"netns": MAIN},
        {"ppid": 101},
        {"pid": 102},
    ],
)
def test_extra_record_about_the_generator_lowers_precision(tmp_path: Path, stray: Line) -> None:
    """A record that matches nothing counts when program, namespace, parent or pid ties it to the generator."""
    who = truth_line("none", "none", 7000, 1, HOME, exe="/usr/bin/true") | stray
    result = compared(tmp_path, [event("connection-failed", who), *right_output()])
    assert row(result, "connection-failed") == Row("connection-failed", 0, 1, 0)
    assert row(result, "overall") == Row("overall", 46, 47, 46)
    assert not result.passed


def test_extra_record_of_a_stranger_does_not_count(tmp_path: Path) -> None:
    """A record that nothing ties to the generator is not its business."""
    who = truth_line("none", "none", 7000, 1, HOME, exe="/usr/bin/true")
    assert compared(tmp_path, [event("connection-failed", who), *right_output()]).passed


@pytest.mark.parametrize(
    ("last", "problem"),
    [
        (ledger(delivered=59, lost=1), "1 of exec were lost"),
        (ledger(delivered=59), "exec has 100 attempts, 99 accounted for"),
        (right_output()[-2], "not a final ledger"),
    ],
)
def test_ledger_must_balance_without_loss(tmp_path: Path, last: Line, problem: str) -> None:
    """All records right is not enough: the last one has to be a final ledger that balances and lost nothing."""
    output = [line for line in right_output()[:-1] if line is not last]
    result = compared(tmp_path, [*output, last])
    assert any(problem in said for said in result.problems)
    assert not result.passed


@pytest.mark.parametrize("claim", ["balanced", "complete"])
def test_ledger_that_disclaims_itself_fails(tmp_path: Path, claim: str) -> None:
    """A ledger that says of itself that it is not balanced or not complete fails the check."""
    output = right_output()
    output[-1]["tracer"]["ledger"][claim] = False
    assert compared(tmp_path, output).problems == [f"the ledger says it is not {claim}"]


@pytest.mark.parametrize("dropped", [1, 4], ids=["a client", "its parent"])
def test_incomplete_truth_is_refused(tmp_path: Path, dropped: int) -> None:
    """Nothing is measured against a truth that lacks a client or a worker."""
    truth = truth_lines()
    del truth[dropped]
    with pytest.raises(TruthError):
        compared(tmp_path, right_output(), truth)


def test_command_prints_the_table_and_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--file` prints 1.0 and returns 0 for the right output; for one record less it returns 1 and shows the record."""
    arguments = ["--processes", str(CLIENTS), "--file", str(tmp_path / "output"), "--truth", str(tmp_path / "truth")]
    compared(tmp_path, right_output())
    assert check.main(arguments) == 0
    overall = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("overall"))
    assert overall.split() == ["overall", "46", "46", "46", "1.0", "1.0"]

    output = right_output()
    output.remove(find(output, "process-exited", 1021))
    compared(tmp_path, output)
    assert check.main(arguments) == 1
    said = capsys.readouterr().out
    overall = next(line for line in said.splitlines() if line.startswith("overall"))
    assert overall.split() == ["overall", "46", "45", "45", "0.978261", "1.0"]
    assert "missing: Fact(kind='exit', process=Identity(pid=1021," in said


@pytest.mark.parametrize("content", [None, ""], ids=["absent", "empty"])
def test_command_without_an_output_fails(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output that is not there or empty is one line on stderr and status 1."""
    output = tmp_path / "output"
    if content is not None:
        output.write_text(content)
    assert check.main(["--file", str(output), "--truth", str(output)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
