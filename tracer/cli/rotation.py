"""SIGHUP: go on in a new file of the output's name, as logrotate wants it, or end when the terminal is gone."""

from __future__ import annotations

import errno
import os
import select
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.cli.errors import CommandError, Exit
from tracer.cli.sandbox import Mode, confine_opener
from tracer.cli.tell import tell
from tracer.confine.opener import opener_plan
from tracer.confine.seccomp_filter import Rule, on_descriptors
from tracer.fallback.opener import Opener, OpenerLostError
from tracer.fallback.protocol import Asks
from tracer.sinks.output import open_again

if TYPE_CHECKING:
    from tracer.cli.stream import Stream

__all__ = ["Rotation", "begin_rotation", "reason"]

_AT_ONCE_S: Final = 0.02  # it opens in less, unless the disk or server hangs; then the turns go on
_AT_THE_END_S: Final = 2.0
_AGAIN_S: Final = 30.0
_WHY: Final = {
    errno.ELOOP: "it is a symbolic link",
    errno.ENXIO: "it is no regular file",
    errno.ESTALE: "its directory is another one now",
}


class Rotation:
    """What SIGHUP does: without an opener it ends it all."""

    def __init__(self, path: Path | None, mode: Mode, tell: Callable[[str], None]) -> None:
        """``path`` is the output."""
        self._path = path
        self._tell = tell
        self._mode = mode
        self._opener: Opener | None = None
        self._hung_up = False  # an answer to SIGHUP is due
        self.record: dict[str, Any] = {}
        self._terminal = _Terminal()

    def start(self) -> None:
        """Fork the opener if the output is a file, or will be: before there is anything that it could inherit.

        It tells of its confinement by itself. Where it is there already nothing is done.
        """
        path = self._path
        if self._opener is not None or path is None or str(path) == "-" or not _is_file(path):
            return
        try:
            directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return  # to open the output will fail as well, and that is told
        try:
            self._opener = Opener.start(
                lambda current: open_again(path, directory, current),
                lambda fd: confine_opener(self._mode, opener_plan(path.parent, fd)),
                [directory],
            )
        except OSError as refused:
            self._tell(f"SIGHUP will end this, and not reopen {path}: can't start a process ({refused.strerror})")
        finally:
            os.close(directory)

    @property
    def pids(self) -> list[int]:
        """The opener's, if there is one: it is no news."""
        return [] if self._opener is None else [self._opener.pid]

    @property
    def calls(self) -> tuple[Rule, ...]:
        """The system calls that must be left to this process."""
        return () if self._opener is None else on_descriptors("sendto recvmsg", self._opener.fd)

    def is_confined(self) -> bool:
        """Hear from the opener, if there is one, how it is confined, once; ``record`` is what is told of it.

        Raises CommandError if that has to be strict and is not, else it is True.
        """
        if self._opener is None or self.record:
            return True
        try:
            told = self._opener.confined()
        except OpenerLostError as lost:
            why = f"the process that is to reopen {self._path} has ended ({lost})"
            if self._mode is Mode.STRICT:
                raise CommandError(f"--sandbox-strict: {why}", Exit.SANDBOX) from lost
            self._tell(f"SIGHUP will do nothing: {why}")
            return True
        problems = told.pop("problems", [])
        if problems and self._mode is Mode.STRICT:
            raise CommandError(f"--sandbox-strict: the opener: {'; '.join(problems)}", Exit.SANDBOX)
        if problems:
            self._tell(f"sandbox of the opener of {self._path}: {'; '.join(problems)}")
        self.record = {"opener": told}
        return True

    def writes(self, fd: int) -> None:
        """The output is this file."""
        if self._opener is not None:
            self._opener.writes(fd)

    def ends(self) -> bool:
        """Whether a SIGHUP that came now is to end it all; else the output is reopened soon."""
        return self._opener is None or self._terminal.gone()

    @property
    def busy(self) -> bool:
        """Whether a SIGHUP was taken, and what it asks for is not done yet."""
        opener = self._opener
        return self._hung_up or (opener is not None and opener.asked and opener.what is Asks.OUTPUT)

    def hang_up(self) -> bool:
        """Take a SIGHUP; whether it ends it all."""
        if self.ends():
            return True
        self._hung_up = True
        return False

    def turn(self, stream: Stream, *, last: bool = False) -> None:
        """Reopen the output if that was asked for; what is shown from now on goes to the new one.

        Where that fails it is told, and everything goes where it went.
        """
        opener = self._opener
        if opener is None or not (self._hung_up or opener.asked):
            return
        try:
            within_s = 0.0
            if not opener.asked:
                self._hung_up = False
                opener.ask()
                within_s = _AT_ONCE_S
            fd = opener.answer(_AT_THE_END_S if last else within_s)
        except (OSError, OpenerLostError) as failed:
            self._tell(f"can't reopen {self._path}: {reason(failed)}; it goes on in the file that was open")
            return
        if fd is not None:
            stream.switch(fd)
        elif last:
            self._tell(f"can't reopen {self._path}: that takes too long; the end is in the file that was open")

    def again(self) -> int | None:
        """The output for a fresh worker; None where there is no opener. Raises CommandError."""
        opener = self._opener
        if opener is None:
            return None
        try:
            opener.ask()
            fd = opener.answer(_AGAIN_S)
        except (OSError, OpenerLostError) as failed:
            raise CommandError(f"can't reopen {self._path}: {reason(failed)}", Exit.FAILURE) from failed
        if fd is None:
            raise CommandError(f"can't reopen {self._path}: that takes too long", Exit.FAILURE)
        return fd


def reason(failed: OSError | OpenerLostError) -> str:
    """Why the opener did not open what it was asked for."""
    if isinstance(failed, OpenerLostError):
        return "the process that opens it is gone, so start this again"
    return _WHY.get(failed.errno or 0, failed.strerror or str(failed))


def begin_rotation(path: Path | None, mode: Mode) -> Rotation | None:
    """What reopens an output that is a file, its process forked already; None for stdout."""
    if path is None or str(path) == "-":
        return None
    rotation = Rotation(path, mode, tell)
    rotation.start()
    return rotation


def _is_file(path: Path) -> bool:
    """Whether it is a regular file, or not there yet."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return True
    except OSError:
        return False


class _Terminal:
    """The terminal that this was started from, if there is one."""

    def __init__(self) -> None:
        self._fds: list[int] = []
        for fd in (0, 1, 2):
            with suppress(OSError):
                os.tcgetpgrp(fd)  # only of the terminal that the process belongs to
                self._fds.append(fd)

    def gone(self) -> bool:
        """Whether it was closed."""
        poll = select.poll()  # its own: a signal may come while another is taken, and two can't share one
        for fd in self._fds:
            poll.register(fd, 0)  # its end is told in any case
        return bool(poll.poll(0))
