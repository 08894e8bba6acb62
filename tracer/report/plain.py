"""The report on one process of the past as lines of text, with everything hostile in it made visible."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tracer.formats.text import human_bytes, human_duration, quote, visible
from tracer.report.fields import integer, shown_time, text, value
from tracer.report.summary import Flow, Process, Summary, summarize
from tracer.report.words import endpoint

__all__ = ["lines"]

_NODES: Final = 200
_DEEP: Final = 40
_ROWS: Final = 60  # of each list


def lines(bundle: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The lines, without newlines: what the process was, its tree, whom it talked to, what it changed and was refused.

    Bundle and events are as of html.write().
    """
    found = summarize(bundle, events)
    parts = (_head(bundle, found), _tree(found), _flows(found), _names(found), _files(found), _refused(found))
    for part in (*parts, _notes(found), _missing(bundle, found)):
        yield from map(visible, part)


def _head(bundle: Mapping[str, Any], found: Summary) -> Iterator[str]:
    root = found.processes.get(found.root)
    if root is None:
        return
    yield f"process    {root.label} {root.pid}, entity {root.entity}"
    if root.args:
        yield f"           {quote(root.args)}"
    if root.executable:
        yield f"program    {root.executable}"
    yield f"lived      {shown_time(root.start) if root.start else '?'} to {_end(root)}"
    if root.user:
        yield f"user       {root.user}"
    cwd = text(bundle, "process.working_directory")
    if cwd:
        yield f"directory  {cwd}"
    for entity in found.lineage:
        above = found.processes.get(entity)
        if above is not None:
            yield f"from       {above.label} {above.pid}"


def _end(process: Process) -> str:
    if not process.end:
        return "?, no end is told"
    life = f", {human_duration(process.end - process.start)}" if process.start else ""
    return f"{shown_time(process.end)}: {process.exit}{life}"


def _titled(title: str, rows: Iterable[str], rest: int, what: str) -> Iterator[str]:
    yield ""
    yield title
    yield from (f"  {row}" for row in rows)
    if rest > 0:
        yield f"  … and {rest:,} more {what}"


def _tree(found: Summary) -> Iterator[str]:
    children = found.children()
    rows: list[str] = []
    seen = {found.root}
    waiting = [(child, 0) for child in reversed(children.get(found.root, []))]
    left = 0
    while waiting:
        process, depth = waiting.pop()
        if process.entity in seen:
            continue
        seen.add(process.entity)
        if len(rows) >= _NODES:
            left += 1
        else:
            line = quote(process.args) if process.args else process.executable or process.name
            told = f" ({process.exit})" if process.exit else ""
            rows.append(f"{'  ' * min(depth, _DEEP)}{process.pid} {line[:200]}{told}")
        waiting += [(child, depth + 1) for child in reversed(children.get(process.entity, []))]
    if rows:
        yield from _titled("Processes", rows, left, "processes")


def _flow(found: Summary, flow: Flow) -> str:
    way = {"egress": "→", "ingress": "←", "listens": "listens"}.get(flow.direction, "↔")
    ends = endpoint(*flow.local) + (f" {way} {endpoint(*flow.remote)}" if way != "listens" else f" {way}")
    named = f" {flow.name}" if flow.name else ""
    moved = f" ↑{human_bytes(flow.out)} ↓{human_bytes(flow.into)}" if flow.out or flow.into else ""
    return f"{flow.transport} {ends}{named}{moved} {flow.error or flow.state}, {found.named(flow.entity)}"


def _flows(found: Summary) -> Iterator[str]:
    flows = sorted(found.flows.values(), key=lambda flow: flow.begun)
    if flows:
        rows = (_flow(found, flow) for flow in flows[:_ROWS])
        yield from _titled("Connections", rows, len(flows) - _ROWS + found.cut["flows"], "flows")


def _names(found: Summary) -> Iterator[str]:
    if found.names:
        told = sorted(found.names.items())
        rows = (f"{name}: {', '.join(sorted(filter(None, addresses)))}" for name, addresses in told[:_ROWS])
        yield from _titled("Names", rows, len(told) - _ROWS + found.cut["names"], "names")


def _files(found: Summary) -> Iterator[str]:
    if found.files:
        files = sorted(found.files.values(), key=lambda one: one.first)
        rows = (
            f"{file.action.removeprefix('file-').replace('-', ' ')} {file.path}"
            f"{f' → {file.target}' if file.target else ''}{_times(file.count)}, {found.named(file.entity)}"
            for file in files[:_ROWS]
        )
        yield from _titled("Files", rows, len(files) - _ROWS + found.cut["files"], "files")


def _refused(found: Summary) -> Iterator[str]:
    if found.denials:
        denials = sorted(found.denials.values(), key=lambda one: one.first)
        rows = (
            f"{one.syscall} {one.what}: {one.error}, by {one.layer}{_times(one.count)}, {found.named(one.entity)}"
            for one in denials[:_ROWS]
        )
        yield from _titled("Refused", rows, len(denials) - _ROWS + found.cut["denials"], "rows")


def _notes(found: Summary) -> Iterator[str]:
    if found.notes:
        notes = sorted(found.notes, key=lambda one: one.when)
        rows = (f"{note.action} {note.words}, {found.named(note.entity)}" for note in notes[:_ROWS])
        yield from _titled("Other", rows, len(notes) - _ROWS + found.cut["notes"], "rows")


def _missing(bundle: Mapping[str, Any], found: Summary) -> Iterator[str]:
    past = value(bundle, "past")
    yield ""
    yield f"{found.events:,} events of {found.size:,} processes"
    if past is None:
        return
    read = f"read: {integer(past, 'lines') or 0:,} lines of {integer(past, 'files') or 0:,} files"
    yield f"{read}, {text(past, 'first')} to {text(past, 'last')}"
    for note in found.missing[:_ROWS]:
        yield f"not complete: {shown_time(note.when)}: {note.words}"
    unreadable = integer(past, "unreadable")
    if unreadable:
        yield f"not complete: {unreadable:,} lines are no events (tracer verify tells which is the first)"
    if value(past, "begins_before") is True:
        yield "not complete: it began before the first line of these files"


def _times(count: int) -> str:
    return f" ({count:,} times)" if count > 1 else ""
