"""The ground on which escapes are tried: files, sockets and processes made for it, in a mount namespace of its own."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import platform
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tracer.confine.identity import NOBODY
from tracer.confine.libc import call

__all__ = ["Ground", "ground"]

_CLONE_NEWNS: Final = 0x20000
_MS_REC_PRIVATE: Final = 0x4000 | 1 << 18
_GETPID_32: Final = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov $20, %eax; int $0x80; ret
# struct vfs_cap_data of include/uapi/linux/capability.h: revision 2, effective, CAP_DAC_READ_SEARCH alone
_MAY_READ_ALL: Final = struct.pack("<5I", 0x02000001, 1 << 2, 0, 0, 0)
PROGRAM: Final = (
    "import os, sys\ntry:\n os.open(sys.argv[1], int(sys.argv[2]))\nexcept OSError as e:\n sys.exit(e.errno)"
)
"""What is run as a set-uid program: it opens a file, and its exit code is the errno."""


class Ground(NamedTuple):
    """Everything is root's but where it says otherwise. Ports are of sockets that listen on loopback.

    ``secret`` and ``private`` (a directory) are for root alone, ``group`` for root and the group NOBODY + 1;
    ``foreign`` is NOBODY's alone; ``public`` anybody may read, and write into ``common``; ``spare`` and ``other``
    are there to be deleted. ``victim`` is a process of
    root, ``stranger`` of NOBODY; both ignore SIGUSR1. ``old_call`` makes a system call as 32-bit programs do (None:
    not on this machine).
    """

    place: Path
    secret: str
    private: str
    group: str
    foreign: str
    public: str
    spare: str
    other: str
    common: str
    set_uid: str
    set_gid: str
    with_capability: str
    tcp: int
    tcp6: int
    udp: int
    abstract: bytes
    victim: int
    stranger: int
    namespace: int
    pidfd: int
    old_call: Callable[[], int] | None


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """Make it, in a new mount namespace of this process; takes root. Raises OSError."""
    call("unshare", _CLONE_NEWNS)
    call("mount", b"none", b"/", None, _MS_REC_PRIVATE, None)
    place = Path(tempfile.mkdtemp(prefix="tracer-"))
    stack = contextlib.ExitStack()
    with stack:
        stack.callback(place.rmdir)
        call("mount", b"tmpfs", os.fsencode(place), b"tmpfs", 0, b"mode=755")
        stack.callback(call, "umount2", os.fsencode(place), 2)  # MNT_DETACH
        yield _fill(place, stack)


def _fill(place: Path, stack: contextlib.ExitStack) -> Ground:
    def file(name: str, mode: int, uid: int = 0, gid: int = 0) -> str:
        path = place / name
        path.write_bytes(b"content\n")
        os.chown(path, uid, gid)
        path.chmod(mode)
        return str(path)

    def directory(name: str, mode: int) -> str:
        (place / name).mkdir()
        (place / name).chmod(mode)
        return str(place / name)

    def program(name: str, mode: int, gid: int = 0) -> str:
        path = place / name
        shutil.copyfile(Path(sys.executable).resolve(), path)
        os.chown(path, 0, gid)
        path.chmod(mode)
        return str(path)

    def listener(family: int, kind: int, address: tuple[str, int] | bytes) -> socket.socket:
        made = stack.enter_context(socket.socket(family, kind))
        made.bind(address)
        if kind == socket.SOCK_STREAM:
            made.listen(128)
        return made

    capable = program("with-capability", 0o755)
    with contextlib.suppress(OSError):  # a tmpfs without attributes: the try fails in its control run, and says so
        os.setxattr(capable, "security.capability", _MAY_READ_ALL)
    abstract = f"\0{place.name}".encode()
    listener(socket.AF_UNIX, socket.SOCK_STREAM, abstract)
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, namespace)
    victim, stranger = _process(stack, 0), _process(stack, NOBODY)
    pidfd = os.pidfd_open(victim)
    stack.callback(os.close, pidfd)
    return Ground(
        place,
        file("secret", 0o600),
        directory("private", 0o700),
        file("group", 0o640, gid=NOBODY + 1),
        file("foreign", 0o600, NOBODY, NOBODY),
        file("public", 0o644),
        file("spare", 0o600),
        file("other", 0o600),
        directory("common", 0o1777),
        program("set-uid", 0o4755),
        program("set-gid", 0o2755, NOBODY + 1),
        capable,
        listener(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)).getsockname()[1],
        _port6(listener),
        listener(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)).getsockname()[1],
        abstract,
        victim,
        stranger,
        namespace,
        pidfd,
        _old_call(),
    )


def _port6(listener: Callable[[int, int, tuple[str, int] | bytes], socket.socket]) -> int:
    try:
        return int(listener(socket.AF_INET6, socket.SOCK_STREAM, ("::1", 0)).getsockname()[1])
    except OSError:
        return 0  # no IPv6 here


def _process(stack: contextlib.ExitStack, uid: int) -> int:
    """A process that ends with this one: not by a signal, which a confined parent's end does not send."""
    ready, told = os.pipe()
    life, alive = os.pipe()
    child = os.fork()
    if not child:
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.close(alive)
        os.close(ready)
        if uid:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
        os.write(told, b"!")
        os.close(told)
        os.read(life, 1)
        os._exit(0)
    os.close(told)
    os.close(life)
    os.read(ready, 1)
    os.close(ready)

    def end() -> None:
        os.close(alive)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    stack.callback(end)
    return child


def _old_call() -> Callable[[], int] | None:
    if platform.machine() != "x86_64":
        return None
    memory = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    memory.write(_GETPID_32)
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))

    def old_call(keep: mmap.mmap = memory) -> int:
        assert not keep.closed  # noqa: S101  # it holds the code
        return int(function())

    return old_call
