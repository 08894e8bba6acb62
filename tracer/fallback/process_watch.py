"""See processes come, execute and go by comparing one look at /proc with the one before."""

from __future__ import annotations

import os
from struct import Struct
from typing import Final, NamedTuple, Protocol

from tracer.fallback.files import ProcFiles
from tracer.fallback.stat import KTHREAD, Stat, parse
from tracer.probes.records import HEADER, START

__all__ = ["Changes", "Describer", "ProcessWatch", "Watched"]

_TRIES: Final = 3  # at describing a process that executes meanwhile
_netns: Final = Struct(f"={HEADER.size + 56}xI").unpack_from  # of struct identity
_Described = tuple[bytes, Stat, bytes]  # the text of a stat, what it says, and the record that it belongs to


class Describer(Protocol):
    """Describes a process."""

    def record(self, pid: int) -> bytes | None:
        """Its record (struct exec_record); None when it has ended."""
        ...


class Watched:
    """A process that is there. (pid, stat.start) is its identity; ``record`` is what its newest description says.

    ``image`` and ``executed`` are as of that description, ``stat`` is as of the last look.
    """

    __slots__ = ("executed", "image", "netns", "pid", "record", "stat", "text")

    def __init__(self, pid: int, described: _Described) -> None:
        """As it was described."""
        self.pid = pid
        self.describe(described)

    def describe(self, described: _Described) -> None:
        """Take over a new description."""
        self.text, self.stat, self.record = described
        self.image = self.stat.image
        self.executed = self.stat.executed
        self.netns = _netns(self.record)[0]

    def runs_another(self, stat: Stat) -> bool:
        """Whether it has executed a program between its description and this stat of it."""
        if not stat.settled:
            return False
        if stat.executed and not self.executed:
            return True
        return stat.image is not None and self.image is not None and stat.image != self.image

    def is_as_described(self, text: bytes) -> bool:
        """Whether this text of its stat, read now, is of the very process and program that was described."""
        stat = parse(text)
        return stat.start == self.stat.start and stat.settled and not self.runs_another(stat)

    @property
    def start(self) -> int:
        """In ns of the machine's boot-time clock, to the tick."""
        return int(HEADER.unpack_from(self.record)[START])

    @property
    def is_kernel(self) -> bool:
        """Whether it is a kernel thread."""
        return bool(self.stat.flags & KTHREAD)

    @property
    def has_other_program(self) -> bool:
        """Whether, now that it has ended, what it ran may be another program than it was described with.

        What was only forked mostly executes before long; who has executed does so again so rarely that it counts as the
        same.
        """
        return not self.executed and not (self.stat.ended and not self.stat.executed) and not self.is_kernel

    @property
    def status(self) -> int | None:
        """How it ended, as wait(2) gives it; None where that was not seen, or is not for this reader."""
        return self.stat.status if self.stat.ended and self.image is not None else None


class Changes(NamedTuple):
    """What one look found, each in the order of its pids.

    ``executed`` are of those that were known before. ``gone`` have ended; some of them can still be seen, as zombies.
    """

    born: list[Watched]
    executed: list[Watched]
    gone: list[Watched]


class ProcessWatch:
    """The processes that there are. A refusal is no absence: who can't be read any more is there until it is gone."""

    def __init__(self, files: ProcFiles, describer: Describer, *, hidden: bool = False) -> None:
        """With ``hidden`` procfs hides processes (hidepid=invisible or ptraceable): absent is not gone then."""
        self._files = files
        self._describer = describer
        self._hidden = hidden
        self.living: dict[int, Watched] = {}
        self.unreadable = 0  # processes of which the last look could not even read when they began

    def look(self) -> Changes:
        """Compare what is there with what was. Raises OSError when /proc itself can't be read."""
        texts = self._files.read_each(self._files.pids(), "stat")
        changes = Changes([], [], [])
        self.unreadable = 0
        for pid, text in texts.items():
            known = self.living.get(pid)
            if text is None:
                self.unreadable += 1
            elif known is None or known.text != text:
                self._compare(pid, text, known, changes)
        for pid in self.living.keys() - texts.keys():
            if not (self._hidden and _exists(pid)):
                changes.gone.append(self.living.pop(pid))
        return changes

    def _compare(self, pid: int, text: bytes, known: Watched | None, changes: Changes) -> None:
        stat = parse(text)
        if known is not None and known.stat.start != stat.start:
            changes.gone.append(self.living.pop(pid))  # the pid came again
            known = None
        if known is None:
            described = self._described(pid, stat)
            if described is not None:
                self.living[pid] = born = Watched(pid, described)
                changes.born.append(born)
            return
        known.text, known.stat = text, stat
        if stat.ended:
            changes.gone.append(self.living.pop(pid))
        elif known.runs_another(stat):
            described = self._described(pid, stat)
            if described is not None:
                known.describe(described)
                changes.executed.append(known)
        elif known.image is None:
            known.image = stat.image  # it may be looked into by now; whether it is another, nobody can tell

    def _described(self, pid: int, stat: Stat) -> _Described | None:
        """A description and the stat it belongs to; None when it ends, or executes, meanwhile: the next look may do."""
        for _ in range(_TRIES):
            if stat.ended or not stat.settled:
                return None
            record = self._describer.record(pid)
            if record is None:
                return None
            try:
                text = self._files.read(pid, "stat")
            except OSError:
                return None
            after = parse(text)
            if after.start != stat.start:
                return None
            if after.settled and (after.image, after.executed) == (stat.image, stat.executed):
                return text, after, record
            stat = after
        return None


def _exists(pid: int) -> bool:
    """Whether there is such a process, also where procfs hides it: anybody may ask on which CPUs it may run."""
    try:
        os.sched_getaffinity(pid)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
