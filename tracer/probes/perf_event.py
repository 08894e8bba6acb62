"""Open, install and decode perf events that carry BPF output: the system calls and the record format.

The layout of a record's header and the constants are those of the kernel's include/uapi/linux/perf_event.h. Splitting
a recorded run into its records needs no kernel.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from typing import Final, NamedTuple, NoReturn

PAYLOAD_OFFSET: Final = 12
"""Bytes from the start of a SAMPLE record to its payload: struct perf_eventheader, then the u32 raw size."""

# (bpf, perf_event_open) per machine, from the kernel's syscall tables: glibc wraps neither.
_SYSCALLS: Final = {
    "x86_64": (321, 298),
    "aarch64": (280, 241),
    "riscv64": (280, 241),
    "ppc64le": (361, 319),
    "s390x": (351, 331),
}
BPF_MAP_UPDATE_ELEM: Final = 2
BPF_MAP_DELETE_ELEM: Final = 3
_BPF_OBJ_GET_INFO_BY_FD: Final = 15
_BPF_MAP_TYPE_PERF_EVENT_ARRAY: Final = 4
_PERF_TYPE_SOFTWARE: Final = 1
_PERF_TYPE_TRACEPOINT: Final = 2
_PERF_COUNT_SW_BPF_OUTPUT: Final = 10
_PERF_SAMPLE_RAW: Final = 1 << 10
_PERF_FORMAT_TIMES: Final = 3  # PERF_FORMAT_TOTAL_TIME_ENABLED | PERF_FORMAT_TOTAL_TIME_RUNNING
_PERF_ATTR_WATERMARK: Final = 1 << 14
_PERF_ATTR_SIZE: Final = 112  # PERF_ATTR_SIZE_VER5, understood by every kernel since 4.1
_PERF_FLAG_FD_CLOEXEC: Final = 8
PERF_EVENT_IOC_ENABLE: Final = ord("$") << 8 | (1 << 29 if platform.machine() == "ppc64le" else 0)  # _IO('$', 0)
_PERF_RECORD_LOST: Final = 2
_PERF_RECORD_SAMPLE: Final = 9

_attr = struct.Struct("=IIQQQQQI60x")
_attr_info = struct.Struct("=IIQ")  # fd, size and address of the information
_attr_map_element = struct.Struct("=I4xQQQ")  # map fd, pointers to key and value, flags
record_header = struct.Struct("=H4xH").unpack_from  # type (its low half: no type is larger) and size
_lost_count = struct.Struct("=16xQ").unpack_from  # behind header and id
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class RingError(Exception):
    """A perf ring could not be opened, or holds what no kernel writes: one line, with the fix where there is one."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.errno = number


class Split(NamedTuple):
    """The records of a run: payload positions, records lost, and the byte position behind the last whole record."""

    offsets: list[int]
    lost: int
    end: int


def split(data: bytes) -> Split:
    """Walk the perf records in ``data``; a record that is cut by the end of ``data`` is left out.

    Raises RingError when a record says that it has no length.
    """
    # One precompiled unpack of two fields a record and a plain list of integers: the fastest general form of those
    # tried (pairs of offset and size cost a quarter more, memory slices nearly twice as much).
    offsets: list[int] = []
    append = offsets.append
    header = record_header
    end = len(data)
    stop = end - 7  # a header takes 8 bytes
    at = lost = kind = size = 0
    try:
        while at < stop:
            kind, size = header(data, at)
            if kind == 9:  # _PERF_RECORD_SAMPLE: a constant is faster than a global here
                append(at + 12)  # PAYLOAD_OFFSET
            elif kind == _PERF_RECORD_LOST:
                lost += _lost_count(data, at)[0]
            at += size or _endless(at)
    except struct.error:
        return Split(offsets, lost, at)  # a LOST record cut before its count; every header read was whole
    if at > end:
        at -= size
        if kind == _PERF_RECORD_SAMPLE:
            offsets.pop()
        elif kind == _PERF_RECORD_LOST:
            lost -= _lost_count(data, at)[0]
    return Split(offsets, lost, at)


def _endless(at: int) -> NoReturn:
    raise RingError(f"a perf record without length at byte {at} of a run")


def _syscall_numbers() -> tuple[int, int]:
    try:
        return _SYSCALLS[platform.machine()]
    except KeyError:
        raise RingError(f"perf rings are not supported on {platform.machine()}", errno.ENOSYS) from None


def open_event(cpu: int, watermark: int) -> int:
    """perf_event_open(2) of one CPU's BPF output; raises OSError."""
    attr = _attr.pack(
        _PERF_TYPE_SOFTWARE,
        _PERF_ATTR_SIZE,
        _PERF_COUNT_SW_BPF_OUTPUT,
        1,  # sample_period
        _PERF_SAMPLE_RAW,
        _PERF_FORMAT_TIMES,
        _PERF_ATTR_WATERMARK,
        watermark,
    )
    return _open(attr, cpu)


def open_tracepoint(tracepoint_id: int, cpu: int) -> int:
    """perf_event_open(2) of a classic tracepoint, to attach a BPF program to; raises OSError.

    A program that is attached to it runs wherever the tracepoint is hit, whichever CPU the event is of.
    """
    return _open(_attr.pack(_PERF_TYPE_TRACEPOINT, _PERF_ATTR_SIZE, tracepoint_id, 0, 0, 0, 0, 0), cpu)


def _open(attr: bytes, cpu: int) -> int:
    number = _syscall_numbers()[1]
    arguments = (ctypes.c_long(value) for value in (-1, cpu, -1, _PERF_FLAG_FD_CLOEXEC))  # pid, cpu, group, flags
    fd: int = _libc.syscall(ctypes.c_long(number), attr, *arguments)
    if fd < 0:
        raise _errno_error()
    return fd


def map_element(command: int, map_fd: int, cpu: int, fd: int) -> None:
    """bpf(2) on the element of ``cpu`` in a perf event array; raises OSError."""
    key, value = ctypes.c_uint32(cpu), ctypes.c_uint32(fd)
    attr = _attr_map_element.pack(map_fd, ctypes.addressof(key), ctypes.addressof(value), 0)
    _bpf(command, attr)


def check_map(map_fd: int) -> None:
    """Raise OSError (EINVAL) when a descriptor is no perf event array: another map would take a ring for data."""
    kind = ctypes.c_uint32(0)  # the first word of struct bpf_map_info
    _bpf(_BPF_OBJ_GET_INFO_BY_FD, _attr_info.pack(map_fd, ctypes.sizeof(kind), ctypes.addressof(kind)))
    if kind.value != _BPF_MAP_TYPE_PERF_EVENT_ARRAY:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def _bpf(command: int, attr: bytes) -> None:
    number = _syscall_numbers()[0]
    if _libc.syscall(ctypes.c_long(number), ctypes.c_long(command), attr, ctypes.c_long(len(attr))) < 0:
        raise _errno_error()


def _errno_error() -> OSError:
    number = ctypes.get_errno()
    ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
    return OSError(number, os.strerror(number))
