"""Compares the tracer's ECS output with the generator's truth: recall, precision and the ledger."""

import json
import struct
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

# event.action -> the kind it counts as; any other action that names a process of the generator is an extra record.
KINDS = {
    "process-executed": "exec",
    "connection-opened": "connect",
    "process-exited": "exit",
    "socket-listening": "listen",
    "connection-accepted": "accept",
    "connection-closed": "close",
}
LOOPBACK = "127.0.0.1"


class TruthError(Exception):
    """The truth file is not what the generator writes when all went well: nothing can be measured against it."""


class Identity(NamedTuple):
    """One process as every record about it has to name it; `netns` is the network namespace's inode."""

    pid: int
    parent: int
    entity: str
    exe: str
    netns: int


class Fact(NamedTuple):
    """One record that must come exactly once: its kind, whose it is, and what belongs to this kind alone.

    That is argv for an exec, the code for an exit, and direction and ends for a connection; argv of the others is
    that of the exec with the same entity id.
    """

    kind: str
    process: Identity
    detail: tuple[str | int, ...]


class Row(NamedTuple):
    """One line of the table, all of it counts of records."""

    kind: str
    expected: int
    seen: int
    matched: int

    @property
    def recall(self) -> float:
        """The share of the expected records that came, 0 to 1."""
        return self.matched / self.expected if self.expected else 1.0

    @property
    def precision(self) -> float:
        """The share of the records seen that were expected, 0 to 1."""
        return self.matched / self.seen if self.seen else 1.0

    @property
    def exact(self) -> bool:
        """Whether both are exactly 1."""
        return self.expected == self.matched == self.seen


@dataclass(frozen=True)
class Truth:
    """What the generator did: the facts it stands for, and what tells a record of its processes from any other."""

    facts: Counter[Fact]
    clients: dict[str, int]  # how many, by side
    directory: str  # where the generator's programs are
    pids: frozenset[int]  # the root and the workers, alive throughout
    namespaces: frozenset[int]  # made by the generator: nobody else is in them


class Comparison(NamedTuple):
    """The outcome: the table with its `overall` row last, both kinds of mistakes, and what the ledger said."""

    rows: list[Row]
    missing: Counter[Fact]
    extra: Counter[Fact]
    clients: dict[str, int]  # how many ran, by side
    events: int  # everything the tracer wrote but its snapshot and its own records
    ledger: dict[str, Any]
    problems: list[str]

    @property
    def passed(self) -> bool:
        """Whether every expected record came once, nothing else did, and the ledger balances with nothing lost."""
        return self.rows[-1].exact and not self.problems


def entity_id(boot: str, pid: int, start: int) -> str:
    """A process's entity id as the documentation of the events defines it; `start` is in clock ticks since boot.

    Computed here a second time, because the tracer's own function is part of what is measured.
    """
    return b64encode(blake2b(struct.pack("<16sIQ", UUID(boot).bytes, pid, start), digest_size=16).digest()).decode()


def load_truth(path: Path, processes: int, boot: str) -> Truth:
    """Reads the generator's file and derives from it every record that has to come; `boot` is the boot id, a UUID.

    Raises TruthError unless it holds exactly `processes` clients on the main side, each with a port of its own, and
    every client's parent.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    identities = [_identity_of(line, boot) for line in lines]
    parents = {line["pid"]: who for line, who in zip(lines, identities, strict=True) if line["role"] != "client"}
    facts: Counter[Fact] = Counter()
    clients: Counter[str] = Counter()
    ports: set[int] = set()
    directories: set[str] = set()
    for line, who in zip(lines, identities, strict=True):
        directories.add(str(Path(who.exe).parent))
        facts[Fact("exit", who, (line["exit_code"],))] += 1
        if line["role"] != "worker":  # workers are forked and never execute anything
            facts[Fact("exec", who, tuple(line["argv"]))] += 1
        if line["role"] == "client":
            if who.parent not in parents:
                raise TruthError(f"the truth has no line for pid {who.parent}, the parent of client {who.pid}")
            clients[line["side"]] += 1
            if line["side"] == "main":
                ports.add(line["port"])
            facts.update(_connection_facts(who, parents[who.parent], line["local_port"], line["port"]))
    if clients["main"] != processes or len(ports) != processes:
        raise TruthError(f"the truth has {clients['main']} main clients on {len(ports)} ports instead of {processes}")
    if len(directories) != 1:
        raise TruthError(f"the generator's programs lie in {len(directories)} directories instead of one")
    home = {line["netns"] for line in lines if line["role"] == "root"}
    namespaces = frozenset(line["netns"] for line in lines) - home
    return Truth(facts, dict(clients), directories.pop(), frozenset(parents), namespaces)


def _identity_of(line: dict[str, Any], boot: str) -> Identity:
    entity = entity_id(boot, line["pid"], line["start"])
    return Identity(line["pid"], line["ppid"], entity, line["exe"], line["netns"])


def _connection_facts(client: Identity, server: Identity, local_port: int, port: int) -> Iterator[Fact]:
    ends = (LOOPBACK, local_port, LOOPBACK, port)
    yield Fact("connect", client, ("egress", *ends))
    yield Fact("close", client, ("egress", *ends))
    yield Fact("listen", server, (LOOPBACK, port))
    yield Fact("accept", server, ("ingress", *ends))
    yield Fact("close", server, ("ingress", *ends))


def observed_fact(event: dict[str, Any]) -> Fact:
    """What one ECS record claims, as a fact; whatever it does not say is 0 or empty and so matches nothing."""
    process = event.get("process", {})
    who = Identity(
        process.get("pid", 0),
        process.get("parent", {}).get("pid", 0),
        process.get("entity_id", ""),
        process.get("executable", ""),
        event.get("tracer", {}).get("netns", 0),
    )
    action = event["event"]["action"]
    kind = KINDS.get(action, action)
    detail: tuple[str | int, ...] = ()
    if kind == "exec":
        detail = tuple(process.get("args", ()))
    elif kind == "exit":
        detail = (process.get("exit_code", -1),)
    elif kind == "listen":
        detail = _endpoint(event, "server")
    elif kind in {"connect", "accept", "close"}:
        direction = event.get("network", {}).get("direction", "")
        detail = (direction, *_endpoint(event, "source"), *_endpoint(event, "destination"))
    return Fact(kind, who, detail)


def _endpoint(event: dict[str, Any], side: str) -> tuple[str, int]:
    end = event.get(side, {})
    return end.get("ip", ""), end.get("port", 0)


def names_generator(fact: Fact, event: dict[str, Any], truth: Truth) -> bool:
    """Whether a record is about the generator at all: by program, by parentage or by network namespace."""
    who = fact.process
    parent_exe = event.get("process", {}).get("parent", {}).get("executable", "")
    return (
        who.netns in truth.namespaces
        or who.pid in truth.pids
        or who.parent in truth.pids
        or any(Path(exe).parent == Path(truth.directory) for exe in (who.exe, parent_exe) if exe)
    )


def compare(lines: Iterable[bytes], truth: Truth) -> Comparison:
    """Counts what came against what had to come. `lines` is the tracer's whole output, one JSON object each.

    Records about the generator that match no fact count against precision, records that are absent, against recall.
    A record with one wrong field is both.
    """
    seen: Counter[Fact] = Counter()
    last: dict[str, Any] = {}
    events = 0
    for line in lines:
        last = json.loads(line)
        if last["event"]["kind"] != "event":
            continue
        events += 1
        fact = observed_fact(last)
        if names_generator(fact, last, truth):
            seen[fact] += 1
    matched = truth.facts & seen
    tallies = [_by_kind(facts) for facts in (truth.facts, seen, matched)]
    kinds = [*KINDS.values(), *sorted(tallies[1].keys() - set(KINDS.values()))]
    rows = [Row(kind, *(tally[kind] for tally in tallies)) for kind in kinds]
    rows.append(Row("overall", *(tally.total() for tally in tallies)))
    ledger = last.get("tracer", {}).get("ledger", {})
    problems = list(ledger_problems(ledger))
    return Comparison(rows, truth.facts - seen, seen - truth.facts, truth.clients, events, ledger, problems)


def _by_kind(facts: Counter[Fact]) -> Counter[str]:
    tally: Counter[str] = Counter()
    for fact, count in facts.items():
        tally[fact.kind] += count
    return tally


def ledger_problems(ledger: dict[str, Any]) -> Iterator[str]:
    """What keeps a ledger from proving that nothing was lost; `ledger` is the last record's, empty if that was none."""
    if not ledger.get("final"):
        yield "the last record is not a final ledger"
        return
    for kind, terms in [("total", ledger["total"]), *ledger["by_kind"].items()]:
        accounted = sum(terms[term] for term in ("delivered", "aggregated", "filtered", "lost", "in_flight"))
        if terms["attempts"] != accounted:
            yield f"the ledger does not balance: {kind} has {terms['attempts']} attempts, {accounted} accounted for"
        if terms["lost"]:
            yield f"the ledger says {terms['lost']} of {kind} were lost"
    for claim in ("balanced", "complete"):
        if not ledger[claim]:
            yield f"the ledger says it is not {claim}"
