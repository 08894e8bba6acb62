"""One readable line an event, in columns that fit a terminal: for people, not for programs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Final

from tracer.formats.pretty_flows import (
    CALLED,
    NO_TOTALS,
    connection_route,
    endpoint,
    flow_route,
    plural,
    traffic,
    what_failed,
)
from tracer.formats.pretty_notices import LOUD, describe
from tracer.formats.pretty_processes import arguments, how_it_ended, named, whose
from tracer.formats.redact import Redactor
from tracer.formats.text import (
    BYTES_A_CELL,
    cut,
    errno_name,
    errno_words,
    human_bytes,
    human_duration,
    pad,
    printable,
    visible,
    width,
)
from tracer.model import (
    ATTRIBUTIONS,
    TCP_STATES,
    UNSET_ID,
    Answered,
    Event,
    ExecFailed,
    Flag,
    Image,
    Kind,
    Merged,
    Notice,
    Process,
    ProcessEvent,
    ProcessExited,
    Role,
    Session,
    SocketEvent,
)

__all__ = ["Pretty"]

# SGR sequences (ECMA-48): used sparingly, one a line.
_BOLD: Final = "\x1b[1m"
_DIM: Final = "\x1b[2m"
_RED: Final = "\x1b[31m"
_CYAN: Final = "\x1b[36m"
_LOUD: Final = "\x1b[1;97;41m"
_RESET: Final = "\x1b[0m"

_TIME: Final = 12  # HH:MM:SS.mmm
_PID: Final = 7  # of 4,194,304 at most (PID_MAX_LIMIT)
_WORD: Final = 9  # "listening"
_NAME_LEAST: Final = 8  # cells of a name, however little room there is
_DETAIL: Final = 24  # a terminal too narrow for a detail of so many cells shows the start of the line

# Plain numbers: `int & Flag` would make a Flag each time.
_ARGS_CUT: Final = int(Flag.TRUNCATED_ARGS)
_ARGS_FAULT: Final = int(Flag.FAULT_ARGS)
_DELETED: Final = int(Flag.DELETED)
_DETACHED: Final = int(Flag.DETACHED)
_KTHREAD: Final = int(Flag.KTHREAD)
_SCRIPT: Final = int(Flag.SCRIPT)
_APPROXIMATE: Final = int(Flag.APPROXIMATE)

_PROGRAMS: Final = frozenset({Kind.EXEC, Kind.PROCESS_FOUND})  # whose detail has all that fits already

_MARKED: Final = int(Flag.APPROXIMATE | sum(ATTRIBUTIONS))

_TCP_LISTEN: Final = TCP_STATES.index("LISTEN")
# The states that a connection passes before CLOSE when both sides said goodbye.
_ORDERLY: Final = frozenset(map(TCP_STATES.index, ("", "FIN_WAIT2", "TIME_WAIT", "CLOSE", "LAST_ACK", "CLOSING")))


@lru_cache(64)
def _marked(marks: int) -> str:
    """How the owner is known, if not from the kernel, and ~ for what is only about right."""
    by = "".join(f" (by {name})" for flag, name in ATTRIBUTIONS.items() if marks & flag)
    return by + (" ~" if marks & _APPROXIMATE else "")


def _is_kernel_thread(event: Event) -> bool:
    if not isinstance(event, ProcessEvent) or event.kind is not Kind.PROCESS_FOUND:
        return False
    return event.process.image is not None and bool(event.process.image.flags & _KTHREAD)


class Pretty:
    """The lines for people. Without a width nothing is cut; with one, no line is wider."""

    def __init__(self, session: Session, *, colour: bool, width: int | None, redactor: Redactor | None = None) -> None:
        """``width`` is in terminal cells, None where the output is no terminal; ``colour`` allows SGR sequences.

        ``redactor`` takes secrets out of arguments, if there is one.
        """
        self._redact: Callable[[bytes], bytes] = redactor.args if redactor is not None else bytes
        self._session = session
        self._colour = colour
        self._second = -1
        self._clock = ""
        self._details: tuple[Callable[[Any], tuple[str, str, str]], ...] = (
            self._exec,
            self._exec_failed,
            self._fork,
            self._exit,
            self._connect,
            self._attempt,
            self._accept,
            self._listen,
            self._close,
            self._flow,
            self._flow_end,
            self._owner,
            self._update,
            self._answered,
            self._running,
            self._open,
            self._update,
            self._merged,
        )
        self._timestamp(0)  # reads the time zone now: a confined process can't
        self.resize(width)

    def resize(self, width: int | None) -> None:
        """Fit the columns to a terminal of ``width`` cells from now on, or to nothing at all if None."""
        self._width = width
        if width is None:
            self._user, self._name = 12, 15
        elif width < 120:
            self._user, self._name = 8, 12
        elif width < 160:
            self._user, self._name = 10, 15
        else:
            self._user, self._name = 16, 15
        room = None if width is None else width - sum((_TIME, _PID, self._user, self._name, _WORD)) - 5
        self._narrow = room is not None and room < _DETAIL
        self._room = max(room, _DETAIL) if room is not None else None
        self._most = None if self._room is None else BYTES_A_CELL * (self._room + 1)
        # Bounded, and by value: a process that changes its name or user is simply another key.
        self._who = lru_cache(maxsize=4096)(self._make_who)

    def header(self) -> bytes:
        """Return the line of column titles."""
        user, name = pad("USER", self._user), pad("NAME", self._name)
        line = f"{'TIME':<{_TIME}} {'PID':>{_PID}} {user} {name} {'EVENT':<{_WORD}} DETAIL"
        if self._width is not None:
            line = cut(line, self._width)
        return (f"{_BOLD}{line}{_RESET}\n" if self._colour else line + "\n").encode()

    def lines(self, events: Sequence[Event], offset: int, sequence: int) -> list[bytes]:
        """Return a line for each event, but for kernel threads found at the start, which nobody asks for."""
        return [self.render(event, offset, sequence) for event in events if not _is_kernel_thread(event)]

    def render(self, event: Event, offset: int, sequence: int) -> bytes:  # noqa: ARG002 (every format takes it)
        """Return one line, with its newline; ``offset`` is wall clock minus CLOCK_BOOTTIME in ns."""
        stamp = self._timestamp(event.time + offset)
        if isinstance(event, Notice):
            return self._notice(event, offset, stamp)
        word, detail, style = self._details[event.kind](event)
        if event.late:
            detail += " (late)"
        marks = event.marks if isinstance(event, SocketEvent | Answered) else event.flags
        if marks & _MARKED:
            detail += _marked(marks)
        process = event.process
        if process is not None:
            if process.within is not None and event.kind not in _PROGRAMS and (owner := whose(process.within)):
                detail = self._fitted(detail, [owner])
            who = self._who(process.tgid, process.uid, process.comm)
        else:
            who = self._who(0, event.uid if isinstance(event, SocketEvent) else -1, b"")
        if self._room is not None:
            detail = cut(detail, self._room)
            if self._narrow:
                line = cut(f"{stamp} {who} {word:<{_WORD}} {detail}", self._width or 0)
                return (f"{style}{line}{_RESET}\n" if self._colour and style else line + "\n").encode()
        if not self._colour or not style:
            return f"{stamp} {who} {word:<{_WORD}} {detail}\n".encode()
        if style is _DIM:
            return f"{_DIM}{stamp} {who} {word:<{_WORD}} {detail}{_RESET}\n".encode()
        return f"{stamp} {who} {style}{word:<{_WORD}} {detail}{_RESET}\n".encode()

    def _timestamp(self, wall: int) -> str:
        second, rest = divmod(wall, 1_000_000_000)
        if second != self._second:
            self._clock = time.strftime("%H:%M:%S", time.localtime(second))
            self._second = second
        return f"{self._clock}.{rest // 1_000_000:03d}"

    def _user_name(self, uid: int) -> str:
        name = self._session.users.get(uid)
        if name is None:
            return str(uid) if 0 <= uid < UNSET_ID else "-"
        return visible(name)

    def _make_who(self, tgid: int, uid: int, comm: bytes) -> str:
        user, name = self._user_name(uid), printable(comm) or "-"
        pid = str(tgid) if tgid else "-"
        if self._width is None:
            return f"{pid:>{_PID}} {user + ' ' * (self._user - width(user))} {name + ' ' * (self._name - width(name))}"
        return f"{pid:>{_PID}} {pad(user, self._user)} {pad(name, self._name)}"

    # One method a kind: the event's word, the detail, the style.

    def _program(self, process: Process, image: Image) -> str:
        """What a process runs, and whatever of parent, directory and executable fits beside it."""
        text = arguments(self._redact(image.args), self._most) or printable(image.executable)
        flags = image.flags
        if flags & _ARGS_CUT:
            text += " …"
        elif flags & _ARGS_FAULT:
            text += " (arguments unreadable)"
        if flags & _DETACHED:
            text = f"[memfd] {text}"
        elif flags & _DELETED:
            text = f"[deleted] {text}"
        if self._room is not None and len(text) > self._room:
            return text  # most often, and nothing fits beside it
        extras = [] if process.within is None else [whose(process.within)]
        if process.parent is not None:
            extras.append(f" (parent {named(process.parent)})")
        if image.cwd:
            extras.append(f" in {printable(image.cwd)}")
        called = image.args.partition(b"\0")[0].rpartition(b"/")[2].removeprefix(b"-")
        if image.args and called != image.executable.rpartition(b"/")[2] and not flags & _SCRIPT:
            extras.append(f" [{printable(image.executable)}]")
        return self._fitted(text, extras)

    def _fitted(self, text: str, extras: list[str]) -> str:
        """The text and those of the extras, most wanted first, that fit beside it whole."""
        room = self._room
        if room is None:
            return text + "".join(extras)
        used = width(text)
        for extra in extras:
            more = width(extra)
            if used + more <= room:
                used += more
                text += extra
        return text

    def _exec(self, event: ProcessEvent) -> tuple[str, str, str]:
        image = event.process.image
        return "exec", self._program(event.process, image) if image else "?", _BOLD

    def _running(self, event: ProcessEvent) -> tuple[str, str, str]:
        process, image = event.process, event.process.image
        if image is None:
            return "running", "?", _DIM
        if image.flags & _KTHREAD:
            return "running", "kernel thread", _DIM
        return "running", self._program(process, image), _DIM

    def _exec_failed(self, event: ExecFailed) -> tuple[str, str, str]:
        asked = printable(event.requested) or "?"
        given = self._redact(event.args).partition(b"\0")[2]
        if given:
            asked = f"{asked} {arguments(given, self._most)}"
        if event.flags & _ARGS_CUT:
            asked += " …"
        room = self._room
        if event.error:
            brief = errno_name(event.error)
            reason = f"{brief} {errno_words(event.error)}"
        else:
            brief = reason = "killed by seccomp"
        # The reason must not be what falls off the end of a long command.
        if room is not None and width(asked) + len(reason) + 2 > room:
            reason = brief
            asked = cut(asked, room - len(reason) - 2)
        return "no exec", f"{asked}: {reason}", _RED

    def _fork(self, event: ProcessEvent) -> tuple[str, str, str]:
        parent = event.process.parent
        return "fork", f"child of {named(parent)}" if parent else "child of ?", ""

    def _exit(self, event: ProcessExited) -> tuple[str, str, str]:
        detail, failed = how_it_ended(event)
        # 0 is what the scheduler has not counted yet, not what was used.
        extras = [f", CPU {human_duration(event.cpu_ns)}"] if event.cpu_ns else []
        if event.process.start:
            extras.insert(0, f", lived {human_duration(event.time - event.process.start)}")
        if event.max_rss:
            extras.append(f", peak {human_bytes(event.max_rss * self._session.host.page_size)}")
        return "exit", self._fitted(detail, extras), _RED if failed else _DIM

    def _routed(self, event: SocketEvent, tail: str, route: Callable[..., str] = connection_route) -> str:
        """Both ends of a flow and what follows, which is most wanted: names are told in as much room as that leaves."""
        text = route(event) + tail
        room = self._room
        if room is None or event.names is None or width(text) <= room:
            return text
        for brief in (1, 2):
            text = route(event, brief) + tail
            if width(text) <= room:
                return text
        most = width(printable(event.names.domain)) - (width(text) - room)
        if event.role in CALLED and most < _NAME_LEAST:
            return route(event, 3) + tail
        return route(event, 2, max(most, _NAME_LEAST)) + tail

    def _connect(self, event: SocketEvent) -> tuple[str, str, str]:
        took = human_duration(event.time - event.opened) if 0 < event.opened < event.time else ""
        if event.error:
            extras = [f" after {took}"] if took else []
            return "connect", self._fitted(self._routed(event, f" {what_failed(event.error)}"), extras), _RED
        return "connect", self._routed(event, f" in {took}" if took else ""), _CYAN

    def _attempt(self, event: SocketEvent) -> tuple[str, str, str]:
        return "connect", self._routed(event, " no answer yet"), _CYAN

    def _accept(self, event: SocketEvent) -> tuple[str, str, str]:
        return "accept", self._routed(event, ""), _CYAN

    def _listen(self, event: SocketEvent) -> tuple[str, str, str]:
        local = endpoint(event.local, event.local_port)
        backlog = "" if event.marks & NO_TOTALS else f" backlog {event.backlog}"
        return "listen", f"listening on {local}{backlog}", _CYAN

    def _close(self, event: SocketEvent) -> tuple[str, str, str]:
        if event.role == Role.LISTEN or event.state == _TCP_LISTEN:
            detail = f"no longer listening on {endpoint(event.local, event.local_port)}"
            if event.opened:
                detail += f" after {human_duration(event.time - event.opened)}"
            return "close", detail, _CYAN
        tail, style = "", _CYAN
        # How it went wrong comes first: it must not be what falls off the end.
        if event.error:
            tail = f" {what_failed(event.error)},"
            style = _RED
        elif event.state not in _ORDERLY and not event.marks & _APPROXIMATE:
            state = TCP_STATES[event.state] if event.state < len(TCP_STATES) else event.state
            tail = f" cut off in {state},"
        extras = [f", {human_duration(event.time - event.opened)}"] if event.opened else []
        if event.retransmits:
            extras.append(f", {plural(event.retransmits, 'retransmit')}")
        tail = (tail + traffic(event)).removesuffix(",")
        return "close", self._fitted(self._routed(event, tail), extras), style

    def _flow(self, event: SocketEvent) -> tuple[str, str, str]:
        return "flow", self._routed(event, "", flow_route), _CYAN

    def _flow_end(self, event: SocketEvent) -> tuple[str, str, str]:
        extras = [f", {human_duration(event.time - event.opened)}"] if event.opened else []
        return "end", self._fitted(self._routed(event, traffic(event), flow_route), extras), _CYAN

    def _update(self, event: SocketEvent) -> tuple[str, str, str]:
        route = flow_route if event.role in (Role.SENT, Role.RECEIVED) else connection_route
        extras = [f", {human_duration(event.time - event.opened)}"] if event.opened else []
        return "moved", self._fitted(self._routed(event, traffic(event), route), extras), _CYAN

    def _merged(self, event: SocketEvent) -> tuple[str, str, str]:
        merged = event.merged or Merged(1, event.time, event.time, 0)
        image = merged.owner.image if merged.owner is not None else None
        route = f"→ {endpoint(event.remote, event.remote_port)}"
        if event.role in CALLED:
            route = f":{event.local_port} ← {event.remote}"
        failed = f" {what_failed(event.error)}" if event.error else ""
        moved = traffic(event) if event.moved_out >= 0 else ""
        extras = [f", within {human_duration(merged.last - merged.first)}"]
        if image is not None and event.process is None:
            extras.append(f", {printable(image.executable)}")
        detail = f"{merged.flows:,} times {route} {event.transport}{failed}{moved}"
        return "flows", self._fitted(detail, extras), _RED if event.error else _CYAN

    def _answered(self, event: Answered) -> tuple[str, str, str]:
        room = self._room
        asked = "?"
        if event.question is not None:
            name, kind, class_ = event.question
            asked = printable(name)
            if room is not None:
                asked = cut(asked, max(room // 2, _DETAIL))
            asked += f" {kind}" if class_ == "IN" else f" {class_} {kind}"
        style = _CYAN
        if event.malformed:
            detail, style = f"{asked}: an answer that can't be read", _RED
        elif event.code != "NOERROR":
            detail, style = f"{asked}: {event.code}", _RED
        else:
            found = list(event.addresses) or [printable(each.data) for each in event.answers if each.data]
            detail = f"{asked} = {', '.join(found)}" if found else f"{asked}: no answer"
            if event.cut:
                detail += " …"
        extras = [f" from {endpoint(event.remote, event.remote_port)}"]
        if event.protocol != "dns":
            extras.insert(0, f" by {event.protocol}")
        return "dns", self._fitted(detail, extras), style

    def _owner(self, event: SocketEvent) -> tuple[str, str, str]:
        return "owner", self._routed(event, " is used by this process now"), _CYAN

    def _open(self, event: SocketEvent) -> tuple[str, str, str]:
        if event.state == _TCP_LISTEN or event.role == Role.LISTEN:
            backlog = "" if event.marks & NO_TOTALS else f" backlog {event.backlog}"
            return "listening", f"on {endpoint(event.local, event.local_port)}{backlog}", _DIM
        extras = [f", {human_duration(event.time - event.opened)}"] if event.opened else []
        return "open", self._fitted(self._routed(event, traffic(event)), extras), _DIM

    def _notice(self, event: Notice, offset: int, stamp: str) -> bytes:
        text, severity = describe(event, self._session, offset)
        line = f"{stamp} {text}"
        if self._width is not None:
            line = cut(line, self._width)
        if self._colour and severity:
            style = _LOUD if severity is LOUD else _DIM
            line = f"{line[: _TIME + 1]}{style}{line[_TIME + 1 :]}{_RESET}"
        return (line + "\n").encode()
