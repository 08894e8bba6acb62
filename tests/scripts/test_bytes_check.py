"""The check of bytes itself: what a doctored output says too much, too little or of another process must be found."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from scripts.attribution.compare import entity_id
from scripts.bytes.compare import Verdict, byte_problems, judge
from scripts.bytes.generator import Flow, Ran, Row, flows_of
from scripts.bytes.network import Counts, Wire
from scripts.bytes.report import Report, as_json, as_text
from scripts.bytes.stream import Stream, read_stream

Line = dict[str, Any]
BOOT = "7a1c1f0e-5a55-4b0b-9d1c-0123456789ab"
NEAR, FAR, HOME = 4026532177, 4026532178, 4026531833
ROW = Row("udp", "as it says")
# What the counters of nftables would say of it: 7 and 11 datagrams with 28 bytes of headers each.
WIRE = Counts(Wire(70_196, 7), Wire(30_308, 11), Wire(0, 0))


def flow(pid: int, local: str, remote: str, sent: int, received: int, **changes: Any) -> Flow:
    """A flow as the generator tells it: near's port is 40001, far's 7001, 7 messages go out of near and 11 back."""
    near = local == "192.0.2.1"
    ports = (40001, 7001) if near else (7001, 40001)
    counts = (7, 11) if near else (11, 7)
    told = Flow(
        pid=pid,
        start=1000 + pid,
        exe="/run/traffic",
        netns=NEAR if near else FAR,
        transport="udp",
        via="syscall",
        local=local,
        local_port=ports[0],
        remote=remote,
        remote_port=ports[1],
        sent=sent,
        received=received,
        sends=counts[0],
        receives=counts[1],
    )
    return told._replace(**changes)


def flows() -> list[Flow]:
    """Both ends of one flow, by processes 101 and 102."""
    return [flow(101, "192.0.2.1", "192.0.2.2", 70_000, 30_000), flow(102, "192.0.2.2", "192.0.2.1", 30_000, 70_000)]


def record(of: Flow, flow_id: str = "", **changes: int) -> Line:
    """What a tracer without fault writes of a flow; `changes` are sent, received, sends and receives instead."""
    counts = of._asdict() | changes
    here = {"ip": of.local, "port": of.local_port, "bytes": counts["sent"], "packets": counts["sends"]}
    there = {"ip": of.remote, "port": of.remote_port, "bytes": counts["received"], "packets": counts["receives"]}
    egress = of.netns == NEAR
    source, destination = (here, there) if egress else (there, here)
    return {
        "event": {"action": "connection-closed"},
        "host": {"boot": {"id": BOOT}},
        "process": {"pid": of.pid, "entity_id": entity_id(BOOT, of.pid, of.start)},
        "network": {
            "transport": of.transport,
            "direction": "egress" if egress else "ingress",
            "bytes": counts["sent"] + counts["received"],
        },
        "source": source,
        "destination": destination,
        "tracer": {"netns": of.netns, "socket": {"id": flow_id or str(of.pid)}, "via": [of.via]},
    }


def ledger(**changes: int) -> Line:
    """A final ledger whose bytes add up unless changed."""
    counted = {"moved": 200_000, "flows": 200_000, "unplaced": 0, "filtered": 0, "lost": 0} | changes
    own = {"ledger": {"bytes": counted}}
    return {"event": {"action": "tracer-ledger"}, "host": {"boot": {"id": BOOT}}, "tracer": own}


def stream_of(*records: Line) -> Stream:
    """The records as the check reads them."""
    return read_stream(json.dumps(each).encode() for each in records)


def verdict_of(truth: list[Flow], *records: Line, wire: Counts = WIRE) -> Verdict:
    """The verdict on a row."""
    return judge(Ran(ROW, truth), wire, (NEAR, FAR), stream_of(*records))


def test_what_is_right_is_exact() -> None:
    """Both ends with all their bytes: exact, with the sums of both processes and what nftables counted each way."""
    verdict = verdict_of(flows(), *map(record, flows()))
    assert not verdict.problems
    assert verdict.exact
    assert verdict.truth == verdict.told == (100_000, 100_000, 18, 18)
    assert verdict.wire == (70_196, 30_308)
    assert (verdict.transport, verdict.via) == ("udp", "syscall")


@pytest.mark.parametrize(("sent", "passes"), [(70_069, True), (70_071, False), (69_931, True), (69_929, False)])
def test_the_limit_is_a_thousandth(sent: int, passes: bool) -> None:
    """69 bytes of 70,000 more or less are within 0.1 % and not exact, 71 are too much."""
    near, far = flows()
    verdict = verdict_of(flows(), record(near, sent=sent), record(far))
    assert not verdict.exact
    assert (not verdict.problems) is passes


def other_port(records: list[Line]) -> None:
    """Of another flow than the one that moved."""
    records[0]["destination"]["port"] = 7002


def other_namespace(records: list[Line]) -> None:
    """The same tuple somewhere else."""
    records[0]["tracer"]["netns"] = HOME


def other_transport(records: list[Line]) -> None:
    """As TCP."""
    records[0]["network"]["transport"] = "tcp"


def other_process(records: list[Line]) -> None:
    """The far one's, told of one that the generator does not know."""
    records[1]["process"]["entity_id"] = entity_id(BOOT, 4242, 1)


def other_direction(records: list[Line]) -> None:
    """Sent as received."""
    records[0]["source"], records[0]["destination"] = records[0]["destination"], records[0]["source"]


def more(records: list[Line]) -> None:
    """A flow that nobody had."""
    records.append(record(flows()[0], flow_id="more") | {"destination": {"ip": "192.0.2.9", "port": 9, "bytes": 1}})


def fewer(records: list[Line]) -> None:
    """One end is not told."""
    records.pop()


def other_messages(records: list[Line]) -> None:
    """The right bytes in the wrong number of datagrams."""
    records[0]["source"]["packets"] += 1


def other_way(records: list[Line]) -> None:
    """Not how it went."""
    records[0]["tracer"]["via"] = ["io_uring"]


@pytest.mark.parametrize(
    "doctor",
    [
        other_port,
        other_namespace,
        other_transport,
        other_process,
        other_direction,
        more,
        fewer,
        other_messages,
        other_way,
    ],
    ids=lambda doctor: doctor.__name__,
)
def test_what_is_wrong_is_found(doctor: Callable[[list[Line]], None]) -> None:
    """Every doctored output has a problem."""
    records = [record(each) for each in flows()]
    doctor(records)
    assert verdict_of(flows(), *records).problems


def test_the_wrong_owner_is_named() -> None:
    """Bytes that are told of another process say of which."""
    near, far = flows()
    stranger = entity_id(BOOT, 4242, 1)
    wrong = record(far) | {"process": {"entity_id": stranger}}
    assert any(stranger in problem for problem in verdict_of(flows(), record(near), wrong).problems)


def test_the_last_record_of_a_flow_counts() -> None:
    """Of updates, which are totals, the last counts, and a record without bytes takes none away."""
    near, far = flows()
    silent = record(near)
    for side in ("source", "destination", "network"):
        del silent[side]["bytes"]
    records = [record(near, sent=1), record(near, sent=500), record(near), silent, record(far)]
    assert verdict_of(flows(), *records).exact


def test_flows_of_one_tuple_add_up() -> None:
    """Two flows of a process with the same ends, as raw sockets have them, are held against the sum of its counts."""
    near, far = flows()
    halves = [
        record(near, "one", sent=30_000, sends=3),
        record(near, "two", sent=40_000, received=0, sends=4, receives=0),
    ]
    assert verdict_of(flows(), *halves, record(far)).exact


def test_a_socket_that_is_bound_to_no_address() -> None:
    """It is right with and without the address that its bytes went by, and wrong with another port."""
    near, far = flows()
    wide = [near._replace(local="0.0.0.0"), far]
    assert verdict_of(wide, record(near), record(far)).exact
    assert verdict_of(wide, record(wide[0]), record(far)).exact
    assert verdict_of(wide, record(near._replace(local_port=40002)), record(far)).problems


def test_less_on_the_wire_than_was_sent_is_implausible() -> None:
    """One byte fewer than the payload in either direction is a problem, wherever the tracer agrees."""
    records = [record(each) for each in flows()]
    for wire in (WIRE._replace(out=Wire(69_999, 7)), WIRE._replace(back=Wire(29_999, 11))):
        assert any("nftables" in problem for problem in verdict_of(flows(), *records, wire=wire).problems)


def test_what_the_kernel_lacks_is_no_failure() -> None:
    """It has the generator's reason and no other problem; a row that failed has what went wrong."""
    missing = judge(Ran(ROW, [], missing="socket: EPROTONOSUPPORT"), WIRE, (NEAR, FAR), stream_of(ledger()))
    failed = judge(Ran(ROW, [], failed="line 7"), WIRE, (NEAR, FAR), stream_of(ledger()))
    assert (missing.missing, missing.problems) == ("socket: EPROTONOSUPPORT", ())
    assert failed.problems == ("line 7",)


SPOT = "bytes that vsock sockets send (a module that was not loaded, or that does not tell its types)"


def coverage(*blind: str) -> Line:
    """A coverage record that says what can't be seen."""
    own = {"coverage": {"blind": list(blind)}}
    return {"event": {"action": "tracer-coverage"}, "host": {"boot": {"id": BOOT}}, "tracer": own}


def test_what_nobody_sees_here_is_no_pass() -> None:
    """Where the coverage record says so nothing of it may be told: then the row is neither exact nor wrong."""
    truth = [each._replace(transport="vsock") for each in flows()]
    unseen = verdict_of(truth, coverage("other things", SPOT))
    assert (unseen.unseen, unseen.problems, unseen.exact) == (SPOT, (), False)
    assert verdict_of(truth, coverage("bytes that packet sockets send")).problems
    told = verdict_of(truth, coverage(SPOT), *map(record, truth))
    assert [problem for problem in told.problems if SPOT in problem]
    right = verdict_of(flows(), *map(record, flows()))
    assert Report([right, unseen], {}, (), 1.0).passed
    assert not Report([unseen], {}, (), 1.0).passed
    assert as_json(Report([right, unseen], {}, (), 1.0))["rows"][1]["verdict"] == f"can't here: {SPOT}"


def test_vsock_has_no_ends() -> None:
    """It is told of its process, without addresses or ports."""
    truth = [each._replace(transport="vsock") for each in flows()]
    records = [record(each) for each in truth]
    for each in records:
        for end in ("source", "destination"):
            each[end] = {name: each[end][name] for name in ("bytes", "packets")}
    assert verdict_of(truth, *records).exact
    assert not verdict_of(truth, *records).problems


def test_sctp_without_its_peer() -> None:
    """What SCTP sends later to one of many peers may be told without it: it counts, unless there are two it may be."""
    near, far = (each._replace(transport="sctp") for each in flows())
    early, late = record(near, sent=69_000, sends=6), record(near, "late", sent=1000, received=0, sends=1, receives=0)
    late["destination"] = {name: late["destination"][name] for name in ("bytes", "packets")}
    assert verdict_of([near, far], early, late, record(far)).exact
    other = near._replace(remote_port=7002, sent=0, received=0, sends=0, receives=0)
    assert verdict_of([near, far, other], early, late, record(far)).problems


@pytest.mark.parametrize("term", ["moved", "flows", "unplaced", "filtered", "lost"])
def test_the_account_of_all_bytes_is_exact(term: str) -> None:
    """As it is there is no problem; one byte more in any term is one."""
    records = [record(each) for each in flows()]
    right = {"moved": 200_000, "flows": 200_000, "unplaced": 0, "filtered": 0, "lost": 0}
    assert not list(byte_problems(stream_of(*records, ledger())))
    assert list(byte_problems(stream_of(*records, ledger(**{term: right[term] + 1}))))


def test_a_stream_without_an_account_is_told() -> None:
    """No ledger, no proof."""
    assert list(byte_problems(stream_of(record(flows()[0]))))


def test_the_report_fails_with_any_row() -> None:
    """A wrong row or a session with a problem fails; a row that can't be here does not, unless there is no other."""
    right = verdict_of(flows(), *map(record, flows()))
    wrong = verdict_of(flows(), ledger())
    absent = Verdict("sctp", missing="socket: EPROTONOSUPPORT")
    assert Report([right, absent], {}, (), 1.0).passed
    assert not Report([right, wrong], {}, (), 1.0).passed
    assert not Report([right], {}, ("a problem",), 1.0).passed
    assert not Report([absent], {}, (), 1.0).passed
    text = as_text(Report([right, wrong, absent], {"moved": 3}, (), 1.0)).splitlines()
    assert text[1].split() == ["udp", "udp", "syscall", *["100000"] * 4, "36", "70196", "30308", "exact"]
    assert text[3].endswith("not here: socket: EPROTONOSUPPORT")
    told = as_json(Report([right, wrong], {"moved": 3}, (), 1.0))
    assert [row["verdict"] for row in told["rows"]] == ["exact", "WRONG"]
    assert told["passed"] is False


def test_the_generators_lines() -> None:
    """Its flows are taken, whatever else it says."""
    lines = [{"what": "clock", "boot_ns": 1}, {"what": "flow", **flows()[0]._asdict()}]
    assert list(flows_of(lines)) == [flows()[0]]
