"""A bundle as a page of text for people: one screen of what matters, with everything hostile in it made visible."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tracer.formats.text import cut, human_bytes, quote, visible

__all__ = ["render"]

_LABEL: Final = 13  # cells
_SOCKETS: Final = 12  # lines
_CHILDREN: Final = 12
_MAPPINGS: Final = 6
_LINEAGE: Final = 8
_BOLD, _LOUD, _PLAIN = "\x1b[1m", "\x1b[1;31m", "\x1b[0m"


def render(bundle: Mapping[str, Any], *, columns: int | None = None, colour: bool = False, fix: str = "") -> str:
    """The page, its last newline included: lines of at most ``columns`` cells (None: whole lines).

    ``fix`` is said where something was refused.
    """
    lines = []
    for label, text, loud in _rows(bundle, fix):
        head = f"{label:<{_LABEL}}" if label else " " * _LABEL
        shown = visible(text)
        if columns is not None:
            shown = cut(shown, max(columns - _LABEL, 20))
        if colour and (label == "process" or loud):
            shown = f"{_LOUD if loud else _BOLD}{shown}{_PLAIN}"
        lines.append(f"{head}{shown}".rstrip())
    return "\n".join(lines) + "\n"


_Row = tuple[str, str, bool]


def _rows(bundle: Mapping[str, Any], fix: str) -> Iterator[_Row]:
    process = bundle.get("process", {})
    target = bundle["target"]
    state = bundle.get("state", "")
    head = f"{process.get('name', '?')} {target['pid']}"
    head += " (kernel thread)" if bundle.get("kernel_thread") else ""
    yield "process", f"{head}, {state}" if state else head, False
    if "ended" in bundle:
        yield "", "IT ENDED while it was looked at: what is missing could not be read any more", True
    if "mixed" in bundle:
        yield "", "it went on to other programs while it was looked at: parts may be of different ones", True
    if state == "zombie":
        parent = process.get("parent", {}).get("pid") or next((each["pid"] for each in bundle.get("lineage", ())), 0)
        yield "", f"it has ended already, and waits for its parent {parent} to collect its status", True
    if "start" in process:
        yield "started", f"{_moment(process['start'])}, entity {process['entity_id']}", False
    if "vpid" in process and process["vpid"] != target["pid"]:
        yield "", f"in its own pid namespace it is {process['vpid']}", False
    yield from _program(bundle)
    yield from _origin(bundle)
    yield from _powers(bundle)
    yield from _place(bundle)
    yield from _files(bundle)
    yield from _sockets(bundle)
    yield from _mappings(bundle)
    yield from _children(bundle)
    if bundle.get("denied"):
        yield "denied", ", ".join(bundle["denied"]) + (f": {fix}" if fix else ""), True


def _program(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    process = bundle.get("process", {})
    found = bundle.get("executable")
    if found is not None:
        marks = [word for word in ("deleted", "memfd") if found.get(word)]
        yield "program", f"{found['path']}{' (' + ', '.join(marks) + ')' if marks else ''}", bool(marks)
        package = found.get("package")
        of = "no package"
        if package:
            of = f"package {package['name']} {package.get('version', '')} ({package['manager']})"
        place = f"device {found['device']}, inode {found['inode']}, {human_bytes(found['size'])}"
        yield "", f"{place}, {of}" if not marks else place, False
        if "sha256" in found:
            yield "", f"sha256 {found['sha256']}", False
    elif "executable" in process:
        yield "program", process["executable"], False
    if "args" in process:
        yield "command", _command(process["args"]), False
    if "working_directory" in bundle:
        yield "directory", bundle["working_directory"], False
    environment = bundle.get("environment")
    if environment is not None:
        values = environment.get("values")
        if values:
            shown = [f"{name}={value}" for name, value in values.items()]
            yield "environment", f"{len(shown)} variables", False
            yield from (("", each, False) for each in shown)
        elif environment["names"]:
            yield "environment", f"{len(environment['names'])} names: {' '.join(environment['names'])}", False


def _command(args: list[str]) -> str:
    """The arguments, without what a program that has put a title there has left of them."""
    kept = list(args)
    while len(kept) > 1 and not kept[-1]:
        kept.pop()
    return quote(kept)


def _origin(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    process, login = bundle.get("process", {}), bundle.get("login", {})
    parts = [f"{kind} {_named(process[kind])}" for kind in ("user", "group") if kind in process]
    parts += [f"login user {login['uid']}"] if "uid" in login else []
    parts += [f"audit session {login['audit_session']}"] if "audit_session" in login else []
    parts += [f"session {process['session_leader']['pid']}"] if "session_leader" in process else []
    parts += [f"terminal {login['terminal']}"] if "terminal" in login else []
    if parts:
        yield "identity", ", ".join(parts), False
    lineage = bundle.get("lineage", [])
    for number, each in enumerate(lineage[:_LINEAGE]):
        path = each.get("executable")
        text = f"{each['name']} {each['pid']}, since {_moment(each['start'])}{', ' + path if path else ''}"
        yield "lineage" if not number else "", text, False
    if len(lineage) > _LINEAGE:
        yield "", f"and {len(lineage) - _LINEAGE} above", False


def _powers(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    sets = bundle.get("capabilities")
    if sets is not None:
        effective, bounding = sets.get("effective", []), sets.get("bounding", [])
        text = _words(effective)
        if set(sets.get("permitted", ())) - set(effective):
            text += f"; could take {_words(sets['permitted'])}"
        for name in ("inheritable", "ambient"):
            text += f"; {name} {_words(sets[name])}" if sets.get(name) else ""
        text = f"all {len(effective)} that its bounding set has" if effective and effective == bounding else text
        yield "capabilities", text, False
    parts = []
    seccomp = bundle.get("seccomp")
    if seccomp is not None:
        count = seccomp.get("filters")
        parts.append(f"seccomp {seccomp['mode']}{f' ({count})' if count else ''}")
    if "no_new_privileges" in bundle:
        parts.append(f"no_new_privs {'on' if bundle['no_new_privileges'] else 'off'}")
    parts += [f"label {bundle['lsm_label']}"] if "lsm_label" in bundle else []
    if parts:
        yield "confinement", ", ".join(parts), False


def _words(names: Iterable[str]) -> str:
    return ", ".join(name.removeprefix("CAP_").lower() for name in names) or "none"


def _place(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    spaces = bundle.get("namespaces", {})
    if spaces:
        own = [f"{kind} {each['inode']}" for kind, each in spaces.items() if each.get("differs")]
        known = all("differs" in each for each in spaces.values())
        text = f"its own: {', '.join(own)}" if own else "all those of the machine" if known else "can't be compared"
        yield "namespaces", text, False
    group = bundle.get("cgroup")
    if group:
        parts = [f"{name.replace('_', ' ')} {group[name]}" for name in ("unit", "user_unit", "pod") if name in group]
        if "container" in group:
            parts.append(f"{group['container'].get('runtime', '')} container {group['container']['id'][:12]}".strip())
        yield "cgroup", ", ".join([group["path"], *parts]), False
    memory = bundle.get("memory", {})
    parts = [f"{human_bytes(memory[name])} {name}" for name in ("rss", "pss", "swap") if name in memory]
    if "threads" in bundle:
        parts.append(f"{bundle['threads']} thread{'s' if bundle['threads'] != 1 else ''}")
    if parts:
        yield "memory", ", ".join(parts), False
    bounds = bundle.get("limits", {})
    told = [f"{name} {_limit(bounds[name])}" for name in ("nofile", "nproc", "memlock", "core", "as") if name in bounds]
    if told:
        yield "limits", ", ".join(told), False


def _limit(both: list[int]) -> str:
    soft, hard = ("unlimited" if each < 0 else f"{each:,}" for each in both)
    return soft if soft == hard else f"{soft} (at most {hard})"


def _files(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    files = bundle.get("files")
    if files is None:
        return
    counts = files["counts"]
    whole = sum(count for kind, count in counts.items() if kind != "deleted")
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    yield "files", f"{whole} open{': ' + kinds if kinds else ''}", False
    named = [each for each in files["open"] if each["kind"] in ("regular", "directory", "memfd")]
    written = [each for each in named if {"O_WRONLY", "O_RDWR"} & set(each.get("flags", ()))]
    for what, these in (("deleted", [each for each in named if each.get("deleted")]), ("writes", written)):
        for path, count in list(Counter(each["path"] for each in these).items())[:_MAPPINGS]:
            yield "", f"{what} {path}{f' ({count} times)' if count > 1 else ''}", what == "deleted"


def _sockets(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    listeners = bundle.get("listeners", [])
    for number, each in enumerate(listeners[:_SOCKETS]):
        yield "listens" if not number else "", _socket(each), False
    yield from _more(listeners, _SOCKETS)
    sockets = sorted(bundle.get("sockets", []), key=lambda each: "peer" not in each)
    for number, each in enumerate(sockets[:_SOCKETS]):
        yield "sockets" if not number else "", _socket(each), False
    yield from _more(sockets, _SOCKETS)


def _socket(each: Mapping[str, Any]) -> str:
    text = f"{each['transport']} " if each.get("family") != "unix" else f"unix {each['transport']} "
    if "local" in each:
        text += _end(each["local"])
    text += f"→ {_end(each['peer'])} " if "peer" in each else ""
    text += each.get("path", "") and f"{each['path']} "
    text += f"{each['state']} " if "state" in each else ""
    if "sent" in each:
        text += f"{human_bytes(each['sent'])} out, {human_bytes(each['received'])} in "
    return f"{text}fd {each['fd']}"


def _end(end: Mapping[str, Any]) -> str:
    name = f" ({end['name']})" if end.get("name") else ""
    address = f"[{end['ip']}]" if ":" in end["ip"] else end["ip"]
    return f"{address}:{end['port']}{name} "


def _mappings(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    found = bundle.get("mappings", [])
    for number, each in enumerate(found[:_MAPPINGS]):
        text = f"{each['reason']}: {each.get('path', 'no file')} {each['range']} {each['perms']}"
        yield "mappings" if not number else "", text, True
    yield from _more(found, _MAPPINGS)


def _children(bundle: Mapping[str, Any]) -> Iterator[_Row]:
    flat = list(_flat(bundle.get("children", [])))
    for number, (depth, each) in enumerate(flat[:_CHILDREN]):
        args = _command(each["args"]) if each.get("args") else each.get("executable", "")
        yield "children" if not number else "", f"{'  ' * depth}{each['name']} {each['pid']}  {args}".rstrip(), False
    left = len(flat) - _CHILDREN + bundle.get("children_cut", 0)
    if left > 0:
        yield "", f"and {left:,} more", False


def _flat(tree: Iterable[Mapping[str, Any]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    waiting = [(0, each) for each in reversed(list(tree))]
    while waiting:
        depth, each = waiting.pop()
        yield depth, each
        waiting += [(depth + 1, child) for child in reversed(each.get("children", []))]


def _more(these: list[Any], shown: int) -> Iterator[_Row]:
    if len(these) > shown:
        yield "", f"and {len(these) - shown:,} more", False


def _named(of: Mapping[str, str]) -> str:
    return f"{of['name']} ({of['id']})" if "name" in of else of["id"]


def _moment(stamp: str) -> str:
    return f"{stamp[:10]} {stamp[11:19]} UTC"
