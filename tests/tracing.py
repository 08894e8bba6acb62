"""Run `tracer live` for a test, and find things in the stream that it wrote.

with Trace("--event", "connect") as trace:
    ...
event = trace.one("connection-opened", pid, destination__port=443)
trace.assert_complete()

Variables of the environment say how tests are run:

TRACER_TEST_BACKEND     the backend of every trace (`--backend`); by itself what the command chooses
TRACER_TEST_PATIENCE    a factor on every limit of waiting, of tests and programs; 10 for an emulated machine
TRACER_TEST_DISRUPTIVE  1: run the tests that disturb the machine too: they step its clock, take a CPU offline
TRACER_TEST_SLEEP       1: with the one before, also put the machine to sleep; not every one wakes from that
TRACER_TEST_FEW         1: a tenth of what tests have very much of, which takes an emulated machine minutes
TRACER_TEST_EXPORT      trace by `tracer export` in place of `tracer live`, each into a directory of its own below this
                        one, which stays; only in a checkout
TRACER_TEST_FORMAT      with the one before: ecs, or ocsf, of which tests are given what it says in the terms of ECS
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

Event = dict[str, Any]

READY = "tracer: ready"
PATIENCE = float(os.environ.get("TRACER_TEST_PATIENCE") or 1)
READY_WITHIN_S = 20 * PATIENCE
END_WITHIN_S = 40 * PATIENCE
TEST_WITHIN_S = 120 * PATIENCE
BACKEND = os.environ.get("TRACER_TEST_BACKEND", "")
DISRUPTIVE = os.environ.get("TRACER_TEST_DISRUPTIVE") == "1"
SLEEP = os.environ.get("TRACER_TEST_SLEEP") == "1"
FEW = os.environ.get("TRACER_TEST_FEW") == "1"
EXPORT = os.environ.get("TRACER_TEST_EXPORT", "")
# How the reason of a skip begins that says what is missing; any other skip is a failure of a self-test.
NO_FACILITY = "this kernel has no "
NOT_ASKED = "disturbs the machine: only with "
# A line has to fit the buffer of a log shipper: Fluent Bit's is 32 KiB, and it stops following a file on a longer one.
LINE_BYTES = 32_000
ABSENT = object()
TERMS = ("delivered", "aggregated", "filtered", "lost", "in_flight")


def value(event: Event, path: str) -> Any:
    """The field at a dotted path, ABSENT where there is none."""
    here: Any = event
    for name in path.split("."):
        if not isinstance(here, dict) or name not in here:
            return ABSENT
        here = here[name]
    return here


def _wanted(action: str | None, pid: int | None, fields: dict[str, Any]) -> dict[str, Any]:
    wanted = {name.replace("__", "."): expected for name, expected in fields.items()}
    if action is not None:
        wanted["event.action"] = action
    if pid is not None:
        wanted["process.pid"] = pid
    return wanted


def find(events: Iterable[Event], action: str | None = None, pid: int | None = None, **fields: Any) -> list[Event]:
    """The events of an action, of a process, and whose fields are as given: `source__port=80` is source.port."""
    # A test looks through thousands of events for each of hundreds of lines: what tells most comes first.
    found = list(events)
    if pid is not None:
        found = [event for event in found if "process" in event and event["process"].get("pid") == pid]
    if action is not None:
        found = [event for event in found if event["event"]["action"] == action]
    wanted = _wanted(None, None, fields)
    return [event for event in found if all(value(event, path) == expected for path, expected in wanted.items())]


def one(events: Sequence[Event], action: str | None = None, pid: int | None = None, **fields: Any) -> Event:
    """The only such event. None, or more than one, is a failure that shows what came nearest."""
    found = find(events, action, pid, **fields)
    if len(found) == 1:
        return found[0]
    wanted = _wanted(action, pid, fields)
    if found:
        shown = found
    else:
        score = [sum(value(event, path) == expected for path, expected in wanted.items()) for event in events]
        best = max(score, default=0)
        shown = [event for event, points in zip(events, score, strict=True) if points == best and best]
    lines = "\n".join(shorten(event) for event in shown[:5])
    pytest.fail(f"{len(found)} events instead of one with {wanted}; of {len(shown)} that are or come nearest:\n{lines}")


def actions(events: Iterable[Event], pid: int) -> Counter[str]:
    """How often each action comes among the events of a process, the snapshot's apart."""
    return Counter(
        event["event"]["action"] for event in find(events, pid=pid) if value(event, "tracer.snapshot") is not True
    )


def shorten(event: Event) -> str:
    """An event as one line for people who read a failure: without what is the same everywhere, and not too long."""
    kept = {name: field for name, field in event.items() if name not in {"host", "agent", "ecs"}}
    text = json.dumps(kept)
    return text if len(text) < 1500 else text[:1500] + "…"


def assert_complete(ledger: dict[str, Any]) -> None:
    """The ledger is the final one, nothing was lost or missed, and attempts are the sum of the other terms."""
    assert ledger["final"] is True, ledger
    assert ledger["balanced"] is True, ledger
    # Short: what a report of many failures shows of one is its first line.
    assert ledger["complete"] is True, f"missed: {ledger['missed']}, {ledger.get('bytes')}, total: {ledger['total']}"
    assert ledger["total"]["lost"] == 0, ledger
    assert ledger["by_kind"]
    for kind, terms in ledger["by_kind"].items():
        assert terms["attempts"] == sum(terms[term] for term in TERMS), (kind, terms)
        assert terms["in_flight"] == 0, (kind, terms)
    for term in ("attempts", *TERMS):
        assert ledger["total"][term] == sum(terms[term] for terms in ledger["by_kind"].values()), (term, ledger)


class Trace:
    """A `tracer live` around a block: it watches when the block begins, and has ended when the block is left.

    `code` is the exit code it must end with; `prefix` is a command to run it under, which must start it as its only
    child; `form` is the output, "ecs" or "pretty". Afterwards there are `lines` (bytes, without the
    line end), and for ECS `events` (all lines, in order) and `ledger` (the body of the last). Where there are too many
    for that, `keep` says what is kept of each event, None for nothing; `lines` is then empty.
    """

    def __init__(
        self,
        *args: str,
        code: int = 0,
        prefix: Sequence[str] = (),
        form: str = "ecs",
        keep: Callable[[Event], Event | None] | None = None,
    ) -> None:
        self.args = args
        self.code = code
        self.prefix = prefix
        self.form = form
        self.keep = keep
        self.lines: list[bytes] = []
        self.events: list[Event] = []
        self.ledger: dict[str, Any] = {}
        self.stderr = ""
        self.returncode: int | None = None

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="tracing-")
        place = Path(self._directory.name)
        self.output = place / "events"
        self._errors = place / "errors"
        backend = ["--backend", BACKEND] if BACKEND else []
        command = [*self.prefix, sys.executable, "-m", "tracer", *self.command(), *backend, *self.args]
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        try:
            self._wait_ready()
        except BaseException:
            self._kill()
            self._directory.cleanup()
            raise
        return self

    def command(self) -> list[str]:
        """The command of the tracer, which writes to ``output``, without backend and ``args``."""
        form = ["--json"] if self.form == "ecs" else ["--format", self.form]
        return ["live", *form, "--output", str(self.output)]

    def written(self) -> Iterator[bytes]:
        """Each line that was written, with its line end."""
        with self.output.open("rb") as lines:
            yield from lines

    def read(self, line: bytes) -> Event:
        """What a line says, in the terms of ECS."""
        event: Event = json.loads(line)
        return event

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            text = self._errors.read_text(errors="backslashreplace")
            if any(line.startswith(READY) for line in text.splitlines()):
                self.pid = self._find_pid()
                return
            if self.process.poll() is not None:
                pytest.fail(f"the tracer ended with code {self.process.returncode} before it was ready:\n{text}")
            time.sleep(0.02)
        pytest.fail(f"no '{READY}' within {READY_WITHIN_S} s:\n{self._errors.read_text(errors='backslashreplace')}")

    def _find_pid(self) -> int:
        """The tracer's own pid, here: with a prefix it is the child."""
        if not self.prefix:
            return self.process.pid
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert len(children) == 1, children
        return int(children[0])

    def _kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._end(failing=error is not None)
        finally:
            self._kill()
            self._directory.cleanup()

    def _end(self, *, failing: bool) -> None:
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGTERM)
        try:
            self.returncode = self.process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.stderr = self._errors.read_text(errors="backslashreplace")
            if failing:
                return
            pytest.fail(f"the tracer did not end within {END_WITHIN_S} s of SIGTERM:\n{self.stderr}")
        self.stderr = self._errors.read_text(errors="backslashreplace")
        if failing:
            return  # the failure in the block says more than what came of the output
        assert self.returncode == self.code, f"exit code {self.returncode}, expected {self.code}:\n{self.stderr}"
        if self.keep is not None:
            self._read_few(self.keep)
            return
        written = list(self.written())
        assert all(line.endswith(b"\n") for line in written), written[-1][-200:]
        self.lines = [line[:-1] for line in written]
        if self.form != "ecs":
            return
        self.events = [self.read(line) for line in self.lines]
        self._end_with(self.events[-1])

    def _read_few(self, keep: Callable[[Event], Event | None]) -> None:
        last: Event = {}
        for line in self.written():
            last = self.read(line)
            kept = keep(last)
            if kept is not None:
                self.events.append(kept)
        self._end_with(last)

    def _end_with(self, last: Event) -> None:
        assert last["event"]["action"] == "tracer-ledger", shorten(last)
        self.ledger = last["tracer"]["ledger"]
        assert self.ledger["final"] is True, self.ledger

    def find(self, action: str | None = None, pid: int | None = None, **fields: Any) -> list[Event]:
        """See find."""
        return find(self.events, action, pid, **fields)

    def one(self, action: str | None = None, pid: int | None = None, **fields: Any) -> Event:
        """See one."""
        return one(self.events, action, pid, **fields)

    def assert_complete(self) -> None:
        """See assert_complete."""
        assert_complete(self.ledger)


def disrupt(*, sleep: bool = False) -> None:
    """Skip the test unless the machine may be disturbed, or put to sleep."""
    if not DISRUPTIVE:
        pytest.skip(f"{NOT_ASKED}--disruptive")
    if sleep and not SLEEP:
        pytest.skip(f"{NOT_ASKED}TRACER_TEST_SLEEP=1, as not every machine wakes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Give every test as much more time as the machine needs."""
    if PATIENCE != 1 and config.pluginmanager.hasplugin("timeout"):
        for item in items:
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_WITHIN_S))


@pytest.fixture(name="trace", scope="session")
def _trace() -> Callable[..., Trace]:
    """Makes a Trace: `with trace("--event", "exec") as seen: …`."""
    if not EXPORT:
        return Trace
    from tests.exporting import Exported  # what the tests of formats need is no part of the corpus in a wheel

    return lambda *args, form="ecs", **options: (Exported if form == "ecs" else Trace)(*args, form=form, **options)
