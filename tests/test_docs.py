"""The documents agree with the program: events and fields as rendered, options, exit codes, actions, paths, links."""

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.formats.events import (
    KNOWN,
    NOW,
    OFFSET,
    SAID,
    SECOND,
    SESSION,
    answered,
    executed,
    failed,
    image,
    process,
    socket,
)
from tests.formats.test_places import ASN, CITY
from tracer.cli import facts, session
from tracer.cli.coverage import coverage_record
from tracer.cli.errors import Exit
from tracer.cli.reload import CHANGEABLE
from tracer.cli.sandbox import Mode, Sandbox
from tracer.confine.apply import Applied
from tracer.confine.plan import Layer, Plan, State, Verdict
from tracer.formats.ecs import Ecs
from tracer.formats.places import Places
from tracer.formats.redact import Redactor
from tracer.formats.shorten import LINE_MOST
from tracer.integrity.chain import BEGIN, END, Chain, Tail
from tracer.integrity.keys import make_keys
from tracer.model import (
    IDS,
    RING_KINDS,
    TCP_STATES,
    Cgroup,
    Event,
    Flag,
    Ids,
    Kind,
    Merged,
    Notice,
    ProcessEvent,
    ProcessExited,
    Role,
)
from tracer.names import recognise, tls
from tracer.pipeline import aggregate, cgroups, flood, flows, names, naming, order, processes
from tracer.pipeline.engine import Engine, _wire_notice
from tracer.pipeline.ledger import Ledger, Loss
from tracer.pipeline.turns import Collapsed, DeviceTotals
from tracer.pipeline.view import Filters
from tracer.probes.records import COUNTED, Tally
from tracer.probes.source import Coverage
from tracer.probes.wire import SORTS
from tracer.sinks.output import QUEUE_MOST

ROOT = Path(__file__).parent.parent
EVENTS = ROOT / "docs/events.md"
LIVE = ROOT / "docs/live.md"
EXPORT = ROOT / "docs/export.md"
PID = ROOT / "docs/pid.md"
VERIFY = ROOT / "docs/verify.md"
HISTORY = ROOT / "docs/history.md"
README = ROOT / "README.md"
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])

ESTABLISHED, LISTEN, SYN_SENT = map(TCP_STATES.index, ("ESTABLISHED", "LISTEN", "SYN_SENT"))
# Where the machine, not the program, chooses the names of members: what stands for them in the document.
PLACEHOLDERS = {
    "tracer.raw": "<field>",
    "tracer.coverage.hooks": "<program>",
    "tracer.coverage.refused": "<program>",
    "tracer.coverage.steps_down": "<backend>",
    "tracer.coverage.buffer": "<ring>",
    "tracer.loss.causes": "<cause>",
    "tracer.confinement.layers": "<layer>",
    "tracer.confinement.reasons": "<layer>",
    "tracer.confinement.broker.layers": "<layer>",
    "tracer.confinement.opener.layers": "<layer>",
    "tracer.confinement.stats.layers": "<layer>",
    "tracer.confinement.descriptors": "<kind>",
    "tracer.confinement.tries": "<try>",
    "tracer.wire.out.ownerless": "<sort>",
    "tracer.wire.in.ownerless": "<sort>",
    "tracer.ledger.by_kind": "<kind>",
    "tracer.ledger.missed.programs": "<name>",
    "tracer.ledger.missed.map_full": "<kind>",
    "tracer.segment.marks": "<bytes>",
}
TYPES = {
    "keyword": lambda value: isinstance(value, str),
    "wildcard": lambda value: isinstance(value, str),
    "long": lambda value: type(value) is int,
    "boolean": lambda value: type(value) is bool,
    "geo_point": lambda value: [type(value[name]) for name in ("lon", "lat")] == [float, float] and len(value) == 2,
    "date": lambda value: datetime.fromisoformat(value).utcoffset() is not None,
    "ip": lambda value: bool(ip_address(value)),
}

# Places that a document may name by an absolute path; any other is a path of somebody's machine.
SYSTEM_PATHS = re.compile(r"/(bin|dev|etc|lib|proc|run|srv|sys|tmp|usr|var)(/|$)|/nonexistent/|/(execve|listen)$")


def ledger() -> dict[str, Any]:
    """The body of a ledger in which everything that can be there is."""
    book = Ledger()
    book.gaps = 1
    book.delivered[Kind.EXEC] = 1
    book._tallies = [[Tally(*[1] * len(Tally._fields)) for _ in RING_KINDS]]
    return book.statement(
        in_flight=Counter(),
        undecodable=Counter(),
        missing=0,
        missed={"process_exec": 1},
        evicted={"processes": 1},
        final=True,
        uncounted=["what lives between two looks"],
        moved={"moved": 5, "flows": 1, "unplaced": 1, "filtered": 1, "lost": 2, "balanced": True},
    )


def confinement() -> dict[str, Any]:
    """A confinement record in which everything that can be there is."""
    sandbox = Sandbox(Mode.BEST, Plan())
    sandbox._is_proven()
    verdicts = dict.fromkeys(Layer, Verdict(State.ENFORCED, "a remark"))
    record = sandbox._record(Applied(verdicts, 6), {"execve": "EPERM"}, {"file": 1}, strict=True)
    broker = {"enabled": True, "layers": {"seccomp": "enforced"}, "capabilities": ["CAP_SYS_PTRACE"]}
    return record | {"capabilities": ["CAP_KILL"], "broker": broker, "opener": broker, "stats": broker}


def floods() -> Iterator[Event]:
    """Storms that were collapsed, in which everything that can be told is."""
    engine = Engine(str(SESSION.host.boot_id), Filters())
    known = process()
    known.within = Cgroup(b"/a", 2, b"", b"", b"", b"", "", (), "")
    engine.processes._living[known.tgid] = known
    engine.processes._cgroups._by_id[5] = known.within
    assert known.image is not None
    exe = known.image.inode, known.start, known.image.dev
    counts = [
        COUNTED.pack(0, NOW, NOW + SECOND, 7, 1, 5, *exe, 0, Kind.EXEC, 0, 1, known.tgid, b"sh"),
        COUNTED.pack(flood.FLOODS, NOW, NOW + SECOND, 3, 0, 0, 0, 0, 0, 0, Kind.EXEC, 0, 1, 0, b""),
    ]
    yield from engine.feed(Collapsed(NOW, b"".join(counts), b""))


def notices() -> Iterator[Event]:
    """One of each thing that the tracer says of itself, with all members that it can have."""
    hooks = {"process_exec": "tp_btf/sched_process_exec", "exit_accept4": "tp/syscalls/sys_exit_accept4"}
    refused = {"exit_accept": "no access to tracefs"}
    rings = {"lifecycle": 4096, "bulk": 4096}
    # A pid that is not this process's own is what another pid namespace looks like.
    found = Coverage("core", hooks, refused, ["sockets other than TCP"], [4242], os.getpid() + 1, rings)
    found = found._replace(compiled={"by": "BCC 0.26.0", "cached": True, "milliseconds": 4})
    found = found._replace(uncounted=("what lives between two looks",), fix="run it with sudo")
    found = found._replace(moved=True, flood=50_000, polling={"shortest_ms": 20, "longest_ms": 250})
    one = frozenset({1})
    filters = Filters(frozenset(Kind), one, True, ["a*"], ["/usr/*"], one, one, ["10.0.0.0/8"], one)
    coverage = coverage_record(found, filters, {"core": "no BTF"}, snapshot=True)
    started = facts.started() | {"loginuid": 1000, "sudo_uid": 1000, "terminal": "/dev/pts/0"}
    loss = Loss("exec", "emit", 3, NOW, NOW + SECOND, [0], {"no_space": 3})
    yield Notice("tracer-coverage", NOW, "state", {"coverage": coverage})
    yield Notice("tracer-session-start", NOW, "event", {"session": started})
    yield Notice("tracer-confinement", NOW, "state", {"confinement": confinement()})
    yield Engine._loss_notice(loss, NOW)
    change = {"state": "restarted", "backend": "netlink", "reasons": ["overrun"], "first": NOW, "last": NOW + SECOND}
    yield Notice("tracer-backend", NOW, "event", {"change": change})
    gap = {"reason": "killed", "exact": False, "first": NOW, "last": NOW + SECOND, "sequence": 7, "reboot": True}
    yield Notice("tracer-gap", NOW, "event", {"gap": {**gap, "bytes": 9}})
    yield Notice("tracer-config", NOW, "event", {"config": {"changed": ["event"], "refused": ["buffer"]}})
    yield from floods()
    sorts = [1] * len(SORTS)
    yield _wire_notice(NOW, DeviceTotals(4026531840, 2, "eth0", sorts, sorts, [0, 0], [9, 9]))
    yield Notice("tracer-ledger", NOW, "metric", {"ledger": ledger()})
    yield Notice("tracer-bundle", NOW, "state", {"bundle": bundle()})
    yield from segments()


def bundle() -> dict[str, Any]:
    """A bundle of `tracer pid` in which everything that can be there is, but that children have children."""
    odd = process(b"sh", image(b"sh", executable=b"/bin/sh"))
    odd.told = IDS.pack(*Ids(7, 0, 0, 33, 33, 1000, 3, 1, 2, 4026531840, 4026531836))
    event = ProcessEvent(Kind.PROCESS_FOUND, NOW, False, odd, 4242)
    told = json.loads(Ecs(SESSION).render(event, OFFSET, 0))["process"]
    told.pop("thread")
    person = {key: told[key] for key in ("pid", "entity_id", "start", "name", "executable")}
    names = ["CAP_KILL"]
    tcp: dict[str, Any] = {
        "family": "ipv4",
        "transport": "tcp",
        "state": "ESTABLISHED",
        "local": {"ip": "127.0.0.1", "port": 80},
    }
    tcp |= {"fd": 3, "inode": 5}
    listens = {**tcp, "waiting": 0, "backlog": 128, "path": "/run/a"}
    tcp |= {"peer": {"ip": "::1", "port": 443}, "sent": 1, "received": 1}
    return {
        "version": 1,
        "made": told["start"],
        "target": {"pid": 7, "entity_id": told["entity_id"], "asked": "sh"},
        "state": "sleeping",
        "kernel_thread": True,
        "ended": True,
        "mixed": True,
        "denied": ["files"],
        "process": told,
        "lineage": [person],
        "login": {"uid": 1000, "audit_session": 3, "terminal": "/dev/pts/0"},
        "executable": {
            "path": "/bin/sh",
            "device": "8:1",
            "inode": 5,
            "size": 1,
            "deleted": False,
            "memfd": False,
            "sha256": "0" * 64,
            "package": {"name": "dash", "version": "0.5.12-2", "manager": "dpkg"},
        },
        "working_directory": "/",
        "environment": {"names": ["HOME"], "values": {"<name>": "/root"}, "overwritten": 1, "cut": 1},
        "capabilities": dict.fromkeys(("effective", "permitted", "inheritable", "bounding", "ambient"), names),
        "seccomp": {"mode": "filter", "filters": 1},
        "no_new_privileges": True,
        "lsm_label": "unconfined",
        "namespaces": {"<kind>": {"inode": 4026531840, "differs": False}},
        "cgroup": {
            "path": "/a",
            "version": 2,
            "slice": "a.slice",
            "unit": "b.service",
            "user_unit": "c.scope",
            "container": {"id": "id", "runtime": "lxc"},
            "pod": "uid",
        },
        "limits": {"<name>": [1024, -1]},
        "memory": {"rss": 1, "pss": 1, "swap": 0},
        "threads": 1,
        "files": {
            "counts": {"<kind>": 1},
            "open": [{"fd": 0, "kind": "regular", "path": "/a", "deleted": True, "flags": ["O_RDWR"], "position": 0}],
            "cut": 1,
        },
        "sockets": [tcp, {"fd": 4, "inode": 6, "family": "unix", "transport": "stream", "path": "@a", "peer_inode": 7}],
        "listeners": [listens],
        "sockets_cut": 1,
        "mappings": [{"range": "1-2", "perms": "rwxp", "path": "/a", "deleted": True, "reason": "deleted"}],
        "children": [{**person, "args": ["sh"]}],
        "children_cut": 1,
        "past": {
            "files": 2,
            "lines": 1_000_000,
            "unreadable": 1,
            "first": told["start"],
            "last": told["start"],
            "processes": 7,
            "events": 101,
            "begins_before": True,
            "complete": False,
        },
    }


def segments() -> Iterator[Event]:
    """The first and the last record of a segment, signed and not, with all members that they can have."""
    with TemporaryDirectory() as directory:
        make_keys(Path(directory, "key"))
        before = Tail("ab" * 16, 3, "cd" * 32, 1000, ended=False, torn=7, sequence=12)
        for chain in (Chain(before, Path(directory, "key")), Chain()):
            yield Notice(BEGIN, NOW, "state", chain.first())
            chain.feed(bytes(1 << 16) + b"\n")
            yield Notice(END, NOW, "state", chain.last())


def events() -> Iterator[Event]:
    """Events of every action, and between them every field that a line can have."""
    odd = b"n\xe9"
    runs = image(b"sh", odd, executable=b"/bin/\xe9", flags=int(Flag.SCRIPT | Flag.TRUNCATED_ARGS | Flag.DELETED))
    script = runs._replace(requested=b"./\xe9", interpreter=b"/bin/sh")
    everything = process(odd, script)
    everything.told = IDS.pack(*Ids(7, 0, 0, 33, 33, 1000, 3, 1, 2, 4026531840, 4026531836))
    everything.cgroup = 5
    everything.within = Cgroup(b"/\xe9", 1, b"a.slice", b"b.scope", b"c.scope", b"id", "lxc", (b"outer",), "uid")
    yield ProcessEvent(Kind.EXEC, NOW, True, everything, 4242)
    yield executed(script, Kind.FORK)
    yield executed(image(b"sh", b"--password", b"x"))
    yield executed(script, Kind.PROCESS_FOUND)
    yield failed(2, b"./\xe9", b"./\xe9", odd)._replace(flags=int(Flag.TRUNCATED_FILE | Flag.TRUNCATED_ARGS))
    yield failed(0, b"./x")._replace(flags=int(Flag.SECCOMP_KILLED))
    yield ProcessExited(Kind.EXIT, NOW, False, everything, 4242, 0x8B, 1, 1, int(Flag.CORE))
    yield ProcessExited(Kind.EXIT, NOW, False, process(), 4242, 0, 1, 1, 0)
    yield socket(Kind.CONNECT, state=SYN_SENT, mapped=True)
    datagrams = {"transport": "udp", "protocol": 17, "socket": 5, "role": Role.SENT}
    moved = {"moved_out": 7, "moved_in": 11, "calls_out": 1, "calls_in": 3, "via": 31}
    yield socket(Kind.FLOW, **datagrams)
    yield socket(Kind.UPDATE, **datagrams, **moved)
    yield socket(Kind.FLOW_END, **datagrams, **moved)
    yield socket(Kind.OWNER)
    yield socket(Kind.TAIL, **moved)
    merged = Merged(23, NOW - SECOND, NOW, 5, everything)
    yield socket(Kind.AGGREGATE, merged=merged, process=None, remote_port=0, **moved)
    yield socket(Kind.AGGREGATE, merged=merged, error=111)
    yield socket(Kind.CLOSE, names=KNOWN)
    yield socket(Kind.CLOSE, names=SAID)
    yield answered()
    yield answered(code="NXDOMAIN", malformed=True)
    yield ProcessExited(Kind.EXIT, NOW, False, process(), 4242, 0, 0, 0, int(Flag.NO_STATUS | Flag.APPROXIMATE))
    yield socket(Kind.CONNECT, state=SYN_SENT, error=111)
    yield socket(Kind.CLOSE, marks=int(Flag.BY_INODE | Flag.NO_TOTALS))
    yield socket(Kind.ATTEMPT, state=SYN_SENT)
    yield socket(Kind.ACCEPT, role=Role.ACCEPT)
    yield socket(Kind.LISTEN, role=Role.LISTEN)
    yield socket(Kind.CLOSE)
    yield socket(Kind.CLOSE, error=104, process=None)
    yield socket(Kind.SOCKET_FOUND, role=Role.NONE, state=ESTABLISHED)
    yield socket(Kind.SOCKET_FOUND, role=Role.LISTEN, state=LISTEN)
    yield from notices()


@cache
def rendered() -> list[dict[str, Any]]:
    """The events as a reader of the stream has them."""
    form = Ecs(SESSION, Redactor(), places=Places([lambda _: {**CITY, **ASN}]))
    return [json.loads(form.render(event, OFFSET, number)) for number, event in enumerate(events())]


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every field of a document, as the document of events names it, and its value; a list is one field."""
    if isinstance(value, dict) and not path.endswith("geo.location"):
        placeholder = PLACEHOLDERS.get(path)
        for name, part in value.items():
            yield from leaves(part, f"{path}.{placeholder or name}".removeprefix("."))
    elif isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        for part in value:
            yield from leaves(part, path)
    else:
        yield path, value


def rows(text: str, first: str) -> Iterator[list[str]]:
    """The rows, as cells, of every table whose first column has this title."""
    inside = False
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if not line.startswith("|"):
            inside = False
        elif cells[0] == first:
            inside = True
        elif inside and not cells[0].startswith("--"):
            yield cells


@cache
def documented_fields() -> dict[str, str]:
    """Field -> type, from the tables of docs/events.md."""
    found: dict[str, str] = {}
    for field, kind, *_ in rows(EVENTS.read_text(), "field"):
        name = field.strip("`")
        assert name not in found, f"{name} is described twice"
        found[name] = kind
    return found


def test_every_field_is_documented() -> None:
    """Each field that occurs in a line has a row in docs/events.md, and each row describes a field that occurs."""
    occurring = {path for line in rendered() for path, _ in leaves(line)}
    assert len(occurring) > 100
    assert occurring - set(documented_fields()) == set(), "not in docs/events.md"
    assert set(documented_fields()) - occurring == set(), "in docs/events.md, but in no event"


def test_types_are_as_documented() -> None:
    """Every value is of the type that its row tells, and a list where the row says so."""
    for line in rendered():
        for path, value in leaves(line):
            name, _, more = documented_fields()[path].partition(" ")
            assert isinstance(value, list) is (more == "array"), path
            for each in value if isinstance(value, list) else [value]:
                assert TYPES[name](each), (path, each)


def test_actions_are_documented() -> None:
    """The table of events has just the actions that occur, each with its kind, categories, types and outcomes."""
    told: dict[str, list[tuple[str, list[str], list[str], list[str]]]] = {}
    for action, *cells in rows(EVENTS.read_text(), "action"):
        kind, category, types, outcomes = ([word for word in cell.split(", ") if word != "-"] for cell in cells[:4])
        told.setdefault(action.strip("`"), []).append((kind[0], category, types, outcomes))
    seen = set()
    for line in rendered():
        event = line["event"]
        seen.add(event["action"])
        fitting = [
            True
            for kind, category, types, outcomes in told.get(event["action"], ())
            if (kind, category, types) == (event["kind"], event.get("category", []), event.get("type", []))
            and (event.get("outcome") in outcomes if outcomes else "outcome" not in event)
        ]
        assert len(fitting) == 1, event
    assert set(told) == seen


def test_no_action_is_left_out_here() -> None:
    """Every action that is written anywhere in the program is among the events of this test."""
    pattern = re.compile(r'"((?:process|connection|socket|dns|tracer)-[a-z-]+)"')
    written = {action for path in (ROOT / "tracer").rglob("*.py") for action in pattern.findall(path.read_text())}
    assert written == {line["event"]["action"] for line in rendered()}


@cache
def help_of(command: str) -> str:
    """What `tracer COMMAND --help` prints on a wide terminal."""
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"}
    run = [sys.executable, "-m", "tracer", command, "--help"]
    return subprocess.run(run, capture_output=True, text=True, check=True, env=environment, cwd=ROOT).stdout


def options_in(text: str) -> set[str]:
    """The long options that a text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))


def test_options_of_live_are_documented() -> None:
    """docs/live.md has a row for each option of `tracer live`, and for no other."""
    told = {option for cells in rows(LIVE.read_text(), "option") for option in options_in(cells[0])}
    offered = options_in(help_of("live").partition("Options:")[2]) - {"--help"}
    assert "--pid" in offered
    assert told == offered


def test_options_of_export_are_documented() -> None:
    """docs/export.md has a row for each option of `tracer export`, and for no other."""
    told = {option for cells in rows(EXPORT.read_text(), "option") for option in options_in(cells[0])}
    offered = options_in(help_of("export").partition("Options:")[2]) - {"--help"}
    assert "--rotate-size" in offered
    assert told == offered


def test_what_sighup_changes_is_documented() -> None:
    """docs/export.md lists the settings that SIGHUP changes, and no others."""
    (told,) = re.findall(r"SIGHUP changes\n?((?:[\s,]|and|`[a-z_]+`)+)", EXPORT.read_text())
    assert set(re.findall(r"`([a-z_]+)`", told)) == CHANGEABLE


def test_options_of_pid_are_documented() -> None:
    """docs/pid.md has a row for each option of `tracer pid`, and for no other."""
    told = {option for cells in rows(PID.read_text(), "option") for option in options_in(cells[0])}
    offered = options_in(help_of("pid").partition("Options:")[2]) - {"--help"}
    assert "--show-env" in offered
    assert told == offered


@pytest.mark.parametrize("command", ["replay", "doctor", "verify", "explain"])
def test_options_of_other_commands_are_documented(command: str) -> None:
    """The README, docs/live.md, docs/verify.md or docs/history.md names the command and each of its options."""
    text = README.read_text() + LIVE.read_text() + VERIFY.read_text() + HISTORY.read_text()
    offered = options_in(help_of(command)) - {"--help"}
    assert f"tracer {command}" in text
    assert offered
    assert offered <= options_in(text)


def test_readme_names_only_options_that_are_there() -> None:
    """What the README passes to `tracer` in its examples is an option of one of the commands."""
    commands = {name: options_in(help_of(name)) for name in ("live", "export", "replay", "doctor", "pid")}
    found = 0
    for line in README.read_text().splitlines():
        called = re.search(
            r"\btracer (live|export|replay|doctor|pid)( .*)?$", line.partition("  #")[0].partition("|")[0]
        )
        if called and not line.startswith("-"):
            found += 1
            assert options_in(called[2] or "") <= commands[called[1]] | {"--help"}, line
    assert found > 5


@pytest.mark.parametrize("path", [README, LIVE], ids=lambda path: str(path.name))
def test_exit_codes_are_documented(path: Path) -> None:
    """The table of exit codes has every code of the program, and 130 for an interrupt."""
    told = [int(cells[0]) for cells in rows(path.read_text(), "code")]
    assert told == [*sorted(Exit), 130]


def c_constant(name: str, path: str = "bpf/tracer.h") -> int:
    """The number that a C file defines under a name, or gives a map as its most entries."""
    text = (ROOT / path).read_text()
    found = re.search(rf"^#define {name}\s+(\d+)", text, re.MULTILINE) or re.search(
        rf"max_entries, (\d+)\);[^}}]*\}} {name} ", text
    )
    assert found, name
    return int(found[1])


def test_limits_are_documented() -> None:
    """docs/design.md has the numbers that bound memory and fields, and docs/events.md those that a reader meets."""
    cells = list(rows((ROOT / "docs/design.md").read_text(), "what"))
    told = [int(found[0].replace(",", "")) for _, cell in cells if (found := re.findall(r"[\d,]+", cell))]
    cuts = [c_constant(name) for name in ("PATH_DEPTH", "PATH_BYTES", "ARGS_BYTES", "FILE_BYTES")]
    cuts += [c_constant(name) for name in ("CGROUP_DEPTH", "CGROUP_BYTES")]
    tables = [processes.LIVING_MOST, processes.EXITED_MOST, flows.FLOWS_MOST, cgroups.KNOWN_MOST]
    tables.append(c_constant("sockets", "bpf/socket.bpf.h"))
    bounds = [c_constant("OVERFLOW_BYTES", "bpf/common.bpf.h"), c_constant("DEVICES")]
    bounds += [c_constant("budgets_left", "bpf/flood.bpf.h"), c_constant("FLOODS"), aggregate.PENDING_MOST]
    named = [recognise.FLOWS_MOST, naming.WAITING_MOST, names.ADDRESSES_MOST, names.OF_PROCESS_MOST, tls.NAME_MOST]
    assert told == [*tables, QUEUE_MOST, LINE_MOST, *cuts, *named, *bounds]
    assert f"and {aggregate.GROUPS_MOST:,} |" in (ROOT / "docs/design.md").read_text()
    assert f"{recognise.KEPT_MOST:,} bytes" in (ROOT / "docs/design.md").read_text()
    text = " ".join(EVENTS.read_text().split())
    for number in (LINE_MOST, *cuts[1:4], cuts[5], c_constant("FAILED_ARGS") - 1):
        assert f"{number:,} " in text, number


def test_times_are_documented() -> None:
    """docs/design.md has the times that decide when a line comes."""
    text = " ".join((ROOT / "docs/design.md").read_text().split())
    assert f"older than T less {order.SLACK_NS // 1_000_000} ms" in text
    assert f"after {session._HOLDING_MS:.0f} ms while it holds records back" in text
    assert f"after {session._IDLE_MS:.0f} ms when idle" in text
    assert f"A ledger comes every {session.LEDGER_NS // SECOND} seconds" in text
    assert f"kept for {processes.GRACE_NS // SECOND} s" in text


def test_documents_are_found() -> None:
    """The documents that these tests read are there."""
    names = {path.relative_to(ROOT).as_posix() for path in DOCUMENTS}
    assert {
        "README.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "docs/design.md",
        "docs/bytes.md",
        "docs/events.md",
        "docs/live.md",
    } <= names


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.name))
def test_no_path_of_a_machine(path: Path) -> None:
    """Every absolute path in a document is one that any Linux system has."""
    text = re.sub(r"https?://\S+", "", path.read_text())
    named = re.findall(r"(?<![\w.…:@*/\]>)}`-])(?<!\w`)/[A-Za-z][\w.-]*(?:/[\w.*-]+)*", text)
    named += re.findall(r"`(/[A-Za-z][\w.-]*(?:/[\w.*-]+)*)", text)
    assert [name for name in named if not SYSTEM_PATHS.match(name)] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.name))
def test_links_lead_somewhere(path: Path) -> None:
    """A relative link names a file of the project, and a heading in it where it has an anchor."""
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        place = path.parent / name if name else path
        assert place.is_file(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", place.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}, target


def test_readme_is_the_package_description() -> None:
    """The README has a place for the benchmark's table, once, and its sample is a stream that ends with the ledger."""
    text = README.read_text()
    assert len(re.findall(r"<!-- bench:begin -->\n(?s:.+)\n<!-- bench:end -->", text)) == 1
    sample = text.partition("```text\n")[2].partition("\n```")[0].splitlines()
    assert sample[0].split() == ["TIME", "PID", "USER", "NAME", "EVENT", "DETAIL"]
    assert " ledger: " in sample[-1]
    assert max(map(len, sample)) <= 100


if __name__ == "__main__":
    for each in rendered():
        print(json.dumps({name: part for name, part in each.items() if name not in {"host", "agent", "ecs"}}))
