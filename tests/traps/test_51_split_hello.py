"""Trap 51: the first message of TLS, in pieces."""

import pytest

from tests.tracing import ABSENT, Event, find, shorten, value
from tests.traps.checks import only
from tests.traps.conftest import MakeTrace, Run, Seen, see
from tests.traps.flows import TELLING, check_flows, check_no_strangers, fits, need_names

pytestmark = pytest.mark.live

SPLIT = ["in-header", "one-byte", "in-name", "in-three", "in-four"]
LONG = ["post-quantum", "post-quantum-split", "name-beyond", "name-beyond-split"]
RECORDS = ["two-records", "two-records-split"]


@pytest.fixture(name="seen", scope="module")
def _seen(trace: MakeTrace, run: Run) -> Seen:
    return see(trace, run, "trap_51_split_hello")


def named(seen: Seen, label: str, *, client: bool) -> list[Event]:
    """The events of an end's flow that have the server's name; there are some, and none has another."""
    truth, events = seen
    hello = only(truth, "hello", label=label)
    line = only(truth, "flow", label=label, egress=client)
    need_names(events)
    told = [
        event for event in find(events, pid=line["pid"]) if event["event"]["action"] in TELLING and fits(event, line)
    ]
    names = [value(event, "tls.client.server_name") for event in told]
    assert set(names) - {ABSENT} == {hello["name"]}, (hello, [shorten(event) for event in told])
    # Once it is known it stays: the last that is said of the flow has it.
    assert names[-1] == hello["name"], (hello, shorten(told[-1]))
    return [event for event in told if value(event, "tls.client.server_name") is not ABSENT]


@pytest.mark.parametrize("label", ["whole", *SPLIT, *LONG, *RECORDS])
def test_name(seen: Seen, label: str) -> None:
    """Whole or in pieces, short or long, in one record or two: both ends have the name that their own hello gave."""
    for event in named(seen, label, client=True) + named(seen, label, client=False):
        assert event["network"]["protocol"] == "tls", shorten(event)
        assert event["tls"]["client"]["server_name"] == f"{label}.trap-51.example", shorten(event)
        assert event["tracer"]["tls"]["offered_protocols"] == ["h2", "http/1.1"], shorten(event)


@pytest.mark.parametrize("label", ["whole", *SPLIT, *LONG, *RECORDS])
def test_bytes(seen: Seen, label: str) -> None:
    """The pieces are counted like all others: once."""
    truth, events = seen
    assert len(check_flows(truth, events, label=label)) == 2


def test_nothing_else(seen: Seen) -> None:
    """No flow of anybody else."""
    check_no_strangers(*seen)
