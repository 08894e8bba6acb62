"""A network of its own: a resolver (dnsmasq), a web server with three names (nginx), and programs that go there."""

import datetime as dt
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DEADLINE = 30
HTTPS = 8443
HTTP = 8080
# The first two share an address.
ADDRESSES = {"one.names.test": "127.1.0.1", "two.names.test": "127.1.0.1", "three.names.test": "127.1.0.3"}
QUIC = "quic.names.test"
QUIC_ADDRESS = "127.1.0.4"
ALIAS = "alias.names.test"  # of the third
ABSENT = "absent.names.test"
ROOT = Path(__file__).parents[2]

NGINX = """
daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 64; }}
http {{
    log_format told "$pid $remote_port $ssl_server_name";
    access_log {directory}/access.log told;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{ listen 0.0.0.0:{http}; location / {{ return 200 "plain"; }} }}
    {servers}
}}
"""
SERVER = """
    server {{
        listen 0.0.0.0:{port} ssl;
        server_name {name};
        ssl_certificate {directory}/{name}.pem;
        ssl_certificate_key {directory}/{name}.key;
        location / {{ return 200 "{name}"; }}
    }}
"""


def certify(directory: Path, name: str) -> None:
    """Make a certificate that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    day = dt.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    (directory / f"{name}.key").write_bytes(secret)


class World:
    """Namespaces for network and mounts, in which programs run that ask the resolver there."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = ExitStack()
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        (directory / "nsswitch.conf").write_text("hosts: dns\n")
        script = (
            f"ip link set lo up && mount --bind {directory}/resolv.conf /etc/resolv.conf "
            f"&& mount --bind {directory}/nsswitch.conf /etc/nsswitch.conf && echo ready && exec sleep {DEADLINE * 5}"
        )
        holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", script],
            stdout=subprocess.PIPE,
            text=True,
        )
        self.stack.callback(holder.communicate)
        self.stack.callback(holder.kill)
        self.pid = holder.pid
        assert holder.stdout is not None
        assert holder.stdout.readline() == "ready\n"
        self.netns = Path(f"/proc/{self.pid}/ns/net").stat().st_ino

    def start(self, *command: str) -> "subprocess.Popen[str]":
        """Starts a program in there: the process is the program's own."""
        enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt", "--"]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.Popen([*enter, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)

    def run(self, *command: str, code: int = 0) -> tuple[int, str]:
        """Runs a program to its end: its pid, and what it printed."""
        process = self.start(*command)
        try:
            told, _ = process.communicate(timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        assert process.returncode == code, told
        return process.pid, told

    def python(self, source: str, *arguments: object) -> tuple[int, str]:
        """Runs a program of Python's."""
        return self.run(sys.executable, "-c", source, *map(str, arguments))

    def serve(self, *command: str, until: Path | str, ends: int = signal.SIGTERM) -> int:
        """Starts a server that ends with this world: its pid, once a file has something in it, or it says a word."""
        server = self.start(*command)
        self.stack.callback(server.communicate, timeout=DEADLINE)
        self.stack.callback(server.send_signal, ends)
        if isinstance(until, str):
            assert server.stdout is not None
            assert server.stdout.readline() == f"{until}\n"
            return server.pid
        deadline = time.monotonic() + DEADLINE
        while not until.exists() or not until.stat().st_size:
            assert server.poll() is None, command
            assert time.monotonic() < deadline, command
            time.sleep(0.01)
        return server.pid

    def resolver(self) -> int:
        """Starts dnsmasq; its pid. What it was asked, and answered, is in its log."""
        records = [f"--host-record={name},{address}" for name, address in ADDRESSES.items()]
        records += [f"--host-record={QUIC},{QUIC_ADDRESS}", f"--cname={ALIAS},three.names.test"]
        return self.serve(
            *("dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"),
            *("--listen-address=127.0.0.1", "--bind-interfaces", "--local=/test/", "--local-ttl=60", "--log-queries"),
            *(f"--log-facility={self.directory}/dnsmasq.log", f"--pid-file={self.directory}/dnsmasq.pid", *records),
            until=self.directory / "dnsmasq.pid",
        )

    def web(self) -> int:
        """Starts nginx with a certificate for each name; the pid of its worker."""
        names = [*ADDRESSES]
        for name in names:
            certify(self.directory, name)
        servers = "".join(SERVER.format(port=HTTPS, name=name, directory=self.directory) for name in names)
        configuration = self.directory / "nginx.conf"
        configuration.write_text(NGINX.format(directory=self.directory, http=HTTP, servers=servers))
        master = self.serve(
            *("nginx", "-p", str(self.directory), "-c", str(configuration), "-e", f"{self.directory}/error.log"),
            until=self.directory / "nginx.pid",
            ends=signal.SIGQUIT,
        )
        deadline = time.monotonic() + DEADLINE
        while not (workers := Path(f"/proc/{master}/task/{master}/children").read_text().split()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        return int(workers[0])

    def curl(self, url: str, *options: str) -> tuple[int, str]:
        """Fetches a page over a connection of its own: curl's pid, and the page."""
        return self.run("curl", "-q", "--silent", "--show-error", *options, url)


@contextmanager
def world(directory: Path) -> Iterator[World]:
    """A world that is gone with all its programs when the block is left."""
    made = World(directory)
    with made.stack:
        yield made
