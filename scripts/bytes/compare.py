"""Compares what processes moved by their own count with what the tracer and nftables say of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from scripts.bytes.generator import Flow, Ran
from scripts.bytes.network import Counts
from scripts.bytes.stream import NOTHING, Key, Moved, Stream, Told, truth_key
from scripts.bytes.wire import Carried

TOLERANCE = 0.001
DATAGRAMS = frozenset({"udp", "udplite", "icmp", "ipv6-icmp", "raw", "packet"})  # a message in each call
FRAME_HEADER = 14  # of Ethernet: the bytes of a raw packet socket have it, those of the counters don't
TERMS = ("flows", "unplaced", "filtered", "lost")


class Verdict(NamedTuple):
    """A row: both counts, summed over its processes, what nftables counted, and everything that is wrong with it.

    `wire` are bytes from near to far and back, None where no counter lies on the way. A row with `missing` has nothing
    else: this kernel lacks what it is about. With `unseen`, words of the coverage record, such bytes can't be counted
    on this kernel, and none were told. `carried` is what the tracer says of devices, if it was asked for.
    """

    name: str
    transport: str = ""
    via: str = ""
    truth: Moved = Moved()
    told: Moved = Moved()
    wire: tuple[int, int] | None = None
    exact: bool = False
    missing: str = ""
    unseen: str = ""
    problems: tuple[str, ...] = ()
    carried: Carried = {}  # noqa: RUF012 (never changed)


def judge(ran: Ran, wire: Counts, namespaces: tuple[int, int], stream: Stream) -> Verdict:
    """Compare a row; `namespaces` are the inodes of near and far, whose counters have counted `wire` meanwhile."""
    if ran.missing:
        return Verdict(ran.row.name, missing=ran.missing)
    if ran.failed:
        return Verdict(ran.row.name, problems=(ran.failed,))
    truth: dict[Key, Told] = {}
    for flow in ran.flows:
        key = truth_key(flow, stream.boot)
        told = Told(Moved(flow.sent, flow.received, flow.sends, flow.receives), frozenset({flow.via} - {""}))
        truth[key] = truth.get(key, NOTHING).plus(told)
    entities = {key.entity for key in truth}
    seen: dict[Key, Told] = {}
    for key, told in stream.flows.items():
        if key.entity in entities:
            same = _as_wide(key, truth)
            seen[same] = seen.get(same, NOTHING).plus(told)
    counted = _wire_of(ran.flows, wire, namespaces)
    sums = [_total(side.values()) for side in (truth, seen)]
    transports = sorted({key.transport for key in truth})
    verdict = Verdict(
        ran.row.name,
        "+".join(transports),
        "+".join(sorted(sums[1].via)),
        sums[0].moved,
        sums[1].moved,
        counted,
    )
    problems = [*_implausible(ran.flows, counted, namespaces)]
    spot = _blind_spot(transports, stream.blind)
    if spot and not any(sums[1].moved):
        return verdict._replace(unseen=spot, problems=tuple(problems))
    if spot:
        problems.append(f"told, though the coverage record says that nobody sees {spot}")
    problems += _differences(truth, seen, stream.flows)
    return verdict._replace(
        exact=all(seen.get(key, NOTHING).moved[:2] == told.moved[:2] for key, told in truth.items()),
        problems=tuple(problems),
    )


def _blind_spot(transports: Sequence[str], blind: Sequence[str]) -> str:
    """The words of the coverage record that sockets of one of these are not seen by, empty if all are."""
    return next((spot for each in transports for spot in blind if f"that {each} sockets" in spot), "")


def _as_wide(key: Key, truth: dict[Key, Told]) -> Key:
    """A socket that is bound to no address is told with the one that its bytes went by, or without.

    And what SCTP sends to one of many peers later, from its own queue, without that peer.
    """
    wide = key._replace(local="")
    if key.transport == "sctp" and not key.remote and not key.remote_port:
        same = [other for other in truth if other._replace(remote="", remote_port=0) in (key, wide)]
        return same[0] if len(same) == 1 else key
    return wide if wide in truth else key


def _total(each: Iterable[Told]) -> Told:
    total = NOTHING
    for told in each:
        total = total.plus(told)
    return total


def _differences(truth: dict[Key, Told], seen: dict[Key, Told], everybody: dict[Key, Told]) -> Iterator[str]:
    for key, expected in truth.items():
        told = seen.get(key, NOTHING)
        for name, mine, theirs in zip(Moved._fields[:2], expected.moved, told.moved, strict=False):
            if abs(mine - theirs) > mine * TOLERANCE:
                others = [other.entity for other in everybody if other[1:] == key[1:] and other.entity != key.entity]
                whose = f"; the same flow is told of {', '.join(others)}" if others else ""
                yield f"{_text(key)}: {name} {mine} bytes, told {theirs}{whose}"
        if key.transport in DATAGRAMS and told.moved[2:] != expected.moved[2:] and any(told.moved[2:]):
            yield f"{_text(key)}: {expected.moved[2:]} messages out and in, told {told.moved[2:]}"
        if (told.moved.sent or told.moved.received) and not expected.via <= told.via:
            yield f"{_text(key)}: by {', '.join(expected.via)}, told {', '.join(sorted(told.via)) or 'nothing'}"
    for key, told in seen.items():
        if key not in truth and (told.moved.sent or told.moved.received):
            yield f"{_text(key)}: told {told.moved.sent} bytes out and {told.moved.received} in, moved none"


def _text(key: Key) -> str:
    ends = (f"{ip or '*'}:{port}" for ip, port in ((key.local, key.local_port), (key.remote, key.remote_port)))
    return f"{key.entity} {key.transport} {' -> '.join(ends)}"


def _wire_of(flows: list[Flow], wire: Counts, namespaces: tuple[int, int]) -> tuple[int, int] | None:
    """What was counted on the way from near to far and back; of a loopback all is in the first."""
    if any(flow.netns not in namespaces for flow in flows):
        return None
    if all(flow.local and flow.local == flow.remote for flow in flows):
        return wire.loopback.bytes, 0
    return wire.out.bytes, wire.back.bytes


def _implausible(flows: list[Flow], counted: tuple[int, int] | None, namespaces: tuple[int, int]) -> Iterator[str]:
    """No less can have arrived than was sent; it is more by the headers, and less where one header was many's."""
    if counted is None:
        return
    sent = [0, 0]
    for flow in flows:
        side = 0 if counted[1] == 0 else namespaces.index(flow.netns)
        sent[side] += flow.sent - (flow.sends * FRAME_HEADER if flow.transport == "packet" else 0)
    for way, payload, arrived in zip(("out", "back"), sent, counted, strict=True):
        if arrived < payload:
            yield f"the generator sent {payload} bytes {way}, and nftables counted {arrived}"


def byte_problems(stream: Stream) -> Iterator[str]:
    """What keeps the kernel's counter of all bytes from being the sum of what was told and what was not."""
    counted: dict[str, Any] | None = stream.ledger.get("bytes")
    if counted is None:
        yield "the ledger has no account of bytes"
        return
    accounted = sum(counted[term] for term in TERMS)
    if counted["moved"] != accounted:
        terms = ", ".join(f"{counted[term]} {term}" for term in TERMS)
        yield f"{counted['moved']} bytes were moved, {accounted} are accounted for: {terms}"
    if stream.told != counted["flows"]:
        yield f"the flows of the ledger have {counted['flows']} bytes, those that were told {stream.told}"
