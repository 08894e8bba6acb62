"""The command `selftest`: run the trap corpus on this kernel, and tell which traps hold here."""

from __future__ import annotations

import json as json_module
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Final

from tracer.cli.corpus import TITLES, Corpus, CorpusRun, find_corpus, patience, settings
from tracer.cli.errors import CommandError, Exit
from tracer.formats.text import visible, width

__all__ = ["Row", "selftest"]

_COLOURS: Final = {"pass": "32", "fail": "31", "missing": "33", "coming": "2"}
_PROBE_WITHIN_S: Final = 30.0
_INDENT: Final = " " * 4
Tracer = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """What became of one trap; for one that is still to come only the first three are said."""

    trap: int
    title: str
    result: str  # pass, fail, missing, coming
    backend: str = ""
    cases: dict[str, int] = field(default_factory=dict)
    reasons: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The row as a line of the output for machines."""
        if self.result == "coming":
            return {"trap": self.trap, "title": self.title, "result": self.result}
        return {
            "trap": self.trap,
            "title": self.title,
            "backend": self.backend,
            "result": self.result,
            "cases": self.cases,
            "reasons": self.reasons,
            "failures": self.failures,
            "seconds": self.seconds,
        }


def selftest(backend: str, traps: list[int], *, disruptive: bool, json: bool) -> Exit:
    """Run the corpus and tell what holds. Raises CommandError.

    One row a trap, in the order of their numbers, as soon as it is done. A trap passes when all of its cases pass that
    this kernel has the means for, and is missing when it has them for none. With ``json`` a line for each:

    {"trap", "title", "backend", "result": pass|fail|missing, "cases": {"pass", "fail", "missing"}, "reasons": [text],
    "failures": [{"case", "message"}], "seconds"}, or {"trap", "title", "result": "coming"}; and at last {"selftest":
    {"kernel", "machine", "backend", "seconds", "passed", "failed", "missing", "coverage": {"hooks", "refused",
    "blind"}}}, where the three count traps.
    """
    unknown = [trap for trap in traps if trap not in TITLES]
    if unknown:
        raise CommandError(f"--trap {unknown[0]}: give a number from {min(TITLES)} to {max(TITLES)}", Exit.USAGE)
    if os.geteuid() != 0:
        raise CommandError(
            "the self-test needs root, as its programs make namespaces: run it with sudo", Exit.PRIVILEGE
        )
    began = time.monotonic()
    corpus = find_corpus()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # whatever runs is taken down on the way out
    coverage = _coverage(corpus, backend)
    show: Lines | Table = Lines() if json else Table()
    counted: Counter[str] = Counter()
    used = str(coverage["backend"])
    try:
        # Closed whatever happens, which ends the run of the tests.
        with closing(_rows(corpus, sorted(set(traps or TITLES)), used, disruptive, show)) as rows:
            for row in rows:
                counted[row.result] += 1
                show.row(row)
        show.end(
            {
                "kernel": platform.release(),
                "machine": platform.machine(),
                "backend": used,
                "seconds": round(time.monotonic() - began, 1),
                "passed": counted["pass"],
                "failed": counted["fail"],
                "missing": counted["missing"],
                "coverage": {name: coverage[name] for name in ("hooks", "refused", "blind")},
            },
            counted["coming"],
        )
    except BrokenPipeError:
        pass  # who read has seen enough: a normal end
    return Exit.FAILURE if counted["fail"] else Exit.OK


def _coverage(corpus: Corpus, backend: str) -> Tracer:
    """The coverage record of a session that ends at once: the backend that runs, its hooks, what it can't see.

    Raises CommandError with the reason and the code of `tracer live` when that does not run.
    """
    command = [sys.executable, "-m", "tracer", "live", "--json", "--no-snapshot", "--event", "listen"]
    command += ["--duration", "0.1", "--backend", backend]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
            cwd=corpus.root,
            timeout=_PROBE_WITHIN_S * patience(),
        )
    except subprocess.TimeoutExpired as expired:
        raise CommandError(f"`tracer live` did not end within {expired.timeout:.0f} s", Exit.FAILURE) from expired
    if done.returncode:
        told = (done.stderr.strip().splitlines() or [f"`tracer live` ended with code {done.returncode}"])[-1]
        known = done.returncode in set(Exit)
        raise CommandError(told.removeprefix("tracer: "), Exit(done.returncode) if known else Exit.FAILURE)
    for line in done.stdout.splitlines():
        event = json_module.loads(line)
        if event["event"]["action"] == "tracer-coverage":
            found: Tracer = event["tracer"]["coverage"]
            return {"refused": {}, "blind": [], **found}
    raise CommandError("`tracer live` gave no coverage record", Exit.FAILURE)


def _rows(corpus: Corpus, traps: list[int], backend: str, disruptive: bool, show: Lines | Table) -> Generator[Row]:
    """The rows of these traps in order, those to come among them."""
    waiting = list(traps)
    done: dict[int, dict[str, Any]] = {}
    modules = [path for trap in traps for path in corpus.modules.get(trap, ())]
    if modules:
        with CorpusRun(corpus, modules, settings(backend, disruptive=disruptive)) as run:
            for told in run:
                if "begun" in told:
                    show.running(told["begun"])
                    continue
                # A module that can't be imported is told before all others.
                done[told["trap"]] = told
                while waiting and (waiting[0] in done or waiting[0] not in corpus.modules):
                    trap = waiting.pop(0)
                    yield _judged(done[trap], backend) if trap in done else _coming(trap)
            code, said = run.ending()
        broken = f"the run ended with code {code} before this trap was done:\n{said}"
    else:
        broken = ""
    for trap in waiting:
        if trap in done:
            yield _judged(done[trap], backend)
        elif trap in corpus.modules:
            failure = {"case": "", "message": broken}
            yield _judged({"trap": trap, "cases": {"fail": 1}, "failures": [failure]}, backend)
        else:
            yield _coming(trap)


def _coming(trap: int) -> Row:
    return Row(trap, TITLES[trap], "coming")


def _judged(told: dict[str, Any], backend: str) -> Row:
    cases = {name: told["cases"].get(name, 0) for name in ("pass", "fail", "missing")}
    result = next((name for name in ("fail", "pass", "missing") if cases[name]), "fail")
    trap, reasons = told["trap"], told.get("reasons", [])
    return Row(trap, TITLES[trap], result, backend, cases, reasons, told.get("failures", []), told.get("seconds", 0.0))


class Lines:
    """The output for machines: JSON Lines, each written as soon as it is known."""

    def running(self, trap: int) -> None:
        """Nothing is said before there is a result."""

    def row(self, row: Row) -> None:
        """One trap."""
        _write(json_module.dumps(row.as_json()) + "\n")

    def end(self, summary: dict[str, Any], _coming: int) -> None:
        """The last line."""
        _write(json_module.dumps({"selftest": summary}) + "\n")


class Table:
    """The output for people: a row a trap; on a terminal the one that runs is shown too."""

    def __init__(self) -> None:
        """Look at what stdout is."""
        self._terminal = sys.stdout.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        longest = max(map(len, TITLES.values()))
        self._title = min(longest, max(20, shutil.get_terminal_size().columns - 22)) if self._terminal else longest

    def running(self, trap: int) -> None:
        """Show what runs now, until there is a result."""
        if self._terminal:
            _write(f"\r\x1b[2K{self._label(trap)}  …")

    def row(self, row: Row) -> None:
        """One trap, with the reasons of what is missing and the last words of what failed."""
        result = f"{row.result:<7}"
        if self._colour:
            result = f"\x1b[{_COLOURS[row.result]}m{result}\x1b[0m"
        time_taken = "" if row.result == "coming" else f"{row.seconds:>7.1f} s"
        lines = [f"{self._label(row.trap)}  {result}{time_taken}".rstrip()]
        lines += [f"{_INDENT}{_reason(row, reason)}" for reason in row.reasons]
        for failure in row.failures:
            message = failure["message"].splitlines()
            lines.append(f"{_INDENT}{visible(failure['case'])}".rstrip())
            lines += [f"{_INDENT * 2}{visible(line)}" for line in message]
        _write(("\r\x1b[2K" if self._terminal else "") + "".join(f"{line}\n" for line in lines))

    def end(self, summary: dict[str, Any], coming: int) -> None:
        """The last line: what was tested, and how many of each."""
        told = [f"{summary['passed']} passed", f"{summary['failed']} failed", f"{summary['missing']} missing"]
        if coming:
            told.append(f"{coming} still to come")
        where = f"Linux {summary['kernel']} {summary['machine']}, backend {summary['backend']}"
        _write(f"{where}: {', '.join(told)}; {summary['seconds']:.0f} s\n")

    def _label(self, trap: int) -> str:
        title = TITLES[trap]
        title = title if len(title) <= self._title else f"{title[: self._title - 1]}…"
        return f"{trap:>2}  {title}{' ' * (self._title - width(title))}"


def _reason(row: Row, reason: str) -> str:
    some = row.cases["pass"] or row.cases["fail"]
    return visible(f"{row.cases['missing']} of its cases not tried: {reason}" if some else reason)


def _write(text: str) -> None:
    """To stdout, at once. Raises BrokenPipeError when nobody reads it, CommandError when it can't be written."""
    encoding = sys.stdout.encoding or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise CommandError(f"can't write stdout: {error.strerror}", Exit.FAILURE) from error
