"""The parsers stand what chance makes of real traffic, and a mistake in them would be found."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from tests.names import fuzz
from tests.names.make_corpus import CORPUS
from tests.names.targets import TARGETS

ROOT = Path(__file__).parent.parent.parent
SEED = 20_261_123

# Mistakes of one in a length, and others that are easily made: module, what is there, what stands there instead.
PLANTS = {
    "header": ("dns", "len(data) < _HEADER_SIZE", "len(data) < _HEADER_SIZE - 1"),
    "stuck": ("dns", "begin = end\n    return", "begin = max(begin, end - 2)\n    return"),
    "extension": ("tls", "if at + 4 > len(data)", "if at + 3 > len(data)"),
    "part of a name": ("tls", "if 5 + length > len(body)", "if 4 + length > len(body)"),
    "line": ("http", "if end < 0", "if end < -1"),
    "sample": ("quic", "if len(sample) < _SAMPLE", "if len(sample) < _SAMPLE - 1"),
    "pieces": ("quic", "len(self._pieces) >= PIECES_MOST", "len(self._pieces) > PIECES_MOST"),
    "account": ("recognise", "self._kept -= state.size\n        return [", "return ["),
}


@pytest.fixture
def planted(request: pytest.FixtureRequest) -> Iterator[None]:
    """The module that a plant names, with the mistake in it, for the time of a test."""
    name, right, wrong = PLANTS[request.param]
    module = import_module(f"tracer.names.{name}")
    assert module.__file__
    source = Path(module.__file__).read_text()
    assert source.count(right) == 1
    before = dict(vars(module))
    exec(compile(source.replace(right, wrong), module.__file__, "exec"), vars(module))  # noqa: S102  our own source
    yield
    vars(module).clear()
    vars(module).update(before)


def test_corpus_is_whole() -> None:
    """Each target has a corpus, and each corpus a target."""
    assert sorted(fuzz.corpora()) == sorted(TARGETS)
    assert all(fuzz.corpora().values())


@pytest.mark.parametrize("path", sorted(CORPUS.rglob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}")
def test_corpus(path: Path) -> None:
    """Each input of the corpus, what fuzzing has found once among them, gives a result that can be."""
    with fuzz.watched():
        assert not fuzz.tried(path.parent.name, path.read_bytes())


def test_nothing_is_found_and_everything_is_covered() -> None:
    """Ten thousand inputs find nothing, and take nine of ten branches of the parsers."""
    code = f"from tests.names import fuzz; print(*fuzz.covered({SEED}, 10_000))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[0]) >= fuzz.COVERED_LEAST, done.stdout


@pytest.mark.parametrize("planted", PLANTS, indirect=True)
def test_mistakes_are_found(planted: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake that is planted in a parser is found in the first hundredth of what `make fuzz` tries."""
    monkeypatch.setattr(fuzz, "SECONDS_MOST", 0.2)
    monkeypatch.setattr(fuzz, "FINDINGS_MOST", 1)
    assert len(fuzz.run(SEED, fuzz.INPUTS // 100)) == 1


def test_command(tmp_path: Path) -> None:
    """The command tells its seed, so that a run can be repeated, how much it tried and what it covered."""
    command = [sys.executable, "-m", "tests.names.fuzz", "--inputs", "1000", "--seed", "5", "--jobs", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1,000 inputs, seed 5" in done.stdout
    assert "nothing found" in done.stdout
