"""The worker's side of the broker: ProcFiles for who may not read /proc itself, and what a worker reports."""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import threading
from collections.abc import Iterable, Iterator
from typing import Final

from tracer.fallback.files import EACH_MOST, FILES, GLANCES, LINKS, READ_MOST, ExeFile, Group, Part
from tracer.fallback.protocol import (
    EXE,
    FILE,
    GROUP,
    LINK,
    PART,
    PIDS_MOST,
    REASON_MOST,
    REFUSED,
    Asks,
    Heard,
    ProtocolError,
    Question,
    hear,
)
from tracer.probes.source import SourceLostError

__all__ = ["AskedFiles", "BrokerLostError"]

_PATIENCE_S: Final = 30.0  # a question takes milliseconds; a broker that is stopped, or hangs, is none any more


class BrokerLostError(SourceLostError):
    """The broker is gone, hangs, or says what is no answer. No OSError: it tells nothing of the process asked about."""


class AskedFiles:
    """ProcFiles, answered by the broker at the other end of a socket. Every method may raise BrokerLostError."""

    def __init__(self, end: socket.socket, patience: float = _PATIENCE_S) -> None:
        """``end`` is a socket of SOCK_SEQPACKET, from now on this object's; ``patience`` in seconds."""
        self._end = end
        self._end.settimeout(patience)
        self._poll = select.poll()
        self._poll.register(end, 0)  # its hang-up is told in any case
        self._lock = threading.Lock()  # an answer belongs to who asked

    @property
    def fd(self) -> int:
        """The socket's descriptor."""
        return self._end.fileno()

    def close(self) -> None:
        """To the broker this is the worker's end."""
        self._end.close()

    def gone(self) -> bool:
        """Whether the broker has ended, without asking it."""
        return bool(self._poll.poll(0))

    def _ask(self, question: Question) -> Heard:
        """Raises OSError with the errno of a refusal."""
        with self._lock:
            try:
                self._end.send(question.pack())
                heard = hear(self._end)
            except TimeoutError as late:
                raise BrokerLostError("the broker does not answer") from late
            except OSError as failed:
                raise BrokerLostError(f"the broker is gone ({os.strerror(failed.errno or errno.EPIPE)})") from failed
            except ProtocolError as bad:
                raise BrokerLostError(f"the broker does not keep to the protocol: {bad}") from bad
        wanted = question.what is Asks.DIAG and not heard.errno
        if (heard.fd is not None) != wanted:
            if heard.fd is not None:
                os.close(heard.fd)
            raise BrokerLostError("the broker does not keep to the protocol: a descriptor too many or too few")
        if heard.errno:
            raise OSError(heard.errno, os.strerror(heard.errno))
        return heard

    def _ask_for(self, question: Question, layout: struct.Struct) -> tuple[tuple[int, ...], bytes]:
        data = self._ask(question).data
        return self._unpack(layout, data, 0), data[layout.size :]

    @staticmethod
    def _unpack(layout: struct.Struct, data: bytes, at: int) -> tuple[int, ...]:
        try:
            return layout.unpack_from(data, at)
        except struct.error as short:
            raise BrokerLostError(f"the broker does not keep to the protocol: {short}") from short

    def _pieces(self, data: bytes, layout: struct.Struct) -> Iterator[tuple[int, bytes | None]]:
        """Each a number, and the bytes that follow it; None when there are none because they were refused."""
        at = 0
        while at < len(data):
            number, length = self._unpack(layout, data, at)
            at += layout.size
            if length > len(data) - at:
                raise BrokerLostError("the broker does not keep to the protocol: an answer is cut short")
            if length == REFUSED:
                yield number, None
                continue
            yield number, data[at : at + max(length, 0)]
            at += max(length, 0)

    # ProcFiles.

    def pids(self) -> list[int]:
        """See ProcFiles."""
        data = self._ask(Question(Asks.PIDS)).data
        return list(struct.unpack(f"<{len(data) // 4}I", data[: len(data) & ~3]))

    def read(self, pid: int, name: str, most: int = READ_MOST, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        return self._ask(Question(Asks.READ, _number(name, FILES), pid, start, min(most, READ_MOST))).data

    def read_each(self, pids: Iterable[int], name: str, most: int = EACH_MOST) -> dict[int, bytes | None]:
        """See ProcFiles."""
        number, wanted = _number(name, FILES), tuple(pids)
        found: dict[int, bytes | None] = {}
        for at in range(0, len(wanted), PIDS_MOST):
            some = wanted[at : at + PIDS_MOST]
            answer = self._ask(Question(Asks.EACH, number, most=min(most, EACH_MOST), pids=some))
            found.update(self._pieces(answer.data, FILE))
        return found

    def link(self, pid: int, name: str, *, start: int = 0) -> bytes:
        """See ProcFiles."""
        return self._ask(Question(Asks.LINK, _number(name, LINKS), pid, start)).data

    def fds(self, pid: int, *, start: int = 0) -> dict[int, bytes]:
        """See ProcFiles."""
        data = self._ask(Question(Asks.FDS, 0, pid, start)).data
        return {fd: link or b"" for fd, link in self._pieces(data, LINK)}

    def exe(self, pid: int, *, start: int = 0) -> ExeFile:
        """See ProcFiles."""
        return ExeFile(*self._ask_for(Question(Asks.EXE, 0, pid, start), EXE)[0])

    def cgroup(self, pid: int, *, start: int = 0) -> Group:
        """See ProcFiles."""
        (number, version), path = self._ask_for(Question(Asks.CGROUP, 0, pid, start), GROUP)
        return Group(number, version, path)

    def glance(self, pid: int, number: int) -> list[Part]:
        """See ProcFiles."""
        data = self._ask(Question(Asks.GLANCE, number, pid)).data
        parts, at = [], 0
        while at < len(data):
            refused, length = self._unpack(PART, data, at)
            at += PART.size
            parts.append(Part(refused, data[at : at + length]))
            at += length
        if at != len(data) or len(parts) != len(GLANCES[number]):
            raise BrokerLostError("the broker does not keep to the protocol: a glance of other parts")
        return parts

    def open_diag(self, pid: int | None = None) -> int:
        """See ProcFiles."""
        fd = self._ask(Question(Asks.DIAG, 0, pid or 0)).fd
        if fd is None:
            raise AssertionError(pid)  # _ask() sees to it
        return fd

    # What else a worker needs.

    def alive(self, backend: int, time: int, events: int) -> None:
        """All is well: everything up to ``time`` (ns of CLOCK_BOOTTIME) was told, in all so many events.

        ``backend`` is the place of the one in use in the ladder that the worker was started with.
        """
        self._ask(Question(Asks.ALIVE, backend, start=time, most=events))

    def lost(self, backend: int, reason: str, since: int, events: int) -> None:
        """That backend is lost, for good since ``since`` (ns); so many events were told. This worker will end."""
        text = reason.encode(errors="backslashreplace")[:REASON_MOST]
        self._ask(Question(Asks.LOST, backend, start=since, most=events, text=text))


def _number(name: str, names: tuple[str, ...]) -> int:
    if name not in names:
        raise ValueError(f"{name!r} is none of {', '.join(names)}")
    return names.index(name)
