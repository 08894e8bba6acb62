"""Load, attach and run BPF objects through libbpf.so.1, every pointer checked.

The layout of struct bpf_prog_info is that of the kernel's include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import struct
from collections.abc import Collection, Iterator, Mapping
from ctypes import c_size_t, c_uint32
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from tracer.probes.bpf_map import Declaration, Map
from tracer.probes.libbpf_binding import (
    BpfError,
    LoadError,
    MissingLibrary,
    TestRunOpts,
    library,
    online_cpus,
    parse_cpus,
    possible_cpus,
    why,
)
from tracer.probes.perf_event import RingError, open_tracepoint

__all__ = [
    "BpfError",
    "Link",
    "LoadError",
    "Map",
    "MissingLibrary",
    "Object",
    "ProgramInfo",
    "load",
    "online_cpus",
    "parse_cpus",
    "possible_cpus",
    "program_info",
    "run_program",
]

_TAIL_LINES: Final = 40  # of a verifier's log in an error
_TEST_RUN_ON_CPU: Final = 1
_prog_info: Final = struct.Struct("=4xI192xQQ")  # id; run_cnt at byte 200 and, since Linux 5.12, recursion_misses


class ProgramInfo(NamedTuple):
    """What the kernel knows about a loaded program.

    ``run_cnt`` counts only while kernel.bpf_stats_enabled is 1; ``recursion_misses`` is 0 before Linux 5.12, where the
    kernel doesn't count them (``counts_misses``).
    """

    id: int
    run_cnt: int
    recursion_misses: int
    counts_misses: bool = True


class Link:
    """An attached program; it stays attached until destroy(), or until its object is closed."""

    def __init__(self, handle: int, program: str) -> None:
        """Own the struct bpf_link at ``handle``."""
        self.program = program
        self._handle: int | None = handle

    @property
    def fd(self) -> int:
        """The link's descriptor. Raises BpfError after destroy()."""
        if self._handle is None:
            raise BpfError(f"link of {self.program!r} is destroyed", errno.EBADF)
        lib = library()
        return lib.check(lib.bpf_link__fd(self._handle), f"link of {self.program!r}")

    def destroy(self) -> None:
        """Detach the program; idempotent. Raises BpfError when the kernel refuses."""
        handle, self._handle = self._handle, None
        if handle is not None:
            lib = library()
            lib.check(lib.bpf_link__destroy(handle), f"detaching {self.program!r}")


class Object:
    """A BPF object file: opened, adjusted, loaded, attached; a context manager."""

    def __init__(self, handle: int, path: Path) -> None:
        """Own the struct bpf_object at ``handle``; use Object.open."""
        self.path = path
        self._handle: int | None = handle
        self._links: list[Link] = []
        self._loaded = False
        self._programs = {
            self._text("bpf_program__name", each): each for each in self._walk("bpf_object__next_program")
        }
        self._map_handles = {self._text("bpf_map__name", each): each for each in self._walk("bpf_object__next_map")}

    @classmethod
    def open(cls, path: Path) -> Self:
        """Parse the object file at ``path``. Raises BpfError, MissingLibrary."""
        lib = library()
        lib.messages.clear()
        handle = lib.bpf_object__open_file(os.fsencode(path), None)
        return cls(lib.pointer(handle, f"opening {path.name}"), path)

    def _walk(self, function: str) -> Iterator[int]:
        following = getattr(library(), function)
        position = following(self._open(), None)
        while position:
            yield position
            position = following(self._open(), position)

    @staticmethod
    def _text(function: str, handle: int) -> str:
        text: bytes | None = getattr(library(), function)(handle)
        return "" if text is None else text.decode(errors="backslashreplace")

    def _open(self) -> int:
        if self._handle is None:
            raise BpfError(f"object {self.path.name} is closed", errno.EBADF)
        return self._handle

    def _program(self, name: str) -> int:
        self._open()
        try:
            return self._programs[name]
        except KeyError:
            raise BpfError(f"{self.path.name} has no program {name!r}", errno.ENOENT) from None

    def _map(self, name: str, *, before_load: bool = False) -> int:
        self._open()
        if before_load and self._loaded:
            raise BpfError(f"map {name!r} of {self.path.name} can't change after the load", errno.EBUSY)
        try:
            return self._map_handles[name]
        except KeyError:
            raise BpfError(f"{self.path.name} has no map {name!r}", errno.ENOENT) from None

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._handle is None

    def program_names(self) -> list[str]:
        """The programs, in the file's order."""
        return list(self._programs)

    def sections(self) -> dict[str, str]:
        """The section of each program, by program name: what it hooks, as its SEC() says."""
        self._open()
        return {name: self._text("bpf_program__section_name", handle) for name, handle in self._programs.items()}

    def map_names(self) -> list[str]:
        """The maps, in the file's order; those of global variables are named as libbpf does (``.rodata.knobs``)."""
        return list(self._map_handles)

    def declaration(self, name: str) -> Declaration:
        """What a map is to be made with, as the file says. Raises BpfError."""
        lib = library()
        handle = self._map(name)
        fields = ("type", "key_size", "value_size", "max_entries", "map_flags")
        return Declaration(*(getattr(lib, f"bpf_map__{field}")(handle) for field in fields))

    def set_autoload(self, program: str, load: bool) -> None:
        """Choose whether ``program`` is loaded with the rest. Raises BpfError."""
        lib = library()
        lib.check(lib.bpf_program__set_autoload(self._program(program), load), f"program {program!r}")

    def set_map_bytes(self, name: str, data: bytes) -> None:
        """Set the initial content of a map of global variables, before the load; sizes must agree. Raises BpfError."""
        lib = library()
        handle = self._map(name, before_load=True)
        size = c_size_t(0)
        lib.pointer(lib.bpf_map__initial_value(handle, ctypes.byref(size)), f"content of map {name!r}")
        if size.value != len(data):
            raise BpfError(f"map {name!r} holds {size.value} bytes, not {len(data)}", errno.EINVAL)
        lib.check(lib.bpf_map__set_initial_value(handle, data, len(data)), f"content of map {name!r}")

    def set_max_entries(self, name: str, count: int) -> None:
        """Set how many elements a map has room for, before the load. Raises BpfError."""
        lib = library()
        handle = self._map(name, before_load=True)
        lib.check(lib.bpf_map__set_max_entries(handle, count), f"size of map {name!r}")

    def reuse(self, name: str, fd: int) -> None:
        """Use the existing map with descriptor ``fd`` in place of ``name``, before the load. Raises BpfError."""
        lib = library()
        handle = self._map(name, before_load=True)
        declared = tuple(getattr(lib, f"bpf_map__{what}")(handle) for what in ("type", "key_size", "value_size"))
        given = Map(name, fd)
        if declared != (given.type, given.key_size, given.value_size):
            raise BpfError(f"map {name!r} can't be shared: another type, key or value size", errno.EINVAL)
        lib.check(lib.bpf_map__reuse_fd(handle, fd), f"sharing map {name!r}")

    def load(self) -> None:
        """Create the maps and have the kernel verify the programs. Raises LoadError; the object is then spent."""
        handle = self._open()
        lib = library()
        lib.messages.clear()
        result = lib.bpf_object__load(handle)
        ctypes.set_errno(0)
        if result < 0:
            raise _load_error(self.path.name, -result, lib.messages.text(), self._programs)
        self._loaded = True

    def attach(self, program: str) -> Link:
        """Attach a loaded program where its section says. Raises BpfError."""
        lib = library()
        self.program_fd(program)  # libbpf must not see a program that is not loaded
        handle = lib.bpf_program__attach(self._program(program))
        return self._keep(Link(lib.pointer(handle, f"attaching {program!r}"), program))

    def attach_tracepoint(self, program: str, tracepoint_id: int) -> Link:
        """Attach a loaded tp/ program to the tracepoint with this id (see tracefs.tracepoint_id) on all CPUs.

        attach() does the same where tracefs is mounted; this needs no mount. Raises BpfError.
        """
        lib = library()
        self.program_fd(program)
        what = f"attaching {program!r} to tracepoint {tracepoint_id}"
        try:
            event = open_tracepoint(tracepoint_id, online_cpus()[0])
        except (OSError, RingError) as refused:
            raise BpfError(f"{what}: {why(refused.errno or 0)}", refused.errno or 0) from refused
        try:
            handle = lib.bpf_program__attach_perf_event(self._program(program), event)
            link = Link(lib.pointer(handle, what), program)
        except BpfError:
            os.close(event)  # only a link owns it
            raise
        return self._keep(link)

    def attach_cgroup(self, program: str, cgroup_fd: int) -> Link:
        """Attach a loaded program of a cgroup type beside those that are at this cgroup (see cgroup.open_root).

        It sees the sockets of the cgroup's processes and of all below it. Takes CAP_NET_ADMIN. Raises BpfError, with
        EPERM also where somebody has attached one of this type that allows no others.
        """
        lib = library()
        self.program_fd(program)
        handle = lib.bpf_program__attach_cgroup(self._program(program), cgroup_fd)
        return self._keep(Link(lib.pointer(handle, f"attaching {program!r} to a cgroup"), program))

    def attach_iter(self, program: str) -> Link:
        """Make the link of a loaded iterator program, to be read with read_iterator(). Raises BpfError."""
        lib = library()
        self.program_fd(program)
        handle = lib.bpf_program__attach_iter(self._program(program), None)
        return self._keep(Link(lib.pointer(handle, f"attaching iterator {program!r}"), program))

    def _keep(self, link: Link) -> Link:
        self._links.append(link)
        return link

    def program_fd(self, program: str) -> int:
        """The descriptor of a loaded program. Raises BpfError when it is not loaded."""
        lib = library()
        return lib.check(lib.bpf_program__fd(self._program(program)), f"program {program!r} is not loaded")

    def map(self, name: str) -> Map:
        """A map of the loaded object. Raises BpfError."""
        lib = library()
        fd = lib.bpf_map__fd(self._map(name))
        if fd < 0 or not self._loaded:
            raise BpfError(f"map {name!r} of {self.path.name} is not loaded", errno.EBADF)
        return Map(name, fd, lambda: self.closed)

    def close(self) -> None:
        """Detach all programs and drop programs and maps; idempotent. Raises BpfError when a link can't be detached."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        failures: list[BpfError] = []
        for link in self._links:
            try:
                link.destroy()
            except BpfError as failure:
                failures.append(failure)
        self._links.clear()
        library().bpf_object__close(handle)
        if failures:
            raise failures[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


_PROGRAM_AT_FAULT: Final = re.compile(r"^libbpf: prog '([^']+)': (?:.*failed|-- BEGIN)", re.MULTILINE)
_VERIFIER_LOG: Final = re.compile(r"-- BEGIN PROG LOAD LOG --\n(.*?)-- END PROG LOAD LOG --", re.DOTALL)


def _load_error(file: str, number: int, messages: str, programs: Collection[str]) -> LoadError:
    """Find the refused program and the reason in libbpf's messages (checked with those of 1.1 and 1.3)."""
    named = [name for name in _PROGRAM_AT_FAULT.findall(messages) if name in programs]
    program = named[-1] if named else None
    # The start of a long log is not kept, so look for the end of one too.
    verdicts = _VERIFIER_LOG.findall(messages) or messages.split("-- END PROG LOAD LOG --")[:-1]
    lines = verdicts[-1].splitlines()[-_TAIL_LINES:] if verdicts else []
    reasons = [line for line in lines if line.strip() and not line.startswith(("processed ", "verification time"))]
    if not reasons:
        reasons = [line.removeprefix("libbpf: ") for line in messages.splitlines() if "ailed to " in line][:1]
    what = f"program {program!r} of {file}" if program else file
    reason = f": {reasons[-1].strip()}" if reasons else ""
    return LoadError(f"{what} refused with {why(number)}{reason}", number, program, "\n".join(lines))


def load(
    path: Path,
    *,
    knobs: Mapping[str, bytes],
    optional: Collection[str],
    disabled: Collection[str] = (),
    share: Mapping[str, int] | None = None,
    max_entries: Mapping[str, int] | None = None,
) -> tuple[Object, dict[str, str]]:
    """Open, adjust and load the object at ``path``, without those of the ``optional`` programs that are refused.

    ``knobs`` are contents of maps of global variables, ``share`` descriptors of existing maps to use where the object
    has one of that name, ``max_entries`` counts of elements, all by map name; ``disabled`` programs are not tried.
    Returns the loaded object and, by program, one line for each refusal. Raises LoadError when a program that isn't
    optional (or anything else) is refused, BpfError for other names that the object doesn't have, MissingLibrary.
    """
    refused: dict[str, str] = {}
    while True:  # each turn refuses one more program, so it ends
        candidate = Object.open(path)
        try:
            for name in (*disabled, *refused):
                candidate.set_autoload(name, False)
            for name, data in knobs.items():
                candidate.set_map_bytes(name, data)
            for name, count in (max_entries or {}).items():
                candidate.set_max_entries(name, count)
            for name in candidate.map_names():
                if share and name in share:
                    candidate.reuse(name, share[name])
            candidate.load()
        except LoadError as error:
            candidate.close()
            if error.program is None or error.program not in optional or error.program in refused:
                raise
            refused[error.program] = str(error)
        except BaseException:
            candidate.close()
            raise
        else:
            return candidate, refused


def program_info(fd: int) -> ProgramInfo:
    """What the kernel counted for the program with descriptor ``fd``. Raises BpfError."""
    lib = library()
    # An older kernel fills less of the structure and leaves the rest zero.
    info, length = ctypes.create_string_buffer(_prog_info.size), c_uint32(_prog_info.size)
    lib.check(lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length)), "program info")
    number, runs, misses = _prog_info.unpack(info.raw)
    return ProgramInfo(number, runs, misses, length.value >= _prog_info.size)


def run_program(fd: int, cpu: int | None = None, arguments: bytes = b"") -> int:
    """Run the raw_tp program with descriptor ``fd`` once (BPF_PROG_TEST_RUN, Linux 5.10), on ``cpu`` if given.

    ``arguments`` are the tracepoint's, 8 bytes each. Returns the program's result (unsigned). Raises BpfError.
    """
    lib = library()
    options = TestRunOpts(sz=ctypes.sizeof(TestRunOpts), ctx_in=arguments or None, ctx_size_in=len(arguments))
    if cpu is not None:
        options.flags, options.cpu = _TEST_RUN_ON_CPU, cpu
    lib.check(lib.bpf_prog_test_run_opts(fd, ctypes.byref(options)), "test run")
    return int(options.retval)
