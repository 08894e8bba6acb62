"""Run the trap corpus through `tracer export`, and hold every line against what a line must be: `make check-corpus`.

The tests of the traps compare each event with what the programs say of themselves; here they run on what `tracer
export` writes into rotated, chained files, in ECS and again in OCSF. Then each line of all those files is held against
ECS's and OCSF's own schemas and against the published one, each event of the programs must have its required fields,
and the files go through `tracer verify`, as they are and after each of six manipulations.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.exporting import ROOT, files
from tests.formats import ecs_lines, ocsf_lines
from tests.formats.ocsf_as_ecs import as_ecs
from tests.formats.required import REQUIRED, Table
from tests.formats.schemas import faults
from tests.tracing import Event, shorten, value
from tracer.integrity.files import listed
from tracer.integrity.verify import Verifier

__all__ = ["FORMS", "Judged", "check", "judge", "main", "spoiled"]

FORMS: Final = ("ecs", "ocsf")
# Those that take their time over numbers and not over kinds of events.
SLOW: Final = (44, 45)
_ROOT: Final = Path(__file__).resolve().parents[1]
# What a tracer in a pid namespace of its own says, and what it then can't know of parents from before its start.
_OUTSIDE: Final = "outside this pid namespace that were there before"
_OF_PARENT: Final = ("process.parent.name", "process.parent.executable")
# What nobody can tell of a process whose exec, or its parent's, was only counted, as beyond a budget.
_OF_PROGRAM: Final = ("process.executable", "tracer.process.exe.dev", "tracer.process.exe.inode")
_SHOWN: Final = 5  # of what is wrong with lines


class Judged(NamedTuple):
    """What was found of a session's files."""

    lines: int
    table: Table
    others: int  # events of processes that no program of the corpus has started
    wrong: list[str]


def _check_ecs(document: dict[str, Any]) -> Event:
    ecs_lines.check(document)
    return document


def _check_ocsf(document: dict[str, Any]) -> Event:
    ocsf_lines.check(document)
    return as_ecs(document)


def _documents(directory: Path, form: str) -> Iterator[tuple[dict[str, Any], str]]:
    read = ocsf_lines.read if form == "ocsf" else ecs_lines.read
    for path in files(directory):
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                yield read(line), f"{path.name}:{number}"


def _ours(events: list[Event], root: int) -> set[str]:
    """The processes, by entity id, whose line of parents leads to the process ``root``."""
    parents: dict[str, str] = {}
    found: set[str] = set()
    for event in events:
        process = event.get("process", {})
        parent = process.get("parent", {})
        if "entity_id" in process:
            parents[process["entity_id"]] = parent.get("entity_id", "")
            if parent.get("pid") == root:
                found.add(process["entity_id"])
    for entity in parents:
        path = [entity]
        while path[-1] in parents and path[-1] not in found and len(path) <= len(parents):
            path.append(parents[path[-1]])
        if path[-1] in found:
            found.update(path)
    return found


def judge(directory: Path, form: str, root: int) -> Judged:
    """Hold each line of a session's files against the format, and each event below process ``root`` against the list.

    Raises AssertionError for what is no JSON.
    """
    wrong: list[str] = []
    events: list[Event] = []
    for document, where in _documents(directory, form):
        try:
            events.append(_check_ocsf(document) if form == "ocsf" else _check_ecs(document))
        except AssertionError as found:
            wrong.append(f"{directory.name}/{where}: {found}"[:600])
        wrong += [f"{directory.name}/{where}: {path}: {said}" for path, said in faults(document, form)]
    table = Table()
    ours = _ours(events, root)
    told = {value(event, "process.entity_id") for event in events}
    coverage = next(event["tracer"]["coverage"] for event in events if event["event"]["action"] == "tracer-coverage")
    blind = any(_OUTSIDE in spot for spot in coverage["blind"])
    flooded = any(event["event"]["action"] == "tracer-flood" for event in events)
    run = {value(event, "process.entity_id") for event in events if event["event"]["action"] == "process-executed"}
    others = 0
    for event in events:
        action = event["event"]["action"]
        known = value(event, "process.entity_id") in ours and value(event, "tracer.snapshot") is not True
        if known or action not in REQUIRED:
            excused: tuple[str, ...] = ()
            if blind and value(event, "process.parent.entity_id") not in told:
                excused += _OF_PARENT
            if flooded and value(event, "process.entity_id") not in run:
                excused += _OF_PROGRAM
            table.add(event, excused)
        else:
            others += 1
    return Judged(len(events), table, others, wrong)


def _later(line: bytes) -> bytes:
    """The line with another last digit of its time: a byte that is as good as the right one."""
    return re.sub(rb'\dZ"', lambda found: b'%dZ"' % ((int(found[0][:1]) + 1) % 10), line, count=1)


def spoiled(directory: Path, place: Path) -> Iterator[tuple[str, Path]]:
    """Copies of a session's files in ``place``, each with something done to it, and the name of that."""
    names = [path.name for path in files(directory)]
    middle = names[len(names) // 2]

    def change(name: str, make: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], object]:
        def changed(copy: Path) -> int:
            path = copy / name
            return path.write_bytes(b"".join(make(path.read_bytes().splitlines(keepends=True))))

        return changed

    damages: dict[str, Callable[[Path], object]] = {
        "a removed line": change(middle, lambda lines: [*lines[:2], *lines[3:]]),
        "a swapped line": change(middle, lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]]),
        "a changed byte": change(middle, lambda lines: [*lines[:2], _later(lines[2]), *lines[3:]]),
        "a removed file": lambda copy: (copy / middle).unlink(),
        "a last line cut short": change(names[-1], lambda lines: [*lines[:-1], lines[-1][:-7]]),
        "a doubled file": lambda copy: shutil.copy(copy / middle, copy / f"{middle}.gz"),
    }
    for number, (name, damage) in enumerate(damages.items()):
        copy = shutil.copytree(directory, place / str(number))
        damage(copy)
        yield name, copy
        shutil.rmtree(copy)


def _proven(directories: list[Path]) -> tuple[list[str], list[str]]:
    """What is wrong with files as they are, or not found where something was done to them; and a line for each finding.

    The manipulations are done to the session that has the most files.
    """
    wrong, told = [], []
    count = 0
    for directory in directories:
        report = Verifier().run(listed(directory))
        count += len(listed(directory))
        if not report.right or not report.chain:
            wrong.append(f"{directory.name}: {report.what or 'no chain'}")
    told.append(f"tracer verify: {len(directories)} sessions in {count:,} files, {len(wrong)} not proven")
    largest = max(directories, key=lambda directory: len(files(directory)))
    with tempfile.TemporaryDirectory(prefix="spoiled-") as place:
        for name, copy in spoiled(largest, Path(place)):
            report = Verifier().run(listed(copy))
            told.append(f"  {name}: {report.what or 'NOT FOUND'}")
            if report.right or (name == "a last line cut short") != ("cut short" in report.what):
                wrong.append(f"{name} is told as {report.what!r}")
    return wrong, told


def _run(form: str, place: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Run the tests of traps on `tracer export`, whose files come below ``place``; the code and what pytest said."""
    environment = os.environ | {"TRACER_TEST_EXPORT": str(place), "TRACER_TEST_FORMAT": form}
    # With a cache of its own, for the compiled programs: what failed last is the other cache's.
    command = [sys.executable, "-m", "pytest", "-q", "-o", "cache_dir=.pytest_cache/exported", *tests]
    done = subprocess.run(command, cwd=_ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.strip()


def check(form: str, place: Path, tests: Sequence[str], say: Callable[[str], object]) -> bool:
    """Run these tests of traps in a format and judge what was written; whether all of it is right.

    ``place`` is an empty directory, ``say`` takes the lines of the report.
    """
    began = time.monotonic()
    code, told = _run(form, place, tests)
    say(f"{form}: traps on tracer export: {told.splitlines()[-1] if told else 'pytest said nothing'}")
    if code:
        say("\n".join(line for line in told.splitlines() if line.startswith(("E  ", "FAILED", "ERROR"))))
    directories = sorted(path for path in place.iterdir() if path.is_dir() and files(path))
    if not directories:
        say(f"{form}: nothing was written")
        return False
    roots = [int((path / ROOT).read_text()) for path in directories]
    table = Table()
    wrong: list[str] = []
    count = others = 0
    with ProcessPoolExecutor() as pool:
        for found in pool.map(judge, directories, [form] * len(directories), roots):
            table.merge(found.table)
            wrong += found.wrong
            count += found.lines
            others += found.others
    say(f"{form}: {count:,} lines, {len(wrong)} not valid; {others:,} of them are of processes of others")
    for line in wrong[:_SHOWN]:
        say(f"  {line}")
    say(f"\n{form}: the required fields of the programs' events, and of what the tracer says of itself")
    for line in table.lines():
        say(f"  {line}")
    for (action, name), event in list(table.first.items())[:_SHOWN]:
        say(f"  {action} without {name}: {shorten(event)}")
    unproven, proofs = _proven(directories)
    for line in ["", *proofs, *unproven]:
        say(line)
    say(f"{form}: took {time.monotonic() - began:.0f} s\n")
    return not (code or wrong or unproven) and table.full


def _tests(traps: Sequence[int]) -> list[str]:
    chosen = []
    for path in sorted((_ROOT / "tests/traps").glob("test_[0-9][0-9]_*.py")):
        number = int(path.name[5:7])
        if number in traps or (not traps and number not in SLOW):
            chosen.append(str(path.relative_to(_ROOT)))
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Check; 0 when every line and every field is right in all formats asked for, 1 when not, 2 for wrong use."""
    parser = argparse.ArgumentParser(prog="check-corpus", description=__doc__.partition("\n")[0])
    parser.add_argument("--format", action="append", choices=FORMS, help="only this one (repeatable)")
    parser.add_argument("--trap", action="append", type=int, default=[], help="only this one (repeatable)")
    options = parser.parse_args(arguments)
    if os.geteuid() != 0:
        print("check-corpus: probes need root: run it with sudo", file=sys.stderr)
        return 1
    tests = _tests(options.trap)
    if not tests:
        parser.error("there is no such trap")
    lists = " and ".join(name for name in ("TRACER_ECS_FIELDS", "TRACER_ECS_VALUES") if os.environ.get(name))
    print(f"fields and values of ECS: {lists or 'the lists of tests/formats/ecs_lines.py, checked by hand'}\n")
    right = True
    for form in options.format or FORMS:
        with tempfile.TemporaryDirectory(prefix="check-corpus-") as place:
            right &= check(form, Path(place), tests, lambda line: print(line, flush=True))
    print("ok" if right else "NOT RIGHT")
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
