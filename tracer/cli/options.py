"""Read what people type: filters, sizes and durations, each mistake answered with what would be right."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from ipaddress import ip_network
from pathlib import Path
from typing import Final

from tracer.cli.errors import CommandError, Exit
from tracer.cli.facts import names
from tracer.formats.privacy import KEY_LEAST, Privacy
from tracer.formats.redact import Redactor, RuleError, read_rules
from tracer.model import RING_KINDS, Kind
from tracer.pipeline.view import DEFAULT_KINDS, Filters

__all__ = ["duration", "filters", "pid_namespace", "privacy", "size"]

# What comes with another is not asked for by itself.
_EVENTS: Final = {
    kind.label: kind
    for kind in (*RING_KINDS, Kind.UPDATE)
    if kind not in {Kind.ATTEMPT, Kind.FLOW_END, Kind.TAIL, Kind.PAYLOAD}
} | {"dns": Kind.PAYLOAD}  # the events that come of it alone
_SIZE = re.compile(r"(\d+)\s*([kmg]?)(i?b)?", re.IGNORECASE)
_UNITS: Final = {"": 0, "k": 10, "m": 20, "g": 30}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS: Final = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_RULES_MOST: Final = 1 << 16  # bytes
_KEY_MOST: Final = 4096  # bytes
_PID_MOST: Final = 1 << 22  # PID_MAX_LIMIT of a 64-bit kernel
_ID_MOST: Final = (1 << 32) - 2


def _bad(option: str, value: object, right: str) -> CommandError:
    return CommandError(f"{option} {value!r}: {right}", Exit.USAGE)


def size(option: str, text: str, least: int, most: int) -> int:
    """Bytes, from ``64K``, ``8M`` or a plain number. Raises CommandError."""
    match = _SIZE.fullmatch(text.strip())
    value = int(match[1]) << _UNITS[match[2].lower()] if match and len(text) < 40 else -1
    if not least <= value <= most:
        raise _bad(option, text, f"give a size from {least >> 10}K to {most >> 20}M, such as 8M")
    return value


def duration(option: str, text: str) -> float:
    """Seconds, from ``10``, ``1.5s``, ``200ms``, ``5m`` or ``2h``. Raises CommandError."""
    match = _DURATION.fullmatch(text.strip())
    seconds = float(match[1]) * _SECONDS[match[2] or "s"] if match else 0.0
    if not 0 < seconds <= 366 * 86400:
        raise _bad(option, text, "give a time such as 10, 1.5s, 5m or 2h")
    return seconds


def _number(option: str, text: str, least: int, most: int, what: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise _bad(option, text, f"give {what} from {least} to {most}")
    return value


def _uid(text: str) -> int:
    if text.isdigit():
        return _number("--uid", text, 0, _ID_MOST, "a user id")
    # Not by the name service, which may ask the network.
    for uid, name in names("/etc/passwd").items():
        if name == text:
            return uid
    raise _bad("--uid", text, "there is no such user; give a name of /etc/passwd or a number")


def _netns(text: str) -> int:
    return _namespace("--netns", text, "net", "or a path such as /run/netns/NAME or /proc/PID/ns/net")


def pid_namespace(option: str, text: str) -> int:
    """The inode of a pid namespace, from what ``lsns -t pid`` prints or a path. Raises CommandError."""
    return _namespace(option, text, "pid", "or a path such as /proc/PID/ns/pid")


def _namespace(option: str, text: str, kind: str, paths: str) -> int:
    """An inode number as lsns(8) prints it, or the path of a namespace file."""
    if text.isdigit():
        name = "network" if kind == "net" else kind
        return _number(option, text, 1, _ID_MOST, f"the inode of a {name} namespace (see lsns -t {kind})")
    try:
        target = Path(text).readlink() if text.startswith("/proc/") else None
        if target is not None and (found := re.fullmatch(rf"{kind}:\[(\d+)\]", str(target))):
            return int(found[1])
        if target is None and text.startswith("/"):
            return Path(text).stat().st_ino
    except OSError as error:
        raise _bad(option, text, f"{(error.strerror or '').lower()}; give an inode or a path") from error
    raise _bad(option, text, f"give an inode (see lsns -t {kind}) {paths}")


def _event(text: str) -> Kind:
    try:
        return _EVENTS[text.strip()]
    except KeyError:
        raise _bad("--event", text, f"give one of {', '.join(_EVENTS)}") from None


def _cidr(text: str) -> str:
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        raise _bad("--cidr", text, "give a network such as 10.0.0.0/8 or 2001:db8::/32") from None


def _glob(option: str, text: str) -> str:
    if not text or len(text) > 4096:
        raise _bad(option, text[:40], "give a name, with * and ? for what may vary")
    return os.fsencode(text).decode(errors="backslashreplace")  # as the names are that it is to match


def _read(option: str, path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            found = file.read(most + 1)
    except OSError as error:
        raise _bad(option, str(path), f"{(error.strerror or '').lower()}; name a file that can be read") from error
    if len(found) > most:
        raise _bad(option, str(path), f"give a file of at most {most:,} bytes")
    return found


def privacy(redact: Path | None, *, truncate: bool, key: Path | None) -> Privacy:
    """What is taken out of events: ``redact`` is a file of more rules, or ``none``. Raises CommandError."""
    redactor: Redactor | None = None
    rules: Path | None = None
    if redact is None:
        redactor = Redactor()
    elif str(redact) != "none":
        rules = redact.absolute()
        text = _read("--redact", redact, _RULES_MOST).decode("utf-8", "backslashreplace")
        try:
            redactor = Redactor(read_rules(text.splitlines()))
        except RuleError as error:
            raise _bad("--redact", str(redact), str(error)) from error
    secret = b""
    if key is not None:
        secret = _read("--hash-users", key, _KEY_MOST)
        if len(secret) < KEY_LEAST:
            right = f"a key has {KEY_LEAST} bytes or more: make one with head -c 32 /dev/urandom"
            raise _bad("--hash-users", str(key), right)
    found = Privacy(redactor, truncate, secret, rules)
    found.load()
    return found


def filters(
    *,
    pid: Iterable[str] = (),
    children: bool = False,
    comm: Iterable[str] = (),
    exe: Iterable[str] = (),
    uid: Iterable[str] = (),
    port: Iterable[str] = (),
    cidr: Iterable[str] = (),
    event: Iterable[str] = (),
    netns: Iterable[str] = (),
) -> Filters:
    """The filters as typed, each value of its own; ``event`` values may hold commas. Raises CommandError."""
    pids = frozenset(_number("--pid", text, 1, _PID_MOST, "a pid") for text in pid)
    if children and not pids:
        raise CommandError("--children says whose: add --pid PID", Exit.USAGE)
    kinds = {_event(each) for text in event for each in text.split(",")}
    if Kind.CONNECT in kinds:
        kinds.add(Kind.ATTEMPT)
    if Kind.FLOW in kinds:
        kinds.add(Kind.FLOW_END)
    if Kind.CLOSE in kinds:
        kinds.add(Kind.TAIL)
    return Filters(
        kinds=frozenset(kinds) or DEFAULT_KINDS,
        pids=pids,
        children=children,
        comms=[_glob("--comm", text) for text in comm],
        exes=[_glob("--exe", text) for text in exe],
        uids=frozenset(_uid(text) for text in uid),
        ports=frozenset(_number("--port", text, 1, 65535, "a port") for text in port),
        cidrs=[_cidr(text) for text in cidr],
        netns=frozenset(_netns(text) for text in netns),
    )
