"""Trap 43: answers of DNS that are long, in pieces, over TCP; and answers that are made to break who reads them."""

import ipaddress

import pytest

from tests.tracing import Event, find, shorten, value
from tests.traps.checks import Line, check_time, lines, only
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import check_no_strangers, need_names

pytestmark = pytest.mark.live

ANSWERED = "dns-answered"


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    seen = see(trace, run, "trap_43_dns")
    need_names(seen.events)
    return seen


def answered(seen: Seen, line: Line) -> Event:
    """The event of an answer to the process that asked; the same question asked again has an id of its own."""
    found = find(seen.events, ANSWERED, line["pid"], dns__question__name=line["name"], dns__id=str(line["id"]))
    assert len(found) == 1, (line, [shorten(event) for event in find(seen.events, ANSWERED, line["pid"])])
    return found[0]


def check_answer(seen: Seen, name: str) -> None:
    """A good answer: what was asked, what came of it, all the addresses, over what, for whom."""
    for line in lines(seen.truth, "answer", name=name):
        event = answered(seen, line)
        dns = event["dns"]
        assert dns["question"]["type"] == line["type"], shorten(event)
        assert dns["response_code"] == line["code"], shorten(event)
        addresses = [str(ipaddress.ip_address(text)) for text in line["addresses"]]
        told = dns.get("resolved_ip", [])
        assert told == addresses[: len(told)], (line, shorten(event))
        # More than a record can have is cut, and marked so.
        assert len(told) == len(addresses) or (len(told) >= 32 and value(event, "tracer.truncated")), shorten(event)
        assert event["network"]["transport"] == line["over"], shorten(event)
        assert event["tracer"]["netns"] == line["netns"]
        check_time(seen.truth, event, {"after_ns": line["after_ns"]})


@pytest.mark.parametrize("first", ["plain", "six", "alias", "none"])
def test_answer(seen: Seen, first: str) -> None:
    """IPv4, IPv6, an alias with two addresses by compressed names, and a name that does not exist."""
    check_answer(seen, f"{first}.trap-43.example")


def test_edns(seen: Seen) -> None:
    """An answer longer than 512 bytes, with EDNS at its end."""
    check_answer(seen, "edns.trap-43.example")


def test_stream(seen: Seen) -> None:
    """An answer over TCP, whose length comes in two pieces and the rest in two more."""
    check_answer(seen, "stream.trap-43.example")


def test_long_name(seen: Seen) -> None:
    """Labels of 63 bytes."""
    name = next(line["name"] for line in lines(seen.truth, "answer") if line["name"].startswith("x2345"))
    assert len(name) > 230
    check_answer(seen, name)


@pytest.mark.parametrize(
    "kind", ["loop", "chain", "forward", "cut", "counts", "label", "rdata", "short", "empty", "noise"]
)
def test_bad(seen: Seen, kind: str) -> None:
    """What is no answer resolves nothing: it is ignored, or told as malformed; nothing crashed or was lost."""
    line = only(seen.truth, "bad", kind=kind)
    for event in find(seen.events, ANSWERED, line["pid"]):
        name = value(event, "dns.question.name")
        if name == line["name"]:
            assert value(event, "tracer.dns.malformed") is True, shorten(event)
            assert not value_list(event, "dns.resolved_ip"), shorten(event)
    assert not [event for event in seen.events if "192.0.2.66" in value_list(event, "dns.resolved_ip")]


def value_list(event: Event, path: str) -> list[str]:
    """The list at a path, an empty one where there is none."""
    found = value(event, path)
    return found if isinstance(found, list) else []


def test_all_the_same(seen: Seen) -> None:
    """After all that the next good answer is told like the first one."""
    again = lines(seen.truth, "answer", name="plain.trap-43.example")
    assert len(again) == 2
    assert len({answered(seen, line)["event"]["sequence"] for line in again}) == 2


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    truth, events = seen
    server = only(truth, "server")
    known = [*truth, {"what": "server", "pid": server["udp"]}, {"what": "server", "pid": server["tcp"]}]
    check_no_strangers(known, events)
