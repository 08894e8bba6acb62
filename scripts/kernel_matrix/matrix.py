"""One run of the matrix: choose the columns, have their guests prepared, run them, and judge what they report."""

import os
import platform
import re
import sys
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from scripts.kernel_matrix import qemu
from scripts.kernel_matrix.cache import Cache
from scripts.kernel_matrix.config import Kernel, Matrix
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.guests import Guests, Job, Limits, Line, Outcome
from scripts.kernel_matrix.progress import Progress
from scripts.kernel_matrix.results import HOST, Column, Results, check_capabilities, judge
from scripts.kernel_matrix.userland import MACHINES
from scripts.kernel_matrix.workshop import Prepared, Workshop
from tracer.cli.corpus import TITLES

# How much slower than a machine of its own a guest is taken to be. The host has the guests of others beside it.
PATIENCE = {"tcg": 10, "kvm": 2, HOST: 2}
ALIVE_S = 5
STEP_S = 900
PROCESSES = 1009  # a prime, so that nothing comes out right by being a multiple
SPARE_MIB = 1024  # of memory that guests leave alone
TRIAL = Limits(ready_s=30, silent_s=30, total_s=60)  # a hypervisor that works boots a guest in a few seconds
_HEAVY: Final = frozenset({44})  # thousands of sockets, which only core finds all at once
_TRAP = re.compile(r"test_(\d\d)_")


class Wanted(NamedTuple):
    """Which columns: kernels by name or name/backend, and backends, empty means all; `tested`: those of `make test`.

    `host` among the kernels is this machine.
    """

    kernels: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    tested: bool = False


@dataclass(frozen=True)
class Plan:
    """How to run: the tree under test, how many guests at once, their limits, and what they do.

    `few`: less of what takes minutes in an emulated guest, for every change to be tried with. `run` is a shell command
    in place of the corpus, `traps` a part of the corpus, `host` whether this machine is a column too.
    """

    source: Path
    at_once: int = 2
    limits: Limits = field(default_factory=Limits)
    accel: str = "tcg"
    refresh: bool = False
    host: bool = True
    attribution: bool = True
    few: bool = False
    run: str = ""
    traps: tuple[int, ...] = ()


def choose(matrix: Matrix, wanted: Wanted) -> list[tuple[Kernel, str]]:
    """The kernels and backends to run, in the order of the file. Raises MatrixError for a name that is not there."""
    asked = [name.partition("/") for name in wanted.kernels]
    for name, _, backend in asked:
        if name == HOST:
            continue
        backends = matrix.kernel(name).backends
        if backend and backend not in backends:
            raise MatrixError(f"kernel {name} has no backend {backend}: {', '.join(backends)}")
    return [
        (kernel, backend)
        for kernel in matrix.kernels
        for backend in kernel.backends
        if (not asked or any(kernel.name == name and tail in {"", backend} for name, _, tail in asked))
        and (not wanted.backends or backend in wanted.backends)
        and (not wanted.tested or backend in kernel.tested)
    ]


def _wants_host(wanted: Wanted) -> bool:
    named = not wanted.kernels or bool({HOST, f"{HOST}/core"} & {*wanted.kernels})
    return named and not wanted.tested and (not wanted.backends or "core" in wanted.backends)


def corpus_of(source: Path) -> list[int]:
    """The numbers of the traps that a source tree has tests for."""
    found = (_TRAP.match(path.name) for path in (source / "tests/traps").glob("test_*.py"))
    return sorted({int(match[1]) for match in found if match})


def traps_for(plan: Plan, backend: str) -> tuple[int, ...]:
    """The traps that a column with this backend runs: what was asked for, else the corpus."""
    corpus = plan.traps or tuple(corpus_of(plan.source))
    return tuple(trap for trap in corpus if plan.traps or not plan.few or backend == "core" or trap not in _HEAVY)


def arguments(
    plan: Plan, backend: str, patience: int, *, hide_btf: bool = False, sleep: bool = False
) -> tuple[str, ...]:
    """The arguments of the guest script, none with a space in it: they go through a kernel's command line."""
    found = ["--backend", backend, "--patience", str(patience), "--alive", str(ALIVE_S), "--limit", str(STEP_S)]
    found += ["--processes", str(PROCESSES if plan.attribution else 0)]
    # As one word: a kernel takes no more than 32 for its first process (MAX_INIT_ARGS in init/main.c).
    traps = traps_for(plan, backend)
    found += ["--traps", ",".join(map(str, traps))] if [*traps] != corpus_of(plan.source) else []
    found += ["--few"] if plan.few else []
    found += ["--hide-btf"] if hide_btf else []
    found += ["--sleep"] if sleep else []
    found += ["--run", urllib.parse.quote(plan.run, safe="")] if plan.run else []
    return tuple(found)


def free_memory_mib() -> int:
    """How much memory guests may take here."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) // 1024 - SPARE_MIB
    return 0


def run_matrix(cache: Cache, matrix: Matrix, wanted: Wanted, plan: Plan) -> Results:
    """Run the columns asked for.

    A kernel that cannot be had is a column with that problem. Raises MatrixError when there is nothing to run, or the
    emulator is missing.
    """
    progress = Progress(len(plan.traps or corpus_of(plan.source)))
    workshop = Workshop(cache, matrix, plan.source, progress.say, refresh=plan.refresh)
    columns: list[Column] = []
    ready: dict[str, Prepared] = {}
    with cache.locked():
        began = time.monotonic()  # what another run did with the cache meanwhile is not this one's cost
        for kernel, backend in choose(matrix, wanted):
            column = Column(kernel.name, backend, kernel.arch)
            columns.append(column)
            try:
                found = workshop.prepare(kernel, backend)
            except MatrixError as error:
                column.problems.append(str(error))
                progress.say(f"{column.name}: {error}")
                continue
            column.release, column.version, column.stale = found.release, found.version, found.stale
            ready[column.name] = found
        prepared = time.monotonic()
        if workshop.fetched.size:  # how long it takes now that everything is there
            again = Workshop(cache, matrix, plan.source, lambda _: None)
            for one in ready.values():
                again.prepare(one.kernel, one.backend)
        cached_s = time.monotonic() - prepared
        cache.prune()
    if plan.host and not plan.run and _wants_host(wanted):
        if os.geteuid() == 0:
            columns.append(Column(HOST, "core", platform.machine()))
        else:
            progress.say("this machine is left out: its self-test needs root")
    if not columns:
        raise MatrixError("nothing to run")
    run_from = time.monotonic()
    outcomes = _run(cache, columns, ready, plan, progress)
    for column in columns:
        if column.name in outcomes:
            _fill(column, ready.get(column.name), outcomes[column.name], matrix, plan)
    cost = {
        "fetched_bytes": float(workshop.fetched.size),
        "fetch_s": round(workshop.fetched.seconds, 1),
        "build_s": round(max(0.0, prepared - began - workshop.fetched.seconds), 1),
        "cached_s": round(cached_s, 1),
        "run_s": round(time.monotonic() - run_from, 1),
        "total_s": round(time.monotonic() - began - cached_s, 1),
    }
    return Results(dict(TITLES), columns, cost)


def _run(
    cache: Cache, columns: Sequence[Column], ready: dict[str, Prepared], plan: Plan, progress: Progress
) -> dict[str, Outcome]:
    """The outcomes by the names of the columns, of those that can run."""

    def tell(job: Job, line: Line) -> None:
        progress.tell(job, line)
        if line.get("guest") == "ran":
            progress.say(f"{job.name}: code {line['code']}\n{line['output']}".rstrip())

    with cache.scratch() as place, Guests(place, plan.at_once, free_memory_mib(), tell) as guests:
        proven = _proven(guests, ready, progress) if plan.accel == "kvm" else False
        jobs = []
        for column in columns:
            if column.kernel == HOST:
                jobs.append(_host_job(column, plan))
            elif column.name in ready:
                one = ready[column.name]
                column.accel = "kvm" if proven and _is_native(one.guest) else "tcg"
                told = arguments(plan, one.backend, PATIENCE[column.accel], hide_btf=one.kernel.hide_btf, sleep=True)
                job = _job(column.name, one.guest._replace(arguments=told), plan.limits, column.accel)
                # A test of a lost guest wants to see it lost.
                jobs.append(replace(job, reruns=0 if plan.run else one.kernel.reruns))
        return {outcome.name: outcome for outcome in guests.run(jobs, progress.over)}


def _job(name: str, guest: qemu.Guest, limits: Limits, accel: str) -> Job:
    return Job(name, guest.memory_mib, lambda console: qemu.command(guest, console, accel), limits)


def _is_native(guest: qemu.Guest) -> bool:
    return MACHINES[guest.arch] == platform.machine()


def _proven(guests: Guests, ready: dict[str, Prepared], progress: Progress) -> bool:
    """Whether the hypervisor boots a guest: /dev/kvm may be there, and hang every machine that is started with it."""
    native = next((one.guest for one in ready.values() if _is_native(one.guest)), None)
    if native is None or not os.access("/dev/kvm", os.R_OK | os.W_OK):
        progress.say("no hypervisor: the guests are emulated")
        return False
    told = ("--run", "true")
    trial = _job("trial", native._replace(arguments=told), TRIAL, "kvm")
    (outcome,) = guests.run([trial], lambda _outcome, _again: None, boots=1)
    if outcome.lost:
        progress.say(f"the hypervisor boots no guest ({outcome.lost}): the guests are emulated")
    return not outcome.lost


def _host_job(column: Column, plan: Plan) -> Job:
    """This machine as if it were a guest, without what would disturb it: same script, same lines."""
    told = ["--results", "/dev/stdout", "--host", *arguments(plan, column.backend, PATIENCE[HOST])]
    command = ["env", f"PYTHONPATH={plan.source}", sys.executable, str(plan.source / "vagrant/guest"), *told]
    return Job(column.name, 0, lambda _console: ["setpriv", "--pdeathsig", "KILL", *command], plan.limits)


def _fill(column: Column, one: Prepared | None, outcome: Outcome, matrix: Matrix, plan: Plan) -> None:
    column.boots, column.ready_s, column.seconds = outcome.boots, round(outcome.ready_s, 1), round(outcome.seconds, 1)
    column.lost, column.crashes = outcome.lost, outcome.crashes
    if plan.run:
        codes = [int(line["code"]) for line in outcome.lines if line.get("guest") == "ran"]
        if column.lost or codes != [0]:
            column.problems.append(f"lost: {column.lost}" if column.lost else f"the command ended with {codes}")
        return
    for line in outcome.lines:
        if line.get("guest") == "ready":
            column.release = column.release or line["kernel"]
            if line["kernel"] != column.release:
                column.problems.append(f"booted {line['kernel']} instead of {column.release}")
        elif line.get("guest") == "doctor" and one is not None:
            column.problems += check_capabilities(one.kernel, line["doctor"])
    traps = traps_for(plan, column.backend)
    judge(column, outcome.lines, traps, matrix.missing, attribution=plan.attribution)
    if column.lost and outcome.console:
        column.problems.append(f"the end of its console:\n{outcome.console}")
