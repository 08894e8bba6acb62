"""How --backend auto comes to a backend: what is tried, what is said on the way, and with which code it ends."""

import signal
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from tracer.cli import live
from tracer.cli.errors import CommandError, Exit
from tracer.cli.live import Live, Options
from tracer.fallback.files import DirectFiles
from tracer.probes.source import Coverage, Source
from tracer.probes.unusable import UnusableError

NO_BTF = UnusableError("this kernel has no BTF; run another", 4)
NO_HEADERS = UnusableError("the headers are missing; install them", 4)
NO_PRIVILEGE = UnusableError("eBPF needs privilege; use sudo", 3)
NO_PROC = UnusableError("no /proc; mount it", 4)
NO_RING = UnusableError("no ring of that size", 1)


class Fake:
    """A backend that fails as told, when it is loaded or attached."""

    def __init__(self, name: str, load: Exception | None, attach: Exception | None) -> None:
        self.name = name
        self.load = load
        self.attach = attach
        self.closed = False

    def __enter__(self) -> Self:
        if self.load is not None:
            raise self.load
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True

    def start(self) -> Coverage:
        """As a backend's."""
        if self.attach is not None:
            raise self.attach
        return Coverage(self.name, {}, {}, [], [], 1, {})


class Ladder:
    """A machine on which backends fail as told; ``tried`` are those that were made, ``sessions`` what came of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **failures: Exception | tuple[None, Exception] | None) -> None:
        self.tried: list[Fake] = []
        self.sessions: list[tuple[str, dict[str, str]]] = []

        def make(_: Live, name: str) -> Fake:
            failure = failures.get(name)
            load, attach = failure if isinstance(failure, tuple) else (failure, None)
            self.tried.append(Fake(name, load, attach))
            return self.tried[-1]

        def session(_: Live, backend: Fake, coverage: Coverage, steps: dict[str, str]) -> Exit:
            assert coverage.backend == backend.name
            self.sessions.append((backend.name, steps))
            return Exit.OK

        monkeypatch.setattr(Live, "_backend", make)
        monkeypatch.setattr(Live, "_session", session)
        # What the broker's fork comes to: a worker that goes on with what is left of the ladder.
        monkeypatch.setattr(Live, "_split", lambda _, rest: SimpleNamespace(ladder=rest))

    def run(self, backend: str) -> int:
        """Trace with this choice."""
        return Live(Options(backend=backend)).run()

    @property
    def names(self) -> list[str]:
        """What was tried, in order."""
        return [each.name for each in self.tried]


@pytest.fixture(name="signals", autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process of the tests keeps its own."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def test_best_first(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where core runs nothing else is tried and nothing is said."""
    ladder = Ladder(monkeypatch)
    assert ladder.run("auto") == Exit.OK
    assert ladder.names == ["core"]
    assert ladder.sessions == [("core", {})]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("failure", [NO_BTF, (None, NO_BTF)], ids=["load", "attach"])
def test_step_down(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], failure: Exception | tuple[None, Exception]
) -> None:
    """Where core can't run bcc does: one line with the reason and the fix, and the same for the coverage record."""
    ladder = Ladder(monkeypatch, core=failure)
    assert ladder.run("auto") == Exit.OK
    assert ladder.names == ["core", "bcc"]
    assert ladder.sessions == [("bcc", {"core": str(NO_BTF)})]
    assert capsys.readouterr().err == f"tracer: not with core: {NO_BTF}\n"


def test_nothing_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where none runs it ends with 4 and the reason of the last; those of the others were said."""
    *others, last = live.BACKENDS[1:]
    ladder = Ladder(monkeypatch, **dict.fromkeys(others, NO_BTF), **{last: NO_PROC})
    with pytest.raises(CommandError, match="no /proc") as error:
        ladder.run("auto")
    assert error.value.code == Exit.UNSUPPORTED
    assert ladder.names == [*others, last]
    assert capsys.readouterr().err == "".join(f"tracer: not with {name}: {NO_BTF}\n" for name in others)
    assert ladder.sessions == []


def test_last_resort(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing else runs /proc is looked at, with a line, and a field of the coverage record, for each step."""
    others = live.BACKENDS[1:-1]
    ladder = Ladder(monkeypatch, **dict.fromkeys(others, NO_BTF))
    assert ladder.run("auto") == Exit.OK
    assert ladder.sessions == [("procfs", dict.fromkeys(others, str(NO_BTF)))]
    assert capsys.readouterr().err.count("\n") == len(others)


def test_without_any_privilege(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who may use nothing that takes privilege gets /proc, still with one line; the record has all the reasons."""
    others = live.BACKENDS[1:-1]
    ladder = Ladder(monkeypatch, **dict.fromkeys(others, NO_PRIVILEGE))
    assert ladder.run("auto") == Exit.OK
    assert ladder.sessions == [("procfs", dict.fromkeys(others, str(NO_PRIVILEGE)))]
    assert capsys.readouterr().err == f"tracer: not with core: {NO_PRIVILEGE}\n"


def test_without_privilege(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Who may not use eBPF gets what comes next, with one line: bcc needs what core needs, and is not tried."""
    ladder = Ladder(monkeypatch, core=NO_PRIVILEGE)
    assert ladder.run("auto") == Exit.OK
    assert ladder.names == ["core", live.BACKENDS[3]]
    assert ladder.sessions == [(live.BACKENDS[3], {"core": str(NO_PRIVILEGE), "bcc": str(NO_PRIVILEGE)})]
    assert capsys.readouterr().err == f"tracer: not with core: {NO_PRIVILEGE}\n"


def test_no_step_down_from_a_limit(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What who calls can change, such as the size of the rings, ends it at once, with one line."""
    ladder = Ladder(monkeypatch, core=NO_RING)
    with pytest.raises(CommandError, match=str(NO_RING)) as error:
        ladder.run("auto")
    assert error.value.code == Exit.FAILURE
    assert ladder.names == ["core"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("name", "failure"), [("core", NO_PRIVILEGE), ("bcc", NO_HEADERS), ("procfs", NO_PROC)])
def test_what_was_asked_for_alone(monkeypatch: pytest.MonkeyPatch, name: str, failure: UnusableError) -> None:
    """A backend that was named is the only one tried."""
    ladder = Ladder(monkeypatch, **{name: failure})
    with pytest.raises(CommandError, match=str(failure)) as error:
        ladder.run(name)
    assert error.value.code == failure.code
    assert ladder.names == [name]
    ladder = Ladder(monkeypatch)
    assert ladder.run(name) == Exit.OK
    assert ladder.names == [name]


def test_backend_that_failed_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What core had loaded is gone before bcc is tried."""
    ladder = Ladder(monkeypatch, core=(None, NO_BTF))
    ladder.run("auto")
    assert ladder.tried[0].closed


def test_interrupted_while_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches the compiler too: that it then failed is no failure of the tracer's."""
    command = Live(Options(backend="bcc"))

    def make(*_: Any) -> Fake:
        command._stop()
        return Fake("bcc", UnusableError("BCC ended by signal 2", 4), None)

    monkeypatch.setattr(Live, "_backend", make)
    assert command.run() == Exit.OK


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name that can be asked for makes that backend."""
    for name in live.BACKENDS[1:]:
        command = Live(Options())
        monkeypatch.setattr(command, "_worker", SimpleNamespace(files=DirectFiles(), broker=1))
        assert cast("Source", command._backend(name)).name == name
