"""A file in a directory is called by its first line, also where the opener takes its time, refuses, or is lost."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.formats.events import SESSION
from tracer.cli.keeping import Keeping, Limits
from tracer.cli.mode import Mode
from tracer.cli.stream import Stream
from tracer.fallback.opener import Opened, OpenerLostError
from tracer.fallback.protocol import Asks
from tracer.formats.ecs import Ecs
from tracer.integrity.chain import Chain
from tracer.pipeline.engine import Engine
from tracer.pipeline.view import Filters
from tracer.probes.source import boottime
from tracer.sinks.durable import Durable
from tracer.sinks.numbered import Numbered
from tracer.sinks.place import done

WITHIN_S = 20


class Slow:
    """An opener whose answers wait until they are let go, with the place that it keeps."""

    def __init__(self, place: Numbered) -> None:
        self._place = place
        self._first = 0
        self.asked = False
        self.what = Asks.LOOK
        self.holds = False
        self.fails: Exception | None = None

    def ask(self, what: Asks, *, name: int = 0, pid: int = 0, most: int = 0) -> None:
        """As Opener's."""
        assert (name, pid) == (0, 0), "no file is compressed or deleted here"
        self.asked, self.what, self._first = True, what, most

    def opened(self, _: float) -> Opened | None:
        """As Opener's."""
        if self.holds and self.what is Asks.ROTATE:
            return None
        self.asked = False
        if self.fails is not None:
            raise self.fails
        if self.what is Asks.LOOK:
            return Opened(None, 0, bytes([self._place.look(), 0]))
        turned = self._place.rotate(self._first, 0)
        return Opened(turned.fd, os.fstat(turned.fd).st_ino, bytes(8))


class Running:
    """A session that rotates its files, each line after another."""

    def __init__(self, directory: Path, *, chained: bool) -> None:
        self.path = directory / "events.jsonl"
        self._directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        place = Numbered(self.path, self._directory)
        self.opener = Slow(place)
        self.said: list[str] = []
        self.keeping = Keeping(self.path, Mode.OFF, self.said.append, Limits(size=3000, keep=0), numbered=True)
        self.keeping._opener = self.opener  # type: ignore[assignment]
        chain = Chain() if chained else None
        fd = place.rotate(0, 0, idle=True).fd
        output = Durable(fd, "FILE", self.said.append, boottime, chain=chain)
        self.keeping.follows(output, 0)
        engine = Engine(SESSION.host.boot_id, Filters())
        self.stream = Stream(engine, Ecs(SESSION), fd, "FILE", output=output, chain=chain)
        self.stream.start(lambda: True)
        self.output = output

    def tell(self, count: int) -> None:
        """Turns with a line each."""
        for _ in range(count):
            self.stream.tell("tracer-config", {"config": {"changed": ["comm"] * 20, "refused": []}})
            self.keeping.turn(self.stream)

    def end(self) -> None:
        """As a session ends, with the stream whole in its files."""
        self.keeping.turn(self.stream, last=True)
        self.stream.close()
        os.close(self._directory)
        numbers = []
        for path in done(self.path):
            part = [json.loads(line)["event"]["sequence"] for line in path.read_bytes().splitlines()]
            assert int(path.stem.rpartition("-")[2]) == (part[0] if part else self.stream.sequence)
            numbers += part
        assert numbers == list(range(self.stream.sequence))

    @property
    def files(self) -> int:
        """How many there are."""
        return len(done(self.path))


@pytest.fixture(name="running", params=[False, True], ids=["plain", "chained"])
def _running(request: pytest.FixtureRequest, tmp_path: Path) -> Running:
    return Running(tmp_path, chained=request.param)


def test_opener_that_answers_at_once(running: Running) -> None:
    """Several files, one after another."""
    running.tell(40)
    running.end()
    assert running.files > 3
    assert running.said == []


def test_opener_that_takes_its_time(running: Running) -> None:
    """What is told meanwhile waits, and is in the file that is called by the first of it."""
    for _ in range(2):
        running.opener.holds = True
        running.tell(20)
        assert not running.output.flush(0.1)
        count = running.files
        running.opener.holds = False
        running.tell(1)
        assert running.output.flush(WITHIN_S)
        assert running.files > count
    running.end()
    assert running.said == []


def test_opener_that_refuses_late(running: Running) -> None:
    """What has waited goes to the file that there is, which is rotated when that can be done."""
    running.opener.holds = True
    running.tell(20)
    running.opener.holds, running.opener.fails = False, OSError(errno.EROFS, os.strerror(errno.EROFS))
    running.tell(20)
    assert running.output.flush(WITHIN_S)
    assert running.files == 1
    running.opener.fails = None
    running.keeping._try_after = 0  # as ten seconds later
    running.tell(1)
    assert running.files == 2
    running.end()
    path = running.path.parent
    told = f"can't rotate the newest file in {path}: Read-only file system; it goes on in the file that was open"
    assert running.said == [told]


@pytest.mark.parametrize("way", ["the end", "a loss"])
def test_opener_that_never_answers(running: Running, way: str) -> None:
    """At the end of the session, or of the opener, what waits goes to the file that there is."""
    running.opener.holds = True
    running.tell(20)
    assert not running.output.flush(0.1)
    gone: list[str] = []
    running.keeping.give_up = gone.append
    if way == "a loss":
        running.opener.holds, running.opener.fails = False, OpenerLostError("killed")
        running.tell(1)
        assert gone
    running.end()
    assert running.files == 1
    assert running.said == []


def test_deleted_while_nothing_can_be_made(running: Running) -> None:
    """The lines wait, also for a slow opener, and are in a file called by the first of them when that is there."""
    running.tell(1)
    (path,) = done(running.path)
    assert running.output.flush(WITHIN_S)
    path.unlink()
    _look(running)
    refused = OSError(errno.EROFS, os.strerror(errno.EROFS))
    running.opener.fails = refused
    running.tell(20)
    assert not running.output.flush(0.1)
    running.opener.fails, running.opener.holds = None, True
    running.keeping._try_after = 0
    running.tell(3)
    running.opener.holds = False
    running.tell(1)
    assert running.output.flush(WITHIN_S)
    found = done(running.path)
    first = [json.loads(line) for line in found[0].read_bytes().splitlines()]
    assert int(found[0].stem.rpartition("-")[2]) == first[0]["event"]["sequence"] > 0
    assert any(b"tracer-gap" in path.read_bytes() for path in found)
    assert (
        running.said[-1] == f"the newest file in {running.path.parent} is there again, and what has waited is written"
    )
    running.stream.close()


def _look(running: Running) -> None:
    running.keeping._look_after = 0
    ask: Callable[[Stream], None] = running.keeping.turn
    ask(running.stream)
    assert running.keeping._gone
