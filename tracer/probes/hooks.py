"""Say which programs feed the stream, which may be refused, and what can't be seen then."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["BLIND", "OPTIONAL", "STREAM", "Hook"]


class Hook(NamedTuple):
    """A program that may be refused, and what can't be seen then."""

    program: str
    tracepoint: str  # of the category syscalls; empty: the program's section says where it goes
    blind: str


OPTIONAL: Final = {
    "process": (
        Hook("exit_execve", "sys_exit_execve", "programs that could not be executed"),
        Hook("exit_execveat", "sys_exit_execveat", "programs that could not be executed by descriptor"),
    ),
    "tcp": (
        Hook("exit_accept", "sys_exit_accept", "who accepted a connection by accept(2)"),
        Hook("exit_accept4", "sys_exit_accept4", "who accepted a connection by accept4(2)"),
        Hook("exit_connect", "sys_exit_connect", "connects that fail before a packet is sent"),
        Hook("exit_listen", "sys_exit_listen", "listening sockets that were not bound first"),
        Hook("syn_again", "", "connects that get no answer, until they end"),
    ),
}
"""By the source that holds it: what is attached where the kernel allows it."""

STREAM: Final = {
    "process": ("process_fork", "process_exec", "process_exit"),
    "tcp": ("socket_state_change",),
}
"""By the source that holds it: what has to be attached."""

BLIND: Final = (
    "sockets other than TCP",
    "failed execs and accepts by 32-bit (ia32) system calls",
    "who accepted a connection through io_uring",
)
"""What no hook of this tier shows, on any kernel."""
