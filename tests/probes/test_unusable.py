"""What people are told when the probes can't run: one line, with the fix, and a code: privilege or kernel."""

import errno
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.probes import unusable as refusals
from tracer.probes.libbpf_binding import BpfError, LoadError, MissingLibrary
from tracer.probes.privileges import Privileges
from tracer.probes.rings import RingError
from tracer.probes.unusable import unusable

KIB = 1024
ALL = frozenset({"CAP_BPF", "CAP_PERFMON"})
ROOT = Path(__file__).parents[2]


def limited(monkeypatch: pytest.MonkeyPatch, soft: int, held: frozenset[str] = ALL) -> None:
    """As if this process had these capabilities and this limit on locked memory."""
    monkeypatch.setattr(refusals, "privileges", lambda: Privileges(held, 40, True, 1000))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, soft))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_lack_of_privilege(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Without the capabilities the fix is to have them, whatever the limits are."""
    limited(monkeypatch, 64 * KIB, frozenset())
    told = unusable(BpfError("map refused", number), None)
    assert "sudo" in str(told)
    assert "locked memory" not in str(told)
    assert told.code == 3


def test_limit_on_locked_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the capabilities, and a limit that kernels before 5.11 charge BPF to, the fix names limit and size."""
    limited(monkeypatch, 64 * KIB)
    told = unusable(BpfError("map refused", errno.EPERM), None)
    assert "64 KiB" in str(told)
    assert "LimitMEMLOCK" in str(told)
    assert "\n" not in str(told)
    assert told.code == 3


def test_no_limit_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no limit on locked memory, it is not the reason."""
    limited(monkeypatch, resource.RLIM_INFINITY)
    assert "locked memory" not in str(unusable(BpfError("map refused", errno.EPERM), None))


@pytest.mark.parametrize(
    ("error", "code", "word"),
    [
        (MissingLibrary("libbpf.so.1 is missing"), 4, "libbpf"),
        (LoadError("program 'x' refused", errno.EACCES, "x", "R1 invalid"), 4, "doctor"),
        (RingError("ask for less, or add CAP_IPC_LOCK", errno.ENOMEM), 3, "CAP_IPC_LOCK"),
        (RingError("too many files", errno.EMFILE), 1, "files"),
    ],
)
def test_other_refusals(error: Exception, code: int, word: str) -> None:
    """A missing library and a verifier's no are the kernel's or machine's, a ring's is told as it is."""
    told = unusable(error, None)
    assert told.code == code
    assert word in str(told)


def test_what_is_lacking_explains_all_but_privilege() -> None:
    """What the machine lacks for a backend is told in place of what failed for the want of it."""
    told = unusable(BpfError("attach refused", errno.ESRCH), "no BTF here")
    assert (str(told), told.code) == ("no BTF here", 4)


RAISE = """
import resource
from tracer.probes.unusable import raise_memory_limit
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 16, 1 << 20))
raise_memory_limit()
print(*resource.getrlimit(resource.RLIMIT_MEMLOCK))
"""


def limits(*prefix: str) -> list[int]:
    """Soft and hard limit of a process that had 64 KiB of a possible MiB, after it raised them."""
    command = [*prefix, sys.executable, "-c", RAISE]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return [int(each) for each in done.stdout.split()]


@pytest.mark.live
def test_limit_is_raised_as_far_as_it_may() -> None:
    """Without CAP_SYS_RESOURCE the soft limit becomes the hard one; with it, there is none any more."""
    assert limits("setpriv", "--bounding-set=-sys_resource") == [1 << 20, 1 << 20]
    has = int(Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0], 16) >> 24 & 1
    assert limits() == ([resource.RLIM_INFINITY] * 2 if has else [1 << 20, 1 << 20])
