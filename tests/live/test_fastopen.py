"""TCP Fast Open as a server has it: connections that are accepted before their handshake is over."""

import json
import subprocess
import sys

import pytest

from tests.tracing import Trace, find, one

pytestmark = pytest.mark.live

CONNECTIONS = 1009
# A server and a client in a network namespace of their own; what the server itself has counted comes as one line.
PROGRAM = """
import json, socket, subprocess, sys, threading, time
from pathlib import Path
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("519")  # data in the SYN, cookie or not, on both sides
listener = socket.socket(socket.AF_INET6)
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 7)
listener.bind(("::1", 0))
listener.listen(7)
port, count, late = listener.getsockname()[1], int(sys.argv[1]), sys.argv[2] == "late"
peers = []

def serve():
    for _ in range(count):
        connection, peer = listener.accept()
        with connection:
            peers.append(peer[1])
            while connection.recv(100):
                pass
            connection.send(b"x" * 23)

def rules(text):
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)

server = threading.Thread(target=serve, daemon=True)
server.start()
if late:  # the handshake's last segment is lost until the server asks again
    rules(f"table inet t {{ chain c {{ type filter hook input priority 0;"
          f" tcp dport {port} tcp flags & (syn | ack | fin) == ack drop; }}; }}")
for number in range(count):
    with socket.socket(socket.AF_INET6) as client:
        assert client.sendto(b"y" * 11, socket.MSG_FASTOPEN, ("::1", port)) == 11
        if late:
            time.sleep(0.3)
            states = Path("/proc/net/tcp6").read_text().splitlines()[1:]
            assert any(f":{port:04X}" in line.split()[1] and line.split()[3] == "03" for line in states), states
            assert peers, "not accepted early"
            rules("delete table inet t")
        client.shutdown(socket.SHUT_WR)
        while client.recv(100):
            pass
server.join()
listener.close()
print(json.dumps({"port": port, "peers": peers}))
"""


@pytest.mark.parametrize(("count", "when"), [(CONNECTIONS, "at once"), (1, "late")])
def test_accepted_before_the_handshake_is_over(count: int, when: str) -> None:
    """Each is accepted once and closed once, as one flow with all its bytes, however late its handshake ends."""
    with Trace("--event", "accept,close", "--buffer", "32M") as trace:
        command = ["unshare", "--net", sys.executable, "-c", PROGRAM, str(count), when]
        program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        truth = json.loads(program.communicate(timeout=60)[0])
        assert program.returncode == 0
    trace.assert_complete()
    accepts = find(trace.events, "connection-accepted", program.pid, destination__port=truth["port"])
    closes = find(trace.events, "connection-closed", program.pid, destination__port=truth["port"])
    assert sorted(each["source"]["port"] for each in accepts) == sorted(truth["peers"])
    ends = [each for each in closes if each["network"]["direction"] == accepts[0]["network"]["direction"]]
    assert sorted(each["source"]["port"] for each in ends) == sorted(truth["peers"])
    flows = {each["tracer"]["socket"]["id"] for each in accepts}
    assert len(flows) == count
    assert flows == {each["tracer"]["socket"]["id"] for each in ends}
    for each in ends:
        assert (each["source"]["bytes"], each["destination"]["bytes"]) == (11, 23)
    if when == "late":
        assert one(ends)["event"]["duration"] > 300_000_000
