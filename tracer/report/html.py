"""The report on one process as a single page of HTML: no script, nothing from elsewhere, every text escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TextIO

from tracer import __version__
from tracer.formats.text import human_bytes, human_duration, quote
from tracer.report import charts, now
from tracer.report.fields import integer, shown_time, text, value
from tracer.report.markup import Markup, join, tag
from tracer.report.style import POLICY, SHEET
from tracer.report.summary import Process, Summary, summarize
from tracer.report.words import endpoint

__all__ = ["write"]

_NODES: Final = 500  # of the tree
_DEEP: Final = 40
_ROWS: Final = 500  # of a table
_LIVES: Final = 60
_CHARTS: Final = 12
_MISSING: Final = 20


def write(bundle: Mapping[str, Any], events: Iterable[Mapping[str, Any]], out: TextIO) -> None:
    """Write the report: ``bundle`` is what is under ``tracer.bundle``, ``events`` are parsed lines in ECS.

    Either may hold anything: what is not as expected is left out. What is too much for a page is cut, and counted in
    it. Raises what ``out`` raises.
    """
    found = summarize(bundle, events)
    root = found.processes.get(found.root)
    title = f"{root.label} ({root.pid})" if root is not None else text(bundle, "target.asked") or "a process"
    sections = [(name, made) for name, make in _SECTIONS if (made := make(bundle, found))]
    out.write("<!DOCTYPE html>\n")
    out.write('<html lang="en"><head><meta charset="utf-8">')
    out.write(tag("meta", http_equiv="Content-Security-Policy", content=POLICY))
    out.write('<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">')
    out.write('<meta name="referrer" content="no-referrer"><meta name="color-scheme" content="light dark">')
    out.write(tag("title", f"{title} · tracer"))
    out.write(f"<style>{SHEET}</style></head><body>\n")
    out.write(tag("header", *_head(bundle, found, title)))
    out.write(tag("nav", *(tag("a", name, href=f"#{_anchor(name)}") for name, _ in sections), aria_label="Sections"))
    out.write("<main>\n")
    for name, made in sections:
        out.write(tag("section", tag("h2", name), made, id=_anchor(name)))
        out.write("\n")
    out.write("</main>\n")
    out.write(
        tag("footer", f"Made by tracer {__version__}. All times are in UTC. This page loads nothing and runs nothing.")
    )
    out.write("</body></html>\n")


def _anchor(name: str) -> str:
    return name.lower().replace(" ", "-")


def _head(bundle: Mapping[str, Any], found: Summary, title: str) -> Iterator[Markup]:
    yield tag("h1", title)
    root = found.processes.get(found.root)
    if root is not None and root.args:
        yield tag("pre", quote(root.args))
    made, host = text(bundle, "made"), text(bundle, "host")
    when = f"{shown_time(found.first)} to {shown_time(found.last)}" if found.first else ""
    words = [f"made {made}" if made else "", f"on {host}" if host else "", f"events from {when}" if when else ""]
    yield tag("p", "; ".join(filter(None, words)), class_="soft")
    counts = [
        ("processes", found.size),
        ("events", found.events),
        ("flows", len(found.flows)),
        ("names", len(found.names)),
        ("paths changed", len({file.path for file in found.files.values()})),
        ("refused", sum(denial.count for denial in found.denials.values())),
    ]
    yield tag("ul", *(tag("li", tag("b", f"{count:,}"), name) for name, count in counts), class_="cards")
    yield _completeness(bundle, found)


def _completeness(bundle: Mapping[str, Any], found: Summary) -> Markup:
    words = [f"{shown_time(note.when)}: {note.words}" for note in found.missing[:_MISSING]]
    if len(found.missing) > _MISSING:
        words.append(f"{len(found.missing) - _MISSING:,} more")
    unreadable = integer(bundle, "past.unreadable")
    if unreadable:
        words.append(f"{unreadable:,} lines of the files are no events")
    if words or found.complete is False:
        told = tag("ul", *(tag("li", each) for each in words))
        return tag(
            "div", tag("b", "Not complete: something was lost, or was not told one by one."), told, class_="alert"
        )
    if value(bundle, "past.begins_before") is True:
        return tag(
            "p", "It began before the first line of the files: what it did until then is not here.", class_="note"
        )
    if found.complete:
        return tag("p", "Complete: the ledger of the stream says that nothing was lost.", class_="fine")
    if value(bundle, "past.complete") is True:
        return tag("p", "Complete: nothing in the files says that anything was lost while it was there.", class_="fine")
    return Markup("")


def _process(bundle: Mapping[str, Any], _found: Summary) -> Markup:
    return now.facts(bundle)


def _tree(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.processes:
        return None
    children = found.children()
    shown: set[str] = set()

    def node(process: Process, depth: int, inner: Markup | None = None) -> Markup:
        shown.add(process.entity)
        below = (
            [] if inner is not None else [each for each in children.get(process.entity, ()) if each.entity not in shown]
        )
        made = []
        for each in below:
            if len(shown) >= _NODES or depth >= _DEEP:
                break
            if each.entity not in shown:
                made.append(node(each, depth + 1))
        rest = len(below) - len(made)
        if rest:
            made.append(tag("li", f"… and {rest:,} more children, which are not shown", class_="soft"))
        more = inner or (tag("ul", *made) if made else "")
        asked = "asked" if process.entity == found.root else None
        return tag("li", _shown(process), more, class_=asked)

    above = [found.processes[entity] for entity in found.lineage if entity in found.processes]
    shown.update(process.entity for process in above)
    root = found.processes.get(found.root)
    parts: list[Markup] = []
    if root is not None:
        tree = node(root, 0)
        for process in above:
            tree = node(process, 0, tag("ul", tree))
        parts.append(tree)
    known = found.processes
    for process in sorted(known.values(), key=lambda one: (one.start, one.pid)):
        is_top = process.parent not in known or process.parent in found.lineage
        if process.entity not in shown and (is_top and process.events) and len(shown) < _NODES:
            parts.append(node(process, 0))
    hidden = sum(process.entity not in shown and bool(process.events) for process in known.values())
    note = _left(hidden + found.cut["processes"], "processes")
    return join([tag("ul", *parts, class_="tree"), note])


def _shown(process: Process) -> Markup:
    begun = shown_time(process.start) if process.start else ""
    life = human_duration(process.end - process.start) if process.end and process.start else ""
    words = ", ".join(filter(None, (begun, f"lived {life}" if life else "", process.exit)))
    line = quote(process.args) if process.args else process.executable or process.name
    name = f" [{process.name}]" if process.name and process.name != process.label else ""
    return join(
        [
            tag("span", f"{process.pid} {process.label}{name}"),
            " ",
            tag("code", line[:400]) if line else "",
            tag("div", words, class_="soft") if words else "",
        ]
    )


def _timeline(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.moments:
        return None
    used = {kind for _, kind in found.moments}
    key = [
        tag("span", tag("svg", tag("rect", width=11, height=11, class_=kind), view_box="0 0 11 11"), name)
        for kind, name in charts.KINDS.items()
        if kind in used
    ]
    alive = [process for process in found.processes.values() if process.events]
    alive.sort(key=lambda one: (one.start or found.first, one.pid))
    rows = [
        (
            _clock(note.when),
            found.named(note.entity),
            note.action,
            tag("code", note.words[:1000]),
        )
        for note in sorted(found.story, key=lambda one: one.when)[:_ROWS]
    ]
    return join(
        [
            tag("div", *key, class_="key"),
            tag("div", charts.activity(found), class_="wide", tabindex=0),
            tag("h3", "Processes"),
            tag("div", charts.lives(alive[:_LIVES], found.first, found.last), class_="wide", tabindex=0),
            _left(len(alive) - _LIVES, "processes"),
            tag("h3", "What happened"),
            now.table(("Time", "Process", "Event", ""), rows) if rows else "",
            _left(len(found.story) - _ROWS, "events"),
        ]
    )


def _flows(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.flows:
        return None
    flows = sorted(found.flows.values(), key=lambda flow: -(flow.out + flow.into))
    rows = [
        (
            found.named(flow.entity),
            f"{flow.transport} {flow.direction}",
            endpoint(*flow.local),
            endpoint(*flow.remote) if flow.remote != ("", 0) else "",
            f"{flow.name}{f' ({flow.name_from})' if flow.name_from else ''}",
            tag("span", flow.error, class_="bad") if flow.error else flow.state,
            human_bytes(flow.out) if flow.out or flow.into else "",
            human_bytes(flow.into) if flow.out or flow.into else "",
            human_duration(flow.ended - flow.begun) if flow.ended and flow.begun else "",
        )
        for flow in flows[:_ROWS]
    ]
    heads = ("Process", "Kind", "Local", "Peer", "Name", "State", "Sent", "Received", "Time")
    shown = now.table(heads, rows, numbers=frozenset({6, 7, 8}))
    return join([shown, _left(len(flows) - _ROWS + found.cut["flows"], "flows")])


def _names(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.names:
        return None
    rows = [
        (
            name,
            ", ".join(sorted(filter(None, addresses))),
            ", ".join(found.named(entity) for entity in list(found.askers[name])[:4]),
            sum(found.askers[name].values()),
        )
        for name, addresses in sorted(found.names.items())[:_ROWS]
    ]
    shown = now.table(("Name", "Addresses or answer", "Asked or used by", "Times"), rows, numbers=frozenset({3}))
    return join([shown, _left(len(found.names) - _ROWS + found.cut["names"], "names")])


def _files(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.files:
        return None
    rows = []
    for file in sorted(found.files.values(), key=lambda one: one.first)[:_ROWS]:
        target = [" → ", tag("code", file.target)] if file.target else []
        asked = tag("div", f"asked for as {file.requested}", class_="soft") if file.requested else ""
        path = join([tag("code", file.path), *target, asked])
        rows.append((found.named(file.entity), file.action.removeprefix("file-").replace("-", " "), path, file.count))
    shown = now.table(("Process", "What", "Path", "Times"), rows, numbers=frozenset({3}))
    return join([shown, _left(len(found.files) - _ROWS + found.cut["files"], "files")])


def _refused(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.denials:
        return None
    rows = [
        (found.named(one.entity), tag("code", one.what), one.syscall, one.error, one.layer, one.count)
        for one in sorted(found.denials.values(), key=lambda one: one.first)[:_ROWS]
    ]
    heads = ("Process", "What", "System call", "Error", "Likely layer", "Times")
    shown = now.table(heads, rows, numbers=frozenset({5}))
    return join([shown, _left(len(found.denials) - _ROWS + found.cut["denials"], "rows")])


def _notes(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.notes:
        return None
    rows = [
        (_clock(note.when), found.named(note.entity), note.action.replace("-", " "), tag("code", note.words))
        for note in sorted(found.notes, key=lambda one: one.when)[:_ROWS]
    ]
    shown = now.table(("Time", "Process", "What", ""), rows)
    return join([shown, _left(len(found.notes) - _ROWS + found.cut["notes"], "rows")])


def _syscalls(_bundle: Mapping[str, Any], found: Summary) -> Markup | None:
    if not found.syscalls:
        return None
    calls = sorted(found.syscalls.values(), key=lambda call: (-call.total_ns, -call.count, call.name))
    whole = sum(call.total_ns for call in calls) or 1
    rows = [
        (
            tag("code", call.name),
            f"{call.count:,}",
            f"{sum(call.errors.values()):,}" if call.errors else "",
            ", ".join(f"{error} {count:,}" for error, count in call.errors.most_common(6)),
            human_duration(call.total_ns),
            human_duration(call.total_ns // call.count) if call.count else "",
            f"{100 * call.total_ns / whole:.1f} %",
        )
        for call in calls[:_ROWS]
    ]
    heads = ("Call", "Count", "Errors", "Which", "Time", "Mean", "Share")
    drawn = [call for call in calls if any(count > 0 for count in call.histogram)][:_CHARTS]
    figures = [
        tag("figure", tag("figcaption", tag("code", call.name), f" {call.count:,}"), charts.latency(call))
        for call in drawn
    ]
    return join(
        [
            now.table(heads, rows, numbers=frozenset({1, 2, 4, 5, 6})),
            _left(len(calls) - _ROWS, "calls"),
            tag("h3", "How long they took") if figures else "",
            tag("div", *figures, class_="charts") if figures else "",
        ]
    )


def _opened(bundle: Mapping[str, Any], _found: Summary) -> Markup | None:
    parts = [join([tag("h3", name), made]) for name, made in now.opened(bundle)]
    return join(parts) if parts else None


def _clock(when: int) -> Markup:
    return tag("span", shown_time(when)[11:23], class_="mono time")


def _left(count: int, what: str) -> Markup | str:
    return tag("p", f"{count:,} more {what} are not shown", class_="soft") if count > 0 else ""


_Section = Callable[[Mapping[str, Any], Summary], Markup | None]
_SECTIONS: Final[Sequence[tuple[str, _Section]]] = (
    ("Process", _process),
    ("Tree", _tree),
    ("Timeline", _timeline),
    ("Connections", _flows),
    ("Names", _names),
    ("Files", _files),
    ("Refused", _refused),
    ("Other", _notes),
    ("System calls", _syscalls),
    ("Open at the time", _opened),
)
