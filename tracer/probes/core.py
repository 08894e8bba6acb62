"""The core backend: load the CO-RE objects, attach what this kernel allows, and read what they say."""

from __future__ import annotations

import os
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tracer.model import MOVED_KINDS, Kind
from tracer.probes import cgroup, heap, iterators, libbpf
from tracer.probes.backend import Backend, KernelFilters, object_file
from tracer.probes.cmdlines import with_arguments
from tracer.probes.hooks import (
    BY_RETURN,
    CLASSIC,
    MOVE_RETURNS,
    MOVES,
    NEVER_BOTH,
    OPTIONAL,
    PAYLOADS,
    RETURNS,
    RING,
    STAND_INS,
    STREAM,
    Hook,
)
from tracer.probes.kernel_types import BTF, KernelTypes
from tracer.probes.libbpf_binding import BpfError, LoadError, library
from tracer.probes.parts import Parts
from tracer.probes.program import Descriptor, attach_at_return, fexit_refusal
from tracer.probes.records import HEADER, START, TGID, TID
from tracer.probes.unusable import UnusableError

if TYPE_CHECKING:
    from tracer.probes.wire import Wire

__all__ = ["BTF", "HIDDEN_INIT", "HOOKS", "Core"]

HOOKS: Final = ("auto", "tracepoints")
_RETURNS: Final = "returns"
_KNOBS: Final = ".rodata.knobs"
_AGAIN: Final = "again"
_MOVES: Final = "moves"
_MOVING_MODULES: Final = ("af_packet", "vsock")  # of what bpf/moves.bpf.c looks at
_LONGEST: Final = ("data", "process", "tcp")  # to load
_PREEMPTIBLE: Final = "class_srcu_fast_notrace_t"
_FINDER: Final = "find_processes"
_PLAIN_FINDER: Final = "find_processes_plain"  # without arguments, for kernels that refuse the other
_HANDS: Final = struct.Struct("=2Q")  # struct hands of bpf/tcp.bpf.c
_ON_THEIR_WAY: Final = 64
_PART: Final = "datagrams, and names, of processes outside of this container's cgroup"
HIDDEN_INIT: Final = "process 1, which this kernel hides from BPF, and what the network does while it is interrupted"
_NO_ARGUMENTS: Final = "arguments of processes that ran before the start"


_OPTIONAL: Final = {name: {hook.program for hook in hooks} for name, hooks in OPTIONAL.items()} | {
    # Without the first the others are of no use: it is the one that looks whether they are safe here.
    _RETURNS: {name for returns in RETURNS for name in (*returns.programs, *(each for each, _ in returns.more))}
    - {RETURNS[0].programs[0]}
}
_OPTIONAL["process"].add(_FINDER)
_OPTIONAL["tcp"].add(RING.program)
_OPTIONAL[_AGAIN] = set()
_OPTIONAL.update({name: {hook.program for hook in hooks} for name, hooks in (MOVES | PAYLOADS).items()})
_OPTIONAL["data"] |= {hook.program for hook in CLASSIC.values()}
_OPTIONAL[_MOVES] = {program for each in MOVE_RETURNS for program, _ in each.programs}


class Core(Backend):
    """The probes as CO-RE objects, compiled when the program was built."""

    name = "core"

    def __init__(
        self, filters: KernelFilters, buffer_bytes: int, watermark: int, hooks: str = "auto", also: Iterable[int] = ()
    ) -> None:
        """As the other backends; ``hooks`` is one of HOOKS: tracepoints even where fexit would do."""
        super().__init__(filters, buffer_bytes, watermark, also)
        self._hooks = hooks
        self._last_look: int | None = None
        self._cgroup: cgroup.Cgroup | None = None

    def _lacking(self) -> str | None:
        if BTF.exists():
            return None
        return (
            f"this kernel has no BTF ({BTF} is missing): eBPF programs can't be fitted to it; "
            "run a kernel with CONFIG_DEBUG_INFO_BTF=y"
        )

    # Loading.

    def _load(self) -> None:
        self._objects: dict[str, libbpf.Object] = {}
        lacking = self._lacking()
        if lacking:
            raise UnusableError(lacking, 4)
        types = KernelTypes(BTF)
        self._preemptible = _tracepoints_can_be_preempted(types)
        if self._preemptible:
            held = [*STREAM, "data"] if self._wants_moves() else [*STREAM]
            self._stand_ins = {first: second for name in held for first, second in STAND_INS[name].items()}
        may_use_returns = self._may_use_returns()
        self._ring = not may_use_returns and types.has("trace_event_raw_io_uring_complete")
        self._counting = self._choose_moves(types, may_use_returns) if self._wants_moves() else {}
        del types
        maps = self._make_maps()
        share = {name: maps.map(name).fd for name in maps.map_names() if not name.startswith(".")}
        with heap.kept():
            self._load_programs(share, may_use_returns)
        if self._wants_moves():
            self._parts = Parts({name: maps.map(name) for name in ("parts", "retired", "parts_limit", "moved")})
            self._stack.callback(self._parts.close)
        if self._preemptible:
            self._hands = self._objects["tcp"].map("hands").mmap()
            self._stack.callback(self._hands.close)
        self._exclude_tracers(self._objects["process"], self._objects["tcp"])
        self._fill_filters()
        self._open_rings()

    def _choose_moves(self, types: KernelTypes, may_use_returns: bool) -> dict[str, list[Hook]]:
        """What counts bytes on this kernel, by the source that holds it.

        Chosen beforehand: the kernel would look at a whole object again for each program that it refuses.
        """
        chosen = {name: list(hooks) for name, hooks in MOVES.items()}
        if self._preemptible:
            chosen["data"] = [CLASSIC.get(hook.program, hook)._replace(blind=hook.blind) for hook in MOVES["data"]]
        elif not types.has_tracepoint("sock_send_length"):
            chosen["data"] = [hook for hook in MOVES["data"] if hook.program not in BY_RETURN]
            if may_use_returns:
                chosen[_MOVES] = [
                    Hook(program, "", each.blind)
                    for each in MOVE_RETURNS
                    for program, function in each.programs
                    if types.has_function(function, *_MOVING_MODULES)
                ]
        return chosen

    def _load_programs(self, share: dict[str, int], may_use_returns: bool) -> None:
        """Load the objects side by side, since each keeps the verifier busy; one after the other if that fails."""
        loaded: dict[str, tuple[libbpf.Object, dict[str, str]]] = {}

        def load(name: str) -> None:
            stand_ins = {hook.program for hook in STAND_INS.get(name, {}).values()}
            never_both = {hook.program for hook in NEVER_BOTH.values()} if name == "tcp" else set()
            left_out = never_both if self._preemptible else stand_ins
            if name == "tcp" and not self._ring:
                left_out = left_out | {RING.program}
            if name in self._counting:
                left_out = left_out | (_OPTIONAL[name] - {hook.program for hook in self._counting[name]})
            loaded[name] = self._load_object(
                object_file(name),
                knobs={_KNOBS: self._knobs()},
                optional=_OPTIONAL[name] | stand_ins | never_both,
                disabled=left_out,
                share=share,
            )

        def try_to_load(name: str) -> None:
            with suppress(BpfError):  # told by the second try, alone with libbpf's log
                load(name)

        names = [*STREAM, *self._counting]
        names += PAYLOADS if Kind.PAYLOAD in self._filters.kinds else ()
        if may_use_returns:
            names += [_RETURNS, _AGAIN] if self._preemptible else [_RETURNS]
        with library().silent():
            _side_by_side(try_to_load, names)
        # By what libbpf says a program is known that this kernel refuses.
        _side_by_side(try_to_load, [name for name in names if name not in loaded])
        for name in names:
            try:
                if name not in loaded:
                    load(name)
            except LoadError as refused:
                if name not in (_RETURNS, _AGAIN, _MOVES, *PAYLOADS):
                    raise
                self._refused[RETURNS[0].programs[0] if name == _RETURNS else name] = str(refused)
                continue
            self._objects[name], refusals = loaded[name]
            self._stack.callback(self._objects[name].close)
            self._refused |= refusals
            if name == _RETURNS:
                self._returns = set(self._objects[name].program_names()) - refusals.keys()

    def _wants_moves(self) -> bool:
        """Whether anything is asked for that tells of bytes."""
        return bool(self._filters.kinds & (MOVED_KINDS | {Kind.CLOSE}))

    def _may_use_returns(self) -> bool:
        """Whether it is worth trying; where the kernel says no at once, that costs nothing."""
        if self._hooks == "tracepoints":
            return False
        refusal = fexit_refusal()
        if refusal is not None:
            self._refused["fexit"] = str(refusal)
        return refusal is None

    @staticmethod
    def _load_object(path: Path, **options: Any) -> tuple[libbpf.Object, dict[str, str]]:
        """Load an object with the better of two programs that do the same, if the kernel takes it."""
        if _FINDER not in options["optional"]:
            return libbpf.load(path, **options)
        disabled = options.pop("disabled")
        loaded, refused = libbpf.load(path, disabled=(*disabled, _PLAIN_FINDER), **options)
        if _FINDER in refused:
            loaded.close()
            loaded, more = libbpf.load(path, disabled=(*disabled, _FINDER), **options)
            refused |= more
        return loaded, refused

    def _exclude_tracers(self, process: libbpf.Object, tcp: libbpf.Object) -> None:
        own, *others_told = self._headers(process, "whoami")
        self._init_hidden = all(each[TGID] != 1 for each in others_told)
        children = {each[TGID]: each[START] for each in others_told if each[TID] in self._also}
        others = self._headers(tcp, "find_tracers")
        # Anybody could make a map by that name; root and this very user have no need to.
        trusted = {other[TGID]: other[START] for other in others if other[TID] in (0, os.geteuid())}
        self._exclude((own[TGID], own[START]), children | trusted)

    @staticmethod
    def _headers(source: libbpf.Object, program: str) -> list[tuple[int, ...]]:
        return list(HEADER.iter_unpack(_run(source, program)))

    # Attaching.

    def _more_blind(self) -> list[str]:
        if self.own_pid != os.getpid():
            # The iterators see no more than this pid namespace, so process 1 tells nothing, and /proc has other pids.
            found = [_NO_ARGUMENTS] if _FINDER in self._refused else []
        else:
            found = [HIDDEN_INIT] if self._init_hidden else []
        return found if self._cgroup is None or self._cgroup.whole else [*found, _PART]

    def _of(self, program: str) -> libbpf.Object:
        return next(each for each in self._objects.values() if program in each.program_names())

    def _section(self, program: str) -> str:
        return self._of(program).sections()[program]

    def _attach(self, program: str, tracepoint: int | None) -> libbpf.Link:
        source = self._of(program)
        if source.sections()[program].startswith("cgroup"):
            return self._attach_to_cgroup(source, program)
        return source.attach(program) if tracepoint is None else source.attach_tracepoint(program, tracepoint)

    def _attach_to_cgroup(self, source: libbpf.Object, program: str) -> libbpf.Link:
        if self._cgroup is None:
            self._cgroup = cgroup.open_root()
            self._stack.callback(os.close, self._cgroup.fd)
        return source.attach_cgroup(program, self._cgroup.fd)

    def _more_hooks(self) -> list[Hook]:
        found = [hook for name, hooks in (self._counting | PAYLOADS).items() if name in self._objects for hook in hooks]
        return [RING, *found] if self._ring else found

    def _attach_returns(self) -> set[str]:
        """As the base, and stand-ins for them where they are needed: the tracepoints where there is nothing better."""
        replaced = super()._attach_returns()
        if not self._preemptible:
            return replaced
        kept: set[str] = set()
        again = self._objects.get(_AGAIN)
        for returns in RETURNS:
            if again is None or not set(returns.replaces) <= replaced:
                continue
            links: dict[str, Descriptor] = {}
            try:
                for program, function in returns.again:
                    links[program] = attach_at_return(again.program_fd(program), function)
            except BpfError as refused:
                for link in links.values():
                    link.destroy()
                self._refused[returns.again[0][0]] = str(refused)
                continue
            for program, link in links.items():
                self._keep(program, link)
            kept.update(returns.replaces)
        return kept

    def _skipped_both(self, first: str, skipped: int, stand_in_skipped: int) -> int:
        if first != "socket_state_change":
            return super()._skipped_both(first, skipped, stand_in_skipped)
        # What was put there and not taken was not skipped by the first. More than the second was skipped for can't be,
        # unless others have made it come before the first; a few are on their way.
        put, taken = _HANDS.unpack(self._hands[: _HANDS.size])
        passed_over = put - taken
        if passed_over > stand_in_skipped + _ON_THEIR_WAY:
            return min(skipped, stand_in_skipped)
        return max(0, min(skipped, int(stand_in_skipped - passed_over)))

    def _program_fd(self, program: str) -> int:
        return self._of(program).program_fd(program)

    def processes(self) -> bytes:
        """The processes that run now, as records behind their sizes."""
        if _FINDER not in self._refused:
            return _run(self._objects["process"], _FINDER)
        return with_arguments(_run(self._objects["process"], _PLAIN_FINDER))

    def sockets(self) -> bytes:
        """The TCP sockets that the probes did not know yet, and the connects still pending."""
        if self._last_look is None:
            return _run(self._objects["tcp"], "find_sockets")
        try:
            return iterators.drain_iterator(self._last_look)
        except OSError as failed:
            raise BpfError(f"iterator 'find_sockets': {failed.strerror}", failed.errno or 0) from failed

    def account_wire(self) -> Wire:
        """Count what each network device carries, from now on until this is closed. Raises BpfError."""
        from tracer.probes.wire import Wire

        names = [name for name in self._maps.map_names() if not name.startswith(".")]
        wire = Wire(object_file("wire"), {name: self._maps.map(name).fd for name in names}, {_KNOBS: self._knobs()})
        self._stack.callback(wire.close)
        for program, link in wire.links.items():
            self._links.append(link)
            self._watch.keep(program, link.fd)
        self._attached |= wire.sections()
        return wire

    def seal(self) -> None:
        """Open what sockets() reads at the end: nothing can be opened from now on."""
        super().seal()
        # An iterator runs when it is read, whoever reads it.
        self._last_look = iterators.open_iterator(self._objects["tcp"].attach_iter("find_sockets"))
        self._stack.callback(os.close, self._last_look)


def _side_by_side(load: Callable[[str], None], names: Iterable[str]) -> None:
    """Load objects in threads: no more at once than there are processors, the longest first.

    Else that would go on alone when all others are done, and each holds the kernel's types in memory meanwhile.
    """
    waiting = deque(sorted(names, key=lambda name: _LONGEST.index(name) if name in _LONGEST else len(_LONGEST)))

    def load_some() -> None:
        while True:
            try:
                name = waiting.popleft()
            except IndexError:
                return
            load(name)

    threads = [threading.Thread(target=load_some) for _ in range(min(len(waiting), len(os.sched_getaffinity(0))))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _tracepoints_can_be_preempted(types: KernelTypes) -> bool:
    """Whether a task can be preempted in a program at a tracepoint, which the kernel skips for others then.

    Since 7.0 (commit a46023d5616e) tracepoints hold a lock of this type, by which alone it can be told, instead of
    switching preemption off.
    """
    return types.has(_PREEMPTIBLE)


def _run(source: libbpf.Object, iterator: str) -> bytes:
    """What an iterator writes, once over all its objects."""
    link = source.attach_iter(iterator)
    try:
        return iterators.read_iterator(link)
    finally:
        link.destroy()
