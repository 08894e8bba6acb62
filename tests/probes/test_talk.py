"""Whom a datagram goes to, though its task waits in the middle of the call and others send meanwhile."""

import socket

import pytest

from tests import wire
from tests.probes.test_core import Helper, make, records
from tracer.model import Kind
from tracer.probes.records import KIND, TGID

pytestmark = pytest.mark.live

# The memory that is sent is not there yet, and who brings it is a thread that sends datagrams of its own first, on the
# same CPU: userfaultfd(2), by its numbers on x86_64 and arm64 and those of include/uapi/linux/userfaultfd.h.
SEND = """
import ctypes, fcntl, mmap, platform, struct, threading
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
fault = ctypes.CDLL(None, use_errno=True).syscall(282 if platform.machine() == 'aarch64' else 323, os.O_CLOEXEC)
assert fault >= 0, os.strerror(ctypes.get_errno())
memory = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
fcntl.ioctl(fault, 0xc018aa3f, struct.pack('=3Q', 0xaa, 0, 0))
fcntl.ioctl(fault, 0xc020aa00, struct.pack('=4Q', start, mmap.PAGESIZE, 1, 0))
peer, named, other = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3))
for each in (peer, named, other):
    each.bind(('127.0.0.1', 0))
one, another = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
one.connect(peer.getsockname())
sender = threading.Thread(target=one.sendto, args=(memoryview(memory)[:101], named.getsockname()))
sender.start()
assert len(os.read(fault, 32)) == 32
for _ in range(3):
    another.sendto(bytes(7), other.getsockname())
fcntl.ioctl(fault, 0xc020aa04, struct.pack('=4Q', start, mmap.PAGESIZE, 0, 0))
sender.join()
assert len(named.recv(200)) == 101
print(one.getsockname()[1], named.getsockname()[1], another.getsockname()[1], other.getsockname()[1])
"""


def test_peer_of_who_waits() -> None:
    """Of two threads on one CPU, one of which waits in its call while the other sends, each has its own peer."""
    helper = Helper()
    stream = helper.process.stdout
    assert stream is not None
    assert helper.process.stdin is not None
    with make() as backend:
        backend.start()
        helper.process.stdin.write(f"exec({SEND!r})\n")
        helper.process.stdin.flush()
        one, named, another, other = map(int, stream.readline().split())
        assert stream.readline() == "done\n"
        found = records(backend.cut().runs)
    helper.process.communicate(timeout=20)
    sport, dport, daddr = (wire.SOCKET.index(name) for name in ("sport", "dport", "daddr"))
    flows = [record for record in found if record[KIND] == Kind.FLOW and record[TGID] == helper.pid]
    loopback = bytes(10) + b"\xff\xff" + socket.inet_aton("127.0.0.1")
    sent = {(record[sport], record[dport], record[daddr]) for record in flows if record[sport] in (one, another)}
    assert sent == {(one, named, loopback), (another, other, loopback)}
