"""Load programs that are instructions in memory, put maps into them, and attach them: what BCC's programs need.

The encoding of instructions is that of the kernel's include/uapi/linux/bpf.h, struct bpf_insn.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Mapping
from typing import Final

from tracer.probes.libbpf_binding import BpfError, KprobeMultiOpts, LoadError, ProgLoadOpts, library, online_cpus, why
from tracer.probes.perf_event import PERF_EVENT_IOC_ENABLE, RingError, open_tracepoint

__all__ = [
    "RAW_TRACEPOINT",
    "TRACEPOINT",
    "Descriptor",
    "attach_at_return",
    "attach_raw_tracepoint",
    "attach_tracepoint",
    "fexit_refusal",
    "load",
    "place_maps",
]

TRACEPOINT: Final = 5  # enum bpf_prog_type
RAW_TRACEPOINT: Final = 17
_TRACING: Final = 26
_TRACE_FEXIT: Final = 25  # enum bpf_attach_type
_TRACE_KPROBE_MULTI: Final = 42
_AT_RETURN: Final = 1  # BPF_F_KPROBE_MULTI_RETURN
_NO_FUNCTION: Final = 0xFFFFFF  # a number of BTF that no kernel has
_MOVE: Final = 0xB7  # BPF_ALU64 | BPF_MOV | BPF_K
_EXIT: Final = 0x95  # BPF_JMP | BPF_EXIT
_LOAD_64: Final = 0x18  # BPF_LD | BPF_IMM | BPF_DW: takes two instructions
_MAP_SOURCES: Final = (1, 2)  # BPF_PSEUDO_MAP_FD, BPF_PSEUDO_MAP_VALUE
_SET_BPF: Final = 0x40042408  # PERF_EVENT_IOC_SET_BPF
_LOG_BYTES: Final = 1 << 20
_NAME_BYTES: Final = 15  # BPF_OBJ_NAME_LEN without its NUL
_instruction: Final = struct.Struct("=BBhi")


class Descriptor:
    """What ends with its descriptor: a loaded program, or an attached one."""

    def __init__(self, fd: int) -> None:
        """Own ``fd``."""
        self._fd: int | None = fd

    @property
    def fd(self) -> int:
        """The descriptor. Raises BpfError after destroy()."""
        if self._fd is None:
            raise BpfError("the program is gone")
        return self._fd

    def destroy(self) -> None:
        """Close it; idempotent."""
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)


def place_maps(code: bytes, maps: Mapping[int, int]) -> bytes:
    """Replace the numbers that stand for maps (keys) by descriptors (values). Raises BpfError for an unknown number."""
    placed = bytearray(code)
    at = 0
    while at < len(placed):
        opcode, registers, offset, number = _instruction.unpack_from(placed, at)
        if opcode != _LOAD_64:
            at += _instruction.size
            continue
        if registers >> 4 in _MAP_SOURCES:
            if number not in maps:
                raise BpfError(f"compiled code names an unknown map ({number})")
            _instruction.pack_into(placed, at, opcode, registers, offset, maps[number])
        at += 2 * _instruction.size
    return bytes(placed)


def load(name: str, kind: int, code: bytes) -> Descriptor:
    """Have the kernel verify a program. Raises LoadError with the verifier's reason."""
    lib = library()
    count = len(code) // _instruction.size

    def attempt(options: ProgLoadOpts) -> int:
        label = name.encode()[:_NAME_BYTES]
        return int(lib.bpf_prog_load(kind, label, b"GPL", code, count, ctypes.byref(options)))

    options = ProgLoadOpts(sz=ctypes.sizeof(ProgLoadOpts))
    fd = attempt(options)
    if fd < 0:
        log = ctypes.create_string_buffer(_LOG_BYTES)
        options.log_level, options.log_size, options.log_buf = 1, _LOG_BYTES, ctypes.addressof(log)
        fd = attempt(options)
        if fd < 0:
            raise _refused(name, -fd, log.value.decode(errors="backslashreplace"))
    ctypes.set_errno(0)
    return Descriptor(fd)


def fexit_refusal() -> BpfError | None:
    """Why this kernel lets no program run at the return of its functions, if it says so at once.

    It takes microseconds, where a real program takes all of the kernel's BTF: the function is one that can't be, so
    EINVAL is the answer of a kernel that would look at the program.
    """
    lib = library()
    options = ProgLoadOpts(
        sz=ctypes.sizeof(ProgLoadOpts), attempts=1, expected_attach_type=_TRACE_FEXIT, attach_btf_id=_NO_FUNCTION
    )
    code = _instruction.pack(_MOVE, 0, 0, 0) + _instruction.pack(_EXIT, 0, 0, 0)
    number = -lib.bpf_prog_load(_TRACING, b"try_fexit", b"GPL", code, 2, ctypes.byref(options))
    ctypes.set_errno(0)
    if number == errno.EINVAL:
        return None
    return BpfError(f"programs at the return of kernel functions (fexit) are refused with {why(number)}", number)


def _refused(name: str, number: int, log: str) -> LoadError:
    ctypes.set_errno(0)
    lines = [line for line in log.splitlines() if line.strip() and not line.startswith(("processed ", "verification"))]
    reason = f": {lines[-1].strip()}" if lines else ""
    return LoadError(f"program {name!r} refused with {why(number)}{reason}", number, name, "\n".join(lines[-20:]))


def attach_raw_tracepoint(program: Descriptor, tracepoint: str) -> Descriptor:
    """Attach to a raw tracepoint until destroy(). Raises BpfError."""
    lib = library()
    fd = lib.bpf_raw_tracepoint_open(tracepoint.encode(), program.fd)
    return Descriptor(lib.check(fd, f"attaching to raw tracepoint {tracepoint!r}"))


def attach_at_return(program_fd: int, function: str) -> Descriptor:
    """Attach a kretprobe.multi program to a function of the kernel's until destroy() (5.18). Raises BpfError."""
    lib = library()
    names = (ctypes.c_char_p * 1)(function.encode())
    options = KprobeMultiOpts(sz=ctypes.sizeof(KprobeMultiOpts), flags_multi=_AT_RETURN, count=1, symbols=names)
    fd = lib.bpf_link_create(program_fd, 0, _TRACE_KPROBE_MULTI, ctypes.byref(options))
    return Descriptor(lib.check(fd, f"attaching to the return of {function}()"))


def attach_tracepoint(program: Descriptor, tracepoint_id: int) -> Descriptor:
    """Attach to a classic tracepoint, on all CPUs, until destroy(). Raises BpfError."""
    what = f"attaching to tracepoint {tracepoint_id}"
    try:
        event = Descriptor(open_tracepoint(tracepoint_id, online_cpus()[0]))
    except (OSError, RingError) as refused:
        raise BpfError(f"{what}: {why(refused.errno or 0)}", refused.errno or 0) from refused
    try:
        fcntl.ioctl(event.fd, _SET_BPF, program.fd)
        fcntl.ioctl(event.fd, PERF_EVENT_IOC_ENABLE, 0)
    except OSError as refused:
        event.destroy()
        raise BpfError(f"{what}: {why(refused.errno or 0)}", refused.errno or 0) from refused
    return event
