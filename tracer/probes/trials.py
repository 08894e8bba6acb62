"""Try what the kernel lets us load and attach: a small program for each kind of hook, maps, rings, and the backend.

What is attached stays so for an instant, and does nothing. A refusal tells of the kernel only where this process has
the privileges; without them the answer is that it could not be tried.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from tracer.model import SOCKET_KINDS
from tracer.probes import tracefs
from tracer.probes.backend import OBJECTS, Backend, KernelFilters, UnusableError
from tracer.probes.bcc import Bcc, Holder
from tracer.probes.bpf_map import Declaration, create_map
from tracer.probes.core import BTF, Core
from tracer.probes.iterators import read_iterator
from tracer.probes.libbpf import Object
from tracer.probes.libbpf_binding import BpfError, LoadError, MissingLibrary, possible_cpus, why
from tracer.probes.privileges import RING_BYTES, Finding, Privileges, Status
from tracer.probes.rings import RingError, RingSet

HOOKS: Final = {
    "raw_tp": "try_raw_tp",
    "tp_btf": "try_tp_btf",
    "tracepoint": "try_tp",
    "fentry": "try_fentry",
    "fexit": "try_fexit",
    "kprobe": "try_kprobe",
    "lsm": "try_lsm",
    "iter/task": "try_iter_task",
    "iter.s/task": "try_iter_task_sleepable",
    "iter/task_file": "try_iter_task_file",
}
"""The kinds of hooks and their programs in bpf/trial.bpf.c."""

_TRACEPOINT: Final = ("syscalls", "sys_exit_execve")  # where that object's tp program sits
# Types of maps and flags from include/uapi/linux/bpf.h.
_ARRAY: Final = 2
_PERF_EVENT_ARRAY: Final = 4
_RING_BUFFER: Final = 27
_MMAPABLE: Final = 1 << 10
# Everything is loaded, and drops all that it sees: no process has this pid.
_NOBODY: Final = frozenset({0x7FFFFFFF})
_NOTHING: Final = KernelFilters(SOCKET_KINDS, _NOBODY, False, frozenset(), frozenset(), frozenset(), [])
_REFUSALS: Final = (errno.EPERM, errno.EACCES)


def _refused(error: BpfError | RingError, step: str, may: Privileges) -> Finding:
    """The kernel's no, or a no to this process that says nothing of the kernel."""
    facts = {"errno": errno.errorcode.get(error.errno, str(error.errno)), "step": step}
    if isinstance(error, MissingLibrary):
        return Finding(Status.UNKNOWN, "not tried: no libbpf", "", facts)
    if error.errno == errno.ESRCH and not BTF.exists():  # libbpf's word for it
        return Finding(Status.UNKNOWN, "not tried: no BTF to fit the program to", "", facts)
    if error.errno in _REFUSALS and not may.bpf:
        return Finding(Status.UNKNOWN, "not tried: takes privilege", "", facts)
    return Finding(Status.MISSING, f"refused at {step}: {why(error.errno)}", "", facts)


def hooks(may: Privileges) -> dict[str, Finding]:
    """Each kind of hook: loaded, attached, and if it is an iterator, read."""
    path = OBJECTS / "trial.bpf.o"
    if not path.is_file():
        return {name: Finding(Status.UNKNOWN, "not tried: the programs are not compiled", "make bpf") for name in HOOKS}
    events = tracefs.open_events()
    try:
        number = None if events is None else tracefs.tracepoint_id(events, *_TRACEPOINT)
    finally:
        if events is not None:
            os.close(events)
    return {name: _hook(path, name, number, may) for name, program in HOOKS.items()}


def _hook(path: Path, name: str, tracepoint: int | None, may: Privileges) -> Finding:
    program = HOOKS[name]
    step = "load"
    try:
        with Object.open(path) as trial:
            for other in trial.program_names():
                trial.set_autoload(other, other == program)
            trial.load()
            step = "attach"
            if name == "tracepoint" and tracepoint is None:
                return Finding(Status.UNKNOWN, "loads; to attach it takes tracefs", "", {"errno": None, "step": step})
            _attach(trial, program, name, tracepoint)
    except (BpfError, LoadError) as refused:
        return _refused(refused, step, may)
    return Finding(Status.OK, "loads and attaches", "", {"errno": None, "step": None})


def _attach(trial: Object, program: str, name: str, tracepoint: int | None) -> None:
    if tracepoint is not None and name == "tracepoint":
        trial.attach_tracepoint(program, tracepoint)
    elif name.startswith("iter"):
        if not read_iterator(trial.attach_iter(program)):
            raise BpfError("an iterator that shows not even this process", errno.ENODATA)
    else:
        trial.attach(program)


def maps(may: Privileges) -> dict[str, Finding]:
    """The kinds of maps that are not as old as BPF itself."""
    return {
        "ring_buffer": _map(
            lambda: create_map("trial", Declaration(_RING_BUFFER, 0, 0, os.sysconf("SC_PAGESIZE"))), may
        ),
        "mmapable_array": _map(lambda: create_map("trial", Declaration(_ARRAY, 4, 8, 1, _MMAPABLE)), may),
    }


def _map(create: Callable[[], int], may: Privileges) -> Finding:
    try:
        os.close(create())
    except BpfError as refused:
        return _refused(refused, "create", may)
    return Finding(Status.OK, "can be created", "", {"errno": None, "step": None})


def perf_events(may: Privileges, paranoid: int | None) -> Finding:
    """A perf ring on each CPU, of a page and of the size that tracing starts with."""
    facts = {"paranoid": paranoid, "bytes": RING_BYTES}
    words = f"perf_event_paranoid {paranoid}"
    if paranoid is None:
        return Finding(Status.MISSING, "this kernel has no perf events (CONFIG_PERF_EVENTS)", "", facts)
    step = ""
    try:
        fd = create_map("trial", Declaration(_PERF_EVENT_ARRAY, 4, 4, possible_cpus()))
        try:
            for each, size in (("a ring", 1), (f"{RING_BYTES >> 20} MiB of rings", RING_BYTES)):
                step = each
                with RingSet.open({"trial": fd}, bytes_total={"trial": size}, watermark=1):
                    pass
        finally:
            os.close(fd)
    except RingError as refused:
        if may.bpf and step != "a ring":
            fix = f"sysctl kernel.perf_event_mlock_kb={2 * RING_BYTES >> 10}"
            return Finding(Status.MISSING, f"{words}; rings open, but {step} take CAP_IPC_LOCK", fix, facts)
        answer = _refused(refused, "opening a ring", may)
    except BpfError as refused:
        answer = _refused(refused, "creating a map", may)
    else:
        return Finding(Status.OK, f"{words}; rings open, {step} allowed", "", facts)
    return answer._replace(detail=f"{words}; {answer.detail}", facts=facts | dict(answer.facts))


def core_backend() -> Finding:
    """The core backend itself: loaded and attached as tracing does it, but told to report nothing.

    Facts: ``code`` is the exit code that tracing would end with (0: it runs), ``hooks`` and ``refused`` are by
    program, ``blind`` is what it can't see.
    """
    return _backend(Core(_NOTHING, RING_BYTES, RING_BYTES))


def bcc_backend(core: Finding, lacking: list[Finding]) -> Finding:
    """The bcc backend, with facts as those of the core backend, given that one and what is missing to compile.

    Tried only where the core backend can't run: compiling takes seconds. Else ``code`` is None and nothing is known
    of its hooks.
    """
    unknown: dict[str, object] = {"hooks": {}, "refused": {}, "blind": []}
    if core.facts["code"] == 3:
        return Finding(Status.UNKNOWN, "not tried: takes privilege", "", {"code": 3, **unknown})
    if lacking:
        return Finding(Status.MISSING, "; ".join(each.detail for each in lacking), "", {"code": 4, **unknown})
    if core.facts["code"] == 0:
        detail = "can be compiled here: headers and BCC are there (not tried, since core runs)"
        return Finding(Status.OK, detail, "", {"code": None, **unknown})
    return _backend(Bcc(_NOTHING, RING_BYTES, RING_BYTES, _Nobody()))


class _Nobody:
    """Finds nothing, since nothing is asked."""

    def processes(self, without: frozenset[int]) -> bytes:  # noqa: ARG002  # as the protocol has it
        return b""

    def holders(self, without: frozenset[int]) -> Iterator[Holder]:  # noqa: ARG002
        return iter(())

    def hidden(self) -> int:
        return 0


def _backend(backend: Backend) -> Finding:
    try:
        with backend:
            coverage = backend.start()
    except UnusableError as unusable:
        status = Status.UNKNOWN if unusable.code == 3 else Status.MISSING
        facts = {"code": unusable.code, "hooks": {}, "refused": {}, "blind": ["everything: it does not run"]}
        return Finding(status, str(unusable), "", facts)
    facts = {"code": 0, "hooks": coverage.hooks, "refused": coverage.refused, "blind": coverage.blind}
    without = f", {len(coverage.refused)} refused" if coverage.refused else ""
    return Finding(Status.OK, f"runs: {len(coverage.hooks)} probes attach{without}", "", facts)
