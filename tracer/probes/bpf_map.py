"""Read, write and map one BPF map, given its descriptor."""

from __future__ import annotations

import ctypes
import errno
import mmap
import struct
from collections.abc import Callable, Iterator
from ctypes import c_uint32
from typing import Final, NamedTuple

from tracer.probes.libbpf_binding import BpfError, library, possible_cpus, why

_PER_CPU_MAPS: Final = frozenset({5, 6, 10, 21})  # enum bpf_map_type: PERCPU_HASH, _ARRAY, LRU_ and _CGROUP_STORAGE
_MAP_TYPE_ARRAY: Final = 2
_MAP_FLAG_MMAPABLE: Final = 1 << 10
_create_options: Final = struct.Struct("@N6I")  # struct bpf_map_create_opts, to map_flags
_map_info: Final = struct.Struct("=6I")  # struct bpf_map_info: type, id, key and value size, max_entries, flags


class Declaration(NamedTuple):
    """What a map is made with: enum bpf_map_type, sizes in bytes, elements, BPF_F_ flags."""

    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int = 0


def create_map(name: str, what: Declaration) -> int:
    """Make a map; the caller closes the descriptor. Raises BpfError."""
    lib = library()
    options = ctypes.create_string_buffer(_create_options.pack(_create_options.size, 0, 0, 0, 0, 0, what.flags))
    made = lib.bpf_map_create(what.type, name.encode(), what.key_size, what.value_size, what.max_entries, options)
    return lib.check(made, f"making map {name!r}")


class Map:
    """A loaded BPF map; sizes are in bytes. Keys and values are bytes of exactly those sizes."""

    def __init__(self, name: str, fd: int, closed: Callable[[], bool] | None = None) -> None:
        """Wrap the map with descriptor ``fd``, which stays its owner's; ``closed`` tells whether that one closed it.

        Raises BpfError when ``fd`` is no map.
        """
        lib = library()
        info, length = ctypes.create_string_buffer(_map_info.size), c_uint32(_map_info.size)
        lib.check(lib.bpf_obj_get_info_by_fd(fd, info, ctypes.byref(length)), f"map {name!r}")
        self.type, _, self.key_size, self.value_size, self.max_entries, self.flags = _map_info.unpack(info.raw)
        self.name = name
        self._fd = fd
        self._closed = closed
        # A per-CPU map gives and takes the values of all possible CPUs at once, each padded to 8 bytes.
        per_cpu = self.type in _PER_CPU_MAPS
        self.value_bytes: int = (self.value_size + 7 & -8) * possible_cpus() if per_cpu else self.value_size
        """Bytes of one value as lookup() returns and update() takes it: for a per-CPU map those of all CPUs."""

    @property
    def fd(self) -> int:
        """The descriptor. Raises BpfError once the map's object is closed, when the number may be another file's."""
        if self._closed is not None and self._closed():
            raise BpfError(f"map {self.name!r}: its object is closed", errno.EBADF)
        return self._fd

    def _sized(self, data: bytes, size: int, what: str) -> bytes:
        if len(data) != size:
            raise BpfError(f"map {self.name!r}: {what} of {len(data)} bytes, {size} needed", errno.EINVAL)
        return data

    def lookup(self, key: bytes) -> bytes | None:
        """The value of ``key``, or None when there is none. Raises BpfError."""
        lib = library()
        value = ctypes.create_string_buffer(self.value_bytes)
        result = lib.bpf_map_lookup_elem(self.fd, self._sized(key, self.key_size, "key"), value)
        if result == -errno.ENOENT:
            ctypes.set_errno(0)
            return None
        lib.check(result, f"lookup in map {self.name!r}")
        return value.raw

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Set ``key`` to ``value``; ``flags`` is BPF_ANY 0, BPF_NOEXIST 1 or BPF_EXIST 2. Raises BpfError."""
        lib = library()
        key = self._sized(key, self.key_size, "key")
        value = self._sized(value, self.value_bytes, "value")
        lib.check(lib.bpf_map_update_elem(self.fd, key, value, flags), f"update of map {self.name!r}")

    def delete(self, key: bytes) -> bool:
        """Remove ``key``; False when it was not there. Raises BpfError."""
        lib = library()
        result = lib.bpf_map_delete_elem(self.fd, self._sized(key, self.key_size, "key"))
        if result == -errno.ENOENT:
            ctypes.set_errno(0)
            return False
        lib.check(result, f"delete in map {self.name!r}")
        return True

    def keys(self) -> Iterator[bytes]:
        """The keys, at most max_entries of them; a map that changes meanwhile may miss some and repeat others.

        Raises BpfError.
        """
        lib = library()
        following = ctypes.create_string_buffer(self.key_size)
        key: bytes | None = None
        for _ in range(self.max_entries):
            result = lib.bpf_map_get_next_key(self.fd, key, following)
            if result == -errno.ENOENT:
                ctypes.set_errno(0)
                return
            lib.check(result, f"keys of map {self.name!r}")
            key = following.raw
            yield key

    def mmap(self, *, writable: bool = False) -> mmap.mmap:
        """Map an array made with BPF_F_MMAPABLE: elements at multiples of value_size rounded up to 8.

        The mapping ends on a page, outlives the object, and is for the caller to close. Raises BpfError.
        """
        if self.type != _MAP_TYPE_ARRAY or not self.flags & _MAP_FLAG_MMAPABLE:
            raise BpfError(f"map {self.name!r} is no mmapable array", errno.EINVAL)
        size = (self.value_size + 7 & -8) * self.max_entries
        try:
            rights = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
            return mmap.mmap(self.fd, -(-size // mmap.PAGESIZE) * mmap.PAGESIZE, mmap.MAP_SHARED, rights)
        except OSError as refused:
            number = refused.errno or 0
            raise BpfError(f"mapping map {self.name!r}: {why(number)}", number) from refused
