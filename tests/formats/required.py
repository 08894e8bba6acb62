"""The fields that each event must carry, by hand, and a table of how many of the events that were written have them.

Where a field may be absent the condition is here, and is a fact of the event itself: a name that /etc/passwd lacks, a
protocol without ports.
"""

import grp
import pwd
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from functools import cache
from typing import Any

from tests.tracing import ABSENT, Event, value

__all__ = ["REQUIRED", "Table", "lacking", "required"]

_EVERY = (
    *("@timestamp", "ecs.version", "event.kind", "event.category", "event.type", "event.action", "event.sequence"),
    *("host.id", "host.name", "host.boot.id", "host.os.kernel", "host.architecture"),
    *("agent.type", "agent.id", "agent.ephemeral_id", "agent.version", "tracer.schema", "tracer.backend"),
)
_PROCESS = (
    *("process.pid", "process.vpid", "process.entity_id", "process.name", "process.executable", "process.start"),
    *("process.user.id", "process.user.name", "process.group.id", "process.group.name", "process.session_leader.pid"),
    *("process.parent.pid", "process.parent.entity_id", "process.parent.name", "process.parent.executable"),
    "tracer.netns",
)
_PROCESS_EVENT = (
    *_PROCESS,
    *("process.group_leader.pid", "process.thread.id", "event.outcome", "tracer.pidns"),
    *("tracer.process.start_ns", "tracer.process.exe.dev", "tracer.process.exe.inode"),
)
_RUN = ("process.args", "process.args_count", "process.command_line", "process.working_directory")
_FLOW = (
    *_PROCESS,
    *("source.ip", "source.port", "destination.ip", "destination.port", "client.ip", "client.port", "server.ip"),
    *("server.port", "network.transport", "network.type", "network.iana_number", "network.direction"),
    *("network.community_id", "related.ip", "tracer.socket.id", "tracer.attribution"),
)
_TCP = ("tracer.tcp.state", "tracer.tcp.retransmits", "event.duration")
_MOVED = ("source.bytes", "destination.bytes", "client.bytes", "server.bytes", "network.bytes")
_PACKETS = ("source.packets", "destination.packets", "network.packets", "tracer.flow.id")

# The events of processes, beside what every line has.
REQUIRED: dict[str, tuple[str, ...]] = {
    "process-executed": (*_PROCESS_EVENT, *_RUN, "tracer.process.requested"),
    "process-exec-failed": (*_PROCESS_EVENT, "error.code", "tracer.exec.requested"),
    "process-forked": (*_PROCESS_EVENT, *_RUN),
    "process-exited": (
        *_PROCESS_EVENT,
        *("process.end", "process.exit_code", "event.duration", "tracer.process.exit_status"),
    ),
    "connection-opened": (*_FLOW, "event.outcome", "process.thread.id", *_TCP),
    "connection-failed": (*_FLOW, "event.outcome", "process.thread.id", *_TCP, "error.code", "tracer.tcp.errno"),
    "connection-attempted": (*_FLOW, "event.outcome", "process.thread.id", *_TCP),
    "connection-accepted": (*_FLOW, "event.outcome", "process.thread.id", "tracer.tcp.state"),
    "connection-closed": (
        *(*_FLOW, "event.outcome", *_MOVED, *_PACKETS, *_TCP),
        *("tracer.tcp.bytes_sent", "tracer.tcp.bytes_received"),
    ),
    "connection-update": (*_FLOW, *_MOVED, *_PACKETS),
    "connection-owner-changed": _FLOW,
    "connection-aggregated": (
        *("process.executable", "process.user.id", "event.outcome", "event.start", "event.end", "event.duration"),
        *("network.transport", "network.type", "network.iana_number", "network.direction", "related.ip"),
        *("tracer.netns", "tracer.attribution", "tracer.aggregate.count", "tracer.aggregate.longest_ns"),
    ),
    "socket-listening": (
        *_PROCESS,
        *("process.thread.id", "event.outcome", "source.ip", "source.port", "server.ip", "server.port"),
        *("network.transport", "network.type", "network.iana_number", "tracer.socket.id", "tracer.attribution"),
        "tracer.listen.backlog",
    ),
    "dns-answered": (
        *(*_FLOW, "event.outcome", "network.protocol", "dns.type", "dns.id", "dns.response_code"),
        *("dns.question.name", "dns.question.type", "dns.question.class"),
    ),
}
# What the tracer says of itself.
NOTICES: dict[str, tuple[str, ...]] = {
    "tracer-coverage": ("tracer.coverage.backend", "tracer.coverage.hooks", "tracer.coverage.blind"),
    "tracer-session-start": ("tracer.session.pid", "tracer.session.uid", "tracer.session.command_line"),
    "tracer-confinement": ("tracer.confinement.layers", "tracer.confinement.tries", "tracer.confinement.enabled"),
    "tracer-flood": ("tracer.flood.kind", "tracer.flood.count", "tracer.flood.first", "tracer.flood.last"),
    "tracer-loss": ("tracer.loss.kind", "tracer.loss.stage", "tracer.loss.count"),
    "tracer-ledger": (
        *("tracer.ledger.total", "tracer.ledger.by_kind", "tracer.ledger.missed"),
        *("tracer.ledger.balanced", "tracer.ledger.complete", "tracer.ledger.final"),
    ),
    "tracer-segment": ("tracer.segment.chain", "tracer.segment.number"),
    "tracer-segment-end": ("tracer.segment.number", "tracer.segment.digest", "tracer.segment.checksum"),
}

_MESSAGES = {"udp", "udplite", "icmp", "ipv6-icmp", "raw", "packet"}  # whose sockets have a flow for each peer
_PORTLESS = {"icmp", "ipv6-icmp", "raw", "packet"}
_NAMED = {"tcp", "udp", "sctp"}  # what has a community id: that of ICMP is made of what each message is


@cache
def _has_name(kind: str, number: str) -> bool:
    try:
        if kind == "user":
            pwd.getpwuid(int(number))
        else:
            grp.getgrgid(int(number))
    except KeyError:
        return False
    return True


def _unknown_ip(name: str) -> Callable[[Event], bool]:
    """The address of an end that no call and no packet has named: of frames, and of datagrams to or from nobody yet."""

    def absent(event: Event) -> bool:
        transport = value(event, "network.transport")
        return transport in {"packet", "vsock"} or (transport in _MESSAGES and value(event, name) is ABSENT)

    return absent


def _no_port(end: str) -> Callable[[Event], bool]:
    """Ports come with addresses, and only of protocols that have them."""

    def absent(event: Event) -> bool:
        transport = value(event, "network.transport")
        return transport in _PORTLESS or (transport in _MESSAGES and value(event, f"{end}.ip") is ABSENT)

    return absent


def _no_connection(event: Event) -> bool:
    """What TCP keeps of a connection, others do not; events of processes have none of it."""
    return value(event, "network.transport") not in {ABSENT, "tcp"}


def _outlived(event: Event) -> bool:
    """Of a process whose main thread has ended before the others nobody can ask for namespaces any more."""
    last, main = value(event, "process.thread.id"), value(event, "process.pid")
    return event["event"]["action"] == "process-exited" and bool(last != main)


_UNLESS: dict[str, Callable[[Event], bool]] = {
    "process.user.name": lambda event: not _has_name("user", value(event, "process.user.id")),
    "process.group.name": lambda event: not _has_name("group", value(event, "process.group.id")),
    # A process may give itself no name at all.
    "process.name": lambda event: value(event, "process.name") is ABSENT and value(event, "process.pid") is not ABSENT,
    "process.command_line": lambda event: value(event, "process.args_count") == 0,
    "process.args": lambda event: value(event, "process.args_count") == 0,
    "error.code": lambda event: value(event, "tracer.exec.seccomp_killed") is True,
    # Of a socket that another process has opened nobody has called anything.
    "process.thread.id": lambda event: value(event, "tracer.flow.id") is not ABSENT,
    **{f"{end}.port": _no_port(end) for end in ("source", "destination", "client", "server")},
    **{f"{end}.ip": _unknown_ip(f"{end}.ip") for end in ("source", "destination", "client", "server")},
    "related.ip": _unknown_ip("related.ip"),
    "network.type": lambda event: value(event, "network.transport") in {"packet", "vsock"},
    "network.iana_number": lambda event: value(event, "network.transport") in {"packet", "vsock", "raw"},
    "network.community_id": lambda event: (
        value(event, "network.transport") not in _NAMED
        or value(event, "source.ip") is ABSENT
        or value(event, "destination.ip") is ABSENT
    ),
    **dict.fromkeys(("tracer.tcp.state", "tracer.tcp.bytes_sent", "tracer.tcp.bytes_received"), _no_connection),
    "tracer.tcp.retransmits": _no_connection,
    "event.duration": _no_connection,
    "tracer.netns": _outlived,
    "tracer.pidns": _outlived,
    **dict.fromkeys(_PACKETS, lambda event: value(event, "network.transport") not in _MESSAGES),
    **{
        f"dns.{name}": lambda event: value(event, "tracer.dns.malformed") is True
        for name in ("question.name", "question.type", "question.class", "response_code")
    },
}


def required(event: Event) -> tuple[str, ...]:
    """The fields that an event must carry by its action."""
    action = event["event"]["action"]
    return (*_EVERY, *(REQUIRED.get(action) or NOTICES.get(action, ())))


def lacking(event: Event, excused: Collection[str] = ()) -> list[str]:
    """Those that it lacks, and has no reason to; ``excused`` are those that this session can't know of it."""
    return [
        name
        for name in required(event)
        if value(event, name) is ABSENT and name not in excused and not (name in _UNLESS and _UNLESS[name](event))
    ]


class Table:
    """Of each action the events, and of each of its fields how many of them have it."""

    def __init__(self) -> None:
        self.events: Counter[str] = Counter()
        self.have: dict[str, Counter[str]] = {}
        self.lack: dict[str, Counter[str]] = {}
        self.first: dict[tuple[str, str], Any] = {}  # of each that is lacking, an event to look at

    def add(self, event: Event, excused: Collection[str] = ()) -> None:
        """Count an event; ``excused`` as for lacking()."""
        action = event["event"]["action"]
        self.events[action] += 1
        have, lack = self.have.setdefault(action, Counter()), self.lack.setdefault(action, Counter())
        missing = lacking(event, excused)
        lack.update(missing)
        have.update(name for name in required(event) if value(event, name) is not ABSENT)
        for name in missing:
            self.first.setdefault((action, name), event)

    def merge(self, other: "Table") -> None:
        """Add what another table has counted."""
        self.events.update(other.events)
        for mine, theirs in ((self.have, other.have), (self.lack, other.lack)):
            for action, counted in theirs.items():
                mine.setdefault(action, Counter()).update(counted)
        self.first = other.first | self.first

    @property
    def full(self) -> bool:
        """Whether no event lacks anything."""
        return not any(sum(each.values()) for each in self.lack.values())

    def lines(self) -> Iterable[str]:
        """A line for each action: events, fields, how many of those have all; and below it each that is not in all."""
        yield f"{'action':<26}{'events':>8}{'fields':>10}{'there':>10}"
        for action, count in sorted(self.events.items()):
            lack = self.lack[action]
            wanted = sum(self.have[action].values()) + sum(lack.values())
            share = (wanted - sum(lack.values())) * 10_000 // wanted / 100  # rounded down: 100 is all of them
            yield f"{action:<26}{count:>8,}{wanted:>10,}{share:>8.2f} %"
            for name, missing in sorted(lack.items()):
                yield f"    {name}: lacking in {missing:,} of {count:,}"
