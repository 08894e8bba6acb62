"""Process events in ECS: executed, forked, found running, failed to execute, exited.

JSON is put together from parts here, because most of what an event says was said by an earlier one of the same process.
Every text goes through orjson; all else is numbers and names of our own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from struct import Struct
from typing import Any, Final, NamedTuple

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

__all__ = ["CUT_FLAGS", "Described", "Processes", "asked_for", "credentials_of", "image_notes", "own_ids"]

_STARTED: Final = {
    Kind.EXEC: '"kind":"event","category":["process"],"type":["start"],"action":"process-executed","outcome":"success"',
    Kind.FORK: '"kind":"event","category":["process"],"type":["start"],"action":"process-forked","outcome":"success"',
    Kind.PROCESS_FOUND: '"kind":"state","category":["process"],"type":["info"],"action":"process-running"',
}
_FAILED: Final = (
    '"kind":"event","category":["process"],"type":["start"],"action":"process-exec-failed","outcome":"failure"'
)
_EXITED: Final = '"kind":"event","category":["process"],"type":["end"],"action":"process-exited","outcome":'
_ALIKE: Final = 1024  # texts kept that processes have in common: of their users, files and namespaces
_NUL: Final = "\0"
_BETWEEN: Final = '","'  # two texts in a JSON list
_FLAG_NAMES: Final = {
    Flag.DELETED: "deleted",
    Flag.DETACHED: "memfd",
    Flag.EXECFD: "descriptor",
    Flag.SCRIPT: "script",
    Flag.KTHREAD: "kernel-thread",
}
# Parts of Process.told (Ids, and the name): what processes mostly have in common, and what is their own.
_CREDENTIALS: Final = slice(4, 28)
_PLACE: Final = slice(36, 44)
credentials_of: Final = Struct("=6I").unpack
_place: Final = Struct("=2I").unpack
own_ids: Final = Struct("=i24xII").unpack_from  # vpid, session, group
_PROCESS_FOUND: Final = Kind.PROCESS_FOUND
_NO_STATUS: Final = int(Flag.NO_STATUS)
_NAMED_FLAGS: Final = int(Flag.DELETED | Flag.DETACHED | Flag.EXECFD | Flag.SCRIPT | Flag.KTHREAD)
_ARGS: Final = ("process.args", "process.command_line")
_CUT_NAMES: Final = {
    Flag.TRUNCATED_EXE: ("process.executable",),
    Flag.TRUNCATED_CWD: ("process.working_directory",),
    Flag.TRUNCATED_ARGS: ("process.args",),
    Flag.TRUNCATED_FILE: ("tracer.process.requested",),
    Flag.FAULT_ARGS: ("process.args",),
    Flag.TRUNCATED_CGROUP: ("tracer.cgroup.path",),
}
CUT_FLAGS: Final = int(sum(_CUT_NAMES))


class Described(NamedTuple):
    """What every event of a process says of it; kept with the process until that changes.

    ``process`` and ``own`` (which is tracer.process) are JSON members without their closing brace, the first behind a
    comma and its container; ``rest`` are further members of tracer, ``cgroup`` the one of them that is of sockets too.
    """

    process: str
    own: str
    rest: str
    cgroup: str
    raw: dict[str, str]


# What processes have in common that run one program for one user in one place: name, executable, device, inode, flags,
# user, credentials, control group (id, path and version), namespaces.
_Same = tuple[bytes, bytes, int, int, int, int, bytes, int, bytes, int, bytes]
# And how that is told: members of the document (its container), of ``process`` (its name, its executable, its group and
# its user), of ``tracer.process`` (the file, what auditors ask), of ``tracer`` (where it runs, and of that the control
# group alone), and the bytes of what is not UTF-8.
_Alike = tuple[str, str, str, str, str, str, str, str, str, dict[str, str]]


class Processes:
    """Renders process events, and the part of any event that describes a process."""

    def __init__(self, session: Session, tracer: str, end: str, redactor: Redactor | None = None) -> None:
        """Names of users, groups and namespaces, and the page size, are the session's.

        ``tracer`` is the beginning of that member, as far as all lines have it in common, and ``end`` what they end
        with. ``redactor`` takes secrets out of arguments; without one they are told.
        """
        self.end = end
        self.redact: Callable[[bytes], bytes] = redactor.args if redactor is not None else bytes
        self.told = f",{tracer}"  # what stands before its other members
        self.told_late = f',{tracer},"late":true'
        self._page = session.host.page_size
        self._users = {uid: dumps({"id": str(uid), "name": name}) for uid, name in session.users.items()}
        self._groups = {gid: dumps({"id": str(gid), "name": name}) for gid, name in session.groups.items()}
        self._alike: dict[_Same, _Alike] = {}
        self._namespaces = session.namespaces
        self.netns = lru_cache(_ALIKE)(self._netns)

    def described(self, process: Process) -> Described:
        """The process as every event of it tells it; rendered once for as long as it stays so."""
        found: Described | None = process.rendered
        if found is None:
            found = process.rendered = self._describe(process)
        return found

    def common(self, process: Process) -> tuple[str, str, dict[str, str]]:
        """What processes have in common that run one executable for one user in one control group.

        Members of the document with a process that is not closed, those of ``tracer``, and bytes that are no text.
        """
        container, _, executable, _, user, _, _, _, cgroup, raw = self._alike_of(process)
        members_of = f"{executable}{user}"[1:]
        shown = {name: text for name, text in raw.items() if name != "process.name"}
        return f'{container},"process":{{{members_of}', cgroup, shown

    def _alike_of(self, process: Process) -> _Alike:
        """How it is told what processes have in common that run this program for this user in this place."""
        image, told, within = process.image, process.told, process.within
        path = group_path = b""
        dev = inode = flags = version = 0
        if image is not None:
            _, path, _, _, _, _, _, _, dev, inode, flags = image
        if within is not None:
            group_path, version = within.path, within.version
        same = (
            process.comm,
            path,
            dev,
            inode,
            flags,
            process.uid,
            told[_CREDENTIALS],
            process.cgroup,
            group_path,
            version,
            told[_PLACE],
        )
        alike = self._alike.get(same)
        if alike is None:
            if len(self._alike) >= _ALIKE:
                self._alike.clear()
            alike = self._alike[same] = self._make_alike(same, within)
        return alike

    def _describe(self, process: Process) -> Described:
        above, told = process.parent, process.told
        container, name, executable, group, user, own, audit, rest, cgroup, raw = self._alike_of(process)
        parent = identity = ""
        if above is not None:
            if above.rendered is None:
                above.rendered = _parent(above)
            parent, raw_parent = above.rendered
            if raw_parent:
                raw = raw | raw_parent
        if told:
            vpid, session, leader = own_ids(told)
            if vpid > 0:
                own += audit
                identity = (
                    f',"vpid":{vpid}{group},"session_leader":{{"pid":{session}}},"group_leader":{{"pid":{leader}}}'
                )
        start = process.start
        return tuple.__new__(
            Described,
            (
                f'{container},"process":{{"pid":{process.tgid},"entity_id":"{process.entity_id}"{name}'
                f',"start":"{stamp(start + process.clock)}"{executable}{identity}{user}{parent}',
                f'"process":{{"start_ns":{start}{own}',
                rest,
                cgroup,
                raw,
            ),
        )

    def _make_alike(self, same: _Same, within: Cgroup | None) -> _Alike:
        comm, path, dev, inode, flags, uid, credentials, number, group_path, _, place = same
        raw: dict[str, str] = {}
        keep_raw(raw, "process.name", comm)
        keep_raw(raw, "process.executable", path)
        container = cgroup = group = audit = rest = ""
        if within is not None:
            keep_raw(raw, "cgroup.path", group_path)
            if within.rendered is None:
                within.rendered = _within(within)
            cgroup, container = within.rendered
        if number:
            cgroup = f',"cgroup":{{"id":{number}{cgroup}}}'
        elif cgroup:
            cgroup = f',"cgroup":{{{cgroup[1:]}}}'
        user = f',"user":{self._users.get(uid) or _id(uid)}' if 0 <= uid < UNSET_ID else ""
        if credentials:
            _, gid, euid, _, loginuid, audit_session = credentials_of(credentials)
            audit = f',"euid":{euid}' if euid != uid else ""
            if loginuid != UNSET_ID:
                audit += f',"loginuid":{loginuid}'
            if audit_session != UNSET_ID:
                audit += f',"audit_session":{audit_session}'
            if gid < UNSET_ID:
                group = f',"group":{self._groups.get(gid) or _id(gid)}'
            netns, pidns = _place(place)
            if netns:
                rest = f',{self.netns(netns)},"pidns":{pidns}'
        own = f',"exe":{{"dev":"{dev >> 20}:{dev & 0xFFFFF}","inode":{inode}}}' if inode else ""
        if flags & _NAMED_FLAGS:
            own += f',"flags":{dumps([name for flag, name in _FLAG_NAMES.items() if flags & flag])}'
        name = f',"name":{quoted(comm)}' if comm else ""
        executable = f',"executable":{quoted(path)}' if path else ""
        return container, name, executable, group, user, own, audit, rest + cgroup, cgroup, raw

    def _netns(self, number: int) -> str:
        """Members of ``tracer`` for a network namespace."""
        name = self._namespaces.get(number)
        return f'"netns":{number},"netns_name":{dumps(name)}' if name else f'"netns":{number}'

    def started(self, event: ProcessEvent, _offset: int, when: str, number: int) -> Parts:
        """A process was executed, forked, or found running."""
        kind, _, late, process, tid, flags = event
        known = process.rendered or self.described(process)
        image = process.image
        shown = told = more = ""
        if image is not None:
            shown, told, more = self._image(image, known.raw)
        if kind is _PROCESS_FOUND:
            more += ',"snapshot":true'
        if flags & MARKS:
            more += quality(flags)
        return (
            f'{{"@timestamp":"{when}","event":{{{_STARTED[kind]},"sequence":{number}}}',
            known.process,
            f',"thread":{{"id":{tid}}}{shown}}}{self.told_late if late else self.told}'
            f",{known.own}{told}}}{known.rest}{more}",
            self.end,
        )

    def failed(self, event: ExecFailed, _offset: int, when: str, number: int) -> Parts:
        """A program could not be executed."""
        known = self.described(event.process)
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
            error = f',"error":{{"code":{dumps(errno_name(event.error))}}}'
        more: dict[str, Any] = {"exec": asked}
        cut = []
        if event.flags & Flag.TRUNCATED_FILE:
            cut.append("tracer.exec.requested")
        if event.flags & (Flag.TRUNCATED_ARGS | Flag.FAULT_ARGS):
            cut.append("tracer.exec.args")
        if cut:
            more["truncated"] = cut
        if args != event.args:
            more["redacted"] = ["tracer.exec.args"]
        if raw:
            more["raw"] = raw
        return (
            f'{{"@timestamp":"{when}","event":{{{_FAILED},"sequence":{number}}}',
            known.process,
            f',"thread":{{"id":{event.tid}}}}}{error}{self.told_late if event.late else self.told}'
            f",{known.own}}}{known.rest}{members(more)}",
            self.end,
        )

    def exited(self, event: ProcessExited, _offset: int, when: str, number: int) -> Parts:
        """A process ended."""
        _, time, late, process, tid, status, cpu_ns, max_rss, flags = event
        known = process.rendered or self.described(process)
        signal = status & 0x7F
        code, ended, counted = status >> 8 & 0xFF, "", ""
        if signal:
            code = 128 + signal  # as shells tell it
            core = ',"core_dumped":true' if flags & Flag.CORE else ""
            ended = f',"signal":{signal},"signal_name":"{signal_name(signal)}"{core}'
        if flags & _NO_STATUS:
            outcome, exit_code, exit_status = '"unknown"', "", ""
        else:
            outcome = '"failure"' if status else '"success"'
            exit_code, exit_status = f',"exit_code":{code}', f',"exit_status":{status}'
        if max_rss:  # what has run has memory; without probes neither is known
            counted = f',"cpu_ns":{cpu_ns},"max_rss_bytes":{max_rss * self._page}'
        elif cpu_ns:
            counted = f',"cpu_ns":{cpu_ns}'
        more = members({"raw": known.raw}) if known.raw else ""
        if flags & MARKS:
            more += quality(flags)
        return (
            f'{{"@timestamp":"{when}","event":{{{_EXITED}{outcome},"duration":{time - process.start}'
            f',"sequence":{number}}}',
            known.process,
            f',"thread":{{"id":{tid}}},"end":"{when}"{exit_code}}}{self.told_late if late else self.told}'
            f",{known.own}{exit_status}{counted}{ended}}}{known.rest}{more}",
            self.end,
        )

    def _image(self, image: Image, raw: dict[str, str]) -> tuple[str, str, str]:
        """What a process was given: members of ``process``, of ``tracer.process`` and of ``tracer``.

        The last tell what was cut and redacted, and the bytes of what is not UTF-8: of the process ``raw``.
        """
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
            shown = f',"args":{many},"args_count":{argc or args.count(_NUL) + 1},"command_line":{line}{shown}'
        if plain and is_ascii and given is whole and not (raw or flags & CUT_FLAGS):
            return shown, told, ""
        return shown, told, image_notes(image, given, raw, _CUT_NAMES, _ARGS)


@lru_cache(_ALIKE)
def asked_for(cwd: bytes, requested: bytes, interpreter: bytes) -> tuple[str, str, bool]:
    """What was asked for, and where: members of ``process`` and of ``tracer.process``, and whether all is ASCII."""
    shown = f',"working_directory":{quoted(cwd)}' if cwd else ""
    told = ""
    if requested:
        told = f',"requested":{quoted(requested)}'
        if interpreter:
            told += f',"script":{quoted(requested)},"interpreter":{quoted(interpreter)}'
    return shown, told, (cwd + requested + interpreter).isascii()


def _id(number: int) -> str:
    return f'{{"id":"{number}"}}'


def _within(within: Cgroup) -> tuple[str, str]:
    """Members of ``tracer.cgroup`` behind a comma, and of the document for the container and the pod."""
    told = f',"path":{quoted(within.path)}'
    if within.version == 1:
        told += ',"version":1'
    for name, part in (("slice", within.slice), ("unit", within.unit), ("user_unit", within.user_unit)):
        if part:
            told += f',"{name}":{quoted(part)}'
    if within.around:
        told += f',"around":[{",".join(map(quoted, within.around))}]'
    outside = ""
    if within.container:
        runtime = f',"runtime":"{within.runtime}"' if within.runtime else ""
        outside = f',"container":{{"id":{quoted(within.container)}{runtime}}}'
    if within.pod:
        outside += f',"orchestrator":{{"type":"kubernetes","resource":{{"type":"pod","id":"{within.pod}"}}}}'
    return told, outside


def _parent(parent: Parent) -> tuple[str, dict[str, str]]:
    """The member of ``process`` that tells of its parent, and the bytes of what is not UTF-8 in it."""
    comm, path = parent.name, parent.executable
    raw: dict[str, str] = {}
    keep_raw(raw, "process.parent.name", comm)
    keep_raw(raw, "process.parent.executable", path)
    name = f',"name":{quoted(comm)}' if comm else ""
    executable = f',"executable":{quoted(path)}' if path else ""
    return f',"parent":{{"pid":{parent.tgid},"entity_id":"{parent.entity_id}"{name}{executable}}}', raw


def image_notes(
    image: Image, given: bytes, known: dict[str, str], names: Mapping[Flag, tuple[str, ...]], args: tuple[str, ...]
) -> str:
    """What was cut and redacted, and the bytes of what is not UTF-8, as members of ``tracer``.

    ``given`` are the arguments that are told, ``known`` bytes of other fields, ``names`` the fields that may have been
    cut in the kernel, ``args`` those of the arguments.
    """
    raw = known.copy()
    keep_raw(raw, "process.args", given.removesuffix(b"\0"))
    keep_raw(raw, "process.working_directory", image.cwd)
    keep_raw(raw, "process.requested", image.requested)
    keep_raw(raw, "process.interpreter", image.interpreter)
    notes: dict[str, Any] = {}
    if image.flags & CUT_FLAGS:
        notes["truncated"] = sorted({name for flag, cut in names.items() if image.flags & flag for name in cut})
    if given != image.args:
        notes["redacted"] = args
    if raw:
        notes["raw"] = raw
    return members(notes)
