"""What a run needs once everything is open, and the layers that take away the rest."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from tracer.confine.identity import Identity
from tracer.confine.seccomp_filter import WORKER, Rule

__all__ = ["STRICT", "Layer", "Plan", "State", "Verdict", "missing"]


class Layer(enum.StrEnum):
    """The layers, in the order in which they are put on."""

    USER = "user"
    CAPABILITIES = "capabilities"
    NO_NEW_PRIVILEGES = "no_new_privileges"
    FILES = "landlock_files"
    NETWORK = "landlock_network"
    SCOPES = "landlock_scopes"
    SECCOMP = "seccomp"


LANDLOCK: Final = (Layer.FILES, Layer.NETWORK, Layer.SCOPES)
STRICT: Final = frozenset(Layer) - {Layer.USER}
"""What --sandbox-strict asks for, whatever the kernel."""


class State(enum.StrEnum):
    """What became of a layer: absent is what this kernel can't do, off what was not asked for."""

    ENFORCED = "enforced"
    PARTIAL = "partial"
    ABSENT = "absent"
    OFF = "off"


class Verdict(NamedTuple):
    """What became of a layer, and why where that is not all of it."""

    state: State
    detail: str = ""


class Plan(NamedTuple):
    """What a process keeps.

    ``identity`` is whom it becomes (None: it stays who it is), ``capabilities`` are names; ``readable`` can still be
    opened for reading, and files made and written in the directories ``writable``, as far as ``calls`` allow to open
    anything; in the directories ``kept`` they can be listed, cut, renamed and removed, too. ``without`` are layers that
    are left off.
    """

    identity: Identity | None = None
    capabilities: frozenset[str] = frozenset()
    calls: tuple[Rule, ...] = WORKER
    readable: tuple[Path, ...] = ()
    writable: tuple[Path, ...] = ()
    kept: tuple[Path, ...] = ()
    without: frozenset[Layer] = frozenset()


def missing(verdicts: Mapping[Layer, Verdict], wanted: frozenset[Layer] = STRICT) -> list[str]:
    """The wanted layers that are not wholly enforced, each with the reason, in their order."""
    return [
        f"{layer} is {verdicts[layer].state}" + (f": {verdicts[layer].detail}" if verdicts[layer].detail else "")
        for layer in Layer
        if layer in wanted and verdicts[layer].state is not State.ENFORCED
    ]
