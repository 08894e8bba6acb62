"""The report in HTML: everything is in it, nothing in it runs or is loaded, and what is too much is cut and counted."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.report.stories import EVIL, EVIL_PATH, at, bundle, event, events, process
from tracer.report import html
from tracer.report.style import POLICY

SESSION = Path(__file__).parents[1] / "data" / "session.jsonl"
VOID = {"meta", "link"}


class Page(HTMLParser):
    """What a browser would make of a page: its elements, and its text."""

    def __init__(self, content: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.parts: list[str] = []
        self.open: list[str] = []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """An element ends: the innermost."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """A text."""
        if "style" not in self.open:
            self.parts.append(data)

    @property
    def text(self) -> str:
        """All texts."""
        return " ".join(self.parts)


def page(told: dict[str, Any], happened: list[dict[str, Any]]) -> Page:
    """The report, read as a browser reads it."""
    out = io.StringIO()
    html.write(told, happened, out)
    return Page(out.getvalue())


def test_all_of_the_story_is_told() -> None:
    """Each process, flow, name, path, denial, change and system call of bundle and events is in the page."""
    made = page(bundle(), events())
    for words in (
        "nginx (4242)",
        "containerd-shim",
        "deleted",
        "ab" * 32,
        "nginx 1.22.1-9",
        "CAP_NET_BIND_SERVICE",
        "net 4026532181 (its own)",
        "nofile 1024 / 524288",
        "rss 10.8 MB",
        "[2001:db8::1]:443",
        "0.0.0.0:80",
        "writable and executable",
        "Not permitted to see",
        "198.51.100.7:443",
        "example.org (dns)",
        "ECONNREFUSED",
        "/tmp/a",
        "asked for as ../tmp/b",
        "/etc/shadow",
        "landlock",
        "198.51.100.9:25",
        "before=uid:0 after=uid:33",
        "killed by SIGKILL",
        "unshare namespaces=net,mnt",
        "/mnt → tmpfs",
        "ENOENT 7, EACCES 2",
        "Complete: the ledger",
    ):
        assert words in made.text, words
    assert not made.open, "each element is closed"
    assert sum(tag == "figure" for tag, _ in made.tags) == 3, "a chart for each system call with latencies"


def test_nothing_runs_and_nothing_is_loaded() -> None:
    """No script, no style or handler in an attribute, no address in one but a place in the page, and a policy."""
    made = page(bundle(), events())
    names = {tag for tag, _ in made.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base", "video", "foreignobject", "use"}
    for tag, attributes in made.tags:
        for name, content in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("href", "src"):
                assert content is not None
                assert content.startswith("#") or (tag, content) == ("link", "data:,")
    policies = [each["content"] or "" for tag, each in made.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert policies[0].startswith("default-src 'none'")
    assert "unsafe" not in policies[0]


def test_hostile_names_are_text() -> None:
    """A process called <script>… and paths with quotes, escapes and a right-to-left mark are shown, and do nothing."""
    out = io.StringIO()
    html.write(bundle(), events(), out)
    made = Page(out.getvalue())
    assert EVIL in made.text
    assert EVIL not in out.getvalue()
    assert "\x1b" not in out.getvalue()
    assert "\u202e" not in out.getvalue()
    shown = EVIL_PATH.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert shown in made.text
    with_style = bundle() | {"working_directory": "</style><script>alert(3)</script>", "lsm_label": "]]>--><b>"}
    made = page(with_style, [])
    assert "</style><script>alert(3)</script>" in made.text
    assert not {"script", "b"} & {tag for tag, _ in made.tags if tag == "script"}


@pytest.mark.parametrize("odd", [None, 7, "text", [], {}, [[]], {"pid": {}}, True])
def test_members_of_any_type_do_no_harm(odd: Any) -> None:
    """Whatever stands where an object, a number or a text should: there is a page."""
    told = dict.fromkeys(bundle(), odd)
    happened: list[dict[str, Any]] = []
    for each in events():
        happened += [each | {name: odd} for name in each]
    assert page(told, happened).text


def test_a_circle_of_parents_ends() -> None:
    """Processes that are said to be each other's parents are shown once each."""
    one, two = process(10, "/bin/one", 11), process(11, "/bin/two", 10)
    happened = [event("process-executed", 1, one), event("process-executed", 2, two)]
    made = page({"target": {"entity_id": "E10"}}, happened)
    tree = made.text[made.text.rindex("Tree") : made.text.rindex("Timeline")]
    assert tree.count("10 one") == 1
    assert tree.count("11 two") == 1


def test_too_much_is_cut_and_counted() -> None:
    """10,007 children, a chain of 300 and a text of a megabyte make less than 2 MB, and what is left out is said."""
    happened = [
        event("process-executed", number % 60_000, process(100 + number, "/bin/x", 1)) for number in range(10_007)
    ]
    deep = [process(50_000 + number, "/bin/deep", 50_000 + number - 1) for number in range(300)]
    happened += [event("process-executed", 1, each) for each in deep]
    happened.append(event("file-created", 1, process(100, "/bin/x", 1), file={"path": "/" + "y" * 1_000_000}))
    out = io.StringIO()
    html.write({"target": {"entity_id": "E1"}, "process": process(1, "/sbin/init")}, happened, out)
    assert len(out.getvalue()) < 2_000_000
    made = Page(out.getvalue())
    told = [int(each.replace(",", "")) for each in re.findall(r"([\d,]+) more (?:children|processes)", made.text)]
    assert sum(told) >= 10_007 + 300 - 2 * 500
    assert "991,809 more characters" in made.text


def test_what_is_missing_is_said_first() -> None:
    """A loss in the events, or a past that is not complete, is in an alert, and nothing says complete."""
    loss = {
        "@timestamp": at(10),
        "event": {"action": "tracer-loss"},
        "tracer": {"loss": {"kind": "exec", "stage": "emit", "count": 7}},
    }
    assert "7 of exec lost at emit" in page(bundle(), [loss]).text
    made = page(bundle() | {"past": {"complete": False, "unreadable": 3}}, [])
    assert "3 lines of the files are no events" in made.text
    made = page(bundle() | {"past": {"complete": False, "begins_before": True}}, [])
    assert "It began before the first line" in made.text
    assert "omplete:" not in made.text
    assert "Complete: nothing in the files" in page(bundle() | {"past": {"complete": True}}, []).text
    assert "Complete:" not in page(bundle(), [loss]).text


def test_a_real_stream_makes_a_page() -> None:
    """The recorded session: its 7 flows and 5 processes, no bundle needed."""
    lines = [json.loads(line) for line in SESSION.read_bytes().splitlines()]
    made = page({}, lines)
    assert {("5", "processes"), ("7", "flows")} <= set(pairwise(made.parts))
    assert "/no/such/program: ENOENT" in made.text
    assert not made.open
