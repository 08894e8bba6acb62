"""Process events in ECS: executed, forked, found running, failed to execute, exited.

JSON is put together from parts here, because most of what an event says was said by an earlier one of the same process.
Every text goes through orjson; all else is numbers and names of our own.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from tracer.formats.ecs_values import dumps, keep_raw, members, quoted, signal_name, stamp, text
from tracer.formats.text import errno_name
from tracer.model import UNSET_ID, ExecFailed, Flag, Image, Kind, Parent, Process, ProcessEvent, ProcessExited, Session

__all__ = ["Described", "Parts", "Processes"]

_STARTED: Final = {
    Kind.EXEC: '"kind":"event","category":["process"],"type":["start"],"action":"process-executed","outcome":"success"',
    Kind.FORK: '"kind":"event","category":["process"],"type":["start"],"action":"process-forked","outcome":"success"',
    Kind.PROCESS_FOUND: '"kind":"state","category":["process"],"type":["info"],"action":"process-running"',
}
_FAILED: Final = (
    '"kind":"event","category":["process"],"type":["start"],"action":"process-exec-failed","outcome":"failure"'
)
_EXITED: Final = '"kind":"event","category":["process"],"type":["end"],"action":"process-exited","outcome":'
_NUL: Final = "\\u0000"  # as JSON has it
_FLAG_NAMES: Final = {
    Flag.DELETED: "deleted",
    Flag.DETACHED: "memfd",
    Flag.EXECFD: "descriptor",
    Flag.SCRIPT: "script",
    Flag.KTHREAD: "kernel-thread",
}
_PROCESS_FOUND: Final = Kind.PROCESS_FOUND
_NAMED_FLAGS: Final = int(Flag.DELETED | Flag.DETACHED | Flag.EXECFD | Flag.SCRIPT | Flag.KTHREAD)
_CUT_NAMES: Final = {
    Flag.TRUNCATED_EXE: "process.executable",
    Flag.TRUNCATED_CWD: "process.working_directory",
    Flag.TRUNCATED_ARGS: "process.args",
    Flag.TRUNCATED_FILE: "tracer.process.requested",
    Flag.FAULT_ARGS: "process.args",
}
_CUT_FLAGS: Final = int(
    Flag.TRUNCATED_EXE | Flag.TRUNCATED_CWD | Flag.TRUNCATED_ARGS | Flag.TRUNCATED_FILE | Flag.FAULT_ARGS
)


# What makes a line: JSON members of `event`, of the document (behind a comma), and of `tracer`.
Parts = tuple[str, str, str]


class Described(NamedTuple):
    """What every event of a process says of it; kept with the process until that changes.

    ``process`` and ``own`` (which is tracer.process) are JSON objects without their closing brace, ``rest`` further
    members of tracer.
    """

    process: str
    own: str
    rest: str
    raw: dict[str, str]


class Processes:
    """Renders process events, and the part of any event that describes a process."""

    def __init__(self, session: Session) -> None:
        """Names of users and groups, and the page size, are the session's."""
        self._page = session.host.page_size
        self._users = {uid: dumps({"id": str(uid), "name": name}) for uid, name in session.users.items()}
        self._groups = {gid: dumps({"id": str(gid), "name": name}) for gid, name in session.groups.items()}

    def described(self, process: Process) -> Described:
        """The process as every event of it tells it; rendered once for as long as it stays so."""
        found: Described | None = process.rendered
        if found is None:
            found = process.rendered = self._describe(process)
        return found

    def _describe(self, process: Process) -> Described:
        raw: dict[str, str] = {}
        comm, image, uid = process.comm, process.image, process.uid
        if not comm.isascii():
            keep_raw(raw, "process.name", comm)
        executable = own = cgroup = parent = identity = ""
        if image is not None:
            _, path, _, _, _, _, _, _, dev, inode, cgroup_name, flags = image
            if path:
                executable = f',"executable":{quoted(path)}'
                if not path.isascii():
                    keep_raw(raw, "process.executable", path)
            if inode:
                own = f',"exe":{{"dev":"{dev >> 20}:{dev & 0xFFFFF}","inode":{inode}}}'
            if flags & _NAMED_FLAGS:
                own += f',"flags":{dumps([name for flag, name in _FLAG_NAMES.items() if flags & flag])}'
            if cgroup_name:
                cgroup = f',"name":{quoted(cgroup_name)}'
                if not cgroup_name.isascii():
                    keep_raw(raw, "cgroup.name", cgroup_name)
        user = f',"user":{self._users.get(uid) or _id(uid)}' if uid >= 0 else ""
        if process.parent is not None:
            above = process.parent
            parent = f',"parent":{_parent(above)}'
            if not (above.name.isascii() and above.executable.isascii()):
                keep_raw(raw, "process.parent.name", above.name)
                keep_raw(raw, "process.parent.executable", above.executable)
        if process.vpid > 0:
            gid = process.gid
            identity = (
                f',"vpid":{process.vpid},"group":{self._groups.get(gid) or _id(gid)}'
                f',"session_leader":{{"pid":{process.session}}},"group_leader":{{"pid":{process.group}}}'
            )
            own += _audit(process)
        rest = ""
        if process.netns:
            rest = f',"netns":{process.netns},"pidns":{process.pidns},"cgroup":{{"id":{process.cgroup}{cgroup}}}'
        start = process.start
        return tuple.__new__(
            Described,
            (
                f'{{"pid":{process.tgid},"entity_id":"{process.entity_id}","name":{quoted(comm)}'
                f',"start":"{stamp(start + process.clock)}"{executable}{identity}{user}{parent}',
                f'{{"start_ns":{start}{own}',
                rest,
                raw,
            ),
        )

    def started(self, event: ProcessEvent, _offset: int) -> Parts:
        """A process was executed, forked, or found running."""
        kind, process = event.kind, event.process
        known = self.described(process)
        image = process.image
        shown = told = more = ""
        if image is not None:
            shown, told = _image(image)
            more = _image_notes(image, known.raw)
        if kind is _PROCESS_FOUND:
            more += ',"snapshot":true'
        return (
            _STARTED[kind],
            f',"process":{known.process},"thread":{{"id":{event.tid}}}{shown}}}',
            f'"process":{known.own}{told}}}{known.rest}{more}',
        )

    def failed(self, event: ExecFailed, _offset: int) -> Parts:
        """A program could not be executed."""
        known = self.described(event.process)
        raw = known.raw.copy()
        asked: dict[str, Any] = {"requested": text(event.requested)}
        keep_raw(raw, "exec.requested", event.requested)
        if event.args:
            given = event.args[:-1]
            asked["args"] = text(given).split("\0")
            keep_raw(raw, "exec.args", given)
        error = ""
        if event.flags & Flag.SECCOMP_KILLED:
            asked["seccomp_killed"] = True
        else:
            asked["errno"] = event.error
            error = f',"error":{{"code":{dumps(errno_name(event.error))}}}'
        more: dict[str, Any] = {"exec": asked}
        cut = []
        if event.flags & Flag.TRUNCATED_FILE:
            cut.append("tracer.exec.requested")
        if event.flags & (Flag.TRUNCATED_ARGS | Flag.FAULT_ARGS):
            cut.append("tracer.exec.args")
        if cut:
            more["truncated"] = cut
        if raw:
            more["raw"] = raw
        return (
            _FAILED,
            f',"process":{known.process},"thread":{{"id":{event.tid}}}}}{error}',
            f'"process":{known.own}}}{known.rest}{members(more)}',
        )

    def exited(self, event: ProcessExited, offset: int) -> Parts:
        """A process ended."""
        process, status = event.process, event.status
        known = self.described(process)
        signal = status & 0x7F
        code, ended = status >> 8 & 0xFF, ""
        if signal:
            code = 128 + signal  # as shells tell it
            core = ',"core_dumped":true' if event.flags & Flag.CORE else ""
            ended = f',"signal":{signal},"signal_name":"{signal_name(signal)}"{core}'
        outcome = '"failure"' if status else '"success"'
        return (
            f'{_EXITED}{outcome},"duration":{event.time - process.start}',
            f',"process":{known.process},"thread":{{"id":{event.tid}}}'
            f',"end":"{stamp(event.time + offset)}","exit_code":{code}}}',
            f'"process":{known.own},"exit_status":{status},"cpu_ns":{event.cpu_ns}'
            f',"max_rss_bytes":{event.max_rss * self._page}{ended}}}{known.rest}'
            + (members({"raw": known.raw}) if known.raw else ""),
        )


def _id(number: int) -> str:
    return f'{{"id":"{number}"}}'


def _audit(process: Process) -> str:
    """Members of ``tracer.process`` that most processes have nothing to say in."""
    told = f',"euid":{process.euid}' if process.euid != process.uid else ""
    if process.loginuid != UNSET_ID:
        told += f',"loginuid":{process.loginuid}'
    if process.audit_session != UNSET_ID:
        told += f',"audit_session":{process.audit_session}'
    return told


def _parent(parent: Parent) -> str:
    tgid, _, entity, comm, path = parent
    name = f',"name":{quoted(comm)}' if comm else ""
    executable = f',"executable":{quoted(path)}' if path else ""
    return f'{{"pid":{tgid},"entity_id":"{entity}"{name}{executable}}}'


def _image(image: Image) -> tuple[str, str]:
    """Members of ``process`` and of ``tracer.process`` that tell what a process was given."""
    _, _, cwd, requested, interpreter, given, argc, *_ = image
    shown = told = ""
    if given:
        line = dumps(text(given.removesuffix(b"\0")))
        if "\\\\" in line:  # a backslash in an argument: what looks like a NUL could be text
            args = text(given.removesuffix(b"\0")).split("\0")
            shown = f',"args":{dumps(args)},"args_count":{argc or len(args)},"command_line":{dumps(" ".join(args))}'
        else:
            many = line.replace(_NUL, '","')
            count = argc or line.count(_NUL) + 1
            shown = f',"args":[{many}],"args_count":{count},"command_line":{line.replace(_NUL, " ")}'
    if cwd:
        shown += f',"working_directory":{quoted(cwd)}'
    if requested:
        told = f',"requested":{quoted(requested)}'
        if interpreter:
            told += f',"script":{quoted(requested)},"interpreter":{quoted(interpreter)}'
    return shown, told


def _image_notes(image: Image, known: dict[str, str]) -> str:
    """Members of ``tracer``: what was cut, and the bytes of what is not UTF-8."""
    notes: dict[str, Any] = {}
    raw = known
    if not all(part.isascii() for part in (image.args, image.cwd, image.requested, image.interpreter)):
        raw = known.copy()
        keep_raw(raw, "process.args", image.args.removesuffix(b"\0"))
        keep_raw(raw, "process.working_directory", image.cwd)
        keep_raw(raw, "process.requested", image.requested)
        keep_raw(raw, "process.interpreter", image.interpreter)
    if image.flags & _CUT_FLAGS:
        notes["truncated"] = sorted({name for flag, name in _CUT_NAMES.items() if image.flags & flag})
    if raw:
        notes["raw"] = raw
    return members(notes)
