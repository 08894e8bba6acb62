"""The broker: answers its worker's questions about /proc, and starts a fresh worker when a backend is lost.

It is the parent: it keeps the pid that was started, hands signals on, and ends with the worker's exit code. It reads
nothing that others wrote but two fields of /proc: when a process began, and the path of a cgroup.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from tracer.fallback.asked import AskedFiles
from tracer.fallback.files import FILES, LINKS, DirectFiles, ProcFiles
from tracer.fallback.protocol import (
    EXE,
    FILE,
    GROUP,
    LINK,
    PART,
    REFUSED,
    Asks,
    ProtocolError,
    Question,
    parse,
    receive,
    say,
)
from tracer.probes.source import boottime

__all__ = ["Broker", "Gap", "Worker"]

_FORWARDED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_END_WITHIN_S: Final = 60.0  # a worker that was told to end; a slow output may take 20 s of it
_SAID_AFTER_S: Final = 5.0  # that it has not ended yet
_LAST_BREATH_S: Final = 5.0  # one that has hung up, or was killed
_LOSSES_MOST: Final = 5
_LOSSES_WITHIN_NS: Final = 600_000_000_000
_AGAIN_WITHIN_NS: Final = 60_000_000_000  # lost twice in so long: the next backend
_FIRST_PAUSE_S: Final = 0.1
_PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h
_FAILURE: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


class Gap(NamedTuple):
    """What is missing before a fresh worker's session: from ``first`` (ns of CLOCK_BOOTTIME) until it began.

    ``killed``: the worker before could not even end its line.
    """

    first: int
    backend: str
    reason: str
    killed: bool


class Worker(NamedTuple):
    """What a worker is started with."""

    files: AskedFiles
    ladder: tuple[str, ...]  # the backends to try, best first
    gap: Gap | None  # None: it is the first
    began: int  # when the first worker had begun, ns; 0: this is it
    events: int  # that were told by those before
    broker: int  # its pid


class _Told(NamedTuple):
    """What a worker reported last; ``backend`` is a place in its ladder."""

    backend: int = 0
    time: int = 0
    events: int = 0
    lost: str | None = None


class Broker:
    """Forks workers and serves them, one at a time."""

    def __init__(
        self,
        ladder: Sequence[str],
        *,
        ends: Callable[[int], bool] = lambda _: True,
        begun: Callable[[], None] = lambda: None,
        confine: Callable[[], None] = lambda: None,
        say: Callable[[str], None] = lambda _: None,
        files: ProcFiles | None = None,
    ) -> None:
        """``ladder`` are the backends that a worker may use; ``ends`` says whether a signal is to end it all.

        ``begun`` is called when a worker is there, to let go of what only the first was to inherit; ``confine`` once,
        before the first one is forked, which so inherits all of it. ``say`` tells the user a line.
        """
        self._ladder = tuple(ladder)
        self._ends = ends
        self._begun = begun
        self._confine = confine
        self._say = say
        self._files = files or DirectFiles()
        self._pidfd = -1  # of the worker that there is
        self._ending = False
        self._warned = False  # that it takes long
        self._overdue = False
        self._timed = False  # the worker was told to end, and the time for it runs
        self._hostile: str | None = None  # what a worker said that is no question
        self._began = 0
        self._events = 0
        self._losses: list[tuple[int, str]] = []  # when, and of which backend

    def run(self) -> Worker | int:
        """In every worker what it is started with; in the broker, when all is over, the exit code."""
        handlers = {number: signal.getsignal(number) for number in _FORWARDED}
        with suppress(OSError):
            self._files.cgroup(os.getpid())  # opens the root of control groups, which may take what is given up now
        self._confine()
        gap: Gap | None = None
        while not self._ending:
            with _blocked():
                here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                broker = os.getpid()
                pid = os.fork()
                if not pid:
                    here.close()
                    for number, handler in handlers.items():
                        signal.signal(number, handler)
                    signal.signal(signal.SIGALRM, signal.SIG_DFL)
                    # Should it hang; else it finds its socket closed. SIGTERM: it is to say what happened.
                    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM))
                    return Worker(AskedFiles(there), self._ladder, gap, self._began, self._events, broker)
                there.close()
                self._pidfd = os.pidfd_open(pid)
                for number, handler in handlers.items():
                    if handler is not signal.SIG_IGN:  # as nohup leaves it
                        signal.signal(number, self._forward)
                signal.signal(signal.SIGALRM, self._too_late)
            self._begun()
            try:
                told = self._serve(here)
                status = self._reap(pid)
            finally:
                here.close()
                os.close(self._pidfd)
                self._pidfd = -1
            code, gap = self._judge(told, status)
            if gap is None:
                return code
        return _FAILURE  # asked to end while there was no worker

    # While a worker lives.

    def _forward(self, number: int, _: object) -> None:
        ends = self._ends(number)
        self._ending |= ends
        self._signal(number)
        if ends and not self._timed and self._pidfd >= 0:  # who asks again and again is not to wait the longer for it
            self._timed = True
            self._signal(signal.SIGCONT)  # one that is stopped could not end
            signal.setitimer(signal.ITIMER_REAL, min(_SAID_AFTER_S, _END_WITHIN_S))

    def _too_late(self, *_: object) -> None:
        left = _END_WITHIN_S - _SAID_AFTER_S
        if left > 0 and not self._warned:
            self._warned = True
            self._say(f"the worker has not ended yet, by a slow output maybe; in {left:.0f} s it will be killed")
            signal.setitimer(signal.ITIMER_REAL, left)
            return
        self._overdue = True
        self._kill()

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def _serve(self, end: socket.socket) -> _Told:
        """Answer until the worker hangs up. One that does not keep to the protocol is killed."""
        told = _Told()
        try:
            while data := receive(end):
                question = parse(data)
                if question.what in (Asks.ALIVE, Asks.LOST):
                    lost = question.text.decode(errors="backslashreplace") if question.what is Asks.LOST else None
                    told = _Told(question.name, question.start, question.most, lost)
                    self._began = self._began or question.start
                    say(end, 0)
                else:
                    self._answer(end, question)
        except ProtocolError as bad:
            self._kill()
            self._hostile = f"the worker did not keep to the protocol: {bad}"
        except ConnectionError:
            pass  # it is gone; how it ended tells more
        return told

    def _answer(self, end: socket.socket, question: Question) -> None:
        fd, number, data = None, 0, b""
        try:
            if question.what is Asks.DIAG:
                fd = self._files.open_diag(question.pid or None)
            elif question.what in _ANSWERS:
                data = _ANSWERS[question.what](self._files, question)
            else:
                raise ProtocolError(f"{question.what.name} is not for a broker")
        except OSError as refused:
            number = refused.errno or errno.EIO
        except (ValueError, IndexError):
            number = errno.EIO  # a file that is not what it should be
        try:
            say(end, number, data, fd)
        finally:
            if fd is not None:
                os.close(fd)

    def _reap(self, pid: int) -> int:
        """How the worker ended, as wait(2) says it; one that has hung up but lives on is killed."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        if not poll.poll(_LAST_BREATH_S * 1000):
            self._kill()
        _, status = os.waitpid(pid, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._timed = self._warned = False
        return status

    # When it has ended.

    def _judge(self, told: _Told, status: int) -> tuple[int, Gap | None]:
        """The exit code, or what a fresh worker has to know."""
        self._events += told.events
        code = os.waitstatus_to_exitcode(status)
        if self._overdue:
            self._say(f"the worker did not end within {_END_WITHIN_S:.0f} s, and was killed")
            return _FAILURE, None
        if self._hostile is not None:
            self._say(f"{self._hostile}; it was killed")
            return _FAILURE, None
        if told.lost is None and code >= 0:
            return code, None
        reason = told.lost or f"the worker was killed by {_name(-code)}"
        if self._ending:
            self._say(reason)
            return _FAILURE, None
        now = boottime()
        self._ladder = self._ladder[min(told.backend, len(self._ladder) - 1) :]  # those before it could not start
        backend = self._ladder[0]
        recent = [(when, name) for when, name in self._losses if now - when < _LOSSES_WITHIN_NS]
        self._losses = [*recent, (now, backend)]
        if len(self._losses) > _LOSSES_MOST:
            self._say(f"{reason}; lost {len(self._losses)} times in a short time, so this is the end")
            return _FAILURE, None
        again = sum(name == backend and now - when < _AGAIN_WITHIN_NS for when, name in self._losses)
        if again > 1 and len(self._ladder) > 1:
            self._ladder = self._ladder[1:]
        self._say(f"{reason}; a fresh worker starts with {self._ladder[0]}")
        self._pause(_FIRST_PAUSE_S * 2 ** len(recent))
        return 0, Gap(told.time or self._began or now, backend, reason, told.lost is None)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._ending and time.monotonic() < until:
            time.sleep(0.05)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextmanager
def _blocked() -> Iterator[None]:
    """No signal comes through, so that none meets a broker that does not know its worker yet."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pids(files: ProcFiles, _: Question) -> bytes:
    pids = files.pids()
    return struct.pack(f"<{len(pids)}I", *pids)


def _each(files: ProcFiles, asked: Question) -> bytes:
    parts = []
    for pid, data in files.read_each(asked.pids, FILES[asked.name], asked.most).items():
        parts += [FILE.pack(pid, REFUSED)] if data is None else [FILE.pack(pid, len(data)), data]
    return b"".join(parts)


def _fds(files: ProcFiles, asked: Question) -> bytes:
    links = files.fds(asked.pid, start=asked.start)
    return b"".join(LINK.pack(fd, len(link)) + link for fd, link in links.items())


def _cgroup(files: ProcFiles, asked: Question) -> bytes:
    group = files.cgroup(asked.pid, start=asked.start)
    return GROUP.pack(group.id, group.version) + group.path


def _glance(files: ProcFiles, asked: Question) -> bytes:
    return b"".join(PART.pack(part.errno, len(part.data)) + part.data for part in files.glance(asked.pid, asked.name))


_ANSWERS: Final[dict[Asks, Callable[[ProcFiles, Question], bytes]]] = {
    Asks.PIDS: _pids,
    Asks.READ: lambda files, asked: files.read(asked.pid, FILES[asked.name], asked.most, start=asked.start),
    Asks.EACH: _each,
    Asks.LINK: lambda files, asked: files.link(asked.pid, LINKS[asked.name], start=asked.start),
    Asks.FDS: _fds,
    Asks.EXE: lambda files, asked: EXE.pack(*files.exe(asked.pid, start=asked.start)),
    Asks.CGROUP: _cgroup,
    Asks.GLANCE: _glance,
}
