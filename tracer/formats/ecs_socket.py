"""Socket events in ECS: connections opened, failed, attempted, accepted, closed, found open, and sockets listening."""

from __future__ import annotations

from typing import Final

from tracer.formats.ecs_names import told_of
from tracer.formats.ecs_process import Processes
from tracer.formats.ecs_values import MARKS, dumps, members, quality, stamp
from tracer.formats.lines import Parts
from tracer.formats.places import Places
from tracer.formats.text import errno_name
from tracer.model import ATTRIBUTIONS, NO_OWNER, TCP_STATES, Flag, Kind, Merged, Role, SocketEvent, Via

__all__ = ["IN_STATE", "IN_STATE_AND", "MAPPED", "PLAIN", "Sockets", "aggregate_member"]

_LISTEN_STATE: Final = TCP_STATES.index("LISTEN")


def _event(kind: str, types: str, action: str, outcome: str) -> str:
    told = f',"outcome":"{outcome}"' if outcome else ""
    return f'"kind":"{kind}","category":["network"],"type":[{types}],"action":"{action}"{told}'


_OPENED: Final = _event("event", '"connection","start"', "connection-opened", "success")
_REFUSED: Final = _event("event", '"connection"', "connection-failed", "failure")
_ATTEMPTED: Final = _event("event", '"connection","start"', "connection-attempted", "unknown")
_ACCEPTED: Final = _event("event", '"connection","start"', "connection-accepted", "success")
_CLOSED: Final = _event("event", '"connection","end"', "connection-closed", "success")
_ENDED: Final = _event("event", '"connection","end"', "connection-closed", "unknown")
_BROKEN: Final = _event("event", '"connection","end"', "connection-closed", "failure")
_LISTENING: Final = _event("event", '"start"', "socket-listening", "success")
_FOUND_OPEN: Final = _event("state", '"info"', "connection-open", "")
_FOUND_LISTENING: Final = _event("state", '"info"', "socket-listening", "")
_UPDATED: Final = _event("event", '"connection","info"', "connection-update", "")
_OWNED: Final = _event("event", '"connection","info"', "connection-owner-changed", "")
_AGGREGATED: Final = {
    outcome: _event("event", '"connection","info"', "connection-aggregated", outcome)
    for outcome in ("success", "failure")
}
_DIRECTIONS: Final = {
    int(Role.CONNECT): "egress",
    int(Role.SENT): "egress",
    int(Role.ACCEPT): "ingress",
    int(Role.RECEIVED): "ingress",
}


class Sockets:
    """Renders socket events. Source is who initiated, where that is known, else the local end."""

    def __init__(self, processes: Processes, places: Places | None = None) -> None:
        """The owner is described by ``processes``, where an address is by ``places``."""
        self._places = places
        self._described = processes.described
        self._common = processes.common
        self._told = processes.told
        self._told_late = processes.told_late
        self._netns = processes.netns
        self._end = processes.end

    def parts(self, event: SocketEvent, _offset: int, when: str, number: int) -> Parts:
        """The line of a connection's event, or of a socket that listens."""
        (
            kind,
            time,
            late,
            process,
            tid,
            flow,
            role,
            local,
            local_port,
            remote,
            remote_port,
            ipv6,
            mapped,
            community,
            netns,
            opened,
            _established,
            sent,
            received,
            retransmits,
            rtt_us,
            error,
            backlog,
            state,
            flags,
            _uid,
            marks,
            _protocol,
            _transport,
            _socket,
            moved_out,
            moved_in,
            _calls_out,
            _calls_in,
            via,
            names,
            _merged,
        ) = event
        owner = thread = attribution = cgroup = ""
        raw = None
        if process is not None:
            known = process.rendered or self._described(process)
            owner, cgroup = known.process, known.cgroup
            thread = f',"thread":{{"id":{tid}}}}}' if tid else "}"
            attribution = _ATTRIBUTIONS[marks >> _BY_SHIFT & 3] if marks else _BY_KERNEL
            raw = known.raw
        elif marks & _KERNEL:
            attribution = _KERNELS
        if kind is _SOCKET_FOUND:
            attribution += ',"snapshot":true'
        if marks & MARKS:
            attribution += quality(marks)
        if kind is _LISTEN or state == _LISTEN_STATE:
            if raw:
                attribution += members({"raw": raw})
            here = f'{{"ip":"{local}","port":{local_port}}}'
            waiting = "" if marks & _NO_TOTALS else f',"listen":{{"backlog":{backlog}}}'
            told = _LISTENING if kind is _LISTEN else _FOUND_LISTENING
            return (
                f'{{"@timestamp":"{when}","event":{{{told},"sequence":{number}}}',
                owner,
                f'{thread},"source":{here},"server":{here}'
                f',"network":{{"transport":"tcp","type":"{"ipv6" if ipv6 else "ipv4"}","iana_number":"6"}}'
                f"{self._told_late if late else self._told},{self._netns(netns)}{cgroup}"
                f',"socket":{{"id":"{flow:x}"}}{attribution}{waiting}',
                self._end,
            )
        rtt = f',"rtt_us":{rtt_us}' if rtt_us else ""
        duration = failure = ""
        if marks & _NO_TOTALS:
            here, there = f'{{"ip":"{local}","port":{local_port}}}', f'{{"ip":"{remote}","port":{remote_port}}}'
            total = counted = ""
            told = _TOLD[kind] if not error else _BROKEN if kind is _CLOSE else _REFUSED
            if opened and kind is not _ACCEPT and time > opened:
                duration = f',"duration":{time - opened}'
        elif kind is _CLOSE or kind is _SOCKET_FOUND:
            # What was moved before the trace was not counted.
            if moved_out < 0 or flags & _SNAPSHOT:
                moved_out, moved_in = sent, received
            here = f'{{"ip":"{local}","port":{local_port},"bytes":{moved_out}}}'
            there = f'{{"ip":"{remote}","port":{remote_port},"bytes":{moved_in}}}'
            total = f',"bytes":{moved_out + moved_in}'
            counted = f'"bytes_sent":{sent},"bytes_received":{received},"retransmits":{retransmits}{rtt}'
            told = _FOUND_OPEN
            if kind is _CLOSE:
                told = _BROKEN if error else _ENDED if marks & _APPROXIMATE else _CLOSED
            if opened:
                duration = f',"duration":{time - opened}'
        else:
            here = f'{{"ip":"{local}","port":{local_port}}}'
            there = f'{{"ip":"{remote}","port":{remote_port}}}'
            total = counted = ""
            told = _ACCEPTED
            if kind is not _ACCEPT:
                counted = f'"retransmits":{retransmits}{rtt}'
                told = _ATTEMPTED if kind is _ATTEMPT else _REFUSED if error else _OPENED
                if opened:
                    duration = f',"duration":{time - opened}'
        if error:
            counted = f'{counted},"errno":{error}' if counted else f'"errno":{error}'
            failure = f',"error":{{"code":{dumps(errno_name(error))}}}'
        if role == _ROLE_ACCEPT:
            here, there = there, here
        protocol = said = ""
        if names is not None:
            told_by = told_of(names)
            there = f"{there[:-1]}{told_by.end}}}"
            protocol, said, attribution = told_by.network, told_by.document, attribution + told_by.tracer
            raw = {**(raw or {}), **told_by.raw}
        if raw:
            attribution += members({"raw": raw})
        if counted:
            counted = f"{IN_STATE_AND[state]}{counted}}}"
        elif state:
            counted = IN_STATE[state]
        named = f',"community_id":"{community}"' if community else ""
        other = f',"{remote}"' if local != remote else ""
        source, destination = here, there
        if self._places is not None:
            source, destination = self._placed(here, there, event, role == _ROLE_ACCEPT)
        return (
            f'{{"@timestamp":"{when}","event":{{{told}{duration},"sequence":{number}}}',
            owner,
            f'{thread},"source":{source},"client":{here},"destination":{destination},"server":{there}'
            f"{(_OVER_IPV6 if ipv6 else _OVER_IPV4)[role]}{protocol}{named}{total}}}"
            f',"related":{{"ip":["{local}"{other}]}}{failure}{said}'
            f"{self._told_late if late else self._told},{self._netns(netns)}{cgroup}"
            f',"socket":{{"id":"{flow:x}{MAPPED if mapped else PLAIN}{attribution}{_VIA[via]}{counted}',
            self._end,
        )

    def _placed(self, here: str, there: str, event: SocketEvent, is_remote: bool) -> tuple[str, str]:
        """The two ends with their places; ``is_remote`` says that the first one is the remote one."""
        source, destination = (event.remote, event.local) if is_remote else (event.local, event.remote)
        places = self._places
        if places is None:
            return here, there
        return (
            places.at(here, source) if source not in _ANY else here,
            places.at(there, destination) if destination not in _ANY else there,
        )

    def moved(self, event: SocketEvent, offset: int, when: str, number: int) -> Parts:
        """The line of a flow without a connection, of another owner, of what was moved so far, or of several flows."""
        merged = event.merged
        if merged is None:
            return self._flow(event, _MOVED_AS[event.kind], when, number)
        outcome = "failure" if event.error else "success"
        ends = f'"start":"{stamp(merged.first + offset)}","end":"{stamp(merged.last + offset)}"'
        return self._flow(event, f"{_AGGREGATED[outcome]},{ends}", when, number, merged)

    def _flow(self, event: SocketEvent, action: str, when: str, number: int, merged: Merged | None = None) -> Parts:
        kind, role, marks = event.kind, event.role, event.marks
        owner = thread = attribution = cgroup = ""
        raw = None
        if event.process is not None:
            described = self._described(event.process)
            owner, cgroup = described.process, described.cgroup
            thread = f',"thread":{{"id":{event.tid}}}}}' if event.tid else "}"
            attribution = _BY_KERNEL
            raw = described.raw
        elif merged is not None and merged.owner is not None:
            owner, cgroup, raw = self._common(merged.owner)
            thread, attribution = "}", _BY_KERNEL
        elif marks & _KERNEL:
            attribution = _KERNELS
        if marks & MARKS:
            attribution += quality(marks)
        addressed = event.transport not in _WITHOUT_ADDRESSES
        ported = event.protocol in _WITH_PORTS and addressed
        known_out = known_in = total = ""
        out, into = event.moved_out, event.moved_in
        if out >= 0:
            known_out, known_in, total = f'"bytes":{out}', f'"bytes":{into}', f',"bytes":{out + into}'
            if role in _DATAGRAM_ROLES:
                known_out += f',"packets":{event.calls_out}'
                known_in += f',"packets":{event.calls_in}'
                total += f',"packets":{event.calls_out + event.calls_in}'
        ends = []
        for address, port, counted in (
            (event.local, event.local_port, known_out),
            (event.remote, event.remote_port, known_in),
        ):
            known = []
            if addressed and address not in _ANY:
                known.append(f'"ip":"{address}"')
            if ported and port:
                known.append(f'"port":{port}')
            if counted:
                known.append(counted)
            ends.append("{" + ",".join(known) + "}")
        here, there = ends
        if role in (_ROLE_ACCEPT, _ROLE_RECEIVED):
            here, there = there, here
        network = f'"transport":"{event.transport}"'
        said = ""
        if event.names is not None:
            told_by = told_of(event.names)
            there = f"{there[:-1]}{told_by.end if there != '{}' else told_by.end[1:]}}}"
            said = told_by.document
            network += told_by.network
            attribution += told_by.tracer
            raw = {**(raw or {}), **told_by.raw}
        if raw:
            attribution += members({"raw": raw})
        duration = ""
        if kind is not _FLOW and kind is not _OWNER and event.opened and event.time > event.opened:
            duration = f',"duration":{event.time - event.opened}'
        if addressed:
            iana = 6 if event.protocol == _MPTCP else event.protocol
            network += f',"type":"{"ipv6" if event.ipv6 else "ipv4"}","iana_number":"{iana}"'
        if event.community_id:
            network += f',"community_id":"{event.community_id}"'
        addresses = dict.fromkeys(each for each in (event.local, event.remote) if addressed and each not in _ANY)
        related = f',"related":{{"ip":[{",".join(map(dumps, addresses))}]}}' if addresses else ""
        flow = f',"flow":{{"id":"{event.flow:x}"}}' if event.flow != event.socket else ""
        source, destination = here, there
        if self._places is not None and addressed:
            source, destination = self._placed(here, there, event, role in (_ROLE_ACCEPT, _ROLE_RECEIVED))
        which = f',"socket":{{"id":"{event.socket:x}{MAPPED if event.mapped else PLAIN}{flow}'
        failure = ""
        if merged is not None:
            failure = f',"error":{{"code":{dumps(errno_name(event.error))}}}' if event.error else ""
            which = aggregate_member(event, merged)
        told = "".join(
            f',"{side}":{placed},"{role_of}":{end}'
            for side, role_of, placed, end in (
                ("source", "client", source, here),
                ("destination", "server", destination, there),
            )
            if end != "{}"
        )
        return (
            f'{{"@timestamp":"{when}","event":{{{action}{duration},"sequence":{number}}}',
            owner,
            f'{thread}{told},"network":{{{network},"direction":"{_DIRECTIONS.get(role, "unknown")}"{total}}}'
            f"{related}{failure}{said}{self._told_late if event.late else self._told}"
            f",{self._netns(event.netns)}{cgroup}{which}{attribution}{_VIA[event.via]}",
            self._end,
        )


def aggregate_member(event: SocketEvent, merged: Merged) -> str:
    """The member of ``tracer`` that tells of several flows, behind a comma."""
    again = f',"retransmits":{event.retransmits}' if event.transport == "tcp" else ""
    return f',"aggregate":{{"count":{merged.flows},"longest_ns":{merged.longest}{again}}}'


# Looked up once: an attribute of an enum costs as much as a format.
_CLOSE: Final = Kind.CLOSE
_ACCEPT: Final = Kind.ACCEPT
_ATTEMPT: Final = Kind.ATTEMPT
_LISTEN: Final = Kind.LISTEN
_SOCKET_FOUND: Final = Kind.SOCKET_FOUND
_ROLE_ACCEPT: Final = int(Role.ACCEPT)
_BY_KERNEL: Final = ',"attribution":"kernel"'
_KERNEL: Final = int(Flag.KERNEL)
_KERNELS: Final = f',"attribution":"{NO_OWNER}"'
_BY_SHIFT: Final = 12
_APPROXIMATE: Final = int(Flag.APPROXIMATE)  # of a close: why it ended is not known
_ATTRIBUTIONS: Final = tuple(
    f',"attribution":"{ATTRIBUTIONS.get(Flag(bits << _BY_SHIFT), "kernel")}"' for bits in range(4)
)
_NO_TOTALS: Final = int(Flag.NO_TOTALS)
_TOLD: Final = {
    Kind.CONNECT: _OPENED,
    Kind.ATTEMPT: _ATTEMPTED,
    Kind.ACCEPT: _ACCEPTED,
    Kind.CLOSE: _ENDED,
    Kind.SOCKET_FOUND: _FOUND_OPEN,
}
MAPPED: Final = '","mapped":true}'
"""How the id of a socket ends whose addresses are of IPv4, mapped into IPv6."""
PLAIN: Final = '"}'
"""How that of any other ends."""
_FLOW: Final = Kind.FLOW
_OWNER: Final = Kind.OWNER
_ROLE_RECEIVED: Final = int(Role.RECEIVED)
_DATAGRAM_ROLES: Final = frozenset({int(Role.SENT), int(Role.RECEIVED)})
_SNAPSHOT: Final = 1  # SOCK_SNAPSHOT of bpf/tracer.h
_MPTCP: Final = 262
_WITH_PORTS: Final = frozenset({6, 17, 132, 136, _MPTCP})
_WITHOUT_ADDRESSES: Final = frozenset({"packet", "vsock"})
_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what was never told
_MOVED_AS: Final = {
    Kind.FLOW: _OPENED,
    Kind.FLOW_END: _CLOSED,
    Kind.OWNER: _OWNED,
    Kind.TAIL: _UPDATED,
    Kind.UPDATE: _UPDATED,
}
# By the byte of a record, of which all but the first bits are nobody's.
_VIA: Final = tuple(
    members({"via": names}) if (names := [via.name.lower() for via in Via if bits & via and via.name]) else ""
    for bits in range(256)
)
_STATES: Final = tuple(f'"state":"{TCP_STATES[state] if state < len(TCP_STATES) else state}"' for state in range(256))
IN_STATE: Final = tuple(f',"tcp":{{{told}}}' for told in _STATES)
"""The member ``tcp`` behind a comma, where it tells nothing but the state, by the byte of that."""
IN_STATE_AND: Final = (',"tcp":{', *(f',"tcp":{{{told},' for told in _STATES[1:]))
"""Its beginning, where it tells more; 0 is no state."""
# The beginning of ``network``, by the byte of the role.
_OVER_IPV4, _OVER_IPV6 = (
    tuple(
        f',"network":{{"transport":"tcp","type":"{type_}","iana_number":"6"'
        f',"direction":"{_DIRECTIONS.get(role, "unknown")}"'
        for role in range(256)
    )
    for type_ in ("ipv4", "ipv6")
)
