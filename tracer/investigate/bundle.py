"""Read everything of one process and put it together: what was refused is named, and what ended meanwhile is told."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from tracer.fallback import stat
from tracer.formats.ecs_values import stamp
from tracer.formats.redact import Redactor
from tracer.investigate import files, privileges, resources, sockets
from tracer.investigate.executable import Executable
from tracer.investigate.identity import STATES, People
from tracer.investigate.pinned import Pinned
from tracer.model import Session
from tracer.probes.source import boottime

__all__ = ["ACTION", "VERSION", "gather"]

ACTION: Final = "tracer-bundle"
"""The event.action of a bundle."""
VERSION: Final = 1
"""Of the bundle's layout."""

_TRIES: Final = 3  # at a process that executes another program meanwhile
_Told = TypeVar("_Told")


class _Reading:
    """One look. Each part that is refused is named in ``denied``; with ``ended`` nothing more can be read."""

    def __init__(self, process: Pinned) -> None:
        self._process = process
        self.told: dict[str, Any] = {}
        self.denied: list[str] = []
        self.ended = False

    def ask(self, name: str, read: Callable[[], _Told | None]) -> _Told | None:
        """What ``read`` gives; None where that is refused, can't be had, or the process is gone."""
        if self.ended:
            return None
        try:
            return read()
        except PermissionError:
            self.denied.append(name)
        except ProcessLookupError:
            self.ended = True
        except (OSError, ValueError, LookupError):
            # A kernel without that file, or one that is empty because the process ends just now.
            self.ended = self._process.ended() and not self._is_zombie()
        return None

    def _is_zombie(self) -> bool:
        try:
            return self._process.stat().state == b"Z"
        except OSError:
            return False

    def part(self, name: str, read: Callable[[], Any]) -> None:
        """Tell what ``read`` gives, if it gives anything."""
        value = self.ask(name, read)
        if value is not None and value != {}:
            self.told[name] = value


def gather(
    process: Pinned,
    session: Session,
    offset: int,
    *,
    redactor: Redactor | None = None,
    asked: str | None = None,
    values: bool = False,
) -> dict[str, Any]:
    """The bundle of a process, which goes under ``tracer`` as ``bundle``.

    ``offset`` is wall clock minus CLOCK_BOOTTIME in ns, ``asked`` how the process was asked for. With ``values`` the
    environment is told with its values, those of secrets as the ``redactor`` leaves them. Never raises for what the
    process does or ends meanwhile.
    """
    people = People(session, offset, redactor)
    try:
        image, bundle = _image(process), _look(process, people, redactor, values=values)
        for _ in range(_TRIES - 1):
            if (after := _image(process)) in (None, image):
                break
            image, bundle = after, _look(process, people, redactor, values=values)
        if _image(process) not in (None, image):
            bundle["mixed"] = True  # of several programs, one after the other
    finally:
        people.close()
    begun = {"version": VERSION, "made": stamp(boottime() + offset)}
    target: dict[str, Any] = {"pid": process.pid}
    if "entity_id" in bundle.get("process", {}):
        target["entity_id"] = bundle["process"]["entity_id"]
    if asked is not None:
        target["asked"] = asked
    return {**begun, "target": target, **bundle}


def _image(process: Pinned) -> object:
    """What tells one program of it from the next; None when that can't be read, or it has ended."""
    with suppress(OSError, ValueError):
        now = process.stat()
        return None if now.ended else now.image
    return None


def _look(process: Pinned, people: People, redactor: Redactor | None, *, values: bool) -> dict[str, Any]:
    reading = _Reading(process)
    part, told = reading.part, reading.told
    now = reading.ask("state", process.stat)
    if now is not None:
        told["state"] = STATES.get(now.state, now.state.decode("ascii", "replace"))
        if now.flags & stat.KTHREAD:
            told["kernel_thread"] = True
    living = now is not None and not now.ended
    of_user = living and now is not None and not now.flags & stat.KTHREAD
    executable = reading.ask("executable", lambda: Executable(process).begin()) if of_user else None
    part("process", lambda: people.itself(process))
    _lineage(reading, process, people)
    part("login", lambda: resources.login(process))
    if of_user:
        part("working_directory", lambda: resources.working_directory(process))
        part("environment", lambda: resources.environment(process, redactor, values=values))
    part("capabilities", lambda: privileges.capabilities(process))
    part("seccomp", lambda: privileges.seccomp(process))
    part("no_new_privileges", lambda: privileges.no_new_privileges(process))
    part("lsm_label", lambda: privileges.lsm_label(process))
    part("cgroup", lambda: resources.cgroup(process))
    part("threads", lambda: resources.threads(process))
    if living:
        part("namespaces", lambda: privileges.namespaces(process))
        part("limits", lambda: resources.limits(process))
    if of_user:
        part("memory", lambda: resources.memory(process))
        part("mappings", lambda: resources.mappings(process))
        _open(reading, process)
    _children(reading, process, people)
    if executable is not None:
        told["executable"] = executable.result()
        if isinstance(executable.refused, PermissionError):
            reading.denied.append("executable.package")
    if reading.denied:
        told["denied"] = sorted(set(reading.denied))
    if reading.ended or (living and process.ended()):
        told["ended"] = True
    return told


def _lineage(reading: _Reading, process: Pinned, people: People) -> None:
    found = reading.ask("lineage", lambda: people.lineage(process))
    if found is not None:
        reading.told["lineage"], refused = found
        if refused:
            reading.denied.append("lineage.executable")


def _open(reading: _Reading, process: Pinned) -> None:
    """Files, and of the sockets among them what they are."""
    found = reading.ask("files", lambda: files.look(process))
    if found is None:
        if "files" in reading.denied:
            reading.denied += ["sockets", "listeners"]
        return
    reading.told["files"] = found.told
    told = reading.ask("sockets", lambda: sockets.look(process, found.sockets))
    if told is None:
        if "sockets" in reading.denied:
            reading.denied.append("listeners")
        return
    reading.told |= {"sockets": told.sockets, "listeners": told.listeners}
    if told.cut:
        reading.told["sockets_cut"] = told.cut


def _children(reading: _Reading, process: Pinned, people: People) -> None:
    found = reading.ask("children", lambda: people.children(process))
    if found is not None:
        reading.told["children"], cut = found
        if cut:
            reading.told["children_cut"] = cut
