"""A backend that is begun ahead: entered once, in another thread, and its failure told where it is entered."""

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import pytest

from tracer.cli import ahead
from tracer.cli.ahead import Ahead
from tracer.cli.asked import Options
from tracer.cli.short_turns import short_turns
from tracer.pipeline.view import Filters
from tracer.probes.source import KernelFilters, Source
from tracer.probes.unusable import UnusableError


class Fake:
    """A backend that notes what is done with it; with ``failure`` it can't be entered."""

    def __init__(self, failure: Exception | None = None) -> None:
        """Nothing is done yet."""
        self.failure = failure
        self.entered: list[threading.Thread] = []
        self.left = 0

    def __enter__(self) -> Self:
        """Note by whom."""
        self.entered.append(threading.current_thread())
        if self.failure is not None:
            raise self.failure
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Count."""
        self.left += 1


def test_entered_once_and_left_once() -> None:
    """The thread enters it; here it is waited for, and left as any other."""
    fake = Fake()
    with Ahead(cast("Source", fake)) as source:
        assert cast("Any", source) is fake
    assert fake.left == 1
    (thread,) = fake.entered
    assert thread is not threading.current_thread()


def test_turns_are_short_for_a_while() -> None:
    """Threads take turns as before once the backend is entered, wherever that is waited for."""
    usual = sys.getswitchinterval()
    begun = Ahead(cast("Source", Fake()))
    assert sys.getswitchinterval() < usual
    with short_turns(), begun:
        assert sys.getswitchinterval() == usual
    assert sys.getswitchinterval() == usual
    with short_turns():
        assert sys.getswitchinterval() < usual
    assert sys.getswitchinterval() == usual


def test_a_failure_is_told_here() -> None:
    """What the backend raises in its thread comes out where it is entered, and nothing is left that was not entered."""
    fake = Fake(UnusableError("no BTF", 4))
    begun = Ahead(cast("Source", fake))
    with pytest.raises(UnusableError, match="no BTF"), begun:
        pass
    assert fake.left == 0


@pytest.mark.parametrize(
    ("backend", "output", "stats", "begins"),
    [
        ("auto", None, None, True),
        ("core", Path("-"), None, True),
        ("bcc", None, None, False),
        ("procfs", None, None, False),
        ("auto", Path("events.jsonl"), None, True),
        ("auto", None, Path("tracer.prom"), False),
    ],
)
def test_what_is_begun(
    backend: str, output: Path | None, stats: Path | None, begins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the probes are, with the filters, the buffer and the pids of the session, and never before a fork."""
    made: list[tuple[object, ...]] = []

    def make(name: str, filters: KernelFilters, buffer: int, hooks: str, worker: None, also: tuple[int, ...]) -> Fake:
        made.append((name, filters.ports, buffer, hooks, worker, also))
        return Fake()

    monkeypatch.setattr(ahead, "make", make)
    filters = Filters(ports=frozenset({443}))
    asked = Options(filters, backend, "tracepoints", output=output, buffer=65536, stats=stats, payload=False)
    begun = ahead.begin(asked, (4242,))
    assert (begun is not None) == begins
    if begun is not None:
        with begun:
            pass
    assert made == [("core", frozenset({443}), 65536, "tracepoints", None, (4242,))] * begins
