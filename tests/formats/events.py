"""Events made by hand, for the tests of what formats make of them."""

from typing import Any

from tracer.model import (
    TCP_STATES,
    Answered,
    ExecFailed,
    Host,
    Image,
    Kind,
    Names,
    Notice,
    Parent,
    Process,
    ProcessEvent,
    ProcessExited,
    Resource,
    Role,
    Session,
    SocketEvent,
)

SECOND = 1_000_000_000
NOW = 100 * SECOND
OFFSET = 1_700_000_000 * SECOND + 42_000_000 - NOW  # at NOW it is 22:13:20.042 UTC

HOST = Host("id", "box", "b" * 32, "6.1.0", "x86_64", 2, 4096)
SESSION = Session(HOST, "agent", "run", "1.2.3", "core", {0: "root", 33: "www-data"}, {0: "root"}, {4026531840: "host"})


def image(*args: bytes, executable: bytes = b"/usr/bin/curl", cwd: bytes = b"/root", flags: int = 0) -> Image:
    """What a process runs, with these arguments."""
    raw = b"".join(arg + b"\0" for arg in args)
    return Image(1, executable, cwd, executable, b"", raw, len(args), len(raw), 8 << 20 | 1, 7, flags)


def process(comm: bytes = b"curl", runs: Image | None = None, uid: int = 0) -> Process:
    """A child of bash 4200 that began a second and a half before NOW."""
    made = Process(4242, NOW - SECOND * 3 // 2, "entity", comm)
    made.uid = uid
    made.clock = OFFSET
    made.image = runs or image(b"curl", b"-s", b"http://x.example/a b")
    made.parent = Parent(4200, 5, "parent", b"bash", b"/usr/bin/bash")
    return made


def socket(kind: Kind, **changes: Any) -> SocketEvent:
    """A socket event of an ordinary connection to 93.184.215.14:443."""
    fields: dict[str, Any] = {
        "kind": kind,
        "time": NOW,
        "late": False,
        "process": process(),
        "tid": 4242,
        "flow": 1,
        "role": Role.CONNECT,
        "local": "10.0.0.1",
        "local_port": 40000,
        "remote": "93.184.215.14",
        "remote_port": 443,
        "ipv6": False,
        "mapped": False,
        "community_id": "1:x",
        "netns": 1,
        "opened": NOW - 12_300_000,
        "established": NOW,
        "sent": 12_345,
        "received": 1_100_000,
        "retransmits": 0,
        "rtt_us": 100,
        "error": 0,
        "backlog": 511,
        "state": TCP_STATES.index("LAST_ACK"),
        "flags": 0,
        "uid": 0,
    }
    return SocketEvent(**(fields | changes))


def executed(runs: Image, kind: Kind = Kind.EXEC, **changes: Any) -> ProcessEvent:
    """An exec of this image."""
    return ProcessEvent(kind, NOW, False, process(runs=runs, **changes), 4242)


def failed(error: int, requested: bytes, *args: bytes) -> ExecFailed:
    """An exec that failed with this errno."""
    raw = b"".join(arg + b"\0" for arg in args)
    return ExecFailed(Kind.EXEC_FAILED, NOW, False, process(b"bash"), 4242, error, requested, raw, 0)


def exited(status: int, flags: int = 0) -> ProcessExited:
    """An exit with this wait(2) status."""
    return ProcessExited(Kind.EXIT, NOW, False, process(), 4242, status, 3_400_000, 3000, flags)


def notice(action: str, **body: Any) -> Notice:
    """A notice with this body."""
    return Notice(action, NOW, "event", body)


KNOWN = Names(
    domain=b"example.org",
    source="dns",
    how="process",
    asked=(b"example.org", b"cdn.example"),
    ambiguous=True,
    protocol="tls",
    hello=True,
    server_name=b"www.example.org",
    offered=(b"h2", b"http/1.1"),
    version=0x0304,
    ech=True,
    cut=True,
    malformed=True,
)
SAID = Names(
    domain=b"example.org",
    source="http",
    protocol="http",
    host=b"example.org",
    method=b"GET",
    http="1.1",
    malformed=True,
)


def answered(**changes: Any) -> Answered:
    """An answer of DNS to an ordinary question."""
    fields: dict[str, Any] = {
        "kind": Kind.PAYLOAD,
        "time": NOW,
        "late": False,
        "process": process(),
        "tid": 0,
        "flow": 5,
        "local": "10.0.0.1",
        "local_port": 40000,
        "remote": "10.0.0.53",
        "remote_port": 53,
        "ipv6": False,
        "community_id": "1:x",
        "netns": 1,
        "transport": "udp",
        "number": 17,
        "protocol": "dns",
        "id": 4711,
        "code": "NOERROR",
        "header_flags": ("RD", "RA"),
        "question": (b"www.example.org", "A", "IN"),
        "answers": (
            Resource(b"www.example.org", "CNAME", "IN", 60, b"example.org"),
            Resource(b"example.org", "A", "IN", 300, b"93.184.215.14"),
        ),
        "addresses": ("93.184.215.14",),
        "cut": False,
        "malformed": False,
    }
    return Answered(**(fields | changes))
