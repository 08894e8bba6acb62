"""Processes in words: what they were started with, whose they are, how they ended."""

from __future__ import annotations

from functools import lru_cache
from signal import Signals
from typing import Final

from tracer.formats.text import command_line, printable
from tracer.model import Cgroup, Flag, Parent, ProcessExited

__all__ = ["arguments", "how_it_ended", "named", "whose"]

_ID_DIGITS: Final = 64  # of a container
_ID_SHOWN: Final = 12  # as docker ps shows it

_SECCOMP: Final = int(Flag.SECCOMP_KILLED)
_CORE: Final = int(Flag.CORE)
_NO_STATUS: Final = int(Flag.NO_STATUS)

# Asked for by a person or by the end of a pipe; any other signal that kills is shown as a failure.
_ORDINARY_SIGNALS: Final = frozenset({"SIGHUP", "SIGINT", "SIGPIPE", "SIGTERM"})


@lru_cache(maxsize=128)
def _signal_name(number: int) -> str:
    try:
        return Signals(number).name
    except ValueError:
        return f"signal {number}"


def whose(within: Cgroup) -> str:
    """The container or the service, if it is in one; other units tell little that the user's name does not."""
    if within.container:
        name = within.container[:_ID_SHOWN] if len(within.container) == _ID_DIGITS else within.container
        return f" · {within.runtime or 'container'} {printable(name)}"
    unit = within.user_unit or within.unit
    is_service = unit.endswith(b".service") and not unit.startswith(b"user@")
    return f" · {printable(unit)}" if is_service else ""


def arguments(raw: bytes, most: int | None) -> str:
    """The command line, not much more of it than ``most`` bytes of arguments."""
    return command_line(raw if most is None or len(raw) <= most else raw[:most])


def named(parent: Parent) -> str:
    """A parent's name, if it is known, and its tgid."""
    return f"{printable(parent.name)} {parent.tgid}" if parent.name else str(parent.tgid)


def how_it_ended(event: ProcessExited) -> tuple[str, bool]:
    """How a process ended, and whether by a signal that nobody asks for."""
    number = event.status & 0x7F  # wait(2): the signal in the low seven bits, then the core bit, then the exit code
    if event.flags & _NO_STATUS:
        return "exit, status unknown", False
    if not number:
        return f"exit {event.status >> 8 & 0xFF}", False
    name = _signal_name(number)
    detail = f"killed by {name}"
    if event.flags & _SECCOMP:
        detail += " (seccomp)"
    if event.status & 0x80 or event.flags & _CORE:
        detail += " (core dumped)"
    return detail, name not in _ORDINARY_SIGNALS
