"""Try what a confined process must not be able to do, in ways that harm nothing where it can, and keep the answers."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tracer.confine import capabilities
from tracer.confine.libc import call, syscall

__all__ = ["POSSIBLE", "TRIES", "OwnState", "Targets", "descriptors", "own_state", "targets", "threads", "tries"]

POSSIBLE: Final = "possible"
UNKNOWN: Final = "unknown"
"""Stands for capabilities that can't be asked for."""
_LOOPBACK: Final = "127.0.0.1"
_DISCARD: Final = 9  # the port of a service that nobody runs, and that would ignore what it gets
_PTRACE_PEEKDATA: Final = 2
_BPF_PROG_LOAD: Final = 5
_SOCKET_FILTER: Final = 1
_RETURN_0: Final = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)
_KEYCTL_GET_KEYRING_ID: Final = 0
_SESSION_KEYRING: Final = -3
_PR_GET_SECCOMP, _PR_GET_NO_NEW_PRIVS = 21, 39
_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
}


class Targets(NamedTuple):
    """What the tries are made at: all there before the confinement, so that a refusal means something.

    ``home`` is a file or directory of whoever started this, ``outside`` a directory to write into, ``other`` another
    process, ``namespace`` a descriptor of this process's own network namespace (-1: there is none).
    """

    home: str
    outside: str
    other: int
    namespace: int


def targets(home: str) -> Targets:
    """Look for targets; ``home`` is the directory of whoever started this. Opens one descriptor: close it after."""
    names = (".bash_history", ".ssh/authorized_keys", ".profile", ".bashrc", ".")
    places = [Path(home, name) for name in names]
    found = next((str(place) for place in places if os.access(place, os.F_OK)), "/")  # also where asking is refused
    try:
        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        namespace = -1
    return Targets(found, "/tmp", os.getppid() or 1, namespace)  # noqa: S108  # nothing is left there


def _read(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _write(where: str) -> None:
    os.close(os.open(where, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600))  # a file without a name


def _connect() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        try:
            client.connect((_LOOPBACK, _DISCARD))
        except ConnectionRefusedError:
            return  # by who is there, not by a layer


def _bind() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind((_LOOPBACK, 0))


def _send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"", (_LOOPBACK, _DISCARD))


def _open_socket(family: int, kind: int, protocol: int) -> None:
    socket.socket(family, kind, protocol).close()


def _unless(allowed: int, function: Callable[[], object]) -> None:
    """Call what can only fail: with the error ``allowed`` it has got past every layer."""
    try:
        function()
    except OSError as error:
        if error.errno != allowed:
            raise


def _execute() -> None:
    # Arguments that can't be read: it would go wrong before anything is replaced.
    _unless(errno.EFAULT, lambda: call("execve", b"/bin/true", ctypes.c_void_p(1), None))


def _load_program() -> None:
    code, license_ = ctypes.create_string_buffer(_RETURN_0), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("=IIQQ", _SOCKET_FILTER, 2, ctypes.addressof(code), ctypes.addressof(license_)).ljust(48, b"\0")
    os.close(syscall("bpf", _BPF_PROG_LOAD, attr, len(attr)))


def _fork() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _make_code() -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


TRIES: Final[Mapping[str, Callable[[Targets], object]]] = {
    "read_shadow": lambda _: _read("/etc/shadow"),
    "read_home": lambda at: _read(at.home),
    "write_outside": lambda at: _write(at.outside),
    "connect_tcp": lambda _: _connect(),
    "bind_tcp": lambda _: _bind(),
    "send_udp": lambda _: _send(),
    "raw_socket": lambda _: _open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "packet_socket": lambda _: _open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "execve": lambda _: _execute(),
    "fork": lambda _: _fork(),
    "executable_memory": lambda _: _make_code(),
    "ptrace": lambda at: _unless(errno.ESRCH, lambda: call("ptrace", _PTRACE_PEEKDATA, at.other, 0, 0)),
    "bpf_load": lambda _: _load_program(),
    "signal": lambda at: os.kill(at.other, 0),
    "mount": lambda _: _unless(errno.ENODEV, lambda: call("mount", b"none", b"/", b"no-such-type", 0, None)),
    "setns": lambda at: call("setns", at.namespace, 0),
    "unshare": lambda _: call("unshare", 0),
    "io_uring_setup": lambda _: os.close(syscall("io_uring_setup", 1, ctypes.create_string_buffer(120))),
    "keyctl": lambda _: syscall("keyctl", _KEYCTL_GET_KEYRING_ID, _SESSION_KEYRING, 0),
}
"""What must fail, by name: each raises OSError where it is refused, and leaves nothing behind where it is not."""


def tries(at: Targets) -> dict[str, str]:
    """Try everything: the name of the error each was refused with, or POSSIBLE."""
    found = {}
    for name, attempt in TRIES.items():
        try:
            attempt(at)
        except OSError as refused:
            found[name] = errno.errorcode.get(refused.errno or 0, str(refused.errno))
        else:
            found[name] = POSSIBLE
    return found


class OwnState(NamedTuple):
    """What one thread is left with, as the kernel tells it."""

    capabilities: frozenset[str]
    uids: tuple[int, ...]
    no_new_privileges: bool
    seccomp: bool
    reads: bool  # whether it could still open a file that everybody may read


def own_state() -> OwnState:
    """The state of the calling thread; needs no file. What the kernel doesn't tell counts as the worst there is."""
    try:
        sets = capabilities.read()
        left = sets.effective | sets.permitted | sets.inheritable | sets.ambient
    except OSError:
        left = frozenset({UNKNOWN})
    try:
        _read("/etc/passwd")
        reads = True
    except OSError:
        reads = False
    return OwnState(
        left, (os.getuid(), os.geteuid()), _asked(_PR_GET_NO_NEW_PRIVS) == 1, _asked(_PR_GET_SECCOMP) == 2, reads
    )


def _asked(option: int) -> int:
    try:
        return call("prctl", option, 0, 0, 0, 0)
    except OSError:
        return -1


def descriptors() -> dict[str, int]:
    """How many descriptors of which kind this process has open; before the confinement, since it takes /proc."""
    found: Counter[str] = Counter()
    try:
        entries = list(Path("/proc/self/fd").iterdir())
    except OSError:
        return {}
    for entry in entries:
        number = int(entry.name)
        try:
            target = str(entry.readlink())
            mode = os.fstat(number).st_mode
        except OSError:
            continue  # the listing's own
        if target.startswith("anon_inode:"):
            found[target.removeprefix("anon_inode:").strip("[]").replace("-", "_")] += 1
        elif stat.S_ISCHR(mode) and os.isatty(number):
            found["terminal"] += 1
        else:
            found[_KINDS.get(stat.S_IFMT(mode), "other")] += 1
    return dict(sorted(found.items()))


def threads(status: int) -> int:
    """How many threads this process has, from a descriptor of /proc/self/status that was opened before."""
    for line in os.pread(status, 1 << 14, 0).splitlines():
        if line.startswith(b"Threads:"):
            return int(line.split()[1])
    return 0
