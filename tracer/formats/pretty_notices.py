"""What the tracer says of itself, in words: the session, its coverage, losses, the ledger."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tracer.formats.text import visible
from tracer.model import Notice, Session

__all__ = ["LOUD", "QUIET", "describe"]

LOUD: Final = "loud"  # something is missing: must not be overlooked
QUIET: Final = "quiet"  # all is well, said again


_MISSED: Final = {
    "processes": "processes forgotten in a full table",
    "flows": "connections forgotten in a full table",
    "unreadable": "how often probes were skipped can't be read",
    "polls": "looks that came late",
    "failed_connects": "failed connects not told",
    "failed_or_reset_unseen": "failed or reset connections never seen",
    "sock_diag_overruns": "times that ends of sockets found no room",
    "unheard_ends": "ends of sockets found out later",
    "exits_of_unknown": "exits of processes that nothing was known of",
    "sockets_beyond_table": "sockets that a full table did not take",
}
"""What is counted beside the programs that the kernel skipped, in words."""


def _listed(value: object) -> str:
    """Names or sentences, however they came: a list of them, or the keys of a mapping."""
    if isinstance(value, str):
        return value
    if isinstance(value, Iterable):
        return ", ".join(map(str, value))
    return str(value)


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)


def _clock(moment: int | str | None, offset: int) -> str:
    """The local time of a moment, in boottime ns or as text already."""
    if not isinstance(moment, int):
        return str(moment)
    second, rest = divmod(moment + offset, 1_000_000_000)
    return f"{time.strftime('%H:%M:%S', time.localtime(second))}.{rest // 1_000_000:03d}"


def _session_start(body: Mapping[str, Any], session: Session, _offset: int) -> tuple[str, str]:
    host = session.host
    cpus = _plural(host.cpus, "CPU")
    text = f"tracer {session.version} on {host.name}, kernel {host.kernel} {host.architecture}, {cpus}"
    started = body.get("session", {})
    for key, how in (("sudo_uid", " through sudo"), ("uid", "")):
        if key in started:
            return f"{text}, started by {session.users.get(started[key], started[key])}{how}", ""
    return text, ""


def _coverage(body: Mapping[str, Any], session: Session, _offset: int) -> tuple[str, str]:
    coverage = body.get("coverage", {})
    text = f"watching with {coverage.get('backend', session.backend)}{_fed(coverage)}"
    for what, value in (
        ("can't see", coverage.get("blind")),
        ("refused", coverage.get("refused")),
        ("can't count", coverage.get("uncounted")),
        ("left out, by pid", coverage.get("excluded")),
    ):
        if value:
            text += f"; {what}: {_listed(value)}"
    if coverage.get("fix"):
        text += f"; fix: {coverage['fix']}"
    return text, ""


def _fed(coverage: Mapping[str, Any]) -> str:
    looks = coverage.get("polling")
    if looks:  # no probes then
        return f", looking every {looks.get('shortest_ms')} to {looks.get('longest_ms')} ms"
    return f": {_plural(len(coverage.get('hooks', ())), 'probe')}"


def _confinement(body: Mapping[str, Any], _session: Session, _offset: int) -> tuple[str, str]:
    found = body.get("confinement", {})
    if not found.get("enabled"):
        return "NOT CONFINED: this tracer keeps its power (--no-sandbox)", LOUD
    lacking = [
        f"{name} {state}"
        for name, state in found.get("layers", {}).items()
        if state != "enforced" and (name, state) != ("user", "off")
    ]
    broker = found.get("broker", {})
    for what in ("broker", "opener"):
        layers = found.get(what, {}).get("layers", {})
        lacking += [f"{name} of the {what} {state}" for name, state in layers.items() if state != "enforced"]
    tries = found.get("tries", {})
    possible = [name for name, answer in tries.items() if answer == "possible"]
    kept = found.get("capabilities", ())
    text = f"confined as user {found.get('uid')}, {_listed(kept) if kept else 'no capability'}"
    text += f"; {_plural(len(tries) - len(possible), 'forbidden thing')} tried and refused"
    if broker.get("enabled"):
        text += f"; its broker: {_listed(broker.get('capabilities', ()))}"
    for what, names in (("NOT ENFORCED", lacking), ("STILL POSSIBLE", possible)):
        if names:
            text += f"; {what}: {_listed(names)}"
    return text, LOUD if lacking or possible else ""


def _loss(body: Mapping[str, Any], _session: Session, offset: int) -> tuple[str, str]:
    loss = body.get("loss", {})
    count, kind = loss.get("count"), loss.get("kind")
    number = f"{count:,}" if isinstance(count, int) else "an unknown number of"
    text = f"LOST {number}{f' {kind}' if kind else ''} record{'' if count == 1 else 's'}"
    if loss.get("stage"):
        text += f" at {loss['stage']}"
    if loss.get("first") is not None and loss.get("last") is not None:
        text += f" between {_clock(loss['first'], offset)} and {_clock(loss['last'], offset)}"
    if loss.get("cpus"):
        text += f" on CPU {_listed(loss['cpus'])}"
    return text, LOUD


def _flood(body: Mapping[str, Any], session: Session, offset: int) -> tuple[str, str]:
    flood = body.get("flood", {})
    between = f"between {_clock(flood.get('first'), offset)} and {_clock(flood.get('last'), offset)}"
    text = f"FLOOD: {flood.get('count', 0):,} {flood.get('kind')} counted, not told one by one, {between}"
    if flood.get("other"):
        return f"{text}; of users and programs beyond those that are counted apart", LOUD
    uid = flood.get("uid")
    text += f"; user {session.users.get(uid, uid)}"
    program = flood.get("executable") or flood.get("name")
    text += f", {program}" if program else ""
    group = flood.get("cgroup", {}).get("path")
    return f"{text}, in {group}" if group else text, LOUD


def _change(body: Mapping[str, Any], _session: Session, offset: int) -> tuple[str, str]:
    change = body.get("change", {})
    text = f"BACKEND LOST: {change.get('backend')}: {_listed(change.get('reasons', ()))}"
    first = _clock(change.get("first"), offset)
    if change.get("state") == "lost":
        return f"{text}; since {first} an unknown number of events is missing", LOUD
    last = _clock(change.get("last"), offset)
    return f"{text}; an unknown number of events is missing between {first} and {last}, this goes on after that", LOUD


def _ledger(body: Mapping[str, Any], _session: Session, _offset: int) -> tuple[str, str]:
    ledger = body.get("ledger", {})
    total = ledger.get("total", {})
    lost = total.get("lost", 0)
    text = f"ledger: {_plural(total.get('delivered', 0), 'event')}, {lost:,} lost"
    if lost:
        by_kind = {kind: row.get("lost", 0) for kind, row in ledger.get("by_kind", {}).items()}
        parts = [_counts(by_kind)] if any(by_kind.values()) else []
        stages = _counts({f"at {stage}": count for stage, count in total.get("lost_by_stage", {}).items()})
        text += f" ({'; '.join([*parts, stages] if stages else parts)})" if parts or stages else ""
    missed = ledger.get("missed", {})
    programs = {name: count for name, count in missed.get("programs", {}).items() if count}
    skipped = {name: count for name, count in programs.items() if name not in _MISSED}
    for what, counts in (("skipped by", skipped), ("no room for", missed.get("map_full", {}))):
        if any(counts.values()):
            text += f", {what} " + ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
    text += "".join(f", {_MISSED[name]}: {count:,}" for name, count in programs.items() if name in _MISSED)
    if ledger.get("balanced") is False:
        text += ", DOES NOT BALANCE"
    if missed.get("gaps"):
        text += f", {_plural(missed['gaps'], 'gap')} of which nobody knows what is missing"
    known = text
    if missed.get("uncounted"):
        text += f"; not counted: {_listed(missed['uncounted'])}"
        if known.endswith(", 0 lost"):
            return text, QUIET  # that nobody can count is said at the start, and no news
    elif ledger.get("complete") is False and known.endswith(", 0 lost"):
        text += ", not complete"
    return text, LOUD if lost or ledger.get("complete") is False or ledger.get("balanced") is False else QUIET


def _bytes(count: int) -> str:
    for unit, most in (("B", 1e3), ("kB", 1e6), ("MB", 1e9), ("GB", 1e12)):
        if count < most:
            return f"{count} B" if unit == "B" else f"{count / most * 1000:.1f} {unit}"
    return f"{count / 1e12:.1f} TB"


def _wire(body: Mapping[str, Any], _session: Session, _offset: int) -> tuple[str, str]:
    wire = body.get("wire", {})
    interface = wire.get("interface", {})
    text = f"wire: {interface.get('name') or interface.get('index')} in namespace {body.get('netns')}"
    for name in ("out", "in"):
        way = wire.get(name, {})
        kinds = {kind: count for kind, count in way.get("ownerless", {}).items() if count}
        parts = [f"{_bytes(way.get('owned', 0))} owned", *(f"{_bytes(count)} {kind}" for kind, count in kinds.items())]
        counted = f", {_bytes(way['counted'])} by its own count" if "counted" in way else ""
        text += f"; {name} {_bytes(way.get('total', 0))} ({', '.join(parts)}){counted}"
    return text, ""


def _bundle(body: Mapping[str, Any], _session: Session, _offset: int) -> tuple[str, str]:
    bundle = body.get("bundle", {})
    return f"bundle of {bundle.get('process', {}).get('name')} {bundle.get('target', {}).get('pid')}", ""


_DESCRIBE: Final[dict[str, Callable[[Mapping[str, Any], Session, int], tuple[str, str]]]] = {
    "tracer-session-start": _session_start,
    "tracer-coverage": _coverage,
    "tracer-confinement": _confinement,
    "tracer-loss": _loss,
    "tracer-backend": _change,
    "tracer-flood": _flood,
    "tracer-ledger": _ledger,
    "tracer-wire": _wire,
    "tracer-bundle": _bundle,
}


def describe(notice: Notice, session: Session, offset: int) -> tuple[str, str]:
    """Return a notice as one line of visible() text, and LOUD, QUIET or an empty string for how to show it.

    ``offset`` is wall clock minus CLOCK_BOOTTIME in ns. An action without words of its own comes out as its fields.
    """
    known = _DESCRIBE.get(notice.action)
    if known is not None:
        text, severity = known(notice.body, session, offset)
    else:
        text, severity = f"{notice.action.removeprefix('tracer-')}: {json.dumps(notice.body, default=str)}", ""
    return visible(text), severity
