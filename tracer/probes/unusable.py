"""Tell in one line why the probes can't run here, with the fix, and take away the one limit that we may be able to."""

from __future__ import annotations

import errno
import resource
from contextlib import suppress

from tracer.probes.libbpf_binding import BpfError, LoadError, MissingLibrary
from tracer.probes.privileges import privileges
from tracer.probes.rings import RingError

__all__ = ["UnusableError", "raise_memory_limit", "unusable"]


class UnusableError(Exception):
    """The backend can't run here; ``code`` is the exit code that says so (3: privilege, 4: kernel)."""

    def __init__(self, message: str, code: int) -> None:
        """``message`` is one line with the fix."""
        super().__init__(message)
        self.code = code


def unusable(error: Exception, lacking: str | None) -> UnusableError:
    """What a refusal by libbpf or the kernel means for who wants to trace.

    ``lacking`` is what this machine lacks for the backend, with the fix, when that explains any failure.
    """
    if isinstance(error, MissingLibrary):
        return UnusableError(str(error), 4)
    number = getattr(error, "errno", 0) or 0
    if number in (errno.EPERM, errno.EACCES) and not (isinstance(error, LoadError) and error.program and error.log):
        return UnusableError(_no_privilege(error), 3)
    if lacking:
        return UnusableError(lacking, 4)
    if isinstance(error, RingError):
        return UnusableError(str(error), 3 if "CAP_" in str(error) else 1)
    return UnusableError(f"the kernel refuses the probes: {error}; see `tracer doctor`", 4)


def _no_privilege(error: Exception) -> str:
    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if isinstance(error, BpfError) and limit != resource.RLIM_INFINITY and privileges().bpf:
        return (
            "eBPF is refused, but no capability is missing: kernels before 5.11 charge it to the limit on locked "
            f"memory, here {limit >> 10} KiB: raise it (ulimit -l unlimited, LimitMEMLOCK=infinity); in a container, "
            "let its seccomp profile allow bpf(2)"
        )
    return "eBPF needs privilege: run it with sudo, or as a user with the capabilities that `tracer doctor` names"


def raise_memory_limit() -> None:
    """Let BPF have the memory it takes: kernels before 5.11 charge it to the limit on locked memory (RLIMIT_MEMLOCK).

    No limit at all takes CAP_SYS_RESOURCE; without it, as much as this process may have.
    """
    hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]
    for limit in (resource.RLIM_INFINITY, hard):
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (limit, limit))
            return
