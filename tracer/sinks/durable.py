"""Write lines to files that have to be whole: what a disk does not take is tried again, and what it has is synced."""

from __future__ import annotations

import enum
import errno
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from tracer.sinks.output import QUEUE_MOST, Batch, Item, Late, Output

if TYPE_CHECKING:
    from tracer.integrity.chain import Chain

__all__ = ["Durable", "Fsync", "Trouble"]

_AT_ONCE: Final = 1024  # pieces that writev(2) takes: UIO_MAXIOV of include/uapi/linux/uio.h
_RETRY_S: Final = 0.5
_RETRIES: Final = 3
_SYNC_S: Final = 1.0
_AWAITED: Final = -1  # the descriptor from there on is still to be provided
_ASKED_FOR: Final = -2  # the same, and if there will be none the one before is gone on with


class Fsync(enum.StrEnum):
    """When what was written is made to be on the disk; but with NEVER also when a file is done, and at the end."""

    NEVER = "never"
    ROTATE = "rotate"
    SECOND = "second"
    BATCH = "batch"


class Trouble(NamedTuple):
    """What happened to a file that nobody asked for, between which times (ns), and to how many bytes at least."""

    what: str
    first: int
    last: int
    size: int


class Durable(Output):
    """An output that outlives a full disk, and finds out if somebody cuts its file.

    While nothing can be written lines wait in the queue; there is room for ``queue_most`` bytes of them.
    """

    _ends_within_s = 30.0  # a disk may take its time to sync
    tells_lost = True

    def __init__(
        self,
        fd: int,
        name: str,
        tell: Callable[[str], None],
        clock: Callable[[], int],
        *,
        fsync: Fsync = Fsync.ROTATE,
        chain: Chain | None = None,
        queue_most: int = QUEUE_MOST,
    ) -> None:
        """``tell`` takes lines for people, ``clock`` gives the time in ns. start() is still to be called."""
        super().__init__(fd, name, queue_most=queue_most, started=False)
        self._tell = tell
        self._clock = clock
        self._chain = chain
        self._size = os.lseek(fd, 0, os.SEEK_END)
        self._checked = clock()  # when the file had that size
        self._dirty = False
        self._synced = time.monotonic()
        self._provided: deque[int | None] = deque()  # one for each that was put off
        self._awaits = False
        self._troubles: deque[Trouble] = deque()
        self._foreign = False
        self.fsync = fsync
        self.stalled: OSError | None = None
        """Why nothing can be written now."""

    def put(self, batch: Batch, within_s: float | None = 0.0) -> bool:
        """As Output.put(); nobody waits for a disk that takes nothing."""
        return super().put(batch, within_s if self.stalled is None else 0.0)

    def flush(self, timeout: float | None = None) -> bool:
        """As Output.flush(); a disk that takes nothing is tried a few times more."""
        soon = _RETRIES * _RETRY_S
        if timeout is None or timeout <= soon:
            return super().flush(timeout)
        if super().flush(soon):
            return True
        return self.stalled is None and not self._awaits and super().flush(timeout - soon)

    def put_off(self, *, stays: bool = False) -> None:
        """Write what is put from now on to a descriptor that provide() will give.

        If it ``stays`` that may also be the one before, which is else closed at once.
        """
        self.switch(_ASKED_FOR if stays else _AWAITED)

    def provide(self, fd: int | None) -> None:
        """The descriptor that was put off; None for the one before, if that stays."""
        with self._lock:
            self._provided.append(fd)
            self._lock.notify_all()

    def troubles(self) -> list[Trouble]:
        """What happened to the files since this was asked last."""
        with self._lock:
            found = list(self._troubles)
            self._troubles.clear()
            return found

    def _next(self) -> Item | None:
        wakes = _SYNC_S if self._dirty and self.fsync is Fsync.SECOND else None
        if not self._lock.wait_for(lambda: self._ending or self._queue, wakes):
            return Late(self._sync_now, 0)
        if self._ending:
            self._finish()
            return None
        return self._queue.popleft()

    def _take(self, item: Item) -> None:
        if isinstance(item, int):
            if item == _ASKED_FOR:
                if (provided := self._await()) is None:
                    return
                item = provided
            self._close()
            self._fd = self._awaited() if item == _AWAITED else item
            self._size = os.lseek(self._fd, 0, os.SEEK_END)
            self._checked = self._clock()
            return
        super()._take(item)

    def _await(self) -> int | None:
        """What is provided, None if there is none until the end."""
        with self._lock:
            self._awaits = True
            self._lock.wait_for(lambda: self._ending or self._provided)
            self._awaits = False
            return self._provided.popleft() if self._provided else None

    def _awaited(self) -> int:
        if (fd := self._await()) is None:
            raise FileNotFoundError(errno.ENOENT, "it was deleted, and with it lines were lost")
        return fd

    def _close(self) -> None:
        if self._fd >= 0:
            self._sync(self.fsync is not Fsync.NEVER)
            os.close(self._fd)
            self._fd = -1

    def _finish(self) -> None:
        """The end: what is written is synced; the descriptor goes with the process."""
        if self._fd >= 0:
            self._sync(self.fsync is not Fsync.NEVER)

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        for begin in range(0, len(lines), _AT_ONCE):
            part = lines[begin : begin + _AT_ONCE]
            whole = sum(map(len, part))
            written = self._try(part)
            if written < whole:
                view = memoryview(b"".join(part))[written:]
                while view:
                    view = view[self._try([view]) :]
            self._size += whole
        if self.stalled is not None:
            self.stalled = None
            self._tell(f"{self._name} can be written again")
        if self._chain is not None:
            self._chain.feed(b"".join(lines))
        self._check()
        self._dirty = True
        self._sync(self.fsync is Fsync.BATCH or self._is_due())

    def _try(self, pieces: Sequence[bytes | memoryview]) -> int:
        """Write until something of it is written: how many bytes. Raises OSError when the end comes before."""
        while True:
            try:
                return os.writev(self._fd, pieces)
            except BrokenPipeError:
                raise
            except OSError as failed:
                if self.stalled is None or self.stalled.errno != failed.errno:
                    self._tell(f"can't write {self._name}: {failed.strerror}; it is tried again, and lines wait")
                with self._lock:
                    self.stalled = failed
                    self._lock.notify_all()
                    if self._lock.wait_for(lambda: self._ending, _RETRY_S):
                        raise

    def _check(self) -> None:
        """Whether the file is as long as what was written to it: it is opened to append, so nobody else shows."""
        size = os.lseek(self._fd, 0, os.SEEK_END)
        now = self._clock()
        if size < self._size:
            self._tell(
                f"{self._name} was cut by somebody, who may have lost lines: for logrotate name a file with --output, "
                "and have it renamed (create, not copytruncate)"
            )
            with self._lock:
                self._troubles.append(Trouble("truncated", self._checked, now, self._size - size))
        elif size > self._size and not self._foreign:
            self._foreign = True
            self._tell(f"somebody else writes to {self._name} as well: give each a file of its own")
        self._size, self._checked = size, now

    def _is_due(self) -> bool:
        return self.fsync is Fsync.SECOND and time.monotonic() - self._synced >= _SYNC_S

    def _sync_now(self) -> list[bytes]:
        self._sync(True)
        return []

    def _sync(self, wanted: bool) -> None:
        if not wanted or not self._dirty:
            return
        try:
            os.fsync(self._fd)
        except OSError as failed:
            self._tell(f"can't sync {self._name}: {failed.strerror}; what was written last may not be on the disk")
        self._dirty = False
        self._synced = time.monotonic()
