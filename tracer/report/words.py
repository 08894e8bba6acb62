"""What an event in ECS says, in a line of words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from tracer.formats.text import quote
from tracer.report.fields import integer, number, text, texts, value

__all__ = ["ALTERED", "DENIED", "denied_what", "ended", "endpoint", "words"]

ALTERED: Final = frozenset(
    {
        "file-opened-for-writing",
        "file-created",
        "file-deleted",
        "file-renamed",
        "file-linked",
        "file-mode-changed",
        "file-owner-changed",
    }
)
"""The actions of events of files."""

_MEMBERS: Final = ("privilege", "namespaces", "ptrace", "memory", "bpf", "signal")  # below `tracer`

DENIED: Final = "access-denied"
"""The action of an event of something that was refused."""


def words(event: Mapping[str, Any], action: str) -> str:
    """What an event says beside its time, its process and its action."""
    if action.startswith("connection-"):
        return _route(event)
    if action in ALTERED:
        target = text(event, "file.target_path")
        return text(event, "file.path") + (f" → {target}" if target else "")
    return _SAYS.get(action, _other)(event)


def ended(event: Mapping[str, Any]) -> str:
    """How a process ended."""
    signal, code = integer(event, "tracer.process.signal"), integer(event, "process.exit_code")
    if signal is not None:
        return f"killed by {text(event, 'tracer.process.signal_name') or f'signal {signal}'}"
    return f"code {code}" if code is not None else ""


def endpoint(address: str, port: int) -> str:
    """An end of a flow as people write it."""
    if not address:
        return f"port {port}" if port else "?"
    inner = f"[{address}]" if ":" in address else address
    return f"{inner}:{port}" if port else address


def denied_what(event: Mapping[str, Any]) -> str:
    """The path or address that was refused."""
    told = value(event, "tracer.denied")
    address = text(told, "address")
    return text(told, "path") or (endpoint(address, number(told, "port")) if address else text(event, "file.path"))


def _executed(event: Mapping[str, Any]) -> str:
    return quote(texts(event, "process.args")) or text(event, "process.executable")


def _not_executed(event: Mapping[str, Any]) -> str:
    return f"{text(event, 'tracer.exec.requested')}: {text(event, 'error.code')}"


def _route(event: Mapping[str, Any]) -> str:
    """From where to where, and what came of it."""
    domain, error = text(event, "destination.domain"), text(event, "error.code")
    ends = [endpoint(text(event, f"{end}.ip"), number(event, f"{end}.port")) for end in ("source", "destination")]
    named = f" ({domain})" if domain else ""
    return f"{text(event, 'network.transport')} {ends[0]} → {ends[1]}{named}{': ' if error else ''}{error}"


def _listening(event: Mapping[str, Any]) -> str:
    where = endpoint(text(event, "source.ip"), number(event, "source.port"))
    return f"{text(event, 'network.transport')} {where}"


def _answered(event: Mapping[str, Any]) -> str:
    found = texts(event, "dns.resolved_ip") or [text(event, "dns.response_code")]
    return f"{text(event, 'dns.question.name')}: {', '.join(found)}"


def _refused(event: Mapping[str, Any]) -> str:
    return f"{text(event, 'tracer.denied.syscall')} {denied_what(event)}: {text(event, 'error.code')}".lstrip()


def _lost(event: Mapping[str, Any]) -> str:
    told = value(event, "tracer.loss")
    return f"{number(told, 'count'):,} of {text(told, 'kind')} lost at {text(told, 'stage')}"


def _missing(event: Mapping[str, Any]) -> str:
    exact = value(event, "tracer.gap.exact") is True
    what = "no line is missing, but nobody looked" if exact else "an unknown number of lines is missing"
    return f"{text(event, 'tracer.gap.reason')}: {what}"


def _flood(event: Mapping[str, Any]) -> str:
    told = value(event, "tracer.flood")
    who = text(told, "executable") or text(told, "name")
    of = (
        f" of user {number(told, 'uid')}{f', {who} among them' if who else ''}"
        if integer(told, "uid") is not None
        else ""
    )
    return f"{number(told, 'count'):,} of {text(told, 'kind')}{of} were counted, not told one by one"


def _changed(event: Mapping[str, Any]) -> str:
    return "; ".join(texts(event, "tracer.change.reasons")) or text(event, "tracer.change.state")


def _other(event: Mapping[str, Any]) -> str:
    """The members of what such an event may have, in a row."""
    parts = [text(event, "tracer.call.name"), text(event, "file.path") or text(event, "file.name")]
    target = text(event, "file.target_path")
    parts.append(f"→ {target}" if target else "")
    for name in _MEMBERS:
        found = value(event, f"tracer.{name}")
        if isinstance(found, Mapping):
            parts += [f"{key}={_brief(each)}" for key, each in found.items()]
        elif isinstance(found, list):
            parts.append(f"{name}={_brief(found)}")
    return " ".join(filter(None, parts)) or text(event, "error.code")


def _brief(told: Any) -> str:
    if isinstance(told, Mapping):
        return ",".join(f"{key}:{_brief(each)}" for key, each in list(told.items())[:8])
    if isinstance(told, list):
        return ",".join(_brief(each) for each in told[:16])
    return str(told)[:256]


_SAYS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "process-executed": _executed,
    "process-running": _executed,
    "process-exited": ended,
    "process-exec-failed": _not_executed,
    "socket-listening": _listening,
    "dns-answered": _answered,
    DENIED: _refused,
    "tracer-loss": _lost,
    "tracer-gap": _missing,
    "tracer-backend": _changed,
    "tracer-flood": _flood,
}
