"""Memory that is freed is there for who asks next, and is given back in the end."""

import ctypes
import resource
import subprocess
import sys

from tracer.probes import heap

PIECE = 8 << 20
PAGES = PIECE // resource.getpagesize()

_libc = ctypes.CDLL(None)
_libc.malloc.argtypes = (ctypes.c_size_t,)
_libc.malloc.restype = ctypes.c_void_p
_libc.memset.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t)
_libc.free.argtypes = (ctypes.c_void_p,)


def pages_mapped() -> int:
    """How many pages the kernel had to give for a large piece that is filled and freed."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    piece = _libc.malloc(PIECE)
    _libc.memset(piece, 1, PIECE)
    _libc.free(piece)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


def test_kept_and_given_back() -> None:
    """The second piece needs no page while memory is kept; before it began and after it has ended each needs all."""
    huge_pages = PAGES // 100  # the kernel may give them by hundreds
    assert pages_mapped() > huge_pages
    with heap.kept():
        pages_mapped()
        assert pages_mapped() <= huge_pages // 8
    assert pages_mapped() > huge_pages


SHARED = """
import ctypes, threading
from tracer.probes import heap
libc = ctypes.CDLL(None)
libc.malloc.argtypes, libc.malloc.restype = (ctypes.c_size_t,), ctypes.c_void_p
heap.share()
found = [libc.malloc(1000)]
thread = threading.Thread(target=lambda: found.append(libc.malloc(1000)))
thread.start()
thread.join()
ranges = [line.split() for line in open("/proc/self/maps")]
at = next(line[0].split("-") for line in ranges if line[-1] == "[heap]")
print(*(int(at[0], 16) <= each < int(at[1], 16) for each in found))
"""


def test_threads_share_a_heap() -> None:
    """What a thread asks for comes from the heap of the first one."""
    done = subprocess.run([sys.executable, "-c", SHARED], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"
