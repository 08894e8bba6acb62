"""The events: the vocabulary that every other part of the program speaks.

Times are nanoseconds of CLOCK_BOOTTIME unless a name says otherwise; names, paths and arguments are the kernel's bytes,
which may be anything; numbers are the kernel's. A format turns an event into a line, and nothing else does.
"""

from __future__ import annotations

import enum
from binascii import b2a_base64
from dataclasses import dataclass, field
from hashlib import blake2b
from struct import Struct
from typing import Any, Final, NamedTuple

USER_HZ: Final = 100  # ticks a second in /proc/PID/stat on every architecture we support
NS_PER_TICK: Final = 1_000_000_000 // USER_HZ
UNSET_ID: Final = 0xFFFFFFFF  # an audit id that was never set

IDS: Final = Struct("=11I")  # Ids as struct identity of bpf/tracer.h has them

_entity = Struct("<16sIQ").pack


class Kind(enum.IntEnum):
    """What happened; the numbers are those of `enum kind` in bpf/tracer.h."""

    EXEC = 0
    EXEC_FAILED = 1
    FORK = 2
    EXIT = 3
    CONNECT = 4
    ATTEMPT = 5
    ACCEPT = 6
    LISTEN = 7
    CLOSE = 8
    FLOW = 9
    FLOW_END = 10
    OWNER = 11
    TAIL = 12
    PAYLOAD = 13
    PROCESS_FOUND = 14
    SOCKET_FOUND = 15
    UPDATE = 16
    AGGREGATE = 17

    @property
    def label(self) -> str:
        """The name people use for it: in --event, in the ledger."""
        return self.name.lower().replace("_", "-")


RING_KINDS: Final = tuple(Kind(number) for number in range(14))
TOLD_KINDS: Final = (
    *RING_KINDS,
    Kind.PROCESS_FOUND,
    Kind.SOCKET_FOUND,
    Kind.UPDATE,
    Kind.AGGREGATE,
)  # what a ledger accounts for
MOVED_KINDS: Final = frozenset({Kind.FLOW, Kind.FLOW_END, Kind.OWNER, Kind.TAIL, Kind.UPDATE})  # by counting bytes
SOCKET_KINDS: Final = MOVED_KINDS | {
    *(Kind.CONNECT, Kind.ATTEMPT, Kind.ACCEPT, Kind.LISTEN, Kind.CLOSE, Kind.PAYLOAD, Kind.SOCKET_FOUND)
}


class Flag(enum.IntFlag):
    """What is special about a record; the bits are those of `enum record_flag` in bpf/tracer.h."""

    TRUNCATED_EXE = 1 << 0
    TRUNCATED_CWD = 1 << 1
    TRUNCATED_ARGS = 1 << 2
    TRUNCATED_FILE = 1 << 3
    FAULT_ARGS = 1 << 4
    DELETED = 1 << 5
    SCRIPT = 1 << 6
    EXECFD = 1 << 7
    CORE = 1 << 8
    SECCOMP_KILLED = 1 << 9
    KTHREAD = 1 << 10
    DETACHED = 1 << 11
    BY_COOKIE = 1 << 12
    BY_INODE = 1 << 13
    APPROXIMATE = 1 << 14
    NO_STATUS = 1 << 15
    NO_TOTALS = 1 << 16
    NO_PROGRAM = 1 << 17
    TRUNCATED_CGROUP = 1 << 18
    CGROUP_V1 = 1 << 19
    KERNEL = 1 << 20


# What a reader is told of how an owner is known, and of what is not as good as from the probes.
ATTRIBUTIONS: Final = {Flag.BY_COOKIE: "cookie", Flag.BY_INODE: "inode"}  # without either: kernel
NO_OWNER: Final = "kernel-socket"  # with Flag.KERNEL, where no process can be the owner
QUALITIES: Final = {
    Flag.APPROXIMATE: "approximate",
    Flag.NO_STATUS: "no-status",
    Flag.NO_TOTALS: "no-totals",
    Flag.NO_PROGRAM: "no-program",
}


class Role(enum.IntEnum):
    """What a process did to get a socket; `enum role` in bpf/tracer.h. NONE: it was open before the probes were."""

    NONE = 0
    CONNECT = 1
    ACCEPT = 2
    LISTEN = 3
    SENT = 4
    RECEIVED = 5


class Via(enum.IntFlag):
    """How bytes were moved; the bits are those of `enum via` in bpf/tracer.h."""

    SYSCALL = 1 << 0
    IO_URING = 1 << 1
    SENDFILE = 1 << 2
    SPLICE = 1 << 3
    PACKET = 1 << 4


# include/net/tcp_states.h, by number.
TCP_STATES: Final = (
    "",
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
)


def entity_id(boot: bytes, tgid: int, start: int) -> str:
    """Name a process for ever: base64 of BLAKE2b-128 over the boot id (16 bytes), host pid and start in ticks.

    ``start`` is nanoseconds since boot and floored to ticks, because that is all that /proc/PID/stat tells: the same
    process has the same id from every backend.
    """
    digest = blake2b(_entity(boot, tgid, start // NS_PER_TICK), digest_size=16).digest()
    return b2a_base64(digest, newline=False).decode()


class Image(NamedTuple):
    """What a process runs, fixed by its exec and shared with the children that only fork.

    ``args`` is NUL-terminated strings as committed, ``args_total`` their bytes before truncation, ``argc`` their true
    number; ``dev`` is major << 20 | minor; ``flags`` are Flag bits.
    """

    time: int
    executable: bytes
    cwd: bytes
    requested: bytes
    interpreter: bytes
    args: bytes
    argc: int
    args_total: int
    dev: int
    inode: int
    flags: int


@dataclass(slots=True)
class Cgroup:
    """A control group of ``version`` 1 or 2 by its path from the root of the hierarchy, and whose that says it is.

    Empty is what the path does not tell. ``slice``, ``unit`` and ``user_unit`` are systemd's; ``container`` is the id,
    or with LXC and nspawn the name, of the innermost container, ``around`` are those which it is in from the outermost
    inwards; ``pod`` is the uid of the Kubernetes pod. Not changed once it is made.
    """

    path: bytes
    version: int
    slice: bytes
    unit: bytes
    user_unit: bytes
    container: bytes
    runtime: str
    around: tuple[bytes, ...]
    pod: str
    rendered: Any = field(default=None, compare=False, repr=False)  # kept by a format


class Parent:
    """Where a process comes from, as it was at the fork: it stays true when the parent execs, exits or is replaced.

    Children of one parent share it.
    """

    __slots__ = ("entity_id", "executable", "name", "rendered", "start", "tgid")

    def __init__(self, tgid: int, start: int, entity: str, name: bytes, executable: bytes) -> None:
        """The name and the executable are empty when they are not known."""
        self.tgid = tgid
        self.start = start
        self.entity_id = entity
        self.name = name
        self.executable = executable
        self.rendered: Any = None  # kept by a format


class Ids(NamedTuple):
    """Numbers of a process: ``vpid`` in its own pid namespace; below 0, or UNSET_ID, what is not known."""

    vpid: int = -1
    uid: int = -1
    gid: int = -1
    euid: int = -1
    egid: int = -1
    loginuid: int = UNSET_ID
    audit_session: int = UNSET_ID
    session: int = 0
    group: int = 0
    netns: int = 0
    pidns: int = 0


_UNKNOWN: Final = Ids()


class Process:
    """A process as it was at one moment: (tgid, start) is its identity, everything else may be unknown.

    Not changed once an event holds it: when something of the process changes, there is a new object.
    """

    __slots__ = (
        "as_parent",
        "cgroup",
        "clock",
        "comm",
        "entity_id",
        "exited",
        "image",
        "parent",
        "rendered",
        "start",
        "tgid",
        "told",
        "uid",
        "within",
    )

    def __init__(self, tgid: int, start: int, entity: str, comm: bytes) -> None:
        """A process of which only the identity and the name are known yet."""
        self.tgid = tgid
        self.start = start
        self.entity_id = entity
        self.comm = comm
        self.clock = 0  # wall clock minus CLOCK_BOOTTIME (ns) when it became known: its start stays the same for ever
        self.image: Image | None = None
        self.parent: Parent | None = None
        self.uid = -1
        self.cgroup = 0  # the id of its control group of version 2, as the last record tells it
        self.within: Cgroup | None = None  # its control group, where its path is known
        self.exited = 0  # when, or 0
        self.told = b""  # the ids and the name as the last record has them: small, and quickly compared with the next
        self.as_parent: Parent | None = None  # what its children have as their parent
        self.rendered: Any = None  # kept by a format

    @property
    def ids(self) -> Ids:
        """What the last record of the process told; ``uid`` beside it may be newer, from a socket's record."""
        return Ids._make(IDS.unpack_from(self.told)) if self.told else _UNKNOWN


class ProcessEvent(NamedTuple):
    """A process was executed, forked, or found running (Kind.EXEC, FORK, PROCESS_FOUND); ``flags`` of this record."""

    kind: Kind
    time: int
    late: bool
    process: Process
    tid: int
    flags: int = 0


class ExecFailed(NamedTuple):
    """A process asked for a program and went on without it; ``error`` is 0 when seccomp killed it for asking."""

    kind: Kind
    time: int
    late: bool
    process: Process
    tid: int
    error: int
    requested: bytes
    args: bytes
    flags: int


class ProcessExited(NamedTuple):
    """A process ended: ``status`` as wait(2) gives it, CPU time of all its threads in ns, peak memory in pages."""

    kind: Kind
    time: int
    late: bool
    process: Process
    tid: int
    status: int
    cpu_ns: int
    max_rss: int
    flags: int


@dataclass(slots=True)
class Names:
    """What a flow goes to by name, and what it speaks. Shared by flows that have the same; not changed once made.

    ``domain`` is the name of who was called, and ``source`` how it is known: ``dns``, or that the caller said so in
    ``tls``, ``http`` or ``quic``; both are empty if there is none. With ``dns`` ``how`` is ``process``, ``resolver`` or
    ``netns``, ``asked`` the name that was asked for and those that it is an alias of, and ``ambiguous`` that the
    address had several. ``protocol`` is what the flow speaks, else empty. ``hello``: there was a ClientHello, with
    ``server_name``, the protocols ``offered`` and the highest ``version`` (0x0304: TLS 1.3); ``ech``: it may be only
    the outer one. Of a request of HTTP there are the ``host``, the ``method`` and its ``http`` version. ``cut`` and
    ``malformed`` are said of either.
    """

    domain: bytes = b""
    source: str = ""
    how: str = ""
    asked: tuple[bytes, ...] = ()
    ambiguous: bool = False
    protocol: str = ""
    hello: bool = False
    server_name: bytes = b""
    offered: tuple[bytes, ...] = ()
    version: int = 0
    ech: bool = False
    host: bytes = b""
    method: bytes = b""
    http: str = ""
    cut: bool = False
    malformed: bool = False
    rendered: Any = field(default=None, compare=False, repr=False)  # kept by a format


class Merged(NamedTuple):
    """Several ``flows`` in one record: when the first began and the last ended, how long the longest took (ns).

    ``owner`` is the process of one of them, for what those of all have in common: executable, user, control group.
    """

    flows: int
    first: int
    last: int
    longest: int
    owner: Process | None = None


class SocketEvent(NamedTuple):
    """A socket was connected, attempted, accepted, listened on, used, closed, or found open.

    ``process`` is the owner or who moved the bytes, None where that is no process. ``flow`` is a number that no other
    flow has while the system is up; all flows of one socket without connections have ``socket`` in common.
    ``local`` and ``remote`` are text addresses, IPv4-mapped ones normalised (``mapped``). ``opened`` is 0 when it
    began before the trace, ``established`` when it never was; ``sent`` and ``received`` are bytes of TCP's stream,
    ``moved_out`` and ``moved_in`` those that calls returned (-1: not told, or not counted), in ``calls_out`` and
    ``calls_in`` calls or datagrams, ``via`` how (Via bits); ``state`` is the kernel's before this event. ``flags``
    are the socket's (enum socket_flag), ``marks`` the record's (Flag). ``names`` is what is known so far of its names.
    With Kind.AGGREGATE it is of several flows, of which ``merged`` tells, and ``process`` the one that has them all.
    """

    kind: Kind
    time: int
    late: bool
    process: Process | None
    tid: int
    flow: int
    role: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    ipv6: bool
    mapped: bool
    community_id: str
    netns: int
    opened: int
    established: int
    sent: int
    received: int
    retransmits: int
    rtt_us: int
    error: int
    backlog: int
    state: int
    flags: int
    uid: int
    marks: int = 0
    protocol: int = 6
    transport: str = "tcp"
    socket: int = 0
    moved_out: int = -1
    moved_in: int = -1
    calls_out: int = 0
    calls_in: int = 0
    via: int = 0
    names: Names | None = None
    merged: Merged | None = None


class Resource(NamedTuple):
    """A record of a DNS answer; ``type`` and ``class_`` as DNS writes them, ``data`` as text, ``ttl`` in seconds."""

    name: bytes
    type: str
    class_: str
    ttl: int
    data: bytes


class Answered(NamedTuple):
    """A process was sent an answer of DNS, mDNS or LLMNR (``protocol``); the ends are those of the flow it came by.

    ``process`` is None where it is not known whose socket that is, ``flow`` then 0 or the socket's number. ``question``
    is the first one's name, type and class, None where there is none; ``code`` is the response code as DNS writes it;
    ``addresses`` are text, of the answers. ``cut``: there is more than was looked at; ``malformed``: it could not be
    read, and what it answered is left out.
    """

    kind: Kind
    time: int
    late: bool
    process: Process | None
    tid: int
    flow: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    ipv6: bool
    community_id: str
    netns: int
    transport: str
    number: int
    protocol: str
    id: int
    code: str
    header_flags: tuple[str, ...]
    question: tuple[bytes, str, str] | None
    answers: tuple[Resource, ...]
    addresses: tuple[str, ...]
    cut: bool
    malformed: bool
    marks: int = 0


class Notice(NamedTuple):
    """What the tracer says of itself: ``action`` as in event.action, ``body`` goes under ``tracer``."""

    action: str
    time: int
    event_kind: str  # ECS event.kind
    body: dict[str, Any]


KindEvent = ProcessEvent | ExecFailed | ProcessExited | SocketEvent | Answered
Event = KindEvent | Notice


class Host(NamedTuple):
    """The machine, as far as a line tells of it."""

    id: str
    name: str
    boot_id: str
    kernel: str
    architecture: str
    cpus: int
    page_size: int


class Session(NamedTuple):
    """One run of the tracer: what every line of it has in common."""

    host: Host
    agent_id: str
    ephemeral_id: str
    version: str
    backend: str
    users: dict[int, str]
    groups: dict[int, str]
    namespaces: dict[int, str]  # network namespaces, by inode
