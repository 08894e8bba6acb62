"""Render events as JSON Lines in the Elastic Common Schema 9.4, with our own fields under ``tracer``."""

from __future__ import annotations

import errno
import time
from base64 import b64encode
from collections.abc import Callable
from functools import lru_cache
from signal import Signals
from typing import Any, Final

import orjson

from tracer.model import (
    NS_PER_TICK,
    TCP_STATES,
    UNSET_ID,
    Event,
    ExecFailed,
    Flag,
    Image,
    Kind,
    Notice,
    Parent,
    Process,
    ProcessEvent,
    ProcessExited,
    Role,
    Session,
    SocketEvent,
)

__all__ = ["ECS_VERSION", "LINE_MOST", "SCHEMA", "Ecs", "stamp"]

ECS_VERSION: Final = "9.4.0"
SCHEMA: Final = 1
LINE_MOST: Final = 32_000  # bytes: Fluent Bit stops following a file at a line over 32 KiB
_ARGS_MOST: Final = 12_000  # bytes of arguments, escaped, when a line would be too long
_CHEAP: Final = 4_000  # bytes of data that can't make a line too long, however they are escaped

_dumps = orjson.dumps
_Fragment = orjson.Fragment

_PROCESS_ACTIONS: Final[dict[Kind, tuple[str, dict[str, Any]]]] = {
    Kind.EXEC: ("process-executed", {"kind": "event", "category": ["process"], "type": ["start"]}),
    Kind.FORK: ("process-forked", {"kind": "event", "category": ["process"], "type": ["start"]}),
    Kind.PROCESS_FOUND: ("process-running", {"kind": "state", "category": ["process"], "type": ["info"]}),
}
_FLAG_NAMES: Final = {
    Flag.DELETED: "deleted",
    Flag.DETACHED: "memfd",
    Flag.EXECFD: "descriptor",
    Flag.SCRIPT: "script",
    Flag.KTHREAD: "kernel-thread",
}
_TRUNCATED_NAMES: Final = {
    Flag.TRUNCATED_EXE: "process.executable",
    Flag.TRUNCATED_CWD: "process.working_directory",
    Flag.TRUNCATED_ARGS: "process.args",
    Flag.TRUNCATED_FILE: "tracer.process.requested",
    Flag.FAULT_ARGS: "process.args",
}


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def stamp(ns: int) -> str:
    """A wall-clock time in ns since 1970 as RFC 3339 in UTC."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return f"{_second(seconds)}.{rest:09d}Z"


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode(errors="backslashreplace")


def _error_name(number: int) -> str:
    return errno.errorcode.get(number, str(number))


class Ecs:
    """A line an event. ``offset`` is wall clock minus CLOCK_BOOTTIME in ns, ``sequence`` the line's number."""

    def __init__(self, session: Session) -> None:
        """Lines carry the session's host and agent."""
        host = session.host
        self._page = host.page_size
        self._users = {uid: {"id": str(uid), "name": name} for uid, name in session.users.items()}
        self._groups = {gid: {"id": str(gid), "name": name} for gid, name in session.groups.items()}
        self._backend = session.backend
        self._host = _Fragment(
            _dumps(
                {
                    "id": host.id,
                    "name": host.name,
                    "hostname": host.name,
                    "architecture": host.architecture,
                    "boot": {"id": host.boot_id},
                    "os": {"type": "linux", "kernel": host.kernel},
                }
            )
        )
        self._agent = _Fragment(
            _dumps(
                {
                    "id": session.agent_id,
                    "name": host.name,
                    "type": "tracer",
                    "version": session.version,
                    "ephemeral_id": session.ephemeral_id,
                }
            )
        )
        self._ecs = _Fragment(_dumps({"version": ECS_VERSION}))
        self._renderers: Final[dict[type, Callable[[Any, int, int], dict[str, Any]]]] = {
            ProcessEvent: self._process_event,
            ExecFailed: self._exec_failed,
            ProcessExited: self._exited,
            SocketEvent: self._socket,
            Notice: self._notice,
        }

    def render(self, event: Event, offset: int, sequence: int) -> bytes:
        """One line, its newline included, under LINE_MOST bytes."""
        document = self._renderers[type(event)](event, offset, sequence)
        document["host"] = self._host
        document["agent"] = self._agent
        document["ecs"] = self._ecs
        line = _dumps(document, option=orjson.OPT_APPEND_NEWLINE)
        if len(line) > LINE_MOST:
            line = self._shortened(document)
        return line

    # What every document begins with.

    def _document(self, event: Event, offset: int, fields: dict[str, Any]) -> dict[str, Any]:
        tracer: dict[str, Any] = {"schema": SCHEMA, "backend": self._backend}
        if getattr(event, "late", False):
            tracer["late"] = True
        return {"@timestamp": stamp(event.time + offset), "event": fields, "tracer": tracer}

    # Processes.

    def _user(self, uid: int) -> dict[str, str]:
        return self._users.get(uid) or {"id": str(uid)}

    @staticmethod
    def _parent(parent: Parent) -> dict[str, Any]:
        found: dict[str, Any] = {"pid": parent.tgid, "entity_id": parent.entity_id}
        if parent.name:
            found["name"] = _text(parent.name)
        if parent.executable:
            found["executable"] = _text(parent.executable)
        return found

    def _known(self, process: Process, offset: int) -> dict[str, Any]:
        """What every event of a process tells of it: who it is, not what it was given."""
        found: dict[str, Any] = {
            "pid": process.tgid,
            "entity_id": process.entity_id,
            "name": _text(process.comm),
            "start": stamp(process.start // NS_PER_TICK * NS_PER_TICK + offset),
        }
        if process.vpid > 0:
            found["vpid"] = process.vpid
        image = process.image
        if image is not None and image.executable:
            found["executable"] = _text(image.executable)
        if process.uid >= 0:
            found["user"] = self._user(process.uid)
        if process.gid >= 0:
            found["group"] = self._groups.get(process.gid) or {"id": str(process.gid)}
        if process.parent is not None:
            found["parent"] = self._parent(process.parent)
        if process.session:
            found["session_leader"] = {"pid": process.session}
        if process.group:
            found["group_leader"] = {"pid": process.group}
        return found

    @staticmethod
    def _args(image: Image, found: dict[str, Any], tracer: dict[str, Any]) -> None:
        raw = image.args[:-1] if image.args.endswith(b"\0") else image.args
        if not image.args:
            return
        args = _text(raw).split("\0")
        found["args"] = args
        found["args_count"] = image.argc or len(args)
        found["command_line"] = " ".join(args)
        if b"\\x" in raw or not raw.isascii():
            Ecs._keep_raw(tracer, "process.args", raw)

    @staticmethod
    def _keep_raw(tracer: dict[str, Any], name: str, raw: bytes) -> None:
        """Bytes that are not UTF-8 are shown as backslash escapes and kept as they are beside."""
        try:
            raw.decode()
        except UnicodeDecodeError:
            tracer.setdefault("raw", {})[name] = b64encode(raw).decode()

    def _process_tracer(self, process: Process, tracer: dict[str, Any]) -> dict[str, Any]:
        """The part under tracer.process, put in and given back."""
        own: dict[str, Any] = {"start_ns": process.start}
        image = process.image
        if image is not None:
            if image.inode:
                own["exe"] = {"dev": f"{image.dev >> 20}:{image.dev & 0xFFFFF}", "inode": image.inode}
            flags = image.flags
            if flags:
                names = [name for flag, name in _FLAG_NAMES.items() if flags & flag]
                if names:
                    own["flags"] = names
            if not image.executable.isascii():
                self._keep_raw(tracer, "process.executable", image.executable)
        if not process.comm.isascii():
            self._keep_raw(tracer, "process.name", process.comm)
        if process.loginuid != UNSET_ID:
            own["loginuid"] = process.loginuid
        if process.audit_session != UNSET_ID:
            own["audit_session"] = process.audit_session
        tracer["process"] = own
        if process.netns:
            tracer["netns"] = process.netns
        if process.pidns:
            tracer["pidns"] = process.pidns
        if process.cgroup:
            tracer["cgroup"] = {"id": process.cgroup}
            if image is not None and image.cgroup_name:
                tracer["cgroup"]["name"] = _text(image.cgroup_name)
        return own

    def _process_event(self, event: ProcessEvent, offset: int, sequence: int) -> dict[str, Any]:
        process = event.process
        action, fields = _PROCESS_ACTIONS[event.kind]
        document = self._document(
            event, offset, {**fields, "action": action, "outcome": "success", "sequence": sequence}
        )
        tracer = document["tracer"]
        own = self._process_tracer(process, tracer)
        found = self._known(process, offset)
        image = process.image
        if image is not None:
            self._args(image, found, tracer)
            found["thread"] = {"id": event.tid}
            if image.cwd:
                found["working_directory"] = _text(image.cwd)
            if image.requested:
                own["requested"] = _text(image.requested)
            if image.interpreter:
                own["script"] = own["requested"]
                own["interpreter"] = _text(image.interpreter)
            truncated = {name for flag, name in _TRUNCATED_NAMES.items() if image.flags & flag}
            if truncated:
                tracer["truncated"] = sorted(truncated)
        if event.kind == Kind.PROCESS_FOUND:
            tracer["snapshot"] = True
            del document["event"]["outcome"]
        document["process"] = found
        return document

    def _exec_failed(self, event: ExecFailed, offset: int, sequence: int) -> dict[str, Any]:
        document = self._document(
            event,
            offset,
            {
                "kind": "event",
                "category": ["process"],
                "type": ["start"],
                "action": "process-exec-failed",
                "outcome": "failure",
                "sequence": sequence,
            },
        )
        tracer = document["tracer"]
        self._process_tracer(event.process, tracer)
        found = self._known(event.process, offset)
        found["thread"] = {"id": event.tid}
        document["process"] = found
        asked: dict[str, Any] = {"requested": _text(event.requested)}
        if not event.requested.isascii():
            self._keep_raw(tracer, "exec.requested", event.requested)
        if event.args:
            raw = event.args[:-1]
            asked["args"] = _text(raw).split("\0")
            if not raw.isascii():
                self._keep_raw(tracer, "exec.args", raw)
        if event.flags & Flag.SECCOMP_KILLED:
            asked["seccomp_killed"] = True
        else:
            asked["errno"] = event.error
            document["error"] = {"code": _error_name(event.error)}
        tracer["exec"] = asked
        truncated = [
            f"tracer.exec.{name}"
            for flags, name in (
                (Flag.TRUNCATED_FILE, "requested"),
                (Flag.TRUNCATED_ARGS | Flag.FAULT_ARGS, "args"),
            )
            if event.flags & flags
        ]
        if truncated:
            tracer["truncated"] = truncated
        return document

    def _exited(self, event: ProcessExited, offset: int, sequence: int) -> dict[str, Any]:
        process = event.process
        document = self._document(
            event,
            offset,
            {
                "kind": "event",
                "category": ["process"],
                "type": ["end"],
                "action": "process-exited",
                "outcome": "success" if event.status == 0 else "failure",
                "sequence": sequence,
                "duration": event.time - process.start,
            },
        )
        tracer = document["tracer"]
        own = self._process_tracer(process, tracer)
        found = self._known(process, offset)
        found["end"] = document["@timestamp"]
        found["thread"] = {"id": event.tid}
        signal = event.status & 0x7F
        if signal:
            own["signal"] = signal
            own["signal_name"] = _signal_name(signal)
            if event.flags & Flag.CORE:
                own["core_dumped"] = True
            found["exit_code"] = 128 + signal  # as shells tell it
        else:
            found["exit_code"] = event.status >> 8 & 0xFF
        own["exit_status"] = event.status
        own["cpu_ns"] = event.cpu_ns
        own["max_rss_bytes"] = event.max_rss * self._page
        document["process"] = found
        return document

    # Sockets.

    def _socket(self, event: SocketEvent, offset: int, sequence: int) -> dict[str, Any]:
        kind = event.kind
        fields, duration = _socket_fields(event)
        fields["sequence"] = sequence
        if duration is not None:
            fields["duration"] = duration
        document = self._document(event, offset, fields)
        process = event.process
        if process is not None:
            # The same for every socket event of the process until something of it changes.
            rendered = process.rendered
            if rendered is None or rendered[0] != offset:
                rendered = process.rendered = (offset, _Fragment(_dumps(self._known(process, offset))))
            document["process"] = rendered[1]
        local: dict[str, Any] = {"ip": event.local, "port": event.local_port}
        remote: dict[str, Any] = {"ip": event.remote, "port": event.remote_port}
        network: dict[str, Any] = {
            "transport": "tcp",
            "type": "ipv6" if event.ipv6 else "ipv4",
            "iana_number": "6",
        }
        tracer = document["tracer"]
        if process is not None:
            tracer["attribution"] = "kernel"
        tracer["netns"] = event.netns
        socket: dict[str, Any] = {"id": f"{event.flow:x}"}
        if event.mapped:
            socket["mapped"] = True
        tracer["socket"] = socket
        if event.tid:
            tracer["thread"] = {"id": event.tid}
        if kind == Kind.LISTEN or event.state == 10:  # TCP_LISTEN
            document["source"] = document["server"] = local
            tracer["listen"] = {"backlog": event.backlog}
            if kind == Kind.SOCKET_FOUND:
                tracer["snapshot"] = True
            document["network"] = network
            return document
        if kind in (Kind.CLOSE, Kind.SOCKET_FOUND):
            local["bytes"] = event.sent
            remote["bytes"] = event.received
            network["bytes"] = event.sent + event.received
        tcp: dict[str, Any] = {"state": TCP_STATES[event.state]} if event.state < len(TCP_STATES) else {}
        if event.error:
            tcp["errno"] = event.error
            document["error"] = {"code": _error_name(event.error)}
        if kind in (Kind.CLOSE, Kind.SOCKET_FOUND, Kind.CONNECT):
            if event.rtt_us:
                tcp["rtt_us"] = event.rtt_us
            tcp["retransmits"] = event.retransmits
            if kind != Kind.CONNECT:
                tcp["bytes_sent"] = event.sent
                tcp["bytes_received"] = event.received
        tracer["tcp"] = tcp
        if event.role == Role.ACCEPT:
            document["source"] = document["client"] = remote
            document["destination"] = document["server"] = local
            network["direction"] = "ingress"
        else:
            document["source"] = document["client"] = local
            document["destination"] = document["server"] = remote
            network["direction"] = "egress" if event.role == Role.CONNECT else "unknown"
        if event.community_id:
            network["community_id"] = event.community_id
        document["network"] = network
        document["related"] = {"ip": [event.local] if event.local == event.remote else [event.local, event.remote]}
        if kind == Kind.SOCKET_FOUND:
            tracer["snapshot"] = True
        return document

    # The tracer itself.

    def _notice(self, event: Notice, offset: int, sequence: int) -> dict[str, Any]:
        fields = {
            "kind": event.event_kind,
            "category": ["process"],
            "type": ["info"],
            "action": event.action,
            "sequence": sequence,
        }
        if event.event_kind != "event":
            del fields["category"], fields["type"]
        document = self._document(event, offset, fields)
        body = event.body
        if "loss" in body:
            loss = body["loss"]
            body = {"loss": {**loss, "first": stamp(loss["first"] + offset), "last": stamp(loss["last"] + offset)}}
        document["tracer"].update(body)
        return document

    # Lines that would be too long.

    def _shortened(self, document: dict[str, Any]) -> bytes:
        """Cut what can be long, longest first, mark it, and keep what says who and what."""
        process = document.get("process")
        tracer = document["tracer"]
        truncated = set(tracer.get("truncated", ()))
        if isinstance(process, dict):
            if "args" in process:
                process["args"] = _cut_list(process["args"], _ARGS_MOST)
                process["command_line"] = _cut(" ".join(process["args"]), _ARGS_MOST // 2)
                truncated |= {"process.args", "process.command_line"}
            tracer.pop("raw", None)
            truncated.add("tracer.raw")
            for name in ("executable", "working_directory"):
                if name in process:
                    process[name] = _cut(process[name], _CHEAP // 2)
                    truncated.add(f"process.{name}")
            parent = process.get("parent")
            if parent and "executable" in parent:
                parent["executable"] = _cut(parent["executable"], 1000)
                truncated.add("process.parent.executable")
        for part, name in (("exec", "requested"), ("process", "requested"), ("process", "interpreter")):
            if name in tracer.get(part, {}):
                tracer[part][name] = _cut(tracer[part][name], 1000)
                truncated.add(f"tracer.{part}.{name}")
        if "args" in tracer.get("exec", {}):
            tracer["exec"]["args"] = _cut_list(tracer["exec"]["args"], _ARGS_MOST)
            truncated.add("tracer.exec.args")
        tracer.get("process", {}).pop("script", None)
        tracer["truncated"] = sorted(truncated)
        return _dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _socket_fields(event: SocketEvent) -> tuple[dict[str, Any], int | None]:
    """ECS event.* of a socket event, and its duration in ns where one is known."""
    kind = event.kind
    fields: dict[str, Any] = {"kind": "event", "category": ["network"], "type": ["connection", "start"]}
    duration: int | None = None
    if kind == Kind.CONNECT:
        failed = event.error != 0
        fields["action"] = "connection-failed" if failed else "connection-opened"
        fields["outcome"] = "failure" if failed else "success"
        duration = event.time - event.opened
        if failed:
            fields["type"] = ["connection"]
    elif kind == Kind.ATTEMPT:
        fields["action"], fields["outcome"] = "connection-attempted", "unknown"
        duration = event.time - event.opened
    elif kind == Kind.ACCEPT:
        fields["action"], fields["outcome"] = "connection-accepted", "success"
    elif kind == Kind.CLOSE:
        fields["type"] = ["connection", "end"]
        fields["action"] = "connection-closed"
        fields["outcome"] = "failure" if event.error else "success"
        if event.opened:
            duration = event.time - event.opened
    elif kind == Kind.LISTEN:
        fields["type"] = ["start"]
        fields["action"], fields["outcome"] = "socket-listening", "success"
    else:
        fields["kind"], fields["type"] = "state", ["info"]
        fields["action"] = "socket-listening" if event.state == 10 else "connection-open"
    return fields, duration


def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:  # a real-time signal
        return f"SIGRTMIN+{number - 32}" if number >= 32 else str(number)


def _cut(text: str, most: int) -> str:
    """The text, cut so that its JSON form is at most ``most`` bytes."""
    while len(encoded := _dumps(text)) > most:
        text = text[: max(0, min(len(text) - 1, len(text) * most // len(encoded)))]
    return text


def _cut_list(texts: list[str], most: int) -> list[str]:
    """The first of the texts, the last one cut, so that their JSON form is at most about ``most`` bytes."""
    kept: list[str] = []
    for text in texts:
        size = len(_dumps(text)) + 1
        if size > most:
            if most > 16:
                kept.append(_cut(text, most))
            break
        kept.append(text)
        most -= size
    return kept
