"""Socket events in ECS: connections opened, failed, attempted, accepted, closed, found open, and sockets listening."""

from __future__ import annotations

from typing import Any, Final

import orjson

from tracer.formats.ecs_process import Processes
from tracer.formats.ecs_values import joined, stamp
from tracer.formats.text import errno_name
from tracer.model import TCP_STATES, Kind, Role, SocketEvent

__all__ = ["Sockets"]

_Fragment = orjson.Fragment
_dumps = orjson.dumps

_LISTEN_STATE: Final = TCP_STATES.index("LISTEN")


def _event(kind: str, types: str, action: str, outcome: str) -> bytes:
    told = f',"outcome":"{outcome}"' if outcome else ""
    return f'{{"kind":"{kind}","category":["network"],"type":[{types}],"action":"{action}"{told}'.encode()


_OPENED: Final = _event("event", '"connection","start"', "connection-opened", "success")
_REFUSED: Final = _event("event", '"connection"', "connection-failed", "failure")
_ATTEMPTED: Final = _event("event", '"connection","start"', "connection-attempted", "unknown")
_ACCEPTED: Final = _event("event", '"connection","start"', "connection-accepted", "success")
_CLOSED: Final = _event("event", '"connection","end"', "connection-closed", "success")
_BROKEN: Final = _event("event", '"connection","end"', "connection-closed", "failure")
_LISTENING: Final = _event("event", '"start"', "socket-listening", "success")
_FOUND_OPEN: Final = _event("state", '"info"', "connection-open", "")
_FOUND_LISTENING: Final = _event("state", '"info"', "socket-listening", "")
_DIRECTIONS: Final = {Role.CONNECT: "egress", Role.ACCEPT: "ingress", Role.NONE: "unknown", Role.LISTEN: "unknown"}


def _opening(event: SocketEvent) -> tuple[bytes, int | None]:
    """The members of ECS event.* up to the outcome, and the duration in ns where one is known."""
    kind = event.kind
    if kind == Kind.CONNECT:
        return _REFUSED if event.error else _OPENED, event.time - event.opened
    if kind == Kind.CLOSE:
        return _BROKEN if event.error else _CLOSED, event.time - event.opened if event.opened else None
    if kind == Kind.ACCEPT:
        return _ACCEPTED, None
    if kind == Kind.ATTEMPT:
        return _ATTEMPTED, event.time - event.opened
    if kind == Kind.LISTEN:
        return _LISTENING, None
    return _FOUND_LISTENING if event.state == _LISTEN_STATE else _FOUND_OPEN, None


class Sockets:
    """Renders the documents of socket events. Source is who initiated, where that is known, else the local end."""

    def __init__(self, processes: Processes) -> None:
        """The owner is described by ``processes``."""
        self._rendered = processes.rendered

    def document(self, event: SocketEvent, offset: int, sequence: int) -> dict[str, Any]:
        """The document of any socket event."""
        opening, duration = _opening(event)
        if duration is None:
            opening = b'%b,"sequence":%d}' % (opening, sequence)
        else:
            opening = b'%b,"sequence":%d,"duration":%d}' % (opening, sequence, duration)
        found: dict[str, Any] = {"@timestamp": stamp(event.time + offset), "event": _Fragment(opening)}
        tracer: dict[str, Any] = {"netns": event.netns, "socket": self._socket(event)}
        process = event.process
        if process is not None:
            kept = self._rendered(process, offset)
            known = kept.known
            found["process"] = _Fragment(joined(known, b'{"thread":{"id":%d}}' % event.tid) if event.tid else known)
            tracer["attribution"] = "kernel"
            if kept.raw:
                tracer["raw"] = kept.raw
        if event.late:
            tracer["late"] = True
        if event.kind == Kind.SOCKET_FOUND:
            tracer["snapshot"] = True
        if event.kind == Kind.LISTEN or event.state == _LISTEN_STATE:
            self._listening(event, found, tracer)
        else:
            self._connection(event, found, tracer)
        found["tracer"] = _dumps(tracer)
        return found

    @staticmethod
    def _socket(event: SocketEvent) -> dict[str, Any]:
        socket: dict[str, Any] = {"id": f"{event.flow:x}"}
        if event.mapped:
            socket["mapped"] = True
        return socket

    @staticmethod
    def _listening(event: SocketEvent, found: dict[str, Any], tracer: dict[str, Any]) -> None:
        found["source"] = found["server"] = {"ip": event.local, "port": event.local_port}
        found["network"] = {"transport": "tcp", "type": "ipv6" if event.ipv6 else "ipv4", "iana_number": "6"}
        tracer["listen"] = {"backlog": event.backlog}

    @staticmethod
    def _connection(event: SocketEvent, found: dict[str, Any], tracer: dict[str, Any]) -> None:
        kind = event.kind
        tcp: dict[str, Any] = {"state": TCP_STATES[event.state] if event.state < len(TCP_STATES) else str(event.state)}
        network: dict[str, Any] = {
            "transport": "tcp",
            "type": "ipv6" if event.ipv6 else "ipv4",
            "iana_number": "6",
            "direction": _DIRECTIONS.get(event.role, "unknown"),  # type: ignore[call-overload]
        }
        if event.community_id:
            network["community_id"] = event.community_id
        if kind in (Kind.CLOSE, Kind.SOCKET_FOUND):
            near = b'{"ip":"%b","port":%d,"bytes":%d}' % (event.local.encode(), event.local_port, event.sent)
            far = b'{"ip":"%b","port":%d,"bytes":%d}' % (event.remote.encode(), event.remote_port, event.received)
            network["bytes"] = event.sent + event.received
            tcp["bytes_sent"] = event.sent
            tcp["bytes_received"] = event.received
        else:
            near = b'{"ip":"%b","port":%d}' % (event.local.encode(), event.local_port)
            far = b'{"ip":"%b","port":%d}' % (event.remote.encode(), event.remote_port)
        if kind != Kind.ACCEPT:
            tcp["retransmits"] = event.retransmits
            if event.rtt_us:
                tcp["rtt_us"] = event.rtt_us
        if event.error:
            tcp["errno"] = event.error
            found["error"] = {"code": errno_name(event.error)}
        tracer["tcp"] = tcp
        here, there = _Fragment(near), _Fragment(far)
        if event.role == Role.ACCEPT:
            here, there = there, here
        found["source"] = found["client"] = here
        found["destination"] = found["server"] = there
        found["network"] = network
        found["related"] = {"ip": [event.local] if event.local == event.remote else [event.local, event.remote]}
