"""What each kernel can enforce, as data: by its Landlock, since the other layers are the same everywhere."""

from __future__ import annotations

from typing import Final, NamedTuple

from tracer.confine.plan import Layer, State

__all__ = ["KERNELS", "Kernel", "expected"]


class Kernel(NamedTuple):
    """A kernel that was tried: the beginning of its release, its Landlock ABI, and whether --sandbox-strict runs."""

    release: str
    landlock_abi: int
    strict: bool


KERNELS: Final = (
    Kernel("5.10", 0, strict=False),
    Kernel("6.1", 2, strict=False),
    Kernel("6.12", 6, strict=True),
    Kernel("6.18", 7, strict=True),
    Kernel("7.2", 10, strict=True),
)
"""The kernels of the test matrix, and the one it is developed on."""

_WHOLE_FILES: Final = 5  # the rights to truncate (ABI 3) and to device ioctls (5) among them
_NETWORK: Final = 4
_SCOPES: Final = 6


def expected(abi: int) -> dict[Layer, State]:
    """What becomes of each layer under this Landlock ABI (0: there is none); the user is off unless asked for."""

    def since(least: int) -> State:
        return State.ENFORCED if abi >= least else State.ABSENT

    files = State.ABSENT if not abi else State.ENFORCED if abi >= _WHOLE_FILES else State.PARTIAL
    return {
        Layer.USER: State.OFF,
        Layer.CAPABILITIES: State.ENFORCED,
        Layer.NO_NEW_PRIVILEGES: State.ENFORCED,
        Layer.FILES: files,
        Layer.NETWORK: since(_NETWORK),
        Layer.SCOPES: since(_SCOPES),
        Layer.SECCOMP: State.ENFORCED,
    }
