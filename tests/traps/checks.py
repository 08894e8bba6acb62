"""Compare what a trap program says of itself with the events: every field, and nothing beside.

Nothing here runs anything: `truth` is the program's lines, `events` is the stream, wherever both came from.
"""

import errno
import ipaddress
import os
import signal
from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import communityid
import pytest

from tests.tracing import ABSENT, NO_FACILITY, Event, find, one, shorten, value

Line = dict[str, Any]

NS = 1_000_000_000
NS_PER_TICK = 10_000_000
# Program and tracer each tie the boot clock to the wall clock by themselves, and that may be slewed in between.
CLOCK_SLACK_NS = 5_000_000
# bpf_ktime_get_boot_ns reads the fast clock, which may be off by a little around its updates.
FAST_CLOCK_NS = 100_000
# A connect that waits longer than three seconds is told as attempted; the SYN that tells is the second one sent again.
ATTEMPT_NS = 2_900_000_000

OPENED = "connection-opened"
FAILED = "connection-failed"
ATTEMPTED = "connection-attempted"
ACCEPTED = "connection-accepted"
CLOSED = "connection-closed"
LISTENING = "socket-listening"
EXECUTED = "process-executed"
EXEC_FAILED = "process-exec-failed"
EXITED = "process-exited"


def lines(truth: Iterable[Line], what: str, **fields: Any) -> list[Line]:
    """The lines of one sort whose fields are as given."""
    return [line for line in truth if line["what"] == what and all(line.get(k) == v for k, v in fields.items())]


def only(truth: Iterable[Line], what: str, **fields: Any) -> Line:
    """The only such line."""
    found = lines(truth, what, **fields)
    assert len(found) == 1, (what, fields, found)
    return found[0]


def skip_missing(truth: Iterable[Line], facility: str) -> None:
    """Skip the test where the program found that this kernel has no such thing."""
    if lines(truth, "missing", facility=facility):
        pytest.skip(f"{NO_FACILITY}{facility}")


def text(digits: str) -> str:
    """Bytes of the truth as the stream shows them."""
    return bytes.fromhex(digits).decode("utf-8", "backslashreplace")


def wall_ns(event: Event) -> int:
    """`@timestamp` in nanoseconds of the epoch; it must have all nine digits and be UTC."""
    return stamp_ns(event["@timestamp"])


def stamp_ns(stamp: str) -> int:
    """An RFC 3339 time with nanoseconds, in nanoseconds of the epoch."""
    seconds, _, fraction = stamp.partition(".")
    assert len(fraction) == 10, stamp
    assert fraction.endswith("Z"), stamp
    whole = datetime.fromisoformat(f"{seconds}+00:00").timestamp()
    return int(whole) * NS + int(fraction[:9])


def boot_ns(truth: list[Line], event: Event) -> int:
    """When the event was, on the clock of the truth (CLOCK_BOOTTIME), within CLOCK_SLACK_NS."""
    clock = only(truth, "clock")
    return wall_ns(event) - int(clock["wall_ns"]) + int(clock["boot_ns"])


def check_time(truth: list[Line], event: Event, line: Line) -> None:
    """The event is between the line's before_ns and after_ns, as far as it has them."""
    when = boot_ns(truth, event)
    assert line.get("before_ns", 0) - CLOCK_SLACK_NS <= when, (line, shorten(event))
    assert when <= line["after_ns"] + CLOCK_SLACK_NS, (line, shorten(event))


def thread_id(event: Event) -> Any:
    """The thread that did it."""
    return value(event, "process.thread.id")


def plain(ip: str) -> str:
    """An address as the stream has it: IPv4-mapped IPv6 as the IPv4 that it is."""
    address = ipaddress.ip_address(ip)
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def community_id(event: Event) -> str:
    """The community id by the reference implementation."""
    ends = [event["source"]["ip"], event["destination"]["ip"], event["source"]["port"], event["destination"]["port"]]
    return str(communityid.CommunityID().calc(communityid.FlowTuple.make_tcp(*ends)))


def check_ends(event: Event, initiator: tuple[str, int], responder: tuple[str, int]) -> None:
    """Source and client are who initiated, destination and server who was asked; the description of the flow fits."""
    for name, end in zip(
        ("source", "client", "destination", "server"), (initiator,) * 2 + (responder,) * 2, strict=True
    ):
        assert (event[name]["ip"], event[name]["port"]) == end, (name, end, shorten(event))
    version = ipaddress.ip_address(responder[0]).version
    assert event["network"]["transport"] == "tcp"
    assert event["network"]["type"] == f"ipv{version}"
    assert event["network"]["iana_number"] == "6"
    assert event["network"]["community_id"] == community_id(event)


def check_mapped(event: Event, ip: str) -> None:
    """The flag of an IPv4-mapped socket is there exactly when the program used such an address."""
    mapped = ip.startswith("::ffff:")
    assert value(event, "tracer.socket.mapped") is (True if mapped else ABSENT), shorten(event)


def local_end(line: Line) -> tuple[str, int]:
    """The near end of a socket line."""
    return plain(line["local_ip"]), line["local_port"]


def remote_end(line: Line) -> tuple[str, int]:
    """The far end of a socket line."""
    return plain(line["remote_ip"]), line["remote_port"]


def check_opened(truth: list[Line], events: list[Event], line: Line) -> Event:
    """A successful connect: whose, from where to where, when, and how long it took."""
    ends = {"source__port": line["local_port"], "destination__port": line["remote_port"]}
    event = one(events, OPENED, line["pid"], tracer__netns=line["netns"], **ends)
    check_ends(event, local_end(line), remote_end(line))
    check_mapped(event, line["local_ip"])
    assert event["network"]["direction"] == "egress"
    assert event["event"]["outcome"] == "success", shorten(event)
    assert event["event"]["kind"] == "event"
    assert event["event"]["category"] == ["network"]
    assert event["event"]["type"] == ["connection", "start"]
    assert thread_id(event) == line["tid"], shorten(event)
    assert value(event, "error.code") is ABSENT, shorten(event)
    assert 0 < event["event"]["duration"] <= line["after_ns"] - line["before_ns"] + FAST_CLOCK_NS, (
        line,
        shorten(event),
    )
    check_time(truth, event, line)
    return event


def check_accepted(truth: list[Line], events: list[Event], line: Line) -> Event:
    """An accepted connection: the process whose accept returned it, and the ends seen from there."""
    ends = {"source__port": line["remote_port"], "destination__port": line["local_port"]}
    event = one(events, ACCEPTED, line["pid"], tracer__netns=line["netns"], **ends)
    check_ends(event, remote_end(line), local_end(line))
    check_mapped(event, line["local_ip"])
    assert event["network"]["direction"] == "ingress"
    assert event["event"]["kind"] == "event"
    assert event["event"]["category"] == ["network"]
    assert event["event"]["type"] == ["connection", "start"]
    assert thread_id(event) == line["tid"], shorten(event)
    check_time(truth, event, line)
    return event


def check_listening(truth: list[Line], events: list[Event], line: Line) -> Event:
    """A listening socket: whose, where, how long a queue."""
    event = one(events, LISTENING, line["pid"], server__port=line["port"], tracer__netns=line["netns"])
    assert event["server"]["ip"] == plain(line["ip"]), shorten(event)
    assert event["event"]["kind"] == "event"
    assert event["event"]["type"] == ["start"]
    assert event["tracer"]["listen"]["backlog"] == line["backlog"], shorten(event)
    check_time(truth, event, line)
    return event


def moved(event: Event, line: Line) -> bool:
    """The bytes of a close are the line's, whichever end it was."""
    counted = line["sent"], line["received"]
    return counted == (event["tracer"]["tcp"]["bytes_sent"], event["tracer"]["tcp"]["bytes_received"])


def check_closed(events: list[Event], line: Line) -> Event:
    """The end of a connection for one process: bytes both ways, the kernel's state and error, and the true life."""
    near, far = line["local_port"], line["remote_port"]
    outgoing = find(events, CLOSED, line["pid"], source__port=near, destination__port=far, network__direction="egress")
    incoming = find(events, CLOSED, line["pid"], source__port=far, destination__port=near, network__direction="ingress")
    found = [event for event in outgoing + incoming if fits_life(event, line)]
    if len(found) > 1:  # the same ends were used again
        found = [event for event in found if moved(event, line)]
    assert len(found) == 1, (line, [shorten(event) for event in outgoing + incoming])
    event = found[0]
    here, there = ("source", "destination") if outgoing else ("destination", "source")
    # What the calls returned; where nobody counts that, what arrived.
    received = line["taken"] if counts_bytes(events) else line["received"]
    assert event[here]["bytes"] == line["sent"], (line, shorten(event))
    assert event[there]["bytes"] == received, (line, shorten(event))
    assert event["network"]["bytes"] == line["sent"] + received
    assert event["tracer"]["tcp"]["bytes_sent"] == line["sent"]
    assert event["tracer"]["tcp"]["bytes_received"] == line["received"]
    assert event["tracer"]["tcp"]["state"] == line["state"], (line, shorten(event))
    assert event["event"]["type"] == ["connection", "end"]
    assert event["network"]["community_id"] == community_id(event)
    error = value(event, "tracer.tcp.errno")
    assert (0 if error is ABSENT else error) == line["errno"], (line, shorten(event))
    check_beginning(events, event)
    return event


def counts_bytes(events: list[Event]) -> bool:
    """Whether the backend counts what calls move, as its coverage record says."""
    coverage = next(event["tracer"]["coverage"] for event in events if event["event"]["action"] == "tracer-coverage")
    return bool(coverage.get("moved"))


def fits_life(event: Event, line: Line) -> bool:
    """The duration is between the bounds that the program knows."""
    life: int = event["event"]["duration"]
    return bool(line["least_ns"] - FAST_CLOCK_NS <= life <= line["most_ns"] + FAST_CLOCK_NS)


def check_beginning(events: list[Event], closed: Event) -> None:
    """A close has the id of exactly one opening, by the same process, with the same ends, before it in the stream."""
    begun = [
        event
        for event in find(events, tracer__socket__id=closed["tracer"]["socket"]["id"])
        if event["event"]["action"] in {OPENED, ACCEPTED}
    ]
    assert len(begun) == 1, (shorten(closed), [shorten(event) for event in begun])
    for path in ("process.pid", "process.entity_id", "source.port", "destination.port", "source.ip", "tracer.netns"):
        assert value(begun[0], path) == value(closed, path), (path, shorten(begun[0]), shorten(closed))
    assert events.index(begun[0]) < events.index(closed)


def network_of(truth: list[Line], events: list[Event]) -> list[Event]:
    """The network events about the ports that the program listened on, in its namespaces."""
    places = {(line["netns"], line["port"]) for line in lines(truth, "listen")}
    return [
        event
        for event in events
        if "network" in event["event"].get("category", ())
        and (value(event, "tracer.netns"), value(event, "server.port")) in places
    ]


def check_network(truth: list[Line], events: list[Event]) -> None:
    """Every line about listeners, connects, accepts and closes has its event, and there is no other about those ports.

    Each end that was opened or accepted is closed once, and each has a flow id of its own.
    """
    opened = [line for line in lines(truth, "connect") if line.get("result", line["errno"]) == 0]
    accepted = lines(truth, "accept")
    for line in lines(truth, "listen"):
        check_listening(truth, events, line)
    begun = [check_opened(truth, events, line) for line in opened]
    begun += [check_accepted(truth, events, line) for line in accepted]
    for line in lines(truth, "close"):
        check_closed(events, line)
    ours = network_of(truth, events)
    owners = {line["pid"] for line in truth if line["what"] in {"listen", "connect", "accept"}}
    strangers = [event for event in ours if value(event, "process.pid") not in owners]
    assert not strangers, [shorten(event) for event in strangers[:5]]
    # On a slow machine a SYN may have to be sent a third time, and then the connect is told as attempted first.
    slow = {line["local_port"] for line in opened if line["after_ns"] - line["before_ns"] > ATTEMPT_NS}
    attempted = [event["source"]["port"] for event in find(ours, ATTEMPTED)]
    assert set(attempted) <= slow, (attempted, slow)
    assert len(attempted) == len(set(attempted)), attempted
    assert Counter(
        event["event"]["action"] for event in ours if event["event"]["action"] not in {FAILED, ATTEMPTED}
    ) == {
        **({LISTENING: len(lines(truth, "listen"))} if lines(truth, "listen") else {}),
        **({OPENED: len(opened)} if opened else {}),
        **({ACCEPTED: len(accepted)} if accepted else {}),
        **({CLOSED: len(begun)} if begun else {}),
    }
    flows = Counter(event["tracer"]["socket"]["id"] for event in begun)
    assert len(flows) == len(begun), [flow for flow, count in flows.items() if count > 1]


def check_exec(
    truth: list[Line], events: list[Event], line: Line, *, parent: int | None = None, tid: int | None = None
) -> Event:
    """An exec line against its event: the program, its file, its arguments, its place, its people, its parent.

    `parent` is the parent where that is not the one the image saw, `tid` the thread that asked where that is another.
    """
    found = [
        event
        for event in find(events, EXECUTED, line["pid"])
        if event["tracer"]["process"]["start_ns"] // NS_PER_TICK == line["start_ticks"]
    ]
    assert len(found) == 1, (line, [shorten(event) for event in find(events, pid=line["pid"])])
    event = found[0]
    process = event["process"]
    path = text(line["exe_hex"]).removesuffix(" (deleted)")
    assert process["executable"] == path, (path, shorten(event))
    arguments = [text(argument) for argument in line["args_hex"]]
    assert process["args"] == arguments, shorten(event)
    assert process["args_count"] == len(arguments)
    assert process["working_directory"] == text(line["cwd_hex"]), shorten(event)
    assert process["name"] == text(line["comm_hex"]), shorten(event)
    assert thread_id(event) == (line["tid"] if tid is None else tid), shorten(event)
    assert process["user"]["id"] == str(line["uid"])
    assert process["group"]["id"] == str(line["gid"])
    assert process["session_leader"]["pid"] == line["sid"]
    assert process["parent"]["pid"] == (line["ppid"] if parent is None else parent), shorten(event)
    assert event["tracer"]["netns"] == line["netns"]
    assert event["tracer"]["pidns"] == line["pidns"]
    assert event["tracer"]["process"]["exe"] == {"dev": line["dev"], "inode": line["inode"]}, shorten(event)
    assert event["event"]["kind"] == "event"
    assert event["event"]["category"] == ["process"]
    assert event["event"]["type"] == ["start"]
    check_time(truth, event, {"after_ns": line["after_ns"]})
    return event


def check_exit(truth: list[Line], events: list[Event], line: Line, *, entity: str | None = None) -> Event:
    """A process ended once, with the status its parent was told, before its parent was told."""
    fields = {} if entity is None else {"process__entity_id": entity}
    event = one(events, EXITED, line["pid"], **fields)
    status = line["status"]
    facts = event["tracer"]["process"]
    assert facts["exit_status"] == status, (line, shorten(event))
    if os.WIFEXITED(status):
        assert event["process"]["exit_code"] == os.WEXITSTATUS(status), shorten(event)
        assert "signal" not in facts, shorten(event)
    else:
        number = os.WTERMSIG(status)
        assert facts["signal"] == number, shorten(event)
        assert facts["signal_name"] == signal.Signals(number).name, shorten(event)
        assert event["process"].get("exit_code") != 0, shorten(event)
    assert facts.get("core_dumped", False) is os.WCOREDUMP(status), shorten(event)
    assert event["event"]["type"] == ["end"]
    assert stamp_ns(event["process"]["end"]) >= stamp_ns(event["process"]["start"])
    if "gone_ns" in line:
        check_time(truth, event, {"before_ns": line.get("before_ns", 0), "after_ns": line["gone_ns"]})
    return event


def check_failed(truth: list[Line], events: list[Event], line: Line) -> Event:
    """A connect that failed: whose, from and to where, with which errno, and how long that took."""
    event = one(events, FAILED, line["pid"], destination__port=line["remote_port"], destination__ip=line["remote_ip"])
    assert event["event"]["outcome"] == "failure", shorten(event)
    assert event["event"]["type"] == ["connection"], shorten(event)
    assert event["error"]["code"] == errno.errorcode[line["result"]], (line, shorten(event))
    assert event["tracer"]["tcp"]["errno"] == line["result"], (line, shorten(event))
    assert thread_id(event) == line["tid"]
    assert event["tracer"]["netns"] == line["netns"]
    assert event["network"]["direction"] == "egress"
    if line["local_port"]:
        assert event["source"]["port"] == line["local_port"], (line, shorten(event))
        assert event["network"]["community_id"] == community_id(event)
    else:
        assert value(event, "source.port") in {ABSENT, 0}, shorten(event)
    assert 0 <= event["event"]["duration"] <= line["done_ns"] - line["before_ns"] + FAST_CLOCK_NS, (
        line,
        shorten(event),
    )
    check_time(truth, event, {"before_ns": line["before_ns"], "after_ns": line["done_ns"]})
    return event
