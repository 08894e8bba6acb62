"""The part of the report in HTML that says what a process was when it was looked at: what is in the bundle alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from tracer.formats.text import human_bytes, quote
from tracer.report.fields import integer, members, moment, number, shown_time, text, texts, value
from tracer.report.markup import Markup, join, tag
from tracer.report.words import endpoint

__all__ = ["facts", "opened", "table"]

_ROWS: Final = 300
_UNLIMITED: Final = -1  # RLIM_INFINITY, as getrlimit(2) of Python has it
Row = tuple[str, object]


def table(heads: Sequence[str], rows: Sequence[Sequence[object]], *, numbers: frozenset[int] = frozenset()) -> Markup:
    """A table that scrolls by itself where it is too wide; ``numbers`` are the columns that hold some."""
    classes = ["n" if at in numbers else None for at in range(len(heads))]
    head = tag("tr", *(tag("th", each, scope="col", class_=of) for each, of in zip(heads, classes, strict=True)))
    body = [tag("tr", *(tag("td", each, class_=of) for each, of in zip(row, classes, strict=True))) for row in rows]
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide", tabindex=0)


def facts(bundle: Mapping[str, Any]) -> Markup:
    """Who the process is, in a list of terms; what could not be looked at is said, never left out silently."""
    rows = [row for row in (*_identity(bundle), *_power(bundle), *_place(bundle), *_size(bundle)) if row[1]]
    denied = texts(bundle, "denied")
    if denied:
        rows.append(("Not permitted to see", ", ".join(denied)))
    return tag("dl", *(join([tag("dt", name), tag("dd", told)]) for name, told in rows))


def _code(told: str) -> Markup | str:
    return tag("code", told) if told else ""


def _identity(bundle: Mapping[str, Any]) -> Iterator[Row]:
    process = value(bundle, "process")
    start = moment(text(process, "start"))
    yield "Program", _code(text(bundle, "executable.path") or text(process, "executable"))
    yield "Command line", _code(quote(texts(process, "args")))
    yield "Started", shown_time(start) if start else ""
    yield "Entity id", _code(text(process, "entity_id") or text(bundle, "target.entity_id"))
    user, group = text(process, "user.name") or text(process, "user.id"), text(process, "group.name")
    yield "User", f"{user}{', group ' if group else ''}{group}" if user else ""
    login = value(bundle, "login")
    if isinstance(login, Mapping):
        yield "Login", ", ".join(f"{name} {told}" for name, told in login.items())
    state = [text(bundle, "state")]
    state += ["a kernel thread"] if value(bundle, "kernel_thread") is True else []
    state += ["it ended while it was looked at: what is missing could not be read"] if "ended" in bundle else []
    state += ["it went on to other programs meanwhile: parts may be of different ones"] if "mixed" in bundle else []
    yield "State", "; ".join(filter(None, state))
    yield "Working directory", _code(text(bundle, "working_directory"))
    marks = [name for name in ("deleted", "memfd") if value(bundle, f"executable.{name}") is True]
    yield "The program's file", tag("span", ", ".join(marks), class_="bad") if marks else ""
    yield "SHA-256", _code(text(bundle, "executable.sha256"))
    package = value(bundle, "executable.package")
    yield "Package", " ".join(filter(None, (text(package, "name"), text(package, "version"))))
    values = value(bundle, "environment.values")
    if isinstance(values, Mapping):
        yield "Environment", tag("pre", "\n".join(f"{name}={told}" for name, told in values.items()))
    else:
        yield "Environment", ", ".join(texts(bundle, "environment.names"))


def _power(bundle: Mapping[str, Any]) -> Iterator[Row]:
    bounding = texts(bundle, "capabilities.bounding")
    for name in ("effective", "permitted", "inheritable", "bounding", "ambient"):
        if isinstance(value(bundle, f"capabilities.{name}"), list):
            found = texts(bundle, f"capabilities.{name}")
            is_all = name != "bounding" and len(found) > 1 and set(found) == set(bounding)
            shown = f"all {len(found)} of the bounding set" if is_all else ", ".join(found)
            yield f"Capabilities, {name}", shown or "none"
    mode, filters = text(bundle, "seccomp.mode"), number(bundle, "seccomp.filters")
    yield "Seccomp", f"{mode}, {filters} filters" if filters else mode
    told = value(bundle, "no_new_privileges")
    yield "No new privileges", "" if told is None else "yes" if told is True else "no"
    landlock = value(bundle, "landlock")
    yield "Landlock", "" if landlock is None else str(landlock)
    yield "LSM label", text(bundle, "lsm_label")


def _place(bundle: Mapping[str, Any]) -> Iterator[Row]:
    spaces = value(bundle, "namespaces")
    if isinstance(spaces, Mapping):
        shown = [
            tag("span", f"{name} {number(each, 'inode')}{' (its own)' if value(each, 'differs') is True else ''}")
            for name, each in spaces.items()
        ]
        yield "Namespaces", tag("span", *shown, class_="tags")
    yield "Control group", _code(text(bundle, "cgroup.path"))
    yield "Unit", text(bundle, "cgroup.unit")
    container = value(bundle, "cgroup.container")
    yield "Container", " ".join(filter(None, (text(container, "runtime"), text(container, "id"))))
    yield "Pod", text(bundle, "cgroup.pod")


def _size(bundle: Mapping[str, Any]) -> Iterator[Row]:
    memory = [
        f"{name} {human_bytes(size)}"
        for name in ("rss", "pss", "swap")
        if (size := integer(bundle, f"memory.{name}")) is not None
    ]
    yield "Memory", ", ".join(memory)
    threads = integer(bundle, "threads")
    yield "Threads", str(threads) if threads is not None else ""
    limits = value(bundle, "limits")
    if isinstance(limits, Mapping):
        shown = [tag("span", f"{name} {_limit(each)}") for name, each in list(limits.items())[:32]]
        yield "Limits", tag("span", *shown, class_="tags")


def _limit(told: Any) -> str:
    each = [
        "unlimited" if limit == _UNLIMITED else str(limit) for limit in (told if isinstance(told, list) else [told])
    ]
    return each[0] if len(set(each)) == 1 else " / ".join(each[:2])


def opened(bundle: Mapping[str, Any]) -> Iterator[tuple[str, Markup]]:
    """Titles and tables of what it had open, and of what is mapped in it and should not be."""
    sockets = [*members(bundle, "sockets"), *members(bundle, "listeners")]
    if sockets:
        rows = [
            (
                text(each, "transport") or text(each, "family"),
                text(each, "state"),
                endpoint(text(each, "local.ip"), number(each, "local.port")),
                endpoint(text(each, "peer.ip"), number(each, "peer.port")) if value(each, "peer") else "",
                text(each, "peer.name"),
                human_bytes(number(each, "sent")) if "sent" in each else "",
                human_bytes(number(each, "received")) if "received" in each else "",
            )
            for each in sockets[:_ROWS]
        ]
        heads = ("Transport", "State", "Local", "Peer", "Name", "Sent", "Received")
        yield (
            "Sockets",
            join([table(heads, rows, numbers=frozenset({5, 6})), _rest(len(sockets) + number(bundle, "sockets_cut"))]),
        )
    files = list(members(bundle, "files.open"))
    counts = value(bundle, "files.counts")
    if files or isinstance(counts, Mapping):
        told = counts if isinstance(counts, Mapping) else {}
        summed = tag("p", *(tag("span", f"{name} {count}") for name, count in told.items()), class_="tags")
        rows_of = [
            (number(each, "fd"), text(each, "kind"), _code(text(each, "path")), " ".join(texts(each, "flags")))
            for each in files[:_ROWS]
        ]
        shown = table(("fd", "Kind", "Path", "Flags"), rows_of, numbers=frozenset({0})) if rows_of else ""
        yield "Open files", join([summed, shown, _rest(len(files) + number(bundle, "files.cut"))])
    mappings = list(members(bundle, "mappings"))
    if mappings:
        rows_in = [
            (_code(text(each, "range")), text(each, "perms"), _code(text(each, "path")), text(each, "reason"))
            for each in mappings[:_ROWS]
        ]
        yield "Mappings", join([table(("Range", "Rights", "File", "Why"), rows_in), _rest(len(mappings))])


def _rest(count: int) -> Markup | str:
    return tag("p", f"{count - _ROWS:,} more are not shown", class_="soft") if count > _ROWS else ""
