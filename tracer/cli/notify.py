"""Tell the service manager how the service is (sd_notify(3)), over a socket that is open before the sandbox."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from tracer.cli.errors import CommandError, Exit
from tracer.confine.seccomp_filter import Check, Rule

if TYPE_CHECKING:
    from sdnotify import SystemdNotifier

__all__ = ["Notifier"]

_WAITS_S: Final = 0.5  # a manager that reads nothing holds the tracing up no longer
_INT: Final = 0xFFFFFFFF
_WHOLE: Final = (1 << 64) - 1
_STATUS_MOST: Final = 200


class Notifier:
    """What is told of one service: READY, RELOADING, WATCHDOG, STATUS, STOPPING.

    By the package sdnotify: it keeps its socket, where libsystemd's sd_notify(), and so every binding to it
    (python3-systemd, cysystemd, pystemd), opens one for each message, which the confined process may not.
    """

    def __init__(self, notifier: SystemdNotifier, every_s: float | None) -> None:
        """``every_s``: the manager ends the service when it hears nothing for that long (None: it may be silent)."""
        self._notifier = notifier
        self._every = None if every_s is None else every_s / 3
        self._due = 0.0
        self._status = ""
        self.fd: Final = notifier.socket.fileno()

    @classmethod
    def open(cls) -> Notifier | None:
        """Connect to the manager that the environment names; None where there is none. Raises CommandError."""
        if not os.environ.get("NOTIFY_SOCKET"):
            return None
        try:
            from sdnotify import SystemdNotifier
        except ImportError as missing:
            fix = "pip install 'tracer[service]', or run it as a service of Type=exec"
            raise CommandError(f"to tell systemd takes the package sdnotify: {fix}", Exit.FAILURE) from missing
        try:
            notifier = SystemdNotifier(debug=True)
        except OSError as refused:
            why = refused.strerror or str(refused)
            raise CommandError(
                f"can't reach $NOTIFY_SOCKET: {why}; unset it, or start this by systemd", Exit.FAILURE
            ) from refused
        notifier.debug = False  # from now on what can't be told is not told
        notifier.socket.settimeout(_WAITS_S)
        return cls(notifier, _watchdog(os.environ))

    @property
    def calls(self) -> tuple[Rule, ...]:
        """The system calls that must be left to this process: to send over that socket, to whom it is connected."""
        return (Rule("sendto", (Check(0, _INT, self.fd), Check(4, _WHOLE, 0))),)

    def ready(self, status: str) -> None:
        """It has started, or what reloading() told is done."""
        self._status = _one_line(status)
        self._tell("READY=1", f"STATUS={self._status}")

    def reloading(self) -> None:
        """It takes its configuration anew, or reopens its output; ready() ends that."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def alive(self, now_s: float, status: str | None = None) -> None:
        """It turns, at ``now_s`` of a clock that never goes back; cheap where there is nothing to tell."""
        told = []
        if self._every is not None and now_s >= self._due:
            self._due = now_s + self._every
            told.append("WATCHDOG=1")
        if status is not None and (line := _one_line(status)) != self._status:
            self._status = line
            told.append(f"STATUS={line}")
        if told:
            self._tell(*told)

    def stopping(self) -> None:
        """It ends."""
        self._tell("STOPPING=1", "STATUS=writing what is left")

    def _tell(self, *lines: str) -> None:
        self._notifier.notify("\n".join(lines))


def _watchdog(environment: Mapping[str, str]) -> float | None:
    """After what silence, in s, the manager ends the service. This is still its main process, which the pid is of."""
    every, pid = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
    if not (every.isascii() and every.isdecimal() and int(every)) or (pid and pid != str(os.getpid())):
        return None
    return int(every) / 1e6


def _one_line(text: str) -> str:
    return " ".join(text.split()).encode("ascii", "replace").decode()[:_STATUS_MOST]
