"""Writes recordings of the reference mix: a quarter each of exec with 8 arguments, exit, connect and close.

Each four come from a process of their own. The records have the layouts of bpf/tracer.h and lie in perf records, on the
rings of two CPUs, in turns as a live session reads them: what `tracer live --record` would have written.
"""

from __future__ import annotations

import heapq
import random
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from tracer.model import RING_KINDS, UNSET_ID, Host, Kind, Session
from tracer.pipeline.order import RingRun
from tracer.pipeline.turns import MAGIC, Found, Start, Turn, pack
from tracer.pipeline.view import Filters
from tracer.probes.records import EXEC, EXIT, SIZE, SOCKET, TALLY, UNMOVED

__all__ = ["KINDS", "Mix", "Record", "Rings", "found_at_start", "make", "records", "start_of", "write"]

KINDS: Final = (Kind.EXEC, Kind.CONNECT, Kind.CLOSE, Kind.EXIT)  # as they happen in each process
CPUS: Final = 2
RINGS: Final = 2
READ_MOST: Final = 64 << 10  # bytes of one ring in one turn, as the live loop reads
TALLIES_BYTES: Final = 4096  # the counters come as whole pages
BEGIN_NS: Final = 7_200_000_000_000  # the machine has been up for two hours
OFFSET_NS: Final = 1_767_225_600_000_000_000  # and booted when 2026 began
LEDGER_NS: Final = 10_000_000_000
IDLE_NS: Final = 100_000_000  # a turn comes at least this often
_FIRST_PID: Final = 5_000
_SHELLS: Final = 16
_CGROUP: Final = b"session-3.scope\0user-1000.slice\0user.slice\0"  # of all, from the leaf up
_HOST: Final = ip_address("10.20.30.40"), ip_address("2001:db8:30::40")
_SAMPLE: Final = struct.Struct("=IHHI")  # type, misc, size; then the raw size
_PROGRAMS: Final = (
    *("curl", "git", "python3.11", "ssh", "psql", "node", "wget", "rsync", "redis-cli", "openssl", "java", "ruby3.1"),
    *("apt-get", "gpg", "nc.openbsd", "dig", "perl", "php8.2", "mysql", "kubectl", "aws", "docker", "make", "smtp"),
)
_DIRECTORIES: Final = (
    *("/", "/home/maria/src/shop", "/home/maria/src/shop/frontend", "/srv/www/releases/20260401", "/home"),
    *("/var/lib/postgresql", "/opt/agent/run", "/home/jenkins/workspace/shop-main@2", "/root"),
)
_PORTS: Final = (443, 80, 5432, 6379, 22, 8443, 9200, 3306)


class Mix(NamedTuple):
    """How many events (a multiple of four), and how many of them a second in the record's own time."""

    events: int
    rate: int


class Record(NamedTuple):
    """A record of the probes, at its time (ns), for one ring of one CPU; its number there is not filled in yet."""

    time: int
    cpu: int
    kind: Kind
    data: bytearray

    @property
    def ring(self) -> int:
        """Processes have a ring of their own."""
        return 0 if self.kind in (Kind.EXEC, Kind.EXIT) else 1


class _Process(NamedTuple):
    """One of the mix's processes: its number decides all else, so that each of its records can be made by itself."""

    number: int
    begin: int  # of its exec, ns

    @property
    def pid(self) -> int:
        return _FIRST_PID + self.number

    @property
    def start(self) -> int:
        return self.begin - 310_000

    @property
    def program(self) -> str:
        return _PROGRAMS[self.number * 7 % len(_PROGRAMS)]

    @property
    def uid(self) -> int:
        return (1000, 0, 33, 1000)[self.number % 4]


def _components(path: str) -> bytes:
    """A path as the probe writes it: from the leaf up, each component with its NUL."""
    return b"".join(part.encode() + b"\0" for part in reversed(path.split("/")[1:]) if part)


def _header(process: _Process, time: int, cpu: int, kind: Kind, ring: int) -> tuple[int, ...]:
    return time, 0, process.start, process.pid, process.pid, cpu, kind, ring, 0


def _identity(process: _Process) -> tuple[int | bytes, ...]:
    shell = process.number % _SHELLS
    return (
        *(BEGIN_NS - 60_000_000_000 + shell, 4_242, 1_000 + shell, process.pid),
        *(process.uid,) * 4,
        *(1000, 3, 1_000 + shell, process.pid, 4_026_531_840, 4_026_531_836, process.program[:15].encode()),
    )


def _exec(process: _Process, time: int, cpu: int) -> bytearray:
    number = process.number
    path = f"/usr/bin/{process.program}"
    arguments = (
        *(
            process.program,
            "--silent",
            "--max-time",
            "30",
            f"--header=X-Request-Id: {number * 2654435761 % (1 << 32):08x}",
        ),
        *(
            "--output",
            f"/var/cache/download/{number:07d}.tmp",
            f"https://mirror-{number % 97}.example.net/pool/{number:x}",
        ),
    )
    parts = (
        _components(path),
        _components(_DIRECTORIES[number % len(_DIRECTORIES)]),
        path.encode() + b"\0",
        b"",
        _CGROUP,
        b"".join(argument.encode() + b"\0" for argument in arguments),
    )
    data = bytearray(
        EXEC.pack(
            *_header(process, time, cpu, Kind.EXEC, 0),
            *_identity(process),
            *(131_072 + number * 7 % len(_PROGRAMS), len(parts[-1]), 254 << 20 | 1, len(arguments)),
            *map(len, parts),
            0,
        )
    )
    return data + b"".join(parts)


def _exit(process: _Process, time: int, cpu: int) -> bytearray:
    status = (0, 0, 0, 0x100, 0, 0, 15)[process.number % 7]
    facts = (4_100_000 + process.number % 9_000_000, 2_300 + process.number % 500, status, 0)
    return bytearray(EXIT.pack(*_header(process, time, cpu, Kind.EXIT, 0), *_identity(process), *facts))


def _socket(process: _Process, time: int, cpu: int, kind: Kind) -> bytearray:
    number = process.number
    ipv6 = number % 4 == 3
    remote = ip_address(int(ip_address("2001:db8:99::") if ipv6 else ip_address("198.18.0.0")) + number * 31 % 3_001)
    opened = process.begin + 1_100_000
    closed = kind == Kind.CLOSE
    values = (
        *(0x9E3779B97F4A7C15 * (number + 1) % (1 << 64), opened, opened + 90_000),
        *((517 + number % 3_000, 4_096 + number % 60_000) if closed else (0, 0)),
        *(4_242, number % 50 == 0, 180 + number % 700, 4_026_531_840, process.uid, 0, 0),
        *(32_768 + number % 28_000, _PORTS[number % len(_PORTS)], 10 if ipv6 else 2, 1, 8 if closed else 2, 0),
        *(_HOST[1].packed if ipv6 else _mapped(_HOST[0].packed),),
        *(remote.packed if ipv6 else _mapped(remote.packed), process.program[:15].encode()),
        *UNMOVED,
    )
    return bytearray(SOCKET.pack(*_header(process, time, cpu, kind, 1), *values))


def _mapped(address: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + address


# When, after its exec, and how far that varies, ns.
_WHEN: Final = {
    Kind.EXEC: (0, 1),
    Kind.CONNECT: (1_190_000, 9_000),
    Kind.CLOSE: (3_400_000, 300_000),
    Kind.EXIT: (4_100_000, 70_000),
}


def _stream(mix: Mix, kind: Kind) -> Iterator[tuple[int, int, int]]:
    """(time, what comes first of the same time, process) of one kind, times ascending."""
    step = 4 * 1_000_000_000 // mix.rate
    after, vary = _WHEN[kind]
    chance = random.Random(kind)  # always the same mix
    latest = 0
    for number in range(mix.events // 4):
        latest = max(latest + 1, BEGIN_NS + number * step + after + chance.randrange(min(vary, step)))
        yield latest, KINDS.index(kind), number


def records(mix: Mix) -> Iterator[Record]:
    """The records of the mix in the order in which they happen."""
    step = 4 * 1_000_000_000 // mix.rate
    for time, index, number in heapq.merge(*(_stream(mix, kind) for kind in KINDS)):
        kind = KINDS[index]
        process = _Process(number, BEGIN_NS + number * step)
        cpu = (number + (index > 1 and number % 5 == 0)) % CPUS  # one in five is moved while it waits
        if kind == Kind.EXEC:
            data = _exec(process, time, cpu)
        elif kind == Kind.EXIT:
            data = _exit(process, time, cpu)
        else:
            data = _socket(process, time, cpu, kind)
        yield Record(time, cpu, kind, data)


def _session() -> Session:
    host = Host(
        id="0f0e0d0c0b0a09080706050403020100",
        name="build-17",
        boot_id="5bd54ba7-2f0c-4d8e-9d0b-0a4c6f1e7b21",
        kernel="6.12.48+deb13-cloud-amd64",
        architecture="x86_64",
        cpus=CPUS,
        page_size=4096,
    )
    names = {0: "root", 33: "www-data", 1000: "maria"}
    return Session(
        host=host,
        agent_id="f2c8a740-0a4c-5323-8371-1d0c0b0a0908",
        ephemeral_id="580b8805-fe4d-4688-8710-0e702fd9a0a5",
        version="0.1.0",
        backend="core",
        users=names,
        groups=names,
        namespaces={4_026_531_840: "host"},
    )


def start_of(*, moved: bool = False) -> Start:
    """The beginning of a recording; ``moved``: of one that tells what calls move."""
    session = _session()
    facts = session._asdict() | {"host": session.host._asdict()}
    for who in ("users", "groups", "namespaces"):
        facts[who] = {str(number): name for number, name in facts[who].items()}
    return Start(
        {
            "now": BEGIN_NS - 40_000_000,
            "offset": OFFSET_NS,
            "session": facts,
            "filters": Filters().as_json(),
            "count": None,
            "coverage": {"backend": "core", "snapshot": True, "moved": moved},
            "started": {"uid": 0},
        }
    )


def found_at_start() -> Found:
    """The shells that start everything."""
    frames = []
    for shell in range(_SHELLS):
        path = "/usr/bin/bash"
        parts = _components(path), _components("/home/maria"), path.encode() + b"\0", b"", _CGROUP, b"-bash\0"
        pid, start = 1_000 + shell, BEGIN_NS - 60_000_000_000 + shell
        header = (BEGIN_NS - 30_000_000, 0, start, pid, pid, 0, Kind.PROCESS_FOUND, 0, 0)
        who = (1_000_000_000, 4_242, 900, pid, *(1000,) * 4, UNSET_ID, UNSET_ID, pid, pid, 4_026_531_840, 4_026_531_836)
        facts = (131_000, len(parts[-1]), 254 << 20 | 1, 1, *map(len, parts), 0)
        data = EXEC.pack(*header, *who, b"bash", *facts) + b"".join(parts)
        frames.append(SIZE.pack(len(data)) + data)
    return Found(BEGIN_NS - 20_000_000, OFFSET_NS, b"".join(frames), b"")


class Rings:
    """What the rings hold between two turns, and the kernel's counters."""

    def __init__(self) -> None:
        """Everything empty."""
        self.data = {(cpu, ring): bytearray() for cpu in range(CPUS) for ring in range(RINGS)}
        self.offsets: dict[tuple[int, int], list[int]] = {where: [] for where in self.data}
        self._numbers = dict.fromkeys(self.data, 0)
        self._counts = [[0] * len(RING_KINDS) for _ in range(CPUS)]

    def fits(self, record: Record) -> bool:
        """Whether the record's ring still holds no more than a turn reads."""
        return len(self.data[record.cpu, record.ring]) + len(record.data) + 16 <= READ_MOST

    def add(self, record: Record) -> None:
        """Number the record and write it as perf does: header, size, payload, padded to 8 bytes in all."""
        where = record.cpu, record.ring
        struct.pack_into("=Q", record.data, 8, self._numbers[where])
        self._numbers[where] += 1
        self._counts[record.cpu][record.kind] += 1
        raw = (len(record.data) + 4 + 7) // 8 * 8 - 4
        ring = self.data[where]
        self.offsets[where].append(len(ring) + _SAMPLE.size)
        ring += _SAMPLE.pack(9, 1, raw + _SAMPLE.size, raw)  # PERF_RECORD_SAMPLE, PERF_RECORD_MISC_KERNEL
        ring += record.data
        ring += bytes(raw - len(record.data))

    def tallies(self) -> bytes:
        """The counters as the map holds them: everything attempted was emitted."""
        rows = (TALLY.pack(count, 0, count, *(0,) * 9) for counts in self._counts for count in counts)
        return b"".join(rows).ljust(TALLIES_BYTES, b"\0")

    def turn(self, now: int, *, cut: bool, last: bool) -> Turn:
        """All that is there, as one turn; the rings are empty then."""
        runs = [
            RingRun(cpu, ring, bytes(data), 0, True, self.offsets[cpu, ring])
            for (cpu, ring), data in self.data.items()
            if data
        ]
        for where in self.data:
            self.data[where], self.offsets[where] = bytearray(), []
        return Turn(now, OFFSET_NS, now, runs, self.tallies(), cut, last, {})


def write(mix: Mix, file: BinaryIO) -> None:
    """Write the recording of a mix: start, snapshot, turns, and the last one that closes the ledger."""
    file.write(MAGIC + pack(start_of()) + pack(found_at_start()))
    rings = Rings()
    turned = now = BEGIN_NS
    ledger = BEGIN_NS + LEDGER_NS
    for record in records(mix):
        if not rings.fits(record) or record.time - turned > IDLE_NS:
            cut = now >= ledger
            if cut:
                ledger = now + LEDGER_NS
            file.write(pack(rings.turn(now, cut=cut, last=False)))
            turned = now
        rings.add(record)
        now = record.time + 1
    file.write(pack(rings.turn(now, cut=True, last=True)))


def make(mix: Mix, path: Path) -> Path:
    """Write the recording of a mix into a file."""
    with path.open("wb") as file:
        write(mix, file)
    return path
