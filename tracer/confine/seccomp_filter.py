"""The system calls that are left, as an allowlist for libseccomp; any other answers EPERM.

Through the binding that libseccomp itself publishes, which distributions call python3-seccomp or python3-libseccomp.
Calls of another architecture end the process.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, NamedTuple

__all__ = ["ASKING", "HEARING", "WORKER", "Check", "Rule", "SeccompError", "on_descriptors", "prepare", "rules"]

FIX: Final = "install libseccomp's Python binding (Debian, Ubuntu: python3-seccomp; Fedora: python3-libseccomp)"


_REFUSALS: Final = (OSError, RuntimeError, ValueError, TypeError)  # what the binding raises, by its version


class SeccompError(Exception):
    """The filter can't be made or loaded; one line, with the fix."""


class Check(NamedTuple):
    """An argument, by position, whose bits in ``mask`` must be ``value``."""

    argument: int
    mask: int
    value: int


class Rule(NamedTuple):
    """A system call that is allowed where all checks hold, or that is answered with an error of its own."""

    name: str
    checks: tuple[Check, ...] = ()
    error: int = 0


_WHOLE: Final = (1 << 64) - 1
_INT: Final = (1 << 32) - 1  # of an int the rest of the register may be anything


def _is(argument: int, *values: int) -> list[tuple[Check, ...]]:
    """Alternatives: the argument is one of these."""
    return [(Check(argument, _WHOLE, value),) for value in values]


def rules(names: str) -> tuple[Rule, ...]:
    """Rules that allow calls whatever their arguments, from names with blanks between."""
    return tuple(map(Rule, names.split()))


def _checked(name: str, *alternatives: tuple[Check, ...]) -> tuple[Rule, ...]:
    return tuple(Rule(name, checks) for checks in alternatives)


_PROT_EXEC: Final = 4
_CLONE_THREAD: Final = 0x10000
_CLONE_VM: Final = 0x100
# CLONE_NEWTIME, CLONE_NEWNS, CLONE_NEWCGROUP … CLONE_NEWNET; CLONE_PTRACE and CLONE_VFORK
_CLONE_OTHER: Final = 0x80 | 0x20000 | 0x7E000000 | 0x2000 | 0x4000
_F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC = 1, 2, 3, 1030
_TCGETS, _TIOCGWINSZ = 0x5401, 0x5413
_PERF_ENABLE, _PERF_DISABLE, _PERF_ID = 0x2400, 0x2401, 0x80082407
_BPF_OBJ_GET_INFO_BY_FD: Final = 15
_PR_GET_DUMPABLE, _PR_GET_SECCOMP, _PR_CAPBSET_READ, _PR_GET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 3, 21, 23, 39, 47
_PR_CAP_AMBIENT_IS_SET: Final = 1

WORKER: Final = (
    # Reading and writing what is open.
    *rules("read readv pread64 write writev lseek close fstat fsync fdatasync"),
    *_checked("fcntl", *_is(1, _F_GETFD, _F_SETFD, _F_GETFL, _F_DUPFD_CLOEXEC)),
    *_checked("ioctl", *_is(1, _TCGETS, _TIOCGWINSZ, _PERF_ENABLE, _PERF_DISABLE, _PERF_ID)),
    # Waiting.
    *rules("epoll_wait epoll_pwait epoll_ctl poll ppoll futex sched_yield nanosleep clock_nanosleep"),
    # Memory that is not code.
    *rules("brk munmap mremap madvise"),
    *_checked("mmap", (Check(2, _PROT_EXEC, 0),)),
    *_checked("mprotect", (Check(2, _PROT_EXEC, 0),)),
    # Threads, which inherit every layer, and no process.
    Rule("clone", (Check(0, _CLONE_THREAD | _CLONE_VM | _CLONE_OTHER, _CLONE_THREAD | _CLONE_VM),)),
    Rule("clone3", (), errno.ENOSYS),  # its flags are in memory; the C library then uses clone
    *rules("set_robust_list rseq rt_sigprocmask rt_sigaction rt_sigreturn sigaltstack restart_syscall exit exit_group"),
    # Looking at itself.
    *rules("clock_gettime clock_getres gettimeofday getrandom getpid gettid getppid getuid geteuid getgid getegid"),
    *rules("sched_getaffinity getrusage times capget"),
    *_checked(
        "prctl",
        *_is(0, _PR_GET_DUMPABLE, _PR_GET_SECCOMP, _PR_CAPBSET_READ, _PR_GET_NO_NEW_PRIVS),
        (Check(0, _WHOLE, _PR_CAP_AMBIENT), Check(1, _WHOLE, _PR_CAP_AMBIENT_IS_SET)),
    ),
    Rule("prlimit64", (Check(0, _WHOLE, 0), Check(2, _WHOLE, 0))),
    # How often the kernel skipped a probe.
    *_checked("bpf", *_is(0, _BPF_OBJ_GET_INFO_BY_FD)),
)
"""What the confined process may do: read and write what is open, wait, make threads, and look at itself."""

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_PR_SET_NAME, _PR_GET_NAME = 15, 16

ASKING: Final = (
    *rules("recvfrom"),
    Rule("sendto", (Check(4, _WHOLE, 0),)),  # without an address: to whom the socket is connected, or to the kernel
)
"""What the account of the wire needs beside that: to ask over the sockets that it has."""

HEARING: Final = (
    *ASKING,
    Rule("setsockopt", (Check(1, _INT, _SOL_NETLINK), Check(2, _INT, _NETLINK_ADD_MEMBERSHIP))),
    # To make every CPU send a message, this thread goes there and renames itself to what it is called.
    Rule("sched_setaffinity", (Check(0, _INT, 0),)),
    *_checked("prctl", *_is(0, _PR_SET_NAME, _PR_GET_NAME)),
)
"""What the netlink backend needs beside that: to ask and to hear over the sockets that it has or is handed."""


def on_descriptors(names: str, *fds: int) -> tuple[Rule, ...]:
    """Rules that allow calls, from names with blanks between, if their first argument is one of these descriptors."""
    return tuple(Rule(name, (Check(0, _INT, fd),)) for name in names.split() for fd in fds)


def prepare(allowed: Iterable[Rule], *, without_new_privileges: bool = True) -> Callable[[], None]:
    """Make the filter; what it gives loads it, for every thread of this process and for ever.

    Making it takes files, so it comes before Landlock. With ``without_new_privileges`` False loading takes
    CAP_SYS_ADMIN. Raises SeccompError, and so does loading.
    """
    try:
        import seccomp
    except ImportError as missing:
        raise SeccompError(f"{missing}; {FIX}") from missing
    try:
        filtered = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
        filtered.set_attr(seccomp.Attr.CTL_NNP, int(without_new_privileges))
        # Without seccomp(2), as in some containers, prctl(2) does: for this thread and those it makes.
        for attribute, value in ((seccomp.Attr.ACT_BADARCH, seccomp.KILL_PROCESS), (seccomp.Attr.CTL_TSYNC, 1)):
            with suppress(*_REFUSALS):
                filtered.set_attr(attribute, value)
        for rule in allowed:
            number = _number(seccomp, rule.name)
            if number < 0:
                continue  # not on this architecture, or newer than this libseccomp: it stays forbidden
            checks = [seccomp.Arg(check.argument, seccomp.MASKED_EQ, check.mask, check.value) for check in rule.checks]
            filtered.add_rule(seccomp.ERRNO(rule.error) if rule.error else seccomp.ALLOW, number, *checks)
    except _REFUSALS as refused:
        raise SeccompError(f"the filter can't be made: {refused}") from refused

    def load() -> None:
        try:
            filtered.load()
        except _REFUSALS as refused:
            raise SeccompError(f"the kernel refused the filter: {refused}") from refused

    return load


def _number(seccomp: Any, name: str) -> int:
    try:
        return int(seccomp.resolve_syscall(seccomp.Arch(), name))
    except _REFUSALS:
        return -1
