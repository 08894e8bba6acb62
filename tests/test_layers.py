"""Imports between the parts of the program go one way, found by parsing, so that a late import counts too."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "tracer"

# A part may import those of a lower rank; two of the same rank know nothing of each other.
RANKS = {
    "tracer": 0,  # the package itself: the version and nothing else
    "model": 1,
    "names": 2,
    "probes": 2,
    "confine": 3,  # knows the names of capabilities
    "fallback": 4,  # tells what the probes would, in their records
    "pipeline": 5,
    "formats": 6,
    "investigate": 7,  # looks at one process, and words it as formats do
    "integrity": 7,  # reads what formats have written
    "report": 7,  # words what formats have written for people
    "history": 8,  # finds in what integrity reads, and reports
    "sinks": 8,
    "cli": 9,
    "__main__": 10,
}


def part_of(module: str) -> str:
    """Return the part of the program that a dotted module name belongs to."""
    names = module.split(".")
    return names[1] if len(names) > 1 else names[0]


def imported(source: str, module: str, is_package: bool) -> Iterator[tuple[int, str]]:
    """Yield (line, dotted name) of everything of ours that `module` imports, at any depth of its code."""
    package = module if is_package else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            base = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
            stem = ".".join(filter(None, (base, node.module)))
            # `from tracer import probes` names a part, `from tracer import __version__` does not.
            names = [
                f"{stem}.{alias.name}" if stem == "tracer" and alias.name in RANKS else stem for alias in node.names
            ]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "tracer":
                yield node.lineno, name


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
    """Return one line for each import that goes the wrong way, and for a module that has no rank."""
    part = part_of(module)
    if part not in RANKS:
        return [f"{module}: give {part} a rank in this test"]
    found = []
    for line, name in imported(source, module, is_package):
        target = part_of(name)
        if target != part and RANKS.get(target, RANKS["__main__"]) >= RANKS[part]:
            found.append(f"{module}:{line} imports {name}")
    return found


def test_imports_go_one_way() -> None:
    """No module imports from a part above or beside its own, and every part has a rank."""
    found = []
    modules = sorted(PACKAGE.rglob("*.py"))
    for path in modules:
        is_package = path.name == "__init__.py"
        names = path.relative_to(PACKAGE.parent).with_suffix("").parts
        module = ".".join(names[:-1] if is_package else names)
        found += violations(path.read_text(), module, is_package)
    assert len(modules) >= len({"probes", "pipeline", "formats", "sinks", "cli"})
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tracer.model", "import tracer.formats.ecs"),
        ("tracer.model", "from tracer import probes"),
        ("tracer.model", "from .probes import core"),
        ("tracer.probes.core", "from tracer.fallback import netlink"),
        ("tracer.probes.core", "from ..pipeline import order"),
        ("tracer.pipeline.order", "def late():\n    from tracer.cli import live"),
        ("tracer.formats.ecs", "if TYPE_CHECKING:\n    import tracer.sinks.stdout"),
        ("tracer.sinks.stdout", "from .. import cli"),
        ("tracer.sinks.stdout", "import tracer.nowhere"),
        ("tracer.nowhere", ""),
    ],
)
def test_wrong_ways_are_found(module: str, source: str) -> None:
    """Each way to write an import upwards is found, and so is a part without a rank."""
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tracer.model", "import os, json"),
        ("tracer.probes.core", "from tracer import __version__\nfrom tracer.model import Event"),
        ("tracer.probes.core", "from . import libbpf\nfrom .. import model\nfrom ..model import Event"),
        ("tracer.cli.main", "from tracer.sinks import stdout\nimport tracer.probes.core"),
    ],
)
def test_right_ways_pass(module: str, source: str) -> None:
    """Imports from below, from beside in the same part, and of other projects are fine."""
    assert violations(source, module) == []
