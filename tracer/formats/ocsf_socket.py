"""Socket events in OCSF: Network Activity, and for another owner, which it has no activity for, a Base Event."""

from __future__ import annotations

from typing import Final

from tracer.formats.ecs_socket import IN_STATE, IN_STATE_AND, MAPPED, PLAIN, aggregate_member
from tracer.formats.ecs_values import MARKS, dumps, members, quality, stamp
from tracer.formats.lines import Parts
from tracer.formats.ocsf_names import told_of
from tracer.formats.ocsf_process import MS, OcsfProcesses, activity
from tracer.formats.places import Places
from tracer.formats.text import errno_name
from tracer.model import ATTRIBUTIONS, NO_OWNER, TCP_STATES, Flag, Kind, Merged, Role, SocketEvent, Via

__all__ = ["OcsfSockets"]

_NETWORK: Final = "Network Activity"
_OPENED: Final = activity(_NETWORK, 1, "Open", "connection-opened", "success")
_FAILED: Final = activity(_NETWORK, 4, "Fail", "connection-failed", "failure")
_REFUSED: Final = activity(_NETWORK, 5, "Refuse", "connection-failed", "failure")
_ATTEMPTED: Final = activity(_NETWORK, 99, "Attempt", "connection-attempted", "unknown")
_ACCEPTED: Final = activity(_NETWORK, 1, "Open", "connection-accepted", "success")
_CLOSED: Final = activity(_NETWORK, 2, "Close", "connection-closed", "success")
_ENDED: Final = activity(_NETWORK, 2, "Close", "connection-closed", "unknown")
_BROKEN: Final = activity(_NETWORK, 3, "Reset", "connection-closed", "failure")
_LISTENING: Final = activity(_NETWORK, 7, "Listen", "socket-listening", "success")
_FOUND_LISTENING: Final = activity(_NETWORK, 7, "Listen", "socket-listening")
_FOUND_OPEN: Final = activity(_NETWORK, 6, "Traffic", "connection-open")
_UPDATED: Final = activity(_NETWORK, 6, "Traffic", "connection-update")
_AGGREGATED: Final = {
    outcome: activity(_NETWORK, 6, "Traffic", "connection-aggregated", outcome) for outcome in ("success", "failure")
}
_OWNED: Final = activity("Base Event", 99, "Owner Changed", "connection-owner-changed")
_DIRECTIONS: Final = {
    int(Role.CONNECT): '"direction_id":2,"direction":"Outbound"',
    int(Role.SENT): '"direction_id":2,"direction":"Outbound"',
    int(Role.ACCEPT): '"direction_id":1,"direction":"Inbound"',
    int(Role.RECEIVED): '"direction_id":1,"direction":"Inbound"',
}
_NO_DIRECTION: Final = '"direction_id":0,"direction":"Unknown"'
_KNOWN_MOST: Final = 1 << 16  # flows whose last totals are kept, for what they have moved since


class _Moved:
    """What flows had moved when that was told last, and so what they have moved since."""

    __slots__ = ("forgotten", "last")

    def __init__(self) -> None:
        self.last: dict[int, tuple[int, int, int, int]] = {}
        self.forgotten = -1  # when one was left out for want of room: of flows opened before that nothing is known

    def since(self, event: SocketEvent, totals: tuple[int, int, int, int], *, ends: bool) -> tuple[int, ...] | None:
        """Bytes out and in and calls out and in since the last event of the flow, None where nobody knows."""
        last = self.last.pop(event.flow, None)
        fresh = event.opened > self.forgotten
        if not ends:
            if len(self.last) >= _KNOWN_MOST:
                self.last.pop(next(iter(self.last)))
                self.forgotten = event.time
            self.last[event.flow] = totals
        if last is None:
            return totals if fresh else None
        return tuple(now - before for now, before in zip(totals, last, strict=True))


class OcsfSockets:
    """Renders socket events. Source is who initiated, where that is known, else the local end."""

    def __init__(self, processes: OcsfProcesses, host: str, places: Places | None = None) -> None:
        """The owner is described by ``processes``, where an address is by ``places``.

        ``host`` names an end here that has no address.
        """
        self._places = places
        self._acting = processes.acting
        self._common = processes.common
        self._told = processes.told
        self._told_late = processes.told_late
        self._inner = processes.inner
        self._inner_late = processes.inner_late
        self._netns = processes.netns
        self._begin, self._end = processes.begin, processes.end
        self._here = f'"hostname":{dumps(host)}'
        self._moved = _Moved()
        self._last = self._moved.last

    def parts(self, event: SocketEvent, offset: int, when: str, number: int) -> Parts:
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
        owner = thread = attribution = cgroup = actor = ""
        raw = None
        if process is not None:
            known = process.rendered or self._acting(process)
            owner, cgroup, raw = known.process, known.cgroup, known.raw
            actor = ',"actor":{'
            thread = f',"ptid":{tid}}}}}' if tid else "}}"
            attribution = _ATTRIBUTIONS[marks >> _BY_SHIFT & 3] if marks else _BY_KERNEL
        elif marks & _KERNEL:
            attribution = _KERNELS
        if kind is _SOCKET_FOUND:
            attribution += ',"snapshot":true'
        if marks & MARKS:
            attribution += quality(marks)
        if kind is _LISTEN or state == _LISTEN_STATE:
            if raw:
                attribution += members({"raw": raw})
            waiting = "" if marks & _NO_TOTALS else f',"listen":{{"backlog":{backlog}}}'
            return (
                f"{self._begin}{number}{_LISTENING if kind is _LISTEN else _FOUND_LISTENING}"
                f',"time":{(time + offset) // MS},"time_dt":"{when}"{actor}',
                owner,
                f'{thread},"src_endpoint":{{"ip":"{local}","port":{local_port}}},"connection_info":{{{_NO_DIRECTION}'
                f',"protocol_num":6,"protocol_name":"tcp","protocol_ver_id":{6 if ipv6 else 4},"uid":"{flow:x}"}}'
                f"{self._told_late if late else self._told},{self._netns(netns)}{cgroup}"
                f',"socket":{{"id":"{flow:x}"}}{attribution}{waiting}',
                self._end,
            )
        duration = exact = totals = failure = ""
        rtt = f',"rtt_us":{rtt_us}' if rtt_us else ""
        if marks & _NO_TOTALS:
            counted = ""
            told = _TOLD[kind] if not error else _BROKEN if kind is _CLOSE else _FAILED
        elif kind is _CLOSE or kind is _SOCKET_FOUND:
            counted = f'"bytes_sent":{sent},"bytes_received":{received},"retransmits":{retransmits}{rtt}'
            told = _FOUND_OPEN
            last = self._last.pop(flow, None)
            known_since = kind is _CLOSE and opened > self._moved.forgotten
            # What was moved before the trace was not counted.
            if moved_out < 0 or flags & _SNAPSHOT:
                moved_out, moved_in = sent, received
                known_since = known_since and last is None and opened > 0 and not flags & _SNAPSHOT
                last = None
            if kind is _CLOSE:
                told = _BROKEN if error else _ENDED if marks & _APPROXIMATE else _CLOSED
            out, into = (moved_in, moved_out) if role == _ROLE_ACCEPT else (moved_out, moved_in)
            amounts = f'{{"bytes":{out + into},"bytes_in":{into},"bytes_out":{out}}}'
            totals = f',"cumulative_traffic":{amounts}'
            if last is not None:
                since = moved_out - last[0], moved_in - last[1]
                totals = f"{_traffic('traffic', *since, role == _ROLE_ACCEPT)}{totals}"
            elif known_since:
                totals = f',"traffic":{amounts}{totals}'
        else:
            counted = ""
            told = _ACCEPTED
            if kind is not _ACCEPT:
                counted = f'"retransmits":{retransmits}{rtt}'
                told = _ATTEMPTED if kind is _ATTEMPT else _FAILED if error else _OPENED
        if opened and kind is not _ACCEPT and time > opened:
            duration = f',"duration":{(time - opened) // MS}'
            exact = f',"duration_ns":{time - opened}'
        if error:
            if told is _FAILED and error == _ECONNREFUSED:
                told = _REFUSED
            counted = f'{counted},"errno":{error}' if counted else f'"errno":{error}'
            failure = f',"status_code":{dumps(errno_name(error))}'
        here, there = f'"ip":"{local}","port":{local_port}', f'"ip":"{remote}","port":{remote_port}'
        if self._places is not None:
            here, there = here + self._places.ocsf(local), there + self._places.ocsf(remote)
        if role == _ROLE_ACCEPT:
            here, there = there, here
        said = ""
        if names is not None:
            told_by = told_of(names)
            there += told_by.end
            said, attribution = told_by.document, attribution + told_by.tracer
            if told_by.raw:
                raw = {**(raw or {}), **told_by.raw}
        if raw:
            attribution += members({"raw": raw})
        if counted:
            counted = f"{IN_STATE_AND[state]}{counted}}}"
        elif state:
            counted = IN_STATE[state]
        named = f',"community_uid":"{community}"' if community else ""
        number_of_flow = f"{flow:x}"
        return (
            f'{self._begin}{number}{told}{failure},"time":{(time + offset) // MS},"time_dt":"{when}"{duration}{actor}',
            owner,
            f'{thread},"src_endpoint":{{{here}}},"dst_endpoint":{{{there}}}'
            f'{(_OVER_IPV6 if ipv6 else _OVER_IPV4)[role]}{named},"uid":"{number_of_flow}"}}{totals}{said}'
            f"{self._told_late if late else self._told}{exact},{self._netns(netns)}{cgroup}"
            f',"socket":{{"id":"{number_of_flow}{MAPPED if mapped else PLAIN}{attribution}{_VIA[via]}{counted}',
            self._end,
        )

    def moved(self, event: SocketEvent, offset: int, when: str, number: int) -> Parts:
        """The line of a flow without a connection, of another owner, or of what was moved so far."""
        kind, role, marks = event.kind, event.role, event.marks
        owner = thread = attribution = cgroup = actor = ""
        raw: dict[str, str] = {}
        if event.process is not None:
            known = self._acting(event.process)
            owner, cgroup, raw = known.process, known.cgroup, known.raw
            actor = ',"actor":{'
            thread = f',"ptid":{event.tid}}}}}' if event.tid else "}}"
            attribution = _BY_KERNEL
        elif event.merged is not None and event.merged.owner is not None:
            owner, cgroup, raw = self._common(event.merged.owner)
            actor, thread, attribution = ',"actor":{', "}", _BY_KERNEL
        elif marks & _KERNEL:
            attribution = _KERNELS
        if marks & MARKS:
            attribution += quality(marks)
        addressed = event.transport not in _WITHOUT_ADDRESSES
        ported = event.protocol in _WITH_PORTS and addressed
        here, there = (
            [
                *([f'"ip":"{address}"'] if addressed and address not in _ANY else []),
                *([f'"port":{port}'] if ported and port else []),
            ]
            for address, port in ((event.local, event.local_port), (event.remote, event.remote_port))
        )
        if self._places is not None and addressed:
            for end, address in ((here, event.local), (there, event.remote)):
                if address not in _ANY and (told := self._places.ocsf(address)):
                    end.append(told[1:])
        if not addressed or event.local in _ANY:
            here.insert(0, self._here)
        said = ""
        if event.names is not None:
            told_by = told_of(event.names)
            called = here if role in _CALLED_HERE else there
            if told_by.end:
                called[:] = [part for part in called if part != self._here]
                called.append(told_by.end[1:])
            said = told_by.document
            attribution += told_by.tracer
            raw = {**raw, **told_by.raw}
        if raw:
            attribution += members({"raw": raw})
        swap = role in _CALLED_HERE
        ends = "".join(
            f',"{name}":{{{",".join(end)}}}'
            for name, end in (("src_endpoint", there if swap else here), ("dst_endpoint", here if swap else there))
            if any(not part.startswith('"port"') for part in end)  # of a port alone there is no end
        )
        iana = 6 if event.protocol == _MPTCP else event.protocol
        version = f',"protocol_ver_id":{6 if event.ipv6 else 4}' if addressed else ""
        named = f',"community_uid":"{event.community_id}"' if event.community_id else ""
        duration = exact = ""
        if kind is not _FLOW and kind is not _OWNER and event.opened and event.time > event.opened:
            duration = f',"duration":{(event.time - event.opened) // MS}'
            exact = f',"duration_ns":{event.time - event.opened}'
        flow = f',"flow":{{"id":"{event.flow:x}"}}' if event.flow != event.socket else ""
        merged = event.merged
        uid = f',"uid":"{event.flow:x}"' if merged is None else ""
        action = _MOVED_AS[kind] if merged is None else self._merged(event, merged, offset)
        what = (
            f'{ends},"is_src_dst_assignment_known":{"true" if role else "false"}'
            f',"connection_info":{{{_DIRECTIONS.get(role, _NO_DIRECTION)},"protocol_num":{iana if addressed else -1}'
            f',"protocol_name":"{event.transport}"{version}{named}{uid}}}{self._totals(event, swap)}'
            f"{said}"
        )
        if kind is _OWNER:
            inside = f',"unmapped":{{{what[1:]}{self._inner_late if event.late else self._inner}'
        else:
            inside = f"{what}{self._told_late if event.late else self._told}"
        which = f',"socket":{{"id":"{event.socket:x}{MAPPED if event.mapped else PLAIN}{flow}'
        if merged is not None:
            which = aggregate_member(event, merged)
        return (
            f'{self._begin}{number}{action},"time":{(event.time + offset) // MS},"time_dt":"{when}"{duration}{actor}',
            owner,
            f"{thread}{inside}{exact},{self._netns(event.netns)}{cgroup}{which}{attribution}{_VIA[event.via]}",
            self._end,
        )

    @staticmethod
    def _merged(event: SocketEvent, merged: Merged, offset: int) -> str:
        """What several flows are, how many, from when to when."""
        first, last = merged.first + offset, merged.last + offset
        failure = f',"status_code":{dumps(errno_name(event.error))}' if event.error else ""
        return (
            f'{_AGGREGATED["failure" if event.error else "success"]}{failure},"count":{merged.flows}'
            f',"start_time":{first // MS},"start_time_dt":"{stamp(first)}"'
            f',"end_time":{last // MS},"end_time_dt":"{stamp(last)}"'
        )

    def _totals(self, event: SocketEvent, swap: bool) -> str:
        """What a flow has moved, by now and since it was told last, as members behind a comma."""
        if event.moved_out < 0:
            return ""
        kind, counts = event.kind, event.role in _DATAGRAM_ROLES
        totals = event.moved_out, event.moved_in, event.calls_out, event.calls_in
        told = _traffic("cumulative_traffic", totals[0], totals[1], swap, totals[2:] if counts else ())
        if event.merged is not None:  # none of these flows had an event of its own
            return _traffic("traffic", totals[0], totals[1], swap, totals[2:] if counts else ()) + told
        if (kind is _UPDATE or kind is _FLOW_END) and not event.flags & _SNAPSHOT:
            since = self._moved.since(event, totals, ends=kind is _FLOW_END)
            if since is not None:
                told = _traffic("traffic", since[0], since[1], swap, since[2:] if counts else ()) + told
        return told


def _traffic(name: str, out: int, into: int, swap: bool, calls: tuple[int, ...] = ()) -> str:
    """The member behind a comma; "out" is from source to destination there."""
    if swap:
        out, into, calls = into, out, calls[::-1]
    packets = f',"packets":{sum(calls)},"packets_in":{calls[1]},"packets_out":{calls[0]}' if calls else ""
    return f',"{name}":{{"bytes":{out + into},"bytes_in":{into},"bytes_out":{out}{packets}}}'


# Looked up once: an attribute of an enum costs as much as a format.
_LISTEN_STATE: Final = TCP_STATES.index("LISTEN")
_CLOSE: Final = Kind.CLOSE
_ACCEPT: Final = Kind.ACCEPT
_ATTEMPT: Final = Kind.ATTEMPT
_LISTEN: Final = Kind.LISTEN
_SOCKET_FOUND: Final = Kind.SOCKET_FOUND
_FLOW: Final = Kind.FLOW
_FLOW_END: Final = Kind.FLOW_END
_UPDATE: Final = Kind.UPDATE
_OWNER: Final = Kind.OWNER
_ROLE_ACCEPT: Final = int(Role.ACCEPT)
_CALLED_HERE: Final = frozenset({int(Role.ACCEPT), int(Role.RECEIVED)})
_DATAGRAM_ROLES: Final = frozenset({int(Role.SENT), int(Role.RECEIVED)})
_BY_KERNEL: Final = ',"attribution":"kernel"'
_KERNEL: Final = int(Flag.KERNEL)
_KERNELS: Final = f',"attribution":"{NO_OWNER}"'
_BY_SHIFT: Final = int(Flag.BY_COOKIE).bit_length() - 1
_ATTRIBUTIONS: Final = tuple(
    f',"attribution":"{ATTRIBUTIONS.get(Flag(bits << _BY_SHIFT), "kernel")}"' for bits in range(4)
)
_APPROXIMATE: Final = int(Flag.APPROXIMATE)  # of a close: why it ended is not known
_NO_TOTALS: Final = int(Flag.NO_TOTALS)
_ECONNREFUSED: Final = 111  # include/uapi/asm-generic/errno.h
_SNAPSHOT: Final = 1  # SOCK_SNAPSHOT of bpf/tracer.h
_MPTCP: Final = 262
_WITH_PORTS: Final = frozenset({6, 17, 132, 136, _MPTCP})
_WITHOUT_ADDRESSES: Final = frozenset({"packet", "vsock"})
_ANY: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 - what was never told
_TOLD: Final = {
    Kind.CONNECT: _OPENED,
    Kind.ATTEMPT: _ATTEMPTED,
    Kind.ACCEPT: _ACCEPTED,
    Kind.CLOSE: _ENDED,
    Kind.SOCKET_FOUND: _FOUND_OPEN,
}
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
# Who began a connection, and how it goes, up to the version of IP, by the byte of the role.
_OVER_IPV4, _OVER_IPV6 = (
    tuple(
        f',"is_src_dst_assignment_known":{"true" if role else "false"}'
        f',"connection_info":{{{_DIRECTIONS.get(role, _NO_DIRECTION)}'
        f',"protocol_num":6,"protocol_name":"tcp","protocol_ver_id":{version}'
        for role in range(256)
    )
    for version in (4, 6)
)
