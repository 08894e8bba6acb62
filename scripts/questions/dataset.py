"""Two machines' events of three days, rendered as an agent renders them, and the answers to the ten questions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tracer.formats.ecs import Ecs
from tracer.model import (
    IDS,
    TCP_STATES,
    UNSET_ID,
    Answered,
    Event,
    Flag,
    Host,
    Image,
    Kind,
    Names,
    Notice,
    Parent,
    Process,
    ProcessEvent,
    Role,
    Session,
    SocketEvent,
    entity_id,
)

__all__ = ["write"]

Row = tuple[Any, ...]
SECOND: Final = 1_000_000_000
HOUR: Final = 3600 * SECOND
_EPOCH: Final = 1_700_000_000 * SECOND  # the first moment: 2023-11-14T22:13:20Z
_NEW: Final = 48 * HOUR  # what runs for the first time from here on is new: question 2 has this moment
_SUSPECT: Final = "203.0.113.7"
_DROPPED: Final = "/tmp/.x"  # noqa: S108 - it is never opened
_NAME: Final = b"update.example.org"


class Machine:
    """What happened on one machine, in any order."""

    def __init__(self, name: str, number: int) -> None:
        """``number`` makes its boot id."""
        self.name = name
        self._boot = bytes([number]) * 16
        self._pid = 1000
        self._flow = 0
        self.events: list[Event] = []

    def process(
        self,
        when: int,
        executable: str,
        *args: str,
        parent: Process | None = None,
        uid: int = 0,
        loginuid: int = UNSET_ID,
        flags: int = 0,
        running: bool = False,
    ) -> Process:
        """A process executes a program, or was running before."""
        self._pid += 1
        comm = executable.rsplit("/", 1)[1].encode()[:15]
        made = Process(self._pid, when, entity_id(self._boot, self._pid, when), comm)
        made.uid = uid
        made.clock = _EPOCH
        made.told = IDS.pack(self._pid, uid, uid, uid, uid, loginuid, UNSET_ID, 1, 1, 4026531840, 4026531836)
        made.told += comm.ljust(16, b"\0")
        raw = b"".join(arg.encode() + b"\0" for arg in (executable, *args))
        path = executable.encode()
        made.image = Image(when, path, b"/", path, b"", raw, 1 + len(args), len(raw), 8 << 20 | 1, 7, flags)
        if parent is not None and parent.image is not None:
            of = parent
            made.parent = Parent(of.tgid, of.start, of.entity_id, of.comm, parent.image.executable)
        kind = Kind.PROCESS_FOUND if running else Kind.EXEC
        self.events.append(ProcessEvent(kind, when, False, made, made.tgid))
        return made

    def connection(
        self,
        when: int,
        process: Process,
        address: str,
        port: int,
        moved: tuple[int, int] | None = (100, 1000),
        names: Names | None = None,
    ) -> None:
        """A process connects, and a second later the connection ends; it was refused if it ``moved`` nothing at all."""
        self._flow += 1
        fields: dict[str, Any] = {
            "kind": Kind.CONNECT,
            "time": when,
            "late": False,
            "process": process,
            "tid": process.tgid,
            "flow": self._flow,
            "role": Role.CONNECT,
            "local": "198.51.100.1",
            "local_port": 20_000 + self._flow % 40_000,
            "remote": address,
            "remote_port": port,
            "ipv6": False,
            "mapped": False,
            "community_id": "1:none",
            "netns": 4026531840,
            "opened": when - 1000,
            "established": when if moved else 0,
            "sent": 0,
            "received": 0,
            "retransmits": 0,
            "rtt_us": 100,
            "error": 0 if moved else 111,
            "backlog": 0,
            "state": TCP_STATES.index("SYN_SENT"),
            "flags": 0,
            "uid": process.uid,
            "names": names,
        }
        opened = SocketEvent(**fields)
        self.events.append(opened)
        if moved:
            out, into = moved
            self.events.append(
                opened._replace(
                    kind=Kind.CLOSE,
                    time=when + SECOND,
                    state=TCP_STATES.index("FIN_WAIT2"),
                    sent=out,
                    received=into,
                    moved_out=out,
                    moved_in=into,
                )
            )

    def answer(self, when: int, process: Process, name: bytes, *addresses: str) -> None:
        """A process is sent the answer to a question that it has asked."""
        self.events.append(
            Answered(
                kind=Kind.PAYLOAD,
                time=when,
                late=False,
                process=process,
                tid=0,
                flow=0,
                local="198.51.100.1",
                local_port=40_000,
                remote="198.51.100.53",
                remote_port=53,
                ipv6=False,
                community_id="1:none",
                netns=4026531840,
                transport="udp",
                number=17,
                protocol="dns",
                id=1,
                code="NOERROR",
                header_flags=("RD", "RA"),
                question=(name, "A", "IN"),
                answers=(),
                addresses=addresses,
                cut=False,
                malformed=False,
            )
        )

    def loss(self, when: int, count: int) -> None:
        """Events were lost."""
        body = {"kind": "exec", "stage": "ring", "count": count, "first": when - SECOND, "last": when, "cpus": [0]}
        self.events.append(Notice("tracer-loss", when, "metric", {"loss": body}))

    def write(self, directory: Path) -> None:
        """Its files: one a day, in the order of time."""
        host = Host(self.name, self.name, self._boot.hex(), "6.1.0", "x86_64", 2, 4096)
        form = Ecs(Session(host, self.name, "run", "1", "core", {0: "root"}, {0: "root"}, {4026531840: "host"}))
        self.events.sort(key=lambda event: event.time)
        sequence = 0
        for day in range(3):
            begin, end = day * 24 * HOUR, (day + 1) * 24 * HOUR
            events = [event for event in self.events if begin <= event.time < end]
            lines = form.lines(events, _EPOCH, sequence)
            (directory / f"events-{self.name}-{sequence:020}.jsonl").write_bytes(b"".join(lines))
            sequence += len(events)


def _background(machine: Machine, chance: random.Random) -> None:
    """What happens every day and is the answer to nothing: its connections come at no fixed intervals."""
    init = machine.process(SECOND, "/usr/lib/systemd/systemd", running=True)
    client = machine.process(2 * SECOND, "/usr/bin/client", parent=init, running=True, uid=1000)
    for number in range(211):
        machine.connection(chance.randrange(HOUR, 70 * HOUR), client, f"192.0.2.{1 + number % 7}", 443)
    for _ in range(307):
        machine.process(chance.randrange(HOUR, 71 * HOUR), "/usr/bin/true", parent=init, uid=1000, loginuid=1000)
    machine.process(SECOND, "/usr/bin/true", parent=init)


def _web(machine: Machine, chance: random.Random) -> dict[int, list[Row]]:
    """A web server that was broken into; the rows of the answers to questions 2, 5, 6, 8 and 9 that are from here."""
    init = machine.process(0, "/usr/lib/systemd/systemd", running=True)
    nginx = machine.process(SECOND, "/usr/sbin/nginx", parent=init, running=True, uid=33)
    when = 50 * HOUR
    shells = [machine.process(when + n * SECOND, "/bin/dash", "-c", "id", parent=nginx, uid=33) for n in range(3)]
    for number, shell in enumerate(shells[:2]):
        machine.process(when + number * SECOND + 1000, "/usr/bin/id", parent=shell, uid=33)
    dropped = machine.process(when + 60 * SECOND, _DROPPED, parent=shells[2], uid=33)
    for number in range(5):
        machine.process(when + (70 + number) * SECOND, "/memfd:x", parent=dropped, uid=33, flags=Flag.DELETED)
    known = Names(domain=_NAME, source="dns", how="process", asked=(_NAME,))
    machine.answer(when + 80 * SECOND, dropped, _NAME, "203.0.113.8", "203.0.113.9")
    for number, address in enumerate(("203.0.113.8", "203.0.113.9", "203.0.113.8")):
        machine.connection(when + (81 + number) * SECOND, dropped, address, 443, names=known)
    asker = machine.process(30 * HOUR, "/usr/bin/apt", parent=init, loginuid=1001)
    machine.answer(30 * HOUR + SECOND, asker, _NAME, "203.0.113.8")
    for _ in range(4):
        machine.process(chance.randrange(5 * HOUR, 40 * HOUR), "/usr/bin/passwd", "root", parent=init, loginuid=1001)
    became = [event.time for event in machine.events if isinstance(event, ProcessEvent) and _is(event, "passwd")]
    host, at = machine.name, _EPOCH + when
    return {
        2: [
            ("/bin/dash", at, 3, 1),
            ("/memfd:x", at + 70 * SECOND, 5, 1),
            (_DROPPED, at + 60 * SECOND, 1, 1),
            ("/usr/bin/id", at + 1000, 2, 1),
        ],
        5: [(host, "/bin/dash", _DROPPED, 1), (host, "/bin/dash", "/usr/bin/id", 2)],
        6: [(host, "/memfd:x", "33", 5), (host, _DROPPED, "33", 1)],
        8: [(host, _DROPPED, 1, 2), (host, "/usr/bin/apt", 1, 0)],
        9: [
            (host, 1001, "/usr/bin/apt", "/usr/bin/apt", _EPOCH + 30 * HOUR, 1),
            (host, 1001, "/usr/bin/passwd", "/usr/bin/passwd root", _EPOCH + min(became), 4),
        ],
    }


def _is(event: ProcessEvent, comm: str) -> bool:
    return event.process.comm == comm.encode()


def _database(machine: Machine, chance: random.Random) -> dict[int, list[Row]]:
    """A database server from which data is taken: the rows of the answers to questions 1, 3, 4, 7 and 10."""
    init = machine.process(0, "/usr/lib/systemd/systemd", running=True)
    beacon = machine.process(SECOND, "/usr/bin/updater", parent=init, running=True)
    for number in range(61):
        machine.connection(HOUR + number * 600 * SECOND + chance.randrange(SECOND), beacon, "203.0.113.66", 8443)
    times, sent, received = [], 0, 0
    for number in range(2):
        taker = machine.process(53 * HOUR + number, "/usr/bin/true", parent=init, uid=5)
        for part in range(3):
            when, moved = 53 * HOUR + (1 + number + 10 * part) * SECOND, (1_000_003 + part, 101)
            machine.connection(when, taker, _SUSPECT, 443, moved)
            times += [when, when + SECOND]
            sent, received = sent + moved[0], received + moved[1]
    knocker = machine.process(54 * HOUR, "/usr/bin/true", parent=init)
    for port in range(1, 102):
        machine.connection(54 * HOUR + port * SECOND, knocker, "192.0.2.250", port, None)
    machine.loss(10 * HOUR, 13)
    machine.loss(20 * HOUR, 4)
    host = machine.name
    first, last = _EPOCH + min(times), _EPOCH + max(times)
    return {
        1: [(host, "/usr/bin/true", "5", 443, 2, first, last, sent, received)],
        3: [(host, "/usr/bin/updater", "203.0.113.66", 8443, 60, 600.0, 0.0)],
        4: [(host, "/usr/bin/true", _SUSPECT, sent + received)],
        7: [(host, knocker.entity_id, "/usr/bin/true", 1, 101)],
        10: [(host, 2, 17, _EPOCH + 10 * HOUR, _EPOCH + 20 * HOUR)],
    }


def write(directory: Path) -> dict[int, Sequence[Row]]:
    """Write the files of two machines; the rows of the answer to each question, of 4 the first."""
    chance = random.Random(4242)
    web, database = Machine("web-1", 1), Machine("db-1", 2)
    answers: dict[int, Sequence[Row]] = {**_web(web, chance), **_database(database, chance)}
    for machine in (web, database):
        _background(machine, chance)
        machine.write(directory)
    return answers
