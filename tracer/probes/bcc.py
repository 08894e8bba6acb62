"""The bcc backend: the same probes, compiled by BCC with this kernel's headers; needs no BTF, but 5.10 or newer."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from tracer.probes import libbpf, program, tracefs
from tracer.probes.backend import Backend, KernelFilters, UnusableError, object_file
from tracer.probes.bcc_build import BuildError, Built, build
from tracer.probes.bpf_map import Declaration, Map, create_map
from tracer.probes.hooks import NEVER_BOTH, OPTIONAL, STREAM
from tracer.probes.libbpf_binding import LoadError, library
from tracer.probes.records import HEADER, SIZE, SOCKET, START, TGID

__all__ = ["Bcc", "Finder", "Holder"]

_KNOBS: Final = ".rodata.knobs"
_ANSWER: Final = "answer"
_ANSWER_MAP: Final = Declaration(2, 4, SOCKET.size, 1, 1 << 10)  # a mappable array of one socket_record
_ASKED: Final = ("whoami", "look_at_socket")
# Where the typed programs go: BCC has raw tracepoints only.
_RAW: Final = {
    "process_exec": "sched_process_exec",
    "process_fork": "sched_process_fork",
    "process_exit": "sched_process_exit",
    "socket_state_change": "inet_sock_set_state",
    **{hook.program: "inet_sock_set_state" for hook in NEVER_BOTH.values()},
    "syn_again": "tcp_retransmit_skb",
}
_SYSCALLS: Final = {hook.program: hook.tracepoint for hooks in OPTIONAL.values() for hook in hooks if hook.tracepoint}
_PROGRAMS: Final = (*_RAW, *_SYSCALLS, *_ASKED)
_FIRST_NUMBER: Final = 1000  # of those that stand for maps: none that BCC itself gives out
_SYS_EXIT_RET: Final = 16  # used where tracefs can't be read, and then nothing is attached that depends on it
_EXCLUDED: Final = "tracer_excluded"
_EXCLUDED_VALUE: Final = struct.Struct("=Q")
_KEY: Final = struct.Struct("=I")
_ASKED_FOR: Final = struct.Struct("=Q")  # struct asked_for
_HELD: Final = struct.Struct("=QQQQQ16s")  # struct held_socket
_MAP_NAME: Final = slice(24, 40)  # of struct bpf_map_info
_PIDFD_GETFD: Final = 438  # the same on every architecture (5.6)
_NO_SNAPSHOT: Final = "processes and sockets that were there before: /proc is not that of the first pid namespace"

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class Holder(NamedTuple):
    """A process and its descriptors that are sockets; ``start`` is ns of CLOCK_BOOTTIME, to the tick."""

    pid: int
    start: int
    uid: int
    cgroup: int
    comm: bytes
    descriptors: list[int]


class Finder(Protocol):
    """Finds what iterators would find, elsewhere."""

    def processes(self, without: frozenset[int]) -> bytes:
        """The processes that run now but those ``without``, as records (struct exec_record) behind their sizes."""
        ...

    def holders(self, without: frozenset[int]) -> Iterator[Holder]:
        """The processes that have sockets, but those ``without``."""
        ...

    def hidden(self) -> int:
        """How many processes there are of which nothing can be told."""
        ...


class Bcc(Backend):
    """The probes as BCC compiles them; what was there before comes from ``finder``."""

    name = "bcc"

    def __init__(
        self, filters: KernelFilters, buffer_bytes: int, watermark: int, finder: Finder, also: Iterable[int] = ()
    ) -> None:
        """As for every backend."""
        super().__init__(filters, buffer_bytes, watermark, also)
        self._finder = finder
        self._loaded: dict[str, program.Descriptor] = {}
        self.built: Built | None = None

    # Loading.

    def _load(self) -> None:
        maps = self._make_maps()
        fds = {name: maps.map(name).fd for name in maps.map_names()}
        fds["knobs"] = fds.pop(_KNOBS)
        for source in STREAM:
            with libbpf.Object.open(object_file(source)) as declared:
                for name in declared.map_names():
                    if not name.startswith(".") and name not in fds:
                        fds[name] = self._own_map(name, declared.declaration(name))
        fds[_ANSWER] = self._own_map(_ANSWER, _ANSWER_MAP)
        self._answer: mmap.mmap = Map(_ANSWER, fds[_ANSWER]).mmap()
        self._stack.callback(self._answer.close)
        self._load_programs(fds)
        self._exclude(self._whoami(), self._children() | self._other_tracers())
        self._fill_filters()
        self._open_rings()

    def _own_map(self, name: str, what: Declaration) -> int:
        fd = create_map(name, what)
        self._stack.callback(os.close, fd)
        return fd

    def _load_programs(self, fds: dict[str, int]) -> None:
        try:
            self._try_to_load(fds, fresh=False)
        except LoadError:
            if self.built is None or not self.built.cached:
                raise
            self._try_to_load(fds, fresh=True)  # what was kept is of no use any more

    def _try_to_load(self, fds: dict[str, int], *, fresh: bool) -> None:
        numbers = {name: _FIRST_NUMBER + index for index, name in enumerate(sorted(fds))}
        try:
            self.built = build(numbers, _PROGRAMS, _result_position(), fresh=fresh)
        except BuildError as error:
            raise UnusableError(str(error), 4) from error
        places = {number: fds[name] for name, number in numbers.items()}
        optional = {hook.program for hooks in OPTIONAL.values() for hook in hooks}
        for name, code in self.built.code.items():
            kind = program.TRACEPOINT if name in _SYSCALLS else program.RAW_TRACEPOINT
            try:
                loaded = program.load(name, kind, program.place_maps(code, places))
            except LoadError as refused:
                if name not in optional:
                    raise
                self._refused[name] = str(refused)
            else:
                self._refused.pop(name, None)
                self._stack.callback(loaded.destroy)
                self._loaded[name] = loaded

    def _ask(self, name: str, arguments: bytes = b"") -> int:
        """Run a program in this process; what it tells is in the map of the answer."""
        return libbpf.run_program(self._loaded[name].fd, arguments=arguments)

    def _whoami(self) -> tuple[int, int]:
        """This process's pid in the first namespace, and its start in ns."""
        self._ask("whoami", _ASKED_FOR.pack(0))
        own = HEADER.unpack_from(self._answer)
        return own[TGID], own[START]

    def _children(self) -> dict[int, int]:
        """Those of this process that are to be left out, the same way."""
        found = {}
        for pid in self._also:
            if self._ask("whoami", _ASKED_FOR.pack(pid)):
                child = HEADER.unpack_from(self._answer)
                found[child[TGID]] = child[START]
        return found

    def _other_tracers(self) -> dict[int, int]:
        """Other running tracers, by pid and start: who holds a map called like ours, and is in it.

        Anybody could make a map by that name; root and this very user have no need to.
        """
        own = self._maps.map(_EXCLUDED)
        maps = dict(_maps_named(_EXCLUDED, _map_id(own.fd)))
        found = {}
        try:
            for pid, number in _map_holders(set(maps)) if maps else ():
                theirs = Map(_EXCLUDED, maps[number])
                if (theirs.key_size, theirs.value_size) != (own.key_size, own.value_size):
                    continue
                start = theirs.lookup(_KEY.pack(pid))
                if start is not None:
                    found[pid] = _EXCLUDED_VALUE.unpack(start)[0]
        finally:
            for fd in maps.values():
                os.close(fd)
        return found

    # Attaching.

    @property
    def _in_first_namespace(self) -> bool:
        return self.own_pid == os.getpid()

    def _compiled(self) -> dict[str, Any] | None:
        built = self.built
        if built is None:
            return None
        return {"by": f"BCC {built.version}", "cached": built.cached, "milliseconds": round(built.seconds * 1000)}

    def _more_blind(self) -> list[str]:
        if not self._in_first_namespace:
            return [_NO_SNAPSHOT]
        hidden, closed = self._finder.hidden(), sum(map(_is_closed, _pids()))
        blind = [f"{hidden} processes that were there before, which /proc hides"] if hidden else []
        return blind + ([f"sockets that {closed} processes had before: looking into them is refused"] if closed else [])

    def _more_blind_sealed(self) -> list[str]:
        return [
            "CPUs that come online later: what happens there is counted as lost",
            "connects that are still without an answer at the end, if they are younger than 3 s",
        ]

    def _section(self, program: str) -> str:
        return f"raw_tp/{_RAW[program]}" if program in _RAW else f"tp/{_SYSCALLS[program]}"

    def _attach(self, name: str, tracepoint: int | None) -> program.Descriptor:
        link = (
            program.attach_raw_tracepoint(self._loaded[name], _RAW[name])
            if tracepoint is None
            else program.attach_tracepoint(self._loaded[name], tracepoint)
        )
        self._stack.callback(link.destroy)
        return link

    def _program_fd(self, program: str) -> int:
        return self._loaded[program].fd

    # What was there before.

    def processes(self) -> bytes:
        """The processes that run now, as records behind their sizes."""
        return self._finder.processes(frozenset(self.excluded)) if self._in_first_namespace else b""

    def sockets(self) -> bytes:
        """The TCP sockets that the probes did not know yet, and the connects still pending.

        Each descriptor is taken from its process for a moment (pidfd_getfd(2)), so that a program that runs here can
        follow it to its socket, whatever the network namespace.
        """
        if not self._in_first_namespace or self._sealed:
            return b""
        found = []
        for holder in self._finder.holders(frozenset(self.excluded)):
            try:
                pidfd = os.pidfd_open(holder.pid)
            except OSError:
                continue  # it has ended
            try:
                for descriptor in holder.descriptors:
                    record = self._look(holder, pidfd, descriptor)
                    if record:
                        found.append(SIZE.pack(len(record)) + record)
            finally:
                os.close(pidfd)
        return b"".join(found)

    def _look(self, holder: Holder, pidfd: int, descriptor: int) -> bytes:
        taken = _take(pidfd, descriptor)
        if taken < 0:
            return b""
        try:
            who = _HELD.pack(taken, holder.pid, holder.start, holder.uid, holder.cgroup, holder.comm)
            told = self._ask("look_at_socket", who)
        finally:
            os.close(taken)
        return self._answer[: SOCKET.size] if told else b""


def _result_position() -> int:
    events = tracefs.open_events()
    if events is None:
        return _SYS_EXIT_RET
    try:
        found = tracefs.field_offset(events, "syscalls", "sys_exit_execve", "ret")
    finally:
        os.close(events)
    return _SYS_EXIT_RET if found is None else found


def _take(pidfd: int, descriptor: int) -> int:
    """A descriptor of another process's as one of ours, or the negative errno."""
    result: int = _libc.syscall(*map(ctypes.c_long, (_PIDFD_GETFD, pidfd, descriptor, 0)))
    number = ctypes.get_errno()
    ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
    return result if result >= 0 else -number


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _is_closed(pid: int) -> bool:
    """Whether descriptors of a process can't be taken: tried with one that nobody has."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return False  # it has ended
    try:
        return _take(pidfd, (1 << 31) - 1) == -errno.EPERM
    finally:
        os.close(pidfd)


def _map_info(fd: int) -> bytes:
    lib = library()
    info, length = ctypes.create_string_buffer(_MAP_NAME.stop), ctypes.c_uint32(_MAP_NAME.stop)
    lib.check(lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length)), "map info")
    return info.raw


def _map_id(fd: int) -> int:
    return int(_KEY.unpack_from(_map_info(fd), 4)[0])


def _maps_named(name: str, without: int) -> Iterator[tuple[int, int]]:
    """Ids and descriptors (the caller closes them) of the kernel's maps of a name, but the one ``without``.

    Takes CAP_SYS_ADMIN; there are none for others.
    """
    lib = library()
    number = ctypes.c_uint32(0)
    while lib.bpf_map_get_next_id(number.value, ctypes.byref(number)) == 0:
        fd = lib.bpf_map_get_fd_by_id(number.value) if number.value != without else -1
        if fd < 0:
            continue  # ours, gone, or not for us
        if _map_info(fd)[_MAP_NAME].rstrip(b"\0") == name.encode():
            yield number.value, fd
        else:
            os.close(fd)
    ctypes.set_errno(0)


def _effective_user(process: Path) -> int:
    lines = (process / "status").read_text(errors="backslashreplace").splitlines()
    return next(int(line.split()[2]) for line in lines if line.startswith("Uid:"))


def _map_holders(ids: set[int]) -> Iterator[tuple[int, int]]:
    """Pids of root and of this user that hold one of these maps, and which."""
    users = {0, os.geteuid()}
    for pid in _pids():
        entry = Path("/proc", str(pid))
        try:
            # Not the owner of the directory: that is root's where the process is not dumpable.
            if _effective_user(entry) not in users:
                continue
            for descriptor in (entry / "fd").iterdir():
                if str(descriptor.readlink()) != "anon_inode:bpf-map":
                    continue
                facts = (entry / "fdinfo" / descriptor.name).read_text()
                number = next((int(line.split()[1]) for line in facts.splitlines() if line.startswith("map_id:")), 0)
                if number in ids:
                    yield pid, number
        except OSError:
            continue  # ended meanwhile, or not for us to see
