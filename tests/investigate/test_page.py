"""The page for people: nothing of a hostile process can drive a terminal, and no bundle is too poor to be shown."""

import unicodedata
from typing import Any

import pytest

from tests.investigate.known import Known, gathered
from tests.test_docs import bundle
from tracer.formats.text import width
from tracer.investigate import screen

HOSTILE = "<script>alert(1)</script>\x1b[2J\x1b]0;x\x07\r\n\u202eevil\x00\x9b"


def hostile(value: Any) -> Any:
    """The same with every text made hostile, but for times."""
    if isinstance(value, dict):
        return {name: hostile(part) for name, part in value.items()}
    if isinstance(value, list):
        return [hostile(part) for part in value]
    return HOSTILE if isinstance(value, str) else value


def test_hostile_texts_are_shown_as_text() -> None:
    """Whatever stands in a bundle, the page has no control character but line ends, and shows markup as it is."""
    page = screen.render(hostile(bundle()))
    assert "<script>alert(1)</script>" in page
    for character in page.replace("\n", ""):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Cs"}, ascii(character)
    lines = screen.render(bundle()).splitlines()
    assert 20 < len(page.splitlines()) <= len(lines)


def test_every_part_may_be_missing() -> None:
    """A bundle from which any one part is missing, or all, still makes a page."""
    whole = bundle()
    for name in whole.keys() - {"target"}:
        assert screen.render({part: value for part, value in whole.items() if part != name})
    assert screen.render({"target": {"pid": 7}}) == "process      ? 7\n"


@pytest.mark.parametrize("columns", [40, 80, 120])
def test_lines_fit_the_terminal(columns: int) -> None:
    """No line takes more cells than the terminal has, also of wide characters; off a terminal nothing is cut."""
    wide = bundle() | {"working_directory": "漢字" * 200}
    for line in screen.render(wide, columns=columns).splitlines():
        assert width(line) <= columns
    assert "漢字" * 200 in screen.render(wide)


def test_what_matters_is_on_it() -> None:
    """Of a process with a listener the page has its name, program, command, listener and who began it."""
    with Known("server = socket.create_server(('127.0.0.1', 0))\nready(port=server.getsockname()[1])") as known:
        told = gathered(known.pid)
        page = screen.render(told)
        assert page.startswith(f"process      {told['process']['name']} {known.pid}, sleeping\n")
        for text in (
            told["executable"]["path"],
            told["executable"]["sha256"],
            f"127.0.0.1:{known.facts['port']} LISTEN",
            f"{told['lineage'][0]['name']} {told['lineage'][0]['pid']}",
            told["process"]["entity_id"],
        ):
            assert text in page
        assert "\x1b" not in page


def test_refusals_come_with_the_fix() -> None:
    """What was refused is named, with what would help."""
    page = screen.render({"target": {"pid": 7}, "denied": ["files", "sockets"]}, fix="run it with sudo")
    assert page.endswith("denied       files, sockets: run it with sudo\n")


def test_many_children_are_cut() -> None:
    """Of a thousand children the first are shown, and how many more there are."""
    person = bundle()["children"][0]
    page = screen.render({"target": {"pid": 7}, "children": [person] * 1000, "children_cut": 50})
    assert len(page.splitlines()) < 20
    assert page.endswith("and 1,038 more\n")
