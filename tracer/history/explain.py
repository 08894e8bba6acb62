"""Say how the process of an event is known: each link of the evidence, from what the stream itself says."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tracer.history.gather import Beginning, Context, Found
from tracer.model import entity_id
from tracer.report.fields import integer, moment, number, text, texts, value
from tracer.report.words import words

__all__ = ["Explanation", "Link", "explain"]

_CHAIN_MOST: Final = 64
_PROBED: Final = ("core", "bcc")

# Which programs feed an action, as the coverage record names them.
_PROGRAMS: Final[Mapping[str, tuple[str, ...]]] = {
    "process-executed": ("process_exec",),
    "process-forked": ("process_fork",),
    "process-exited": ("process_exit",),
    "process-exec-failed": ("exit_execve", "exit_execveat"),
    "connection-opened": ("exit_connect", "socket_state_change"),
    "connection-failed": ("exit_connect", "socket_state_change"),
    "connection-attempted": ("exit_connect", "socket_state_change"),
    "connection-accepted": ("exit_accept", "exit_accept4"),
    "connection-closed": ("socket_state_change",),
    "socket-listening": ("exit_listen",),
}

_WITH_CONNECTIONS: Final = ("", "tcp")  # flows without connections are told when anything moves, by whatever program

_ATTRIBUTIONS: Final = {
    "kernel": "the kernel side took the socket's owner in the owner's own context, while that process made the call: "
    "not from whatever process an interrupt had stopped",
    "cookie": "the socket has a number that is never used again (its cookie), and the process was found by that",
    "inode": "a process was found that had a descriptor of this socket's inode when it was looked at: who else has "
    "one, or had one a moment before, is not known by that",
    "kernel-socket": "the socket is one of the kernel's own, or one of its threads uses it: no process is its owner",
}

_QUALITIES: Final = {
    "approximate": "the time is that of the look that found it, so order and durations are not exact, and with netlink "
    "what is run was read right after the exec",
    "no-status": "with which status it ended is not known",
    "no-program": "what the process ran when it ended is not known",
    "no-totals": "bytes, retransmits and how the socket ended are not known",
}


class Link(NamedTuple):
    """A link of the chain: what it is about, what the stream says of it, and the number of the event that says so."""

    about: str
    says: str
    sequence: int | None = None


class Explanation(NamedTuple):
    """How the process of an event is known; ``doubts`` is what weakens that, and is empty if nothing does.

    ``sure`` is whether the kernel itself said whose it is, and nothing was lost meanwhile that is told of.
    """

    event: dict[str, Any]
    process: dict[str, Any] | None
    chain: list[Link]
    doubts: list[str]
    sure: bool


def explain(found: Found, around: Context) -> Explanation:
    """Explain an event by what is around it. A stream that was cut or filtered gives fewer links, never wrong ones."""
    event = found.event
    told = value(event, "process")
    chain = [*_event(found, around)]
    doubts: list[str] = []
    if isinstance(told, Mapping) and told.get("entity_id"):
        chain += [*_owner(event, around), *_identity(event, around, doubts), *_beginning(event, around)]
        chain += _parents(told, around)
    else:
        chain += _nobody(event)
    doubts += _quality(event)
    chain += _interval(found, around, doubts)
    backend = text(event, "tracer.backend")
    known = text(event, "tracer.attribution") in ("", "kernel", "cookie")
    return Explanation(
        {
            "action": text(event, "event.action"),
            "time": text(event, "@timestamp"),
            "sequence": found.sequence,
            "run": found.run,
            **({"file": found.file, "line": found.line} if found.line else {}),
        },
        _named(told) if isinstance(told, Mapping) else None,
        chain,
        doubts,
        sure=bool(told) and known and backend in _PROBED and not doubts,
    )


def _named(told: Mapping[str, Any]) -> dict[str, Any]:
    return {name: told[name] for name in ("pid", "entity_id", "name", "executable", "start") if name in told}


def _event(found: Found, around: Context) -> Iterator[Link]:
    event = found.event
    action, backend = text(event, "event.action"), text(event, "tracer.backend")
    said = words(event, action)
    yield Link("event", f"{action}{f': {said}' if said else ''}", found.sequence)
    hooks = value(around.coverage, "tracer.coverage.hooks")
    hooks = hooks if isinstance(hooks, Mapping) else {}
    programs = _PROGRAMS.get(action, ()) if text(event, "network.transport") in _WITH_CONNECTIONS else ()
    used = [f"{program} at {hooks[program]}" for program in programs if program in hooks]
    if value(event, "tracer.snapshot") is True:
        yield Link("source", f"the look at what was there before the start (backend {backend})")
    elif used:
        yield Link("source", f"backend {backend}: {', '.join(used)}", integer(around.coverage, "event.sequence"))
    elif backend:
        yield Link("source", f"backend {backend}{'' if around.coverage else '; the coverage record is not here'}")


def _owner(event: Mapping[str, Any], around: Context) -> Iterator[Link]:
    """How the event came to its process."""
    action, backend = text(event, "event.action"), text(event, "tracer.backend")
    attribution = text(event, "tracer.attribution")
    if attribution:
        says = _ATTRIBUTIONS.get(attribution, "in a way that this version does not know")
        if attribution == "kernel" and action == "connection-closed":
            says += "; a socket keeps its owner until it is closed, also when that process has gone"
        yield Link("owner", f"{attribution}: {says}")
    elif value(event, "tracer.snapshot") is True:
        yield Link("owner", "it was asked for each process what it is and has: nothing had to be attributed")
    elif backend in _PROBED:
        yield Link("owner", "the probe ran in the process itself, or in its parent while that made it")
    elif backend == "netlink":
        yield Link("owner", "the kernel's message names the pid; what the process is was read from /proc after that")
    elif backend == "procfs":
        yield Link("owner", "it was found in /proc, which was looked at again and again")
    moved = text(event, "event.action") == "connection-owner-changed"
    if moved:
        yield Link("owner", "another process had opened or accepted it before: see the earlier lines of this socket")
    blind = texts(around.coverage, "tracer.coverage.blind")
    if action == "connection-accepted" and any("accepted" in each for each in blind):
        yield Link("blind", "; ".join(each for each in blind if "accepted" in each))


def _identity(event: Mapping[str, Any], around: Context, doubts: list[str]) -> Iterator[Link]:
    """Whether the entity id is that of boot, pid and start."""
    entity, pid = text(event, "process.entity_id"), number(event, "process.pid")
    start, boot = around.start_ns, text(event, "host.boot.id")
    label = text(event, "process.name")
    yield Link(
        "process", f"pid {pid}, entity {entity}, {text(event, 'process.executable') or label or 'program unknown'}"
    )
    try:
        raw = uuid.UUID(boot).bytes if boot else None
    except ValueError:
        raw = None
    if start is None or raw is None:
        yield Link("identity", "no line tells the exact start of this process, so its entity id can't be made again")
    elif entity_id(raw, pid, start) == entity:
        yield Link(
            "identity", f"boot, pid and start ({start} ns after the boot) give this entity id: made again, it agrees"
        )
    else:
        doubts.append("the entity id is not that of boot, pid and start: the line was changed, or made elsewhere")


def _beginning(event: Mapping[str, Any], around: Context) -> Iterator[Link]:
    """Which lines tell of the process itself."""
    entity = text(event, "process.entity_id")
    began = around.beginnings.get(entity)
    own = integer(event, "event.sequence")
    if began is None:
        yield Link("beginning", _untold(around))
        return
    if began.sequence != own:
        yield Link("beginning", _how(began), began.sequence)
    ran = around.ran
    if ran is not None and ran != began and ran.sequence != own:
        yield Link("program", f"it ran {ran.executable or ran.name} from then on", ran.sequence)


def _how(began: Beginning) -> str:
    if began.action == "process-running":
        return "it was there before the start: the look at all processes found it"
    if began.action == "process-forked":
        return "its parent made it"
    return f"it ran {began.executable or began.name}: the first that is told of it"


def _untold(around: Context) -> str:
    coverage = value(around.coverage, "tracer.coverage")
    asked = texts(coverage, "filters.event")
    why = []
    if asked and "fork" not in asked:
        why.append("forks were not asked for")
    if value(coverage, "snapshot") is False:
        why.append("what was there before the start was not looked at")
    if coverage is None:
        why.append("the beginning of this run is not in these files")
    return "no earlier line tells of its beginning" + (f": {', '.join(why)}" if why else "")


def _parents(told: Mapping[str, Any], around: Context) -> Iterator[Link]:
    """Who made it, who made that one, and so on as far as the stream says."""
    parent = value(told, "parent")
    entity = text(parent, "entity_id")
    if not entity:
        yield Link("parent", "is not told")
        return
    name = text(parent, "executable") or text(parent, "name")
    shown = f"{number(parent, 'pid')} {name}".rstrip()
    seen = {text(told, "entity_id")}
    while entity and entity not in seen and len(seen) < _CHAIN_MOST:
        seen.add(entity)
        began = around.beginnings.get(entity)
        if began is None:
            yield Link("parent", f"{shown}, entity {entity}: as its child's lines say, it has none of its own before")
            return
        yield Link(
            "parent", f"{began.pid} {began.executable or began.name}, entity {entity}: {_how(began)}", began.sequence
        )
        entity, shown = began.parent, ""


def _nobody(event: Mapping[str, Any]) -> Iterator[Link]:
    """Why an event has no process."""
    action = text(event, "event.action")
    if action.startswith("tracer-"):
        yield Link("owner", "this is what the tracer says of itself: it has no process")
    elif text(event, "tracer.attribution") == "kernel-socket":
        yield Link("owner", f"kernel-socket: {_ATTRIBUTIONS['kernel-socket']}")
    elif action == "connection-accepted":
        yield Link("owner", "no process: it was accepted in a way that isn't seen, and nobody is guessed")
    else:
        yield Link("owner", "no process: whose it is was not known, and nobody is guessed")


def _quality(event: Mapping[str, Any]) -> Iterator[str]:
    if value(event, "tracer.late") is True:
        yield "late: the record came too late to be put in order, so lines before it may have happened after it"
    for quality in texts(event, "tracer.quality"):
        yield f"{quality}: {_QUALITIES.get(quality, 'this version does not know what that means')}"
    if text(event, "tracer.attribution") == "inode":
        yield "inode: the owner was looked for and found, not told by the kernel as it happened"
    for name, what in (("truncated", "cut"), ("redacted", "with secrets taken out")):
        told = [each for each in texts(event, f"tracer.{name}") if "process" in each]
        if told:
            yield f"{what}: {', '.join(told)}"


def _interval(found: Found, around: Context, doubts: list[str]) -> Iterator[Link]:
    """What the ledgers before and after the event say, and what is said to be lost while it happened."""
    if around.lines == 0:
        doubts.append("only this line was looked at: what the rest of the stream says may weaken it")
        return
    if text(found.event, "event.action") == "tracer-coverage":
        return
    before, after = around.before, around.after
    if after is None:
        doubts.append("no ledger follows in this run: whether anything was lost meanwhile is not told")
    else:
        yield _account(before, after, doubts)
    when = moment(text(found.event, "@timestamp")) or 0
    for told in around.missing:
        name = text(told, "event.action")
        first, last = (moment(text(told, f"tracer.{part}.{end}")) for part, end in _ends(name))
        if first is not None and first <= when <= (last if last is not None else when):
            doubts.append(
                f"{name}, event {number(told, 'event.sequence')}: {words(told, name)}, between times that this is in"
            )


def _ends(action: str) -> tuple[tuple[str, str], tuple[str, str]]:
    part = {"tracer-loss": "loss", "tracer-gap": "gap", "tracer-flood": "flood"}.get(action, "change")
    return (part, "first"), (part, "last")


def _account(before: Mapping[str, Any] | None, after: Mapping[str, Any], doubts: list[str]) -> Link:
    lost = _since(before, after, "tracer.ledger.total.lost")
    kinds = value(after, "tracer.ledger.by_kind")
    shares = {
        str(kind): _since(before, after, f"tracer.ledger.by_kind.{kind}.lost")
        for kind in (kinds if isinstance(kinds, Mapping) else ())
    }
    missed = _missed(after) - _missed(before)
    start = "the start" if before is None else f"event {number(before, 'event.sequence')}"
    end = number(after, "event.sequence")
    span = f"between {start} and event {end}"
    if value(after, "tracer.ledger.balanced") is False:
        doubts.append(f"the ledger that is event {end} does not balance: something is missing that nobody counted")
    if lost > 0:
        told = ", ".join(f"{count:,} of {kind}" for kind, count in shares.items() if count > 0)
        doubts.append(f"{lost:,} records were lost {span}{f': {told}' if told else ''}; this one was not")
    if missed > 0:
        doubts.append(f"{missed:,} times {span} the kernel skipped a program or had no room in a table")
    says = "nothing was lost" if lost <= 0 and missed <= 0 else "not all that happened was delivered"
    return Link("ledger", f"{span} {says}", end)


def _since(before: Mapping[str, Any] | None, after: Mapping[str, Any], path: str) -> int:
    return number(after, path) - number(before, path)


def _missed(ledger: Mapping[str, Any] | None) -> int:
    """How often something never became an attempt."""
    total = number(ledger, "tracer.ledger.missed.gaps")
    for name in ("programs", "map_full"):
        found = value(ledger, f"tracer.ledger.missed.{name}")
        if isinstance(found, Mapping):
            total += sum(each for each in found.values() if isinstance(each, int))
    return total
