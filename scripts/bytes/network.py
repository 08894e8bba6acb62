"""Makes two network namespaces that a veth pair joins, with nftables counters, for as long as they are wanted."""

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from scripts.bytes.errors import BytesError

# As in traffic/traffic.h. The addresses are those for documentation (RFC 5737, RFC 3849): nobody else's.
NEAR, FAR = "near0", "far0"
_ADDRESSES = {NEAR: ("192.0.2.1/24", "2001:db8::1/64"), FAR: ("192.0.2.2/24", "2001:db8::2/64")}
_NEEDED = {"ip": "iproute2", "nft": "nftables", "nsenter": "util-linux", "unshare": "util-linux"}
_WITHIN_S = 60
_TABLE = "traffic"


class Wire(NamedTuple):
    """What nftables has counted: bytes from the IP header on, and packets (one of many segments counts once)."""

    bytes: int
    packets: int

    def since(self, before: "Wire") -> "Wire":
        """The difference to an earlier count."""
        return Wire(self.bytes - before.bytes, self.packets - before.packets)


class Counts(NamedTuple):
    """Arrived at the far end of the pair, at its near end, and on the near namespace's loopback."""

    out: Wire
    back: Wire
    loopback: Wire

    def since(self, before: "Counts") -> "Counts":
        """The differences to earlier counts."""
        return Counts(*(now.since(then) for now, then in zip(self, before, strict=True)))


class Namespace:
    """A network namespace that lives as long as the process that was started in it."""

    def __init__(self, holder: int) -> None:
        """`holder` is the pid of a process in it."""
        self.file = Path(f"/proc/{holder}/ns/net")
        self.inode = self.file.stat().st_ino
        self.holder = holder

    def run(self, *command: str, text: str = "") -> str:
        """Run a program in it, with `text` as its input; returns what it writes. Raises BytesError when it fails."""
        inside = ["nsenter", f"--net={self.file}", "--", *command]
        done = subprocess.run(inside, input=text, capture_output=True, text=True, check=False, timeout=_WITHIN_S)
        if done.returncode:
            raise BytesError(f"{' '.join(command)}: {done.stderr.strip() or done.returncode}")
        return done.stdout


class Network(NamedTuple):
    """Both namespaces."""

    near: Namespace
    far: Namespace

    def counts(self) -> Counts:
        """What the counters say now. Raises BytesError."""
        return Counts(_counter(self.far, FAR), _counter(self.near, NEAR), _counter(self.near, "lo"))


@contextlib.contextmanager
def joined() -> Iterator[Network]:
    """A network for as long as the block runs. Nothing of it is visible outside, nor left when this process is killed.

    Raises BytesError when a program is missing or the kernel refuses.
    """
    for program, package in _NEEDED.items():
        if shutil.which(program) is None:
            raise BytesError(f"{program} is missing: apt-get install {package}")
    with _namespace() as near, _namespace() as far:
        near.run("ip", "link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", str(far.holder))
        for namespace, link in ((near, NEAR), (far, FAR)):
            _bring_up(namespace, link, _ADDRESSES[link])
        # Counted where packets arrive, before anything of IP sees them: so are those of packet sockets.
        _count(near, (NEAR, "lo"))
        _count(far, (FAR,))
        yield Network(near, far)


@contextlib.contextmanager
def _namespace() -> Iterator[Namespace]:
    # It ends when this end of its input is closed, also by the death of this process.
    command = ["unshare", "--net", "sh", "-c", "echo && exec cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as holder:
        try:
            assert holder.stdout is not None
            if not holder.stdout.readline():
                assert holder.stderr is not None
                raise BytesError(f"no network namespace: {holder.stderr.read().decode().strip()}")
            yield Namespace(holder.pid)
        finally:
            holder.kill()


def _bring_up(namespace: Namespace, link: str, addresses: Sequence[str]) -> None:
    for address in addresses:
        # Nobody else is there who could have the address: it need not be asked for first.
        nodad = ["nodad"] if ":" in address else []
        namespace.run("ip", "address", "add", address, "dev", link, *nodad)
    for name in ("lo", link):
        namespace.run("ip", "link", "set", name, "up")


def _count(namespace: Namespace, links: Sequence[str]) -> None:
    rules = [f"table netdev {_TABLE} {{"]
    for link in links:
        hook = f"type filter hook ingress device {link} priority 0;"
        rules += [f"counter {link} {{ }}", f"chain {link} {{ {hook} counter name {link}; }}"]
    namespace.run("nft", "-f", "-", text="\n".join([*rules, "}"]))


def _counter(namespace: Namespace, link: str) -> Wire:
    told = json.loads(namespace.run("nft", "-j", "list", "counter", "netdev", _TABLE, link))
    found = next(entry["counter"] for entry in told["nftables"] if "counter" in entry)
    return Wire(found["bytes"], found["packets"])
