"""Process events in ECS: executed, forked, found running, failed to execute, exited."""

from __future__ import annotations

from typing import Any, Final

import orjson

from tracer.formats.ecs_values import joined, keep_raw, signal_name, stamp, text
from tracer.formats.text import errno_name
from tracer.model import UNSET_ID, ExecFailed, Flag, Image, Kind, Process, ProcessEvent, ProcessExited, Session

__all__ = ["Processes"]

_dumps = orjson.dumps
_Fragment = orjson.Fragment

_STARTED: Final = {
    Kind.EXEC: b'{"kind":"event","category":["process"],"type":["start"],"action":"process-executed"'
    b',"outcome":"success","sequence":%d}',
    Kind.FORK: b'{"kind":"event","category":["process"],"type":["start"],"action":"process-forked"'
    b',"outcome":"success","sequence":%d}',
    Kind.PROCESS_FOUND: b'{"kind":"state","category":["process"],"type":["info"],"action":"process-running"'
    b',"sequence":%d}',
}
_FAILED: Final = (
    b'{"kind":"event","category":["process"],"type":["start"],"action":"process-exec-failed"'
    b',"outcome":"failure","sequence":%d}'
)
_EXITED: Final = (
    b'{"kind":"event","category":["process"],"type":["end"],"action":"process-exited"'
    b',"outcome":"%b","sequence":%d,"duration":%d}'
)
_FLAG_NAMES: Final = {
    Flag.DELETED: "deleted",
    Flag.DETACHED: "memfd",
    Flag.EXECFD: "descriptor",
    Flag.SCRIPT: "script",
    Flag.KTHREAD: "kernel-thread",
}
_NAMED_FLAGS: Final = int(Flag.DELETED | Flag.DETACHED | Flag.EXECFD | Flag.SCRIPT | Flag.KTHREAD)
_TRUNCATED: Final = {
    Flag.TRUNCATED_EXE: "process.executable",
    Flag.TRUNCATED_CWD: "process.working_directory",
    Flag.TRUNCATED_ARGS: "process.args",
    Flag.TRUNCATED_FILE: "tracer.process.requested",
    Flag.FAULT_ARGS: "process.args",
}
_CUT_FLAGS: Final = int(
    Flag.TRUNCATED_EXE | Flag.TRUNCATED_CWD | Flag.TRUNCATED_ARGS | Flag.TRUNCATED_FILE | Flag.FAULT_ARGS
)


class _Rendered:
    """What every event of a process says of it, kept with the process until it changes."""

    __slots__ = ("known", "offset", "own", "raw")

    def __init__(self, offset: int, known: bytes, own: bytes, raw: dict[str, Any] | None) -> None:
        self.offset = offset
        self.known = known  # JSON of the object `process`
        self.own = own  # JSON of members of the object `tracer`, as an object
        self.raw = raw


class Processes:
    """Renders the documents of process events, and the part of any event that describes a process."""

    def __init__(self, session: Session) -> None:
        """Names of users and groups, and the page size, are the session's."""
        self._page = session.host.page_size
        self._users = {uid: {"id": str(uid), "name": name} for uid, name in session.users.items()}
        self._groups = {gid: {"id": str(gid), "name": name} for gid, name in session.groups.items()}

    def rendered(self, process: Process, offset: int) -> _Rendered:
        """The process as every event of it tells it; rendered once for as long as it stays so."""
        found: _Rendered | None = process.rendered
        if found is None or found.offset != offset:
            tracer: dict[str, Any] = {}
            known = _dumps(self._known(process, offset))
            own = _dumps(self._own(process, tracer))
            raw = tracer.pop("raw", None)
            found = process.rendered = _Rendered(
                offset, known, joined(b'{"process":' + own + b"}", _dumps(tracer)), raw
            )
        return found

    def _known(self, process: Process, offset: int) -> dict[str, Any]:
        found: dict[str, Any] = {
            "pid": process.tgid,
            "entity_id": process.entity_id,
            "name": text(process.comm),
            "start": stamp(process.start + offset),
        }
        if process.vpid > 0:
            found["vpid"] = process.vpid
        image = process.image
        if image is not None and image.executable:
            found["executable"] = text(image.executable)
        uid, gid = process.uid, process.gid
        if uid >= 0:
            found["user"] = self._users.get(uid) or {"id": str(uid)}
        if gid >= 0:
            found["group"] = self._groups.get(gid) or {"id": str(gid)}
        parent = process.parent
        if parent is not None:
            told: dict[str, Any] = {"pid": parent.tgid, "entity_id": parent.entity_id}
            if parent.name:
                told["name"] = text(parent.name)
            if parent.executable:
                told["executable"] = text(parent.executable)
            found["parent"] = told
        if process.session:
            found["session_leader"] = {"pid": process.session}
        if process.group:
            found["group_leader"] = {"pid": process.group}
        return found

    @staticmethod
    def _own(process: Process, tracer: dict[str, Any]) -> dict[str, Any]:
        own: dict[str, Any] = {"start_ns": process.start}
        image = process.image
        if image is not None:
            if image.inode:
                own["exe"] = {"dev": f"{image.dev >> 20}:{image.dev & 0xFFFFF}", "inode": image.inode}
            if image.flags & _NAMED_FLAGS:
                own["flags"] = [name for flag, name in _FLAG_NAMES.items() if image.flags & flag]
            if not image.executable.isascii():
                keep_raw(tracer, "process.executable", image.executable)
        if not process.comm.isascii():
            keep_raw(tracer, "process.name", process.comm)
        if process.euid != process.uid:
            own["euid"] = process.euid
        if process.loginuid != UNSET_ID:
            own["loginuid"] = process.loginuid
        if process.audit_session != UNSET_ID:
            own["audit_session"] = process.audit_session
        tracer["netns"] = process.netns
        tracer["pidns"] = process.pidns
        cgroup: dict[str, Any] = {"id": process.cgroup}
        if image is not None and image.cgroup_name:
            cgroup["name"] = text(image.cgroup_name)
        tracer["cgroup"] = cgroup
        return own

    def started(self, event: ProcessEvent, offset: int, sequence: int) -> dict[str, Any]:
        """A process was executed, forked, or found running."""
        process = event.process
        image = process.image
        kept = self.rendered(process, offset)
        tracer: dict[str, Any] = {}
        own: dict[str, Any] = {}
        more: dict[str, Any] = {"thread": {"id": event.tid}}
        if kept.raw:
            tracer["raw"] = dict(kept.raw)
        if image is not None:
            self._image(image, more, own, tracer)
        if event.kind == Kind.PROCESS_FOUND:
            tracer["snapshot"] = True
        return {
            "@timestamp": stamp(event.time + offset),
            "event": _Fragment(_STARTED[event.kind] % sequence),
            "process": _Fragment(joined(kept.known, _dumps(more))),
            "tracer": self._tracer(kept, own, tracer, event.late),
        }

    @staticmethod
    def _image(image: Image, more: dict[str, Any], own: dict[str, Any], tracer: dict[str, Any]) -> None:
        raw = image.args[:-1] if image.args.endswith(b"\0") else image.args
        if image.args:
            args = text(raw).split("\0")
            more["args"] = args
            more["args_count"] = image.argc or len(args)
            more["command_line"] = " ".join(args)
            if not raw.isascii():
                keep_raw(tracer, "process.args", raw)
        if image.cwd:
            more["working_directory"] = text(image.cwd)
        if image.requested:
            own["requested"] = text(image.requested)
            if not image.requested.isascii():
                keep_raw(tracer, "process.requested", image.requested)
        if image.interpreter:
            own["script"] = own["requested"]
            own["interpreter"] = text(image.interpreter)
        if image.flags & _CUT_FLAGS:
            tracer["truncated"] = sorted({name for flag, name in _TRUNCATED.items() if image.flags & flag})

    @staticmethod
    def _tracer(kept: _Rendered, own: dict[str, Any], tracer: dict[str, Any], late: bool) -> Any:
        """The object tracer: what is kept of the process, what this event adds to it, and to tracer itself."""
        found = kept.own
        if own:
            # `process` is its first member: {"process":{...},...
            end = found.index(b'},"netns":')
            found = found[:end] + b"," + _dumps(own)[1:-1] + found[end:]
        if late:
            tracer["late"] = True
        if tracer:
            found = joined(found, _dumps(tracer))
        return found

    def failed(self, event: ExecFailed, offset: int, sequence: int) -> dict[str, Any]:
        """A program could not be executed."""
        kept = self.rendered(event.process, offset)
        tracer: dict[str, Any] = {}
        if kept.raw:
            tracer["raw"] = dict(kept.raw)
        asked: dict[str, Any] = {"requested": text(event.requested)}
        if not event.requested.isascii():
            keep_raw(tracer, "exec.requested", event.requested)
        if event.args:
            raw = event.args[:-1]
            asked["args"] = text(raw).split("\0")
            if not raw.isascii():
                keep_raw(tracer, "exec.args", raw)
        found: dict[str, Any] = {
            "@timestamp": stamp(event.time + offset),
            "event": _Fragment(_FAILED % sequence),
            "process": _Fragment(joined(kept.known, b'{"thread":{"id":%d}}' % event.tid)),
        }
        if event.flags & Flag.SECCOMP_KILLED:
            asked["seccomp_killed"] = True
        else:
            asked["errno"] = event.error
            found["error"] = {"code": errno_name(event.error)}
        cut = []
        if event.flags & Flag.TRUNCATED_FILE:
            cut.append("tracer.exec.requested")
        if event.flags & (Flag.TRUNCATED_ARGS | Flag.FAULT_ARGS):
            cut.append("tracer.exec.args")
        if cut:
            tracer["truncated"] = cut
        tracer["exec"] = asked
        found["tracer"] = self._tracer(kept, {}, tracer, event.late)
        return found

    def exited(self, event: ProcessExited, offset: int, sequence: int) -> dict[str, Any]:
        """A process ended."""
        process = event.process
        status = event.status
        kept = self.rendered(process, offset)
        when = stamp(event.time + offset)
        more: dict[str, Any] = {"end": when, "thread": {"id": event.tid}, "exit_code": status >> 8 & 0xFF}
        own: dict[str, Any] = {
            "exit_status": status,
            "cpu_ns": event.cpu_ns,
            "max_rss_bytes": event.max_rss * self._page,
        }
        signal = status & 0x7F
        if signal:
            more["exit_code"] = 128 + signal  # as shells tell it
            own["signal"] = signal
            own["signal_name"] = signal_name(signal)
            if event.flags & Flag.CORE:
                own["core_dumped"] = True
        return {
            "@timestamp": when,
            "event": _Fragment(_EXITED % (b"failure" if status else b"success", sequence, event.time - process.start)),
            "process": _Fragment(joined(kept.known, _dumps(more))),
            "tracer": self._tracer(kept, own, {"raw": kept.raw} if kept.raw else {}, event.late),
        }
