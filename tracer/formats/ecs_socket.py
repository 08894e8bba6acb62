"""Socket events in ECS: connections opened, failed, attempted, accepted, closed, found open, and sockets listening."""

from __future__ import annotations

from typing import Final

from tracer.formats.ecs_process import Parts, Processes
from tracer.formats.ecs_values import MARKS, dumps, members, quality
from tracer.formats.text import errno_name
from tracer.model import ATTRIBUTIONS, TCP_STATES, Flag, Kind, Role, SocketEvent

__all__ = ["Sockets"]

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
_DIRECTIONS: Final = {int(Role.CONNECT): "egress", int(Role.ACCEPT): "ingress"}


class Sockets:
    """Renders socket events. Source is who initiated, where that is known, else the local end."""

    def __init__(self, processes: Processes) -> None:
        """The owner is described by ``processes``."""
        self._described = processes.described

    def parts(self, event: SocketEvent, _offset: int, _when: str) -> Parts:
        """The line of any socket event."""
        (
            kind,
            when,
            _late,
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
            _flags,
            _uid,
            marks,
        ) = event
        owner = thread = attribution = ""
        if process is not None:
            known = self._described(process)
            owner = known.process
            thread = f',"thread":{{"id":{tid}}}}}' if tid else "}"
            attribution = _ATTRIBUTIONS[marks >> _BY_SHIFT & 3] if marks else _BY_KERNEL
            if known.raw:
                attribution += members({"raw": known.raw})
        if kind is _SOCKET_FOUND:
            attribution += ',"snapshot":true'
        if marks & MARKS:
            attribution += quality(marks)
        type_ = "ipv6" if ipv6 else "ipv4"
        if kind is _LISTEN or state == _LISTEN_STATE:
            here = f'{{"ip":"{local}","port":{local_port}}}'
            return (
                _LISTENING if kind is _LISTEN else _FOUND_LISTENING,
                owner,
                f'{thread},"source":{here},"server":{here}'
                f',"network":{{"transport":"tcp","type":"{type_}","iana_number":"6"}}',
                f'"netns":{netns},"socket":{{"id":"{flow:x}"}}{attribution}'
                + ("" if marks & _NO_TOTALS else f',"listen":{{"backlog":{backlog}}}'),
            )
        rtt = f',"rtt_us":{rtt_us}' if rtt_us else ""
        duration = failure = ""
        if marks & _NO_TOTALS:
            here, there = f'{{"ip":"{local}","port":{local_port}}}', f'{{"ip":"{remote}","port":{remote_port}}}'
            total = counted = ""
            told = _TOLD[kind] if not error else _BROKEN if kind is _CLOSE else _REFUSED
            if opened and kind is not _ACCEPT and when > opened:
                duration = f',"duration":{when - opened}'
        elif kind is _CLOSE or kind is _SOCKET_FOUND:
            here = f'{{"ip":"{local}","port":{local_port},"bytes":{sent}}}'
            there = f'{{"ip":"{remote}","port":{remote_port},"bytes":{received}}}'
            total = f',"bytes":{sent + received}'
            counted = f',"bytes_sent":{sent},"bytes_received":{received},"retransmits":{retransmits}{rtt}'
            told = _FOUND_OPEN
            if kind is _CLOSE:
                told = _BROKEN if error else _ENDED if marks & _APPROXIMATE else _CLOSED
            if opened:
                duration = f',"duration":{when - opened}'
        else:
            here = f'{{"ip":"{local}","port":{local_port}}}'
            there = f'{{"ip":"{remote}","port":{remote_port}}}'
            total = counted = ""
            told = _ACCEPTED
            if kind is not _ACCEPT:
                counted = f',"retransmits":{retransmits}{rtt}'
                told = _ATTEMPTED if kind is _ATTEMPT else _REFUSED if error else _OPENED
                if opened:
                    duration = f',"duration":{when - opened}'
        if error:
            counted += f',"errno":{error}'
            failure = f',"error":{{"code":{dumps(errno_name(error))}}}'
        if state:
            counted = f',"state":"{TCP_STATES[state] if state < _STATES else state}"{counted}'
        if role == _ROLE_ACCEPT:
            here, there = there, here
        named = f',"community_id":"{community}"' if community else ""
        related = f'"{local}"' if local == remote else f'"{local}","{remote}"'
        return (
            f"{told}{duration}",
            owner,
            f'{thread},"source":{here},"client":{here},"destination":{there},"server":{there}'
            f',"network":{{"transport":"tcp","type":"{type_}","iana_number":"6"'
            f',"direction":"{_DIRECTIONS.get(role, "unknown")}"{named}{total}}}'
            f',"related":{{"ip":[{related}]}}{failure}',
            f'"netns":{netns},"socket":{{"id":"{flow:x}"{_MAPPED if mapped else ""}}}{attribution}'
            + (f',"tcp":{{{counted[1:]}}}' if counted else ""),
        )


# Looked up once: an attribute of an enum costs as much as a format.
_CLOSE: Final = Kind.CLOSE
_ACCEPT: Final = Kind.ACCEPT
_ATTEMPT: Final = Kind.ATTEMPT
_LISTEN: Final = Kind.LISTEN
_SOCKET_FOUND: Final = Kind.SOCKET_FOUND
_ROLE_ACCEPT: Final = int(Role.ACCEPT)
_BY_KERNEL: Final = ',"attribution":"kernel"'
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
_MAPPED: Final = ',"mapped":true'
_STATES: Final = len(TCP_STATES)
