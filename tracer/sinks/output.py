"""Write lines from a thread of its own, so that the reader of the rings never waits for a disk or a pipe."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import threading
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Batch", "Item", "Late", "Output", "OutputError", "open_again", "open_file"]

_AT_ONCE: Final = 1024  # pieces that writev(2) takes: UIO_MAXIOV of include/uapi/linux/uio.h
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_LARGE: Final = 4 << 20  # bytes: as much as is worth some milliseconds of giving it back
QUEUE_MOST: Final = 32 << 20  # bytes that may wait for a slow reader before lines are lost


# What frees lines leaves holes between what stays, which glibc does not give back by itself; musl has nothing to ask.
_trim: Final = getattr(ctypes.CDLL(None), "malloc_trim", None)


def _give_back() -> None:
    """Have the C library give back what lines took that had to wait."""
    if _trim is not None:
        _trim(0)


class OutputError(Exception):
    """The output can't be opened or written; the message is one line with the fix."""


class Batch(NamedTuple):
    """Lines that belong together, and what events they are."""

    lines: list[bytes]
    size: int
    kinds: Counter[int]


def open_file(path: Path, mode: int = 0o640, *, option: str = "--output", keep: bool = False) -> int:
    """Open a file for writing, never through a symbolic link, and empty it unless ``keep``. Raises OutputError.

    ``option`` is what names it on the command line. A named pipe needs a reader: to wait for one could last for ever,
    and no signal would end it, as os.open() goes on after one. Who cuts the file meanwhile gets no hole in it.
    """
    try:
        fd = os.open(path, _FLAGS if keep else _FLAGS | os.O_TRUNC, mode)
    except OSError as refused:
        if refused.errno == errno.ELOOP:
            raise OutputError(f"{path} is a symbolic link: name the file itself, or - for stdout") from refused
        if refused.errno == errno.ENXIO:
            raise OutputError(f"nobody reads {path}: start the reader of this pipe first") from refused
        raise OutputError(f"can't open {path}: {refused.strerror}; name another file with {option}") from refused
    os.set_blocking(fd, True)
    return fd


def open_again(path: Path, directory: int, current: int = 0, mode: int = 0o640) -> int:
    """Open what open_file() has opened once more, or what is in its place now, to go on behind what is in it.

    ``directory`` is a descriptor of the one that it was in, ``current`` the inode of the file that is being written: it
    is no one else's, and has no line that nobody ends. Raises OSError: ESTALE when another one is in its place,
    ELOOP for a symbolic link, ENXIO for what is no regular file.
    """
    if not os.path.samestat(path.parent.stat(), os.fstat(directory)):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
    fd = os.open(path.name, _FLAGS, mode, dir_fd=directory)
    try:
        _check_file(fd)
        os.set_blocking(fd, True)
        if os.fstat(fd).st_ino != current:
            _end_line(fd, path.name, directory)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _check_file(fd: int) -> None:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO))


def _end_line(fd: int, name: str, directory: int) -> None:
    """End a line that somebody has left unfinished in the file, where it may be read."""
    size = os.fstat(fd).st_size
    if not size:
        return
    try:
        reader = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return
    try:
        if os.path.samestat(os.fstat(reader), os.fstat(fd)) and os.pread(reader, 1, size - 1) != b"\n":
            os.write(fd, b"\n")
    finally:
        os.close(reader)


class Late(NamedTuple):
    """What makes lines once all before is written; ``size`` is what stands for them while they wait."""

    make: Callable[[], list[bytes]]
    size: int = 1


Item = Batch | Late | int
"""What waits to be written: lines, or the descriptor from there on."""


class Output:
    """A bounded queue and the thread that empties it into a descriptor."""

    _ends_within_s = 1.0
    tells_lost = False
    """Whether an end with an error says how many events it cost."""

    def __init__(self, fd: int, name: str, *, queue_most: int = QUEUE_MOST, started: bool = True) -> None:
        """``name`` is for messages. The descriptor stays the caller's. If not ``started``, start() comes later."""
        self._fd = fd
        self._name = name
        self._most = queue_most
        self._queue: deque[Item] = deque()
        self._waiting = 0
        self._most_waited = 0  # since memory was given back
        self._written: Counter[int] = Counter()
        self._lock = threading.Condition()
        self._ending = False
        self.closed_by_reader = False
        self.error: OutputError | None = None
        self._first: Callable[[], bool] | None = None
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        if started:
            self._thread.start()

    def start(self, first: Callable[[], bool]) -> bool:
        """Start the thread, which calls ``first`` before it writes anything, and writes nothing if that gives False.

        Returns what it gave.
        """
        answers: list[bool] = []
        asked = threading.Event()

        def call() -> bool:
            try:
                answers.append(first())
            finally:
                asked.set()
            return answers[0]

        self._first = call
        self._thread.start()
        asked.wait()
        return answers == [True]

    def put(self, batch: Batch, within_s: float | None = 0.0) -> bool:
        """Queue a batch; False when it finds no room for ``within_s`` seconds (None: unless the output is broken)."""
        with self._lock:
            if within_s != 0:
                self._lock.wait_for(lambda: self._broken or not self._full(batch), within_s)
            if self._broken or self._full(batch):
                return False
            self._queue.append(batch)
            self._waiting += batch.size
            self._most_waited = max(self._most_waited, self._waiting)
            self._lock.notify_all()
            return True

    def switch(self, fd: int) -> None:
        """Write what is put from now on to ``fd``, which becomes this object's; the one before is closed then."""
        self._append(fd)

    def later(self, make: Callable[[], list[bytes]]) -> None:
        """Write the lines that ``make`` gives, which the writing thread calls when all that was put is written."""
        self._append(Late(make))

    def _append(self, item: Item) -> None:
        with self._lock:
            self._queue.append(item)
            self._waiting += item.size if isinstance(item, Late) else 0  # so that flush() waits for it
            self._lock.notify_all()

    def _full(self, batch: Batch) -> bool:
        return self._waiting > 0 and self._waiting + batch.size > self._most

    @property
    def _broken(self) -> bool:
        return self.closed_by_reader or self.error is not None

    @property
    def broken(self) -> bool:
        """Whether nothing more can be written."""
        return self._broken

    def written(self) -> Counter[int]:
        """The events written since this was asked last."""
        with self._lock:
            written, self._written = self._written, Counter()
            return written

    def flush(self, timeout: float | None = None) -> bool:
        """Wait until all that was queued is written, at most ``timeout`` seconds; False when it was not."""
        with self._lock:
            return self._lock.wait_for(lambda: self._broken or not self._waiting, timeout) and not self._broken

    def close(self) -> None:
        """End the thread; what is still queued is dropped, so flush first. Idempotent."""
        with self._lock:
            self._ending = True
            self._lock.notify_all()
        if self._thread.ident is not None:
            self._thread.join(timeout=self._ends_within_s)

    def _run(self) -> None:
        if self._first is not None and not self._first():
            return
        while True:
            with self._lock:
                item = self._next()
            if item is None:
                return
            try:
                self._take(item)
            except BrokenPipeError:
                self._end(closed=True)
                return
            except OSError as failed:
                self._end(error=OutputError(f"can't write {self._name}: {failed.strerror}; {_fix(failed.errno)}"))
                return

    def _next(self) -> Item | None:
        """What is to be written next, with the lock held; None at the end."""
        self._lock.wait_for(lambda: self._ending or self._queue)
        return None if self._ending else self._queue.popleft()

    def _take(self, item: Item) -> None:
        """Write what waited. Raises OSError."""
        if isinstance(item, int):
            before, self._fd = self._fd, item
            os.close(before)  # what a disk or a server could not keep, it says here at the latest
            return
        self._write(item.make() if isinstance(item, Late) else item.lines)
        with self._lock:
            if isinstance(item, Batch):
                self._written.update(item.kinds)
            self._waiting -= item.size
            self._lock.notify_all()
            large = not self._waiting and self._most_waited > _LARGE
            if large:
                self._most_waited = 0
        if large:
            _give_back()

    def _write(self, lines: list[bytes]) -> None:
        """Write all lines, which are not copied together first unless the descriptor takes only a part of them."""
        for begin in range(0, len(lines), _AT_ONCE):
            part = lines[begin : begin + _AT_ONCE]
            written = os.writev(self._fd, part)
            if written < sum(map(len, part)):
                view = memoryview(b"".join(part))[written:]
                while view:
                    view = view[os.write(self._fd, view) :]

    def _end(self, *, closed: bool = False, error: OutputError | None = None) -> None:
        with self._lock:
            self.closed_by_reader = closed
            self.error = error
            self._lock.notify_all()


def _fix(number: int | None) -> str:
    if number in (28, 122):  # ENOSPC, EDQUOT
        return "make room there, or name another file with --output"
    return "name another file with --output"


def is_terminal(fd: int) -> bool:
    """Whether the descriptor is a terminal; a closed one is none."""
    try:
        return stat.S_ISCHR(os.fstat(fd).st_mode) and os.isatty(fd)
    except OSError:
        return False
