"""See TCP sockets come by dumps and go by notifications, in every network namespace, and find out whose they are.

A dump costs the kernel a walk through its table, so everything is asked for only when the namespace's own counters say
that a connection was begun or accepted. A connection that ends before the next dump is known by its end alone: with its
totals, without an owner.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from time import thread_time_ns
from typing import Final

from tracer.fallback.diag import ALL_STATES, LISTEN, SYN_SENT, Diag, TcpSocket
from tracer.fallback.diag_flow import DiagFlow, record_of
from tracer.fallback.files import ProcFiles, gone
from tracer.fallback.heard import Heard
from tracer.fallback.holders import Search
from tracer.fallback.telling import owner_of
from tracer.model import TCP_STATES, Flag, Kind, Role
from tracer.probes.source import boottime

__all__ = ["LONGEST_NS", "SHORTEST_NS", "DiagWatch"]

SHORTEST_NS: Final = 10_000_000  # between two looks at a namespace where something happens
LONGEST_NS: Final = 100_000_000  # and where nothing does
ALL_NS: Final = 1_000_000_000  # between two dumps of everything, whatever the counters say
_HOT_NS: Final = 500_000_000  # how long something is said to happen
_SHARE: Final = 0.25  # of one CPU that looking may take
_CALMER: Final = 1.5
_GRACE_NS: Final = 2_000_000_000  # after the last process of a namespace: then what it kept alive may go
_RETRY_NS: Final = 5_000_000_000
_ATTEMPT_AFTER_NS: Final = 2_900_000_000  # as in bpf/tracer.h
_FLOWS_MOST: Final = 131_072
_LISTENED_MOST: Final = 65_536
_OWNER_TRIES: Final = 3
_LIKELY: Final = 32  # processes that are looked at first
_ASKED: Final = 8  # processes of a namespace that are tried
_ANY: Final = (bytes(16), bytes(10) + b"\xff\xff" + bytes(4))
_SYN_RECV: Final = TCP_STATES.index("SYN_RECV")
_APPROXIMATE: Final = int(Flag.APPROXIMATE)
_COUNTED: Final = (b"ActiveOpens", b"PassiveOpens")  # of /proc/PID/net/snmp


class _Namespace:
    """One network namespace, and what is open in it, by cookie."""

    def __init__(self, netns: int, diag: Diag) -> None:
        self.netns = netns
        self.diag = diag
        self.flows: dict[int, DiagFlow] = {}
        self.untold: dict[int, DiagFlow] = {}  # those of flows of which there is something to say
        self.listened: dict[tuple[bytes, int], None] = {}  # where, the latest last
        self.owners: dict[int, None] = {}  # pids that have sockets here, the latest last
        self.counters: tuple[int, ...] = ()
        self.interval = SHORTEST_NS
        self.due = self.all_due = self.hot_until = self.empty_since = 0
        self.dumped = self.dumped_before = 0  # when the newest dump of everything began, and the one before that
        self.overruns = 0  # that were seen to
        self.suspects: set[int] = set()  # cookies that were not in the dump after an overrun

    def listens(self, address: bytes, port: int) -> bool:
        """Whether a socket listens there, or did."""
        return any((each, port) in self.listened for each in (address, *_ANY))


class DiagWatch:
    """The TCP sockets of every network namespace that a process is known to be in.

    ``put`` takes the records; ``pulse`` is called between pieces of long work, so that nobody is kept waiting.
    """

    def __init__(
        self, files: ProcFiles, heard: Heard, put: Callable[[bytes], object], pulse: Callable[[], None]
    ) -> None:
        """``heard`` knows who lives, and where; nothing is opened before start()."""
        self._files = files
        self._heard = heard
        self._put = put
        self._pulse_of = pulse
        self._pulsed = 0  # ns of CPU that pulses have taken
        self._search = Search(files, heard, self._pulse)
        self._namespaces: dict[int, _Namespace] = {}
        self._refused_at: dict[int, int] = {}
        self.refused: dict[int, str] = {}
        """Namespaces that could not be looked into, and why."""
        self.missed: Counter[str] = Counter()
        """What is known to have been missed, by what it was."""

    def close(self) -> None:
        """Close everything; idempotent."""
        for namespace in self._namespaces.values():
            namespace.diag.close()
        self._namespaces.clear()

    def filenos(self) -> list[int]:
        """The descriptors that become readable when sockets were destroyed."""
        return [namespace.diag.fileno() for namespace in self._namespaces.values()]

    @property
    def due(self) -> int:
        """When the next look is due (boottime ns)."""
        return min((namespace.due for namespace in self._namespaces.values()), default=boottime() + LONGEST_NS)

    @property
    def overruns(self) -> int:
        """How often notifications found no room."""
        return sum(namespace.diag.overruns for namespace in self._namespaces.values())

    def hurry(self) -> None:
        """Look at everything as soon as can be: something may have been missed."""
        for namespace in self._namespaces.values():
            namespace.due = namespace.all_due = 0

    # The beginning.

    def start(self) -> None:
        """Open every namespace, and find what is there and whose it is. Raises OSError."""
        self._open_new()
        for namespace in list(self._namespaces.values()):
            namespace.counters = self._counters(namespace)
            self._dump(namespace, ALL_STATES)
        flows = [flow for namespace in self._namespaces.values() for flow in namespace.flows.values()]
        self._own({flow.inode: flow for flow in flows if flow.inode}, list(self._heard.living))
        for flow in flows:
            flow.before, flow.opened = True, 0
            flow.tries = _OWNER_TRIES if flow.inode else 0  # who waits to be accepted has no owner yet
            flow.told = bool(flow.inode) and flow.state != SYN_SENT

    def found(self) -> Iterable[bytes]:
        """Records of the sockets from before the start, once, and of the connects that are still pending."""
        for namespace in self._namespaces.values():
            for flow in namespace.flows.values():
                if flow.before and flow.inode:
                    flow.before = False
                    yield record_of(Kind.SOCKET_FOUND, flow, flow.state, flow.last, 0)
                elif flow.state == SYN_SENT and not flow.attempted:
                    yield record_of(Kind.ATTEMPT, flow, flow.state, flow.last, _APPROXIMATE)

    # Namespaces.

    def _open_new(self) -> None:
        now = boottime()
        for netns, members in list(self._heard.members.items()):
            if netns in self._namespaces or now - self._refused_at.get(netns, -_RETRY_NS) < _RETRY_NS:
                continue
            for pid in list(members)[:_ASKED]:
                if self._heard.look_again(pid) == netns and self._open(netns, pid):
                    break

    def _open(self, netns: int, pid: int) -> bool:
        """Whether that is done with, be it by a refusal."""
        try:
            self._namespaces[netns] = _Namespace(netns, _diag(self._files, pid))
        except OSError as error:
            if gone(error):
                return False
            self._refused_at[netns] = boottime()
            self.refused[netns] = error.strerror or str(error)
            return True
        self.refused.pop(netns, None)
        return True

    def _close_empty(self, now: int) -> None:
        """An open socket keeps a namespace alive: let go of those that no process is in any more."""
        for netns, namespace in list(self._namespaces.items()):
            if netns in self._heard.members:
                namespace.empty_since = 0
            elif not namespace.empty_since:
                namespace.empty_since = now
            elif now - namespace.empty_since > _GRACE_NS:
                self._hear(namespace)
                for cookie in list(namespace.flows):
                    self._ended_unheard(namespace, cookie)
                namespace.diag.close()
                del self._namespaces[netns]

    def _counters(self, namespace: _Namespace) -> tuple[int, ...]:
        """How many connections were begun and accepted in a namespace; empty when nobody there can be asked."""
        for pid in list(self._heard.members.get(namespace.netns, ()))[:_ASKED]:
            try:
                text = self._files.read(pid, "net/snmp")
            except OSError:
                continue
            if self._heard.look_again(pid) == namespace.netns:
                return _opens(text)
        return ()

    def _pulse(self) -> None:
        began = thread_time_ns()
        self._pulse_of()
        self._pulsed += thread_time_ns() - began

    # Looking.

    def look(self) -> None:
        """Do what is due. Raises OSError when sock_diag fails."""
        now = boottime()
        self._open_new()
        for namespace in list(self._namespaces.values()):
            if now >= namespace.due:
                self._look(namespace)
                self._pulse()
        self._close_empty(now)

    def hear(self) -> None:
        """Tell of the sockets that were destroyed. Raises OSError when sock_diag fails."""
        for namespace in list(self._namespaces.values()):
            self._hear(namespace)

    def _look(self, namespace: _Namespace) -> None:
        begun, spent = boottime(), thread_time_ns() - self._pulsed
        counters = self._counters(namespace)
        changed = not counters or counters != namespace.counters
        if changed or begun >= namespace.all_due or namespace.suspects or self._is_waiting(namespace, begun):
            self._dump(namespace, ALL_STATES)
            namespace.all_due = begun + ALL_NS
        else:
            self._dump(namespace, 1 << LISTEN)
        namespace.counters = counters
        fresh = self._own_new(namespace)
        self._news(namespace)
        self._hear(namespace)
        now = boottime()
        if (changed and counters) or fresh:
            namespace.hot_until = now + _HOT_NS
        calmer = min(LONGEST_NS, int(namespace.interval * _CALMER))
        namespace.interval = SHORTEST_NS if now < namespace.hot_until else calmer
        # By its own time: on a busy machine a look takes long, and costs no more. Who is asked takes as much again.
        spent = 2 * (thread_time_ns() - self._pulsed - spent)
        namespace.due = now + max(namespace.interval, int(spent / _SHARE))

    @staticmethod
    def _is_waiting(namespace: _Namespace, now: int) -> bool:
        """Whether the next dump may tell what there is to say of a socket."""
        return any(
            (flow.inode and flow.tries < _OWNER_TRIES) or now - flow.opened < ALL_NS
            for flow in namespace.untold.values()
        )

    def _dump(self, namespace: _Namespace, states: int) -> None:
        began = boottime()
        there = namespace.diag.dump(states)
        now = boottime()
        flows = namespace.flows
        for socket in there:
            flow = flows.get(socket.cookie)
            if flow is not None:
                flow.goes_on(socket)
            elif len(flows) >= _FLOWS_MOST:
                self.missed["sockets_beyond_table"] += 1
            else:
                flow = DiagFlow(namespace.netns, socket, now, namespace.dumped_before, pending=socket.state == SYN_SENT)
                flow.goes_on(socket)
                flows[socket.cookie] = namespace.untold[socket.cookie] = flow
                if socket.state == LISTEN:
                    namespace.listened.pop((socket.local, socket.port), None)
                    namespace.listened[socket.local, socket.port] = None
        while len(namespace.listened) > _LISTENED_MOST:
            del namespace.listened[next(iter(namespace.listened))]
        if states == ALL_STATES:
            # One dump may have left a socket out, two in a row don't.
            namespace.dumped_before, namespace.dumped = namespace.dumped, began
            self._look_after_overrun(namespace, {socket.cookie for socket in there})

    # Owners.

    def _own_new(self, namespace: _Namespace) -> bool:
        """Look for the owners of what has none yet: first among the likely, then in the namespace, then everywhere."""
        wanted: dict[int, dict[int, DiagFlow]] = {}
        for flow in namespace.untold.values():
            if flow.inode and not flow.owner.pid and flow.tries < _OWNER_TRIES:
                wanted.setdefault(flow.tries, {})[flow.inode] = flow
                flow.tries += 1
        living, members = self._heard.living, self._heard.members.get(namespace.netns, set())
        for tries, flows in wanted.items():
            newest = sorted(members, key=lambda pid: living[pid].start, reverse=True)
            if tries == 0:
                among = [*reversed(namespace.owners), *newest][: 2 * _LIKELY]
            else:
                among = newest if tries < _OWNER_TRIES - 1 else list(living)
            self._own(flows, list(dict.fromkeys(among)))
            for flow in flows.values():
                if flow.owner.pid:
                    namespace.owners.pop(flow.owner.pid, None)
                    namespace.owners[flow.owner.pid] = None
        while len(namespace.owners) > _LIKELY:
            del namespace.owners[next(iter(namespace.owners))]
        return bool(wanted)

    def _own(self, flows: dict[int, DiagFlow], among: list[int]) -> None:
        found = self._search.owners({inode: flow.since for inode, flow in flows.items()}, among)
        for inode, pid in found.items():
            flows[inode].owner = owner_of(self._heard.living[pid].record)

    # What to say.

    def _news(self, namespace: _Namespace) -> None:
        now = boottime()
        for cookie, flow in list(namespace.untold.items()):
            if flow.told:
                del namespace.untold[cookie]
            elif flow.state == SYN_SENT:
                if not flow.attempted and flow.inode and now - flow.opened > _ATTEMPT_AFTER_NS:
                    flow.attempted = True
                    self._put(record_of(Kind.ATTEMPT, flow, SYN_SENT, flow.last, _APPROXIMATE))
            elif flow.inode and (flow.owner.pid or flow.tries >= _OWNER_TRIES):
                self._tell(namespace, flow)

    def _tell(self, namespace: _Namespace, flow: DiagFlow) -> None:
        """How it came to be there; where that can't be told, its end will be all."""
        flow.told = True
        namespace.untold.pop(flow.last.cookie, None)
        if flow.state == LISTEN:
            self._put(record_of(Kind.LISTEN, flow, 0, flow.last, _APPROXIMATE))
            return
        flow.established = boottime()
        flow.role = flow.role or (Role.CONNECT if flow.pending else _role(namespace, flow.last))
        if flow.role == Role.ACCEPT:
            self._put(record_of(Kind.ACCEPT, flow, _SYN_RECV, flow.last, _APPROXIMATE))
        elif flow.role == Role.CONNECT:
            self._put(record_of(Kind.CONNECT, flow, SYN_SENT, flow.last, _APPROXIMATE))

    def _hear(self, namespace: _Namespace) -> None:
        for socket in namespace.diag.destroyed():
            flow = namespace.flows.pop(socket.cookie, None)
            if flow is not None:
                namespace.untold.pop(socket.cookie, None)
                self._ended(namespace, flow, socket)
            else:
                self._ended_unseen(namespace, socket)

    def _ended(self, namespace: _Namespace, flow: DiagFlow, socket: TcpSocket) -> None:
        if flow.state == LISTEN:
            return
        if flow.state == SYN_SENT and not _was_established(socket):
            self.missed["failed_connects"] += 1
            return
        known = socket.remote_port > 0  # else the program has reset it, and the kernel forgotten its totals
        if flow.state == SYN_SENT:
            flow.goes_on(socket._replace(state=socket.state, inode=flow.inode, uid=flow.last.uid))
        if not flow.told and flow.inode:  # else it was accepted since, or never
            self._tell(namespace, flow)
        self._put(record_of(Kind.CLOSE, flow, 0, socket if known else None, _APPROXIMATE))

    def _ended_unseen(self, namespace: _Namespace, socket: TcpSocket) -> None:
        """A socket that no dump has told of: nobody knows any more whose it was."""
        if not socket.remote_port:
            if any(socket.remote[12:]) or any(socket.remote[:10]):
                self.missed["failed_or_reset_unseen"] += 1
            return  # else it never went anywhere
        if not _was_established(socket):
            self.missed["failed_connects"] += 1
            return
        flow = DiagFlow(namespace.netns, socket, 0, 0, role=_role(namespace, socket))
        self._put(record_of(Kind.CLOSE, flow, 0, socket, _APPROXIMATE))

    def _ended_unheard(self, namespace: _Namespace, cookie: int) -> None:
        flow = namespace.flows.pop(cookie)
        namespace.untold.pop(cookie, None)
        if flow.told and flow.state != LISTEN:
            self._put(record_of(Kind.CLOSE, flow, 0, None, _APPROXIMATE))

    def _look_after_overrun(self, namespace: _Namespace, there: set[int]) -> None:
        """What two dumps after an overrun do not have any more has ended, and its end was not heard."""
        for cookie in namespace.suspects - there:
            if cookie in namespace.flows:
                self.missed["unheard_ends"] += 1
                self._ended_unheard(namespace, cookie)
        namespace.suspects.clear()
        if namespace.diag.overruns > namespace.overruns:
            namespace.overruns = namespace.diag.overruns
            namespace.suspects = namespace.flows.keys() - there


def _diag(files: ProcFiles, pid: int) -> Diag:
    asking = files.open_diag(pid)
    try:
        hearing = files.open_diag(pid)
    except OSError:
        os.close(asking)
        raise
    return Diag(asking, hearing)


def _role(namespace: _Namespace, socket: TcpSocket) -> Role:
    """Which side has opened a connection, as far as is known who listens."""
    ours = namespace.listens(socket.local, socket.port)
    theirs = namespace.listens(socket.remote, socket.remote_port)
    if ours == theirs:
        return Role.NONE
    return Role.ACCEPT if ours else Role.CONNECT


def _was_established(socket: TcpSocket) -> bool:
    """Whether there was ever an answer: a round trip that was measured, or bytes that were acknowledged."""
    info = socket.info
    return info is not None and bool(info.rtt_us or info.acked or info.received)


def _opens(text: bytes) -> tuple[int, ...]:
    """The counters of a /proc/PID/net/snmp."""
    lines = [line.split() for line in text.splitlines() if line.startswith(b"Tcp:")]
    if len(lines) != 2:
        return ()
    values = dict(zip(*lines, strict=False))
    return tuple(int(values.get(name, b"0")) for name in _COUNTED)
