"""What the broker keeps: the system calls and capabilities of its own work, and those by which a worker begins.

Workers are its children and inherit its filter and its bounding set, so what a fresh one takes before it confines
itself has to be left. Landlock can't be used: who is in a Landlock domain may not look into processes outside, which is
what the broker is for.
"""

from __future__ import annotations

import errno
from typing import Final

from tracer.confine import capabilities
from tracer.confine.plan import LANDLOCK, Layer, Plan
from tracer.confine.seccomp_filter import WORKER, Check, Rule, rules

__all__ = ["LAYERS", "broker_plan"]

LAYERS: Final = frozenset({Layer.CAPABILITIES, Layer.NO_NEW_PRIVILEGES, Layer.SECCOMP})
"""The layers that a broker can have."""

_LOOKING: Final = frozenset({"CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH"})  # into processes of others
_BEGINNING: Final = frozenset({"CAP_SETPCAP"})  # a worker empties its bounding set
_BECOMING: Final = frozenset({"CAP_SETUID", "CAP_SETGID", "CAP_KILL"})  # another user, whom it still can signal
_NETLINK: Final = frozenset({"CAP_NET_ADMIN", "CAP_SYS_ADMIN"})  # the proc connector; other network namespaces

_WHOLE: Final = (1 << 64) - 1
_INT: Final = 0xFFFFFFFF
_WRITES: Final = 0o3 | 0o100 | 0o1000  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
_PROT_WRITE, _PROT_EXEC, _MAP_ANONYMOUS = 2, 4, 0x20
# CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP … CLONE_NEWNET; CLONE_PTRACE and CLONE_VFORK
_CLONE_OTHER: Final = 0x80 | 0x20000 | 0x7E000000 | 0x2000 | 0x4000
_CLONE_NEWNET: Final = 0x40000000
_AF_UNIX, _AF_NETLINK = 1, 16
_FIONBIO: Final = 0x5421
_CONNECTOR, _SOCK_DIAG = 11, 4
_OWN: Final = frozenset({"mmap", "mprotect", "clone", "fcntl", "prctl", "prlimit64", "clone3"})

_ALWAYS: Final = (
    *(rule for rule in WORKER if rule.name not in _OWN),
    # Reading whatever there is, and writing only what is open.
    *(Rule(name, (Check(at, _WRITES, 0),)) for name, at in (("open", 1), ("openat", 2))),
    *rules("stat lstat newfstatat statx readlink readlinkat getdents64 access faccessat faccessat2 statfs fstatfs"),
    *rules("fcntl dup dup2 dup3 pipe2 getcwd uname sysinfo fadvise64 ftruncate preadv pwritev pwrite64"),
    # Code only from files, and never in memory that can be written.
    Rule("mmap", (Check(2, _PROT_EXEC, 0),)),
    Rule("mmap", (Check(2, _PROT_WRITE | _PROT_EXEC, _PROT_EXEC), Check(3, _MAP_ANONYMOUS, 0))),
    Rule("mprotect", (Check(2, _PROT_EXEC, 0),)),
    # A worker and what becomes of it.
    Rule("clone", (Check(0, _CLONE_OTHER, 0),)),
    Rule("clone3", (), errno.ENOSYS),
    *rules("wait4 waitid pidfd_open pidfd_send_signal setitimer set_tid_address"),
    Rule("socketpair", (Check(0, _INT, _AF_UNIX),)),
    Rule("ioctl", (Check(1, _INT, _FIONBIO),)),  # a timeout on a socket
    *rules("sendto sendmsg recvfrom recvmsg getsockopt setsockopt getsockname"),
    # How a worker begins: it asks who it is, waits in other ways, and confines itself.
    *rules("getpgrp getpgid getsid getresuid getresgid getgroups capset prctl prlimit64 umask"),
    *rules("setgroups setresuid setresgid setuid setgid seccomp"),
    *rules("landlock_create_ruleset landlock_add_rule landlock_restrict_self"),
    *rules("epoll_create1 select pselect6 eventfd2 arch_prctl membarrier"),
)
_FOR_NETLINK: Final = (
    Rule("setns", (Check(1, _WHOLE, _CLONE_NEWNET),)),
    *(Rule("socket", (Check(0, _INT, _AF_NETLINK), Check(2, _INT, each))) for each in (_CONNECTOR, _SOCK_DIAG)),
    *rules("bind sched_setaffinity"),
)


def broker_plan(*, netlink: bool, becomes: bool) -> Plan:
    """What a broker is left with: ``netlink`` if a worker may use that, ``becomes`` if it runs as another user."""
    wanted = _LOOKING | _BEGINNING | (_NETLINK if netlink else frozenset()) | (_BECOMING if becomes else frozenset())
    return Plan(
        None,
        wanted & capabilities.read().permitted,
        _ALWAYS + (_FOR_NETLINK if netlink else ()),
        without=frozenset({Layer.USER, *LANDLOCK}),
    )
