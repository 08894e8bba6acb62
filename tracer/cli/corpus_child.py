"""Run the tests of the trap corpus through pytest, and write what becomes of each trap as JSON Lines to a descriptor.

Not imported: `tracer selftest` starts it by its path, as `python -P corpus_child.py DESCRIPTOR ROOT MODULE...`. The
lines are {"begun": N} when the first case of a trap starts, and when its last one is over {"trap": N, "cases": …,
"reasons": …, "failures": …, "seconds": …}.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest

_NUMBER: Final = re.compile(r"test_(\d\d)_\w+\.py")
_LINES_MOST: Final = 20  # of what a failure says, the last ones
_CHARACTERS_MOST: Final = 4000
_TEST_WITHIN_S: Final = 120.0


class Reporter:
    """Gathers the outcomes of the cases of each trap, and tells a trap when its last case is over."""

    def __init__(self, fd: int) -> None:
        """Write to ``fd``."""
        self._fd = fd
        self._left: Counter[int] = Counter()
        self._cases: dict[int, Counter[str]] = {}
        self._reasons: dict[int, dict[str, None]] = {}
        self._failures: dict[int, list[dict[str, str]]] = {}
        self._begun: dict[int, float] = {}
        self._outcome: dict[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Learn how many cases each trap has."""
        self._left.update(_trap(item.nodeid) for item in items)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that can't be imported, or that skips itself, is a failed case of its trap."""
        if report.passed or _NUMBER.search(report.nodeid) is None:
            return
        trap = _trap(report.nodeid)
        self._begin(trap)
        self._fail(trap, report.nodeid.rpartition("/")[2], _text(report))
        self._end(trap)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Tell when the first case of a trap starts."""
        self._begin(_trap(nodeid))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take in one phase of a case: a failure of any counts, and no case counts twice."""
        trap = _trap(report.nodeid)
        outcome = "pass" if report.when == "call" else ""
        if report.failed:
            outcome = "fail"
            self._told(trap, _case(report.nodeid), _text(report))
        elif report.skipped:
            reason = _reason(report)
            if _is_absence(reason):
                outcome = "missing"
                self._reasons.setdefault(trap, {})[reason] = None
            else:
                outcome = "fail"
                self._told(trap, _case(report.nodeid), f"skipped: {reason}")
        worst = max(self._outcome.get(report.nodeid, ""), outcome, key=("", "pass", "missing", "fail").index)
        self._outcome[report.nodeid] = worst

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Tell a trap's result when its last case is over."""
        trap = _trap(nodeid)
        outcome = self._outcome.pop(nodeid, "fail") or "fail"
        self._cases.setdefault(trap, Counter())[outcome] += 1
        self._left[trap] -= 1
        if not self._left[trap]:
            self._end(trap)

    def _begin(self, trap: int) -> None:
        if trap not in self._begun:
            self._begun[trap] = time.monotonic()
            self._write({"begun": trap})

    def _fail(self, trap: int, case: str, message: str) -> None:
        self._cases.setdefault(trap, Counter())["fail"] += 1
        self._told(trap, case, message)

    def _told(self, trap: int, case: str, message: str) -> None:
        self._failures.setdefault(trap, []).append({"case": case, "message": message})

    def _end(self, trap: int) -> None:
        cases = self._cases.get(trap, Counter())
        self._write(
            {
                "trap": trap,
                "cases": {name: cases[name] for name in ("pass", "fail", "missing")},
                "reasons": list(self._reasons.get(trap, {})),
                "failures": self._failures.get(trap, []),
                "seconds": round(time.monotonic() - self._begun[trap], 2),
            }
        )

    def _write(self, row: dict[str, Any]) -> None:
        data = memoryview(json.dumps(row).encode() + b"\n")
        while data:
            data = data[os.write(self._fd, data) :]


def _trap(nodeid: str) -> int:
    found = _NUMBER.search(nodeid)
    return int(found[1]) if found else 0


def _case(nodeid: str) -> str:
    return nodeid.partition("::")[2]


def _reason(report: pytest.TestReport) -> str:
    # pytest keeps the reason of a skip as (path, line, "Skipped: reason").
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return reason.removeprefix("Skipped: ")


def _is_absence(reason: str) -> bool:
    from tests.tracing import NO_FACILITY, NOT_ASKED  # only when there is a corpus to import it from

    return reason.startswith((NO_FACILITY, NOT_ASKED))


def _text(report: pytest.TestReport | pytest.CollectReport) -> str:
    """The end of what pytest has to say, where the reason is."""
    lines = report.longreprtext.splitlines()[-_LINES_MOST:]
    return "\n".join(lines)[-_CHARACTERS_MOST:]


def run(fd: int, root: Path, modules: list[str]) -> int:
    """Run the modules of the corpus at ``root``; returns pytest's exit code."""
    # Ignored, perhaps, by whoever started all this in the background; it is how a run is ended.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.set_inheritable(fd, False)  # it ends with this process, not with what the tests start
    # Before everything else that is called tests; and the package that this file is a part of.
    sys.path[:0] = [str(root), str(Path(__file__).resolve().parents[2])]
    arguments = [
        "-q",
        "--continue-on-collection-errors",
        "-c",
        os.devnull,
        f"--rootdir={root}",
        f"--confcutdir={root}",
        "-p",
        "no:warnings",
    ]
    compiled = (root / "tests/traps/programs.tar.xz").exists()
    if compiled:
        # An installation stays as it is.
        sys.dont_write_bytecode = True
        arguments += ["-p", "no:cacheprovider"]
    if importlib.util.find_spec("pytest_timeout") is not None:
        patience = float(os.environ.get("TRACER_TEST_PATIENCE") or 1)
        arguments += ["-p", "pytest_timeout", f"--timeout={_TEST_WITHIN_S * patience}"]
    return int(pytest.main([*arguments, *modules], plugins=[Reporter(fd)]))


if __name__ == "__main__":
    sys.exit(run(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
