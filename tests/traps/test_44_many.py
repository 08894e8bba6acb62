"""Trap 44: very many sockets at the same time, and very many flows."""

import os
from collections import Counter

import pytest

from tests.tracing import FEW, NO_FACILITY, TEST_WITHIN_S, Event, value
from tests.traps.checks import ACCEPTED, CLOSED, OPENED, Line, lines, only
from tests.traps.conftest import MakeTrace, Seen, Start, again_by_softirq
from tests.traps.flows import UPDATED

pytestmark = [pytest.mark.live, pytest.mark.timeout(5 * TEST_WITHIN_S)]

SOCKETS = 4_001 if FEW else 40_009
# Of a machine with as much memory no less is asked for.
ENOUGH = 4 << 30
FOUND = "connection-open"
NETWORK = {OPENED, ACCEPTED, CLOSED, UPDATED, FOUND}


def slim(event: Event) -> Event | None:
    """What the comparison needs of an event: there are too many to keep them whole."""
    action = event["event"]["action"]
    if action == "tracer-coverage":
        return event
    if action not in NETWORK:
        return None
    ends = {
        name: {part: event.get(name, {}).get(part) for part in ("port", "bytes")} for name in ("source", "destination")
    }
    tracer = event["tracer"]
    return {
        "event": {"action": action},
        "process": {"pid": value(event, "process.pid")},
        "network": {"direction": event["network"].get("direction"), "transport": event["network"].get("transport")},
        "tracer": {"netns": tracer["netns"], "socket": tracer["socket"], "flow": tracer.get("flow", tracer["socket"])},
        **ends,
    }


def of_processes(events: list[Event], pids: set[int]) -> list[Event]:
    """The events of these processes."""
    return [event for event in events if "process" in event and event["process"]["pid"] in pids]


def share(number: int) -> int:
    """The bytes that a connection carries, by its number: what the program has too."""
    return 1 + number % 1009


def near_and_far(event: Event) -> tuple[int, int, int, int]:
    """Ports and bytes as the process has them: near and far, sent and received."""
    ends = event["source"], event["destination"]
    # Of a connection that was there before, nobody may know who began it: then the source is the near end.
    near, far = reversed(ends) if event["network"]["direction"] == "ingress" else ends
    return near["port"], far["port"], near["bytes"], far["bytes"]


def closes(seen: Seen) -> tuple[Counter[tuple[int, ...]], Counter[tuple[int, ...]]]:
    """The closes that there must be, and those that were told: pid, ports near and far, bytes sent and received."""
    workers = lines(seen.truth, "connections")
    assert len(workers) == 3
    wanted: Counter[tuple[int, ...]] = Counter()
    for worker in workers:
        for number, port in enumerate(worker["ports"]):
            wanted[worker["pid"], port, worker["port"], share(number), 0] += 1
            wanted[worker["pid"], worker["port"], port, 0, share(number)] += 1
    netns = {worker["netns"] for worker in workers}
    told: Counter[tuple[int, ...]] = Counter(
        (event["process"]["pid"], *near_and_far(event))
        for event in seen.events
        if event["event"]["action"] == CLOSED
        and event["tracer"]["netns"] in netns
        and event["network"]["transport"] == "tcp"
    )
    return wanted, told


def whole(seen: Seen) -> bool:
    """All closes were told."""
    wanted, told = closes(seen)
    return not wanted - told


def check_closes(seen: Seen) -> None:
    """Either end of every connection is closed once, by its process, with the connection's own number of bytes."""
    wanted, told = closes(seen)
    assert told == wanted, ((told - wanted).most_common(3), (wanted - told).most_common(3))


def count_of(truth: list[Line]) -> int:
    """How many sockets were open at once: all of them on a machine with enough memory."""
    count: int = only(truth, "open")["sockets"]
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >= ENOUGH:
        assert count == SOCKETS
    return count


def test_sockets(trace: MakeTrace, start: Start) -> None:
    """40,009 sockets are open before the first byte moves: each is known by then, and told with its own bytes."""

    def watch() -> Seen:
        with start("trap_44_many") as many:
            many.wait_for("ready")
            with trace("--buffer", "64M", "--event", "connect,accept,close", keep=slim) as seen:
                many.go()
                many.wait_for("open")
                many.go()
                many.wait_for("closed")
            truth = many.truth
        seen.assert_complete()
        return Seen(truth, seen.events)

    seen = again_by_softirq(watch, whole)
    check_closes(seen)
    workers = {worker["pid"] for worker in lines(seen.truth, "connections")}
    begun = Counter(event["event"]["action"] for event in of_processes(seen.events, workers))
    assert begun[OPENED] == begun[ACCEPTED] == (count_of(seen.truth) - 3) // 2


def test_sockets_found(trace: MakeTrace, start: Start) -> None:
    """The same sockets, all open before the tracer is started: each found, and told at its end with its own bytes."""

    def watch() -> Seen:
        with start("trap_44_many") as many:
            many.go()
            many.wait_for("open")
            with trace("--buffer", "64M", "--event", "connect,accept,close", keep=slim) as seen:
                many.go()
                many.wait_for("closed")
            truth = many.truth
        seen.assert_complete()
        return Seen(truth, seen.events)

    seen = again_by_softirq(watch, whole)
    check_closes(seen)
    workers = {worker["pid"] for worker in lines(seen.truth, "connections")}
    found = Counter(event["event"]["action"] for event in of_processes(seen.events, workers))
    assert found[FOUND] == count_of(seen.truth) - 3, found
    assert found[OPENED] == found[ACCEPTED] == 0, found


def test_peers(trace: MakeTrace, start: Start) -> None:
    """100,003 peers of one socket: flows until there is room for no more, the bytes of the others counted as such.

    All bytes that the kernel saw move are those of flows, or had no place, or were lost: to the byte.
    """
    with start("trap_44_many") as many:
        many.go()
        many.wait_for("open")
        many.go()
        many.wait_for("closed")
        with trace("--buffer", "64M", keep=slim) as seen:
            many.go()
            truth = many.finish()
    if "bytes" not in seen.ledger:
        pytest.skip(f"{NO_FACILITY}count of what calls move, by this backend")
    peers = only(truth, "peers")
    # The last that is said of a flow and process is the whole of it.
    totals: dict[tuple[int, str], tuple[int, int]] = {
        (event["process"]["pid"], event["tracer"]["flow"]["id"]): (
            event["source"]["bytes"],
            event["destination"]["bytes"],
        )
        for event in seen.events
        if "source" in event and event["source"]["bytes"] is not None
    }
    counted = seen.ledger["bytes"]
    assert counted["moved"] == sum(counted[term] for term in ("flows", "unplaced", "filtered", "lost")), counted
    assert counted["balanced"] is True
    assert sum(map(sum, totals.values())) == counted["flows"]
    own = [sent for (pid, _), (sent, _) in totals.items() if pid == peers["pid"]]
    assert 0 < len(own) <= peers["count"]
    # What is not told of this process had no place, and is counted; others of the machine may be among that too.
    assert 0 <= peers["sent"] - sum(own) <= counted["unplaced"] + counted["filtered"] + counted["lost"], counted
    if len(own) < peers["count"]:
        assert seen.ledger["complete"] is False
        assert seen.ledger["missed"]["map_full"], seen.ledger["missed"]
