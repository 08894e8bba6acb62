"""The table, the progress and the page show what the results say."""

import io
import json
from pathlib import Path

from scripts.kernel_matrix.config import load
from scripts.kernel_matrix.docs import DATA, PAGE, merge, page, write
from scripts.kernel_matrix.guests import Job, Outcome
from scripts.kernel_matrix.progress import Progress
from scripts.kernel_matrix.results import Column, Results, from_json
from scripts.kernel_matrix.table import CELLS, cost, table
from tests.scripts.kernel_matrix.columns import NO_CLOCK, REASON, TITLES, ending, judged, trap

ROOT = Path(__file__).parents[3]
FIRST = {"first_fetched_bytes": 400.0 * (1 << 20), "first_fetch_s": 40.0, "first_total_s": 900.0, "first_build_s": 50.0}
COST = {
    "fetched_bytes": 0.0,
    "fetch_s": 0.0,
    "build_s": 3.0,
    "run_s": 600.0,
    "total_s": 603.0,
    **FIRST,
    "first_run_s": 610.0,
}


def columns() -> list[Column]:
    """One that is as it must be, one that failed, one that was lost."""
    good = judged(
        [
            trap(1),
            trap(4),
            trap(34, "missing", reasons=[REASON]),
            {"trap": 40, "title": "t", "result": "coming"},
            *ending(),
        ],
        (1, 4, 34),
        [NO_CLOCK],
    )
    message = "\n".join([*(f"line {number}" for number in range(39)), "E   it broke", "line 39"])
    failures = [{"case": "test_x", "message": message}]
    bad = judged([trap(1, "fail", failures=failures), trap(4), trap(34), *ending()], (1, 4, 34))
    bad.kernel, bad.backend, bad.stale = "5.10", "bcc", "the mirror has moved"
    lost = judged([trap(1)], (1, 4, 34), lost="it gave no sign of life for 120 s")
    lost.kernel, lost.boots = "6.12-arm64", 3
    return [good, bad, lost]


def test_table() -> None:
    """A line a trap with a cell for each column; what is to come is one line."""
    lines = list(table(Results(TITLES, columns(), COST)))
    assert lines[0].split() == ["6.1", "5.10", "6.12-arm64"]
    assert lines[1].split() == ["core", "bcc", "core"]
    cells = {line.split()[0]: line.split()[-3:] for line in lines[2:6]}
    assert cells == {
        "1": ["ok", "FAIL", "ok"],
        "4": ["ok", "ok", "lost"],
        "34": ["none", "ok", "lost"],
        "attribution": ["ok", "ok", "lost"],
    }
    assert "still to come: 40" in lines
    assert "5.10/bcc: trap 1: test_x: line 0: it broke" in lines[-4:]
    assert lines[-1] == "3 columns, 2 with problems"


def test_problems_are_spelt_out() -> None:
    """Under the table: version and times of each, what is missing and why, each problem with the end of its text."""
    text = "\n".join(table(Results(TITLES, columns(), COST)))
    assert "6.1/core: 6.1.0-50 (6.1.176-1), ready after 9 s, 400 s in all" in text
    assert "ready after 9 s at boot 3" in text
    assert "from the cache\n    the mirror has no newer one: the mirror has moved" in text
    assert f"none: trap 34 on 6.1/core: {REASON}" in text
    assert "5.10/bcc: trap 1: test_x: line 0" in text
    assert "line 39" in text
    assert "line 20" not in text
    assert "6.12-arm64/core: the guest was lost after trap 1: it gave no sign of life for 120 s" in text


def test_width() -> None:
    """No line of the grid is wider than 100 cells, with as many columns as the matrix has and long titles."""
    many = [judged([trap(1), trap(4), *ending()]) for _ in range(9)]
    for column, name in zip(
        many, ("5.10", "6.1", "6.1-nobtf", "6.12", "7.2", "6.12-arm64", "a", "b", "host"), strict=True
    ):
        column.kernel = name
    results = Results({1: "a very long title of a trap " * 4, 4: "x"}, many)
    lines = list(table(results))
    assert max(map(len, lines[:5])) <= CELLS
    assert lines[2].startswith(" 1  a very long")
    assert "…" in lines[2]


def test_good_table() -> None:
    """When all is well, the last line says so."""
    assert list(table(Results(TITLES, columns()[:1])))[-1] == "1 columns, all as expected"


def test_cost() -> None:
    """Bytes and rate are told when something was fetched, the guests' time always."""
    assert list(cost(Results(TITLES, columns(), COST))) == [
        "built images in 3 s",
        "ran 3 guests in 600 s; 603 s in all",
    ]
    fetched = {**COST, "fetched_bytes": 200.0 * (1 << 20), "fetch_s": 20.0, "cached_s": 2.0}
    assert list(cost(Results(TITLES, columns(), fetched)))[:3] == [
        "fetched 200 MiB in 20 s (10.0 MiB/s)",
        "built images in 3 s",
        "from now on that takes 2 s: all of it is in the cache",
    ]


def test_page() -> None:
    """The page has the cells of every column, the reasons, the versions and both costs."""
    text = page(Results(TITLES, columns(), COST))
    assert "| # | trap | 6.1 core | 5.10 bcc | 6.12-arm64 core |" in text
    assert "| 34 | clocks | none | ok | lost |" in text
    assert "| 40 | still to come | … |  |  |" in text
    assert f"| 34 | 6.1 core | {REASON} |" in text
    assert "| 6.1 | 6.1.0-50 (6.1.176-1) | core | 9 s | 391 s | none |" in text
    assert "| first time, nothing in the cache | 400 MiB | 40 s | 50 s | 610 s | 900 s |" in text
    assert "| with everything in the cache | 0 MiB | 0 s | 3 s | 600 s | 603 s |" in text


def test_page_of_a_first_run() -> None:
    """After a run with an empty cache alone the other row is the same guests with what the second preparing took."""
    text = page(Results(TITLES, columns(), {**FIRST, "first_run_s": 610.0, "first_cached_s": 4.0}))
    assert "| first time, nothing in the cache | 400 MiB | 40 s | 50 s | 610 s | 900 s |" in text
    assert "| with everything in the cache | 0 MiB | 0 s | 4 s | 610 s | 614 s |" in text


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Always."""
        return True


JOB = Job("6.1/core", 0, lambda _: [])


def test_progress_lines() -> None:
    """Off a terminal each trap is a line as it is done, without control characters."""
    stream = io.StringIO()
    progress = Progress(31, stream)
    progress.tell(JOB, {"guest": "ready", "kernel": "6.1.0"})
    progress.tell(JOB, {"trap": 6, "result": "coming", "title": "t"})
    progress.tell(JOB, trap(4))
    progress.over(Outcome("6.1/core", lost="it died", seconds=12), again=True)
    lines = stream.getvalue().splitlines()
    assert [line.strip().partition(" ")[2] for line in lines] == [
        "6.1/core: Linux 6.1.0 is ready",
        "6.1/core: 1/31 trap 4 pass, 2 s",
        "6.1/core: lost: it died after 12 s; it is booted again",
    ]
    assert "\x1b" not in stream.getvalue()


def test_progress_terminal() -> None:
    """On a terminal there is one line a guest, which is rewritten, and goes when the guest has ended."""
    stream = Terminal()
    progress = Progress(0, stream)
    progress.tell(JOB, trap(1))
    progress.tell(JOB, trap(4))
    assert stream.getvalue().count("\x1b[1A\x1b[J") == 1
    progress.over(Outcome("6.1/core", seconds=12), again=False)
    last = stream.getvalue().rpartition("\x1b[J")[2]
    assert "6.1/core: done after 12 s" in last
    assert "trap" not in last


def test_merge() -> None:
    """Columns that ran take the place of older ones, in the order of the list; what is not listed goes."""
    old = [judged([trap(1), trap(4), *ending()]) for _ in range(3)]
    for column, name in zip(old, ("5.10", "6.1", "gone"), strict=True):
        column.kernel = name
    new = judged([trap(1, "fail"), trap(4), *ending()])
    names = ["6.12/core", "6.1/core", "5.10/core"]
    kept = merge(Results(TITLES, old, {"run_s": 5.0}), Results(TITLES, [new], COST), names)
    assert [column.name for column in kept.columns] == ["6.1/core", "5.10/core"]
    assert kept.columns[0].problems
    assert kept.cost == {"run_s": 5.0}


def test_what_a_run_left_out_is_kept() -> None:
    """A column of some traps has the others' rows of the run before, and its own in place of older ones."""
    old, new = judged([trap(1), trap(4), *ending()]), judged([trap(1, "fail"), *ending()], (1,))
    kept = merge(Results(TITLES, [old], COST), Results(TITLES, [new], COST), ["6.1/core"]).columns[0]
    assert kept.rows == {1: new.rows[1], 4: old.rows[4]}
    assert kept.rows[1] != old.rows[1]


def test_merge_cost() -> None:
    """A run of all columns gives the cost; one with an empty cache gives the first, and leaves the other as it is."""
    column = judged([trap(1), trap(4), *ending()])
    cached = {"fetched_bytes": 0.0, "run_s": 7.0}
    first = {"fetched_bytes": 400.0 * (1 << 20), "run_s": 9.0}
    kept = merge(None, Results(TITLES, [column], cached), ["6.1/core"])
    assert kept.cost == cached
    kept = merge(kept, Results(TITLES, [column], first), ["6.1/core"])
    assert kept.cost == {**cached, "first_fetched_bytes": 400.0 * (1 << 20), "first_run_s": 9.0}


def test_write(tmp_path: Path) -> None:
    """The page that is written is the one of the results beside it."""
    (tmp_path / "docs").mkdir()
    matrix = load(ROOT / "vagrant/matrix.toml")
    for _ in range(2):
        write(tmp_path, Results(TITLES, [judged([trap(1), trap(4), *ending()])], COST), matrix)
    results = from_json(json.loads((tmp_path / DATA).read_text()))
    assert [column.name for column in results.columns] == ["6.1/core"]
    assert (tmp_path / PAGE).read_text() == page(results)
