"""Records, runs and turns made by hand, as the probes and the ring reader would give them."""

import struct
from collections.abc import Iterable, Sequence
from typing import Any

from tracer.model import RING_KINDS, SOCKET_KINDS, Kind, Role
from tracer.pipeline.order import RingRun
from tracer.pipeline.turns import Found, Start, Turn
from tracer.probes import records
from tracer.probes.perf_event import PAYLOAD_OFFSET, split
from tracer.probes.records import Tally

SECOND = 1_000_000_000
BOOT_ID = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
NOW = 1_000 * SECOND
OFFSET = 1_700_000_000 * SECOND - NOW  # at NOW it is 2023-11-14T22:13:20Z

# The members of bpf/tracer.h's structs, in their order; test_records.py compares them with the compiled ones.
HEADER = ("time", "seq", "start", "tgid", "tid", "cpu", "kind", "ring", "flags")
IDENTITY = (
    "parent_start",
    "cgroup",
    "parent_tgid",
    "vpid",
    "uid",
    "gid",
    "euid",
    "egid",
    "loginuid",
    "audit_session",
    "session",
    "group",
    "netns",
    "pidns",
    "comm",
)
EXEC_LENGTHS = ("exe_len", "cwd_len", "file_len", "interp_len", "cgroup_len", "args_len")
EXEC = (*HEADER, *IDENTITY, "inode", "args_total", "dev", "argc", *EXEC_LENGTHS, "reserved")
EXEC_FAILED = (*HEADER, *IDENTITY, "error", "file_len", "args_len")
FORK = (*HEADER, *IDENTITY, "forker_tid", "forker_tgid")
EXIT = (*HEADER, *IDENTITY, "cpu_ns", "max_rss", "status", "reserved")
SOCKET = (
    *HEADER,
    *("flow", "opened", "established", "sent", "received", "cgroup"),
    *("retransmits", "rtt_us", "netns", "uid", "error", "backlog"),
    *("sport", "dport", "family", "role", "state", "sock_flags", "saddr", "daddr", "comm"),
    *("socket", "moved_out", "moved_in", "calls_out", "calls_in", "slot", "protocol", "type", "via"),
)
PAYLOAD = (
    *HEADER,
    *("flow", "cookie", "cgroup", "netns", "uid", "offset", "length", "sport", "dport", "family", "protocol"),
    *("direction", "segment", "header_len", "data_len", "reserved", "saddr", "daddr", "comm"),
)
PART = ("flow", "start", "moved_out", "moved_in", "calls_out", "calls_in", "tgid", "via", "socket")
FLOOD = (
    *("began", "last", "count", "hash", "cgroup", "inode", "start", "dev", "uid", "kind", "busy", "ready", "tgid"),
    "comm",
)
UNSEEN = ("start", "time", "tgid", "changes")
DEVICE_BYTES = (
    "netns",
    "index",
    *(f"{way}[{number}]" for way in ("out", "in") for number in range(9)),
    *("more_out", "more_in", "taken", "reserved"),
)
SOCKETS = SOCKET_KINDS - {Kind.UPDATE, Kind.PAYLOAD}
BULK = SOCKETS | {Kind.PAYLOAD}
DEFAULTS = {
    "time": NOW,
    "start": NOW - SECOND,
    "tgid": 4242,
    "tid": 4242,
    "loginuid": 0xFFFFFFFF,
    "audit_session": 0xFFFFFFFF,
    "comm": b"program",
    "family": 2,
    "saddr": bytes(10) + b"\xff\xff\x0a\x00\x00\x01",
    "daddr": bytes(10) + b"\xff\xff\x0a\x00\x00\x02",
    "sport": 40_000,
    "dport": 443,
    "protocol": 6,
    "type": 1,
}


def _packed(layout: struct.Struct, names: Sequence[str], kind: Kind, fields: dict[str, Any]) -> bytes:
    unknown = set(fields) - set(names)
    assert not unknown, unknown
    values = DEFAULTS | {"kind": kind, "ring": int(kind in BULK)} | fields
    return layout.pack(*(values.get(name, 0) for name in names))


def path(text: bytes) -> bytes:
    """A path as the probes write it: components from the leaf up, each with its NUL."""
    return b"".join(part + b"\0" for part in reversed(text.split(b"/")) if part)


def executed(
    exe: bytes = b"/usr/bin/program",
    cwd: bytes = b"/root",
    args: Sequence[bytes] = (b"program", b"-x"),
    *,
    kind: Kind = Kind.EXEC,
    requested: bytes = b"",
    interpreter: bytes = b"",
    cgroup_path: bytes = b"",
    raw_exe: bytes | None = None,
    **fields: Any,
) -> bytes:
    """An exec record; ``raw_exe`` are components as they lie in the record, for what path() can't say."""
    argv = b"".join(arg + b"\0" for arg in args)
    named = [text + b"\0" if text else b"" for text in (requested, interpreter)]
    parts = [path(exe) if raw_exe is None else raw_exe, path(cwd), *named, path(cgroup_path), argv]
    lengths = dict(zip(EXEC_LENGTHS, map(len, parts), strict=True))
    given = lengths | {"inode": 7, "dev": 8 << 20 | 1, "argc": len(args), "args_total": len(argv)} | fields
    return _packed(records.EXEC, EXEC, kind, given) + b"".join(parts)


def exec_failed(requested: bytes = b"/no/such", args: Sequence[bytes] = (b"such",), **fields: Any) -> bytes:
    """A record of an exec that failed, by itself with ENOENT."""
    file, argv = requested + b"\0", b"".join(arg + b"\0" for arg in args)
    given = {"error": 2, "file_len": len(file), "args_len": len(argv)} | fields
    return _packed(records.EXEC_FAILED, EXEC_FAILED, Kind.EXEC_FAILED, given) + file + argv


def forked(**fields: Any) -> bytes:
    """A fork record, by itself of a child of 4000."""
    parent = fields.get("parent_tgid", 4000)
    given = {"parent_tgid": 4000, "parent_start": SECOND, "forker_tid": parent, "forker_tgid": parent} | fields
    return _packed(records.FORK, FORK, Kind.FORK, given)


def exited(**fields: Any) -> bytes:
    """An exit record."""
    return _packed(records.EXIT, EXIT, Kind.EXIT, fields)


def socket(kind: Kind, **fields: Any) -> bytes:
    """A socket record, by itself of flow 1 from 10.0.0.1:40000 to 10.0.0.2:443."""
    role = {Kind.ACCEPT: Role.ACCEPT, Kind.LISTEN: Role.LISTEN}.get(kind, Role.CONNECT)
    given = {"flow": 1, "opened": NOW - SECOND, "role": role} | fields
    return _packed(records.SOCKET, SOCKET, kind, given)


def payload(data: bytes, headers: bytes = bytes(40), **fields: Any) -> bytes:
    """A record of first bytes, by itself sent over flow 1 from 10.0.0.1:40000 to 10.0.0.2:443."""
    given = {"flow": 1, "direction": 1, "length": len(data), "header_len": len(headers), "data_len": len(data)} | fields
    return _packed(records.PAYLOAD, PAYLOAD, Kind.PAYLOAD, given) + headers + data


def framed(*items: bytes) -> bytes:
    """Records as an iterator writes them, each behind its size."""
    return b"".join(records.SIZE.pack(len(item)) + item for item in items)


def perf(items: Iterable[bytes]) -> bytes:
    """Records as a perf ring holds them."""
    found = []
    for item in items:
        raw = len(item) + 4 + 7 & -8  # the kernel pads the payload and its u32 size to 8 bytes
        found.append(struct.pack("=IHHI", 9, 0, 8 + raw, raw - 4) + item.ljust(raw - 4, b"\0"))
    return b"".join(found)


def ring_run(*items: bytes, cpu: int = 0, ring: int = 0, drained: bool = True) -> RingRun:
    """What one ring gave."""
    data = perf(items)
    offsets = split(data).offsets
    assert len(offsets) == len(items)
    assert not offsets or offsets[0] == PAYLOAD_OFFSET
    return RingRun(cpu, ring, data, 0, drained, offsets)


def tallies(counts: dict[tuple[int, Kind], dict[str, int]], cpus: int = 2) -> bytes:
    """The kernel's counters: (cpu, kind) -> counter -> value, all others 0."""
    found = []
    for cpu in range(cpus):
        for kind in RING_KINDS:
            given = counts.get((cpu, kind), {})
            found.append(records.TALLY.pack(*Tally(*[0] * 12)._replace(**given)))
    return b"".join(found)


def turn(
    *runs: RingRun,
    now: int = NOW,
    drained_at: int | None = None,
    counters: bytes = b"",
    cut: bool = False,
    last: bool = False,
    missed: dict[str, int] | None = None,
) -> Turn:
    """One turn; with ``last`` also a cut."""
    drained = now if drained_at is None else drained_at
    return Turn(now, OFFSET, drained, list(runs), counters, cut or last, last, missed or {})


def found(processes: bytes = b"", sockets: bytes = b"") -> Found:
    """What the iterators found at NOW."""
    return Found(NOW, OFFSET, processes, sockets)


def start(**facts: Any) -> Start:
    """The beginning of a session that asks for everything."""
    host = {
        "id": "machine",
        "name": "box",
        "boot_id": BOOT_ID,
        "kernel": "6.1.0",
        "architecture": "x86_64",
        "cpus": 2,
        "page_size": 4096,
    }
    session = {
        "host": host,
        "agent_id": "agent",
        "ephemeral_id": "run",
        "version": "1.2.3",
        "backend": "core",
        "users": {"0": "root"},
        "groups": {"0": "root"},
    }
    given = {
        "now": NOW,
        "offset": OFFSET,
        "session": session,
        "filters": {"event": [kind.label for kind in RING_KINDS]},
        "count": None,
        "coverage": {"backend": "core", "hooks": {}, "blind": []},
        "started": {"uid": 0},
    }
    return Start(given | facts)
