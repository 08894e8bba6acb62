"""The check of the backends itself: doctored outputs must change recall and precision by exactly what was doctored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scripts.attribution import backends
from scripts.attribution.backends import KINDS, Cell, Result, evaluate, lifetimes, report
from scripts.attribution.compare import load_truth
from tests.scripts.test_attribution_check import BOOT, CLIENTS, Line, event, right_output, truth_lines

LIVES_MS = (5, 100, 900)  # of the three clients on either side
COVERAGE: Line = {
    "event": {"kind": "state", "action": "tracer-coverage"},
    "tracer": {"coverage": {"polling": {"shortest_ms": 20, "longest_ms": 250}}},
}
LATE: Line = {
    "event": {"kind": "metric", "action": "tracer-ledger"},
    "tracer": {"ledger": {"missed": {"programs": {"polls": 4}}}},
}


def lived() -> list[Line]:
    """The truth, with a lifetime for each client where the generator puts it."""
    lines = truth_lines()
    for line in lines:
        if line["role"] == "client":
            life = LIVES_MS[line["port"] - 20000]
            line["argv"] = [line["argv"][0], str(line["port"]), "nonce", "0", str(life * 1000)]
    return lines


def output_of(lines: list[Line]) -> list[Line]:
    """What a tracer without fault writes about it."""
    argv = {line["pid"]: line["argv"] for line in lines}
    output = [json.loads(json.dumps(line)) for line in right_output()]
    for line in output:
        if line["event"]["action"] == "process-executed" and line["process"]["pid"] in argv:
            line["process"]["args"] = argv[line["process"]["pid"]]
    return output


def measured(tmp_path: Path, backend: str, doctor: Callable[[list[Line]], list[Line]] | None = None) -> Result:
    """The result for a right output that was doctored."""
    truth = tmp_path / "truth"
    truth.write_text("".join(f"{json.dumps(line)}\n" for line in lived()))
    output = output_of(lived())
    output = doctor(output) if doctor is not None else output
    lines = [json.dumps(line).encode() for line in output]
    return evaluate(backend, lines, load_truth(truth, CLIENTS, BOOT), lifetimes(truth, BOOT))


def action(line: Line, name: str) -> bool:
    """Whether a line is of this action, and of a client's or worker's connection or process."""
    return bool(line["event"]["action"] == name)


def without(name: str, port: int = 0) -> Callable[[list[Line]], list[Line]]:
    """Leaves out all records of an action, or those with this port at the server."""

    def doctor(output: list[Line]) -> list[Line]:
        return [
            line
            for line in output
            if not (action(line, name) and (not port or line.get("destination", {}).get("port") == port))
        ]

    return doctor


def test_right_output(tmp_path: Path) -> None:
    """Everything told and nothing wrong: recall and precision are 1.0 in every cell, and nothing is to complain of."""
    for backend in ("core", "bcc", "netlink", "procfs"):
        result = measured(tmp_path, backend)
        whole = result.of(*KINDS)
        assert (whole.recall, whole.precision) == (1.0, 1.0)
        assert whole.expected == 46
        assert [result.of("connect", edge=edge).expected for edge in range(5)] == [2, 0, 2, 0, 2]
    assert measured(tmp_path, "core").problems == []


def test_what_is_missing_lowers_recall(tmp_path: Path) -> None:
    """One record that is absent is one less in its cell, and fails what must be whole; precision stays."""
    result = measured(tmp_path, "core", without("connection-accepted", 20000))
    assert result.of("accept", edge=0) == Cell(2, 0, 0)
    assert result.of("accept").recall == pytest.approx(4 / 6)
    assert result.of(*KINDS).precision == 1.0
    assert result.problems == ["2 of 46 records are missing of all of it"]


@pytest.mark.parametrize(
    ("backend", "doctor", "fails"),
    [
        ("netlink", without("connection-accepted"), False),
        ("netlink", without("process-executed"), True),
        ("netlink", without("process-exited"), True),
        ("procfs", without("connection-accepted", 20000), False),
        ("procfs", without("connection-accepted", 20002), True),
    ],
)
def test_what_a_backend_may_miss(
    tmp_path: Path, backend: str, doctor: Callable[[list[Line]], list[Line]], fails: bool
) -> None:
    """netlink may miss sockets, but no exec and no exit; procfs what lives less than three looks, but nothing else."""
    result = measured(tmp_path, backend, lambda output: [COVERAGE, *doctor(output)])
    assert bool(result.problems) is fails
    assert (LIVES_MS[2] >= 3 * result.longest_ms > LIVES_MS[1]) or backend == "netlink"


def blame_parent(output: list[Line]) -> list[Line]:
    """Gives the first client's connection to its worker."""
    workers = {line["pid"]: line for line in truth_lines() if line["role"] == "worker"}
    first = next(line for line in output if action(line, "connection-opened"))
    wrong = event("connection-opened", workers[first["process"]["parent"]["pid"]])
    first["process"] = wrong["process"]
    return output


def wrong_parent(output: list[Line]) -> list[Line]:
    """Says of an exec that another process was its parent."""
    next(line for line in output if action(line, "process-exited"))["process"]["parent"]["pid"] = 4242
    return output


def twice(output: list[Line]) -> list[Line]:
    """Tells a connection twice."""
    return [*output, next(line for line in output if action(line, "connection-opened"))]


def wrong_side(output: list[Line]) -> list[Line]:
    """Takes an end for the other."""
    next(line for line in output if action(line, "connection-closed"))["network"]["direction"] = "ingress"
    return output


@pytest.mark.parametrize("doctor", [blame_parent, wrong_parent, twice, wrong_side])
def test_what_is_wrong_lowers_precision(tmp_path: Path, doctor: Callable[[list[Line]], list[Line]]) -> None:
    """A record that blames the wrong process, says something that is not so, or comes twice, is wrong for everyone."""
    for backend in ("core", "procfs"):
        result = measured(tmp_path, backend, doctor)
        whole = result.of(*KINDS)
        assert whole.seen - whole.matched == 1
        assert "1 records are wrong" in result.problems
        assert result.missing[0].startswith("wrong: ")


def test_what_is_left_out_is_not_wrong(tmp_path: Path) -> None:
    """A status, a program or a side that is not told is no mistake; a record without a process blames nobody."""

    def doctor(output: list[Line]) -> list[Line]:
        for line in output:
            if action(line, "process-exited"):
                del line["process"]["exit_code"], line["process"]["executable"]
            elif action(line, "connection-closed"):
                line["network"]["direction"] = "unknown"
            elif action(line, "connection-opened"):
                del line["process"]
        return output

    result = measured(tmp_path, "netlink", doctor)
    assert result.problems == []
    assert (result.of("exit").recall, result.of("close").recall) == (1.0, 1.0)
    assert result.of("connect") == Cell(6, 0, 0)
    assert result.nobody == 6


def test_other_processes_count_for_nothing(tmp_path: Path) -> None:
    """What the machine does besides is neither expected nor wrong."""
    stranger = next(line for line in right_output() if line["process"]["executable"] == "/usr/bin/true")
    assert measured(tmp_path, "core", lambda output: [*output, stranger, stranger]).problems == []


def test_table(tmp_path: Path) -> None:
    """The table has a row for each kind, what can't run with its reason, what fails, and the looks that came late."""
    results = [
        measured(tmp_path, "core"),
        Result("bcc", unusable="no headers"),
        measured(tmp_path, "procfs", lambda output: [COVERAGE, *without("process-executed")(output), LATE]),
    ]
    text = report(results)
    assert [line.split()[0] for line in text.splitlines()[:8]] == ["backend", "core", *KINDS[1:], "bcc"]
    assert "not on this machine: no headers" in text
    assert "4 looks came late" in text
    assert "records are missing of what lives 3 looks or longer" in text
    assert text.splitlines()[1].split()[2:] == ["1.0", "-", "1.0", "-", "1.0", "1.0", "0.0%"]


def test_unknown_backend() -> None:
    """A backend that there is not is wrong use."""
    with pytest.raises(SystemExit) as ended:
        backends.main(["ebpf"])
    assert ended.value.code == 2


def test_lifetimes_are_told_apart(tmp_path: Path) -> None:
    """Each client's lifetime is found by its entity id and by its namespace and port, in milliseconds."""
    truth = tmp_path / "truth"
    truth.write_text("".join(f"{json.dumps(line)}\n" for line in lived()))
    lives: dict[Any, float] = lifetimes(truth, BOOT)
    assert sorted(set(lives.values())) == sorted(LIVES_MS)
    assert len(lives) == 2 * 2 * CLIENTS
