"""Process events in OCSF: Process Activity, and for a fork, which it has no activity of its own for, a Base Event.

As in ECS, JSON is put together from parts, because most of what an event says was said by an earlier one of the same
process; what goes under ``tracer`` is the same in both.
"""

from __future__ import annotations

import re
from typing import Any, Final, NamedTuple

from tracer.formats.ecs_process import CUT_FLAGS, Processes, asked_for, credentials_of, image_notes, own_ids
from tracer.formats.ecs_values import MARKS, dumps, keep_raw, members, quality, quoted, signal_name, stamp, text
from tracer.formats.lines import Parts
from tracer.formats.redact import Redactor
from tracer.formats.text import errno_name
from tracer.model import (
    UNSET_ID,
    Cgroup,
    ExecFailed,
    Flag,
    Image,
    Kind,
    Parent,
    Process,
    ProcessEvent,
    ProcessExited,
    Session,
)

__all__ = ["MS", "Acting", "OcsfProcesses", "activity"]

MS: Final = 1_000_000  # ns in the milliseconds that OCSF tells times and durations in
_SEVERITIES: Final = {"Informational": 1, "Medium": 3}
_STATUSES: Final = {"success": ',"status_id":1', "failure": ',"status_id":2', "unknown": ',"status_id":0', "": ""}
_CLASSES: Final = {
    "Base Event": (0, 0),
    "Process Activity": (1, 1007),
    "Network Activity": (4, 4001),
    "DNS Activity": (4, 4003),
}


def activity(class_: str, number: int, name: str, code: str, outcome: str = "", severity: str = "Informational") -> str:
    """What events of one kind have in common: members of ``metadata``, its end, and members of the document."""
    category, uid = _CLASSES[class_]
    return (
        f',"event_code":"{code}"}},"category_uid":{category},"class_uid":{uid},"class_name":"{class_}"'
        f',"activity_id":{number},"activity_name":"{name}","type_uid":{uid * 100 + number}'
        f',"severity_id":{_SEVERITIES[severity]}{_STATUSES[outcome]}'
    )


_LAUNCHED: Final = activity("Process Activity", 1, "Launch", "process-executed", "success") + ',"launch_type_id":3'
_RUNNING: Final = activity("Process Activity", 99, "Running", "process-running")
_FAILED: Final = activity("Process Activity", 1, "Launch", "process-exec-failed", "failure") + ',"launch_type_id":3'
_FORKED: Final = activity("Base Event", 99, "Fork", "process-forked", "success")
_EXITED: Final = {
    outcome: activity("Process Activity", 2, "Terminate", "process-exited", outcome)
    for outcome in ("success", "failure", "unknown")
}
_NUL: Final = "\0"
_BETWEEN: Final = '","'
_POD: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")  # a static pod has another kind of uid
_FORK: Final = Kind.FORK
_PROCESS_FOUND: Final = Kind.PROCESS_FOUND
_NO_STATUS: Final = int(Flag.NO_STATUS)
_ARGS: Final = ("process.cmd_line", "unmapped.tracer.process.args")
_CUT_NAMES: Final = {
    Flag.TRUNCATED_EXE: ("process.file.path",),
    Flag.TRUNCATED_CWD: ("process.working_directory",),
    Flag.TRUNCATED_ARGS: _ARGS,
    Flag.TRUNCATED_FILE: ("unmapped.tracer.process.requested",),
    Flag.FAULT_ARGS: _ARGS,
    Flag.TRUNCATED_CGROUP: ("unmapped.tracer.cgroup.path",),
}


class Acting(NamedTuple):
    """What every event of a process says of it; kept with the process until that changes.

    ``process`` (that member, not closed), ``own`` (tracer.process, not closed), ``rest`` (further members of tracer,
    behind a comma) and ``cgroup`` (the one of them that is of sockets too) are JSON; so are ``actor`` and ``itself``,
    that member for whoever started the process, and for itself.
    """

    process: str
    own: str
    rest: str
    cgroup: str
    raw: dict[str, str]
    actor: str
    itself: str


class OcsfProcesses(Processes):
    """Renders process events, and the part of any event that describes a process."""

    def __init__(self, session: Session, tracer: str, begin: str, end: str, redactor: Redactor | None = None) -> None:
        """As of ECS; ``tracer`` is the beginning of ``unmapped``, without its brace.

        ``begin`` is what a line begins with, up to its number.
        """
        super().__init__(session, tracer, end, redactor)
        self.begin = begin
        self.inner = f",{tracer}"
        self.inner_late = f',{tracer},"late":true'
        self.told = f',"unmapped":{{{tracer}'
        self.told_late = f',"unmapped":{{{tracer},"late":true'
        self._users = {uid: dumps({"uid": str(uid), "name": name}) for uid, name in session.users.items()}
        self._groups = {gid: dumps({"uid": str(gid), "name": name}) for gid, name in session.groups.items()}

    def acting(self, process: Process) -> Acting:
        """The process as every event of it tells it; rendered once for as long as it stays so."""
        found: Acting | None = process.rendered
        if found is None:
            found = process.rendered = self._act(process)
        return found

    def common(self, process: Process) -> tuple[str, str, dict[str, str]]:
        """As of ECS, as members of an actor: a process of OCSF has to have a pid."""
        _, _, _, _, user, _, _, _, cgroup, raw = self._alike_of(process)
        path = process.image.executable if process.image is not None else b""
        shown = {name: text for name, text in raw.items() if name != "process.name"}
        return f'"app_name":{quoted(path)}{user}', cgroup, shown

    def _act(self, process: Process) -> Acting:
        above, told = process.parent, process.told
        container, name, file, group, user, own, audit, rest, cgroup, raw = self._alike_of(process)
        parent = identity = ""
        itself = f'"actor":{{"process":{{"pid":{process.tgid},"uid":"{process.entity_id}"}}}}'
        actor = itself
        if above is not None:
            if above.rendered is None:
                above.rendered = _parent(above)
            parent, actor, raw_parent = above.rendered
            if raw_parent:
                raw = raw | raw_parent
        if told:
            vpid, session, leader = own_ids(told)
            if vpid > 0:
                own += f'{audit},"group_leader":{{"pid":{leader}}}'
                identity = f',"namespace_pid":{vpid}{group},"session":{{"uid":"{session}"}}'
        start = process.start
        wall = start + process.clock
        return tuple.__new__(
            Acting,
            (
                f'"process":{{"pid":{process.tgid},"uid":"{process.entity_id}"{name},"created_time":{wall // MS}'
                f',"created_time_dt":"{stamp(wall)}"{file}{identity}{user}{container}{parent}',
                f'"process":{{"start_ns":{start}{own}',
                rest,
                cgroup,
                raw,
                actor,
                itself,
            ),
        )

    def _make_alike(self, same: Any, within: Cgroup | None) -> Any:
        _, name, _, _, _, own, audit, rest, cgroup, raw = super()._make_alike(same, within)
        path, uid, credentials = same[1], same[5], same[6]
        container = group = ""
        if within is not None:
            container, pod = _container(within)
            rest += pod
        user = f',"user":{self._users.get(uid) or _uid(uid)}' if 0 <= uid < UNSET_ID else ""
        if credentials:
            _, gid, euid, egid, loginuid, _ = credentials_of(credentials)
            if gid < UNSET_ID:
                group = f',"group":{self._groups.get(gid) or _uid(gid)}'
            if euid < UNSET_ID:
                group += f',"euid":{euid},"egid":{egid}'
            if loginuid != UNSET_ID:
                group += f',"auid":{loginuid}'
        return container, name, _file(path), group, user, own, audit, rest, cgroup, raw

    def started(self, event: ProcessEvent, offset: int, when: str, number: int) -> Parts:
        """A process was executed, forked, or found running."""
        kind, time, late, process, tid, flags = event
        known = process.rendered or self.acting(process)
        image = process.image
        shown = told = more = ""
        if image is not None:
            shown, told, more = self._image(image, known.raw)
        if flags & MARKS:
            more += quality(flags)
        at = (time + offset) // MS
        if kind is _FORK:
            return (
                f'{self.begin}{number}{_FORKED},"time":{at},"time_dt":"{when}",{known.actor},"unmapped":{{',
                known.process,
                f',"ptid":{tid}{shown}}}{self.inner_late if late else self.inner}'
                f",{known.own}{told}}}{known.rest}{more}",
                self.end,
            )
        if kind is _PROCESS_FOUND:
            more += ',"snapshot":true'
        return (
            f"{self.begin}{number}{_RUNNING if kind is _PROCESS_FOUND else _LAUNCHED}"
            f',"time":{at},"time_dt":"{when}",{known.actor},',
            known.process,
            f',"ptid":{tid}{shown}}}{self.told_late if late else self.told},{known.own}{told}}}{known.rest}{more}',
            self.end,
        )

    def failed(self, event: ExecFailed, offset: int, when: str, number: int) -> Parts:
        """A program could not be executed: the process is the one that asked."""
        known = self.acting(event.process)
        raw = known.raw.copy()
        asked: dict[str, Any] = {"requested": text(event.requested)}
        keep_raw(raw, "exec.requested", event.requested)
        args = self.redact(event.args)
        if args:
            given = args[:-1]
            asked["args"] = text(given).split("\0")
            keep_raw(raw, "exec.args", given)
        error = ""
        if event.flags & Flag.SECCOMP_KILLED:
            asked["seccomp_killed"] = True
        else:
            asked["errno"] = event.error
            error = f',"status_code":{dumps(errno_name(event.error))}'
        more: dict[str, Any] = {"exec": asked}
        cut = []
        if event.flags & Flag.TRUNCATED_FILE:
            cut.append("unmapped.tracer.exec.requested")
        if event.flags & (Flag.TRUNCATED_ARGS | Flag.FAULT_ARGS):
            cut.append("unmapped.tracer.exec.args")
        if cut:
            more["truncated"] = cut
        if args != event.args:
            more["redacted"] = ["unmapped.tracer.exec.args"]
        if raw:
            more["raw"] = raw
        return (
            f'{self.begin}{number}{_FAILED}{error},"time":{(event.time + offset) // MS},"time_dt":"{when}"'
            f",{known.itself},",
            known.process,
            f',"ptid":{event.tid}}}{self.told_late if event.late else self.told}'
            f",{known.own}}}{known.rest}{members(more)}",
            self.end,
        )

    def exited(self, event: ProcessExited, offset: int, when: str, number: int) -> Parts:
        """A process ended."""
        _, time, late, process, tid, status, cpu_ns, max_rss, flags = event
        known = process.rendered or self.acting(process)
        signal = status & 0x7F
        code, ended, counted = status >> 8 & 0xFF, "", ""
        if signal:
            code = 128 + signal  # as shells tell it
            core = ',"core_dumped":true' if flags & Flag.CORE else ""
            ended = f',"signal":{signal},"signal_name":"{signal_name(signal)}"{core}'
        if flags & _NO_STATUS:
            told, exit_status = _EXITED["unknown"], ""
        else:
            told = f'{_EXITED["failure" if status else "success"]},"exit_code":{code}'
            exit_status = f',"exit_status":{status}'
        if max_rss:  # what has run has memory; without probes neither is known
            counted = f',"cpu_ns":{cpu_ns},"max_rss_bytes":{max_rss * self._page}'
        elif cpu_ns:
            counted = f',"cpu_ns":{cpu_ns}'
        more = members({"raw": known.raw}) if known.raw else ""
        if flags & MARKS:
            more += quality(flags)
        life, at = time - process.start, (time + offset) // MS
        return (
            f'{self.begin}{number}{told},"time":{at},"time_dt":"{when}","duration":{life // MS},{known.itself},',
            known.process,
            f',"ptid":{tid},"terminated_time":{at},"terminated_time_dt":"{when}"}}'
            f'{self.told_late if late else self.told},"duration_ns":{life}'
            f",{known.own}{exit_status}{counted}{ended}}}{known.rest}{more}",
            self.end,
        )

    def _image(self, image: Image, raw: dict[str, str]) -> tuple[str, str, str]:
        """What a process was given: members of ``process``, of ``tracer.process`` and of ``tracer``."""
        _, _, cwd, requested, interpreter, whole, argc, _, _, _, flags = image
        plain = True
        given = self.redact(whole)
        shown, told, is_ascii = asked_for(cwd, requested, interpreter)
        if given:
            args = text(given[:-1] if given[-1] == 0 else given)
            spaced = args.replace(_NUL, " ")
            line = dumps(spaced)
            plain = len(line) == len(spaced) + 2  # nothing but the quotes was added: no argument needs escapes
            many = f'["{args.replace(_NUL, _BETWEEN)}"]' if plain else dumps(args.split(_NUL))
            shown = f',"cmd_line":{line}{shown}'
            told = f',"args":{many},"args_count":{argc or args.count(_NUL) + 1}{told}'
        if plain and is_ascii and given is whole and not (raw or flags & CUT_FLAGS):
            return shown, told, ""
        return shown, told, image_notes(image, given, raw, _CUT_NAMES, _ARGS)


def _uid(number: int) -> str:
    return f'{{"uid":"{number}"}}'


def _file(path: bytes) -> str:
    """The member ``file`` behind a comma. A path that has no name in it is its own."""
    if not path:
        return ""
    name = path.rpartition(b"/")[2] or path
    return f',"file":{{"name":{quoted(name)},"path":{quoted(path)},"type_id":1}}'


def _container(within: Cgroup) -> tuple[str, str]:
    """The member ``container`` behind a comma, and that of ``tracer`` for a pod that finds no place in it."""
    pod = within.pod
    if not within.container:
        return "", f',"pod":{dumps(pod)}' if pod else ""
    told = f',"container":{{"uid":{quoted(within.container)}'
    if within.runtime:
        told += f',"runtime":"{within.runtime}"'
    if not pod:
        return told + "}", ""
    told += ',"orchestrator":"kubernetes"'
    if _POD.fullmatch(pod):
        return f'{told},"pod_uuid":"{pod}"}}', ""
    return told + "}", f',"pod":{dumps(pod)}'


def _parent(parent: Parent) -> tuple[str, str, dict[str, str]]:
    """The member ``parent_process`` behind a comma, ``actor`` for it, and the bytes of what is not UTF-8 in it."""
    comm, path = parent.name, parent.executable
    raw: dict[str, str] = {}
    keep_raw(raw, "process.parent.name", comm)
    keep_raw(raw, "process.parent.executable", path)
    name = f',"name":{quoted(comm)}' if comm else ""
    known = f'{{"pid":{parent.tgid},"uid":"{parent.entity_id}"{name}{_file(path)}}}'
    actor = f'"actor":{{"process":{{"pid":{parent.tgid},"uid":"{parent.entity_id}"{name}}}}}'
    return f',"parent_process":{known}', actor, raw
