"""The account of the wire on the running kernel: every byte of veth pairs, by whose it is or what."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scripts.attribution.check import tracing
from scripts.bytes import network
from scripts.bytes.network import Namespace

pytestmark = pytest.mark.live

ACCOUNT = ("--backend", "core", "--account-wire")
ROUTER_NEAR, ROUTER_FAR = "198.51.100.1", "203.0.113.1"  # for documentation (RFC 5737)
NEAR, FAR = "198.51.100.2", "203.0.113.2"
ARP, RST = 42, 54  # with the header of Ethernet
DATAGRAMS, SIZE = 101, 509
HEADERS = 14 + 20 + 8
CARRIED = DATAGRAMS * (SIZE + HEADERS)

RECEIVE = textwrap.dedent(f"""
    import socket
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.bind(("{FAR}", 7001))
    receiver.settimeout(20)
    print("ready", flush=True)
    for _ in range({DATAGRAMS}):
        assert len(receiver.recv(2000)) == {SIZE}
""")
SEND = textwrap.dedent(f"""
    import socket, time
    sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.connect(("{FAR}", 7001))
    for _ in range({DATAGRAMS}):
        sender.send(bytes({SIZE}))
        time.sleep(0.001)
    refused = socket.socket()
    assert refused.connect_ex(("{FAR}", 7002))
""")


class Routed(NamedTuple):
    """Three namespaces in a row, of which the middle one forwards."""

    near: Namespace
    router: Namespace
    far: Namespace

    def join(self) -> None:
        """Put two veth pairs between them, without IPv6, which talks by itself."""
        for end, link, address, gateway in (
            (self.near, "near0", NEAR, ROUTER_NEAR),
            (self.far, "far0", FAR, ROUTER_FAR),
        ):
            pair = ("name", f"to-{link}", "type", "veth", "peer", "name", link, "netns", str(end.holder))
            self.router.run("ip", "link", "add", *pair)
            for namespace, name, ip in ((self.router, f"to-{link}", gateway), (end, link, address)):
                namespace.run("sh", "-ec", f"echo 1 > /proc/sys/net/ipv6/conf/{name}/disable_ipv6")
                namespace.run("ip", "address", "add", f"{ip}/24", "dev", name)
                namespace.run("ip", "link", "set", name, "up")
            end.run("ip", "route", "add", "default", "via", gateway)
        self.router.run("sh", "-ec", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def carry(self) -> None:
        """Send datagrams from near to far, and try to connect where nobody listens."""
        inside = ["nsenter", f"--net={self.far.file}", "--", sys.executable, "-c", RECEIVE]
        with subprocess.Popen(inside, stdout=subprocess.PIPE) as receiver:
            try:
                assert receiver.stdout is not None
                assert receiver.stdout.readline() == b"ready\n"
                self.near.run(sys.executable, "-c", SEND)
                assert receiver.wait(30) == 0
            finally:
                receiver.kill()


@pytest.fixture
def routed() -> Iterator[Routed]:
    """The three, joined."""
    with ExitStack() as stack:
        found = Routed(*(stack.enter_context(network._namespace()) for _ in range(3)))
        found.join()
        yield found


def told(output: Path) -> tuple[dict[tuple[int, str], dict[str, Any]], dict[str, Any]]:
    """What the tracer has said of each device last, by namespace and name, and its coverage record."""
    devices, coverage = {}, {}
    for line in output.read_text().splitlines():
        record = json.loads(line)
        if record["event"]["action"] == "tracer-wire":
            wire = record["tracer"]["wire"]
            devices[record["tracer"]["netns"], wire["interface"].get("name", "")] = wire
        if record["event"]["action"] == "tracer-coverage":
            coverage = record["tracer"]["coverage"]
    return devices, coverage


@pytest.mark.parametrize("options", [("--sandbox-strict",), ("--no-sandbox",)], ids=["confined", "not confined"])
def test_every_byte_has_its_place(tmp_path: Path, routed: Routed, options: tuple[str, ...]) -> None:
    """On each device the sum is the device's own count, to the byte: owned where somebody has the socket, forwarded on
    both sides of the router, ARP and the RST of a refused connect by what they are.
    """
    output = tmp_path / "events"
    with tracing(output, (*ACCOUNT, *options)):
        routed.carry()
    devices, coverage = told(output)
    assert any("network devices" in each for each in coverage["costs"])
    near, far = devices[routed.near.inode, "near0"], devices[routed.far.inode, "far0"]
    into, out = devices[routed.router.inode, "to-near0"], devices[routed.router.inode, "to-far0"]
    for device in (near, far, into, out):
        for way in ("out", "in"):
            assert device[way]["total"] == device[way]["counted"] > 0
            assert device[way]["ownerless"]["arp"] % ARP == 0
            assert device[way]["ownerless"]["nd"] == 0
    # All but the first, which went before anybody knew the socket, and may have waited for the address with others.
    assert near["out"]["owned"] >= CARRIED * 0.9
    assert far["in"]["owned"] >= CARRIED * 0.9
    assert far["out"]["ownerless"]["rst"] == near["in"]["ownerless"]["rst"] or near["in"]["owned"] == RST
    assert far["out"]["ownerless"]["rst"] == RST
    for way in (into["in"], out["out"]):
        assert way["owned"] == way["ownerless"]["socket"] == 0
        assert way["ownerless"]["forwarded"] == way["total"] - way["ownerless"]["arp"] > CARRIED
    assert into["out"]["ownerless"]["forwarded"] == out["in"]["ownerless"]["forwarded"] == RST


def test_only_the_namespace_asked_for(tmp_path: Path, routed: Routed) -> None:
    """With --netns other namespaces' devices are not told."""
    output = tmp_path / "events"
    with tracing(output, (*ACCOUNT, "--netns", str(routed.far.file))):
        routed.carry()
    devices, _ = told(output)
    assert set(devices) == {(routed.far.inode, "far0")}


def test_a_namespace_made_later_is_not_asked(tmp_path: Path) -> None:
    """Of devices in a namespace that was made after the start all is told but their own count, and the name."""
    output = tmp_path / "events"
    with tracing(output, ACCOUNT), network._namespace() as late:
        late.run("ip", "link", "set", "lo", "up")
        late.run("sh", "-ec", f"{sys.executable} -c 'import socket; socket.socket().connect_ex((\"127.0.0.1\", 9))'")
        inode = late.inode
    devices, coverage = told(output)
    assert devices[inode, ""]["out"]["total"] > 0
    assert "counted" not in devices[inode, ""]["out"]
    assert any("made later" in each for each in coverage["blind"])


def test_no_namespace_is_kept_alive(tmp_path: Path) -> None:
    """Once its last process has left a namespace it goes, and its end of a veth pair too, while the trace goes on."""
    with network._namespace() as stays, network._namespace() as goes:
        stays.run("ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(goes.holder))
        with tracing(tmp_path / "events", (*ACCOUNT, "--update-every", "1s")):
            assert "here" in stays.run("ip", "link")
            os.kill(goes.holder, signal.SIGKILL)
            for _ in range(100):
                if "here" not in stays.run("ip", "link"):
                    break
                time.sleep(0.1)
            assert "here" not in stays.run("ip", "link")


def test_other_backends_say_that_they_do_not(tmp_path: Path) -> None:
    """Without the probes there is no account, and the coverage record says so."""
    output = tmp_path / "events"
    with tracing(output, ("--backend", "procfs", "--account-wire")):
        pass
    devices, coverage = told(output)
    assert not devices
    assert any("--account-wire" in each for each in coverage["blind"])
