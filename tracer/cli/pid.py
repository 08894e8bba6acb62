"""`tracer pid`: everything about one process as it is now, then its tree as `tracer live` shows it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tracer.cli import facts
from tracer.cli.absent import lives
from tracer.cli.asked import Options
from tracer.cli.clock import offset_now
from tracer.cli.errors import CommandError, Exit
from tracer.cli.stream import open_output
from tracer.cli.tell import tell
from tracer.formats.ecs import Ecs
from tracer.formats.redact import Redactor
from tracer.formats.text import quote, visible
from tracer.investigate import bundle, screen, target
from tracer.investigate.pinned import NotAProcessError, Pinned
from tracer.model import Notice
from tracer.probes.source import boottime
from tracer.sinks.output import is_terminal

__all__ = ["Look", "look", "pid", "write"]

_LISTED: Final = 20  # processes that a name fits, in the message that says so
_FIRST_PIDS: Final = "pid:[4026531836]"  # PROC_PID_INIT_INO of include/linux/proc_ns.h
_FIX: Final = "run it with sudo to see more"
_PID_MOST: Final = 1 << 22  # PID_MAX_LIMIT of a 64-bit kernel


@dataclass
class Look:
    """What was found out of a process, which is held on to until close()."""

    process: Pinned
    bundle: Mapping[str, Any]
    time: int  # when it was done, ns of CLOCK_BOOTTIME

    @property
    def pids(self) -> frozenset[int]:
        """It, and its descendants: those that the kernel may know as another's children by the time of the probes."""
        found, waiting = {self.process.pid}, list(self.bundle.get("children", ()))
        while waiting:
            each = waiting.pop()
            found.add(each["pid"])
            waiting += each.get("children", ())
        return frozenset(found)

    @property
    def notice(self) -> Notice:
        """The bundle as a record of the stream."""
        return Notice(bundle.ACTION, self.time, "state", {"bundle": dict(self.bundle)})

    def page(self, fd: int) -> bytes:
        """The bundle for people, as wide as the terminal is that ``fd`` may be."""
        terminal = is_terminal(fd)
        columns = shutil.get_terminal_size().columns if terminal else None
        colour = terminal and not os.environ.get("NO_COLOR")
        return screen.render(self.bundle, columns=columns, colour=colour, fix=_FIX if os.geteuid() else "").encode()


def _numbered(asked: str, namespace: int | None) -> int:
    """The pid that is meant by a number or a name. Raises CommandError."""
    if asked.isdecimal():
        number = int(asked) if len(asked) < 12 else 0
        if not 1 <= number <= _PID_MOST:
            raise CommandError(f"{asked!r}: give a pid from 1 to {_PID_MOST}, or a name", Exit.USAGE)
        if namespace is None:
            return number
        found = target.inside(number, namespace)
        if found is None:
            raise CommandError(
                f"no process is {number} in pid namespace {namespace}: see lsns -t pid, and ps -e -o pid,pidns",
                Exit.FAILURE,
            )
        return found
    if namespace is not None:
        raise CommandError("--pidns says where a pid is from: give a number with it", Exit.USAGE)
    if not asked or asked.startswith("-"):
        raise CommandError(f"{asked!r}: give a pid, or the name of a program", Exit.USAGE)
    return _named(asked)


def _named(asked: str) -> int:
    found = target.by_name(os.fsencode(asked), without=_own())
    if not found:
        raise CommandError(f"no process is called {asked!r}: give a pid, or a name as ps -e shows it", Exit.FAILURE)
    first = target.eldest(found)
    if first is None:
        told = "; ".join(_candidate(each) for each in found[:_LISTED])
        more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        raise CommandError(f"{asked!r} fits {len(found)} processes, give the pid of one: {told}{more}", Exit.USAGE)
    if len(found) > 1:
        tell(f"{asked}: {len(found)} processes, of which {first.pid} is the one that began the others")
    return first.pid


def _own() -> set[int]:
    """This process and who started it: sudo has the name that is looked for among its arguments, too."""
    return {os.getpid(), os.getppid()}


def _candidate(each: target.Candidate) -> str:
    line = quote([part.decode("utf-8", "surrogateescape") for part in each.args.removesuffix(b"\0").split(b"\0")])
    name = each.comm.decode("utf-8", "backslashreplace")
    return f"{each.pid} {visible(line if each.args else name)[:60]}"


def look(asked: str, *, namespace: int | None, redactor: Redactor | None, values: bool) -> Look:
    """Find the process and read everything of it. Raises CommandError."""
    pid = _numbered(asked, namespace)
    try:
        process = Pinned(pid)
    except NotAProcessError as thread:
        raise CommandError(f"{pid} is a thread of process {thread.process}: give that", Exit.USAGE) from thread
    except ProcessLookupError as gone:
        raise CommandError(_absent(pid), Exit.PRIVILEGE if lives(pid) else Exit.FAILURE) from gone
    except OSError as refused:
        raise CommandError(f"process {pid}: {refused.strerror}; run it with sudo", Exit.PRIVILEGE) from refused
    told = bundle.gather(process, facts.session("procfs"), offset_now(), redactor=redactor, asked=asked, values=values)
    return Look(process, told, boottime())


def _absent(pid: int) -> str:
    if lives(pid):
        return f"process {pid} is hidden from this user (hidepid of /proc): run it with sudo"
    return f"there is no process {pid}: it has ended, or the number is of another pid namespace (--pidns)"


def pid(
    asked: str, options: Options, *, namespace: int | None, now: bool, values: bool, html: Path | None = None
) -> Exit:
    """Tell of the process that is ``asked`` for, and unless only ``now`` is wanted follow it and its descendants.

    ``options`` are of the session that follows it: their format is ``ecs`` or ``pretty``. With ``values`` those of the
    environment are told. ``html`` is a file for the report; without ``now`` the output must be a file of JSON Lines.
    Raises CommandError.
    """
    redactor = options.privacy.redactor if options.privacy is not None else None
    found = look(asked, namespace=namespace, redactor=redactor, values=values)
    refused = None if now else _unfollowable()
    over = None if now or refused else _over(found)
    if now or refused or over:
        found.process.close()
        if html is not None:
            from tracer.cli.page import write_page

            write_page(html, found.bundle, ())
        fd, name = open_output(options.output)
        if options.format == "ecs":
            write(fd, name, Ecs(facts.session("procfs"), None).render(found.notice, offset_now(), 0))
        else:
            write(fd, name, found.page(fd))
        if refused:
            raise CommandError(refused, Exit.UNSUPPORTED)
        if over:
            tell(over)
        return Exit.OK
    page = None
    if html is not None and options.output is not None:
        from tracer.cli.page import Page

        page = Page(html, options.output)
    if options.format != "ecs":
        options.snapshot = False  # the page has it
        if options.output is None:
            write(*open_output(None), found.page(1))  # before anything is loaded: it is there at once
    options.filters.pids, options.filters.children = found.pids, True
    from tracer.cli import ahead
    from tracer.cli.rotation import begin_rotation

    rotation = begin_rotation(options.output, options.sandbox)
    begun = ahead.begin(options, rotation.pids if rotation is not None else ())
    from tracer.cli.pid_live import Followed

    code = Exit(Followed(options, found, rotation, begun).run())
    if page is not None:
        page.make(found.bundle)
    return code


def write(fd: int, name: str, content: bytes) -> None:
    """Write all of it; a closed pipe is a normal end. Raises CommandError."""
    left = memoryview(content)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BrokenPipeError:
        return
    except OSError as failed:
        raise CommandError(f"can't write {name}: {failed.strerror}", Exit.FAILURE) from failed


def _over(found: Look) -> str | None:
    """Why there is nothing to follow, if so."""
    told = found.bundle
    if not told.get("children") and (told.get("ended") or told.get("state") in ("zombie", "dead")):
        return f"process {found.process.pid} has ended: there is nothing to follow"
    return None


def _unfollowable() -> str | None:
    """Why nothing can be followed from here, if so: the probes know processes by the machine's pids alone."""
    try:
        here = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None
    if here == _FIRST_PIDS:
        return None
    return "can't follow it from inside a pid namespace: run it in the first one, or with --now"
