"""Fuzz the parsers of names: `make fuzz`, bounded by TRACER_FUZZ_INPUTS (1,000,000), on every processor.

The corpus is changed at random, one stream of random numbers for each worker, all from one seed, which is printed. A
finding is an exception, more than SECONDS_MOST of CPU, more than MEMORY_MOST or a result that can't be; it is written
to the corpus, where the tests try it from then on. Then a part of the inputs is run again to measure branch coverage.
Exit code 1: something was found, or less was covered than COVERED_LEAST.

An own driver and not atheris: that has wheels for some interpreters and one architecture only, and knows nothing of
packets that have to be sealed anew after each change. What coverage guides there, the corpus does here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from tempfile import NamedTemporaryFile
from traceback import format_exc
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.names.mutate import mutated

if TYPE_CHECKING:
    from types import FrameType

CORPUS: Final = Path(__file__).parent / "corpus"
ROOT: Final = Path(__file__).parent.parent.parent
INPUTS: Final = 1_000_000
COVERED_INPUTS: Final = 50_000  # measured again with coverage
COVERED_LEAST: Final = 90.0  # percent of the branches of tracer/names
SECONDS_MOST: Final = 2.0  # of CPU for one input, which else takes 20 to 200 µs
MEMORY_MOST: Final = 256 << 20  # bytes of address space that a worker may take for its inputs
FINDINGS_MOST: Final = 5  # of one worker
PORTION: Final = 2000  # inputs of one target, one after the other


class Finding(NamedTuple):
    """An input that brought something to light, and what."""

    target: str
    data: bytes
    what: str


class HangError(Exception):
    """An input took too long."""


def _hang(_number: int, _frame: FrameType | None) -> None:
    raise HangError(f"more than {SECONDS_MOST} s of CPU")


@contextmanager
def watched() -> Iterator[None]:
    """Inputs that take too long raise HangError; for the main thread."""
    before = signal.signal(signal.SIGVTALRM, _hang)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def corpora() -> dict[str, list[bytes]]:
    """The inputs of each target, in an order that is always the same."""
    return {
        folder.name: [path.read_bytes() for path in sorted(folder.iterdir())] for folder in sorted(CORPUS.iterdir())
    }


def tried(target: str, data: bytes) -> str:
    """Give one input to a target, and return what is wrong, or nothing. Needs watched()."""
    from tests.names.targets import TARGETS  # here, so that coverage sees the import of what it measures

    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS_MOST)
    try:
        TARGETS[target](data)
    except Exception:  # noqa: BLE001  whatever it is, it is what is looked for
        return format_exc()
    return ""


def run(seed: int, inputs: int, targets: list[str] | None = None) -> list[Finding]:
    """Try so many inputs, which follow from the seed, on each target in turn; stops at FINDINGS_MOST."""
    rng = random.Random(seed)
    corpus = corpora()
    names = targets or sorted(corpus)
    portion = max(1, min(PORTION, inputs // len(names)))
    findings: list[Finding] = []
    with watched():
        for number in range(inputs):
            target = names[number // portion % len(names)]
            data = mutated(rng, corpus[target])
            what = tried(target, data)
            if what:
                findings.append(Finding(target, data, what))
                if len(findings) >= FINDINGS_MOST:
                    break
    return findings


def _work(seed: int, inputs: int) -> tuple[list[Finding], int]:
    """What one worker does: what it found, and by how many KiB it grew while it looked."""
    with watched():
        for target, items in corpora().items():
            for data in items:
                tried(target, data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_MOST, resource.RLIM_INFINITY))
    return run(seed, inputs), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before


def covered(seed: int, inputs: int) -> tuple[float, list[str]]:
    """Percent of the branches of tracer/names that so many inputs take, and a line for each file.

    For a process that has not imported them yet.
    """
    import coverage

    measuring = coverage.Coverage(branch=True, source=[str(ROOT / "tracer/names")], data_file=None, config_file=False)
    measuring.start()
    findings = run(seed, inputs)
    measuring.stop()
    if findings:
        raise RuntimeError(findings[0].what)
    with NamedTemporaryFile() as report:
        measuring.json_report(outfile=report.name)
        facts = json.load(report)
    lines = []
    for name, file in sorted(facts["files"].items()):
        summary = file["summary"]
        missing = " ".join(f"{begin}->{end}" for begin, end in file["missing_branches"])
        lines.append(f"{name}: {summary['covered_branches']} of {summary['num_branches']} branches  {missing}".rstrip())
    totals = facts["totals"]
    return 100 * totals["covered_branches"] / totals["num_branches"], lines


def kept(finding: Finding) -> Path:
    """Write a finding to the corpus."""
    path = CORPUS / finding.target / f"found-{sha256(finding.data).hexdigest()[:12]}"
    path.write_bytes(finding.data)
    return path


def main() -> int:
    """Run it as `make fuzz` does."""
    parser = argparse.ArgumentParser(prog="fuzz", description="Fuzz the parsers of names.")
    inputs = int(os.environ.get("TRACER_FUZZ_INPUTS", INPUTS))
    parser.add_argument("--inputs", type=int, default=inputs, help="how many (TRACER_FUZZ_INPUTS)")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "big"), help="to run the same again")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    options = parser.parse_args()
    print(f"fuzz: {options.inputs:,} inputs, seed {options.seed}, {options.jobs} at a time", flush=True)
    begin = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        share = -(-options.inputs // options.jobs)
        results = pool.starmap(_work, [(options.seed + job, share) for job in range(options.jobs)], chunksize=1)
    seconds = time.monotonic() - begin
    findings = [finding for found, _ in results for finding in found]
    grown = max(growth for _, growth in results)
    print(f"fuzz: {seconds:.0f} s, {share * options.jobs / seconds:,.0f} a second, grew by {grown / 1024:.1f} MiB")
    for finding in findings:
        print(f"fuzz: {finding.target}: {kept(finding)}\n{finding.what}")
    percent, lines = (0.0, []) if findings else covered(options.seed, min(options.inputs, COVERED_INPUTS))
    if not findings:
        print("\n".join(lines))
        print(f"fuzz: nothing found; {percent:.1f} % of the branches of tracer/names were taken")
    return 1 if findings or percent < COVERED_LEAST else 0


if __name__ == "__main__":
    sys.exit(main())
