"""Programs at the root of the cgroup v2 hierarchy: found mounted or not, beside others, gone with their link."""

import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tracer.probes import libbpf
from tracer.probes.cgroup import Cgroup, open_root

ROOT = Path(__file__).parents[2]
DATAGRAMS = 23

SOURCE = """
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
char LICENSE[] SEC("license") = "Dual BSD/GPL";
/* A sock's address -> what was seen of it. */
struct counts { __u64 sends, egress, ingress, releases; };
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 4096); __type(key, __u64);
         __type(value, struct counts); } counted SEC(".maps");
struct { __uint(type, BPF_MAP_TYPE_LRU_HASH); __uint(max_entries, 4096); __type(key, __u64); __type(value, __u64); }
    cookies SEC(".maps");

#define SEEN(sk, cookie, field)                                             \\
({                                                                          \\
    struct counts nothing = {}, *found;                                     \\
    __u64 key = (__u64)(sk), id = (cookie);                                 \\
    __sync_fetch_and_add(&key, 0);                                          \\
    bpf_map_update_elem(&counted, &key, &nothing, BPF_NOEXIST);             \\
    bpf_map_update_elem(&cookies, &id, &key, BPF_ANY);                      \\
    found = bpf_map_lookup_elem(&counted, &key);                            \\
    if (found)                                                              \\
        __sync_fetch_and_add(&found->field, 1);                             \\
    1;                                                                      \\
})
SEC("cgroup/sendmsg4") int sends(struct bpf_sock_addr *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    return sk ? SEEN(sk, bpf_get_socket_cookie(ctx), sends) : 1;
}
SEC("cgroup_skb/egress") int leaves(struct __sk_buff *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    return sk ? SEEN(sk, bpf_get_socket_cookie(ctx), egress) : 1;
}
SEC("cgroup_skb/ingress") int comes(struct __sk_buff *ctx)
{
    struct bpf_sock *sk = ctx->sk;
    return sk ? SEEN(sk, bpf_get_socket_cookie(ctx), ingress) : 1;
}
SEC("cgroup/sock_release") int released(struct bpf_sock *ctx)
{
    return SEEN(ctx, bpf_get_socket_cookie(ctx), releases);
}
"""
PROGRAMS = ("sends", "leaves", "comes", "released")
SO_COOKIE = 57  # include/uapi/asm-generic/socket.h

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SOURCE, compiled."""
    directory = tmp_path_factory.mktemp("cgroup")
    source, target = directory / "counts.bpf.c", directory / "counts.bpf.o"
    source.write_text(SOURCE)
    include = f"-I/usr/include/{os.uname().machine}-linux-gnu"
    subprocess.run(["clang", "-g", "-O2", "-target", "bpf", include, "-c", source, "-o", target], check=True)
    return target


@pytest.fixture
def root() -> Iterator[Cgroup]:
    """The root of the hierarchy."""
    found = open_root()
    yield found
    os.close(found.fd)


def loaded(path: Path) -> libbpf.Object:
    """The object, loaded."""
    return libbpf.load(path, knobs={}, optional=())[0]


def exchange() -> tuple[int, int]:
    """Send datagrams over loopback and close both sockets; the cookies of sender and receiver."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        for _ in range(DATAGRAMS):
            sender.sendto(b"datagram", receiver.getsockname())
            assert receiver.recv(64) == b"datagram"
        return cookie(sender), cookie(receiver)


def cookie(of: socket.socket) -> int:
    """The kernel's number of a socket."""
    (number,) = struct.unpack("=Q", of.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))
    return int(number)


def counts(source: libbpf.Object, of: int) -> tuple[int, ...] | None:
    """What an object has counted for a socket: sends, packets out and in, releases."""
    key = source.map("cookies").lookup(struct.pack("=Q", of))
    value = None if key is None else source.map("counted").lookup(key)
    return None if value is None else struct.unpack("=4Q", value)


def test_two_see_all_side_by_side_until_they_are_gone(compiled: Path, root: Cgroup) -> None:
    """Two instances at the same cgroup count the same, by the sock's address; one that is detached counts no more."""
    assert root.whole
    with loaded(compiled) as first, loaded(compiled) as second:
        links = [first.attach_cgroup(program, root.fd) for program in PROGRAMS]
        for program in PROGRAMS:
            second.attach_cgroup(program, root.fd)
        sender, receiver = exchange()
        for each in (first, second):
            assert counts(each, sender) == (DATAGRAMS, DATAGRAMS, 0, 1)
            assert counts(each, receiver) == (0, 0, DATAGRAMS, 1)
        for link in links:
            link.destroy()
        sender, receiver = exchange()
        assert counts(first, sender) is counts(first, receiver) is None
        assert counts(second, sender) == (DATAGRAMS, DATAGRAMS, 0, 1)


def test_what_is_not_loaded_or_no_cgroup_is_an_error(compiled: Path, root: Cgroup) -> None:
    """Before the load, and at a file that is no cgroup, the answer is one line with an errno."""
    with libbpf.Object.open(compiled) as opened, pytest.raises(libbpf.BpfError, match="'leaves' is not loaded"):
        opened.attach_cgroup("leaves", root.fd)
    with loaded(compiled) as each, (ROOT / "README.md").open("rb") as file:
        with pytest.raises(libbpf.BpfError, match=r"^attaching 'leaves' to a cgroup: EBADF") as refused:
            each.attach_cgroup("leaves", file.fileno())
        assert refused.value.errno == errno.EBADF


def test_attaching_takes_privilege(compiled: Path) -> None:
    """Who has given up CAP_NET_ADMIN and CAP_SYS_ADMIN may open the root, but not attach what was loaded before."""
    program = f"""
import os
from pathlib import Path
from tracer.probes import libbpf
from tracer.probes.cgroup import open_root
source, _ = libbpf.load(Path({str(compiled)!r}), knobs={{}}, optional=())
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    source.attach_cgroup("leaves", open_root().fd)
except libbpf.BpfError as refused:
    print(refused)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.stdout, done.stderr) == ("attaching 'leaves' to a cgroup: EPERM (Operation not permitted)\n", "")


OPEN = f"""{sys.executable} -c '
import os
from tracer.probes.cgroup import open_root
found = open_root()
print(found.whole, os.fstat(found.fd).st_ino, os.listdir("/proc/self/fd").__len__())'"""


def in_namespaces(*script: str, before: Callable[[], object] | None = None) -> list[str]:
    """The words that a shell script prints in mount and cgroup namespaces of its own, made after ``before``."""
    command = ["unshare", "--mount", "--propagation", "private", "--cgroup", "sh", "-ec", "\n".join(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, preexec_fn=before)
    return done.stdout.split()


UNMOUNT = "for place in $(awk '/ - cgroup2 / {print $5}' /proc/self/mountinfo); do umount -l $place; done"


def test_root_is_found_where_it_is_not_mounted() -> None:
    """Without any mount of cgroup v2 the root is the same, with no more open than its own descriptor."""
    mounted, unmounted = in_namespaces(OPEN), in_namespaces(UNMOUNT, OPEN)
    assert mounted == unmounted
    assert unmounted[:2] == ["True", "1"]


def test_a_blank_in_the_place_is_read(tmp_path: Path) -> None:
    """The mount table's way to write a blank is understood; mounts of other kinds are passed over."""
    place = tmp_path / "a cgroup"
    place.mkdir()
    table = tmp_path / "mountinfo"
    table.write_text(
        "40 31 0:3 / /proc rw shared:3 - proc proc rw\n"
        f"41 31 0:38 / {str(place).replace(' ', chr(92) + '040')} rw shared:9 - cgroup2 cgroup2 rw\n"
    )
    opened: list[str] = []
    real = os.open

    def noting(path: str, flags: int, **more: int) -> int:
        opened.append(path)
        return real(path, flags, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", noting)
        found = open_root(table)
    os.close(found.fd)
    assert opened[0] == str(place)
    assert found.whole  # what is no root is passed over for one


def test_in_a_cgroup_namespace_it_is_a_part(root: Cgroup) -> None:
    """Where the hierarchy begins at another cgroup than the kernel's root, that is told."""
    name = f"tracer-test-{os.getpid()}"
    os.mkdir(name, dir_fd=root.fd)
    try:
        child = os.stat(name, dir_fd=root.fd).st_ino
        members = os.open(f"{name}/cgroup.procs", os.O_WRONLY, dir_fd=root.fd)
        found = in_namespaces(UNMOUNT, OPEN, before=lambda: os.write(members, b"0"))
        os.close(members)
        assert found[:2] == ["False", str(child)]
    finally:
        os.rmdir(name, dir_fd=root.fd)
