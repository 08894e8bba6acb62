"""Dumps of TCP sockets and notifications of their ends, against what their own program knows and pyroute2 reads."""

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from ipaddress import ip_address

import pytest

from tracer.fallback.diag import ALL_STATES, ESTABLISHED, LISTEN, Diag, TcpSocket
from tracer.fallback.files import DirectFiles

pytestmark = pytest.mark.live

SETTLE_S = 5.0
FAMILIES = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")]
# Makes connections in a namespace of its own, and says their ports.
ELSEWHERE = """
import socket, subprocess, sys
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server = listener.accept()[0]
client.sendall(b"x" * 101)
print(client.getsockname()[1], listener.getsockname()[1], flush=True)
sys.stdin.readline()
server.recv(101)
client.close()
server.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def opened(pid: int | None = None, room: int = 0) -> Diag:
    """The sockets of a process's network namespace; with so many bytes of room for notifications."""
    files = DirectFiles()
    hearing = files.open_diag(pid)
    if room:
        with socket.socket(fileno=os.dup(hearing)) as same:
            same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
    return Diag(files.open_diag(pid), hearing)


@pytest.fixture(name="diag")
def _diag() -> Iterator[Diag]:
    with opened() as diag:
        yield diag


def pair(family: int, address: str) -> tuple[socket.socket, socket.socket, socket.socket]:
    """A listener, and both ends of a connection to it."""
    listener = socket.create_server((address, 0), family=family)
    client = socket.create_connection(listener.getsockname()[:2])
    return listener, client, listener.accept()[0]


def by_port(sockets: list[TcpSocket], port: int, peer: int) -> TcpSocket:
    """The one socket with these ports."""
    found = [each for each in sockets if (each.port, each.remote_port) == (port, peer)]
    assert len(found) == 1, found
    return found[0]


def destroyed(diag: Diag, count: int) -> list[TcpSocket]:
    """The next so many sockets that end."""
    found: list[TcpSocket] = []
    deadline = time.monotonic() + SETTLE_S
    while len(found) < count and time.monotonic() < deadline:
        select.select([diag], [], [], 0.1)
        found += diag.destroyed()
    return found


@pytest.mark.parametrize(("family", "address"), FAMILIES)
def test_dump_tells_what_the_program_knows(diag: Diag, family: int, address: str) -> None:
    """Ports, addresses, state, user, inode and backlog of all three sockets, and who began."""
    listener, client, server = pair(family, address)
    with listener, client, server:
        ports = listener.getsockname()[1], client.getsockname()[1]
        found = diag.dump()
        ends = by_port(found, ports[1], ports[0]), by_port(found, ports[0], ports[1])
        listening = by_port(found, ports[0], 0)
        assert [each.inode for each in ends] == [os.fstat(each.fileno()).st_ino for each in (client, server)]
        assert listening.inode == os.fstat(listener.fileno()).st_ino
        assert listening.state == LISTEN
        assert (listening.waiting, listening.room) == (0, 128)
        assert {each.state for each in ends} == {ESTABLISHED}
        assert {each.uid for each in ends} == {os.geteuid()}
        assert [each.active for each in ends] == [True, False]
        raw = ip_address(address).packed
        assert {each.local for each in (*ends, listening)} == {raw if len(raw) == 16 else bytes(10) + b"\xff\xff" + raw}
        assert len({each.cookie for each in (*ends, listening)}) == 3


def test_dump_by_state(diag: Diag) -> None:
    """Only sockets in the states that were asked for are told."""
    listener, client, server = pair(*FAMILIES[0])
    with listener, client, server:
        assert {each.state for each in diag.dump(1 << LISTEN)} == {LISTEN}
        assert LISTEN not in {each.state for each in diag.dump(ALL_STATES & ~(1 << LISTEN))}


def test_dump_is_what_pyroute2_reads(diag: Diag) -> None:
    """The same sockets with the same numbers as pyroute2's DiagSocket decodes them."""
    from pyroute2.netlink.diag import DiagSocket

    listener, client, server = pair(*FAMILIES[0])
    with listener, client, server, closing(DiagSocket()) as other:
        client.sendall(b"x" * 1009)
        server.recv(2000)
        other.bind()
        told = {message["idiag_cookie"]: message for message in other.get_sock_stats(socket.AF_INET, extensions=2)}
        ours = {each.cookie: each for each in diag.dump() if each.family == socket.AF_INET}
        port = client.getsockname()[1]
        mine = [each for each in ours.values() if port in (each.port, each.remote_port)]
        assert len(mine) == 2
        for each in mine:
            theirs = told[each.cookie]
            assert (each.port, each.remote_port) == (theirs["idiag_sport"], theirs["idiag_dport"])
            assert (each.uid, each.inode, each.state) == (
                theirs["idiag_uid"],
                theirs["idiag_inode"],
                theirs["idiag_state"],
            )
            info = dict(theirs["attrs"])["INET_DIAG_INFO"]
            assert each.info is not None
            assert each.info.sent == info["tcpi_bytes_sent"] - info["tcpi_bytes_retrans"]
            assert each.info.acked == info["tcpi_bytes_acked"]
            assert each.info.received == info["tcpi_bytes_received"]
            assert each.info.data_segments == info["tcpi_data_segs_in"]
        assert {each.sent for each in mine} == {0, 1009}
        assert {each.received for each in mine} == {0, 1009}


@pytest.mark.parametrize(("family", "address"), FAMILIES)
@pytest.mark.parametrize("reads", [True, False], ids=["read", "unread"])
def test_totals_of_what_was_too_short_for_a_dump(diag: Diag, family: int, address: str, reads: bool) -> None:
    """The ends of a connection that no dump saw are told with what each of them sent."""
    listener, client, server = pair(family, address)
    ports = client.getsockname()[1], listener.getsockname()[1]
    with listener:
        client.sendall(b"x" * 1013)
        server.sendall(b"y" * 499)
        if reads:
            server.recv(2000)
            client.recv(2000)
        client.close()
        server.close()
        found = destroyed(diag, 2)
    mine, theirs = by_port(found, *ports), by_port(found, *reversed(ports))
    assert (mine.sent, theirs.sent) == (1013, 499)
    if reads:
        assert (mine.received, theirs.received) == (499, 1013)
    assert mine.cookie != theirs.cookie
    assert mine.inode == theirs.inode == 0


def test_cookies_stay(diag: Diag) -> None:
    """A socket has the same cookie in every dump and at its end."""
    listener, client, server = pair(*FAMILIES[0])
    ports = client.getsockname()[1], listener.getsockname()[1]
    with listener:
        first, second = by_port(diag.dump(), *ports), by_port(diag.dump(), *ports)
        client.close()
        server.close()
        last = by_port(destroyed(diag, 2), *ports)
    assert first.cookie == second.cookie == last.cookie != 0


def test_reset_by_the_program_is_known_by_its_cookie_alone(diag: Diag) -> None:
    """With SO_LINGER of 0 the kernel has forgotten peer and totals at the end, but not the cookie."""
    listener, client, server = pair(*FAMILIES[0])
    with listener, server:
        port = client.getsockname()[1]
        before = by_port(diag.dump(), port, listener.getsockname()[1])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"z" * 7)
        client.close()
        after = [each for each in destroyed(diag, 1) if each.cookie == before.cookie]
    assert [(each.port, each.remote_port, each.sent) for each in after] == [(port, 0, 0)]


def test_overrun_is_noticed() -> None:
    """Without room for notifications at least one overrun is counted, and what comes next is heard."""
    with opened(room=1) as diag:
        for _ in range(50):
            for each in pair(*FAMILIES[0]):
                each.close()
        time.sleep(0.2)
        heard = destroyed(diag, 150)
        assert diag.overruns >= 1
        assert len(heard) < 150
        # Others' sockets can fill what little room there is in any moment.
        assert any(_is_heard(diag) for _ in range(7))


def _is_heard(diag: Diag) -> bool:
    listener, client, server = pair(*FAMILIES[0])
    ports = client.getsockname()[1], listener.getsockname()[1]
    with listener, server:
        client.close()
    return ports in {(each.port, each.remote_port) for each in destroyed(diag, 1)}


def test_other_namespaces() -> None:
    """The sockets of another network namespace are told by its own sockets, and only by these."""
    command = ["unshare", "--net", sys.executable, "-c", ELSEWHERE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as there:
        assert there.stdin is not None
        assert there.stdout is not None
        ports = tuple(map(int, there.stdout.readline().split()))
        with opened(there.pid) as diag, opened() as here:
            assert by_port(diag.dump(), *ports).sent == 101
            assert ports not in {(each.port, each.remote_port) for each in here.dump()}
            there.stdin.write("\n")
            there.stdin.flush()
            assert there.stdout.readline() == "closed\n"
            ended = destroyed(diag, 2)
            assert by_port(ended, *ports).sent == 101
            assert by_port(ended, *reversed(ports)).received == 101
            assert ports not in {(each.port, each.remote_port) for each in here.destroyed()}
        there.stdin.close()


def test_error_of_the_kernel_is_an_oserror(diag: Diag) -> None:
    """A family that there is no table of is refused with its errno, and the next dump works."""
    diag._requests.insert(0, bytearray(diag._requests[0]))
    diag._requests[0][16] = 200
    with pytest.raises(OSError, match="sock_diag: ") as refused:
        diag.dump()
    assert refused.value.errno
    del diag._requests[0]
    assert isinstance(diag.dump(), list)
