"""Bind libbpf.so.1 (1.0 or newer) through ctypes: typed signatures, checked results, and its messages kept.

Signatures are those of libbpf's public headers (bpf/libbpf.h, bpf/bpf.h). libbpf writes nothing to stderr by itself:
what it has to say is kept, bounded, and quoted in errors.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_bool, c_char_p, c_int, c_size_t, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Final

_LOG_BYTES: Final = 256 << 10  # of libbpf's messages kept, in all
_MESSAGE_BYTES: Final = 64 << 10  # of one message, its end: a verifier's log can have megabytes
_LEVEL_DEBUG: Final = 2  # enum libbpf_print_level: warn, info, debug
_LIBBPF_ERRNO: Final = 4000  # __LIBBPF_ERRNO__START: bad ELF files and the like
_LIBRARY: Final = "libbpf.so.1"
_OVERRIDE: Final = "TRACER_LIBBPF"
_CPU_DIRECTORY: Final = Path("/sys/devices/system/cpu")


class BpfError(Exception):
    """The kernel or libbpf refused something: one line, with ``errno`` (0 when there is none)."""

    def __init__(self, message: str, number: int = 0) -> None:
        super().__init__(message)
        self.errno = number


class MissingLibrary(BpfError):  # noqa: N818  # named for what is wrong, as a sentence would
    """There is no usable libbpf.so.1 on this machine."""


class LoadError(BpfError):
    """An object was refused at load: ``program`` at fault where known, ``log`` the end of the verifier's log."""

    def __init__(self, message: str, number: int, program: str | None, log: str) -> None:
        super().__init__(message, number)
        self.program = program
        self.log = log


class TestRunOpts(ctypes.Structure):
    """struct bpf_test_run_opts of bpf/bpf.h."""

    _fields_ = (
        ("sz", c_size_t),
        ("data_in", c_void_p),
        ("data_out", c_void_p),
        ("data_size_in", c_uint32),
        ("data_size_out", c_uint32),
        ("ctx_in", c_char_p),
        ("ctx_out", c_void_p),
        ("ctx_size_in", c_uint32),
        ("ctx_size_out", c_uint32),
        ("retval", c_uint32),
        ("repeat", c_int),
        ("duration", c_uint32),
        ("flags", c_uint32),
        ("cpu", c_uint32),
        ("batch_size", c_uint32),
    )


class ProgLoadOpts(ctypes.Structure):
    """struct bpf_prog_load_opts of bpf/bpf.h, as far as libbpf 1.0 has it."""

    _fields_ = (
        ("sz", c_size_t),
        ("attempts", c_int),
        ("expected_attach_type", c_int),
        ("prog_btf_fd", c_uint32),
        ("prog_flags", c_uint32),
        ("prog_ifindex", c_uint32),
        ("kern_version", c_uint32),
        ("attach_btf_id", c_uint32),
        ("attach_prog_fd", c_uint32),
        ("attach_btf_obj_fd", c_uint32),
        ("fd_array", c_void_p),
        ("func_info", c_void_p),
        ("func_info_cnt", c_uint32),
        ("func_info_rec_size", c_uint32),
        ("line_info", c_void_p),
        ("line_info_cnt", c_uint32),
        ("line_info_rec_size", c_uint32),
        ("log_level", c_uint32),
        ("log_size", c_uint32),
        ("log_buf", c_void_p),
    )


class KprobeMultiOpts(ctypes.Structure):
    """struct bpf_link_create_opts of bpf/bpf.h, with what links of type kprobe_multi take of its union."""

    _fields_ = (
        ("sz", c_size_t),
        ("flags", c_uint32),
        ("iter_info", c_void_p),
        ("iter_info_len", c_uint32),
        ("target_btf_id", c_uint32),
        ("flags_multi", c_uint32),
        ("count", c_uint32),
        ("symbols", ctypes.POINTER(c_char_p)),
        ("addresses", c_void_p),
        ("cookies", c_void_p),
    )


_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "bpf_object__open_file": (c_void_p, (c_char_p, c_void_p)),
    "bpf_object__load": (c_int, (c_void_p,)),
    "bpf_object__close": (None, (c_void_p,)),
    "bpf_object__next_program": (c_void_p, (c_void_p, c_void_p)),
    "bpf_object__next_map": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__name": (c_char_p, (c_void_p,)),
    "bpf_program__section_name": (c_char_p, (c_void_p,)),
    "bpf_program__set_autoload": (c_int, (c_void_p, c_bool)),
    "bpf_program__fd": (c_int, (c_void_p,)),
    "bpf_program__attach": (c_void_p, (c_void_p,)),
    "bpf_program__attach_cgroup": (c_void_p, (c_void_p, c_int)),
    "bpf_program__attach_iter": (c_void_p, (c_void_p, c_void_p)),
    "bpf_program__attach_perf_event": (c_void_p, (c_void_p, c_int)),
    "bpf_link__fd": (c_int, (c_void_p,)),
    "bpf_link__destroy": (c_int, (c_void_p,)),
    "bpf_map__name": (c_char_p, (c_void_p,)),
    "bpf_map__fd": (c_int, (c_void_p,)),
    "bpf_map__type": (c_int, (c_void_p,)),
    "bpf_map__key_size": (c_uint32, (c_void_p,)),
    "bpf_map__value_size": (c_uint32, (c_void_p,)),
    "bpf_map__max_entries": (c_uint32, (c_void_p,)),
    "bpf_map__map_flags": (c_uint32, (c_void_p,)),
    "bpf_map__set_initial_value": (c_int, (c_void_p, c_char_p, c_size_t)),
    "bpf_map__initial_value": (c_void_p, (c_void_p, ctypes.POINTER(c_size_t))),
    "bpf_map__set_max_entries": (c_int, (c_void_p, c_uint32)),
    "bpf_map__reuse_fd": (c_int, (c_void_p, c_int)),
    "bpf_map_create": (c_int, (c_int, c_char_p, c_uint32, c_uint32, c_uint32, c_void_p)),
    "bpf_map_lookup_elem": (c_int, (c_int, c_char_p, c_void_p)),
    "bpf_map_update_elem": (c_int, (c_int, c_char_p, c_char_p, c_uint64)),
    "bpf_map_delete_elem": (c_int, (c_int, c_char_p)),
    "bpf_map_get_next_key": (c_int, (c_int, c_char_p, c_void_p)),
    "bpf_map_get_next_id": (c_int, (c_uint32, ctypes.POINTER(c_uint32))),
    "bpf_map_get_fd_by_id": (c_int, (c_uint32,)),
    "bpf_prog_load": (c_int, (c_int, c_char_p, c_char_p, c_char_p, c_size_t, ctypes.POINTER(ProgLoadOpts))),
    "bpf_raw_tracepoint_open": (c_int, (c_char_p, c_int)),
    "bpf_link_create": (c_int, (c_int, c_int, c_int, ctypes.POINTER(KprobeMultiOpts))),
    "bpf_obj_get_info_by_fd": (c_int, (c_int, c_void_p, ctypes.POINTER(c_uint32))),
    "bpf_iter_create": (c_int, (c_int,)),
    "bpf_prog_test_run_opts": (c_int, (c_int, ctypes.POINTER(TestRunOpts))),
    "libbpf_num_possible_cpus": (c_int, ()),
    "libbpf_version_string": (c_char_p, ()),
    "libbpf_strerror": (c_int, (c_int, c_char_p, c_size_t)),
}
# What takes less time than to let other threads of Python run meanwhile, and to wait for them then.
_BRIEF: Final = (
    "bpf_map__",
    "bpf_program__name",
    "bpf_program__section_name",
    "bpf_program__set_autoload",
    "bpf_program__fd",
    "bpf_object__next_",
    "bpf_link__fd",
    "bpf_obj_get_info_by_fd",
)
_PrintFunction = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)


class Messages:
    """libbpf's last messages, oldest dropped first; printf is done by the C library."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque()
        self._size = 0
        self._libc = ctypes.CDLL(None)
        self._libc.vasprintf.argtypes = (ctypes.POINTER(c_void_p), c_void_p, c_void_p)
        self._libc.free.argtypes = (c_void_p,)
        self._libc.free.restype = None
        # The argument is a va_list: passed as one pointer on every 64-bit ABI that libbpf is built for.
        self.callback = _PrintFunction(self._print)

    def _print(self, level: int, text_format: int | None, arguments: int | None) -> int:
        if level >= _LEVEL_DEBUG:
            return 0
        text = c_void_p()
        length = self._libc.vasprintf(ctypes.byref(text), text_format, arguments)
        if length < 0 or text.value is None:
            return 0
        skipped = max(0, length - _MESSAGE_BYTES)
        message = ctypes.string_at(text.value + skipped, length - skipped).decode(errors="backslashreplace")
        self._libc.free(text)
        self._kept.append(message)
        self._size += len(message)
        while self._size > _LOG_BYTES:
            self._size -= len(self._kept.popleft())
        return 0

    def clear(self) -> None:
        """Forget them."""
        self._kept.clear()
        self._size = 0

    def text(self) -> str:
        """All that are kept."""
        return "".join(self._kept)


class Library:
    """libbpf.so.1 with typed functions."""

    def __init__(self, name: str) -> None:
        try:
            library = ctypes.CDLL(name, use_errno=True)
            brief = ctypes.PyDLL(name, use_errno=True)
            for function, (result, arguments) in _SIGNATURES.items():
                prototype = getattr(brief if function.startswith(_BRIEF) else library, function)
                prototype.restype = result
                prototype.argtypes = arguments
                setattr(self, function, prototype)
        except (OSError, AttributeError) as missing:
            fix = "install libbpf 1.0 or newer (Debian, Ubuntu: libbpf1; Fedora: libbpf)"
            chosen = f"{name}, which {_OVERRIDE} names," if os.environ.get(_OVERRIDE) == name else name
            raise MissingLibrary(f"{chosen} can't be used ({missing}); {fix}", errno.ENOENT) from missing
        self.messages = Messages()
        self._set_print = library.libbpf_set_print
        self._set_print.argtypes = (c_void_p,)
        self._set_print.restype = c_void_p
        self._set_print(self.messages.callback)

    def __getattr__(self, name: str) -> Any:  # only for functions that are not in the table
        raise AttributeError(f"libbpf function {name} has no signature here")

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Have libbpf say nothing, to nobody: thousands of messages for each object, for all of which Python is called.

        What fails meanwhile does so without a reason.
        """
        self._set_print(None)
        try:
            yield
        finally:
            self._set_print(self.messages.callback)

    def pointer(self, result: int | None, what: str) -> int:
        """Check a pointer that libbpf returned; raises BpfError with errno when it is NULL."""
        number = ctypes.get_errno()
        ctypes.set_errno(0)  # left behind it would look like the failure of whoever checks it next
        if not result:
            raise BpfError(f"{what}: {why(number)}", number)
        return result

    def check(self, result: int, what: str) -> int:
        """Check a result that is negative on failure; raises BpfError with errno."""
        ctypes.set_errno(0)
        if result < 0:
            raise BpfError(f"{what}: {why(-result)}", -result)
        return result


@functools.cache
def library() -> Library:
    """Load libbpf.so.1, or the file that TRACER_LIBBPF names, once. Raises MissingLibrary."""
    return Library(os.environ.get(_OVERRIDE) or _LIBRARY)


def why(number: int) -> str:
    """An errno in words: its name and its text; libbpf has some of its own."""
    if number >= _LIBBPF_ERRNO:
        text = ctypes.create_string_buffer(128)
        library().libbpf_strerror(number, text, ctypes.sizeof(text))
        return f"libbpf error {number} ({text.value.decode(errors='backslashreplace')})"
    return f"{errno.errorcode.get(number, number)} ({os.strerror(number)})"


def possible_cpus() -> int:
    """How many CPUs the kernel has room for: the number of values in an element of a per-CPU map. Raises BpfError."""
    lib = library()
    return lib.check(lib.libbpf_num_possible_cpus(), "possible CPUs")


def online_cpus() -> list[int]:
    """The numbers of the CPUs that run now, ascending; needs no libbpf. Raises OSError."""
    return parse_cpus((_CPU_DIRECTORY / "online").read_text(encoding="ascii"))


def parse_cpus(text: str) -> list[int]:
    """The CPU numbers in a list as the kernel writes it (``0-3,8``). Raises ValueError."""
    cpus: list[int] = []
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            cpus.extend(range(int(first), int(last or first) + 1))
    return cpus
