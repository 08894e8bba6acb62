"""Real programs that talk by names, in a network namespace of their own: dnsmasq, nginx, curl and aioquic.

`unshare --net --mount --propagation private python -m tests.live.named_world DIRECTORY` prints a JSON line for each
thing that was done: what, by which pid, with which name.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

NAMES = {"one.example": "127.0.0.11", "two.example": "127.0.0.12", "three.example": "::1"}
ALIAS, QUIC_NAME = "alias.example", "quic.example"
PORT, QUIC_PORT = 8443, 4433
DEADLINE_S = 60.0

NGINX = """
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    ssl_certificate {directory}/cert.pem;
    ssl_certificate_key {directory}/key.pem;
{servers}
}}
"""
SERVER = "    server {{ listen {port} ssl; listen [::]:{port} ssl; server_name {name}; return 200 '{name}'; }}"


def tell(what: str, **facts: Any) -> None:
    """Say what was done."""
    print(json.dumps({"what": what, **facts}), flush=True)


def certificate(directory: Path) -> None:
    """A certificate for all the names."""
    names = ",".join(f"DNS:{name}" for name in (*NAMES, ALIAS, QUIC_NAME))
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=named"]
    command += ["-addext", f"subjectAltName={names}", "-keyout", str(directory / "key.pem")]
    subprocess.run([*command, "-out", str(directory / "cert.pem")], check=True, capture_output=True)


def wait_for(address: str, port: int, server: subprocess.Popen[bytes]) -> None:
    """Until somebody listens there; nothing is sent."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        assert server.poll() is None, server.args
        with socket.socket() as probe:
            try:
                probe.connect((address, port))
            except OSError:
                time.sleep(0.05)
            else:
                return
    raise TimeoutError(server.args)


def fetch(directory: Path, name: str) -> None:
    """One curl."""
    command = ["curl", "-q", "--silent", "--cacert", str(directory / "cert.pem"), f"https://{name}:{PORT}/"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        body, _ = client.communicate(timeout=DEADLINE_S)
    tell("curl", pid=client.pid, name=name, code=client.returncode, body=body.decode())


class Silent(QuicConnectionProtocol):
    """A server of QUIC that only shakes hands."""


async def speak_quic(directory: Path) -> None:
    """A QUIC server and a client of it, which asks for a name."""
    asked: list[str] = []

    def made(connection: QuicConnection, **named: Any) -> Silent:
        return Silent(connection, **named)

    serving = QuicConfiguration(is_client=False, alpn_protocols=["trace"])
    serving.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    server = await serve("127.0.0.1", QUIC_PORT, configuration=serving, create_protocol=made)
    asking = QuicConfiguration(is_client=True, alpn_protocols=["trace"], server_name=QUIC_NAME)
    asking.load_verify_locations(str(directory / "cert.pem"))
    async with connect("127.0.0.1", QUIC_PORT, configuration=asking) as client:
        await client.ping()
        asked.append(QUIC_NAME)
    server.close()
    tell("quic", pid=os.getpid(), name=asked[0])


def main(directory: Path) -> None:
    """Do it all, one after the other."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    resolver = directory / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", str(resolver), os.path.realpath("/etc/resolv.conf")], check=True)
    certificate(directory)
    servers = "\n".join(SERVER.format(port=PORT, name=name) for name in (*NAMES, ALIAS))
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, servers=servers))
    resolves = [f"--address=/{name}/{address}" for name, address in NAMES.items()]
    dns = ["dnsmasq", "--keep-in-foreground", "--no-hosts", "--no-resolv", "--conf-file=/dev/null", "--user=root"]
    dns += ["--pid-file=", "--listen-address=127.0.0.1", "--bind-interfaces", "--local-ttl=60"]
    dns += [*resolves, "--host-record=target.example,127.0.0.13", f"--cname={ALIAS},target.example"]
    web = ["nginx", "-p", str(directory), "-c", str(directory / "nginx.conf"), "-e", str(directory / "error.log")]
    running = [subprocess.Popen(dns), subprocess.Popen(web)]
    try:
        wait_for("127.0.0.1", 53, running[0])
        wait_for("127.0.0.1", PORT, running[1])
        tell("dnsmasq", pid=running[0].pid)
        children = Path(f"/proc/{running[1].pid}/task/{running[1].pid}/children").read_text().split()
        tell("nginx", pid=int(children[0]))
        for name in (*NAMES, ALIAS):
            fetch(directory, name)
        asyncio.run(asyncio.wait_for(speak_quic(directory), DEADLINE_S))
    finally:
        for server in running:
            server.send_signal(signal.SIGTERM)
            server.wait(DEADLINE_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
