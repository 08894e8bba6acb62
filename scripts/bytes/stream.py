"""Reads what the tracer's ECS output says that every process has moved, by flow."""

import json
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address
from typing import Any, NamedTuple

from scripts.attribution.compare import entity_id
from scripts.bytes.generator import Flow

# What has no ports, or is told without them, and what has no addresses.
PORTLESS = frozenset({"icmp", "ipv6-icmp", "raw", "packet", "vsock"})
NAMELESS = frozenset({"packet", "vsock"})


class Key(NamedTuple):
    """Whose bytes, and where: what the tracer and the generator have to say alike."""

    entity: str
    transport: str
    netns: int
    local: str
    local_port: int
    remote: str
    remote_port: int


class Moved(NamedTuple):
    """Bytes each way, and calls or messages."""

    sent: int = 0
    received: int = 0
    sends: int = 0
    receives: int = 0

    def plus(self, other: "Moved") -> "Moved":
        """The sum."""
        return Moved(*(mine + more for mine, more in zip(self, other, strict=True)))


class Told(NamedTuple):
    """What the tracer told of one key: the sum over its flows, and the ways their bytes took."""

    moved: Moved
    via: frozenset[str]

    def plus(self, other: "Told") -> "Told":
        """The sum."""
        return Told(self.moved.plus(other.moved), self.via | other.via)


NOTHING = Told(Moved(), frozenset())


class Stream(NamedTuple):
    """What the comparison needs of the tracer's output; `told` is the sum over all flows of all processes.

    `blind` is what the coverage record says that can't be seen on this kernel.
    """

    boot: str
    flows: dict[Key, Told]
    ledger: dict[str, Any]
    told: int
    blind: tuple[str, ...] = ()


def read_stream(lines: Iterable[bytes]) -> Stream:
    """Sum the flows of every process: of each flow of a process its last record counts. Takes ECS lines."""
    last: dict[tuple[str, str], tuple[Key, Told]] = {}
    boot, ledger, blind = "", {}, ()
    for line in lines:
        record = json.loads(line)
        boot = record["host"]["boot"]["id"]
        ledger = record["tracer"].get("ledger", {})
        if record["event"]["action"] == "tracer-coverage":
            blind = tuple(record["tracer"]["coverage"]["blind"])
        # What was moved before the start is nobody's account.
        if record["event"]["action"].startswith("connection-") and not record["tracer"].get("snapshot"):
            key, told = _flow_of(record)
            own = record["tracer"]
            which = key.entity, own.get("flow", own["socket"])["id"]
            if which in last and "bytes" not in record["network"]:
                continue  # it says nothing of how much
            last[which] = key, told
    flows: dict[Key, Told] = {}
    for key, told in last.values():
        flows[key] = flows.get(key, NOTHING).plus(told)
    total = sum(told.moved.sent + told.moved.received for _, told in last.values())
    return Stream(boot, flows, ledger, total, blind)


def _flow_of(record: dict[str, Any]) -> tuple[Key, Told]:
    network, own = record["network"], record["tracer"]
    # The source is who began; where that is not known it is this end.
    here, there = record.get("source", {}), record.get("destination", {})  # what has no address may have neither
    if network["direction"] == "ingress":
        here, there = there, here
    key = _key(
        record.get("process", {}).get("entity_id", ""),
        network["transport"],
        own["netns"],
        (here.get("ip", ""), here.get("port", 0)),
        (there.get("ip", ""), there.get("port", 0)),
    )
    moved = Moved(here.get("bytes", 0), there.get("bytes", 0), here.get("packets", 0), there.get("packets", 0))
    return key, Told(moved, frozenset(own.get("via", ())))


def _key(entity: str, transport: str, netns: int, local: tuple[str, int], remote: tuple[str, int]) -> Key:
    local_ip, remote_ip = (_address(ip) if transport not in NAMELESS else "" for ip, _ in (local, remote))
    local_port, remote_port = (port if transport not in PORTLESS else 0 for _, port in (local, remote))
    return Key(entity, transport, netns, local_ip, local_port, remote_ip, remote_port)


def _address(text: str) -> str:
    """IPv4 in an IPv6 socket is IPv4; no address and any address are both ''."""
    if not text:
        return ""
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return "" if address.is_unspecified else str(mapped or address)


def truth_key(flow: Flow, boot: str) -> Key:
    """The key of a flow as the generator tells it, on the boot with this id."""
    entity = entity_id(boot, flow.pid, flow.start)
    return _key(entity, flow.transport, flow.netns, (flow.local, flow.local_port), (flow.remote, flow.remote_port))
