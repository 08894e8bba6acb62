"""Read what BPF iterator programs write: the kernel's own lists of tasks and sockets."""

from __future__ import annotations

import os
from typing import Final

from tracer.probes.libbpf import Link
from tracer.probes.libbpf_binding import BpfError, library, why

__all__ = ["drain_iterator", "open_iterator", "read_iterator"]

# Half of what the kernel's bpf_seq_read() fills at most in one call (8 pages): it stops once there is as much as was
# asked for. Out of a full buffer it takes the last object's output back and shows that object again at the next call,
# to a program that knows it by then and says nothing.
_ITERATOR_CHUNK: Final = 16 << 10
_ITERATOR_RETRIES: Final = 10_000


def open_iterator(link: Link) -> int:
    """A descriptor that gives the output of an iterator once; the caller closes it. Raises BpfError."""
    lib = library()
    return lib.check(lib.bpf_iter_create(link.fd), f"iterator {link.program!r}")


def read_iterator(link: Link) -> bytes:
    """Run an iterator program over all its objects and return what it wrote. Raises BpfError."""
    fd = open_iterator(link)
    try:
        return drain_iterator(fd)
    except OSError as failed:
        number = failed.errno or 0
        raise BpfError(f"iterator {link.program!r}: {why(number)}", number) from failed
    finally:
        os.close(fd)


def drain_iterator(fd: int) -> bytes:
    """Read an iterator's descriptor to its end. Raises OSError."""
    chunks: list[bytes] = []
    retries = 0
    while True:
        try:
            chunk = os.read(fd, _ITERATOR_CHUNK)  # CPython itself tries again after EINTR
        except BlockingIOError:
            # The kernel stops after a million objects without output, to be called again.
            retries += 1
            if retries > _ITERATOR_RETRIES:
                raise
            continue
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
