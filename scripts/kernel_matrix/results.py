"""Judges what the guests reported: per kernel and backend a column of traps, and all that is not as it must be."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.kernel_matrix.config import Kernel, Missing
from tracer.confine.expected import KERNELS

SCHEMA = 1
OK, FAIL, NONE, LOST, COMING, ABSENT = "ok", "FAIL", "none", "lost", "coming", "absent"
# What the self-test says of the traps that would disturb the user's own machine; guests run them all.
NOT_ON_HOST = "disturbs the machine"
HOST = "host"
CHECKS = ("attribution", "bytes", "sandbox")
COUNTING = frozenset({"core"})  # backends that count bytes by flow
_NOT_HERE = "not here: "
_NOT_SEEN = "can't here: "
_SHOWN_ROWS = 8

Line = dict[str, Any]


@dataclass
class Row:
    """One trap: what came of it, what this kernel has no means for, and the seconds it took."""

    result: str
    reasons: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass
class Column:
    """One kernel with one backend. `problems` says everything that is not as it must be, a text each.

    `crashes` are the reasons of runs that were lost before this one, `not_here` by row of the check of bytes what the
    kernel lacks, `not_seen` what the coverage record says that can't be counted there.
    """

    kernel: str
    backend: str
    arch: str = ""
    release: str = ""
    version: str = ""
    stale: str = ""
    accel: str = ""
    boots: int = 0
    ready_s: float = 0.0
    seconds: float = 0.0
    lost: str = ""
    crashes: list[str] = field(default_factory=list)
    rows: dict[int, Row] = field(default_factory=dict)
    attribution: str = ""
    bytes: str = ""
    not_here: dict[str, str] = field(default_factory=dict)
    not_seen: dict[str, str] = field(default_factory=dict)
    sandbox: str = ""
    hooks: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    blind: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Kernel and backend."""
        return f"{self.kernel}/{self.backend}"


def judge(
    column: Column,
    lines: Iterable[Line],
    wanted: Sequence[int],
    missing: Sequence[Missing],
    *,
    attribution: bool = True,
) -> None:
    """Fill in a column from the lines of its guest, which are all of one backend.

    `wanted` are the traps that must have a row, `missing` the expectations of matrix.toml, `attribution` tells whether
    the checks were asked for.
    """
    errors: list[str] = []
    for line in lines:
        if "trap" in line:
            _trap(column, line, missing)
        elif "selftest" in line:
            coverage = line["selftest"].get("coverage", {})
            column.hooks, column.refused = dict(coverage.get("hooks", {})), dict(coverage.get("refused", {}))
            column.blind = list(coverage.get("blind", []))
        elif line.get("guest") in _READ:
            _READ[line["guest"]](column, line)
        elif line.get("guest") == "error":
            errors.append(f"{line['step']}: {line['message']}")
    if column.lost:
        done = [trap for trap, row in column.rows.items() if row.result != COMING]
        after = f"after trap {done[-1]}" if done else "before the first trap was done"
        column.problems.append(f"the guest was lost {after}: {column.lost}")
    _absent(column, wanted, errors)
    for error in errors:
        column.problems.append(error)
    for check in CHECKS if attribution else ():
        if not getattr(column, check) and (check != "bytes" or column.backend in COUNTING):
            setattr(column, check, LOST if column.lost else FAIL)
            if not column.lost and not errors:
                column.problems.append(f"the check of {'the ' * (check == 'sandbox')}{check} gave no result")
    if column.problems and column.refused:
        column.problems += [f"hook refused: {hook}: {reason}" for hook, reason in column.refused.items()]


def _trap(column: Column, line: Line, missing: Sequence[Missing]) -> None:
    trap = int(line["trap"])
    if line["result"] == "coming":
        column.rows[trap] = Row(COMING)
        return
    result = {"pass": OK, "missing": NONE}.get(line["result"], FAIL)
    reasons = [str(reason) for reason in line.get("reasons", [])]
    for failure in line.get("failures", []):
        column.problems.append(f"trap {trap}: {failure['case']}: {failure['message']}".strip())
    if result == FAIL and not line.get("failures"):
        column.problems.append(f"trap {trap} failed without a word")
    expected = [entry for entry in missing if _applies(entry, column, trap)]
    for reason in reasons:
        if column.kernel == HOST and NOT_ON_HOST in reason:
            continue
        if not any(entry.reason in reason for entry in expected):
            column.problems.append(f"trap {trap} is missing, which matrix.toml does not expect: {reason}")
            result = FAIL
    if result == NONE and not reasons:
        column.problems.append(f"trap {trap} is missing without a reason")
        result = FAIL
    for entry in expected:
        if not any(entry.reason in reason for reason in reasons):
            column.problems.append(f"trap {trap} passes, but matrix.toml expects it to be missing: {entry.reason}")
            result = FAIL
    column.rows[trap] = Row(result, reasons, float(line.get("seconds", 0.0)))


def _applies(entry: Missing, column: Column, trap: int) -> bool:
    return entry.trap == trap and column.kernel in entry.kernels and column.backend in entry.backends


def _attribution(column: Column, line: Line) -> None:
    column.attribution = OK if line["passed"] else FAIL
    if not line["passed"]:
        report = line["report"]
        wrong = [row for row in report.get("rows", []) if row["recall"] != 1 or row["precision"] != 1]
        texts = [f"{row['kind']}: recall {row['recall']:.6f}, precision {row['precision']:.6f}" for row in wrong]
        column.problems.append("; ".join(["attribution", *texts, *report.get("problems", [])]))


def _bytes(column: Column, line: Line) -> None:
    column.bytes = OK if line["passed"] else FAIL
    report = line["report"]
    rows = report.get("rows", [])
    column.not_here, column.not_seen = (
        {row["row"]: row["verdict"].removeprefix(word) for row in rows if row["verdict"].startswith(word)}
        for word in (_NOT_HERE, _NOT_SEEN)
    )
    if not line["passed"]:
        wrong = [f"{row['row']}: {'; '.join(row['problems'][:2])}" for row in rows if row["problems"]]
        more = [f"and {len(wrong) - _SHOWN_ROWS} rows more"] if len(wrong) > _SHOWN_ROWS else []
        texts = ["bytes", *wrong[:_SHOWN_ROWS], *more, *report.get("problems", [])]
        column.problems.append("\n".join(texts))


def _sandbox(column: Column, line: Line) -> None:
    """Each escape must be refused by its layer, and strict run or not, as it should on kernels with this Landlock."""
    proof, strict = line["proof"], line["strict"]
    wrong = [f"{each['layer']}: {each['name']} is {each['result']}" for each in proof["escapes"]]
    wrong = [text for text in wrong if text.endswith(" is broken")]
    wrong += [
        f"{layer} is {each['state']}, not {each['expected']}"
        for layer, each in proof["layers"].items()
        if each["state"] != each["expected"]
    ]
    if not wrong and not proof["as_expected"]:
        wrong.append("not as it should be")
    runs = [kernel.strict for kernel in KERNELS if kernel.landlock_abi == proof["landlock_abi"]]
    if runs and runs != [proof["strict"]]:
        wrong.append(f"--sandbox-strict {'should' if runs[0] else 'should not'} run")
    if proof["strict"]:
        if strict["code"] or not strict["lines"]:
            wrong.append(f"--sandbox-strict ended with {strict['code']} after {strict['lines']} lines, not with 0")
    elif strict != {"code": 6, "lines": 0}:
        wrong.append(
            f"--sandbox-strict ended with {strict['code']} after {strict['lines']} lines, not with 6 before any"
        )
    column.sandbox = FAIL if wrong else OK
    if wrong:
        column.problems.append(f"sandbox: {'; '.join(wrong)}")


_READ: Mapping[str, Callable[[Column, Line], None]] = {
    "attribution": _attribution,
    "bytes": _bytes,
    "sandbox": _sandbox,
}


def _absent(column: Column, wanted: Sequence[int], errors: list[str]) -> None:
    """Traps that were to run and have no row: lost with the guest, or failed with the self-test."""
    absent = [trap for trap in wanted if trap not in column.rows or column.rows[trap].result == COMING]
    for trap in absent:
        column.rows[trap] = Row(LOST if column.lost else FAIL)
    if absent and not column.lost:
        numbers = ", ".join(map(str, absent))
        why = errors.pop(0) if errors else "the self-test gave no row for them"
        column.problems.append(f"traps {numbers} did not run: {why}" if len(absent) > 1 else f"trap {numbers}: {why}")


def check_capabilities(kernel: Kernel, doctor: Mapping[str, Any]) -> list[str]:
    """What the guest's doctor found that is not what matrix.toml expects, a text each."""
    found = capabilities(doctor)
    return [
        f"{name}: matrix.toml expects {_plain(value)}, doctor found {_plain(found.get(name))}"
        for name, value in kernel.capabilities.items()
        if found.get(name) != value
    ]


def _plain(value: bool | int | None) -> str:
    if value is None:
        return "nothing"
    return str(value) if type(value) is int else ("yes" if value else "no")


def capabilities(doctor: Mapping[str, Any]) -> dict[str, bool | int]:
    """The facts that matrix.toml can name, from the output of `tracer doctor --json`."""
    hooks = doctor.get("hooks", {})
    found: dict[str, bool | int] = {name: _there(doctor.get(name)) for name in ("btf", "headers")}
    found |= {name: _there(hooks.get(name)) for name in ("fentry", "kprobe", "lsm")}
    landlock = doctor.get("landlock", {})
    found["landlock_abi"] = int(landlock.get("abi") or 0)
    return found


def _there(finding: object) -> bool:
    return isinstance(finding, Mapping) and finding.get("status") == "ok"


@dataclass
class Results:
    """All columns, the titles of the traps, and what it cost: seconds, bytes."""

    titles: dict[int, str]
    columns: list[Column]
    cost: dict[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether everything is as it must be."""
        return bool(self.columns) and not any(column.problems for column in self.columns)

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "schema": SCHEMA,
            "titles": {str(trap): title for trap, title in sorted(self.titles.items())},
            "cost": self.cost,
            "columns": [asdict(column) for column in self.columns],
        }


def from_json(found: Mapping[str, Any]) -> Results:
    """The results that a file holds. Raises ValueError for another schema."""
    if found.get("schema") != SCHEMA:
        raise ValueError(f"the results are of schema {found.get('schema')}, not {SCHEMA}")
    columns = []
    for entry in found["columns"]:
        rows = {int(trap): Row(**row) for trap, row in entry["rows"].items()}
        columns.append(Column(**{**entry, "rows": rows}))
    return Results({int(trap): title for trap, title in found["titles"].items()}, columns, dict(found["cost"]))
