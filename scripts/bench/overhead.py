"""What the rest of the machine pays: workloads with and without the tracer, in turn, and under other tools.

Nothing is pinned: workload and tracer run where the scheduler puts them, as they would on any machine. To give each a
CPU of its own would hide what the tracer takes from the workload, and one for both would measure a machine that nobody
has. Every pair is one run without and one run with, the order changing from pair to pair, so that a drift of the
machine favours neither; the tracer is started for each and gone before the next. Start and end of the tracer are
outside of what is timed, and so is the warm-up.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from scripts.bench.figures import Paired, Row, Spread
from scripts.bench.others import OTHERS, CannotRun, Other
from scripts.bench.programs import BenchError, Programs, Took, run
from scripts.bench.session import Tracer, count_actions, problems, settle

__all__ = ["WORKLOADS", "Workload", "compare", "measure", "mistakes", "others_for"]

SPAWNS: Final = 2_003
CONNECTIONS: Final = 20_011
MEBIBYTES: Final = 8_192
DATAGRAMS: Final = 2_000_003
REQUESTS: Final = 100_003
_SHOWN: Final = 4
GROUP: Final = "what a workload takes longer while the whole system is traced (elapsed, with / without)"
OTHERS_GROUP: Final = "the same workloads under other tools (elapsed, with / without)"
SANDBOX_GROUP: Final = "the same while traced by a confined tracer (elapsed, with the sandbox / without)"
SANDBOX_BUDGET: Final = 1.02


class Workload(NamedTuple):
    """Something to run, its budget (with / without), how many pairs, and what its own lines must be, by action."""

    key: str
    name: str
    budget: float
    pairs: int
    quick_pairs: int
    command: Callable[[Programs], list[str]]
    lines: Callable[[Took], tuple[bytes, dict[str, int]]]


def _of_parent(took: Took) -> tuple[bytes, dict[str, int]]:
    return b'"parent":{"pid":%d,' % took.pid, {"process-executed": SPAWNS, "process-exited": SPAWNS}


def _of_pid(took: Took, **actions: int) -> tuple[bytes, dict[str, int]]:
    return b'"process":{"pid":%d,' % took.pid, {name.replace("_", "-"): count for name, count in actions.items()}


def _connections(took: Took) -> tuple[bytes, dict[str, int]]:
    counts = {
        "connection_opened": CONNECTIONS,
        "connection_accepted": CONNECTIONS,
        "connection_closed": 2 * CONNECTIONS,
    }
    return _of_pid(took, **counts)


WORKLOADS: Final = (
    Workload(
        "find",
        "find /usr >/dev/null",
        1.03,
        41,
        7,
        lambda _: ["sh", "-c", "exec find /usr >/dev/null"],
        lambda took: _of_pid(took, process_executed=2, process_exited=1),
    ),
    Workload(
        "spawn",
        f"{SPAWNS:,} fork+execs",
        1.10,
        21,
        5,
        lambda programs: [str(programs.workloads), "spawn", str(SPAWNS), str(programs.nop)],
        _of_parent,
    ),
    Workload(
        "connect",
        f"{CONNECTIONS:,} connect+accept+close, one thread",
        1.15,
        15,
        5,
        lambda programs: [str(programs.workloads), "connect", str(CONNECTIONS)],
        _connections,
    ),
    Workload(
        "reset",
        f"{CONNECTIONS:,} connect+accept+reset, one thread",
        1.15,
        11,
        3,
        lambda programs: [str(programs.workloads), "reset", str(CONNECTIONS)],
        _connections,
    ),
    Workload(
        "serve",
        f"{CONNECTIONS:,} connect+accept+reset, two threads",
        1.15,
        11,
        3,
        lambda programs: [str(programs.workloads), "serve", str(CONNECTIONS)],
        _connections,
    ),
    Workload(
        "stream",
        f"{MEBIBYTES // 1024} GiB over one connection",
        1.02,
        9,
        3,
        lambda programs: [str(programs.workloads), "stream", str(MEBIBYTES)],
        lambda took: _of_pid(took, connection_opened=1, connection_accepted=1, connection_closed=2),
    ),
    Workload(
        "datagrams",
        f"{DATAGRAMS:,} UDP datagrams, sent and received by one thread",
        1.10,
        7,
        1,
        lambda programs: [str(programs.workloads), "datagrams", str(DATAGRAMS)],
        lambda took: _of_pid(took, connection_opened=2, connection_closed=2),
    ),
    Workload(
        "web",
        f"nginx, {REQUESTS:,} requests of ab over 8 connections",
        1.05,
        7,
        1,
        lambda _: [sys.executable, "-m", "scripts.bench.web", str(REQUESTS)],
        lambda took: _of_pid(took, process_executed=1, process_exited=1),
    ),
)


@dataclass
class _Runs:
    """What came of the pairs of one workload."""

    without: list[Took] = field(default_factory=list)
    with_it: list[Took] = field(default_factory=list)
    shares: list[float] = field(default_factory=list)  # of one CPU, while the workload ran
    wrong: list[str] = field(default_factory=list)


def mistakes(expected: dict[str, int], found: dict[str, int]) -> list[str]:
    """How the lines of a workload differ from what it did."""
    return [
        f"{found.get(action, 0):,} {action} instead of {count:,}"
        for action, count in expected.items()
        if found.get(action, 0) != count
    ]


def _few(found: list[str]) -> list[str]:
    """The first findings, and how many more there are: a run that went wrong says much the same as the next."""
    return found[:_SHOWN] + ([f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else [])


def _bytes_wrong(output: Path, needle: bytes) -> list[str]:
    """Both ends of the stream must have counted every byte."""
    counted = set()
    with output.open("rb") as file:
        for line in file:
            if needle in line and b'"action":"connection-closed"' in line:
                counted.add(json.loads(line)["network"]["bytes"])
    return (
        [] if counted == {MEBIBYTES << 20} else [f"closes with {sorted(counted)} bytes instead of {MEBIBYTES << 20:,}"]
    )


def _traced(workload: Workload, programs: Programs, directory: Path, runs: _Runs, *options: str) -> Took:
    output = directory / "events.ndjson"
    with Tracer(output, *options) as tracer:
        took = run(workload.command(programs))
        tracer.mark()
    needle, expected = workload.lines(took)
    runs.wrong += problems(tracer.ledger) + mistakes(expected, count_actions(output, needle))
    if workload.key == "stream":
        runs.wrong += _bytes_wrong(output, needle)
    runs.shares.append(tracer.cpu / tracer.seconds)
    output.unlink()
    return took


def measure(workload: Workload, programs: Programs, directory: Path, pairs: int) -> Iterator[str | Row]:
    """Run the pairs; yields a word after each, for whoever waits, and the row in the end. Raises BenchError."""
    runs = _Runs()
    run(workload.command(programs))
    yield "warm-up"
    _traced(workload, programs, directory, _Runs())
    for number in range(pairs):
        for tracing in (False, True) if number % 2 else (True, False):
            settle()
            if tracing:
                runs.with_it.append(_traced(workload, programs, directory, runs))
            else:
                runs.without.append(run(workload.command(programs)))
        yield f"pair {number + 1} of {pairs}"
    yield _row(workload, runs)


def sandbox(workload: Workload, programs: Programs, directory: Path, pairs: int) -> Iterator[str | Row]:
    """The workload traced by a confined tracer and by one that is not, in turn; as measure(). Raises BenchError."""
    runs = _Runs()
    off: list[Took] = []
    shares_off: list[float] = []
    _traced(workload, programs, directory, _Runs())
    for number in range(pairs):
        for confined in (False, True) if number % 2 else (True, False):
            settle()
            if confined:
                runs.with_it.append(_traced(workload, programs, directory, runs))
            else:
                other = _Runs()
                off.append(_traced(workload, programs, directory, other, "--no-sandbox"))
                shares_off += other.shares
                runs.wrong += other.wrong
        yield f"pair {number + 1} of {pairs}"
    seconds = Paired([took.seconds for took in off], [took.seconds for took in runs.with_it])
    shares = [Spread.of(each).median for each in (runs.shares, shares_off)]
    yield Row(
        workload.name,
        SANDBOX_GROUP,
        seconds.ratios,
        SANDBOX_BUDGET,
        form=".3f",
        unit="x",
        note=f"of medians {seconds.of_medians:.3f}, of the fastest {seconds.of_least:.3f}; "
        f"tracer {shares[0]:.1%} of one CPU with it, {shares[1]:.1%} without",
        wrong=_few(runs.wrong),
        facts={"seconds_without": seconds.without, "seconds_with": seconds.with_it, "tracer_cpu_shares": shares},
    )


def _row(workload: Workload, runs: _Runs) -> Row:
    seconds = Paired([took.seconds for took in runs.without], [took.seconds for took in runs.with_it])
    cpu = Paired([took.cpu for took in runs.without], [took.cpu for took in runs.with_it])
    share, noise = Spread.of(runs.shares), seconds.noise
    alone, elsewhere = Spread.of(seconds.without).median, Spread.of([took.others for took in runs.without]).median
    return Row(
        workload.name,
        GROUP,
        seconds.ratios,
        workload.budget,
        unit="x",
        note="; ".join(
            [
                *([] if runs.wrong else ["every event there, 0 lost"]),
                f"of medians {seconds.of_medians:.3f}, of the fastest {seconds.of_least:.3f}",
                f"its CPU time {cpu.ratios.median:.3f}x",
                f"{alone:.3f} s alone, one such run to the next {noise.least:.2f} to {noise.most:.2f}",
                f"tracer {share.median:.0%} of one CPU, others {elsewhere:.2f} CPUs without it",
            ]
        ),
        wrong=_few(runs.wrong),
        facts={
            "seconds_without": seconds.without,
            "seconds_with": seconds.with_it,
            "of_medians": seconds.of_medians,
            "of_fastest": seconds.of_least,
            "cpu_ratio_median": cpu.ratios.median,
            "tracer_cpu_share": share.median,
            "busy_cpus_of_others": elsewhere,
        },
    )


def compare(other: Other, workload: Workload, programs: Programs, directory: Path, pairs: int) -> Row:
    """The same under another tool; where that can't run the row says why. Raises BenchError."""
    without, with_it = [], []
    name = f"{other.name}: {workload.name}"
    try:
        for number in range(pairs):
            for under in (False, True) if number % 2 else (True, False):
                settle()
                if not under:
                    without.append(run(workload.command(programs)).seconds)
                    continue
                with other.around(directory) as prefix:
                    with_it.append(run([*prefix, *workload.command(programs)]).seconds)
    except CannotRun as why:
        return Row(name, OTHERS_GROUP, None, note=f"can't run here: {why}")
    except BenchError as failed:
        return Row(name, OTHERS_GROUP, None, note=f"failed here: {failed}")
    return Row(
        name, OTHERS_GROUP, Paired(without, with_it).ratios, unit="x", facts={"without": without, "with": with_it}
    )


def others_for(workload: Workload) -> list[Other]:
    """The other tools that watch what this workload does."""
    return [other for other in OTHERS if workload.key in other.workloads]
