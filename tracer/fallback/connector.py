"""Hear of every fork, exec and exit from the kernel's proc connector, and know exactly what was not heard.

Each message carries its CPU and a number that this CPU gives out in order, whether or not the message found room in
the socket (send_msg() in drivers/connector/cn_proc.c). So a gap is loss, counted to the message, between the times of
its neighbours. What is lost behind the last message shows with the next one of that CPU, and sync() makes one: it
renames the calling thread, on each CPU in turn, to the name that it has.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import socket
import threading
import time
from contextlib import suppress
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple, Self

from tracer.probes.source import boottime
from tracer.probes.unusable import UnusableError

__all__ = ["Connector", "Gap", "ProcEvent", "What"]

_NLMSG_DONE: Final = 3  # what messages of the connector go by (include/uapi/linux/netlink.h)
_SO_RCVBUFFORCE: Final = 33  # include/uapi/asm-generic/socket.h
_PR_SET_NAME: Final = 15  # include/uapi/linux/prctl.h
_PR_GET_NAME: Final = 16
_MESSAGE_MOST: Final = 4096  # bytes; the largest has 92
_ANSWER_S: Final = 2.0
_ANSWER: Final = int.from_bytes(os.urandom(3)) + 1  # what an answer to this process counts up to
_SYNC_S: Final = 0.25
_WAITING_MOST: Final = 1 << 17  # messages: more than any buffer holds
_SUSPENDED_STEP: Final = 1_000_000  # ns; below this a difference is the measuring itself
_TURN: Final = 1 << 31  # half of the numbers: what lies further ahead lies behind

# struct nlmsghdr, struct cn_msg and the head of struct proc_event.
_HEAD: Final = Struct("=IHHIIIIIIHHIIQ")
_HEAD_SIZE: Final = _HEAD.size
_head = _HEAD.unpack_from
_two = Struct("=II").unpack_from
_four = Struct("=IIII").unpack_from

_libc = ctypes.CDLL(None, use_errno=True)


class What(IntEnum):
    """enum proc_cn_event of include/uapi/linux/cn_proc.h: what a message is about."""

    NONE = 0
    FORK = 0x1
    EXEC = 0x2
    UID = 0x4
    GID = 0x40
    SID = 0x80
    COMM = 0x200
    EXIT = 0x80000000


_TOLD: Final = frozenset(What) - {What.NONE}
_FORK: Final = int(What.FORK)
_COMM: Final = int(What.COMM)
_SHORT: Final = frozenset({int(What.EXEC), int(What.SID)})


class ProcEvent(NamedTuple):
    """One message; ``time`` is CLOCK_BOOTTIME in ns, ``tgid`` its process, ``pid`` its thread, of a fork the new one.

    ``first`` and ``second`` are of a fork the parent's thread and process, of an exit the status as wait(2) gives it
    and the signal for the parent, of UID and GID the real and the effective id. ``name`` is of COMM alone.
    """

    what: int
    time: int
    cpu: int
    pid: int
    tgid: int
    first: int
    second: int
    name: bytes


class Gap(NamedTuple):
    """Messages of one CPU that never came: how many, and between which times (CLOCK_BOOTTIME, ns)."""

    cpu: int
    missing: int
    first: int
    last: int


class Connector:
    """A subscription; a context manager that ends it."""

    def __init__(self, buffer_bytes: int) -> None:
        """Subscribe, with so much room for what waits. Raises UnusableError.

        The kernel charges some 830 bytes for a message of 76.
        """
        self._socket = _subscribed(buffer_bytes)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._numbers: dict[int, tuple[int, int]] = {}  # CPU -> its next number, and when its last message was sent
        self._gaps: list[Gap] = []
        self._suspended = _suspended()
        self._answered = False
        self._overrun = False  # messages were dropped that no gap shows yet
        self.can_sync = True
        """Whether sync() could do anything when it was last asked."""
        self.overruns = 0
        """How often the socket had no room."""
        self.lost = 0
        """Messages that never came, so far as gaps show it."""
        self.strangers = 0
        """Messages that were not the kernel's, and dropped."""
        try:
            self._await_answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Nothing more to do."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the subscription."""
        self.close()

    def close(self) -> None:
        """End the subscription; idempotent."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, which is readable when messages wait."""
        return self._socket.fileno()

    @property
    def room(self) -> int:
        """Bytes that the kernel keeps for messages that wait, as it counts them."""
        return self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    def read(self, most: int = 1024) -> list[ProcEvent]:
        """The messages that wait, in their order on each CPU, at most so many. Raises OSError when the socket fails."""
        suspended = _suspended()
        if abs(suspended - self._suspended) > _SUSPENDED_STEP:
            self._suspended = suspended
        events: list[ProcEvent] = []
        receive = self._socket.recvfrom
        for _ in range(most):
            try:
                data, sender = receive(_MESSAGE_MOST, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self.overruns += 1
                self._overrun = True
                continue
            # Only the kernel's own: it has port 0.
            if sender[0] or len(data) < _HEAD_SIZE:
                self.strangers += 1
                continue
            event = self._event(data)
            if event is not None:
                events.append(event)
        return events

    def gaps(self) -> list[Gap]:
        """What was not heard, not told yet; after an overrun it takes a sync() to know all of it."""
        found, self._gaps = self._gaps, []
        return found

    @property
    def overrun(self) -> bool:
        """Whether messages were dropped since the last sync() that came through."""
        return self._overrun

    def sync(self) -> tuple[list[ProcEvent], bool]:
        """Make each CPU that this thread may run on send a message, and read up to all of these. Raises OSError.

        The second value is whether they came: then every loss before is among the gaps. Where not, the connector is
        silent, or the socket overran again. Where the thread may not choose its CPU, it is the one that it runs on.
        """
        events = self.read(_WAITING_MOST)  # who is full takes nothing new
        before = self.overruns
        thread, since = threading.get_native_id(), time.clock_gettime_ns(time.CLOCK_MONOTONIC) + self._suspended
        sent = self._call_out()
        self.can_sync = sent > 0
        deadline = time.monotonic() + _SYNC_S
        came = False
        while sent and not came:
            events += self.read()
            own = [event for event in events if event.pid == thread and event.what == _COMM and event.time >= since]
            came = len(own) >= sent
            left = deadline - time.monotonic()
            if came or left <= 0:
                break
            self._poll.poll(left * 1000)
        if came and self.overruns == before:
            self._overrun = False
        return events, came

    @staticmethod
    def _call_out() -> int:
        """Rename this thread to what it is called, on every CPU that it may run on; how often that worked."""
        name, sent = ctypes.create_string_buffer(16), 0
        _libc.prctl(_PR_GET_NAME, name, 0, 0, 0)
        allowed = os.sched_getaffinity(0)
        moved = False
        try:
            for cpu in sorted(allowed):
                with suppress(OSError):  # it went offline, or this is not permitted any more
                    os.sched_setaffinity(0, {cpu})
                    moved = True
                sent += not _libc.prctl(_PR_SET_NAME, name, 0, 0, 0)
                if not moved:
                    break
        finally:
            if moved:
                os.sched_setaffinity(0, allowed)
            ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
        return sent

    def _event(self, data: bytes) -> ProcEvent | None:
        _, _, _, _, _, _, _, number, ack, _, _, what, cpu, stamp = _head(data)
        self._answered |= what == What.NONE and ack == _ANSWER
        stamp += self._suspended
        known = self._numbers.get(cpu)
        if known is not None:
            missing = (number - known[0]) & 0xFFFFFFFF
            if 0 < missing < _TURN:
                self._gaps.append(Gap(cpu, missing, known[1], stamp))
                self.lost += missing
        self._numbers[cpu] = (number + 1) & 0xFFFFFFFF, stamp
        if what not in _TOLD:
            return None
        first, second, third, fourth = _four(data, _HEAD_SIZE)
        if what == _FORK:
            return ProcEvent(what, stamp, cpu, third, fourth, first, second, b"")
        if what == _COMM:
            name = data[_HEAD_SIZE + 8 : _HEAD_SIZE + 24].partition(b"\0")[0]
            return ProcEvent(what, stamp, cpu, first, second, 0, 0, name)
        if what in _SHORT:
            third = fourth = 0
        return ProcEvent(what, stamp, cpu, first, second, third, fourth, b"")

    def _await_answer(self) -> None:
        """The kernel answers a subscription with a message of its own, or not at all. Others' messages may come too."""
        deadline = time.monotonic() + _ANSWER_S
        while not self._answered:
            left = deadline - time.monotonic()
            if left <= 0 or not self._poll.poll(left * 1000):
                # cn_proc_mcast_ctl() says nothing to who is outside of the first pid and user namespace.
                raise UnusableError(
                    "the proc connector does not answer: it serves the first pid and user namespace alone; "
                    "run tracer outside of the container",
                    4,
                )
            self.read(1)


def _subscribed(buffer_bytes: int) -> socket.socket:
    """A socket that is in the connector's group and has asked for its messages."""
    try:
        # 160 ms and 33 MiB: only where it is used.
        from pyroute2.netlink.connector.cn_proc import (
            CN_IDX_PROC,
            CN_VAL_PROC,
            PROC_CN_MCAST_LISTEN,
            ProcEventSocket,
            proc_event_control,
        )
    except ImportError as missing:
        raise UnusableError(f"{missing}: pip install 'pyroute2>=0.7.4'", 4) from missing

    request = proc_event_control()
    request["idx"], request["val"], request["len"] = CN_IDX_PROC, CN_VAL_PROC, 4
    request["ack"] = _ANSWER - 1
    request["action"] = PROC_CN_MCAST_LISTEN
    request["header"]["type"] = _NLMSG_DONE
    request.encode()
    try:
        with ProcEventSocket() as opened:
            opened.bind()
            # A descriptor of its own: pyroute2 decodes a message in 0.3 ms, and waits for ever for the answer to a
            # subscription that the kernel ignores.
            subscribed = socket.socket(fileno=os.dup(opened.fileno()))
    except OSError as error:
        raise _unusable(error) from error
    try:
        _make_room(subscribed, buffer_bytes)
        subscribed.send(request.data)
    except OSError as error:
        subscribed.close()
        raise _unusable(error) from error
    return subscribed


def _make_room(subscribed: socket.socket, buffer_bytes: int) -> None:
    half = max(1, buffer_bytes // 2)  # the kernel doubles it
    try:
        subscribed.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, half)
    except PermissionError:
        subscribed.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, half)  # at most net.core.rmem_max


def _unusable(error: OSError) -> UnusableError:
    if error.errno in (errno.EPERM, errno.EACCES):
        return UnusableError("no access to the proc connector: add CAP_NET_ADMIN, or run as root", 3)
    if error.errno == errno.ECONNREFUSED:
        return UnusableError(
            "the proc connector is in the first network namespace alone: run tracer there, or in the host's network", 4
        )
    if error.errno == errno.EPROTONOSUPPORT:
        return UnusableError("this kernel has no connector (CONFIG_CONNECTOR and CONFIG_PROC_EVENTS)", 4)
    return UnusableError(f"the proc connector can't be used: {os.strerror(error.errno or 0)}", 4)


def _suspended() -> int:
    """How long the machine slept since it was booted, ns: messages carry CLOCK_MONOTONIC, which stood still."""
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boot = boottime()
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    # Both clocks run alike, so what is within the time of the two looks is 0.
    return 0 if before <= boot <= after else boot - (before + after) // 2
