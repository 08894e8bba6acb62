"""Give flows their names: from what their first bytes say, and from the DNS answers that led to their addresses.

A flow has the name that its own process asked DNS for, if that is the only one for the address; else what the caller
says in the flow itself; else what is known of the address. Names are given to who is called: of a caller there is an
address alone, and what others once asked for to get it says nothing of who is calling.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeVar

from tracer.model import Answered, Kind, Names, Process, Resource, Role
from tracer.names.dns import Answer, Message, class_name, data_text, rcode_name, type_name
from tracer.names.http import Request
from tracer.names.recognise import Flow, Named, Piece, Recogniser
from tracer.names.tls import Hello
from tracer.pipeline.community import TCP, UDP, community_id
from tracer.pipeline.flows import FlowTable, address, flow_name
from tracer.pipeline.names import Heard, Known, NameTable
from tracer.pipeline.processes import ProcessTable
from tracer.probes.records import IN, OUT, Record

__all__ = ["Naming"]

WAITING_MOST: Final = 4096  # flows that said a name before they were told of
PEERS_MOST: Final = 8192  # open flows of datagrams that may yet say one
ASKERS_MOST: Final = 4096
_WAIT_NS: Final = 60_000_000_000  # who has not accepted a connection by then is not likely to
_PAYLOAD: Final = Kind.PAYLOAD
_FLOW: Final = Kind.FLOW
_LATER: Final = frozenset({Kind.OWNER, Kind.TAIL})  # of a connection that has been told of
_UNNAMED: Final = frozenset({Kind.LISTEN})
_CALLERS: Final = frozenset({int(Role.CONNECT), int(Role.SENT)})
# Whose flow it is that says a name: of the end that calls, or is called. Of what was open before the start nobody knows
# which end this is, but who says a name to the other end is who called.
_SAID_BY: Final = {
    True: _CALLERS | {int(Role.NONE)},
    False: frozenset({int(Role.ACCEPT), int(Role.RECEIVED)}),
}
_DNS_PORT: Final = 53
_TRANSPORTS: Final = {TCP: "tcp", UDP: "udp"}
_ASKED_FOR: Final = frozenset({"dns", "llmnr"})  # in mDNS answers come unasked, from the port that all use
_OWN: Final = "process"

# Positions in the tuple of a socket record.
_NETNS: Final = 17
_LOCAL_PORT: Final = 21
_ROLE: Final = 24

_Key = tuple[int, str, int, str, int]  # netns, transport, local port, remote address and port
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class _Waiting(NamedTuple):
    time: int
    names: Names
    outgoing: bool


class Naming:
    """Give it the PAYLOAD records, and ask it when a flow begins."""

    def __init__(self, processes: ProcessTable, flows: FlowTable, *, with_quic: bool) -> None:
        """Flows are renamed in ``flows``, which asks here once there is anything to ask for.

        ``with_quic`` loads `cryptography`. Raises ImportError without that.
        """
        self._processes = processes
        self._flows = flows
        self.table = NameTable()
        self.recogniser = Recogniser(with_quic)
        self._waiting: dict[Flow, _Waiting] = {}
        self._peers: dict[_Key, int] = {}
        self._askers: dict[_Key, Process] = {}
        self.evicted = 0  # names that had to go before their flow came

    def counts(self) -> dict[str, int]:
        """What is missing because a table was full, by the name of the table."""
        return {"names": self.table.evicted + self.evicted, "beginnings": self.recogniser.dropped}

    # What the kernel side took of a flow.

    def heard(self, record: Record, late: bool) -> list[Answered]:
        """Take in a PAYLOAD record; gives the answers of DNS in it."""
        self._flows.naming = self
        time, start, tgid, marks = record[0], record[2], record[3], record[8]
        flow, _cookie, cgroup, netns, uid, _offset, length, local_port, remote_port, family = record[9:19]
        number, direction, segment = record[19:22]
        local_raw, remote_raw, comm, data = record[25:29]
        transport = _TRANSPORTS.get(number)
        if transport is None or direction not in (OUT, IN):
            return []
        outgoing = direction == OUT
        local, local_bytes = address(local_raw)
        remote, remote_bytes = address(remote_raw)
        # A socket without connections has a flow for each peer, and is told of after its first datagram.
        peer = netns, transport, local_port, remote, remote_port
        key: Flow = flow if flow and number == TCP else peer
        found = self.recogniser.feed(
            Piece(key, outgoing, transport, local_port, remote_port, segment, length, data),
        )
        answered: list[Answered] = []
        process: Process | None = None
        for named in found:
            self._say(named, time)
            message = named.facts
            if named.flow != key or not isinstance(message, Message):
                continue
            if process is None:
                process = self._owner(tgid, start, comm, uid, time, cgroup) or self._asker(key, peer)
            if process is not None:
                self.table.heard(Heard(time, netns, process.entity_id, outgoing, named.protocol, message))
                if outgoing and not message.response:
                    _put(self._askers, peer, process, ASKERS_MOST)
                elif not outgoing and local_port == _DNS_PORT:
                    self.table.serves(netns, process.entity_id)
            if outgoing or not message.response:
                continue
            question = message.questions[0] if message.questions else None
            answers = () if message.malformed else message.answers  # of what can't be read nothing is believed
            answered.append(
                Answered(
                    kind=_PAYLOAD,
                    time=time,
                    late=late,
                    process=process,
                    tid=0,
                    flow=flow,
                    local=local,
                    local_port=local_port,
                    remote=remote,
                    remote_port=remote_port,
                    ipv6=len(remote_bytes) == 16,
                    community_id=flow_name(local_bytes, local_port, remote_bytes, remote_port, family, number, 0)
                    if number == UDP
                    else community_id(local_bytes, local_port, remote_bytes, remote_port),
                    netns=netns,
                    transport=transport,
                    number=number,
                    protocol=named.protocol,
                    id=message.id,
                    code=rcode_name(message.rcode),
                    header_flags=message.flags,
                    question=question and (question.name, type_name(question.type), class_name(question.class_)),
                    answers=tuple(map(_resource, answers)),
                    addresses=tuple(dict.fromkeys(answer.address for answer in answers if answer.address)),
                    cut=message.cut,
                    malformed=message.malformed,
                    marks=marks,
                )
            )
        return answered

    def _owner(self, tgid: int, start: int, comm: bytes, uid: int, time: int, cgroup: int) -> Process | None:
        if not tgid:
            return None
        # What is known of it from elsewhere may be newer than what its socket was made with.
        return self._processes.find(tgid, start) or self._processes.owner(tgid, start, comm, uid, time, cgroup)

    def _asker(self, key: Flow, peer: _Key) -> Process | None:
        """Whose socket an answer comes to, where the record does not tell: who asked, or who opened the connection."""
        ends = self._flows.find(key) if isinstance(key, int) else None
        return ends.process if ends is not None and ends.process is not None else self._askers.get(peer)

    def _say(self, named: Named, time: int) -> None:
        """A flow has said what it speaks, and mostly to whom."""
        key = named.flow
        flow = key if isinstance(key, int) else self._peers.get(key)
        ends = self._flows.find(flow) if flow is not None else None
        if ends is None or flow is None:
            before = self._waiting.get(key)
            names = _joined(before.names if before is not None else None, named)
            self._waiting.pop(key, None)
            self._waiting[key] = _Waiting(time, names, named.outgoing)
            if len(self._waiting) > WAITING_MOST:
                oldest = next(iter(self._waiting))
                self.evicted += time - self._waiting.pop(oldest).time < _WAIT_NS
        elif isinstance(named.facts, Message) or ends.role in _SAID_BY[named.outgoing]:
            names = _joined(ends.names, named)
            if names is not ends.names:
                self._flows.rename(flow, names)

    # The flows.

    def begun(self, record: Record, kind: Kind, transport: str, remote: str, process: Process | None) -> Names | None:
        """What is known of a flow that is told of (struct socket_record), by its address and by what it said before."""
        flow, role = record[9], record[_ROLE]
        if kind in _LATER:
            return self._flows.names_of(flow)
        if kind in _UNNAMED:
            return None
        peer = record[_NETNS], transport, record[_LOCAL_PORT], remote, record[_LOCAL_PORT + 1]
        waiting = None
        if self._waiting:
            waiting = (self._waiting.pop(flow, None) if transport == "tcp" else None) or self._waiting.pop(peer, None)
        if kind is _FLOW:
            if waiting is None and peer in self._peers:
                waiting = self._of_same_socket(record, peer)
            _put(self._peers, peer, flow, PEERS_MOST)
        names = None
        if waiting is not None and record[0] - waiting.time < _WAIT_NS:
            is_of_dns = not (waiting.names.hello or waiting.names.method)
            if is_of_dns or role in _SAID_BY[waiting.outgoing]:
                names = waiting.names
        if process is not None and role in _CALLERS:
            known = self.table.name_of(record[_NETNS], remote, process.entity_id, record[0])
            if known is not None:
                names = _with_known(names, known)
        return names

    def _of_same_socket(self, record: Record, peer: _Key) -> _Waiting | None:
        """What another process's part of a socket has said to the same peer."""
        ends = self._flows.find(self._peers[peer])
        if ends is None or ends.names is None or ends.socket != record[30]:
            return None
        return _Waiting(record[0], ends.names, ends.role in _CALLERS)

    def ending(self, record: Record) -> None:
        """A flow ends (struct socket_record): what it began to say is all that it says."""
        flow = record[9]
        for named in self.recogniser.end(flow):
            self._say(named, record[0])
        remote, _ = address(record[28])
        self.gone(record[0], (record[_NETNS], "udp", record[_LOCAL_PORT], remote, record[_LOCAL_PORT + 1]))

    def gone(self, time: int, peer: _Key) -> None:
        """The same for a flow of datagrams, by its ends."""
        for named in self.recogniser.end(peer):
            self._say(named, time)

    def serves(self, netns: int, process: Process | None, port: int) -> None:
        """A process listens on a port."""
        if port == _DNS_PORT and process is not None:
            self.table.serves(netns, process.entity_id)


def _put(table: dict[_K, _V], key: _K, value: _V, most: int) -> None:
    table.pop(key, None)
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]


@lru_cache(1024)
def _names(**told: Any) -> Names:
    """One object for all flows that have the same: formats keep what they make of it."""
    return Names(**told)


def _told(names: Names | None) -> dict[str, Any]:
    """What differs from no name at all."""
    if names is None:
        return {}
    return {name: value for name in _FIELDS if (value := getattr(names, name)) != getattr(_NOTHING, name)}


_NOTHING: Final = Names()
_FIELDS: Final = tuple(name for name in Names.__slots__ if name != "rendered")


def _joined(names: Names | None, named: Named) -> Names:
    """What was known of a flow, and what it says."""
    told = _told(names)
    facts = named.facts
    if isinstance(facts, Message):
        return _names(**told, **{} if names and names.protocol else {"protocol": named.protocol})
    told |= {"protocol": named.protocol, "cut": facts.cut, "malformed": facts.malformed}
    outer = False
    if isinstance(facts, Hello):
        outer = facts.ech
        told |= {
            "hello": True,
            "server_name": named.name,
            "offered": facts.protocols,
            "version": facts.version,
            "ech": facts.ech,
        }
    elif isinstance(facts, Request):
        told |= {"host": named.name, "method": facts.method, "http": facts.version}
    is_certain = told.get("how") == _OWN and not told.get("ambiguous")
    if named.name and not is_certain and not (outer and told.get("source") == "dns"):
        for name in ("how", "asked", "ambiguous"):
            told.pop(name, None)
        told |= {"domain": named.name, "source": named.protocol}
    return _names(**told)


def _with_known(names: Names | None, known: Known) -> Names:
    """What a flow says, and the name that DNS has for its address."""
    told = _told(names)
    is_certain = known.how == _OWN and not known.ambiguous
    if is_certain or not told.get("domain") or told.get("ech"):
        asked = (known.name, *known.chain) if known.chain else (known.name,)
        told |= {
            "domain": known.name,
            "source": "dns",
            "how": known.how,
            "asked": asked,
            "ambiguous": known.ambiguous,
        }
    return _names(**told)


def _resource(answer: Answer) -> Resource:
    return Resource(answer.name, type_name(answer.type), class_name(answer.class_), answer.ttl, data_text(answer))
