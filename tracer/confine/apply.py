"""Put the layers on, in an order in which each still may, and say what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from tracer.confine import capabilities, identity, landlock_rules, seccomp_filter
from tracer.confine.libc import call
from tracer.confine.plan import LANDLOCK, Layer, Plan, State, Verdict

__all__ = ["Applied", "confine"]

_PR_SET_DUMPABLE: Final = 4
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_NO_NEW_PRIVS: Final = 38
_TASKS: Final = Path("/proc/self/task")
_THREAD_TRIES: Final = 200
_THREAD_WAIT_S: Final = 0.001

_NEEDS: Final = {
    Layer.NETWORK: "rules on the network take Landlock ABI 4 (Linux 6.7)",
    Layer.SCOPES: "scopes take Landlock ABI 6 (Linux 6.12)",
}


class Applied(NamedTuple):
    """What became of each layer, and the version of this kernel's Landlock (0: it has none)."""

    verdicts: dict[Layer, Verdict]
    landlock_abi: int


def confine(plan: Plan) -> Applied:
    """Confine this process for ever, as far as this kernel can, and tell what became of each layer.

    Called by the only thread, since some layers are a thread's own: threads that it makes from then on inherit all.
    Where there are more, those layers are partial.
    """
    others = _other_threads()
    verdicts: dict[Layer, Verdict] = {}
    _no_dumps()
    off = Verdict(State.OFF)
    load = _prepared(plan)
    emptied = Layer.CAPABILITIES in plan.without or capabilities.drop_bounding(plan.capabilities)
    verdicts[Layer.USER] = _become(plan)
    verdicts[Layer.CAPABILITIES] = off if Layer.CAPABILITIES in plan.without else _drop(plan, emptied)
    verdicts[Layer.NO_NEW_PRIVILEGES] = off if Layer.NO_NEW_PRIVILEGES in plan.without else _no_new_privileges()
    abi, why = landlock_rules.look()
    verdicts |= _landlock(plan, abi, why)
    verdicts[Layer.SECCOMP] = _seccomp(load)
    if others:
        detail = f"{others} other thread(s) were there before"
        for layer in Layer:
            if layer is not Layer.SECCOMP and verdicts[layer].state is State.ENFORCED and layer is not Layer.USER:
                verdicts[layer] = Verdict(State.PARTIAL, detail)
    return Applied(verdicts, abi)


def _other_threads() -> int:
    """How many threads there are beside this one; one that was joined may need a moment to be gone."""
    count = 0
    for _ in range(_THREAD_TRIES):
        try:
            count = len(list(_TASKS.iterdir())) - 1
        except OSError:
            return 0  # no /proc, no way to look
        if not count:
            break
        time.sleep(_THREAD_WAIT_S)
    return count


def _no_dumps() -> None:
    """No core file and no tracing by others of the user: the memory holds what everybody on the machine runs."""
    with suppress(OSError):  # where a filter from before refuses it, as it does the rest of prctl, which is told
        call("prctl", _PR_SET_DUMPABLE, 0, 0, 0, 0)


def _become(plan: Plan) -> Verdict:
    if plan.identity is None or Layer.USER in plan.without:
        return Verdict(State.OFF)
    try:
        if plan.capabilities or Layer.CAPABILITIES in plan.without:
            call("prctl", _PR_SET_KEEPCAPS, 1, 0, 0, 0)
        identity.become(plan.identity)
        if Layer.CAPABILITIES in plan.without:
            capabilities.drop(capabilities.read().permitted)  # the kernel has emptied the effective set
    except OSError as refused:
        return Verdict(State.ABSENT, f"becoming user {plan.identity.uid} was refused: {refused.strerror}")
    return Verdict(State.ENFORCED)


def _drop(plan: Plan, emptied: bool) -> Verdict:
    try:
        capabilities.drop(plan.capabilities)
        left = capabilities.read()
    except OSError as refused:
        return Verdict(State.ABSENT, f"dropping them was refused: {refused.strerror}")
    if (left.effective | left.permitted | left.inheritable | left.ambient) - plan.capabilities:
        return Verdict(State.ABSENT, "some are left")
    # It limits only what an exec can give, and there is none; without CAP_SETPCAP it can't be changed.
    return Verdict(State.ENFORCED, "" if emptied else "the bounding set stays: no CAP_SETPCAP")


def _no_new_privileges() -> Verdict:
    try:
        call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    except OSError as refused:
        return Verdict(State.ABSENT, f"refused: {refused.strerror}")
    return Verdict(State.ENFORCED)


def _landlock(plan: Plan, abi: int, why: str) -> dict[Layer, Verdict]:
    wanted = [layer for layer in LANDLOCK if layer not in plan.without]
    verdicts = dict.fromkeys(LANDLOCK, Verdict(State.OFF))
    if not wanted:
        return verdicts
    if not abi:
        return verdicts | dict.fromkeys(wanted, Verdict(State.ABSENT, why))
    found = landlock_rules.offered()
    rights = landlock_rules.Rights(*(each * (layer in wanted) for layer, each in zip(LANDLOCK, found, strict=True)))
    try:
        if any(rights):
            landlock_rules.restrict(rights, plan.readable, plan.writable, plan.kept)
    except OSError as refused:
        return verdicts | dict.fromkeys(wanted, Verdict(State.ABSENT, f"refused: {refused.strerror}"))
    whole = (landlock_rules.WHOLE_FILES, landlock_rules.NETWORK, landlock_rules.SCOPES)
    for layer, right, all_of_it in zip(LANDLOCK, rights, whole, strict=True):
        if layer not in wanted:
            continue
        if right & all_of_it == all_of_it:
            verdicts[layer] = Verdict(State.ENFORCED)
        elif right:
            detail = f"Landlock ABI {abi}: truncating takes 3 (Linux 6.2), device ioctls 5 (6.10)"
            verdicts[layer] = Verdict(State.PARTIAL, detail)
        else:
            verdicts[layer] = Verdict(State.ABSENT, f"{_NEEDS.get(layer, 'not there')}; this kernel has {abi}")
    return verdicts


def _prepared(plan: Plan) -> Callable[[], None] | Verdict:
    """What loads the filter, or why there is none."""
    if Layer.SECCOMP in plan.without:
        return Verdict(State.OFF)
    try:
        return seccomp_filter.prepare(plan.calls, without_new_privileges=Layer.NO_NEW_PRIVILEGES not in plan.without)
    except seccomp_filter.SeccompError as refused:
        return Verdict(State.ABSENT, str(refused))


def _seccomp(load: Callable[[], None] | Verdict) -> Verdict:
    if isinstance(load, Verdict):
        return load
    try:
        load()
    except seccomp_filter.SeccompError as refused:
        return Verdict(State.ABSENT, str(refused))
    return Verdict(State.ENFORCED)
