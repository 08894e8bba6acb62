"""The opener: a process beside a confined one, which opens the output anew for it and hands over the descriptor.

It speaks the broker's protocol, of which it answers one question, or with a directory to keep four. It is forked before
there is anything to be taken over by, and ends when nobody is left to ask it.
"""

from __future__ import annotations

import errno
import json
import os
import select
import socket
import struct
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, NamedTuple, Self

from tracer.fallback.beside import connected
from tracer.fallback.protocol import Asks, Heard, ProtocolError, Question, hear, parse, receive, say
from tracer.probes.source import boottime

__all__ = ["Answers", "Opened", "Opener", "OpenerLostError"]

NAME: Final = b"tracer_opener"
"""What it is called in /proc/PID/comm."""
_OPENED: Final = struct.Struct("<QQ")  # the time of the question, and the inode
_STARTS_WITHIN_S: Final = 30.0


class OpenerLostError(Exception):
    """The opener is gone, or says what is no answer."""


class Opened(NamedTuple):
    """An answer: a descriptor, which is the caller's, the inode of the file, and what else there is to say."""

    fd: int | None
    inode: int = 0
    data: bytes = b""


Answers = Mapping[Asks, Callable[[Question], Opened]]
"""What it answers beside OUTPUT. Each may raise OSError, which is told."""


class Opener:
    """The asking side; one question is under way at a time. It is there in every process that is forked later."""

    def __init__(self, end: socket.socket, pid: int) -> None:
        """``end`` is a socket of SOCK_SEQPACKET to the process ``pid``."""
        self._end = end
        self._asked = 0  # when, ns; 0: not
        self.what = Asks.OUTPUT
        """What was asked last."""
        self._poll = select.poll()
        self._poll.register(end, select.POLLIN)
        self._inode = 0
        self.pid = pid

    @classmethod
    def start(
        cls,
        open_again: Callable[[int], int] | None,
        confine: Callable[[int], dict[str, Any]],
        keep: Iterable[int] = (),
        also: Answers | None = None,
    ) -> Self:
        """Fork it. There, ``open_again`` is called with the inode of the file that is being written, 0 for none.

        Without that it does not answer OUTPUT.

        ``confine`` confines it but for the socket that it is given, and tells what became of that.

        Of the descriptors that are open it has but those to ``keep``; ``also`` are the other questions that it
        answers. Raises OSError when no process can be made.
        """
        answers = dict(also or {}) | ({} if open_again is None else {Asks.OUTPUT: _output(open_again)})
        end, pid = connected(NAME, lambda there: _be(there, answers, confine), keep)
        end.settimeout(_STARTS_WITHIN_S)
        return cls(end, pid)

    @property
    def fd(self) -> int:
        """The socket's descriptor: sendto(2) and recvmsg(2) on it must be left to who asks."""
        return self._end.fileno()

    def close(self) -> None:
        """If nobody else has it, this ends it."""
        self._end.close()

    def confined(self) -> dict[str, Any]:
        """How it is confined, once, which it says by itself. Raises OpenerLostError."""
        told: dict[str, Any] = json.loads(self._hear().data)
        return told

    @property
    def asked(self) -> bool:
        """Whether an answer is due."""
        return bool(self._asked)

    def writes(self, fd: int) -> None:
        """This process writes to that file now."""
        self._inode = os.fstat(fd).st_ino

    def ask(self, what: Asks = Asks.OUTPUT, *, name: int = 0, pid: int = 0, most: int | None = None) -> None:
        """Ask for a descriptor, or for what else it answers. Raises OpenerLostError."""
        self._asked = boottime()
        self.what = what
        most = self._inode if most is None and what is Asks.OUTPUT else most or 0
        try:
            self._end.send(Question(what, name, pid, start=self._asked, most=most).pack())
        except OSError as failed:
            self._asked = 0
            raise OpenerLostError(os.strerror(failed.errno or errno.EPIPE)) from failed

    def answer(self, within_s: float) -> int | None:
        """The descriptor, which is the caller's; None when it takes longer.

        Raises OSError when it was refused, OpenerLostError.
        """
        opened = self.opened(within_s)
        return None if opened is None else opened.fd

    def opened(self, within_s: float) -> Opened | None:
        """The answer; None when it takes longer. Raises OSError when it was refused, OpenerLostError."""
        while self._poll.poll(within_s * 1000):
            try:
                heard = self._hear()
            except OpenerLostError:
                self._asked = 0
                raise
            time, inode = _OPENED.unpack_from(heard.data)
            if time != self._asked:  # to a worker that was killed before it came
                if heard.fd is not None:
                    os.close(heard.fd)
                continue
            self._asked = 0
            if heard.errno:
                raise OSError(heard.errno, os.strerror(heard.errno))
            if heard.fd is not None:
                self._inode = inode
            return Opened(heard.fd, inode, heard.data[_OPENED.size :])
        return None

    def _hear(self) -> Heard:
        try:
            return hear(self._end)
        except (OSError, ProtocolError) as failed:
            raise OpenerLostError(str(failed)) from failed


def _output(open_again: Callable[[int], int]) -> Callable[[Question], Opened]:
    def answer(question: Question) -> Opened:
        fd = open_again(question.most)
        return Opened(fd, os.fstat(fd).st_ino)

    return answer


def _be(end: socket.socket, answers: Answers, confine: Callable[[int], dict[str, Any]]) -> None:
    """Be the opener, until nobody is left to ask."""
    say(end, 0, json.dumps(confine(end.fileno())).encode())
    while data := receive(end):
        _answer(end, parse(data), answers)


def _answer(end: socket.socket, question: Question, answers: Answers) -> None:
    if question.what not in answers:
        raise ProtocolError(f"{question.what.name} is not for an opener")
    number, opened = 0, Opened(None)
    try:
        opened = answers[question.what](question)
    except OSError as refused:
        number = refused.errno or errno.EIO
    try:
        say(end, number, _OPENED.pack(question.start, opened.inode) + opened.data, opened.fd)
    finally:
        if opened.fd is not None:
            with suppress(OSError):
                os.close(opened.fd)
