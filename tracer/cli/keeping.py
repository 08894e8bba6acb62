"""Keep the files of `tracer export`: rotate them when they are full or old, and notice what others do to them."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from tracer.cli.errors import CommandError, Exit
from tracer.cli.packer import Packer
from tracer.cli.rotation import Rotation, reason
from tracer.cli.sandbox import Mode, confine_opener
from tracer.cli.stream import Stream
from tracer.confine.opener import keeper_plan
from tracer.fallback.opener import Answers, Opened, Opener, OpenerLostError
from tracer.fallback.protocol import IDLE, PACKS, STAYS, ZSTD, Asks, Question
from tracer.probes.source import boottime
from tracer.sinks.durable import Durable
from tracer.sinks.numbered import Numbered
from tracer.sinks.place import Look, Packing, Place
from tracer.sinks.resume import Left

__all__ = ["Keeping", "Limits"]

_LOOK_NS: Final = 1_000_000_000
_AGAIN_NS: Final = 10_000_000_000  # until what was refused is tried again
_AT_ONCE_S: Final = 0.02  # it opens in less, unless the disk or server hangs; then the turns go on
_AT_THE_END_S: Final = 2.0
_FIRST_S: Final = 30.0
_LOCKS_WITHIN_S: Final = 3.0  # what is left of one that was killed
_LOCK_AGAIN_S: Final = 0.05
_CONFIG_MOST: Final = 60 << 10
_CUT: Final = struct.Struct("<Q")
_STEPS: Final = 3  # at the end: what SIGHUP asked for, a look, and what that found
_PACKS: Final = {Packing.NONE: 0, Packing.GZIP: PACKS, Packing.ZSTD: PACKS | ZSTD}
_MOVED_LOOKS: Final = 2  # who rotates by renaming is about to send SIGHUP


@dataclass
class Limits:
    """When a file is done, in bytes and seconds (0: never for that), how many of those stay (0: all), and packed."""

    size: int = 64 << 20
    age: float = 0.0
    keep: int = 16
    compress: Packing = Packing.NONE

    @property
    def rotates(self) -> bool:
        """Whether files are ever done."""
        return bool(self.size or self.age)


class Keeping(Rotation):
    """What becomes of the files of one directory, which nobody else may write to."""

    def __init__(
        self,
        path: Path,
        mode: Mode,
        tell: Callable[[str], None],
        limits: Limits,
        reads: Sequence[Path | None] = (),
        *,
        numbered: bool = False,
    ) -> None:
        """``path`` is the file that is written, or if they are ``numbered`` what all are called but for their numbers.

        ``reads`` are read again after a SIGHUP, for configure().
        """
        super().__init__(path, mode, tell)
        self._file = path
        self.numbered = numbered
        self.name = f"the newest file in {path.parent}" if numbered else str(path)
        """What is written now, as people are told of it."""
        self._reads = reads
        self.configure: Callable[[int, bytes, Stream], None] = lambda *_: None
        """Takes what is in one of the files that are read again, by its place among them."""
        self.give_up: Callable[[str], None] = tell
        """Is told when there is nobody any more who could rotate."""
        self._packer = 0  # its pid
        self._output: Durable | None = None
        self._begun = 0  # bytes that the file had before what was put into it now
        self._first = 0  # the number of the first line of the file
        self._inode = 0
        self._opened = boottime()
        self._wants: list[int] = []  # of those that are read again
        self._wanted = 0
        self._seen = boottime()  # when the file was where it should be
        self._moved = 0
        self._gone = False
        self._put_off = False
        self._stays = False  # if the file that is put off can't be had, that before it is gone on with
        self._try_after = 0
        self._look_after = 0
        self._told: set[object] = set()  # what was said already
        self.limits = limits
        self.has_zstd = limits.compress is Packing.ZSTD
        """Whether files can be compressed with that: it is loaded only if the start asked for it."""

    def start(self) -> None:
        """Fork the opener: before there is anything that it could inherit. Raises CommandError."""
        if self.has_zstd and find_spec("zstandard") is None:
            raise CommandError("--compress zstd takes the package zstandard: pip install 'tracer[zstd]'", Exit.FAILURE)
        directory = self._claim()
        place = Numbered(self._file, directory) if self.numbered else Place(self._file, directory)
        try:
            plan = keeper_plan(self._file.parent)
            packer = Packer.start(place, directory, lambda: confine_opener(self._mode, plan), zstd=self.has_zstd)
            self._packer = packer.pid
            try:
                self._opener = Opener.start(
                    None if self.numbered else place.again,
                    lambda fd: self._begin(packer, fd),
                    [directory, *packer.fds],
                    self._answers(place, packer),
                )
            finally:
                packer.close()
        except OSError as refused:
            fix = "raise the limits on processes and open files (ulimit -u, ulimit -n)"
            raise CommandError(f"can't start a process: {refused.strerror}; {fix}", Exit.FAILURE) from refused
        finally:
            os.close(directory)

    def _claim(self) -> int:
        """The directory, made if it is not there, and locked as long as somebody has this descriptor."""
        place = self._file.parent
        try:
            place.mkdir(0o750, parents=False, exist_ok=True)
            directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as refused:
            why = "it is a symbolic link" if place.is_symlink() else refused.strerror
            raise CommandError(f"can't use {place}: {why}; name a directory with --output", Exit.FAILURE) from refused
        deadline = time.monotonic() + _LOCKS_WITHIN_S
        while True:
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as held:
                if time.monotonic() < deadline:
                    time.sleep(_LOCK_AGAIN_S)
                    continue
                os.close(directory)
                fix = "end it, or name another directory with --output"
                raise CommandError(f"another tracer export writes to {place}: {fix}", Exit.FAILURE) from held
            except OSError:
                self._tell(f"{place} can't be locked: see that no other tracer export writes there")
            return directory

    def _begin(self, packer: Packer, fd: int) -> dict[str, Any]:
        """In the opener: be confined, and tell of that and of the packer."""
        told = confine_opener(self._mode, keeper_plan(self._file.parent, fd, filter(None, self._reads)))
        beside = packer.confined()
        problems = [*told.get("problems", []), *beside.get("problems", ["the packer has ended"] * (not beside))]
        return {**told, "problems": list(dict.fromkeys(problems))}

    def _answers(self, place: Place, packer: Packer) -> Answers:
        """What the opener answers beside OUTPUT."""

        def rotate(asked: Question) -> Opened:
            idle, stays = bool(asked.name & IDLE), bool(asked.name & STAYS)
            turned = place.rotate(asked.most, asked.pid, idle=idle, stays=stays)
            if asked.name & PACKS:
                packer.ask(Packing.ZSTD if asked.name & ZSTD else Packing.GZIP)
            return Opened(turned.fd, os.fstat(turned.fd).st_ino, _CUT.pack(turned.cut))

        def look(_: Question) -> Opened:
            return Opened(None, 0, bytes([place.look(), packer.failed()]))

        def config(asked: Question) -> Opened:
            path = self._reads[asked.name] if asked.name < len(self._reads) else None
            if path is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            with path.open("rb", 0) as file:
                data = file.read(_CONFIG_MOST + 1)
            if len(data) > _CONFIG_MOST:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
            return Opened(None, 0, data)

        return {Asks.ROTATE: rotate, Asks.LOOK: look, Asks.CONFIG: config}

    @property
    def pids(self) -> list[int]:
        """The opener's and the packer's: they are no news."""
        return [*super().pids, self._packer]

    @property
    def busy(self) -> bool:
        """As Rotation's; settings are a part of it."""
        opener, config = self._opener, Asks.CONFIG
        return super().busy or bool(self._wants) or (opener is not None and opener.asked and opener.what is config)

    def ends(self) -> bool:
        """SIGHUP never ends it: it is a service."""
        return False

    def begin(self, left: Left) -> int:
        """The descriptor of the file to write to, from an earlier run's on. Raises CommandError."""
        self.is_confined()
        what = f"a file in {self._file.parent}" if self.numbered else self.name
        goes_on = left.first is not None and not self.numbered
        try:
            opener = self._asked(IDLE, left.first if goes_on and left.first is not None else left.following)
            opened = opener.opened(_FIRST_S)
        except (OSError, OpenerLostError) as failed:
            raise CommandError(f"can't open {what}: {reason(failed)}", Exit.FAILURE) from failed
        if opened is None or opened.fd is None:
            raise CommandError(f"can't open {what}: that takes too long", Exit.FAILURE)
        (cut,) = _CUT.unpack(opened.data)
        if cut:
            self._tell(f"{self.name} ended in half a line: its {cut} bytes were cut off")
        self._inode = opened.inode
        # What is gone on with began with an earlier line.
        stays = goes_on and not self.limits.rotates
        self._first = left.first if stays and left.first is not None else left.following
        self._opened = self._seen = boottime()
        return opened.fd

    def follows(self, output: Durable, size: int) -> None:
        """This writes to the file, which has so many bytes."""
        self._output = output
        self._begun = size

    def _asked(self, name: int, first: int) -> Opener:
        if self._opener is None:
            raise AssertionError
        limits = self.limits
        name |= _PACKS[limits.compress] | (0 if limits.rotates or self.numbered else STAYS)
        self._opener.ask(Asks.ROTATE, name=name, pid=limits.keep, most=first)
        return self._opener

    # While it runs.

    def turn(self, stream: Stream, *, last: bool = False) -> None:
        """Do what is due, and take what came of what was asked for before."""
        opener = self._opener
        if opener is None:
            return
        self._trouble(stream)
        try:
            self._turn(stream, opener, last=last)
        except OpenerLostError:
            self._opener = None
            self.give_up(f"the process that keeps {self._file.parent} is gone; start this again")
        if last or self._opener is None:
            self._settle()

    def _turn(self, stream: Stream, opener: Opener, *, last: bool) -> None:
        if opener.asked:
            self._hear(stream, opener, _AT_THE_END_S if last else 0.0)
        for _ in range(_STEPS if last else 1):
            what = None if opener.asked else self._due(stream, last)
            if what is None:
                return
            if what is Asks.ROTATE:
                self._asked(0, stream.following if self.numbered and not self._put_off else self._first)
            else:
                opener.ask(what, name=self._wanted if what is Asks.CONFIG else 0)
            within_s = _AT_THE_END_S if last else 0.0 if what is Asks.LOOK else _AT_ONCE_S
            self._hear(stream, opener, within_s)
            if what is Asks.ROTATE and opener.asked and self.numbered:
                self._waits(stream)
            if what is Asks.LOOK and not self._gone:
                return

    def _waits(self, stream: Stream) -> None:
        """The file that was asked for is called by the next line, which so has to wait for it."""
        if self._put_off or self._output is None:
            return
        self._begun += stream.size  # of the file before, should it be gone on with
        self._put_off, self._stays = True, not self._gone
        self._first = stream.put_off(self._output, stays=self._stays)

    def _settle(self) -> None:
        """Go on in the file before if it is still there and no other will be."""
        if self._put_off and self._stays and self._output is not None:
            self._put_off = self._stays = False
            self._output.provide(None)

    def _due(self, stream: Stream, last: bool) -> Asks | None:
        now = boottime()
        if self._hung_up:
            self._hung_up = False
            self._wants = [place for place, path in enumerate(self._reads) if path is not None]
            if not self.numbered:
                return Asks.OUTPUT
            self._look_after = 0
        if self._wants and not last:
            self._wanted = self._wants.pop(0)
            return Asks.CONFIG
        if now >= self._try_after and (asked := self._turns(stream, now)) is not None:
            return asked
        if now < self._look_after and not last:
            return None
        self._look_after = now + _LOOK_NS
        return Asks.LOOK

    def _turns(self, stream: Stream, now: int) -> Asks | None:
        """How to come to another file, if that has to be."""
        if self._gone or self._moved >= _MOVED_LOOKS:
            return Asks.ROTATE if self.numbered else Asks.OUTPUT
        limits = self.limits
        full = limits.size and self._begun + stream.size >= limits.size
        old = limits.age and stream.size and now - self._opened >= limits.age * 1e9
        return Asks.ROTATE if full or old else None

    def _hear(self, stream: Stream, opener: Opener, within_s: float) -> None:
        what = opener.what
        try:
            opened = opener.opened(within_s)
        except OSError as failed:
            self._refused(stream, what, failed)
            return
        if opened is None:
            return
        if what is Asks.LOOK:
            self._looked(Look(opened.data[0]), opened.data[1])
        elif what is Asks.CONFIG:
            self.configure(self._wanted, opened.data, stream)
        elif opened.fd is not None:
            self._goes_on(stream, opened.fd, opened.inode)

    def _looked(self, found: Look, failed: int) -> None:
        if failed and ("pack", failed) not in self._told:
            self._told.add(("pack", failed))
            self._tell(f"can't compress in {self._file.parent}: {os.strerror(failed)}; it stays as it is")
        self._moved = self._moved + 1 if found is Look.MOVED else 0
        if found is Look.GONE and not self._gone:
            self._try_after = 0  # whatever was refused before, this is worse
        self._gone = found is Look.GONE
        if found is Look.HERE:
            self._seen = boottime()

    def _goes_on(self, stream: Stream, fd: int, inode: int) -> None:
        """Go on in this file; one that it writes to already is left as it is."""
        self._told.clear()
        self._moved = 0
        if inode == self._inode and not self._put_off:
            os.close(fd)
            return
        size = os.lseek(fd, 0, os.SEEK_END)
        gone, self._gone = self._gone, False
        if self._put_off and self._output is not None:
            self._put_off = self._stays = False
            self._output.provide(fd)
            if gone:
                self._tell(f"{self.name} is there again, and what has waited is written")
        else:
            if gone:
                self._tell(f"{self.name} was deleted, and with it what was in there; it is made anew")
            self._first = stream.switch(fd)
        if gone:
            stream.gap("deleted", self._seen, boottime())
        self._begun, self._inode = size, inode
        self._opened = self._seen = boottime()

    def _refused(self, stream: Stream, what: Asks, failed: OSError) -> None:
        self._try_after = boottime() + (_LOOK_NS if self._gone else _AGAIN_NS)
        self._settle()
        new = (what, self._gone, failed.errno) not in self._told
        self._told.add((what, self._gone, failed.errno))
        if what is Asks.CONFIG:
            self._tell(f"can't read {self._reads[self._wanted]}: {reason(failed)}; nothing is changed")
            return
        if self._gone and not self._put_off and self._output is not None:
            self._put_off = True
            self._first = stream.put_off(self._output)
        if not new:
            return
        if self._gone:
            self._tell(
                f"{self.name} was deleted, and can't be made anew: {reason(failed)}; it is tried again, and lines "
                "wait. Where the directory is another one now, start this again"
            )
        else:
            verb = "rotate" if what is Asks.ROTATE else "reopen"
            self._tell(f"can't {verb} {self.name}: {reason(failed)}; it goes on in the file that was open")

    def _trouble(self, stream: Stream) -> None:
        if self._output is None:
            return
        for trouble in self._output.troubles():
            self._begun, stream.size = 0, 0
            stream.gap(trouble.what, trouble.first, trouble.last, bytes=trouble.size)
