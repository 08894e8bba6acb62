"""Escapes: what a taken-over process would try, which layer stands against each, and what stands behind that one."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
import socket
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from tracer.confine import capabilities
from tracer.confine.ground import PROGRAM, Ground
from tracer.confine.libc import call, syscall
from tracer.confine.plan import LANDLOCK, Layer

__all__ = ["ESCAPES", "KILLED", "Escape"]

KILLED: Final = "SIGSYS"
_PTRACE_SEIZE: Final = 0x4206
_BPF_PROG_LOAD: Final = 5
_PROG_TRACEPOINT: Final = 5
_RETURN_0: Final = bytes((0xB7, *bytes(7), 0x95, *bytes(7)))
_CLONE_NEWUSER, _CLONE_NEWUTS = 0x10000000, 0x04000000
_PERF_SOFTWARE: Final = struct.pack("=IIQQQQQI60x", 1, 112, 10, 1, 1 << 10, 0, 0, 0)
_PROCESS_KEYRING: Final = -2

_SECCOMP, _CAPS, _USER, _NNP = Layer.SECCOMP, Layer.CAPABILITIES, Layer.USER, Layer.NO_NEW_PRIVILEGES
_FILES, _NETWORK, _SCOPES = LANDLOCK


class Escape(NamedTuple):
    """One thing to try, ``words`` for people.

    ``attempt`` raises OSError where it is refused. ``layer`` refuses it with ``error``, the layers ``behind`` would,
    too: those are off in both runs, with the layer and without it. It takes Landlock ``abi`` or newer; with
    ``as_user`` it is tried as an ordinary user.
    """

    name: str
    words: str
    layer: Layer
    error: str
    attempt: Callable[[Ground], object]
    behind: frozenset[Layer] = frozenset()
    abi: int = 0
    as_user: bool = False


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags | os.O_CLOEXEC, 0o600))


def _socket(family: int, kind: int, protocol: int = 0) -> None:
    socket.socket(family, kind, protocol).close()


def _connect(family: int, address: tuple[str, int] | bytes) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(address)


def _bind(family: int, address: tuple[str, int] | bytes) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.bind(address)


def _send(at: Ground) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"x", ("127.0.0.1", at.udp))


def _execute(_: Ground) -> None:
    os.execv("/bin/true", ["true"])  # noqa: S606  # a success ends this process, with 0


def _fork(_: Ground) -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _code(_: Ground) -> None:
    mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _code_later(_: Ground) -> None:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory:
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        call("mprotect", ctypes.c_void_p(address), mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_EXEC)


def _trace(at: Ground) -> None:
    call("ptrace", _PTRACE_SEIZE, at.victim, 0, 0)


def _peek(at: Ground) -> None:
    buffer = ctypes.create_string_buffer(8)
    here = struct.pack("=QQ", ctypes.addressof(buffer), 8)
    there = struct.pack("=QQ", ctypes.addressof(buffer), 8)  # the victim is a fork: it has memory there, too
    call("process_vm_readv", at.victim, here, 1, there, 1, 0)


def _take(at: Ground) -> None:
    os.close(syscall("pidfd_getfd", at.pidfd, 0, 0))


def _signal(at: Ground) -> None:
    os.kill(at.stranger, signal.SIGUSR1)


def _load_program(_: Ground) -> None:
    code, license_ = ctypes.create_string_buffer(_RETURN_0), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("=IIQQ", _PROG_TRACEPOINT, 2, ctypes.addressof(code), ctypes.addressof(license_))
    os.close(syscall("bpf", _BPF_PROG_LOAD, attr.ljust(48, b"\0"), 48))


def _mount(at: Ground) -> None:
    call("mount", b"tmpfs", os.fsencode(at.common), b"tmpfs", 0, None)


def _host_name(_: Ground) -> None:
    call("unshare", _CLONE_NEWUTS)


def _io_uring(_: Ground) -> None:
    os.close(syscall("io_uring_setup", 1, ctypes.create_string_buffer(120)))


def _key(_: Ground) -> None:
    syscall("add_key", b"user", b"tracer", b"x", 1, _PROCESS_KEYRING)


def _perf(_: Ground) -> None:
    os.close(syscall("perf_event_open", _PERF_SOFTWARE, -1, 0, -1, 8))


def _old_call(at: Ground) -> None:
    if at.old_call is None:
        raise OSError(errno.ENOSYS, "no such calls on this machine")
    at.old_call()


def _run(program: str, path: str, flags: int) -> None:
    """Replace this process by a program that opens the path; a failure's errno is its exit code."""
    os.execve(  # noqa: S606
        program, [program, "-S", "-s", "-c", PROGRAM, path, str(flags)], {"PYTHONHOME": sys.base_prefix}
    )


def _run_with_capability(at: Ground) -> None:
    capabilities.drop()  # of the file's alone, then
    _run(at.with_capability, at.secret, os.O_RDONLY)


def _seccomp(
    name: str, words: str, attempt: Callable[[Ground], object], *behind: Layer, error: str = "EPERM"
) -> Escape:
    return Escape(name, words, _SECCOMP, error, attempt, frozenset(behind))


def _files(name: str, words: str, attempt: Callable[[Ground], object], error: str = "EACCES", abi: int = 1) -> Escape:
    return Escape(name, words, _FILES, error, attempt, frozenset({_SECCOMP}), abi)


def _network(name: str, words: str, attempt: Callable[[Ground], object]) -> Escape:
    return Escape(name, words, _NETWORK, "EACCES", attempt, frozenset({_SECCOMP}), 4)


def _scopes(name: str, words: str, attempt: Callable[[Ground], object]) -> Escape:
    return Escape(name, words, _SCOPES, "EPERM", attempt, frozenset({_SECCOMP}), 6)


def _caps(name: str, words: str, attempt: Callable[[Ground], object], *behind: Layer, error: str = "EPERM") -> Escape:
    return Escape(name, words, _CAPS, error, attempt, frozenset({_SECCOMP, *behind}))


def _user(name: str, words: str, attempt: Callable[[Ground], object], *behind: Layer, error: str = "EACCES") -> Escape:
    return Escape(name, words, _USER, error, attempt, frozenset({_SECCOMP, *behind}), as_user=True)


def _nnp(name: str, words: str, attempt: Callable[[Ground], object], *behind: Layer) -> Escape:
    off = frozenset({_SECCOMP, *LANDLOCK, *behind})  # which can't be put on without it, and would stop the exec
    return Escape(name, words, _NNP, "EACCES", attempt, off, as_user=True)


_READ, _WRITE = os.O_RDONLY, os.O_WRONLY
_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL
_INET, _INET6, _STREAM = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM

ESCAPES: Final = (
    _seccomp("open", "open a file that anybody may read", lambda at: _open(at.public, _READ), _FILES),
    _seccomp("create", "create a file", lambda at: _open(f"{at.common}/a", _NEW), _FILES),
    _seccomp("connect", "open a TCP connection", lambda at: _connect(_INET, ("127.0.0.1", at.tcp)), _NETWORK),
    _seccomp("bind", "bind a TCP port", lambda _: _bind(_INET, ("127.0.0.1", 0)), _NETWORK),
    _seccomp("udp", "send a datagram", _send, _NETWORK),  # newer Landlocks than were tried may know UDP
    _seccomp("netlink", "open a netlink socket", lambda _: _socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)),
    _seccomp("raw", "open a raw socket", lambda _: _socket(_INET, socket.SOCK_RAW, 1), _CAPS),
    _seccomp("packet", "open a packet socket", lambda _: _socket(socket.AF_PACKET, socket.SOCK_RAW), _CAPS),
    _seccomp("execve", "run a program", _execute, _FILES),
    _seccomp("fork", "make a process", _fork),
    _seccomp("code", "make executable memory", _code),
    _seccomp("code_later", "make memory executable", _code_later),
    _seccomp("old_call", "make a 32-bit system call", _old_call, error=KILLED),
    _seccomp("ptrace", "trace a process", _trace, *LANDLOCK, _CAPS),
    _seccomp("peek", "read a process's memory", _peek, *LANDLOCK, _CAPS),
    _seccomp("take", "take a process's descriptor", _take, *LANDLOCK, _CAPS),
    _seccomp("kill", "send a signal", lambda at: os.kill(at.victim, signal.SIGUSR1), _SCOPES),
    _seccomp("bpf", "load a BPF program", _load_program, _CAPS),
    _seccomp("perf", "open a perf event", _perf, _CAPS),
    _seccomp("mount", "mount a file system", _mount, _CAPS, _FILES),
    _seccomp("setns", "enter a namespace", lambda at: call("setns", at.namespace, 0), _CAPS),
    _seccomp("user_namespace", "make a user namespace", lambda _: call("unshare", _CLONE_NEWUSER)),
    _seccomp("io_uring", "set up io_uring", _io_uring),
    _seccomp("key", "add a key to a keyring", _key),
    _files("file_read", "read a file that anybody may read", lambda at: _open(at.public, _READ)),
    _files("file_own", "read a file of its own user's", lambda at: _open(at.secret, _READ)),
    _files("file_list", "list a directory", lambda at: _open(at.common, _READ | os.O_DIRECTORY)),
    _files("file_write", "write a file of its own user's", lambda at: _open(at.secret, _WRITE)),
    _files("file_create", "create a file where anybody may", lambda at: _open(f"{at.common}/b", _NEW)),
    _files("file_directory", "make a directory", lambda at: Path(at.common, "d").mkdir()),
    _files("file_link", "make a symbolic link", lambda at: Path(at.common, "l").symlink_to("x")),
    _files("file_remove", "delete a file", lambda at: Path(at.spare).unlink()),
    _files("file_execute", "run a program", _execute),
    _files("file_truncate", "cut a file", lambda at: os.truncate(at.secret, 0), abi=3),
    _files("file_mount", "mount a file system", _mount, error="EPERM")._replace(behind=frozenset({_SECCOMP, _CAPS})),
    _network("tcp_connect", "open a TCP connection", lambda at: _connect(_INET, ("127.0.0.1", at.tcp))),
    _network("tcp_connect_6", "open one over IPv6", lambda at: _connect(_INET6, ("::1", at.tcp6))),
    _network("tcp_bind", "bind a TCP port", lambda _: _bind(_INET, ("127.0.0.1", 0))),
    _network("tcp_bind_6", "bind one over IPv6", lambda _: _bind(_INET6, ("::1", 0))),
    _scopes("signal", "send a signal to a process", lambda at: os.kill(at.victim, signal.SIGUSR1)),
    _scopes("signal_by_fd", "send one by a descriptor", lambda at: signal.pidfd_send_signal(at.pidfd, signal.SIGUSR1)),
    _scopes("signal_stop", "ask whether it may", lambda at: os.kill(at.victim, 0)),
    _scopes("abstract", "connect to an abstract socket", lambda at: _connect(socket.AF_UNIX, at.abstract)),
    _caps("cap_mount", "mount a file system", _mount, _FILES),
    _caps("cap_raw", "open a raw socket", lambda _: _socket(_INET, socket.SOCK_RAW, 1)),
    _caps("cap_packet", "open a packet socket", lambda _: _socket(socket.AF_PACKET, socket.SOCK_RAW)),
    _caps("cap_bpf", "load a BPF program", _load_program),
    _caps("cap_setns", "enter a namespace", lambda at: call("setns", at.namespace, 0)),
    _caps("cap_namespace", "make a namespace", _host_name),
    _caps("cap_read", "read another user's file", lambda at: _open(at.foreign, _READ), _FILES, error="EACCES"),
    _caps("cap_signal", "send a signal to another user's process", _signal, _SCOPES),
    _caps("cap_chroot", "change the root directory", lambda at: os.chroot(at.common)),
    _user("user_read", "read root's file", lambda at: _open(at.secret, _READ), _FILES),
    _user("user_write", "write root's file", lambda at: _open(at.public, _WRITE), _FILES),
    _user("user_list", "list root's directory", lambda at: _open(at.private, _READ | os.O_DIRECTORY), _FILES),
    _user("user_remove", "delete root's file", lambda at: Path(at.other).unlink(), _FILES),
    _user("user_signal", "signal root's process", lambda at: os.kill(at.victim, 0), _SCOPES, error="EPERM"),
    _nnp("set_uid_read", "read root's file by a set-uid program", lambda at: _run(at.set_uid, at.secret, _READ)),
    _nnp("set_uid_write", "write it so", lambda at: _run(at.set_uid, at.secret, _WRITE)),
    _nnp("set_gid_read", "read a group's file by a set-gid program", lambda at: _run(at.set_gid, at.group, _READ)),
    _nnp("file_capability", "read it by a program with capabilities", _run_with_capability, _CAPS),
)
"""All that is tried, by layer."""
