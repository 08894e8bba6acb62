"""docs/kernels.md is what the results beside it say, and those are of the matrix and of the present corpus."""

import json
from pathlib import Path

import pytest

from scripts.kernel_matrix.config import load
from scripts.kernel_matrix.docs import DATA, PAGE, column_names, page
from scripts.kernel_matrix.matrix import corpus_of
from scripts.kernel_matrix.results import COMING, FAIL, OK, Column, Results, from_json
from tracer.cli.corpus import TITLES

ROOT = Path(__file__).parents[3]
AGAIN = "make matrix ARGS=--write-docs"


@pytest.fixture(name="results", scope="module")
def _results() -> Results:
    """The results that are kept."""
    return from_json(json.loads((ROOT / DATA).read_text()))


def test_page(results: Results) -> None:
    """The page was written from these results, and not by hand."""
    assert (ROOT / PAGE).read_text() == page(results), AGAIN


def test_columns(results: Results) -> None:
    """Every kernel and backend of matrix.toml is there, and this machine; each came without a problem."""
    columns = {column.name: column for column in results.columns}
    assert [*columns] == column_names(load(ROOT / "vagrant/matrix.toml")), AGAIN
    for name, column in columns.items():
        assert (column.problems, column.lost, column.attribution, column.sandbox) == ([], "", OK, OK), name


def test_failures_are_told(results: Results) -> None:
    """A trap that failed is among the problems of its column, which the page spells out."""
    for column in results.columns:
        failed = [trap for trap, row in column.rows.items() if row.result == FAIL]
        assert all(any(problem.startswith(f"trap {trap}:") for problem in column.problems) for trap in failed)
        assert bool(column.problems) == bool(failed or FAIL in (column.attribution, column.sandbox) or column.lost)


def test_rows_that_cannot_be() -> None:
    """What a kernel does not have, and what nobody can count there, are tables of their own with the reasons."""
    columns = [
        Column("5.10", "core", not_here={"mptcp": "socket: EPROTONOSUPPORT"}, not_seen={"vsock": "bytes of vsock"}),
        Column("6.1", "core", not_seen={"vsock": "bytes of vsock"}),
    ]
    lines = page(Results({}, columns)).splitlines()
    assert "| `mptcp` | 5.10 core | `socket: EPROTONOSUPPORT` |" in lines
    assert "| `vsock` | 5.10 core, 6.1 core | bytes of vsock |" in lines
    assert not any("vsock" in line for line in page(Results({}, [])).splitlines())


def test_corpus(results: Results) -> None:
    """Each column has every trap that there is a test for, under its present title.

    One that came after the column was last run is marked so, and there is a column that has run them all.
    """
    assert results.titles == TITLES, AGAIN
    corpus = set(corpus_of(ROOT))
    ran = {
        column.name: {trap for trap, row in column.rows.items() if row.result != COMING} for column in results.columns
    }
    for column in results.columns:
        assert corpus <= column.rows.keys(), f"{column.name}: {AGAIN}"
        assert ran[column.name] <= corpus, f"{column.name}: {AGAIN}"
    assert any(traps == corpus for traps in ran.values()), AGAIN
