"""Say which programs feed the stream, which take the place of others, and what can't be seen without them."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

__all__ = [
    "BY_RETURN",
    "CLASSIC",
    "COUNTS",
    "MOVES",
    "MOVE_RETURNS",
    "NEVER_BOTH",
    "OPTIONAL",
    "PAYLOADS",
    "RETURNS",
    "RING",
    "STAND_INS",
    "STREAM",
    "UNASKED",
    "Hook",
    "MoveReturn",
    "Returns",
    "blind_spots",
    "pairs",
]


class Hook(NamedTuple):
    """A program that may be refused, and what can't be seen then."""

    program: str
    tracepoint: str  # category/name; empty: the program's section says where it goes
    blind: str


OPTIONAL: Final = {
    "process": (
        Hook("exit_execve", "syscalls/sys_exit_execve", "programs that could not be executed"),
        Hook("exit_execveat", "syscalls/sys_exit_execveat", "programs that could not be executed by descriptor"),
    ),
    "tcp": (
        Hook("exit_accept", "syscalls/sys_exit_accept", "who accepted a connection by accept(2)"),
        Hook("exit_accept4", "syscalls/sys_exit_accept4", "who accepted a connection by accept4(2)"),
        Hook("exit_connect", "syscalls/sys_exit_connect", "connects that fail before a packet is sent"),
        Hook("exit_listen", "syscalls/sys_exit_listen", "listening sockets that were not bound first"),
        Hook("syn_again", "", "connects that get no answer, until they end"),
    ),
}
"""By the source that holds it: what is attached where the kernel allows it."""

STREAM: Final = {
    "process": ("process_fork", "process_exec", "process_exit"),
    "tcp": ("socket_state_change",),
}
"""By the source that holds it: what has to be attached."""


STAND_INS: Final = {
    "process": {
        "process_exec": Hook("exec_stand_in", "sched/sched_process_exec", ""),
        "process_fork": Hook("fork_stand_in", "sched/sched_process_fork", ""),
        "process_exit": Hook("exit_stand_in", "sched/sched_process_exit", ""),
    },
    "tcp": {"socket_state_change": Hook("state_change_stand_in", "sock/inet_sock_set_state", "")},
    "data": {"stream_gone": Hook("stream_gone_stand_in", "tcp/tcp_destroy_sock", "")},
}
"""By the source that holds it: the second program of another, for kernels that skip the first now and then."""

NEVER_BOTH: Final = {"socket_state_change": Hook("state_change_again", "", "")}
"""The second program of one of STREAM where tracepoints can't be preempted: the kernel never skips both."""


_BY_RING: Final = "who accepted a connection through io_uring"

RING: Final = Hook(
    "ring_accepted",
    "io_uring/io_uring_complete",
    f"{_BY_RING} by a multishot accept, or without a descriptor, until bytes are moved",
)
"""In place of the first of RETURNS, for one of the things that the tracepoints of system calls don't see."""


class Returns(NamedTuple):
    """Programs at the return of kernel functions (fexit, bpf/returns.bpf.c), and the tracepoints they replace."""

    programs: tuple[str, ...]  # all of them, or the tracepoints stay
    replaces: tuple[str, ...]
    more: tuple[tuple[str, str], ...]  # beside them: a program, and what can't be seen without it
    also: tuple[str, ...]  # of these what the tracepoints see too
    blind: tuple[str, ...]  # what the tracepoints don't see
    unlike: tuple[str, ...] = ()  # what only the tracepoints see
    # Stand-ins for kernels that skip programs now and then (bpf/again.bpf.c), each with the function that it is at, and
    # which of `also` they see too. Where one can't be attached the tracepoints stand in.
    again: tuple[tuple[str, str], ...] = ()
    again_also: tuple[str, ...] = ()


_IA32_EXECS: Final = "failed execs by 32-bit system calls"
_REFUSED: Final = "execs and connects that a seccomp filter answers with an error (--hooks tracepoints sees them)"
_KILLED: Final = "execs for which seccomp killed the process"
_KILLED_SEEN_SINCE: Final = (5, 16)  # by tracepoints: commit 307d522f5eb8
_CALL: Final = {"aarch64": "__arm64_sys_"}.get(platform.machine(), "__x64_sys_")

RETURNS: Final = (
    Returns(
        ("accept_returns",),
        ("exit_accept", "exit_accept4"),
        (),
        (),
        (
            "who accepted a connection by a 32-bit system call",
            _BY_RING,
        ),
        again=(("accept_again", "inet_csk_accept"),),
    ),
    Returns(
        ("connect_returns",),
        ("exit_connect",),
        (("connect_denied", "connects that a security module (such as Landlock) refuses"),),
        ("connect_denied",),
        ("connects through io_uring that fail before a packet is sent",),
        (_REFUSED,),
        (("connect_again", f"{_CALL}connect"),),
        ("connect_denied",),
    ),
    Returns(("listen_returns",), ("exit_listen",), (), (), (), again=(("listen_again", f"{_CALL}listen"),)),
    Returns(
        ("execve_returns", "execveat_returns"),
        ("exit_execve", "exit_execveat"),
        (
            ("compat_execve_returns", _IA32_EXECS),
            ("compat_execveat_returns", _IA32_EXECS),
            ("exec_killed", _KILLED),
        ),
        ("exec_killed",),
        (_IA32_EXECS,),
        (_REFUSED,),
        (("execve_again", f"{_CALL}execve"), ("execveat_again", f"{_CALL}execveat")),
    ),
)
"""What is attached in place of tracepoints where the kernel allows it; the first of all is the one that is tried."""

MOVES: Final = {
    "data": (
        Hook("bytes_sent", "", "bytes that calls send, and sockets other than TCP"),
        Hook("bytes_received", "", "bytes that calls receive, of sockets other than TCP"),
        Hook("stream_read", "", "bytes that calls receive over TCP"),
        Hook("stream_gone", "", "what is still read of a connection after its end"),
        Hook("datagram_queued", "", "where datagrams go that a socket without a connection sends"),
        Hook("datagram_taken", "", "where datagrams come from that a raw socket receives"),
    ),
    "group": (
        Hook("datagram_goes", "", "where the first datagram to a neighbour goes whose address is unknown"),
        Hook("datagram_goes6", "", "where the first datagram to a neighbour goes whose address is unknown (IPv6)"),
        Hook("datagram_came", "", "where datagrams come from that a socket without a connection receives over UDP"),
        Hook("datagram_came6", "", "where datagrams come from that a socket without a connection receives over UDP"),
        Hook("socket_released", "", "when sockets without connections are closed: their flows end when they are idle"),
    ),
}
"""By the source that holds it: what counts the bytes that every call moves; attached where the kernel allows it."""

CLASSIC: Final = {
    "bytes_sent": Hook("bytes_sent_classic", "sock/sock_send_length", ""),
    "bytes_received": Hook("bytes_received_classic", "sock/sock_recv_length", ""),
    "stream_read": Hook("stream_read_classic", "tcp/tcp_rcv_space_adjust", ""),
    "datagram_taken": Hook("datagram_taken_classic", "skb/skb_copy_datagram_iovec", ""),
}
"""In place of these of MOVES where tracepoints can be preempted, which a sum of bytes can't make up for.

Only what a task does itself: a softirq finds all programs of this kind skipped when it has interrupted one.
"""


class MoveReturn(NamedTuple):
    """Programs of bpf/moves.bpf.c, each with the function that it is at the return of: the kernel has one of them."""

    programs: tuple[tuple[str, str], ...]
    blind: str  # without all of them


_MODULE: Final = " (a module that was not loaded, or that does not tell its types)"

MOVE_RETURNS: Final = (
    MoveReturn((("inet_sends", "inet_sendmsg"),), "bytes that calls send over IPv4"),
    MoveReturn((("inet6_sends", "inet6_sendmsg"),), "bytes that calls send over IPv6"),
    MoveReturn((("inet_sends_page", "inet_sendpage"),), "bytes that sendfile(2) and splice(2) send"),
    MoveReturn((("inet_receives", "inet_recvmsg"),), "bytes that calls receive over IPv4, other than TCP"),
    MoveReturn((("inet6_receives", "inet6_recvmsg"),), "bytes that calls receive over IPv6, other than TCP"),
    MoveReturn((("raw6_receives", "sock_common_recvmsg"),), "bytes that raw IPv6 sockets receive"),
    MoveReturn((("packet_sends", "packet_sendmsg"),), f"bytes that packet sockets send{_MODULE}"),
    MoveReturn((("packet_receives", "packet_recvmsg"),), f"bytes that packet sockets receive{_MODULE}"),
    MoveReturn(
        (("vsock_sends", "vsock_connectible_sendmsg"), ("vsock_stream_sends", "vsock_stream_sendmsg")),
        f"bytes that vsock sockets send{_MODULE}",
    ),
    MoveReturn(
        (("vsock_receives", "vsock_connectible_recvmsg"), ("vsock_stream_receives", "vsock_stream_recvmsg")),
        f"bytes that vsock sockets receive{_MODULE}",
    ),
    MoveReturn((("vsock_datagram_sends", "vsock_dgram_sendmsg"),), f"bytes that vsock sockets send{_MODULE}"),
    MoveReturn((("vsock_datagram_receives", "vsock_dgram_recvmsg"),), f"bytes that vsock sockets receive{_MODULE}"),
)
"""In place of BY_RETURN of MOVES where the kernel has no such tracepoints: before 6.3."""

BY_RETURN: Final = ("bytes_sent", "bytes_received")

COUNTS: Final = (
    frozenset({"bytes_sent", "stream_read"}),
    frozenset({"bytes_sent_classic", "stream_read_classic"}),
    frozenset({"inet_sends", "stream_read"}),
)
"""Without any of these pairs the bytes of TCP are not counted."""

PAYLOADS: Final = {
    "names": (
        Hook("payload_out", "", "names from DNS, TLS, HTTP and QUIC"),
        Hook("payload_in", "", "names in what arrives: the answers of DNS, and what is asked of servers here"),
    ),
}
"""By the source that holds it: what takes the first bytes of flows; attached where the kernel allows it."""


# Most datagrams are copied to the reader without passing any tracepoint, and the program at the cgroup runs only where
# there is an address to fill in.
UNASKED: Final = "where datagrams come from that are received over UDP by who does not ask for it"
"""Blind wherever bytes are counted."""


def blind_spots(attached: Collection[str]) -> list[str]:
    """What can't be seen with these programs alone, by the eBPF backends."""
    found = [hook.blind for hook in _hooks() if hook.program not in attached and not _replaced(hook.program, attached)]
    for returns in RETURNS:
        if set(returns.programs) <= set(attached):
            found += [blind for program, blind in returns.more if program not in attached]
            found += returns.unlike if not set(returns.replaces) <= set(attached) else ()
        else:
            found += [
                RING.blind if blind == _BY_RING and RING.program in attached else blind for blind in returns.blind
            ]
            if "exit_execve" in returns.replaces and _release() < _KILLED_SEEN_SINCE:
                found.append(_KILLED)
    found += _blind_to_bytes(attached)
    found += [hook.blind for hooks in PAYLOADS.values() for hook in hooks if hook.program not in attached]
    if "datagram_came" in attached:
        found.append(UNASKED)  # else all that are received over UDP are among the blind spots
    return [*dict.fromkeys(found)]


def _blind_to_bytes(attached: Collection[str]) -> list[str]:
    returns = [(each.blind, any(program in attached for program, _ in each.programs)) for each in MOVE_RETURNS]
    by_return = any(there for _, there in returns)
    found = []
    for hook in (hook for hooks in MOVES.values() for hook in hooks):
        program = CLASSIC[hook.program].program if hook.program in CLASSIC else hook.program
        if not {hook.program, program} & {*attached} and not (by_return and hook.program in BY_RETURN):
            found.append(hook.blind)
    return found + [blind for blind, there in returns if by_return and not there]


def pairs(stand_ins: Mapping[str, Hook]) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Programs, and those that do their work where they are skipped: both of a pair would have to be."""
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    found += [((program,), (hook.program,)) for program, hook in stand_ins.items()]
    for returns in RETURNS:
        again = tuple(program for program, _ in returns.again)
        found.append(((*returns.programs, *returns.again_also), again))
        found.append(((*returns.programs, *returns.also), returns.replaces))
    return found


def _hooks() -> list[Hook]:
    return [hook for hooks in OPTIONAL.values() for hook in hooks]


def _replaced(program: str, attached: Collection[str]) -> bool:
    return any(program in returns.replaces and set(returns.programs) <= set(attached) for returns in RETURNS)


def _release() -> tuple[int, ...]:
    """The kernel's release, for what can only be told of it, not tried."""
    return tuple(int(number) for number in re.findall(r"\d+", os.uname().release)[:2])
