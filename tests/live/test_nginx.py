"""nginx and curl on loopback: who accepted, who connected, and the bytes, against what both programs counted."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live.webserver import Connection, crowd, nginx, read_log
from tests.tracing import Trace

pytestmark = pytest.mark.live

REQUESTS = 1009


def ends(events: list[dict[str, Any]], action: str, direction: str, port: int) -> Iterator[dict[str, Any]]:
    """The records of one action about connections to the server's port, of one side's sockets."""
    for event in events:
        if event["event"]["action"] != action or event["network"]["direction"] != direction:
            continue
        if event["destination"]["port"] == port:
            yield event


def opened(connections: Counter[Connection]) -> Counter[tuple[int, str, int]]:
    """What the opening of each connection has to say: whose it is, and the client's address and port.

    A port may come again in one run, with other bytes: those are two openings of one key.
    """
    return Counter(each[:3] for each in connections.elements())


def owner(event: dict[str, Any]) -> tuple[int, str, int]:
    """The same of a record."""
    return event["process"]["pid"], event["source"]["ip"], event["source"]["port"]


def moved(event: dict[str, Any]) -> Connection:
    """A close record as the programs count: the bytes that the client sent and received."""
    return Connection(*owner(event), event["source"]["bytes"], event["destination"]["bytes"])


@pytest.mark.parametrize("options", ["backlog=511", "reuseport"])
def test_every_request_is_accounted_to_the_worker_that_served_it(options: str, tmp_path: Path) -> None:
    """1,009 requests over IPv4 and IPv6: right owners on both ends, and bytes as curl and nginx's log count them.

    With `reuseport` each worker has listening sockets of its own and the kernel deals out the connections; otherwise
    both workers accept from the same sockets, which the master opened.
    """
    with Trace() as trace, nginx(tmp_path, options) as server:
        result = crowd(tmp_path, server.port, REQUESTS)
    read_log(server.log, result)
    if options == "reuseport":
        assert len({each.pid for each in result.servers}) == 2

    accepts = Counter(map(owner, ends(trace.events, "connection-accepted", "ingress", server.port)))
    assert accepts == opened(result.servers)
    connects = Counter(map(owner, ends(trace.events, "connection-opened", "egress", server.port)))
    assert connects == opened(result.clients)

    closed = {
        direction: list(ends(trace.events, "connection-closed", direction, server.port))
        for direction in ("ingress", "egress")
    }
    assert Counter(map(moved, closed["ingress"])) == result.servers
    assert Counter(map(moved, closed["egress"])) == result.clients
    for event in closed["ingress"] + closed["egress"]:
        assert event["network"]["bytes"] == event["source"]["bytes"] + event["destination"]["bytes"]
    assert trace.ledger["total"]["lost"] == 0
