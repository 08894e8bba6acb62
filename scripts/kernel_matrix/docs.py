"""Writes docs/kernels.json and docs/kernels.md: the results of the last run of each column, and a page made of them."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from scripts.kernel_matrix.config import Matrix
from scripts.kernel_matrix.results import COMING, HOST, NONE, Column, Results, from_json
from scripts.kernel_matrix.table import cell, headings, traps_of

DATA = Path("docs/kernels.json")
PAGE = Path("docs/kernels.md")
_INTRODUCTION = """\
# Kernels

What holds on which kernel, with which backend. `make matrix` boots these kernels under QEMU and runs the trap corpus
(`tests/traps`) in each; `make matrix ARGS=--write-docs` writes this page from what came of it, and the results
themselves into `kernels.json`. A test compares the two. The list of kernels is `vagrant/matrix.toml`. To see the same
rows for your own kernel, run `sudo tracer selftest`. A column is that of the last run that wrote it; those that `make
test` runs may be of such a run, which has a tenth of what traps have very much of.

`ok`: every case of the trap came out right. `none`: the kernel has no means for it, and the guest itself said which;
the reasons are below. `FAIL`: not every case did, and why is below too. `…`: the trap is not traced
yet, or came after this column was last run.
"""


_SHOWN = 400  # characters of a failure
_FULL_FETCH = 100 << 20  # bytes; a run that fetches more had an empty cache


def column_names(matrix: Matrix) -> list[str]:
    """The columns that the page must have, in its order: those of the file, then this machine's."""
    return [*(f"{kernel.name}/{backend}" for kernel in matrix.kernels for backend in kernel.backends), f"{HOST}/core"]


def merge(old: Results | None, new: Results, names: Sequence[str]) -> Results:
    """The results to keep after a run: its columns in place of older ones, those of `names` in their order.

    A trap that the run has left out keeps its row.

    The cost is that of the last run of all columns, and under names with `first_` that of the last such run that had
    an empty cache; a run of some columns changes neither.
    """
    columns = {column.name: column for column in (old.columns if old else ())}
    for column in new.columns:
        before = columns[column.name].rows if column.name in columns else {}
        columns[column.name] = replace(column, rows=dict(sorted({**before, **column.rows}.items())))
    cost = dict(old.cost) if old else {}
    if {column.name for column in new.columns} >= {*names}:
        first = "first_" if new.cost["fetched_bytes"] > _FULL_FETCH else ""
        cost |= {f"{first}{name}": value for name, value in new.cost.items()}
    return Results(new.titles, [columns[name] for name in names if name in columns], cost)


def write(root: Path, new: Results, matrix: Matrix) -> None:
    """Put the results of a run into the files under `root`. Raises ValueError when the old ones have another schema."""
    old = from_json(json.loads((root / DATA).read_text())) if (root / DATA).exists() else None
    kept = merge(old, new, column_names(matrix))
    (root / DATA).write_text(json.dumps(kept.as_json(), indent=1) + "\n")
    (root / PAGE).write_text(page(kept))


def page(results: Results) -> str:
    """The page, whole."""
    parts = (_kernels, _failures, _missing, _not_here, _not_seen, _cost)
    lines = [_INTRODUCTION, *_traps(results), "", *(line for part in parts for line in part(results))]
    return "\n".join(lines) + "\n"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _traps(results: Results) -> Iterator[str]:
    columns = results.columns
    yield _row(["#", "trap", *(" ".join(headings(column)) for column in columns)])
    yield _row(["---"] * (len(columns) + 2))
    ran, coming = traps_of(results)
    for trap in sorted([*ran, *coming]):
        yield _row([str(trap), results.titles.get(trap, ""), *(cell(column, trap) for column in columns)])
    yield _row(["", "1,009 short connections, each with its process", *(column.attribution for column in columns)])
    if any(column.bytes for column in columns):
        yield _row(["", "bytes of every flow, and of every device", *(column.bytes or "-" for column in columns)])
    sandbox = "the sandbox: every escape of `tracer doctor --prove` refused as it should be on this kernel"
    yield _row(["", sandbox, *(column.sandbox for column in columns)])


def _kernels(results: Results) -> Iterator[str]:
    yield "## The kernels\n"
    yield _row(["kernel", "version", "backend", "ready after", "corpus and check", "hooks refused"])
    yield _row(["---"] * 6)
    for column in results.columns:
        release = f"{column.release} ({column.version})" if column.version else column.release
        refused = ", ".join(f"`{hook}`" for hook in sorted(column.refused)) or "none"
        ready = f"{column.ready_s:.0f} s" if column.ready_s else ""
        if column.crashes:
            ready += f" (run again: {'; '.join(column.crashes)})"
        taken = f"{column.seconds - column.ready_s:.0f} s"
        yield _row([column.kernel, release, column.backend, ready, taken, refused])
    yield ""


def _failures(results: Results) -> Iterator[str]:
    found = [(" ".join(headings(column)), problem) for column in results.columns for problem in column.problems]
    if not found:
        return
    yield "## What does not hold\n"
    yield "In words of the run, cut short:\n"
    for name, problem in found:
        lines = problem.splitlines()
        # pytest marks what went wrong by an E.
        reason = next((line.removeprefix("E").strip() for line in lines if line.startswith("E ")), "")
        what = " ".join([lines[0].strip(), reason]).strip()
        yield f"- {name}: `{what[:_SHOWN]}`"
    yield ""


def _missing(results: Results) -> Iterator[str]:
    found: dict[tuple[int, str], list[str]] = {}
    for column in results.columns:
        for trap, row in column.rows.items():
            for reason in row.reasons if row.result != COMING else ():
                found.setdefault((trap, reason), []).append(" ".join(headings(column)))
    if not found:
        return
    yield "## What kernels have no means for\n"
    yield f"Cases that count as `{NONE}`, or that other cases of the same trap stand beside:\n"
    yield _row(["trap", "where", "what the guest said"])
    yield _row(["---"] * 3)
    for (trap, reason), names in sorted(found.items()):
        yield _row([str(trap), ", ".join(names), reason])
    yield ""


def _not_here(results: Results) -> Iterator[str]:
    rows = _rows_of([(column, column.not_here) for column in results.columns])
    if not rows:
        return
    yield "## Traffic that kernels do not have\n"
    yield "Rows of `make check-bytes` that can't be there, and what the generator got instead:\n"
    yield _row(["row", "where", "what the kernel answered"])
    yield _row(["---"] * 3)
    for row, names, reason in rows:
        yield _row([f"`{row}`", names, f"`{reason}`"])
    yield ""


def _not_seen(results: Results) -> Iterator[str]:
    rows = _rows_of([(column, column.not_seen) for column in results.columns])
    if not rows:
        return
    yield "## Traffic that can't be counted\n"
    yield "Rows of `make check-bytes` of which nothing is told there, as the coverage record of each start says:\n"
    yield _row(["row", "where", "what nobody sees"])
    yield _row(["---"] * 3)
    for row, names, reason in rows:
        yield _row([f"`{row}`", names, reason])
    yield ""


def _rows_of(said: Sequence[tuple[Column, dict[str, str]]]) -> list[tuple[str, str, str]]:
    """Rows of the check of bytes, the columns where the same was said of them, and what."""
    found: dict[tuple[str, str], list[str]] = {}
    for column, reasons in said:
        for row, reason in reasons.items():
            found.setdefault((row, reason), []).append(" ".join(headings(column)))
    return [(row, ", ".join(names), reason) for (row, reason), names in sorted(found.items())]


def _cost(results: Results) -> Iterator[str]:
    yield "## What a run costs\n"
    yield _row(["", "fetched", "fetching", "making images", "guests", "in all"])
    yield _row(["---"] * 6)
    first = {key: results.cost.get(f"first_{key}", 0.0) for key in _COSTS}
    cached = {key: results.cost.get(key, 0.0) for key in _COSTS}
    if not any(cached.values()) and any(first.values()):
        # The same guests, prepared a second time.
        build = results.cost["first_cached_s"]
        cached = {"fetched_bytes": 0.0, "fetch_s": 0.0, "build_s": build, "run_s": first["run_s"]}
        cached["total_s"] = build + first["run_s"]
    for cost, label in ((first, "first time, nothing in the cache"), (cached, "with everything in the cache")):
        if any(cost.values()):
            mib = cost["fetched_bytes"] / (1 << 20)
            seconds = [f"{cost[key]:.0f} s" for key in _COSTS[1:]]
            yield _row([label, f"{mib:.0f} MiB", *seconds])


_COSTS = ("fetched_bytes", "fetch_s", "build_s", "run_s", "total_s")
