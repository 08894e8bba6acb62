"""Flows have the names that DNS led to them by, or that they say themselves; answers of DNS are events."""

import tracemalloc
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import wire
from tests.names import makers
from tests.wire import NOW as T
from tracer.model import RING_KINDS, Answered, Kind, Names, Role, SocketEvent
from tracer.pipeline import naming
from tracer.pipeline.engine import Engine
from tracer.pipeline.order import SLACK_NS
from tracer.pipeline.turns import Moves, Turn
from tracer.pipeline.view import Filters
from tracer.probes import records

ALL = Filters(kinds=frozenset(RING_KINDS) | {Kind.UPDATE})
OUT, IN = records.OUT, records.IN
SERVER = bytes(10) + b"\xff\xff\x5d\xb8\xd7\x0e"  # 93.184.215.14
RESOLVER = bytes(10) + b"\xff\xff\x0a\x00\x00\x35"  # 10.0.0.53
UDP: dict[str, Any] = {"protocol": 17}
DNS: dict[str, Any] = {**UDP, "sport": 5353 + 40_000, "dport": 53, "daddr": RESOLVER}


@pytest.fixture(name="engine")
def _engine() -> Engine:
    """An engine that reads names and shows everything."""
    engine = Engine(wire.BOOT_ID, ALL)
    engine.read_names(with_quic=True)
    return engine


class Stream:
    """Records in the order in which they are made, a turn at a time."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.time = T
        self.seq = 0
        self.payloads = 0
        self.kinds: Counter[Kind] = Counter()

    def _next(self, kind: Kind) -> dict[str, int]:
        self.time += 1000
        self.seq += 1
        self.kinds[kind] += 1
        return {"time": self.time, "seq": self.seq - 1}

    def socket(self, kind: Kind, **fields: Any) -> SocketEvent:
        """What comes of a socket record."""
        given: dict[str, Any] = {"daddr": SERVER} | self._next(kind) | fields
        if given.get("protocol") == 17:
            given = {"type": 2, "socket": 77, "role": Role.SENT} | given
        (event,) = self.engine.feed(self.turn(wire.socket(kind, **given)))
        assert isinstance(event, SocketEvent)
        return event

    def first_bytes(self, data: bytes, **fields: Any) -> bytes:
        """A record of first bytes."""
        given: dict[str, Any] = {"daddr": SERVER, "direction": OUT} | self._next(Kind.PAYLOAD) | fields
        return wire.payload(data, **given)

    def payload(self, data: bytes, **fields: Any) -> list[Answered]:
        """What comes of such a record."""
        return self.feed(self.first_bytes(data, **fields))

    def feed(self, *items: bytes) -> list[Answered]:
        """What comes of records of first bytes."""
        found = self.engine.feed(self.turn(*items))
        assert all(isinstance(event, Answered) for event in found)
        return [event for event in found if isinstance(event, Answered)]

    def turn(self, *items: bytes, last: bool = False) -> Turn:
        """A turn with these records, all of which can go on at once."""
        counts = {(0, kind): {"attempts": count, "emitted": count} for kind, count in self.kinds.items()}
        run = wire.ring_run(*items, ring=1)
        return wire.turn(
            run, now=self.time, drained_at=self.time + SLACK_NS + 1, last=last, counters=wire.tallies(counts)
        )

    def resolves(self, name: str = "www.example.org.", *addresses: str, **fields: Any) -> list[Answered]:
        """A process asks a resolver and is answered."""
        found = [(name, 60, "A", address) for address in addresses or ("93.184.215.14",)]
        given = {**DNS, "flow": 77} | fields
        assert self.payload(makers.dns_query(name), **given) == []
        return self.payload(makers.dns_answer(found, name), **{**given, "direction": IN})

    def ledger(self) -> dict[str, Any]:
        """The account after all that was delivered."""
        self.engine.delivered(self.engine.queued.copy())
        body: dict[str, Any] = self.engine.statement(self.turn(last=True)).body["ledger"]
        return body


@pytest.fixture(name="stream")
def _stream(engine: Engine) -> Stream:
    """Records for it."""
    return Stream(engine)


def named(event: SocketEvent) -> Names:
    """The names of an event that has some."""
    assert event.names is not None
    return event.names


def test_an_answer_is_an_event_and_names_the_next_connection(stream: Stream) -> None:
    """The process that asked has an event with all that was answered, and its connection has the name, to its end."""
    (answer,) = stream.resolves()
    assert answer.process is not None
    assert answer.process.tgid == 4242
    assert (answer.protocol, answer.transport, answer.number, answer.code) == ("dns", "udp", 17, "NOERROR")
    assert (answer.local, answer.local_port, answer.remote, answer.remote_port) == ("10.0.0.1", 45353, "10.0.0.53", 53)
    assert answer.question == (b"www.example.org", "A", "IN")
    assert [tuple(each) for each in answer.answers] == [(b"www.example.org", "A", "IN", 60, b"93.184.215.14")]
    assert answer.addresses == ("93.184.215.14",)
    assert answer.id == 4711
    assert not answer.cut
    assert not answer.malformed
    assert not answer.late
    for kind in (Kind.CONNECT, Kind.CLOSE):
        names = named(stream.socket(kind))
        assert (names.domain, names.source, names.how) == (b"www.example.org", "dns", "process")
        assert names.asked == (b"www.example.org",)
        assert not names.protocol
    body = stream.ledger()
    assert body["balanced"]
    assert body["complete"]
    row = body["by_kind"]["payload"]
    assert (row["attempts"], row["delivered"], row["aggregated"]) == (2, 1, 1)


def test_another_process_and_another_namespace(stream: Stream) -> None:
    """What another process asked for is marked so, and of another network namespace nothing is known."""
    stream.resolves()
    other = stream.socket(Kind.CONNECT, flow=2, tgid=5, tid=5)
    assert (named(other).domain, named(other).how) == (b"www.example.org", "netns")
    assert stream.socket(Kind.CONNECT, flow=3, netns=9).names is None


def test_a_resolver_is_known_by_its_port(stream: Stream) -> None:
    """What a process learns that listens on port 53 is learned for others."""
    stream.socket(Kind.LISTEN, sport=53, dport=0, daddr=bytes(16), tgid=9, tid=9, flow=8)
    stream.resolves(tgid=9, tid=9)
    assert named(stream.socket(Kind.CONNECT, flow=2)).how == "resolver"


def test_who_calls_is_given_no_name(stream: Stream) -> None:
    """An address from which a connection comes may have been asked for by anybody: that says nothing of the caller."""
    stream.resolves()
    assert stream.socket(Kind.ACCEPT, role=Role.ACCEPT).names is None


def test_a_failed_connect_has_the_name(stream: Stream) -> None:
    """Also what never came about was meant for somebody."""
    stream.resolves()
    assert named(stream.socket(Kind.CONNECT, error=111)).domain == b"www.example.org"


def test_a_failed_answer_is_told(stream: Stream) -> None:
    """A name that does not exist is an answer too, and names nothing."""
    assert stream.payload(makers.dns_query(), **DNS) == []
    (answer,) = stream.payload(makers.dns_answer([], rcode=3), **DNS | {"direction": IN})
    assert (answer.code, answer.answers, answer.addresses) == ("NXDOMAIN", (), ())
    assert stream.socket(Kind.CONNECT).names is None


def test_an_answer_finds_who_asked(stream: Stream) -> None:
    """Where nobody knows whose socket an answer comes to, it is of who asked from there."""
    query, answer = makers.dns_query(), makers.dns_answer([("www.example.org.", 60, "A", "93.184.215.14")])
    stream.payload(query, **DNS, flow=0)
    (event,) = stream.payload(answer, **DNS, flow=0, direction=IN, tgid=0, tid=0, start=0)
    assert event.process is not None
    assert event.process.tgid == 4242
    (stranger,) = stream.payload(answer, **DNS | {"sport": 9}, flow=0, direction=IN, tgid=0, tid=0, start=0)
    assert stranger.process is None
    assert named(stream.socket(Kind.CONNECT)).domain == b"www.example.org"


def test_what_was_not_asked_for_is_told_and_not_believed(stream: Stream) -> None:
    """An answer to no question is an event, but no flow is named by it."""
    answer = makers.dns_answer([("evil.example.", 60, "A", "93.184.215.14")], "evil.example.")
    assert len(stream.payload(answer, **DNS, direction=IN)) == 1
    assert stream.socket(Kind.CONNECT).names is None


def test_an_answer_that_cannot_be_read_resolves_nothing(stream: Stream) -> None:
    """Of a malformed answer the question is told and nothing else."""
    answer = makers.dns_answer([("www.example.org.", 60, "A", "93.184.215.14")] * 2)
    stream.payload(makers.dns_query(), **DNS)
    (event,) = stream.payload(answer[:-14], **DNS, direction=IN)
    assert event.malformed
    assert event.question == (b"www.example.org", "A", "IN")
    assert (event.answers, event.addresses) == ((), ())
    assert stream.socket(Kind.CONNECT).names is None


def test_aliases_are_told(stream: Stream) -> None:
    """A name that is an alias leads to the address over the names between, which are told."""
    found = [("www.example.org.", 60, "CNAME", "cdn.example."), ("cdn.example.", 60, "A", "93.184.215.14")]
    stream.payload(makers.dns_query(), **DNS)
    (answer,) = stream.payload(makers.dns_answer(found), **DNS, direction=IN)
    assert [each.data for each in answer.answers] == [b"cdn.example", b"93.184.215.14"]
    names = named(stream.socket(Kind.CONNECT))
    assert (names.domain, names.asked) == (b"www.example.org", (b"www.example.org", b"cdn.example"))


def test_several_answers_in_one_record(stream: Stream) -> None:
    """Two answers that come in one segment of TCP are two events, in order, and the account holds."""
    tcp = {"dport": 53, "flow": 4, "direction": IN}
    stream.socket(Kind.CONNECT, flow=4, dport=53)
    found = [makers.dns_answer([], f"{name}.example.", number=number) for number, name in ((1, "one"), (2, "two"))]
    events = stream.payload(b"".join(len(each).to_bytes(2, "big") + each for each in found), **tcp)
    assert [event.question and event.question[0] for event in events] == [b"one.example", b"two.example"]
    assert {event.transport for event in events} == {"tcp"}
    assert named(stream.socket(Kind.CLOSE, flow=4, dport=53)).protocol == "dns"
    body = stream.ledger()
    assert body["balanced"]
    row = body["by_kind"]["payload"]
    assert (row["attempts"], row["delivered"], row["aggregated"]) == (2, 2, 0)


def test_a_hello_names_what_follows(stream: Stream) -> None:
    """The name that a client says shows in all that is told of the flow from then on, to what is read after its end."""
    assert stream.socket(Kind.CONNECT).names is None
    stream.payload(makers.records(makers.browser_hello(b"WWW.Example.org")))
    names = named(stream.socket(Kind.OWNER, tgid=7, tid=7))
    assert (names.domain, names.source, names.how) == (b"www.example.org", "tls", "")
    assert (names.protocol, names.server_name, names.version, names.ech) == ("tls", b"www.example.org", 0x0304, True)
    assert names.offered == (b"h2", b"http/1.1")
    for kind in (Kind.CLOSE, Kind.TAIL):
        assert stream.socket(kind).names == names


def test_a_hello_in_pieces(stream: Stream) -> None:
    """Of a hello in two segments the name is known with the second, and one that never ends is told at the close."""
    hello = makers.records(makers.browser_hello())
    stream.socket(Kind.CONNECT)
    stream.payload(hello[:1400])
    stream.payload(hello[1400:], offset=1400, segment=1)
    assert named(stream.socket(Kind.CLOSE)).domain == b"www.example.org"
    stream.socket(Kind.CONNECT, flow=2)
    stream.payload(hello[:1400], flow=2)
    assert len(stream.engine._naming.recogniser) == 1  # type: ignore[union-attr]
    names = named(stream.socket(Kind.CLOSE, flow=2))
    assert (names.protocol, names.cut) == ("tls", True)
    assert not stream.engine._naming.recogniser  # type: ignore[union-attr]


def test_said_before_it_was_accepted(stream: Stream) -> None:
    """What comes before the accept is of the connection that is accepted then: by its number, or by its ends."""
    said = b"GET / HTTP/1.1\r\nHost: One.Example:8080\r\n\r\n"
    stream.payload(said, direction=IN, tgid=0, tid=0, start=0)
    names = named(stream.socket(Kind.ACCEPT, role=Role.ACCEPT))
    assert (names.domain, names.source, names.host, names.method) == (b"one.example", "http", b"one.example", b"GET")
    ends = {"daddr": SERVER, "sport": 80, "dport": 50_000}
    stream.payload(said, **ends, flow=0, direction=IN, tgid=0, tid=0, start=0)
    assert named(stream.socket(Kind.ACCEPT, **ends, flow=9, role=Role.ACCEPT)).domain == b"one.example"
    assert stream.socket(Kind.ACCEPT, **ends, flow=10, role=Role.ACCEPT).names is None


def test_who_says_it_must_be_who_calls(stream: Stream) -> None:
    """A request that comes back to who connected names nobody."""
    stream.socket(Kind.CONNECT)
    stream.payload(b"GET / HTTP/1.1\r\nHost: one.example\r\n\r\n", direction=IN)
    assert stream.socket(Kind.CLOSE).names is None


@pytest.mark.parametrize(
    ("of_dns", "said", "domain"),
    [
        ("own", b"said.example", (b"asked.example", "dns")),
        ("ambiguous", b"said.example", (b"said.example", "tls")),
        ("other", b"said.example", (b"said.example", "tls")),
        ("none", b"said.example", (b"said.example", "tls")),
        ("other", b"", (b"asked.example", "dns")),
    ],
)
def test_which_name_counts(stream: Stream, of_dns: str, said: bytes, domain: tuple[bytes, str]) -> None:
    """The name that the process itself asked for, if it is the only one; else what it says; else what others asked."""
    if of_dns != "none":
        if of_dns == "ambiguous":
            stream.resolves("first.example.")
        stream.resolves("asked.example.", **({"tgid": 5, "tid": 5} if of_dns == "other" else {}))
    stream.socket(Kind.CONNECT)
    if said:
        stream.payload(makers.records(makers.hello(makers.server_name(said))))
    names = named(stream.socket(Kind.CLOSE))
    assert (names.domain, names.source) == domain
    assert names.server_name == said
    assert (names.how != "") == (names.source == "dns")


def test_an_outer_name_does_not_replace_one_of_dns(stream: Stream) -> None:
    """Where the hello may be encrypted, what it says openly may be of somebody else."""
    stream.resolves("first.example.")
    stream.resolves("asked.example.")
    stream.socket(Kind.CONNECT)
    stream.payload(makers.records(makers.browser_hello(b"outer.example")))
    names = named(stream.socket(Kind.CLOSE))
    assert (names.domain, names.source, names.ambiguous) == (b"asked.example", "dns", True)
    assert (names.server_name, names.ech) == (b"outer.example", True)


def test_quic(stream: Stream) -> None:
    """A flow of QUIC has its name when it is opened, or, with a hello in two datagrams, once that is whole."""
    flow = {**UDP, "daddr": SERVER}
    (datagram,) = makers.quic_datagrams()[:1]
    stream.payload(datagram, **flow, flow=77)
    names = named(stream.socket(Kind.FLOW, **flow))
    assert (names.domain, names.source, names.protocol, names.server_name) == (
        b"quic.example.org",
        "quic",
        "quic",
        b"quic.example.org",
    )
    assert names.offered == (b"h3",)
    other = {**flow, "sport": 40_001}
    datagrams = makers.quic_datagrams(protocols=[f"protocol-{number}" for number in range(80)])
    stream.payload(datagrams[0], **other, flow=78)
    assert stream.socket(Kind.FLOW, **other, flow=2, socket=78).names is None
    for number, each in enumerate(datagrams[1:], 1):
        stream.payload(each, **other, flow=78, segment=number)
    assert named(stream.socket(Kind.FLOW_END, **other, flow=2, socket=78)).domain == b"quic.example.org"


def test_a_socket_that_two_processes_use(stream: Stream) -> None:
    """Both parts of a socket go to the same peer: they have the same names."""
    flow = {**UDP, "daddr": SERVER}
    stream.payload(makers.quic_datagrams()[0], **flow, flow=77)
    first = stream.socket(Kind.FLOW, **flow)
    assert stream.socket(Kind.FLOW, **flow, flow=2, tgid=5, tid=5).names == first.names is not None


def test_updates_have_the_names(stream: Stream) -> None:
    """What a flow has moved so far is told with its names, also of another process that uses it."""
    stream.socket(Kind.CONNECT)
    stream.socket(Kind.OWNER, tgid=7, tid=7, slot=4)
    stream.payload(b"GET / HTTP/1.1\r\nHost: one.example\r\n\r\n")
    parts = b"".join(
        records.PLACED.pack(place, 1, T - wire.SECOND, 5, 5, 1, 1, tgid, 1, 0) for place, tgid in ((2, 4242), (3, 7))
    )
    events = stream.engine.feed(Moves(stream.time, parts, 20, 0, 0, 0, True))
    assert [isinstance(event, SocketEvent) and named(event).domain for event in events] == [b"one.example"] * 2


def test_without_names_the_records_are_accounted_for() -> None:
    """An engine that reads no names takes the records as they come, and its account holds."""
    engine = Engine(wire.BOOT_ID, ALL)
    stream = Stream(engine)
    assert stream.resolves() == []
    assert stream.socket(Kind.CONNECT).names is None
    body = stream.ledger()
    assert body["balanced"]
    assert body["by_kind"]["payload"]["aggregated"] == 2


def test_answers_are_filtered_like_sockets() -> None:
    """Filters for processes, ports, networks and events hold for answers too, and what is left out is accounted for."""
    for filters, shown in (
        (Filters(kinds=frozenset({Kind.PAYLOAD})), True),
        (Filters(kinds=frozenset({Kind.CONNECT})), False),
        (Filters(comms=["prog*"]), True),
        (Filters(comms=["other"]), False),
        (Filters(ports=frozenset({53})), True),
        (Filters(ports=frozenset({54})), False),
        (Filters(cidrs=["10.0.0.53/32"]), True),
        (Filters(cidrs=["192.0.2.0/24"]), False),
        (Filters(netns=frozenset({0})), True),
        (Filters(netns=frozenset({1})), False),
    ):
        engine = Engine(wire.BOOT_ID, filters)
        engine.read_names(with_quic=False)
        stream = Stream(engine)
        assert len(stream.resolves()) == shown, filters
        body = stream.ledger()
        assert body["balanced"]
        assert body["by_kind"]["payload"]["filtered"] == (not shown)


def test_nobodys_answers_are_not_of_a_wanted_process() -> None:
    """With a filter for pids, which the kernel side applies, what came to nobody who is known is left out."""
    engine = Engine(wire.BOOT_ID, Filters(pids=frozenset({4242})))
    engine.read_names(with_quic=False)
    stream = Stream(engine)
    answer = makers.dns_answer([])
    assert len(stream.payload(answer, **DNS, direction=IN)) == 1
    assert stream.payload(answer, **DNS | {"sport": 9}, direction=IN, tgid=0, tid=0, start=0) == []


def test_names_that_had_to_go_are_counted(stream: Stream) -> None:
    """What was said before a flow was told of is kept for so many flows; of more, and for longer, it is forgotten."""
    said = b"GET / HTTP/1.1\r\nHost: one.example\r\n\r\n"
    flows = range(1, naming.WAITING_MOST + 3)
    stream.feed(*(stream.first_bytes(said, flow=flow, direction=IN) for flow in flows))
    assert stream.socket(Kind.ACCEPT, role=Role.ACCEPT, flow=2).names is None
    assert named(stream.socket(Kind.ACCEPT, role=Role.ACCEPT, flow=3)).domain == b"one.example"
    stream.time += 61 * wire.SECOND
    assert stream.socket(Kind.ACCEPT, role=Role.ACCEPT, flow=4).names is None
    body = stream.ledger()
    assert body["missed"]["programs"] == {"names": 2}
    assert not body["complete"]


def test_memory_is_bounded(stream: Stream) -> None:
    """However many flows say however many names that nobody asks for, what is kept of them is bounded."""

    def many(begin: int) -> None:
        items = []
        for number in range(begin, begin + 6000):
            said = b"GET / HTTP/1.1\r\nHost: %d.example\r\n\r\n" % number
            items.append(stream.first_bytes(said, flow=number, direction=IN))
            asked = makers.dns_query(f"{number}.example.")
            items.append(stream.first_bytes(asked, **DNS | {"sport": number % 60_000 + 1}))
        stream.feed(*items)

    many(1)
    tracemalloc.start()
    try:
        many(6001)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown < 1 << 23, grown


@given(st.binary(max_size=600), st.integers(0, 255), st.integers(0, 255), st.sampled_from([0, 53, 443, 5353]))
def test_hostile_records(data: bytes, protocol: int, direction: int, port: int) -> None:
    """Whatever the bytes of a record are, it is an answer or aggregated, and the account holds."""
    engine = Engine(wire.BOOT_ID, ALL)
    engine.read_names(with_quic=True)
    stream = Stream(engine)
    stream.socket(Kind.CONNECT)
    stream.payload(data, protocol=protocol, direction=direction, dport=port)
    stream.socket(Kind.CLOSE)
    assert stream.ledger()["balanced"]
