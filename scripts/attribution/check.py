"""Runs the generator under the tracer and says how much of it came right: `python -m scripts.attribution.check`."""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scripts.attribution.compare import Comparison, TruthError, compare, load_truth

SOURCE = Path(__file__).with_name("storm.c")
READY = "tracer: ready"
# A factor on limits of waiting, as for the tests: 10 for an emulated machine.
PATIENCE = float(os.environ.get("TRACER_TEST_PATIENCE") or 1)
READY_SECONDS = 60 * PATIENCE
STORM_SECONDS = 660  # the generator ends itself after 600
DRAIN_SECONDS = 120 * PATIENCE
LEDGER_TERMS = ("attempts", "delivered", "filtered", "lost")
SHOWN = 5  # mistakes of each sort that are printed


class CheckError(Exception):
    """The measurement could not be made: no compiler, or the generator or the tracer failed."""


class NotReadyError(CheckError):
    """The tracer ended, with `code`, or took too long (None), before it was ready."""

    def __init__(self, said: str, code: int | None) -> None:
        """`said` is what it wrote to stderr."""
        super().__init__(f"the tracer did not get ready: {said}")
        self.code = code


def build(directory: Path, compiled: Path | None = None) -> Path:
    """Puts the generator into `directory`, under the three names it is run by, and returns its path.

    It is compiled, unless `compiled` is that already. Raises CheckError with the compiler's message, or if there is no
    C compiler ($CC, cc, gcc or clang).
    """
    storm = directory / "storm"
    if compiled is None:
        _compile(storm)
    else:
        shutil.copy(compiled, storm)
    for name in ("client", "noise"):
        (directory / name).hardlink_to(storm)
    return storm


def _compile(storm: Path) -> None:
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "gcc", "clang"))), None)
    if compiler is None:
        raise CheckError("no C compiler: install clang or gcc")
    flags = ("-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror")
    made = subprocess.run([compiler, *flags, "-o", storm, SOURCE], capture_output=True, text=True, check=False)
    if made.returncode:
        raise CheckError(made.stderr)


def run_storm(storm: Path, truth: Path, processes: int, parallel: int, noise: int, octaves: int = 0) -> float:
    """Runs the generator to its end and returns how long it took, in seconds; raises CheckError if it failed.

    With `octaves` the clients live for 1 ms to 2 ** octaves ms.
    """
    begin = time.monotonic()
    command = [str(part) for part in (storm, processes, parallel, noise, truth, octaves)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=STORM_SECONDS)
    if done.returncode:
        raise CheckError(f"the generator ended with {done.returncode}: {done.stderr}")
    return time.monotonic() - begin


@contextlib.contextmanager
def tracing(output: Path, options: Sequence[str] = ()) -> Iterator[int]:
    """Traces the whole machine into `output` while the block runs; drained and ended when it leaves.

    `options` are more of the command's. Gives the tracer's pid.

    Raises CheckError with the tracer's stderr when it never gets ready or ends with anything but 0.
    """
    command = [sys.executable, "-m", "tracer", "live", "--json", "--output", str(output), *options]
    said = output.with_suffix(".stderr")
    with said.open("w") as stderr, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=stderr) as tracer:
        try:
            deadline = time.monotonic() + READY_SECONDS
            while READY not in said.read_text():
                if tracer.poll() is not None or time.monotonic() > deadline:
                    raise NotReadyError(said.read_text().strip(), tracer.poll())
                time.sleep(0.02)
            yield tracer.pid
            tracer.send_signal(signal.SIGTERM)
            code = tracer.wait(DRAIN_SECONDS)
        finally:
            tracer.kill()
    if code:
        raise CheckError(f"the tracer ended with {code}: {said.read_text()}")


def measure(
    directory: Path,
    processes: int,
    parallel: int,
    noise: int,
    options: Sequence[str] = (),
    generator: Path | None = None,
) -> tuple[Comparison, float]:
    """Generates, traces and compares, with every file in `directory`; also returns the generator's run time in seconds.

    `options` are for the tracer, `generator` is the compiled one if there is one.

    Raises CheckError when one of the programs failed, TruthError when the generator's own file is incomplete.
    """
    storm = build(directory, generator)
    output, truth = directory / "output.ndjson", directory / "truth.ndjson"
    with tracing(output, options):
        seconds = run_storm(storm, truth, processes, parallel, noise)
    return compare_files(output, truth, processes), seconds


def compare_files(output: Path, truth: Path, processes: int) -> Comparison:
    """Compares the tracer's output with the generator's truth.

    Raises CheckError when the output is empty, TruthError when the truth is incomplete.
    """
    with output.open("rb") as lines:
        first = lines.readline()
        if not first:
            raise CheckError(f"{output} is empty")
        boot = json.loads(first)["host"]["boot"]["id"]
        lines.seek(0)
        return compare(lines, load_truth(truth, processes, boot))


def report(comparison: Comparison) -> str:
    """The table, the first mistakes of both sorts and what the ledger says, as text."""
    lines = [f"{'kind':<12}{'expected':>10}{'seen':>10}{'matched':>10}{'recall':>12}{'precision':>12}"]
    for row in comparison.rows:
        shares = (_share(row.matched, row.expected, row.recall), _share(row.matched, row.seen, row.precision))
        lines.append(f"{row.kind:<12}{row.expected:>10}{row.seen:>10}{row.matched:>10}{shares[0]:>12}{shares[1]:>12}")
    for what, facts in (("missing", comparison.missing), ("extra", comparison.extra)):
        lines += [f"{what}: {fact}" for fact in list(facts)[:SHOWN]]
    total = comparison.ledger.get("total", {})
    terms = ", ".join(f"{total[term]} {term}" for term in LEDGER_TERMS if term in total)
    lines.append(f"{comparison.events} events; ledger: {terms or 'none'}")
    lines += comparison.problems
    return "\n".join(lines)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """The same for machines: a list of rows, up to five mistakes of both sorts, the ledger's terms and the problems."""
    names = ("kind", "expected", "seen", "matched", "recall", "precision")
    total = comparison.ledger.get("total", {})
    return {
        "passed": comparison.passed,
        "rows": [{name: getattr(row, name) for name in names} for row in comparison.rows],
        "missing": [str(fact) for fact in list(comparison.missing)[:SHOWN]],
        "extra": [str(fact) for fact in list(comparison.extra)[:SHOWN]],
        "ledger": {term: total[term] for term in LEDGER_TERMS if term in total},
        "events": comparison.events,
        "problems": list(comparison.problems),
    }


def _share(part: int, whole: int, share: float) -> str:
    # Only exactness may print as 1.0; one wrong record in a million may not round up to it.
    return "1.0" if part == whole else f"{min(share, 0.999999):.6f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one measurement, or compares two existing files; returns 0 only when everything is exact, 1 if not."""
    parser = argparse.ArgumentParser(prog="check-attribution", description=__doc__)
    parser.add_argument("--processes", type=int, default=10007, help="clients to generate (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=4, help="how many at a time (default: %(default)s)")
    parser.add_argument("--noise", type=int, default=64, help="as many beside them (default: %(default)s)")
    parser.add_argument("--backend", help="the tracer's backend (default: what it chooses)")
    parser.add_argument("--generator", type=Path, help="the compiled generator (default: compile it)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--file", type=Path, help="compare this output of the tracer instead of running it")
    parser.add_argument("--truth", type=Path, help="the generator's file that belongs to --file")
    options = parser.parse_args(arguments)
    if (options.file is None) != (options.truth is None):
        parser.error("--file and --truth belong together")
    try:
        if options.file is not None:
            comparison = compare_files(options.file, options.truth, options.processes)
        else:
            with tempfile.TemporaryDirectory(prefix="check-attribution-") as directory:
                comparison, seconds = measure(
                    Path(directory),
                    options.processes,
                    options.parallel,
                    options.noise,
                    ("--backend", options.backend) if options.backend else (),
                    options.generator,
                )
            if not options.json:
                at_once = f"{options.parallel} at a time beside {options.noise}"
                clients = " and ".join(f"{count} {side}" for side, count in sorted(comparison.clients.items()))
                print(f"{clients} processes, {at_once}, in {seconds:.1f} s")
    except (CheckError, TruthError, OSError) as error:
        print(f"check-attribution: {error}", file=sys.stderr)
        return 1
    print(json.dumps(as_json(comparison)) if options.json else report(comparison))
    return 0 if comparison.passed else 1


if __name__ == "__main__":
    sys.exit(main())
