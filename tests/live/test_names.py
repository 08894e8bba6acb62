"""Names on flows, against what the programs themselves know: curl, nginx and its log, dnsmasq and its log, aioquic."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.live.names_world import ABSENT, ADDRESSES, ALIAS, HTTP, HTTPS, QUIC, QUIC_ADDRESS, World, certify, world
from tests.tracing import ABSENT as MISSING
from tests.tracing import Event, Trace, find, one, shorten, value

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]

# Talks TLS to a server, over a socket to which it gives each message in pieces of so many bytes; many protocols offered
# make a hello as long as one with a key for after quantum computers.
PIECES = """
import socket, ssl, sys
address, port, name, size, protocols, authority = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)
context.set_alpn_protocols([*(f"a-protocol-{number:09}" for number in range(int(protocols))), "http/1.1"])
into, out = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(into, out, server_hostname=name)
sock = socket.create_connection((address, int(port)))
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
first = 0

while True:
    try:
        tls.do_handshake()
        done = True
    except ssl.SSLWantReadError:
        done = False
    data = out.read()
    first = first or len(data)
    while data:
        sock.sendall(data[:int(size)])
        data = data[int(size):]
    if done:
        break
    into.write(sock.recv(65536))
tls.write(b"GET / HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n" % name.encode())
sock.sendall(out.read())
while sock.recv(65536):
    pass
print(first)
"""

QUIC_SERVER = """
import asyncio, sys
from aioquic.asyncio import serve
from aioquic.quic.configuration import QuicConfiguration

async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["h3", "test"])
    configuration.load_cert_chain(sys.argv[3] + ".pem", sys.argv[3] + ".key")
    await serve(sys.argv[1], int(sys.argv[2]), configuration=configuration)
    print("ready", flush=True)
    await asyncio.sleep(300)

asyncio.run(main())
"""

# Asks for the host if it is a name; says the server's name all the same.
QUIC_CLIENT = """
import asyncio, ssl, sys
from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration

async def main():
    host, port, name, protocols = sys.argv[1:]
    offered = [*(f"a-protocol-{number:09}" for number in range(int(protocols))), "test"]
    configuration = QuicConfiguration(is_client=True, alpn_protocols=offered, server_name=name)
    configuration.verify_mode = ssl.CERT_NONE
    async with connect(host, int(port), configuration=configuration, local_port=0) as client:
        await client.ping()
    print("done")

asyncio.run(main())
"""

# Asks over TCP, and goes to the address that it is told.
OVER_TCP = """
import socket, sys, dns.message, dns.query
answer = dns.query.tcp(dns.message.make_query(sys.argv[1], "A"), "127.0.0.1", timeout=20)
address = [each.address for rrset in answer.answer for each in rrset if each.rdtype == 1][0]
with socket.create_connection((address, int(sys.argv[2]))) as sock:
    sock.sendall(b"x")
print(answer.id)
"""

ONLY_CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2]))).close()"


class Told(NamedTuple):
    """What a run of the tracer told of everything that was done in the world."""

    world: World
    events: list[Event]
    ledger: dict[str, Any]
    pids: dict[str, int]
    said: dict[str, str]
    lines: list[bytes]
    replayed: bytes


@pytest.fixture(name="told", scope="module")
def _told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """All of it, done once under one tracer."""
    directory = tmp_path_factory.mktemp("names")
    pids: dict[str, int] = {}
    said: dict[str, str] = {}
    record = directory / "recording"
    with Trace("--record", str(record)) as trace, world(directory) as made:

        def does(label: str, done: tuple[int, str]) -> None:
            pids[label], said[label] = done

        pids["resolver"] = made.resolver()
        pids["web"] = made.web()
        certify(directory, QUIC)
        server = (sys.executable, "-c", QUIC_SERVER, QUIC_ADDRESS, "4433", str(directory / QUIC))
        pids["quic server"] = made.serve(*server, until="ready")
        for name in (*ADDRESSES, ALIAS):
            host = "three.names.test" if name == ALIAS else name
            options = ["--cacert", str(directory / f"{host}.pem")] if name != ALIAS else ["--insecure"]
            does(name, made.curl(f"https://{name}:{HTTPS}/", *options))
        does("plain", made.curl(f"http://one.names.test:{HTTP}/secret?of=mine"))
        does("absent", made.run("curl", "-q", "-sS", f"http://{ABSENT}:{HTTP}/", code=6))
        for label, size, protocols in (("split", 300, 0), ("long", 1400, 70)):
            name = "two.names.test"
            does(
                label,
                made.python(PIECES, ADDRESSES[name], HTTPS, name, size, protocols, directory / f"{name}.pem"),
            )
        does("quic", made.python(QUIC_CLIENT, QUIC, 4433, QUIC, 0))
        does("quic long", made.python(QUIC_CLIENT, QUIC_ADDRESS, 4433, "Long.names.test", 70))
        does("tcp", made.python(OVER_TCP, "three.names.test", HTTP))
        does("connects", made.python(ONLY_CONNECT, ADDRESSES["three.names.test"], HTTP))
    replay = [sys.executable, "-m", "tracer", "replay", "--json", str(record)]
    replayed = subprocess.run(replay, check=True, capture_output=True, timeout=60, cwd=ROOT).stdout
    return Told(made, trace.events, trace.ledger, pids, said, trace.lines, replayed)


def answers(told: Told, label: str, **fields: Any) -> list[Event]:
    """The answers that the program of a label was sent."""
    return find(told.events, "dns-answered", told.pids[label], **fields)


def flows(told: Told, label: str, port: int, action: str = "connection-closed") -> list[Event]:
    """The events of one action of its flows to a port."""
    return [event for event in find(told.events, action, told.pids[label]) if event["destination"].get("port") == port]


def other_end(told: Told, event: Event) -> Event:
    """The event of the same kind of the same flow's other end."""
    return next(
        each
        for each in find(told.events, event["event"]["action"])
        if value(each, "network.community_id") == event["network"]["community_id"]
        and each["network"]["direction"] != event["network"]["direction"]
    )


@pytest.mark.parametrize("name", ADDRESSES)
def test_https(told: Told, name: str) -> None:
    """The query and its answer, the connection by that name from its opening, and the server's name at both ends."""
    address, pid = ADDRESSES[name], told.pids[name]
    assert told.said[name] == name
    (answer,) = answers(told, name, dns__question__type="A")
    assert answer["dns"]["question"] == {"name": name, "type": "A", "class": "IN"}
    assert answer["dns"]["resolved_ip"] == [address]
    assert answer["dns"]["answers"] == [{"name": name, "type": "A", "class": "IN", "ttl": 60, "data": address}]
    assert answer["event"]["outcome"] == "success"
    assert answer["tracer"]["netns"] == told.world.netns
    (opened,) = flows(told, name, HTTPS, "connection-opened")
    (closed,) = flows(told, name, HTTPS)
    for event in (opened, closed):
        assert event["destination"]["domain"] == event["server"]["domain"] == name, shorten(event)
        assert event["tracer"]["name"] == {"from": "dns", "how": "process", "asked": [name]}, shorten(event)
    assert "tls" not in opened
    served = other_end(told, closed)
    assert served["process"]["pid"] == told.pids["web"]
    assert served["tracer"]["name"] == {"from": "tls"}
    for event in (closed, served):
        assert event["network"]["protocol"] == "tls"
        assert event["tls"]["client"]["server_name"] == event["destination"]["domain"] == name
        assert event["tracer"]["tls"]["offered_version"] == "1.3"
        assert "http/1.1" in event["tracer"]["tls"]["offered_protocols"]
        assert "ech" not in event["tracer"]["tls"]
    log = (told.world.directory / "access.log").read_text().splitlines()
    assert f"{told.pids['web']} {closed['source']['port']} {name}" in log
    assert find(told.events, "process-executed", pid)[-1]["process"]["name"] == "curl"


def test_flow_of_the_question(told: Told) -> None:
    """What carries the question is a flow of DNS, which the resolver is the other end of, by its own log."""
    for event in flows(told, "one.names.test", 53, "connection-opened"):
        assert event["network"]["protocol"] == "dns", shorten(event)
        assert "domain" not in event["destination"]
    log = (told.world.directory / "dnsmasq.log").read_text()
    asked = log.count(" query[")
    assert asked
    answered = [event for event in find(told.events, "dns-answered") if event["tracer"]["netns"] == told.world.netns]
    assert len(answered) == asked
    assert not find(told.events, "dns-answered", told.pids["resolver"])


def test_alias(told: Told) -> None:
    """A name that is an alias is told as what was asked for, with the name behind it."""
    (closed,) = flows(told, ALIAS, HTTPS)
    assert closed["destination"]["domain"] == closed["tls"]["client"]["server_name"] == ALIAS
    assert closed["tracer"]["name"]["asked"] == [ALIAS, "three.names.test"]
    (answer,) = answers(told, ALIAS, dns__question__type="A")
    assert [(each["type"], each["data"]) for each in answer["dns"]["answers"]] == [
        ("CNAME", "three.names.test"),
        ("A", ADDRESSES["three.names.test"]),
    ]


def test_plain_http(told: Told) -> None:
    """A request of HTTP tells the host at both ends, and nothing of the path."""
    (closed,) = flows(told, "plain", HTTP)
    for event in (closed, other_end(told, closed)):
        assert event["network"]["protocol"] == "http"
        assert event["url"] == {"domain": "one.names.test"}
        assert event["http"] == {"version": "1.1", "request": {"method": "GET"}}
        assert event["destination"]["domain"] == "one.names.test"
    for line in told.lines:
        assert b"secret" not in line or b'"process-' in line, line  # where it is an argument of curl's


def test_no_such_name(told: Told) -> None:
    """A name that does not exist is an answer that failed, and no connection."""
    failed = answers(told, "absent")
    assert failed
    for event in failed:
        assert event["dns"]["response_code"] == "NXDOMAIN"
        assert event["event"]["outcome"] == "failure"
        assert "resolved_ip" not in event["dns"]
    assert not flows(told, "absent", HTTP, "connection-opened")


@pytest.mark.parametrize(("label", "least"), [("split", 300), ("long", 1500)])
def test_hello_in_pieces(told: Told, label: str, least: int) -> None:
    """A hello in several segments, also one as long as today's: the name is told at both ends."""
    assert int(told.said[label]) > least, "the hello was to be longer than a segment"
    (closed,) = flows(told, label, HTTPS)
    assert closed["tls"]["client"]["server_name"] == closed["destination"]["domain"] == "two.names.test"
    assert other_end(told, closed)["tls"]["client"]["server_name"] == "two.names.test"
    assert "cut" not in closed["tracer"]["tls"]


def test_quic(told: Told) -> None:
    """A client of QUIC that asked for the server's name: known from the first datagram, and said at both ends."""
    assert told.said["quic"] == "done\n"
    (opened,) = flows(told, "quic", 4433, "connection-opened")
    (closed,) = flows(told, "quic", 4433)
    for event in (opened, closed, other_end(told, closed)):
        assert event["network"]["protocol"] == "quic", shorten(event)
        assert event["network"]["transport"] == "udp"
        assert event["destination"]["domain"] == event["tls"]["client"]["server_name"] == QUIC
        assert event["tracer"]["tls"]["offered_protocols"] == ["test"]
    assert opened["tracer"]["name"]["from"] == "dns"
    assert other_end(told, closed)["tracer"]["name"] == {"from": "quic"}
    assert other_end(told, closed)["process"]["pid"] == told.pids["quic server"]


def test_quic_in_two_datagrams(told: Told) -> None:
    """A hello that takes two datagrams is put together; who only has the address still says the name."""
    assert told.said["quic long"] == "done\n"
    (closed,) = flows(told, "quic long", 4433)
    assert closed["tls"]["client"]["server_name"] == "long.names.test"
    assert len(closed["tracer"]["tls"]["offered_protocols"]) == 16  # the first of them
    # Of its address others know another name, which counts less than what it says.
    assert closed["destination"]["domain"] == "long.names.test"
    assert closed["tracer"]["name"] == {"from": "quic"}


def test_dns_over_tcp(told: Told) -> None:
    """A question over TCP is answered in an event like others, and joined to the connection that follows."""
    (answer,) = answers(told, "tcp")
    assert answer["network"]["transport"] == "tcp"
    assert answer["dns"]["id"] == told.said["tcp"].strip()
    assert answer["dns"]["resolved_ip"] == [ADDRESSES["three.names.test"]]
    (closed,) = flows(told, "tcp", HTTP)
    assert closed["tracer"]["name"] == {"from": "dns", "how": "process", "asked": ["three.names.test"]}
    (asked,) = flows(told, "tcp", 53)
    assert asked["network"]["protocol"] == "dns"
    assert asked["network"]["community_id"] == answer["network"]["community_id"]


def test_what_others_asked_for(told: Told) -> None:
    """A process that asked for nothing: its connection has a name that others asked for, and is marked so."""
    (closed,) = flows(told, "connects", HTTP)
    assert closed["destination"]["domain"] in {"three.names.test", ALIAS}
    assert closed["tracer"]["name"]["how"] == "netns"
    assert closed["tracer"]["name"]["ambiguous"] is True
    assert value(other_end(told, closed), "source.domain") is MISSING


def test_account(told: Told) -> None:
    """Every record of first bytes is delivered as an answer or part of other events; nothing was lost."""
    row = told.ledger["by_kind"]["payload"]
    assert row["delivered"] == len(find(told.events, "dns-answered"))
    assert row["aggregated"] > row["delivered"]
    assert told.ledger["balanced"]
    assert told.ledger["total"]["lost"] == 0
    assert not set(told.ledger["missed"]["programs"]) & {"names", "beginnings"}


def test_replay(told: Told) -> None:
    """The recording gives the same lines again, names and all."""
    assert told.replayed.splitlines() == told.lines


def test_pretty(tmp_path: Path) -> None:
    """The lines for people have the name, the address and what is spoken."""
    with Trace("--event", "close,dns", form="pretty") as trace, world(tmp_path) as made:
        made.resolver()
        made.web()
        pid, _ = made.curl(f"http://one.names.test:{HTTP}/")
    text = [line.decode() for line in trace.lines if f" {pid} " in line.decode()]
    (dns,) = [line for line in text if " one.names.test A " in line]
    assert f"dns       one.names.test A = {ADDRESSES['one.names.test']} from 127.0.0.1:53" in dns
    (closed,) = [line for line in text if f":{HTTP} " in line]
    assert f"close     → one.names.test ({ADDRESSES['one.names.test']}):{HTTP} tcp http " in closed


def test_without_payload(tmp_path: Path) -> None:
    """With --no-payload there are no names, no answers and no records of bytes, and the coverage record says so."""
    with Trace("--no-payload") as trace, world(tmp_path) as made:
        made.resolver()
        made.web()
        pid, _ = made.curl(f"http://one.names.test:{HTTP}/")
    assert not trace.find("dns-answered")
    closed = [event for event in trace.find("connection-closed", pid) if event["destination"]["port"] == HTTP]
    assert len(closed) == 1
    for path in ("destination.domain", "network.protocol", "url.domain", "tracer.name"):
        assert value(closed[0], path) is MISSING
    coverage = one(trace.events, "tracer-coverage")["tracer"]["coverage"]
    assert any("names from DNS" in blind for blind in coverage["blind"]), json.dumps(coverage["blind"])
    assert trace.ledger["by_kind"]["payload"]["attempts"] == 0
    assert trace.ledger["complete"]
