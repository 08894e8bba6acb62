"""See TCP sockets come and go by comparing one look at the tables of all network namespaces with the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from tracer.fallback.files import SELF, ProcFiles, gone
from tracer.fallback.owners import Candidate, eldest, find_holders
from tracer.fallback.proc_net import ESTABLISHED, LISTEN, SYN_SENT, TIME_WAIT, Entry, ends_of, parse
from tracer.fallback.process_watch import Watched
from tracer.fallback.telling import NOBODY, Ends, Flow, Owner, owner_of
from tracer.model import NS_PER_TICK, TCP_STATES, Kind, Role

__all__ = ["SocketChange", "SocketWatch"]

ATTEMPT_AFTER_NS: Final = 2_900_000_000  # as in bpf/tracer.h
_LISTENED_NS: Final = 60_000_000_000  # how long it is known that a port was listened on
_FORGET: Final = 64  # looks between two times of that
_OWNER_TRIES: Final = 2  # its process may be about to get the descriptor at the first
_REFRESH: Final = 16  # looks in which the namespace of every process is read again once
_YOUNG_TICKS: Final = 200
_QUEUED: Final = frozenset({ESTABLISHED, TCP_STATES.index("CLOSE_WAIT")})
# Half-open ones belong to the listener still, and after TIME_WAIT begins the kernel is done with the socket.
_NOT_OPEN: Final = frozenset({TCP_STATES.index("SYN_RECV"), TCP_STATES.index("NEW_SYN_RECV"), TIME_WAIT})
_ANY: Final = (bytes(16), bytes(10) + b"\xff\xff" + bytes(4))
_LOOPBACK_4: Final = bytes(10) + b"\xff\xff\x7f"
_LOOPBACK_6: Final = bytes(15) + b"\1"
_SYN_RECV: Final = TCP_STATES.index("SYN_RECV")
_COMM_BYTES: Final = 15
_ROLES: Final = {SYN_SENT: Role.CONNECT, LISTEN: Role.LISTEN}
_TABLES: Final = (("net/tcp", "net/sockstat", b"TCP:"), ("net/tcp6", "net/sockstat6", b"TCP6:"))
_ONE_READ: Final = 3 << 10  # bytes that fit into one read of a table
_Key = tuple[bytes, bytes, int]


class SocketChange(NamedTuple):
    """Something to tell of a flow; ``state`` is the one before."""

    kind: Kind
    flow: Flow
    state: int


class SocketWatch:
    """The TCP sockets of every network namespace that a process is in."""

    def __init__(self, files: ProcFiles, clock: Callable[[], int], ephemeral: tuple[int, int]) -> None:
        """``clock`` gives a new, higher time (boottime ns) at each call; ``ephemeral`` are the first and last of the
        ports that the kernel chooses from by itself.
        """
        self._files = files
        self._clock = clock
        self._ephemeral = ephemeral
        self._flows: dict[int, dict[_Key, Flow]] = {}  # by namespace
        self._listened: dict[tuple[int, bytes, int], int] = {}  # (namespace, address, port) -> when last, ns
        self._looks = 0
        self._before = 0  # when the last look began, ns
        self._home = self._namespace(SELF)  # seen whatever /proc hides
        self.refused: set[int] = set()  # pids that could not be looked into for sockets
        self.closed: set[int] = set()  # namespaces whose tables this user may not read

    def flows(self) -> Iterator[Flow]:
        """Those that are open."""
        for flows in self._flows.values():
            yield from flows.values()

    def look(self, living: Mapping[int, Watched]) -> list[SocketChange]:
        """Compare what is there with what was; the first look tells nothing. Raises OSError."""
        changes: list[SocketChange] = []
        begun = self._clock()
        groups = self._groups(living)
        self.closed &= groups.keys()
        for netns in [netns for netns in self._flows if netns not in groups]:
            self._close_namespace(netns, living, changes)
        fresh: list[Flow] = []
        for netns, pids in groups.items():
            read = self._table(netns, pids)
            if read is not None:
                fresh += self._compare(netns, pids, *read, changes)
        self._own([flow for flow in self.flows() if flow.inode and not flow.owner.pid], groups, living)
        if not self._looks:
            for flow in fresh:
                flow.before, flow.opened = True, 0
                flow.told = bool(flow.inode) and flow.state != SYN_SENT  # what it will be told of is still to come
        elif self._looks % _FORGET == 0:
            self._forget()
        changes += self._news()
        self._looks += 1
        self._before = begun
        return changes

    # Namespaces and their tables.

    def _groups(self, living: Mapping[int, Watched]) -> dict[int, list[int]]:
        """The processes of each namespace; of those that were not asked for long it is asked again."""
        groups: dict[int, list[int]] = {}
        turn = self._looks % _REFRESH
        newest = max((process.stat.start for process in living.values()), default=0)
        for pid, process in living.items():
            if process.is_kernel:
                continue
            if pid % _REFRESH == turn or process.stat.start > newest - _YOUNG_TICKS:
                process.netns = self._namespace(pid) or process.netns
            if process.netns:
                groups.setdefault(process.netns, []).append(pid)
        if self._home:
            groups.setdefault(self._home, [])
        return groups

    def _namespace(self, pid: int) -> int:
        try:
            link = self._files.link(pid, "ns/net")
        except OSError:
            return 0
        return int(link[5:-1]) if link.startswith(b"net:[") else 0

    def _table(self, netns: int, pids: list[int]) -> tuple[dict[_Key, Entry], bool] | None:
        """What is open in a namespace, and whether it took several reads; None when no process there can be asked."""
        for pid in [*pids, SELF]:
            try:
                # A process may go to another namespace at any time.
                if self._namespace(pid) != netns:
                    continue
                text = [self._text(pid, *names) for names in _TABLES]
                if self._namespace(pid) != netns:
                    continue
            except OSError as error:
                if not gone(error):
                    self.closed.add(netns)
                continue
            self.closed.discard(netns)
            table = {_key(entry): entry for part in text for entry in parse(part) if entry.state not in _NOT_OPEN}
            return table, any(len(part) > _ONE_READ for part in text)
        return None

    def _text(self, pid: int, name: str, counts: str, label: bytes) -> bytes:
        """A table, but not if the kernel counts no socket of this family: there is one table for all namespaces.

        To look through it takes milliseconds, however little is in it.
        """
        try:
            for line in self._files.read(pid, counts).splitlines():
                words = line.split()
                if words[:2] == [label, b"inuse"] and words[2] == b"0":
                    return b""
            return self._files.read(pid, name)
        except FileNotFoundError:
            return b""  # a kernel without IPv6; that the process is gone is found out by who asked

    # Comparing.

    def _compare(
        self, netns: int, pids: list[int], table: dict[_Key, Entry], in_parts: bool, changes: list[SocketChange]
    ) -> list[Flow]:
        flows = self._flows.setdefault(netns, {})
        if in_parts and any(key not in table for key in flows):
            # One may be left out between two parts, while others come and go (tcp_seek_last_pos() in tcp_ipv4.c).
            again = self._table(netns, pids)
            if again is None:
                return []
            table = {**table, **again[0]}
        for key in [key for key, flow in flows.items() if _is_gone(flow, table.get(key))]:
            self._closed(flows.pop(key), changes)
        fresh = []
        for key, entry in table.items():
            if entry.state == LISTEN:
                ends = ends_of(entry)
                self._listened[netns, ends.local, ends.local_port] = self._clock()
            flow = flows.get(key)
            if flow is not None:
                flow.state = entry.state
                if entry.inode and not flow.inode:
                    flow.inode, flow.role = entry.inode, Role.ACCEPT  # it has waited for that
            elif entry.inode or entry.state in _QUEUED:
                now = self._clock()
                flow = flows[key] = Flow(now, netns, ends_of(entry), entry.inode, entry.uid, entry.state, now)
                flow.role = _ROLES.get(entry.state, Role.NONE)
                flow.pending = entry.state == SYN_SENT
                flow.unseen = self._before
                fresh.append(flow)
        return fresh

    def _closed(self, flow: Flow, changes: list[SocketChange]) -> None:
        if flow.state == LISTEN or not flow.inode:
            return  # nobody has ever accepted it
        if flow.state != SYN_SENT and not flow.told and self._knows_role(flow):
            changes.append(self._told(flow))
        if flow.state == SYN_SENT and not flow.attempted:
            changes.append(SocketChange(Kind.ATTEMPT, flow, SYN_SENT))
        changes.append(SocketChange(Kind.CLOSE, flow, flow.state))

    def _close_namespace(self, netns: int, living: Mapping[int, Watched], changes: list[SocketChange]) -> None:
        """No process is in it any more; one that has left it may have taken sockets along."""
        flows = self._flows[netns]
        for key, flow in list(flows.items()):
            owner = living.get(flow.owner.pid)
            if owner is None or owner.start != flow.owner.start:
                self._closed(flows.pop(key), changes)
        if not flows:
            del self._flows[netns]

    # Whose they are, and what to say of them.

    def _own(self, flows: list[Flow], groups: dict[int, list[int]], living: Mapping[int, Watched]) -> None:
        """Find the owners of these flows among the processes of their namespaces, at last among all."""
        by_namespace: dict[int, dict[int, Flow]] = {}
        for flow in flows:
            if flow.tries < _OWNER_TRIES:
                flow.tries += 1
                where = flow.netns if flow.tries < _OWNER_TRIES else 0
                by_namespace.setdefault(where, {})[flow.inode] = flow
        for netns, wanted in by_namespace.items():
            pids = groups.get(netns, []) if netns else [pid for group in groups.values() for pid in group]
            candidates = [Candidate(pid, living[pid].stat.start) for pid in pids]
            holders = find_holders(self._files, wanted.keys(), candidates)
            self.refused = (self.refused & living.keys()) | set(holders.refused)
            # Who listens is asked of the others.
            for inode, found in sorted(holders.by_inode.items(), key=lambda each: wanted[each[0]].state != LISTEN):
                pid, flow = eldest(found, lambda pid: _parent(living, pid)), wanted[inode]
                if not pid or self._may_have_inherited(flow, living[pid]):
                    continue
                if self._is_as_described(living[pid]):
                    flow.owner = _owner(pid, living)
                else:
                    flow.tries = 0  # it has executed just now: the next look knows what

    def _may_have_inherited(self, flow: Flow, process: Watched) -> bool:
        """Whether who has an accepted connection may have it from a parent that accepted it and closed it since.

        So do servers that fork for each connection. It can't be so if the process was there before the connection, or
        listens itself.
        """
        if (
            flow.state == LISTEN
            or not flow.unseen
            or process.start + NS_PER_TICK < flow.unseen
            or self._role(flow) != Role.ACCEPT
        ):
            return False
        port = flow.ends.local_port
        return not any(
            other.state == LISTEN and other.ends.local_port == port and other.owner.pid == process.pid
            for other in self._flows[flow.netns].values()
        )

    def _is_as_described(self, process: Watched) -> bool:
        try:
            return process.is_as_described(self._files.read(process.pid, "stat"))
        except OSError:
            return True  # who is gone was that

    def _news(self) -> list[SocketChange]:
        """What is to be said of flows that are there."""
        changes: list[SocketChange] = []
        now = self._clock()
        for flow in self.flows():
            if flow.told or not flow.inode or not (flow.owner.pid or flow.tries >= _OWNER_TRIES):
                continue
            if flow.state != SYN_SENT:
                # The table of what listens is read before the others: it may have come in between.
                if flow.state == LISTEN or self._knows_role(flow) or flow.looks:
                    changes.append(self._told(flow))
                flow.looks += 1
            elif not flow.attempted and now - flow.id > ATTEMPT_AFTER_NS:
                flow.attempted = True
                changes.append(SocketChange(Kind.ATTEMPT, flow, SYN_SENT))
        return changes

    def _told(self, flow: Flow) -> SocketChange:
        """How it came to be there."""
        flow.told = True
        if flow.state == LISTEN:
            flow.role = Role.LISTEN
            return SocketChange(Kind.LISTEN, flow, 0)
        flow.established = self._clock()
        if flow.role == Role.ACCEPT:
            return SocketChange(Kind.ACCEPT, flow, _SYN_RECV)
        return SocketChange(Kind.CONNECT, flow, SYN_SENT if flow.role else 0)

    def _knows_role(self, flow: Flow) -> bool:
        flow.role = flow.role or self._role(flow)
        return bool(flow.role)

    def _role(self, flow: Flow) -> Role:
        """Which side has opened a connection, as far as the ports can tell."""
        ends, netns = flow.ends, flow.netns
        ours = self._listens(netns, ends.local, ends.local_port)
        theirs = _is_here(ends) and self._listens(netns, ends.remote, ends.remote_port)
        if ours != theirs:
            return Role.ACCEPT if ours else Role.CONNECT
        if not ours and self._is_ephemeral(ends.local_port) and not self._is_ephemeral(ends.remote_port):
            return Role.CONNECT
        return Role.NONE

    def _is_ephemeral(self, port: int) -> bool:
        return self._ephemeral[0] <= port <= self._ephemeral[1]

    def _listens(self, netns: int, address: bytes, port: int) -> bool:
        """Whether a socket listened there a short while ago."""
        since = self._clock() - _LISTENED_NS
        seen = (self._listened.get((netns, each, port)) for each in (address, *_ANY))
        return any(when is not None and when > since for when in seen)

    def _forget(self) -> None:
        """Let go of what is too old to matter."""
        since = self._clock() - _LISTENED_NS
        self._listened = {place: when for place, when in self._listened.items() if when > since}


def _key(entry: Entry) -> _Key:
    """Several sockets may listen at one address (SO_REUSEPORT)."""
    return entry.local, entry.remote, entry.inode if entry.state == LISTEN else 0


def _is_gone(flow: Flow, entry: Entry | None) -> bool:
    """Whether what is there now is not that flow: closed by its process it has no inode, another one has another."""
    return entry is None or (entry.inode != flow.inode and entry.inode > 0 and flow.inode > 0)


def _is_here(ends: Ends) -> bool:
    """Whether the other end is on this machine, as far as the addresses tell."""
    remote = ends.remote
    return remote in (ends.local, _LOOPBACK_6) or remote.startswith(_LOOPBACK_4)


def _parent(living: Mapping[int, Watched], pid: int) -> int:
    process = living.get(pid)
    return process.stat.parent if process is not None else 0


def _owner(pid: int, living: Mapping[int, Watched]) -> Owner:
    if not pid:
        return NOBODY
    process = living[pid]
    return owner_of(process.record)._replace(comm=process.stat.comm[:_COMM_BYTES])
