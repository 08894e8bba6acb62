"""One run of the matrix: choose the columns, prepare what their guests boot from, run the guests, judge the results."""

import os
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from scripts.kernel_matrix import kernels, programs, qemu, userland
from scripts.kernel_matrix.apt import NOTHING
from scripts.kernel_matrix.cache import Cache
from scripts.kernel_matrix.config import Kernel, Matrix
from scripts.kernel_matrix.errors import MatrixError
from scripts.kernel_matrix.guests import Guests, Job, Limits, Line, Outcome
from scripts.kernel_matrix.progress import Progress
from scripts.kernel_matrix.results import COMING, FAIL, HOST, Column, Results, check_capabilities, judge

PATIENCE = {"tcg": 10, "kvm": 2}  # how much slower than a machine of its own a guest is taken to be
ALIVE_S = 5
STEP_S = 900
PROCESSES = 1009
SPARE_MIB = 1024  # of memory that guests leave alone
TRIAL_S = 30.0  # a hypervisor that works boots a guest in a few seconds
_TRAP = re.compile(r"test_(\d\d)_")


class Wanted(NamedTuple):
    """Which columns: kernels by name, or name/backend, and backends; empty means all."""

    kernels: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """How to run: the tree under test, how many guests at once, limits in seconds (ready, silent, total), and what."""

    source: Path
    at_once: int = 2
    limits: tuple[float, float, float] = (180, 120, 1800)
    accel: str = "tcg"
    refresh: bool = False
    host: bool = True
    attribution: bool = True
    run: str = ""
    traps: tuple[int, ...] = ()


@dataclass
class _Prepared:
    column: Column
    kernel: Kernel
    guest: qemu.Guest
    lines: list[Line] = field(default_factory=list)


def choose(matrix: Matrix, wanted: Wanted) -> list[tuple[Kernel, str]]:
    """The kernels and backends to run, in the order of the file. Raises MatrixError for a name that is not there."""
    asked = [name.partition("/") for name in wanted.kernels]
    for name, _, backend in asked:
        if backend and backend not in matrix.kernel(name).backends:
            raise MatrixError(f"kernel {name} has no backend {backend}: {', '.join(matrix.kernel(name).backends)}")
    return [
        (kernel, backend)
        for kernel in matrix.kernels
        for backend in kernel.backends
        if (not asked or any(kernel.name == name and tail in {"", backend} for name, _, tail in asked))
        and (not wanted.backends or backend in wanted.backends)
    ]


def corpus_of(source: Path) -> list[int]:
    """The numbers of the traps that a source tree has tests for."""
    found = (_TRAP.match(path.name) for path in (source / "tests/traps").glob("test_*.py"))
    return sorted({int(match[1]) for match in found if match})


def arguments(kernel: Kernel, backend: str, plan: Plan, accel: str) -> tuple[str, ...]:
    """The arguments of the guest script, each without a space: they go through the kernel's command line."""
    found = ["--backend", backend, "--patience", str(PATIENCE[accel]), "--alive", str(ALIVE_S), "--limit", str(STEP_S)]
    found += ["--processes", str(PROCESSES if plan.attribution else 0)]
    found += [part for trap in plan.traps for part in ("--trap", str(trap))]
    found += ["--hide-btf"] if kernel.hide_btf else []
    found += ["--run", urllib.parse.quote(plan.run, safe="")] if plan.run else []
    return tuple(found)


class _Workshop:
    """Prepares guests, fetching and building each part once."""

    def __init__(self, cache: Cache, matrix: Matrix, plan: Plan, progress: Progress) -> None:
        self._cache = cache
        self._matrix = matrix
        self._plan = plan
        self._progress = progress
        self._trees: dict[tuple[str, str, tuple[str, ...]], kernels.Tree] = {}
        self._userlands: dict[tuple[str, bool], userland.Userland] = {}
        self._programs: dict[str, Path] = {}
        self.fetched = NOTHING

    def prepare(self, kernel: Kernel, backend: str) -> _Prepared:
        """What a guest of this kernel boots from. Raises MatrixError when it cannot be had."""
        headers = backend == "bcc"
        root = self._userland(kernel.arch, bcc=headers)
        tree = self._tree(kernel, kernel.packages)
        more = self._tree(kernel, kernel.headers) if headers else None
        boot = kernels.prepare(self._cache, tree, more, root.busybox)
        program = self._program(kernel.arch)
        drives = (
            qemu.Drive(userland.LABEL, root.disk),
            qemu.Drive(kernels.LABEL, boot.disk),
            qemu.Drive(programs.LABEL, program),
        )
        told = arguments(kernel, backend, self._plan, self._plan.accel)
        memory = qemu.MEMORY_MIB[backend]
        guest = qemu.Guest(kernel.arch, boot.image, boot.initramfs, drives, memory, told)
        column = Column(kernel.name, backend, kernel.arch, boot.release, boot.version, boot.stale or root.stale)
        return _Prepared(column, kernel, guest)

    def _userland(self, arch: str, *, bcc: bool) -> userland.Userland:
        key = (arch, bcc)
        if key not in self._userlands:
            self._progress.say(f"userland for {arch}{' with BCC' if bcc else ''}")
            wanted = self._matrix.userland
            packages = (*wanted.packages, *(wanted.bcc if bcc else ()))
            needs = userland.requirements(self._plan.source / "pyproject.toml")
            found = userland.fetch(self._cache, wanted.suite, arch, packages, needs, refresh=self._plan.refresh)
            self.fetched += found.fetched
            self._userlands[key] = found
        return self._userlands[key]

    def _tree(self, kernel: Kernel, names: tuple[str, ...]) -> kernels.Tree:
        key = (kernel.suite, kernel.arch, names)
        if key not in self._trees:
            self._progress.say(f"{', '.join(names)} of {kernel.suite}")
            found = kernels.fetch(self._cache, kernel.suite, kernel.arch, names, refresh=self._plan.refresh)
            self.fetched += found.fetched
            self._trees[key] = found
        return self._trees[key]

    def _program(self, arch: str) -> Path:
        if arch not in self._programs:
            self._programs[arch] = programs.make_program(self._cache, self._plan.source, arch)
        return self._programs[arch]


def free_memory_mib() -> int:
    """How much memory guests may take here."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) // 1024 - SPARE_MIB
    return 0


def run_matrix(cache: Cache, matrix: Matrix, wanted: Wanted, plan: Plan) -> Results:
    """Run the columns asked for.

    Raises MatrixError when nothing can be run at all; a kernel that cannot be had is a column with that problem.
    """
    began = time.monotonic()
    corpus = list(plan.traps) or corpus_of(plan.source)
    progress = Progress(len(corpus))
    columns: list[Column] = []
    prepared: list[_Prepared] = []
    workshop = _Workshop(cache, matrix, plan, progress)
    with cache.locked():
        for kernel, backend in choose(matrix, wanted):
            try:
                found = workshop.prepare(kernel, backend)
            except MatrixError as error:
                column = Column(kernel.name, backend, kernel.arch, problems=[str(error)])
                progress.say(f"{column.name}: {error}")
                columns.append(column)
                continue
            columns.append(found.column)
            prepared.append(found)
        cache.prune()
    if not columns:
        raise MatrixError("nothing to run")
    run_from = time.monotonic()
    outcomes = _run_guests(cache, prepared, plan, progress)
    for each, outcome in zip(prepared, outcomes, strict=True):
        _fill(each, outcome, matrix, plan, corpus)
    if plan.host and not plan.run and not wanted.kernels:
        columns.append(_host(matrix, plan, corpus, progress))
    cost = {
        "fetched_bytes": float(workshop.fetched.size),
        "fetch_s": round(workshop.fetched.seconds, 1),
        "build_s": round(max(0.0, cache.built_s - workshop.fetched.seconds), 1),
        "run_s": round(time.monotonic() - run_from, 1),
        "total_s": round(time.monotonic() - began, 1),
    }
    return Results(titles(), columns, cost)


def titles() -> dict[int, str]:
    """What the numbers of the traps mean."""
    from tracer.cli.corpus import TITLES

    return dict(TITLES)


def _run_guests(cache: Cache, prepared: Sequence[_Prepared], plan: Plan, progress: Progress) -> list[Outcome]:
    limits = Limits(*plan.limits)

    def tell(job: Job, line: Line) -> None:
        progress.tell(job, line)
        if line.get("guest") == "ran":
            progress.say(f"{job.name}: code {line['code']}\n{line['output']}".rstrip())

    with cache.scratch() as place, Guests(place, plan.at_once, free_memory_mib(), tell) as guests:
        jobs = []
        for each in prepared:
            accel = "tcg"
            each.column.accel = accel
            jobs.append(_job(each, limits, accel))
        return guests.run(jobs, progress.over)


def _job(each: _Prepared, limits: Limits, accel: str) -> Job:
    guest = each.guest
    return Job(each.column.name, guest.memory_mib, lambda console: qemu.command(guest, console, accel), limits)


def _fill(each: _Prepared, outcome: Outcome, matrix: Matrix, plan: Plan, corpus: Sequence[int]) -> None:
    column = each.column
    column.boots, column.ready_s, column.seconds = outcome.boots, outcome.ready_s, outcome.seconds
    column.lost = outcome.lost
    if plan.run:
        codes = [int(line["code"]) for line in outcome.lines if line.get("guest") == "ran"]
        if column.lost or codes != [0]:
            column.problems.append(f"lost: {column.lost}" if column.lost else f"the command ended with {codes}")
        return
    for line in outcome.lines:
        if line.get("guest") == "ready" and line["kernel"] != column.release:
            column.problems.append(f"booted {line['kernel']}, which is not {column.release}")
        elif line.get("guest") == "doctor":
            column.problems += check_capabilities(each.kernel, line["doctor"])
    judge(column, outcome.lines, corpus, matrix.missing, attribution=plan.attribution)
    if column.lost and outcome.console:
        column.problems.append(f"the end of its console:\n{outcome.console}")


def _host(matrix: Matrix, plan: Plan, corpus: Sequence[int], progress: Progress) -> Column:
    """The same rows for the machine that all this runs on; what would disturb it is left out."""
    raise NotImplementedError
