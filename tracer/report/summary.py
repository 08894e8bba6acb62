"""What a bundle and its events say of a tree of processes, in bounded memory: what both kinds of report show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tracer.report.fields import members, moment, number, text, texts, value
from tracer.report.words import ALTERED, DENIED, denied_what, ended, words

__all__ = ["Denial", "File", "Flow", "Note", "Process", "Summary", "Syscall", "summarize"]

_PROCESSES_MOST: Final = 20_000
_ROWS_MOST: Final = 20_000  # of each kind
_MOMENTS_MOST: Final = 1_000_000
_SYSCALLS: Final = "syscall-summary"
# What a process did to itself, to others or to the machine, beside running programs, talking and writing.
_NOTED: Final = frozenset(
    {
        "privilege-changed",
        "namespace-changed",
        "ptrace-attached",
        "memfd-created",
        "memory-made-executable",
        "module-loaded",
        "bpf-loaded",
        "filesystem-mounted",
        "signal-sent",
        "signal-received",
        "io-uring-used",
        "process-exec-failed",
    }
)
# What the story of a tree is made of, beside those.
_TOLD: Final = frozenset(
    {
        "process-executed",
        "process-exited",
        "process-forked",
        "connection-opened",
        "connection-accepted",
        "connection-failed",
        "dns-answered",
        "access-denied",
        *ALTERED,
    }
)
_MISSING: Final = frozenset({"tracer-loss", "tracer-gap", "tracer-backend", "tracer-flood"})
_OURS: Final = "tracer-"


@dataclass(slots=True)
class Process:
    """A process of the tree, or above it; times in ns since 1970, 0 if they are not known."""

    entity: str
    pid: int = 0
    name: str = ""
    executable: str = ""
    args: list[str] = field(default_factory=list)
    user: str = ""
    parent: str = ""
    start: int = 0
    end: int = 0
    exit: str = ""
    programs: list[str] = field(default_factory=list)
    events: int = 0
    within: bool = False  # in the tree, not only above it or named by another's line

    @property
    def label(self) -> str:
        """What to call it: what it runs, else its name."""
        return self.executable.rsplit("/", 1)[-1] or self.name or "?"


@dataclass(slots=True)
class Flow:
    """A connection or another flow, or a socket that listens; sizes in bytes."""

    entity: str
    transport: str
    direction: str
    local: tuple[str, int]
    remote: tuple[str, int]
    name: str = ""
    name_from: str = ""
    begun: int = 0
    ended: int = 0
    out: int = 0
    into: int = 0
    state: str = ""
    error: str = ""


@dataclass(slots=True)
class File:
    """What one process did to one path, and how often."""

    entity: str
    action: str
    path: str
    target: str
    requested: str
    count: int = 0
    first: int = 0


@dataclass(slots=True)
class Denial:
    """Something that a process was refused, and how often."""

    entity: str
    what: str
    syscall: str
    error: str
    layer: str
    count: int = 0
    first: int = 0


@dataclass(slots=True)
class Note:
    """Anything else worth a line."""

    entity: str
    action: str
    when: int
    words: str


@dataclass(slots=True)
class Syscall:
    """The calls of one system call; bucket i of the histogram has those that took [2^i, 2^(i+1)) ns."""

    name: str
    count: int = 0
    total_ns: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    histogram: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Summary:
    """All of it. ``cut`` has, by kind, how many were left out because there were too many."""

    root: str = ""
    lineage: list[str] = field(default_factory=list)
    processes: dict[str, Process] = field(default_factory=dict)
    flows: dict[tuple[str, str], Flow] = field(default_factory=dict)
    names: dict[str, set[str]] = field(default_factory=dict)
    askers: dict[str, Counter[str]] = field(default_factory=dict)
    files: dict[tuple[str, str, str, str], File] = field(default_factory=dict)
    denials: dict[tuple[str, str, str, str, str], Denial] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    story: list[Note] = field(default_factory=list)
    missing: list[Note] = field(default_factory=list)
    syscalls: dict[str, Syscall] = field(default_factory=dict)
    moments: list[tuple[int, str]] = field(default_factory=list)
    events: int = 0
    first: int = 0
    last: int = 0
    complete: bool | None = None
    cut: Counter[str] = field(default_factory=Counter)

    def children(self) -> dict[str, list[Process]]:
        """The known children of each process, by their start."""
        found: dict[str, list[Process]] = {}
        for process in self.processes.values():
            if process.parent:
                found.setdefault(process.parent, []).append(process)
        for each in found.values():
            each.sort(key=lambda one: (one.start, one.pid))
        return found

    @property
    def size(self) -> int:
        """How many processes the tree has, with those that were cut."""
        return sum(process.within for process in self.processes.values()) + self.cut["processes"]

    def named(self, entity: str) -> str:
        """A process as it stands in a table."""
        process = self.processes.get(entity)
        return f"{process.label} ({process.pid})" if process is not None else "?"


def summarize(bundle: Mapping[str, Any], events: Iterable[Mapping[str, Any]]) -> Summary:
    """Take in a bundle and events in ECS, of whatever shape; the events need not be in order."""
    made = Summary()
    taker = _Taker(made)
    taker.bundle(bundle)
    for event in events:
        taker.event(event)
    taker.end()
    return made


class _Taker:
    """Fills a summary."""

    def __init__(self, made: Summary) -> None:
        self._made = made
        self._complete: dict[str, bool] = {}  # by run, as its newest ledger says

    def end(self) -> None:
        """All was taken."""
        if self._complete:
            self._made.complete = all(self._complete.values())

    def bundle(self, bundle: Mapping[str, Any]) -> None:
        process = value(bundle, "process")
        self._made.root = self._process(process)
        if self._made.root:
            self._made.processes[self._made.root].within = True
        else:
            self._made.root = text(bundle, "target.entity_id")
        below = self._made.root
        for above in members(bundle, "lineage"):
            entity = self._process(above)
            if entity:
                self._made.lineage.append(entity)
                if below in self._made.processes and not self._made.processes[below].parent:
                    self._made.processes[below].parent = entity
                below = entity
        waiting = [(self._made.root, child) for child in members(bundle, "children")]
        while waiting:
            parent, child = waiting.pop()
            entity = self._process(child)
            if entity:
                known = self._made.processes[entity]
                known.parent, known.within = known.parent or parent, True
                waiting += [(entity, each) for each in members(child, "children")]

    def _process(self, told: Any) -> str:
        """Keep what an object of a process says, and of its parent; its entity id, empty if it can't be kept."""
        entity = text(told, "entity_id")
        if not entity:
            return ""
        known = self._made.processes.get(entity)
        if known is None:
            if len(self._made.processes) >= _PROCESSES_MOST:
                self._made.cut["processes"] += 1
                return ""
            known = self._made.processes[entity] = Process(entity)
        known.pid = known.pid or number(told, "pid")
        known.name = text(told, "name") or known.name
        program = text(told, "executable")
        if program:
            known.executable = program
            if program not in known.programs and len(known.programs) < 16:
                known.programs.append(program)
        known.args = texts(told, "args") or known.args
        known.user = text(told, "user.name") or text(told, "user.id") or known.user
        known.start = known.start or moment(text(told, "start")) or 0
        known.parent = known.parent or text(told, "parent.entity_id")
        return entity

    def event(self, event: Mapping[str, Any]) -> None:
        made = self._made
        action = text(event, "event.action")
        when = moment(text(event, "@timestamp")) or 0
        if action.startswith(_OURS):
            self._ours(event, action, when)
            return
        entity = self._process(value(event, "process"))
        made.events += 1
        if when:
            made.first = min(made.first or when, when)
            made.last = max(made.last, when)
        known = made.processes.get(entity)
        if known is not None:
            known.events += 1
            known.within = True
            self._parent(event)
        kind = self._take(event, action, entity, when)
        if action in _TOLD or action in _NOTED:
            self._note(made.story, Note(entity, action, when, words(event, action)))
        if when and len(made.moments) < _MOMENTS_MOST:
            made.moments.append((when, kind))

    def _parent(self, event: Mapping[str, Any]) -> None:
        parent = value(event, "process.parent")
        above = text(parent, "entity_id")
        if above and above not in self._made.processes:
            self._process(parent)

    def _take(self, event: Mapping[str, Any], action: str, entity: str, when: int) -> str:
        """Sort an event in; the kind by which the timeline shows it."""
        if action in ALTERED:
            self._file(event, action, entity, when)
            return "file"
        if action == DENIED:
            self._denial(event, entity, when)
            return "refused"
        if action == "dns-answered":
            self._answer(event, entity)
            return "network"
        if action.startswith(("connection-", "socket-")):
            self._flow(event, action, entity, when)
            return "network"
        return self._take_other(event, action, entity, when)

    def _take_other(self, event: Mapping[str, Any], action: str, entity: str, when: int) -> str:
        if action == "process-exited":
            self._exit(event, entity, when)
        elif action == _SYSCALLS:
            self._syscalls(event)
        elif action in _NOTED:
            self._note(self._made.notes, Note(entity, action, when, words(event, action)))
        if action == "process-exec-failed":
            return "refused"
        return "process" if action.startswith("process-") else "other"

    def _note(self, notes: list[Note], note: Note) -> None:
        if len(notes) < _ROWS_MOST:
            notes.append(note)
        else:
            self._made.cut["notes"] += 1

    def _exit(self, event: Mapping[str, Any], entity: str, when: int) -> None:
        known = self._made.processes.get(entity)
        if known is None:
            return
        known.end = when
        known.exit = ended(event) or "ended"

    def _flow(self, event: Mapping[str, Any], action: str, entity: str, when: int) -> None:
        made = self._made
        number_of = text(event, "tracer.flow.id") or text(event, "tracer.socket.id")
        listens = action == "socket-listening"
        source = (text(event, "source.ip"), number(event, "source.port"))
        destination = (text(event, "destination.ip"), number(event, "destination.port"))
        key = (entity, number_of or f"{source}{destination}{text(event, 'network.transport')}")
        known = made.flows.get(key)
        if known is None:
            if len(made.flows) >= _ROWS_MOST:
                made.cut["flows"] += 1
                return
            inward = text(event, "network.direction") == "ingress"
            local, remote = (destination, source) if inward else (source, destination)
            known = made.flows[key] = Flow(
                entity,
                text(event, "network.transport"),
                "listens" if listens else text(event, "network.direction"),
                local,
                remote,
                begun=when,
            )
        domain = text(event, "destination.domain")
        if domain and domain != known.name:
            known.name, known.name_from = domain, text(event, "tracer.name.from")
            self._name(domain, destination[0], entity)
        inward = known.direction == "ingress"
        out, into = ("destination", "source") if inward else ("source", "destination")
        known.out = max(known.out, number(event, f"{out}.bytes"))
        known.into = max(known.into, number(event, f"{into}.bytes"))
        known.begun = min(known.begun or when, when)
        known.error = text(event, "error.code") or known.error
        if action == "connection-closed":
            known.ended = when
        if action != "connection-update" or not known.state:
            known.state = action.removeprefix("connection-").removeprefix("socket-")

    def _name(self, name: str, address: str, entity: str) -> None:
        made = self._made
        if name not in made.names:
            if len(made.names) >= _ROWS_MOST:
                made.cut["names"] += 1
                return
            made.names[name], made.askers[name] = set(), Counter()
        if address and len(made.names[name]) < 64:
            made.names[name].add(address)
        made.askers[name][entity] += 1

    def _answer(self, event: Mapping[str, Any], entity: str) -> None:
        question = text(event, "dns.question.name")
        if not question:
            return
        code = text(event, "dns.response_code")
        addresses = texts(event, "dns.resolved_ip") or ([code] if code and code != "NOERROR" else [""])
        for address in addresses[:64]:
            self._name(question.lower(), address, entity)

    def _file(self, event: Mapping[str, Any], action: str, entity: str, when: int) -> None:
        path, target = text(event, "file.path"), text(event, "file.target_path")
        known = self._made.files.get((entity, action, path, target))
        if known is None:
            if len(self._made.files) >= _ROWS_MOST:
                self._made.cut["files"] += 1
                return
            known = File(entity, action, path, target, text(event, "tracer.file.requested"), first=when)
            self._made.files[entity, action, path, target] = known
        known.count += 1

    def _denial(self, event: Mapping[str, Any], entity: str, when: int) -> None:
        key = (
            entity,
            denied_what(event),
            text(event, "tracer.denied.syscall"),
            text(event, "error.code"),
            text(event, "tracer.denied.layer") or "unknown",
        )
        known = self._made.denials.get(key)
        if known is None:
            if len(self._made.denials) >= _ROWS_MOST:
                self._made.cut["denials"] += 1
                return
            known = self._made.denials[key] = Denial(*key, first=when)
        known.count += 1

    def _syscalls(self, event: Mapping[str, Any]) -> None:
        for told in members(event, "tracer.syscalls"):
            name = text(told, "name")
            if not name or (name not in self._made.syscalls and len(self._made.syscalls) >= 1024):
                continue
            known = self._made.syscalls.setdefault(name, Syscall(name))
            known.count += number(told, "count")
            known.total_ns += number(told, "total_ns")
            errors = value(told, "errors")
            if isinstance(errors, Mapping):
                known.errors.update({str(error): number(errors, error) for error in errors if "." not in str(error)})
            counts = value(told, "histogram")
            for bucket, count in enumerate(counts[:64] if isinstance(counts, list) else ()):
                if bucket >= len(known.histogram):
                    known.histogram.append(0)
                known.histogram[bucket] += count if isinstance(count, int) else 0

    def _ours(self, event: Mapping[str, Any], action: str, when: int) -> None:
        if action == "tracer-ledger":
            told = value(event, "tracer.ledger.complete")
            if isinstance(told, bool):
                self._complete[text(event, "agent.ephemeral_id")] = told
        elif action in _MISSING:
            self._note(self._made.missing, Note("", action, when, words(event, action)))
