"""Ask DuckDB and ClickHouse the questions of docs/fleet/questions.sql over the same files."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from scripts.questions.dataset import Row

__all__ = ["ask_clickhouse", "ask_duckdb", "is_answer", "questions"]

_FLEET: Final = Path(__file__).parents[2] / "docs" / "fleet"
_FIRST_ROWS: Final = {4}  # of the busiest only the first is known


def questions() -> dict[int, tuple[str, str]]:
    """The questions by number: in words, and in SQL."""
    text = (_FLEET / "questions.sql").read_text()
    found = re.findall(r"^-- (\d+)\. ([^\n]+(?:\n-- [^\n]+)*)\n(.*?;)$", text, re.MULTILINE | re.DOTALL)
    return {int(number): (" ".join(words.split("\n-- ")), sql) for number, words, sql in found}


def ask_duckdb(directory: Path) -> dict[int, Sequence[Row]]:
    """The answers of DuckDB. Raises duckdb.Error."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute((_FLEET / "duckdb.sql").read_text().replace("'events*", f"'{directory}/events*"))
        return {number: connection.execute(sql).fetchall() for number, (_, sql) in questions().items()}


def ask_clickhouse(directory: Path) -> dict[int, Sequence[Row]]:
    """The answers of ClickHouse, in this process. Raises RuntimeError."""
    from chdb import session

    connection = session.Session()
    try:
        load = (_FLEET / "clickhouse.sql").read_text().replace("'events*", f"'{directory}/events*")
        for statement in _statements(load):
            connection.query(statement)
        answers: dict[int, Sequence[Row]] = {}
        for number, (_, sql) in questions().items():
            text = str(connection.query(sql.rstrip(";\n") + " FORMAT JSONCompactEachRow"))
            answers[number] = [tuple(json.loads(line)) for line in text.splitlines()]
        return answers
    finally:
        connection.close()


def _statements(text: str) -> list[str]:
    bare = re.sub(r"^--.*\n", "", text, flags=re.MULTILINE)
    return [statement.strip() for statement in bare.split(";\n") if statement.strip()]


def is_answer(number: int, given: Sequence[Row], known: Sequence[Row]) -> bool:
    """Whether these are the rows of an answer; some databases write whole numbers as text."""
    rows = given[: len(known)] if number in _FIRST_ROWS else given
    return len(rows) == len(known) and all(
        len(one) == len(other) and all(map(_same, one, other)) for one, other in zip(rows, known, strict=True)
    )


def _same(given: Any, known: Any) -> bool:
    if isinstance(known, float):
        return math.isclose(float(given), known, abs_tol=0.01)
    if isinstance(known, int):
        return str(given) == str(known)
    return bool(given == known)
