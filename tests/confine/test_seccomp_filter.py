"""The filter: what it lets through by name and argument, what it answers, and that it is for every thread."""

import ctypes
import errno
import os
import sys
import threading

import pytest

from tests.confine.forks import in_fork
from tracer.confine import seccomp_filter
from tracer.confine.seccomp_filter import WORKER, Check, Rule, SeccompError, prepare

pytestmark = pytest.mark.live


def answer(function: str, *arguments: int) -> int:
    """The errno that a function of the C library fails with, or 0."""
    libc = ctypes.CDLL(None, use_errno=True)
    ctypes.set_errno(0)
    return ctypes.get_errno() if getattr(libc, function)(*arguments) < 0 else 0


def test_default_is_eperm() -> None:
    """What is not listed answers EPERM; what is listed works."""

    def ask() -> tuple[int, int]:
        prepare(WORKER)()
        return answer("getppid"), answer("getsid", 0)

    assert in_fork(ask) == (0, errno.EPERM)


def test_arguments_count() -> None:
    """A check on an argument lets through just what it says."""

    def ask() -> list[int]:
        prepare((*WORKER, Rule("getpriority", (Check(0, 0xFF, 1),))))()
        return [answer("getpriority", which, 0) for which in (0, 1, 2)]

    assert in_fork(ask) == [errno.EPERM, 0, errno.EPERM]


def test_an_answer_of_its_own() -> None:
    """A rule may answer with an error of its own: clone3 is not there, so that threads are made by clone."""

    def ask() -> tuple[int, list[int]]:
        prepare(WORKER)()
        ran: list[int] = []
        thread = threading.Thread(target=ran.append, args=(1,))
        thread.start()
        thread.join()
        return answer("syscall", 435, 0, 0), ran

    assert in_fork(ask) == (errno.ENOSYS, [1])


def test_names_that_are_not_known_are_left_out() -> None:
    """A call that this libseccomp or architecture has not got stays forbidden, and the filter loads."""

    def ask() -> int:
        prepare((*WORKER, Rule("no_such_call")))()
        return answer("getsid", 0)

    assert in_fork(ask) == errno.EPERM


def test_every_thread_is_filtered() -> None:
    """A thread that was there before has the filter too."""

    def ask() -> list[int]:
        found: list[int] = []
        go = threading.Event()

        def look() -> None:
            go.wait()
            found.append(answer("getsid", 0))

        thread = threading.Thread(target=look)
        thread.start()
        prepare(WORKER)()
        go.set()
        thread.join()
        return found

    assert in_fork(ask) == [errno.EPERM]


def test_without_the_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where libseccomp's binding is missing, one line says what to install."""
    monkeypatch.setitem(sys.modules, "seccomp", None)
    with pytest.raises(SeccompError, match="python3-seccomp"):
        prepare(WORKER)


def test_worker_opens_nothing() -> None:
    """No call of the worker's list takes a path, a socket, a process or a program."""
    named = {rule.name for rule in WORKER if not rule.error}
    assert len(named) < 60
    forbidden = (
        *("open", "openat", "openat2", "creat", "execve", "execveat", "fork", "vfork", "clone3", "socket", "connect"),
        *("bind", "sendto", "sendmsg", "ptrace", "kill", "tgkill", "tkill", "mount", "setns", "unshare", "chroot"),
        *("io_uring_setup", "keyctl", "add_key", "perf_event_open", "process_vm_readv", "pidfd_getfd", "memfd_create"),
        *("unlink", "unlinkat", "rename", "renameat", "renameat2", "truncate", "ftruncate", "chmod", "fchmodat"),
    )
    assert not named & set(forbidden)


def test_rules_of_the_bpf_call() -> None:
    """Of bpf(2) there is one command, which asks about what is held: no loading, no map is changed."""
    assert [rule.checks for rule in WORKER if rule.name == "bpf"] == [(Check(0, seccomp_filter._WHOLE, 15),)]


def test_loading_takes_no_new_privileges() -> None:
    """Without no_new_privs and without privilege the kernel refuses the filter, in one line."""

    def load() -> str:
        os.setresuid(1234, 1234, 1234)
        try:
            prepare(WORKER, without_new_privileges=False)()
        except SeccompError as refused:
            return str(refused)
        return "loaded"

    assert "refused" in in_fork(load)


def test_terminal_cannot_be_typed_into() -> None:
    """Of ioctl there are four requests; TIOCSTI, which types into a terminal, is not among them."""
    typed, size = ctypes.create_string_buffer(b"x"), ctypes.create_string_buffer(8)

    def ask() -> tuple[int, int]:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.ioctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_void_p)
        controller, _ = os.openpty()
        prepare(WORKER)()
        refused = libc.ioctl(controller, 0x5412, typed)  # TIOCSTI
        return (ctypes.get_errno() if refused < 0 else 0), libc.ioctl(controller, 0x5413, size)  # TIOCGWINSZ

    assert in_fork(ask) == (errno.EPERM, 0)
