"""An address has the name that was asked for to get it, for who asked, as long as the answer holds."""

import random
import tracemalloc
from typing import Any

import pytest

from tracer.names.dns import Answer, Message, Question
from tracer.pipeline.names import ADDRESSES_MOST, HOLDERS_MOST, QUESTIONS_MOST, RESOLVERS_MOST, Heard, Known, NameTable

S = 1_000_000_000
NETNS = 4026531840
A, CNAME, AAAA = 1, 5, 28


def address(name: bytes, text: str, ttl: int = 60) -> Answer:
    """A record with an address."""
    return Answer(name, AAAA if ":" in text else A, 1, ttl, b"", text)


def alias(name: bytes, target: bytes, ttl: int = 60) -> Answer:
    """A record with another name."""
    return Answer(name, CNAME, 1, ttl, target, "")


def message(name: bytes, *answers: Answer, response: bool = True, number: int = 7, rcode: int = 0) -> Message:
    """A message that asks for the IPv4 address of a name, or answers that."""
    questions = (Question(name, A, 1),) if name else ()
    return Message(number, response, 0, rcode, ("RD",), questions, answers, len(answers), -1, False, False)


class Network:
    """A table, and processes that ask and are answered."""

    def __init__(self, **bounds: int) -> None:
        self.table = NameTable(**bounds)

    def asks(self, name: bytes, process: str = "curl", time: int = 0, netns: int = NETNS, number: int = 7) -> None:
        """A process sends a question."""
        asked = message(name, response=False, number=number)
        self.table.heard(Heard(time, netns, process, True, "dns", asked))

    def hears(
        self, name: bytes, *answers: Answer, process: str = "curl", time: int = 0, netns: int = NETNS, number: int = 7
    ) -> None:
        """A process is sent an answer."""
        self.table.heard(Heard(time, netns, process, False, "dns", message(name, *answers, number=number)))

    def learns(self, name: bytes, *answers: Answer, process: str = "curl", time: int = 0, netns: int = NETNS) -> None:
        """A process asks and is answered."""
        self.asks(name, process, time, netns)
        self.hears(name, *answers, process=process, time=time, netns=netns)

    def name(self, text: str, process: str = "curl", time: int = 0, netns: int = NETNS) -> tuple[bytes, str] | None:
        """The name of an address and how it is known."""
        known = self.table.name_of(netns, text, process, time)
        return known and (known.name, known.how)


def test_own_question() -> None:
    """Who asked knows the address by the name that it asked for, in lower case, IPv4 and IPv6."""
    network = Network()
    network.learns(
        b"WWW.example.org", address(b"www.EXAMPLE.org", "192.0.2.1"), address(b"www.example.org", "2001:db8::1")
    )
    assert network.name("192.0.2.1") == (b"www.example.org", "process")
    assert network.name("2001:db8::1") == (b"www.example.org", "process")
    assert network.name("192.0.2.2") is None


def test_chain() -> None:
    """An alias leads to the name that was asked for, in whatever order the records are, with the names between."""
    network = Network()
    records = [
        address(b"edge.example.com", "192.0.2.1", 30),
        alias(b"cdn.example.net", b"Edge.example.com", 10),
        alias(b"www.example.org", b"cdn.example.net", 300),
    ]
    network.learns(b"www.example.org", *records)
    expected = Known(b"www.example.org", "process", (b"cdn.example.net", b"edge.example.com"), False)
    assert network.table.name_of(NETNS, "192.0.2.1", "curl", 10 * S - 1) == expected
    assert network.name("192.0.2.1", time=10 * S) is None  # the shortest time to live of the chain


def test_aliases_in_a_ring() -> None:
    """Aliases of each other lead nowhere, and the search for an address ends."""
    network = Network()
    network.learns(b"a", alias(b"a", b"b"), alias(b"b", b"a"), address(b"c", "192.0.2.1"))
    assert network.name("192.0.2.1") is None
    assert len(network.table) == 0


def test_strange_records() -> None:
    """A record that the question does not lead to is not believed: it may be there to mislead."""
    network = Network()
    chaos = address(b"a.example", "192.0.2.67")._replace(class_=3)
    network.learns(b"a.example", address(b"a.example", "192.0.2.1"), address(b"bank.example", "192.0.2.66"), chaos)
    assert network.name("192.0.2.66") is None
    assert network.name("192.0.2.67") is None
    assert network.name("192.0.2.1") == (b"a.example", "process")


def test_time_to_live() -> None:
    """A name holds until its time is over, at least five seconds, at most a week; hearing it again renews it."""
    network = Network()
    network.learns(b"a", address(b"a", "192.0.2.1", 20), address(b"a", "192.0.2.2", 0))
    assert network.name("192.0.2.1", time=20 * S - 1)
    assert network.name("192.0.2.1", time=20 * S) is None
    assert network.name("192.0.2.2", time=5 * S - 1)
    assert network.name("192.0.2.2", time=5 * S) is None
    network.learns(b"a", address(b"a", "192.0.2.1", 20), time=15 * S)
    assert network.name("192.0.2.1", time=35 * S - 1)
    network.learns(b"long", address(b"long", "192.0.2.3", 0x7FFFFFFF))
    assert network.name("192.0.2.3", time=7 * 86_400 * S - 1)
    assert network.name("192.0.2.3", time=7 * 86_400 * S) is None


def test_who_else() -> None:
    """Another process of the namespace is told how far the name can be trusted; another namespace knows nothing."""
    network = Network()
    network.learns(b"a", address(b"a", "192.0.2.1"), process="dig")
    assert network.name("192.0.2.1", "curl") == (b"a", "netns")
    assert network.name("192.0.2.1", "dig") == (b"a", "process")
    assert network.name("192.0.2.1", "dig", netns=1) is None


def test_resolver() -> None:
    """What a resolver heard comes before what any process heard, and after what the process itself did."""
    network = Network()
    network.learns(b"resolved", address(b"resolved", "192.0.2.1"), process="systemd-resolved", time=1)
    network.learns(b"other", address(b"other", "192.0.2.1"), process="dig", time=2)
    assert network.name("192.0.2.1", time=3) == (b"other", "netns")
    network.table.serves(NETNS, "systemd-resolved")
    assert network.name("192.0.2.1", time=3) == (b"resolved", "resolver")
    network.learns(b"own", address(b"own", "192.0.2.1"), process="curl", time=0)
    assert network.name("192.0.2.1", time=3) == (b"own", "process")
    assert network.name("192.0.2.1", netns=1) is None


def test_who_answers_is_a_resolver() -> None:
    """A process that is seen to answer a question is a resolver of that namespace, and no answer of its own counts."""
    network = Network()
    network.learns(b"a", address(b"a", "192.0.2.1"), process="dnsmasq")
    answer = message(b"b", address(b"b", "192.0.2.2"))
    network.table.heard(Heard(0, NETNS, "dnsmasq", True, "dns", answer))
    network.table.heard(Heard(0, NETNS, "avahi", True, "mdns", answer))
    assert network.name("192.0.2.1") == (b"a", "resolver")
    assert network.name("192.0.2.2") is None
    assert list(network.table._resolvers) == [(NETNS, "dnsmasq")]


def test_two_names() -> None:
    """Where an address is known by two names in the same way, the last is given, and that there are two."""
    network = Network()
    network.learns(b"a", address(b"a", "192.0.2.1", 60), process="one", time=0)
    network.learns(b"b", address(b"b", "192.0.2.1", 30), process="two", time=1)
    table = network.table
    assert table.name_of(NETNS, "192.0.2.1", "three", 2) == Known(b"b", "netns", (), True)
    assert table.name_of(NETNS, "192.0.2.1", "three", 40 * S) == Known(b"a", "netns", (), False)
    assert table.name_of(NETNS, "192.0.2.1", "one", 2) == Known(b"a", "process", (), False)
    network.learns(b"c", address(b"c", "192.0.2.1", 90), process="one", time=3)
    network.learns(b"c", address(b"c", "192.0.2.1", 90), process="one", time=4)
    assert table.name_of(NETNS, "192.0.2.1", "one", 5) == Known(b"c", "process", (), True)
    assert table.name_of(NETNS, "192.0.2.1", "one", 61 * S) == Known(b"c", "process", (), False)


@pytest.mark.parametrize(
    "answered",
    [
        pytest.param({"number": 8}, id="another number"),
        pytest.param({"process": "wget"}, id="another process"),
        pytest.param({"netns": 1}, id="another namespace"),
        pytest.param({"time": 61 * S}, id="long after"),
    ],
)
def test_unasked(answered: dict[str, Any]) -> None:
    """An answer to no question of the process is not believed: anyone may have sent it."""
    network = Network()
    network.asks(b"a")
    network.hears(b"a", address(b"a", "192.0.2.1"), **answered)
    assert len(network.table) == 0
    assert network.table.unasked == 1
    other = Network()
    other.asks(b"b")
    other.hears(b"a", address(b"a", "192.0.2.1"))
    other.hears(b"b", address(b"b", "192.0.2.2"))
    other.hears(b"b", address(b"b", "192.0.2.3"))
    assert (len(other.table), other.table.unasked) == (1, 2)


def test_what_does_not_count() -> None:
    """Errors, malformed messages, other operations and what a process says itself teach nothing."""
    network = Network()
    good = message(b"a", address(b"a", "192.0.2.1"))
    wrong = [good._replace(rcode=3), good._replace(malformed=True), good._replace(opcode=5)]
    for one in wrong:
        network.asks(b"a")
        network.table.heard(Heard(0, NETNS, "curl", False, "dns", one))
    network.table.heard(Heard(0, NETNS, "curl", False, "dns", message(b"b", response=False)))
    network.table.heard(Heard(0, NETNS, "curl", False, "dns", message(b"b", address(b"b", "192.0.2.9"))))
    assert len(network.table) == 0


def test_mdns() -> None:
    """What is announced by multicast needs no question, and counts for names that are mDNS's alone."""
    table = NameTable()
    records = [address(b"Printer.local", "192.0.2.1"), address(b"bank.example", "192.0.2.66")]
    table.heard(Heard(0, NETNS, "avahi", False, "mdns", message(b"", *records)))
    assert table.name_of(NETNS, "192.0.2.1", "cups", 1) == Known(b"printer.local", "netns", (), False)
    assert len(table) == 1


def test_bounded_by_process() -> None:
    """One process that asks for everything pushes out its own oldest, and nobody else's."""
    network = Network(most=100, of_process_most=20)
    network.learns(b"mine", address(b"mine", "198.51.100.1"), process="quiet")
    for number in range(50):
        network.learns(b"x", address(b"x", f"192.0.2.{number}"), process="busy", time=number)
    assert len(network.table) == 21
    assert network.table.evicted == 30
    assert network.name("198.51.100.1", "quiet") == (b"mine", "process")
    assert network.name("192.0.2.29", "busy") is None
    assert network.name("192.0.2.30", "busy") == (b"x", "process")


def test_bounded_by_all() -> None:
    """When the table is full the process that has heard nothing for the longest loses its oldest; over is not lost."""
    network = Network(most=10)
    network.learns(b"a", address(b"a", "192.0.2.1", 10), process="first")
    network.learns(b"b", address(b"b", "192.0.2.2", 900), process="second", time=1)
    for number in range(9):
        network.learns(b"x", address(b"x", f"198.51.100.{number}", 900), process=f"{number}", time=20 * S + number)
    assert len(network.table) == 10
    assert network.table.evicted == 0  # the time of the first was over
    network.learns(b"y", address(b"y", "203.0.113.1", 900), process="last", time=30 * S)
    assert network.table.evicted == 1
    assert network.name("192.0.2.2", "second", 30 * S) is None
    assert network.name("198.51.100.0", "0", 30 * S) == (b"x", "process")


def test_holders_of_one_address() -> None:
    """An address that everybody asks for is remembered for the last of them, and for the others by the namespace."""
    network = Network()
    for number in range(HOLDERS_MOST + 5):
        network.learns(b"a", address(b"a", "192.0.2.1"), process=f"{number}", time=number)
    assert len(network.table) == HOLDERS_MOST
    assert network.table.evicted == 5
    assert network.name("192.0.2.1", "0", 99) == (b"a", "netns")
    assert network.name("192.0.2.1", f"{HOLDERS_MOST + 4}", 99) == (b"a", "process")


def test_questions_and_resolvers_are_bounded() -> None:
    """Questions that nobody answers, and processes that answer, are remembered for the last ones only."""
    network = Network()
    for number in range(QUESTIONS_MOST + 10):
        network.asks(b"a", process=f"{number}")
    assert len(network.table._asked) == QUESTIONS_MOST
    for number in range(RESOLVERS_MOST + 10):
        network.table.serves(NETNS, f"{number}")
    assert len(network.table._resolvers) == RESOLVERS_MOST


def test_memory() -> None:
    """Fifty thousand answers take less than 8 MiB, whoever hears them, and the books stay right."""
    random_ = random.Random(5)
    table = NameTable()
    tracemalloc.start()
    for number in range(50_000):
        name = b"%d.example.org" % random_.randrange(50_000)
        process = f"process-{random_.randrange(300)}"
        text = f"10.{random_.randrange(100)}.{random_.randrange(250)}.{random_.randrange(4)}"
        table.heard(Heard(number, NETNS, process, True, "dns", message(name, response=False)))
        table.heard(Heard(number, NETNS, process, False, "dns", message(name, address(name, text))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    assert len(table) == ADDRESSES_MOST == sum(map(len, table._of.values())) == sum(map(len, table._holders.values()))
    assert table.evicted > 20_000
