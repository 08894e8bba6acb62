"""Socket events in ECS: connections opened, failed, attempted, accepted, closed, found open, and sockets listening."""

from __future__ import annotations

from typing import Final

from tracer.formats.ecs_process import Parts, Processes
from tracer.formats.ecs_values import dumps, members
from tracer.formats.text import errno_name
from tracer.model import TCP_STATES, Kind, Role, SocketEvent

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
_BROKEN: Final = _event("event", '"connection","end"', "connection-closed", "failure")
_LISTENING: Final = _event("event", '"start"', "socket-listening", "success")
_FOUND_OPEN: Final = _event("state", '"info"', "connection-open", "")
_FOUND_LISTENING: Final = _event("state", '"info"', "socket-listening", "")
_DIRECTIONS: Final = {int(Role.CONNECT): "egress", int(Role.ACCEPT): "ingress"}


def _opening(event: SocketEvent) -> str:
    """The members of ECS event.*; a duration (ns) where one is known."""
    kind = event.kind
    if kind == Kind.CONNECT:
        return f'{_REFUSED if event.error else _OPENED},"duration":{event.time - event.opened}'
    if kind == Kind.CLOSE:
        told = _BROKEN if event.error else _CLOSED
        return f'{told},"duration":{event.time - event.opened}' if event.opened else told
    if kind == Kind.ACCEPT:
        return _ACCEPTED
    if kind == Kind.ATTEMPT:
        return f'{_ATTEMPTED},"duration":{event.time - event.opened}'
    if kind == Kind.LISTEN:
        return _LISTENING
    return _FOUND_LISTENING if event.state == _LISTEN_STATE else _FOUND_OPEN


class Sockets:
    """Renders socket events. Source is who initiated, where that is known, else the local end."""

    def __init__(self, processes: Processes) -> None:
        """The owner is described by ``processes``."""
        self._described = processes.described

    def parts(self, event: SocketEvent, offset: int) -> Parts:
        """The line of any socket event."""
        document = ""
        tracer = f'"netns":{event.netns},"socket":{{"id":"{event.flow:x}"{_MAPPED if event.mapped else ""}}}'
        process = event.process
        if process is not None:
            known = self._described(process, offset)
            thread = f',"thread":{{"id":{event.tid}}}}}' if event.tid else "}"
            document = f',"process":{known.process}{thread}'
            tracer += ',"attribution":"kernel"'
            if known.raw:
                tracer += members({"raw": known.raw})
        if event.kind == Kind.SOCKET_FOUND:
            tracer += ',"snapshot":true'
        if event.kind == Kind.LISTEN or event.state == _LISTEN_STATE:
            here = f'{{"ip":"{event.local}","port":{event.local_port}}}'
            document += (
                f',"source":{here},"server":{here}'
                f',"network":{{"transport":"tcp","type":"{_TYPES[event.ipv6]}","iana_number":"6"}}'
            )
            tracer += f',"listen":{{"backlog":{event.backlog}}}'
        else:
            told, more = self._connection(event)
            document += told
            tracer += more
        return _opening(event), document, tracer

    @staticmethod
    def _connection(event: SocketEvent) -> tuple[str, str]:
        """Members of the document and of tracer about a connection."""
        kind, local, remote = event.kind, event.local, event.remote
        network = counted = ""
        if event.community_id:
            network = f',"community_id":"{event.community_id}"'
        if kind in _WITH_TOTALS:
            sent, received = event.sent, event.received
            here = f'{{"ip":"{local}","port":{event.local_port},"bytes":{sent}}}'
            there = f'{{"ip":"{remote}","port":{event.remote_port},"bytes":{received}}}'
            network += f',"bytes":{sent + received}'
            counted = f',"bytes_sent":{sent},"bytes_received":{received}'
        else:
            here = f'{{"ip":"{local}","port":{event.local_port}}}'
            there = f'{{"ip":"{remote}","port":{event.remote_port}}}'
        if kind != Kind.ACCEPT:
            counted += f',"retransmits":{event.retransmits}'
            if event.rtt_us:
                counted += f',"rtt_us":{event.rtt_us}'
        error, role, state = "", event.role, event.state
        if event.error:
            counted += f',"errno":{event.error}'
            error = f',"error":{{"code":{dumps(errno_name(event.error))}}}'
        if role == Role.ACCEPT:
            here, there = there, here
        related = f'"{local}"' if local == remote else f'"{local}","{remote}"'
        return (
            f',"source":{here},"client":{here},"destination":{there},"server":{there}'
            f',"network":{{"transport":"tcp","type":"{_TYPES[event.ipv6]}","iana_number":"6"'
            f',"direction":"{_DIRECTIONS.get(role, "unknown")}"{network}}},"related":{{"ip":[{related}]}}{error}',
            f',"tcp":{{"state":"{TCP_STATES[state] if state < len(TCP_STATES) else state}"{counted}}}',
        )


_MAPPED: Final = ',"mapped":true'
_TYPES: Final = ("ipv4", "ipv6")
_WITH_TOTALS: Final = (Kind.CLOSE, Kind.SOCKET_FOUND)
