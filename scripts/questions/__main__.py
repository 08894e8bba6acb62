"""Ask both databases the ten questions over files that are made for it, and compare with the answers that are known.

Exit code 1 if one of them is not given.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from scripts.questions.ask import ask_clickhouse, ask_duckdb, is_answer, questions
from scripts.questions.dataset import Row, write


def main() -> int:
    """Print a line for each question and database."""
    databases: Mapping[str, Callable[[Path], dict[int, Sequence[Row]]]] = {
        "DuckDB": ask_duckdb,
        "ClickHouse": ask_clickhouse,
    }
    failed = 0
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        known = write(directory)
        for name, ask in databases.items():
            answers = ask(directory)
            for number, (words, _) in questions().items():
                right = is_answer(number, answers[number], known[number])
                failed += not right
                print(
                    f"{name:10} {number:2} {'as known' if right else 'WRONG':8} {len(answers[number])} row(s): {words}"
                )
                if not right:
                    print(f"    given {answers[number][:5]}\n    known {known[number]}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
