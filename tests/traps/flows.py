"""Compare what a trap program moved with what the stream says of its flows: whose, with whom, how much, by what way."""

import ipaddress
import itertools
from collections.abc import Iterable
from typing import Any

import communityid
import pytest

from tests.tracing import ABSENT, NO_FACILITY, Event, find, one, value
from tests.traps.checks import (
    ACCEPTED,
    ATTEMPTED,
    CLOSED,
    FAILED,
    LISTENING,
    OPENED,
    Line,
    boot_ns,
    check_time,
    counts_bytes,
    lines,
    plain,
)

UPDATED = "connection-update"
CHANGED = "connection-owner-changed"
# What tells of a flow, and so has its totals for the process so far.
TELLING = {OPENED, ACCEPTED, UPDATED, CHANGED, CLOSED}
# Each call of a socket of these moves one message: a packet of the stream is one call of the program.
MESSAGES = {"udp", "udplite", "icmp", "ipv6-icmp", "raw", "packet"}
# Protocol numbers of IANA, as network.iana_number has them; raw sockets may have any.
NUMBERS = {"tcp": "6", "udp": "17", "udplite": "136", "sctp": "132", "icmp": "1", "ipv6-icmp": "58"}
PORTLESS = {"icmp", "ipv6-icmp", "raw", "packet"}
NAMELESS = {"packet", "vsock"}


def need_counting(events: list[Event]) -> None:
    """Skip the test where the backend that ran counts no bytes."""
    if not counts_bytes(events):
        backend = one(events, "tracer-coverage")["tracer"]["coverage"]["backend"]
        pytest.skip(f"{NO_FACILITY}count of what calls move, by the {backend} backend")


def need_module(events: list[Event], sockets: str) -> None:
    """Skip the test where such sockets are a module's, whose functions are not looked at: before 6.3."""
    coverage = one(events, "tracer-coverage")["tracer"]["coverage"]
    if any(f"that {sockets} sockets" in spot for spot in coverage["blind"]):
        pytest.skip(f"{NO_FACILITY}count of what {sockets} sockets move whose module was not there, or has no types")


def need_names(events: list[Event]) -> None:
    """Skip the test where the backend that ran takes no names from what flows carry."""
    coverage = one(events, "tracer-coverage")["tracer"]["coverage"]
    if any(spot.startswith("names from DNS") for spot in coverage["blind"]):
        pytest.skip(f"{NO_FACILITY}names of what flows carry, by the {coverage['backend']} backend")


def brief(event: Event) -> dict[str, Any]:
    """What a failure shows of an event: whose, which flow, how much."""
    paths = ("event.action", "process.pid", "process.name", "source", "destination", "network", "tracer")
    return {path: value(event, path) for path in paths if value(event, path) is not ABSENT}


def end(event: Event, near: bool) -> dict[str, Any]:
    """The near or the far end of a flow, as the process has it: the source is who began."""
    egress = value(event, "network.direction") != "ingress"
    found: dict[str, Any] = event.get("source" if near == egress else "destination", {})
    return found


def known(ip: str) -> str:
    """An address as the stream has it; nothing for one that no socket was bound to."""
    address = plain(ip)
    return "" if ipaddress.ip_address(address).is_unspecified else address


def fits(event: Event, line: Line) -> bool:
    """The event is about the flow of the line, for whichever process."""
    transport = line["transport"]
    if value(event, "network.transport") != transport or value(event, "tracer.netns") != line["netns"]:
        return False
    near, far = end(event, near=True), end(event, near=False)
    if transport not in PORTLESS | {"vsock"} and (near.get("port"), far.get("port")) != (
        line["local_port"],
        line["remote_port"],
    ):
        return False
    if transport in NAMELESS:
        return True
    if (value(event, "network.direction") == "egress") is not line["egress"]:
        return False
    # A socket that is bound to no address is told with the one that its bytes went by, or with none.
    here, there = known(line["local_ip"]), known(line["remote_ip"])
    return there in {"", far.get("ip")} and here in {"", near.get("ip")}


def telling(events: Iterable[Event], line: Line) -> list[Event]:
    """The events of the line's process that tell of its flow, in order."""
    return [
        event for event in find(events, pid=line["pid"]) if event["event"]["action"] in TELLING and fits(event, line)
    ]


def flow_id(event: Event) -> Any:
    """The number that all events of a flow have in common: its own, or its socket's where that has but one."""
    own = value(event, "tracer.flow.id")
    return value(event, "tracer.socket.id") if own is ABSENT else own


def moved(event: Event) -> tuple[int, int, int, int]:
    """What the process had moved on the flow by then: bytes sent and received, and packets."""
    near, far = end(event, near=True), end(event, near=False)
    return near.get("bytes", 0), far.get("bytes", 0), near.get("packets", 0), far.get("packets", 0)


def check_flow(events: list[Event], line: Line) -> Event:
    """A process's part of a flow: told as one, never shrinking, and at last with exactly what its calls returned.

    Returns the last event about it.
    """
    told = telling(events, line)
    assert told, (line, [brief(event) for event in near_misses(events, line)])
    assert len({flow_id(event) for event in told}) == 1, (line, [brief(event) for event in told])
    with_totals = [event for event in told if "bytes" in event["network"]]
    if line["sent"] or line["received"] or line["sent_packets"] or line["received_packets"]:
        assert with_totals, (line, [brief(event) for event in told])
    for before, after in itertools.pairwise(map(moved, with_totals)):
        assert all(a <= b for a, b in zip(before, after, strict=True)), (line, before, after)
    last = with_totals[-1] if with_totals else told[-1]
    wanted = line["sent"], line["received"], line["sent_packets"], line["received_packets"]
    counts = 4 if line["transport"] in MESSAGES else 2  # what a stream's calls are, its packets are not
    assert moved(last)[:counts] == wanted[:counts], (line, brief(last))
    ways = value(last, "tracer.via")
    assert set([] if ways is ABSENT else ways) == set(line["via"].split()), (line, brief(last))
    check_network_of(last, line)
    return last


def check_unasked(events: list[Event], line: Line) -> list[Event]:
    """What a process took without asking where it came from: all of it its own, from nobody or from who sent it.

    Where the kernel tells the sender to a reader who does not ask for it only, no probe can know it. Returns the last
    event of each flow that it was told in.
    """
    need_counting(events)
    last: dict[Any, Event] = {}
    for event in find(events, pid=line["pid"], network__transport=line["transport"], tracer__netns=line["netns"]):
        if event["event"]["action"] in TELLING and end(event, near=True).get("port") == line["local_port"]:
            last[flow_id(event)] = event
    totals = [moved(event) for event in last.values()]
    wanted = 0, line["received"], 0, line["received_packets"]
    assert tuple(map(sum, zip(*totals, strict=True))) == wanted, (line, [brief(event) for event in last.values()])
    for event in last.values():
        far = end(event, near=False)
        assert far.get("port") in {None, *line["from"]}, (line, brief(event))
        assert far.get("ip") in {None, "127.0.0.1", "::1"}, (line, brief(event))
        assert value(event, "network.direction") == "ingress", brief(event)
    if any("port" not in end(event, near=False) for event in last.values()):
        coverage = next(
            event["tracer"]["coverage"] for event in events if event["event"]["action"] == "tracer-coverage"
        )
        assert any("datagrams come from" in spot for spot in coverage["blind"]), coverage
    return list(last.values())


def near_misses(events: list[Event], line: Line) -> list[Event]:
    """What a failure shows: the events about the line's ends of anybody, or else its process's."""
    about = [event for event in events if event["event"]["action"] in TELLING and fits(event, line)]
    return (about or [event for event in find(events, pid=line["pid"]) if "network" in event])[:5]


def check_network_of(event: Event, line: Line) -> None:
    """The description of a flow: the names and numbers of its protocols, and the community id."""
    transport = line["transport"]
    number = NUMBERS.get(transport)
    if number is not None:
        assert event["network"]["iana_number"] == number, brief(event)
    if transport in NAMELESS:
        return
    version = ipaddress.ip_address(plain(line["remote_ip"])).version
    assert event["network"]["type"] == f"ipv{version}", brief(event)
    make = {
        "tcp": communityid.FlowTuple.make_tcp,
        "udp": communityid.FlowTuple.make_udp,
        "sctp": communityid.FlowTuple.make_sctp,
    }.get(transport)
    source, destination = event["source"], event["destination"]
    if make is not None and source.get("ip") and destination.get("ip"):
        tuple_ = make(source["ip"], destination["ip"], source["port"], destination["port"])
        assert event["network"]["community_id"] == str(communityid.CommunityID().calc(tuple_)), brief(event)


def check_flows(truth: list[Line], events: list[Event], **fields: Any) -> list[Event]:
    """Every flow line whose fields are as given, and nothing of them told of anybody else. Returns the last events."""
    wanted = lines(truth, "flow", **fields)
    assert wanted, fields
    need_counting(events)
    last = [check_flow(events, line) for line in wanted]
    check_ours(truth, events, **fields)
    return last


def check_ours(truth: list[Line], events: list[Event], **fields: Any) -> None:
    """No event about these flows names a process that moved nothing on them, with bytes that are not its own."""
    for line in lines(truth, "flow", **fields):
        movers = {other["pid"] for other in lines(truth, "flow") if same_ends(other, line)}
        for event in events:
            if event["event"]["action"] not in TELLING or not fits(event, line):
                continue
            pid = value(event, "process.pid")
            assert pid in movers or not any(moved(event)), (line, movers, brief(event))


def same_ends(one_line: Line, other: Line) -> bool:
    """Two lines are about the same flow, seen from the same end; of what has no addresses that can't be told."""
    if one_line["transport"] in NAMELESS:
        return bool(one_line["netns"] == other["netns"] and one_line["transport"] == other["transport"])
    names = ("netns", "transport", "local_ip", "local_port", "remote_ip", "remote_port", "egress")
    return all(one_line[name] == other[name] for name in names)


def check_no_strangers(truth: list[Line], events: list[Event], *, nobody: bool = False) -> None:
    """In the namespaces that the program made, nobody has a flow or a connection but those that it tells of.

    As long as it ran: the number of a namespace that is gone may be another's. With ``nobody`` it may be of no process.
    """
    until = max(line["after_ns"] for line in truth if "after_ns" in line)
    home = {line["netns"] for line in lines(truth, "program")}
    places = {line["netns"] for line in truth if "netns" in line} - home
    pids = {line["pid"] for line in truth if "pid" in line}
    if nobody or not counts_bytes(events):
        pids.add(ABSENT)  # accepted in a way that is not seen, it is whose that moves its first byte: nobody knows
    actions = TELLING | {FAILED, ATTEMPTED, LISTENING}
    for event in events:
        if event["event"]["action"] not in actions or value(event, "tracer.netns") not in places:
            continue
        if boot_ns(truth, event) <= until:
            assert value(event, "process.pid") in pids, brief(event)


def check_owner(truth: list[Line], events: list[Event], line: Line, flow: Line) -> Event:
    """Another process moved bytes of a connection: told once in its name, about that flow, when it was so."""
    found = [event for event in find(events, CHANGED, line["to"]) if fits(event, flow)]
    assert len(found) == 1, (line, [brief(event) for event in events if fits(event, flow)])
    check_time(truth, found[0], line)
    return found[0]
