"""The ten questions of docs/fleet, asked of a database over files whose answers are known."""

from collections.abc import Sequence

import pytest

from scripts.questions.ask import ask_duckdb, is_answer, questions
from scripts.questions.dataset import Row, write

NUMBERS = range(1, 11)
Answers = dict[int, Sequence[Row]]


@pytest.fixture(name="asked", scope="module")
def _asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answers, Answers]:
    """What DuckDB says, and what is known."""
    directory = tmp_path_factory.mktemp("questions")
    known = write(directory)
    return ask_duckdb(directory), known


def test_there_are_ten() -> None:
    """Each has a number and words, and begins with them."""
    assert list(questions()) == list(NUMBERS)
    assert all(words.endswith("?") for words, _ in questions().values())


@pytest.mark.parametrize("number", NUMBERS)
def test_answer(asked: tuple[Answers, Answers], number: int) -> None:
    """DuckDB gives the rows that are known, and no others; ClickHouse is asked by make check-questions."""
    given, known = asked
    assert is_answer(number, given[number], known[number]), (given[number][:5], known[number])


def test_another_answer_is_none(asked: tuple[Answers, Answers]) -> None:
    """A row more, a row less and another number are seen."""
    _, known = asked
    rows = known[5]
    assert is_answer(5, rows, rows)
    assert not is_answer(5, rows[:-1], rows)
    assert not is_answer(5, [*rows, rows[0]], rows)
    assert not is_answer(5, [*rows[:-1], (*rows[-1][:-1], 3)], rows)
