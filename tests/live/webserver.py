"""An nginx with two workers and a crowd of curls on loopback, and what both say of each connection they had."""

import contextlib
import itertools
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

HOSTS = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}
KEEPALIVE_REQUESTS = 37  # nginx ends a connection after so many, so that each busy curl needs several
SIZES = (0, 1, 137, 1461, 40_009, 300_007)
DEADLINE = 60

CONFIGURATION = """
daemon off;
user root;
worker_processes 2;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 256; }}
http {{
    log_format told "$pid $connection $remote_addr $remote_port $request_length $bytes_sent $status";
    access_log {directory}/access.log told;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    sendfile on;
    keepalive_requests {keepalive};
    server {{
        listen 127.0.0.1:{port} {options};
        listen [::1]:{port} ipv6only=on {options};
        root {directory}/www;
    }}
}}
"""
# One line a transfer; num_connects is 1 where it needed a new connection.
TOLD = "%{num_connects} %{local_ip} %{local_port} %{size_request} %{size_header} %{size_download} %{http_code}\\n"


class Connection(NamedTuple):
    """One connection as one of its ends counted it: bytes of whole messages, summed over its requests."""

    pid: int
    ip: str  # the client's
    port: int  # the client's
    sent: int  # by the client
    received: int  # by the client

    @property
    def wire(self) -> tuple[str, int, int, int]:
        """What both ends have to agree on."""
        return self[1:]


@dataclass
class Crowd:
    """What came of the requests: the connections as curl and as nginx counted them, each one once per opening."""

    requests: int = 0
    clients: Counter[Connection] = field(default_factory=Counter)
    servers: Counter[Connection] = field(default_factory=Counter)


class Server(NamedTuple):
    """A running nginx: where it listens, on both families, and its access log, complete once it has ended."""

    port: int
    log: Path


@contextlib.contextmanager
def nginx(directory: Path, options: str) -> Iterator[Server]:
    """Runs nginx with `options` on its two listen lines, in the foreground and with every file in `directory`."""
    (directory / "www").mkdir()
    for size in SIZES:
        (directory / "www" / str(size)).write_bytes(b"x" * size)
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as probe:
        port = probe.getsockname()[1]
    configuration = directory / "nginx.conf"
    facts = {"directory": directory, "keepalive": KEEPALIVE_REQUESTS, "port": port, "options": options}
    configuration.write_text(CONFIGURATION.format(**facts))
    with subprocess.Popen(["nginx", "-p", directory, "-c", configuration, "-e", directory / "error.log"]) as master:
        try:
            deadline = time.monotonic() + DEADLINE
            while not (directory / "nginx.pid").exists():  # written once the sockets are listening
                assert master.poll() is None, (directory / "error.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield Server(port, directory / "access.log")
        finally:
            master.send_signal(signal.SIGQUIT)  # graceful: the workers close every connection first
            code = master.wait(DEADLINE)
    assert code == 0, (directory / "error.log").read_text()


def crowd(directory: Path, port: int, total: int) -> Crowd:
    """Makes exactly `total` requests over both families; the curl side of the result is filled in.

    Per family: four curls at once that keep their connections, one that closes each, and for the rest one curl each.
    """
    result = Crowd()
    busy = total // 10
    plans = [Plan(host, port, *plan) for host in HOSTS for plan in [(busy, True)] * 4 + [(busy * 4 // 5, False)]]
    hosts = itertools.cycle(HOSTS)
    singles = [Plan(next(hosts), port, 1, True) for _ in range(total - sum(plan.requests for plan in plans))]
    paths = itertools.cycle(SIZES)
    running = [_curl(directory / f"curl{i}", plan, paths) for i, plan in enumerate(plans)]
    for client in running:
        _collect(client, result)
    for plan in singles:
        _collect(_curl(directory / "single", plan, paths), result)
    assert result.requests == total
    return result


class Plan(NamedTuple):
    """What one curl is to do."""

    host: str
    port: int
    requests: int
    keep: bool  # the connection, from one request to the next


def _curl(configuration: Path, plan: Plan, paths: Iterator[int]) -> subprocess.Popen[str]:
    url = f"http://{HOSTS[plan.host]}:{plan.port}"
    lines = [f'url = "{url}/{path}"\noutput = /dev/null' for path in itertools.islice(paths, plan.requests)]
    lines += [f'write-out = "{TOLD}"', "silent", *([] if plan.keep else ['header = "Connection: close"'])]
    configuration.write_text("\n".join(lines))
    return subprocess.Popen(["curl", "-q", "-K", configuration], stdout=subprocess.PIPE, text=True)


def _collect(client: subprocess.Popen[str], result: Crowd) -> None:
    told, _ = client.communicate(timeout=DEADLINE)
    assert client.returncode == 0, told
    connections: list[Connection] = []
    for line in told.splitlines():
        new, ip, port, request, header, body, status = line.split()
        assert status == "200", line
        if new == "1":
            connections.append(Connection(client.pid, ip, int(port), 0, 0))
        last = connections[-1]
        assert (last.ip, last.port) == (ip, int(port)), "curl used an older connection again"
        received = last.received + int(header) + int(body)
        connections[-1] = last._replace(sent=last.sent + int(request), received=received)
        result.requests += 1
    result.clients.update(connections)


def read_log(log: Path, result: Crowd) -> None:
    """Fills in nginx's side, and makes sure that both ends agree: every connection, and its bytes both ways."""
    connections: dict[str, Connection] = {}
    lines = log.read_text().splitlines()
    for line in lines:
        pid, serial, ip, port, request, response, _status = line.split()
        last = connections.get(serial, Connection(int(pid), ip, int(port), 0, 0))
        sent, received = last.sent + int(request), last.received + int(response)
        connections[serial] = last._replace(sent=sent, received=received)
    result.servers.update(connections.values())
    assert len(lines) == result.requests
    assert Counter(each.wire for each in result.servers) == Counter(each.wire for each in result.clients)
