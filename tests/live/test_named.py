"""Names of real traffic: curl asks dnsmasq and talks to an nginx of several names, aioquic to itself."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live import named_world
from tests.tracing import ABSENT, Event, Trace, find, shorten, value

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

ROOT = Path(__file__).parents[2]
COMMAND = ["unshare", "--net", "--mount", "--propagation", "private", sys.executable, "-m", "tests.live.named_world"]
TELLING = {"connection-opened", "connection-update", "connection-closed"}


class World(NamedTuple):
    """What was done, and what the tracer told of it."""

    truth: list[dict[str, Any]]
    events: list[Event]

    def done(self, what: str) -> list[dict[str, Any]]:
        """The lines of one kind."""
        return [line for line in self.truth if line["what"] == what]


def watched(*args: str) -> World:
    """All of it under a tracer with these arguments."""
    with tempfile.TemporaryDirectory() as directory, Trace(*args) as trace:
        done = subprocess.run([*COMMAND, directory], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    trace.assert_complete()
    return World([json.loads(line) for line in done.stdout.splitlines()], trace.events)


@pytest.fixture(name="world", scope="module")
def _world() -> World:
    """All of it, with names."""
    return watched()


def test_the_programs_did_what_they_should(world: World) -> None:
    """Each curl got the page of the name that it asked for, and QUIC shook hands: else the rest says nothing."""
    fetched = {line["name"]: (line["code"], line["body"]) for line in world.done("curl")}
    assert fetched == {name: (0, name) for name in (*named_world.NAMES, named_world.ALIAS)}
    assert [line["name"] for line in world.done("quic")] == [named_world.QUIC_NAME]


@pytest.mark.parametrize("name", [*named_world.NAMES, named_world.ALIAS])
def test_a_client_of_tls(world: World, name: str) -> None:
    """Curl's answers are told; its connection has the name from DNS when it is opened, and that of TLS at its close."""
    (line,) = [line for line in world.done("curl") if line["name"] == name]
    answers = find(world.events, "dns-answered", line["pid"], dns__question__name=name)
    assert {event["dns"]["question"]["type"] for event in answers} == {"A", "AAAA"}
    resolved = [address for event in answers for address in event["dns"].get("resolved_ip", [])]
    target = named_world.NAMES.get(name, "127.0.0.13")
    assert resolved == [target]
    (opened,) = find(world.events, "connection-opened", line["pid"], network__transport="tcp")
    assert opened["destination"]["ip"] == target
    assert opened["destination"]["domain"] == name, shorten(opened)
    assert (opened["tracer"]["name"]["from"], opened["tracer"]["name"]["how"]) == ("dns", "process")
    (closed,) = find(world.events, "connection-closed", line["pid"], network__transport="tcp")
    assert closed["destination"]["domain"] == name
    assert closed["tls"]["client"]["server_name"] == name
    assert closed["network"]["protocol"] == "tls"


def test_a_server_of_tls(world: World) -> None:
    """The server's ends of the same connections have the names that its clients asked it for."""
    (nginx,) = world.done("nginx")
    closed = find(world.events, "connection-closed", nginx["pid"], network__protocol="tls")
    assert [event["tls"]["client"]["server_name"] for event in closed] == [*named_world.NAMES, named_world.ALIAS]
    assert {event["network"]["direction"] for event in closed} == {"ingress"}


def test_quic(world: World) -> None:
    """Both ends of a flow of QUIC have the name that its client asked for."""
    (quic,) = world.done("quic")
    flows = find(world.events, pid=quic["pid"], network__transport="udp", network__protocol="quic")
    assert {event["network"]["direction"] for event in flows} == {"egress", "ingress"}, list(map(shorten, flows))
    for direction in ("egress", "ingress"):
        told = [event for event in flows if event["network"]["direction"] == direction]
        assert {value(event, "tls.client.server_name") for event in told} - {ABSENT} == {named_world.QUIC_NAME}
        assert told[-1]["tls"]["client"]["server_name"] == named_world.QUIC_NAME, shorten(told[-1])


def test_the_questions_are_flows_of_dns(world: World) -> None:
    """What went to the resolver is told as DNS, of who asked."""
    for line in world.done("curl"):
        flows = find(world.events, pid=line["pid"], network__transport="udp", destination__port=53)
        closed = [event for event in flows if event["event"]["action"] == "connection-closed"]
        assert {event["network"]["protocol"] for event in closed} == {"dns"}


def test_without_payload_there_are_no_names() -> None:
    """With --no-payload the same flows are told, and nothing of names."""
    world = watched("--no-payload")
    ours = {line["pid"] for line in world.truth}
    events = [event for event in world.events if value(event, "process.pid") in ours]
    assert {event["event"]["action"] for event in events} >= {"connection-opened", "connection-closed"}
    assert not [event for event in events if event["event"]["action"] == "dns-answered"]
    for event in events:
        for field in ("destination.domain", "tls", "dns", "tracer.name", "network.protocol"):
            assert value(event, field) is ABSENT, shorten(event)
