"""Changed settings: which of them a confined tracer takes, which it refuses, and that nothing is half taken."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tracer.cli import options
from tracer.cli.config import FLAG, LIST, TEXT, Config, Key
from tracer.cli.keeping import Limits
from tracer.cli.reload import Reload
from tracer.model import Kind
from tracer.pipeline.view import Filters
from tracer.sinks.durable import Fsync
from tracer.sinks.place import Packing

LISTS = ("event", "comm", "exe", "uid", "port", "cidr", "netns")
TEXTS = {"rotate_size": "64M", "rotate_age": "0", "keep": "16", "compress": "none", "fsync": "rotate", "buffer": "8M"}
KEYS = {
    **{key: Key(key, LIST, None) for key in LISTS},
    **{key: Key(key, TEXT, default) for key, default in TEXTS.items()},
    "no_payload": Key("no_payload", FLAG, False),
}
PATH = Path("/etc/tracer.toml")


class Running:
    """What a reload changes."""

    def __init__(self, text: str = "", fixed: frozenset[str] = frozenset()) -> None:
        config = Config(PATH, text.encode(), KEYS)
        lists: dict[str, Any] = {key: value for key, value in config.values.items() if key in LISTS}
        self.start = options.filters(**lists)
        self.filters: list[Filters] = []
        self.told: list[dict[str, list[str]]] = []
        self.stream: Any = SimpleNamespace(
            filter=self.filters.append, tell=lambda _, body: self.told.append(body["config"])
        )
        self.keeping: Any = SimpleNamespace(limits=Limits(), has_zstd=False)
        self.kept: Any = SimpleNamespace(fsync=Fsync.ROTATE)
        self._reload = Reload(config, fixed, self.start)

    def take(self, text: str) -> None:
        """SIGHUP, with this in the file."""
        self._reload(text.encode(), self.stream, self.keeping, self.kept)


def test_zstd(capsys: pytest.CaptureFixture[str]) -> None:
    """A confined process can load nothing: it changes to zstd only where that was loaded at the start."""
    running = Running("keep = 3\n")
    running.take('keep = 4\ncompress = "zstd"\n')
    assert running.keeping.limits == Limits(keep=4)
    assert running.told == [{"changed": ["keep"], "refused": ["compress"]}]
    assert "compress keeps its value: zstd is loaded at the start, and that takes a restart" in capsys.readouterr().err
    running.keeping.has_zstd = True
    running.take('keep = 4\ncompress = "zstd"\n')
    assert running.keeping.limits == Limits(keep=4, compress=Packing.ZSTD)


def test_files(capsys: pytest.CaptureFixture[str]) -> None:
    """How files are kept changes at once, and goes back to what it is by itself when a key is gone."""
    running = Running('keep = 3\nfsync = "second"\n')
    running.take('keep = 4\nfsync = "batch"\nrotate_size = "1M"\ncompress = "gzip"\n')
    assert running.keeping.limits == Limits(1 << 20, 0.0, 4, Packing.GZIP)
    assert running.kept.fsync == "batch"
    running.take("")
    assert running.keeping.limits == Limits()
    assert running.kept.fsync == "rotate"
    assert [each["changed"] for each in running.told] == [["compress", "fsync", "keep", "rotate_size"]] * 2
    assert capsys.readouterr().err.count("changed compress, fsync, keep, rotate_size") == 2


def test_nothing_has_changed(capsys: pytest.CaptureFixture[str]) -> None:
    """The same settings in other words say nothing and do nothing."""
    running = Running("keep = 3\nevent = ['exec']\n")
    running.take('# new\nevent = "exec"\nkeep = "3"\n')
    assert (running.told, running.filters, capsys.readouterr().err) == ([], [], "")


@pytest.mark.parametrize(
    ("start", "less", "more"),
    [
        ("", "uid = '0'", None),
        ("uid = ['0', '7']", "uid = '7'", "uid = '8'"),
        ("port = [80, 443]", "port = 80", "port = [80, 22]"),
        ("cidr = '10.0.0.0/8'", "cidr = ['10.1.0.0/16', '10.2.0.0/16']", "cidr = '10.0.0.0/7'"),
        ("cidr = '10.0.0.0/8'", "cidr = '10.0.0.1/32'", "cidr = '2001:db8::/32'"),
        ("netns = 7", "netns = 7\nkeep = 1", "netns = 8"),
        ("event = ['exec', 'exit']", "event = 'exit'", "event = ['exec', 'fork']"),
        ("uid = 7", "uid = 7\nkeep = 1", ""),
        ("comm = 'a*'", "comm = 'b*'", None),
        ("exe = '/usr/*'", "", None),
    ],
)
def test_filters(start: str, less: str, more: str | None) -> None:
    """They can ask for less than the kernel was told at the start, and again for all of that, but not for more."""
    running = Running(start)
    running.take(less)
    changed = [each for told in running.told for each in told["changed"]]
    assert changed
    assert running.told[-1]["refused"] == []
    before = list(running.filters)
    if more is None:
        running.take(start)
        assert running.filters[-1] == running.start
        return
    running.take(more)
    assert running.told[-1]["refused"] == [start.partition(" ")[0]]
    assert running.filters == before
    running.take(start)
    assert not before or running.filters[-1] == running.start


def test_events_that_come_along() -> None:
    """Of connects the attempts come along, as at the start."""
    running = Running()
    running.take("event = 'connect'")
    assert running.filters[-1].kinds == {Kind.CONNECT, Kind.ATTEMPT}


def test_refusals_come_again_and_hinder_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """What can't change is told at each SIGHUP as long as the file asks for it; the rest is taken."""
    running = Running("no_payload = false")
    for number in (1, 2):
        running.take(f"no_payload = true\nbuffer = '1M'\nkeep = {number}\nfsync = 'x'\n")
        assert running.told[-1] == {"changed": ["keep"], "refused": ["buffer", "fsync", "no_payload"]}
        said = capsys.readouterr().err
        assert f"{PATH}: buffer keeps its value: that takes a restart" in said
        assert f"{PATH}: fsync keeps its value: --fsync 'x': give one of never, rotate, second, batch" in said
    assert running.kept.fsync is Fsync.ROTATE


def test_what_was_typed_is_stronger(capsys: pytest.CaptureFixture[str]) -> None:
    """A key that is on the command line is refused, too."""
    running = Running("", frozenset({"keep"}))
    running.take("keep = 3")
    assert running.told == [{"changed": [], "refused": ["keep"]}]
    assert "keep keeps its value: the command line says otherwise" in capsys.readouterr().err
    assert running.keeping.limits == Limits()


@pytest.mark.parametrize("text", ["keep = ", "kept = 3", "keep = true"])
def test_wrong_settings_change_nothing(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """With one mistake nothing of the file is taken, and the line is told."""
    running = Running()
    running.take(f"rotate_size = '1M'\n{text}\n")
    assert (running.told, running.keeping.limits) == ([], Limits())
    said = capsys.readouterr().err
    assert said.startswith(f"tracer: {PATH}, line 2: ")
    assert said.endswith("; nothing is changed\n")
