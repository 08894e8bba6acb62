"""Prove each layer: what it refuses is tried with it and without it, in forks that are confined as the worker is."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from typing import Final, NamedTuple

from tracer.confine import attest
from tracer.confine.apply import Applied, confine
from tracer.confine.escapes import ESCAPES, Escape
from tracer.confine.ground import Ground, ground
from tracer.confine.identity import NOBODY, Identity
from tracer.confine.plan import Layer, Plan, State

__all__ = ["SUCCEEDED", "Proof", "confined", "prove"]

SUCCEEDED: Final = "succeeded"
ABSENT: Final = "absent"
_ABSENT_CODE: Final = 250
_BROKEN_CODE: Final = 251
_WITHIN_S: Final = 30
_AS_USER: Final = Identity(NOBODY, NOBODY)


class Proof(NamedTuple):
    """What came of an escape with its layer on and off: an error's name, SUCCEEDED, or ABSENT (no such layer here).

    Both runs are without the layers behind; ``whole`` is what came of it with all that this kernel has.
    """

    escape: Escape
    on: str
    off: str
    whole: str

    @property
    def holds(self) -> bool:
        """Whether just this layer refused it, with the error it should, and so did all together."""
        return self.on == self.escape.error and self.off == SUCCEEDED and self.whole not in (SUCCEEDED, ABSENT)

    @property
    def absent(self) -> bool:
        """Whether this kernel has nothing to refuse it with."""
        return self.on == ABSENT


def prove() -> Iterator[Proof]:
    """Try all escapes; takes root, and changes the mount namespace of this process. Raises OSError."""
    with ground() as at:
        for escape in ESCAPES:
            yield Proof(
                escape,
                _tried(escape, at, escape.behind),
                _tried(escape, at, escape.behind | {escape.layer}),
                _tried(escape, at, frozenset(), whole=True),
            )


def confined(plan: Plan) -> tuple[Applied, dict[str, str], attest.OwnState]:
    """Confine this process and attest it, as a command does: what became of the layers, of the tries, and its state."""
    at = attest.targets("/root")
    applied = confine(plan)
    return applied, attest.tries(at), attest.own_state()


def _tried(escape: Escape, at: Ground, without: frozenset[Layer], *, whole: bool = False) -> str:
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        os._exit(_code(escape, at, without, whole=whole))
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    code = os.WEXITSTATUS(status)
    if code in (0, _ABSENT_CODE):
        return ABSENT if code else SUCCEEDED
    return errno.errorcode.get(code, f"exit code {code}")


def _code(escape: Escape, at: Ground, without: frozenset[Layer], *, whole: bool) -> int:
    """Confine this fork and try: the errno, 0 for a success, or one of the codes above."""
    signal.alarm(_WITHIN_S)
    plan = Plan(_AS_USER if escape.as_user else None, without=without)
    try:
        applied = confine(plan)
    except OSError:
        return _BROKEN_CODE
    if not whole and escape.layer not in without and not _is_on(applied, escape):
        return _ABSENT_CODE
    try:
        escape.attempt(at)
    except OSError as refused:
        return refused.errno or _BROKEN_CODE
    return 0


def _is_on(applied: Applied, escape: Escape) -> bool:
    state = applied.verdicts[escape.layer].state
    return state in (State.ENFORCED, State.PARTIAL) and applied.landlock_abi >= escape.abi
