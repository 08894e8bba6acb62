"""Runs the generator under each backend and tables how much of what lived how long was told, and how much of it wrong.

`python -m scripts.attribution.backends`, or `make check-backends`. The clients live from 1 ms to 2 s. What has to hold:

* core and bcc: every record, none wrong;
* netlink: every exec and every exit, none wrong;
* procfs: every record of what lives three looks or longer (of `tracer.coverage.polling.longest_ms` each), none wrong.

A record without a process blames nobody: it is counted apart, and its event as not told.
"""

import argparse
import json
import sys
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import psutil

from scripts.attribution.check import SHOWN, CheckError, NotReadyError, build, run_storm, tracing
from scripts.attribution.compare import Fact, Truth, TruthError, entity_id, load_truth, names_generator, observed_fact
from tracer.cli.live import BACKENDS

PROCESSES: Final = 1009
PARALLEL: Final = 16
NOISE: Final = 16
OCTAVES: Final = 11  # 1 ms to 2.048 s
EDGES_MS: Final = (0, 10, 50, 250, 750, 1 << 30)
EXACT: Final = ("core", "bcc")
LOOKS: Final = 3
KINDS: Final = ("exec", "exit", "listen", "connect", "accept", "close")
NO_CODE: Final = (-1,)  # of an exit whose code is not told
UNUSABLE: Final = (3, 4)  # exit codes of a backend that this machine can't run


class Cell(NamedTuple):
    """Counts of records: that had to come, that came, and that came and were right."""

    expected: int = 0
    seen: int = 0
    matched: int = 0

    @property
    def recall(self) -> float | None:
        """The share of what had to come that came, 0 to 1; None where nothing had to."""
        return self.matched / self.expected if self.expected else None

    @property
    def precision(self) -> float | None:
        """The share of what came that is right, 0 to 1; None where nothing came."""
        return self.matched / self.seen if self.seen else None


@dataclass
class Result:
    """What came of one backend. The keys of `cells` are (place in EDGES_MS, kind); `longest_ms` is of its coverage."""

    backend: str
    cells: dict[tuple[int, str], Cell] = field(default_factory=dict)
    lasting: Cell = field(default_factory=Cell)  # what lives LOOKS looks or longer; of a backend that polls
    missing: list[str] = field(default_factory=list)  # of what must not miss, or not be there at all
    nobody: int = 0  # records of the generator without a process
    longest_ms: int = 0
    late: int = 0  # looks that came later than promised
    cpu: float = 0.0  # of one processor, 0 to 1 and more
    events: int = 0
    unusable: str = ""

    def of(self, *kinds: str, edge: int | None = None) -> Cell:
        """The sum over some kinds, and over one stretch of lifetimes or all."""
        chosen = [cell for (at, kind), cell in self.cells.items() if kind in kinds and (edge is None or at == edge)]
        return Cell(*(sum(numbers) for numbers in zip(*chosen, strict=True))) if chosen else Cell()

    @property
    def problems(self) -> list[str]:
        """What does not hold that has to."""
        if self.unusable:
            return []
        found = []
        everything = self.of(*KINDS)
        if everything.precision != 1.0:
            found.append(f"{everything.seen - everything.matched} records are wrong")
        must = [("all of it", everything)] if self.backend in EXACT else []
        if self.backend == "netlink":
            must = [(kind, self.of(kind)) for kind in ("exec", "exit")]
        if self.backend == "procfs":
            must = [(f"what lives {LOOKS} looks or longer", self.lasting)]
        for what, cell in must:
            if cell.recall != 1.0:
                late = f" ({self.late} looks came late: was the machine too busy?)" if self.late else ""
                found.append(f"{cell.expected - cell.matched} of {cell.expected} records are missing of {what}{late}")
        return found


Key = tuple[object, ...]


def key_of(fact: Fact) -> Key:
    """What a record and a fact have in common: of sockets not whose they are, nor who began, since that is asked."""
    if fact.kind in {"exec", "exit"}:
        return fact.kind, fact.process.entity
    return fact.kind, fact.process.netns, *sorted(part for part in fact.detail if isinstance(part, int))


def agrees(told: Fact, true: Fact) -> bool:
    """Whether a record says nothing that is not so; what it leaves out is not wrong."""
    if told.process.entity != true.process.entity:
        return False
    if any(one and one != other for one, other in zip(told.process, true.process, strict=True)):
        return False
    if told.detail[:1] == ("unknown",):  # which end it is that began
        ours, theirs = told.detail[1:3], told.detail[3:5]
        return true.detail[1:] in ((*ours, *theirs), (*theirs, *ours))
    return told.detail in ((), NO_CODE, true.detail)


def lifetimes(truth: Path, boot: str) -> dict[Key, float]:
    """How long each client keeps its connection, in ms: by entity id, and by namespace and port."""
    found: dict[Key, float] = {}
    for text in truth.read_text().splitlines():
        line = json.loads(text)
        if line["role"] == "client":
            life = int(line["argv"][4]) / 1000
            found[entity_id(boot, line["pid"], line["start"]),] = life
            found[line["netns"], line["port"]] = life
    return found


def life_of(fact: Fact, lives: dict[Key, float]) -> float | None:
    """How long what a fact is about lives, in ms; None of the generator's own processes, which are always there."""
    if fact.kind in {"exec", "exit"}:
        return lives.get((fact.process.entity,))
    return lives[fact.process.netns, fact.detail[-1]]


def evaluate(backend: str, lines: Iterable[bytes], truth: Truth, lives: dict[Key, float]) -> Result:
    """Count what came against what had to. `lines` is the tracer's whole output, one JSON object each."""
    result = Result(backend)
    wanted: dict[Key, list[Fact]] = {}
    for fact in truth.facts:
        wanted.setdefault(key_of(fact), []).append(fact)
    entities = {fact.process.entity for fact in truth.facts}
    left = Counter(truth.facts)
    seen: Counter[tuple[int, str]] = Counter()
    for line in lines:
        event = json.loads(line)
        _note(event, result)
        if event["event"]["kind"] != "event":
            continue
        result.events += 1
        told = observed_fact(event)
        if told.kind not in KINDS:
            continue
        if not told.process.entity:
            result.nobody += told.process.netns in truth.namespaces
            continue
        if not (told.process.entity in entities or names_generator(told, event, truth)):
            continue
        facts = wanted.get(key_of(told), ())
        true = next((fact for fact in facts if left[fact] and agrees(told, fact)), None)
        seen[_edge(life_of(facts[0], lives)) if facts else 0, told.kind] += 1
        if true is not None:
            left[true] -= 1
        elif len(result.missing) < SHOWN:
            result.missing.append(f"wrong: {told}")
    result.cells = {place: Cell(seen=count) for place, count in seen.items()}
    for fact, count in truth.facts.items():
        life, came = life_of(fact, lives), count - left[fact]
        place = _edge(life), fact.kind
        cell = result.cells.get(place, Cell())
        result.cells[place] = cell._replace(expected=cell.expected + count, matched=cell.matched + came)
        if result.longest_ms and (life is None or life >= LOOKS * result.longest_ms):
            lasting = result.lasting
            result.lasting = Cell(lasting.expected + count, 0, lasting.matched + came)
            if came < count and len(result.missing) < SHOWN:
                result.missing.append(f"missing: {fact}")
    return result


def _edge(life: float | None) -> int:
    return len(EDGES_MS) - 2 if life is None else bisect_right(EDGES_MS, life) - 1


def _note(event: dict[str, Any], result: Result) -> None:
    """Take from what the tracer says of itself how often it looks."""
    own = event.get("tracer", {})
    result.longest_ms = own.get("coverage", {}).get("polling", {}).get("longest_ms", result.longest_ms)
    result.late = own.get("ledger", {}).get("missed", {}).get("programs", {}).get("polls", result.late)


def _seconds(pid: int) -> float:
    """CPU time of the tracer and of what it has started, in seconds."""
    own = psutil.Process(pid)
    times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
    return sum(time.user + time.system for time in times)


def measure(backend: str, directory: Path, storm: Path, processes: int, parallel: int, noise: int) -> Result:
    """Generate, trace and compare. Raises CheckError, TruthError, OSError."""
    output, truth = directory / f"{backend}.ndjson", directory / f"{backend}.truth"
    try:
        with tracing(output, ("--backend", backend)) as pid:
            before = _seconds(pid)
            took = run_storm(storm, truth, processes, parallel, noise, OCTAVES)
            used = _seconds(pid) - before
    except NotReadyError as error:
        if error.code not in UNUSABLE:
            raise
        return Result(backend, unusable=str(error))
    with output.open("rb") as lines:
        boot = json.loads(lines.readline())["host"]["boot"]["id"]
        lines.seek(0)
        result = evaluate(backend, lines, load_truth(truth, processes, boot), lifetimes(truth, boot))
    result.cpu = used / took
    return result


def report(results: Sequence[Result]) -> str:
    """The table, and under it what does not hold."""
    columns = [f"{low}-{high} ms" for low, high in pairwise(EDGES_MS)]
    columns[0], columns[-1] = f"< {EDGES_MS[1]} ms", f"> {EDGES_MS[-2]} ms"
    lines = [
        f"{'backend':<9}{'records':<9}" + "".join(f"{name:>13}" for name in columns) + f"{'precision':>11}{'CPU':>7}"
    ]
    for result in results:
        if result.unusable:
            lines.append(f"{result.backend:<9}not on this machine: {result.unusable}")
            continue
        for kind in KINDS:
            recalls = [result.of(kind, edge=edge).recall for edge in range(len(columns))]
            whole = result.of(kind)
            cpu = f"{result.cpu:>7.1%}" if kind == KINDS[0] else ""
            lines.append(
                f"{result.backend if kind == KINDS[0] else '':<9}{kind:<9}"
                + "".join(f"{_share(recall):>13}" for recall in recalls)
                + f"{_share(whole.precision):>11}{cpu}"
            )
        if result.longest_ms:
            lasting = f"{LOOKS * result.longest_ms} ms or longer: recall {_share(result.lasting.recall)}"
            late = f"; {result.late} looks came late" if result.late else ""
            lines.append(f"{'':<9}{lasting}; {result.nobody} records without a process{late}")
    for result in results:
        lines += [f"{result.backend}: {problem}" for problem in result.problems]
        if result.problems:
            lines += [f"  {fact}" for fact in result.missing]
    return "\n".join(lines)


def _share(share: float | None) -> str:
    # Only exactness may print as 1.0.
    return "-" if share is None else "1.0" if share == 1.0 else f"{min(share, 0.9999):.4f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every backend, or those that are named; returns 0 only when all that has to hold does."""
    parser = argparse.ArgumentParser(prog="check-backends", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("backends", nargs="*", help=f"of {', '.join(BACKENDS[1:])} (default: all)")
    parser.add_argument("--processes", type=int, default=PROCESSES, help="clients to generate (default: %(default)s)")
    parser.add_argument("--parallel", type=int, default=PARALLEL, help="how many at a time (default: %(default)s)")
    parser.add_argument("--noise", type=int, default=NOISE, help="as many beside them (default: %(default)s)")
    parser.add_argument("--generator", type=Path, help="the compiled generator (default: compile it)")
    options = parser.parse_args(arguments)
    unknown = set(options.backends) - set(BACKENDS[1:])
    if unknown:
        parser.error(f"no such backend: {', '.join(sorted(unknown))}")
    results = []
    try:
        with tempfile.TemporaryDirectory(prefix="check-backends-") as name:
            storm = build(Path(name), options.generator)
            for backend in options.backends or BACKENDS[1:]:
                numbers = options.processes, options.parallel, options.noise
                results.append(measure(backend, Path(name), storm, *numbers))
    except (CheckError, TruthError, OSError) as error:
        print(f"check-backends: {error}", file=sys.stderr)
        return 1
    print(report(results))
    return 1 if any(result.problems for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
