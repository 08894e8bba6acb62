"""What the project says of itself in several files agrees."""

import importlib.metadata
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

import tracer

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    """The parsed pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def makefile() -> str:
    """The text of the Makefile."""
    return (ROOT / "Makefile").read_text()


def test_version_in_one_place(pyproject: dict[str, Any]) -> None:
    """The version is written in tracer/__init__.py alone, and the installed package has that one."""
    assert "version" not in pyproject["project"]
    assert pyproject["project"]["dynamic"] == ["version"]
    assert pyproject["tool"]["hatch"]["version"]["path"] == "tracer/__init__.py"
    places = [
        path
        for path in (ROOT / "tracer").rglob("*.py")
        if re.search(r"^__version__\b.*=", path.read_text(), re.MULTILINE)
    ]
    assert places == [ROOT / "tracer/__init__.py"]
    assert importlib.metadata.version("tracer") == tracer.__version__


def test_changelog() -> None:
    """The changelog has a section for what is coming or for this version."""
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings
    assert headings[0] in {"Unreleased", tracer.__version__}


def test_no_foreign_bcc(pyproject: dict[str, Any]) -> None:
    """No list of requirements names PyPI's bcc, which is not the BPF binding."""
    project = pyproject["project"]
    wanted = project["dependencies"] + sum(
        project["optional-dependencies"].values(), pyproject["build-system"]["requires"]
    )
    names = {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in wanted}
    assert "orjson" in names
    assert not names & {"bcc", "bpfcc"}


def test_license(pyproject: dict[str, Any]) -> None:
    """The license that the metadata names is the one whose text is here, whole."""
    text = (ROOT / "LICENSE").read_text()
    assert pyproject["project"]["license"] == "Apache-2.0"
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_make_targets_have_help(makefile: str) -> None:
    """Every target that is not a file has a help line, `make` alone shows them, and each is declared phony."""
    targets = re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE)
    phony = re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)[0].split()
    assert sorted(targets) == sorted(phony)
    shown = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, check=True).stdout
    listed = dict(line.split(None, 1) for line in shown.splitlines() if line.startswith("  "))
    assert sorted(listed) == sorted(targets)


def test_scripts_are_executable() -> None:
    """What is started by its name has the mode for it."""
    for name in (".ci/run", "scripts/check_deb", "scripts/setup"):
        assert (ROOT / name).stat().st_mode & 0o111 == 0o111, name
