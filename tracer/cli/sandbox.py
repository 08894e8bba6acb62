"""Confine a running command: choose what it keeps, put the layers on, prove them on every thread, and tell of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from tracer.cli.errors import CommandError, Exit
from tracer.cli.mode import Mode
from tracer.confine import attest, identity
from tracer.confine.apply import Applied, confine
from tracer.confine.broker import LAYERS
from tracer.confine.identity import NOBODY, Identity, IdentityError
from tracer.confine.plan import Layer, Plan, State, missing

__all__ = ["Mode", "Sandbox", "choose_user", "confine_broker", "confine_opener", "confine_reader"]

_OFF: Final = "not confined, as --no-sandbox asks: what takes this process over has all its power"
_SUDO: Final = "to run as the user behind sudo"


def choose_user(asked: str | None, tell: Callable[[str], None], *, writes_files: bool) -> Identity | None:
    """Whom to run as: who was asked for, who called sudo if only stdout is written, else nobody else (None).

    Raises CommandError.
    """
    if asked is None:
        if writes_files:
            return None
        if identity.is_unclear(os.environ):
            tell("sandbox: stays root: SUDO_UID and SUDO_GID are not the numbers of a user and a group; give --user")
        return identity.behind_sudo(os.environ)
    try:
        chosen = identity.named(asked)
    except IdentityError as error:
        raise CommandError(str(error), Exit.USAGE) from error
    if chosen.uid == NOBODY and writes_files:
        raise CommandError(
            f"--user {asked!r}: files are not written as nobody, whom other programs run as; name a user of its own",
            Exit.USAGE,
        )
    return chosen


def confine_broker(mode: Mode, plan: Plan, tell: Callable[[str], None]) -> dict[str, Any]:
    """Confine this process, which is a broker, and give what is told of it. Raises CommandError if that is strict."""
    if mode is Mode.OFF:
        return {"enabled": False, "capabilities": sorted(attest.own_state().capabilities)}
    verdicts = confine(plan).verdicts
    problems = missing(verdicts, LAYERS)
    if mode is Mode.STRICT and problems:
        raise CommandError(f"--sandbox-strict: the broker: {'; '.join(problems)}", Exit.SANDBOX)
    for problem in problems:
        tell(f"sandbox of the broker: {problem}")
    return {
        "enabled": True,
        "layers": {layer.value: verdicts[layer].state.value for layer in Layer if layer in LAYERS},
        "capabilities": sorted(attest.own_state().capabilities),
    }


def confine_opener(mode: Mode, plan: Plan) -> dict[str, Any]:
    """Confine this process, which is an opener: what is told of it, and as "problems" a line for each missing layer."""
    if mode is Mode.OFF:
        return {"enabled": False, "capabilities": sorted(attest.own_state().capabilities)}
    verdicts = confine(plan).verdicts
    return {
        "enabled": True,
        "layers": {layer.value: verdicts[layer].state.value for layer in Layer if layer is not Layer.USER},
        "capabilities": sorted(attest.own_state().capabilities),
        "problems": missing(verdicts),
    }


def confine_reader(mode: Mode, plan: Plan, tell: Callable[[str], None]) -> None:
    """Confine this process, which is about to read what may be hostile. Raises CommandError if that is strict."""
    if mode is Mode.OFF:
        tell(_OFF)
        return
    problems = missing(confine(plan).verdicts)
    if mode is Mode.STRICT and problems:
        raise CommandError(f"--sandbox-strict: {'; '.join(problems)}", Exit.SANDBOX)
    for problem in problems:
        tell(f"sandbox: {problem}")


class Sandbox:
    """The confinement of this process; enter() once, when everything is open and there is no other thread."""

    def __init__(self, mode: Mode, plan: Plan, *, asked_for_user: bool = False) -> None:
        """``asked_for_user``: without the plan's identity there is no start."""
        self._mode = mode
        self._plan = plan
        self._asked_for_user = asked_for_user
        self._status = -1
        self._states: list[attest.OwnState] = []

    def enter(self, tell: Callable[[str], None], start: Callable[[Callable[[], bool]], bool]) -> dict[str, Any]:
        """Confine, and give the record of it. ``tell`` takes warnings.

        ``start`` starts the threads that are needed; each calls what it is given before anything else, and ends when
        the answer is False. Raises CommandError: with --sandbox-strict when anything is missing (nothing was started),
        and when --user can't be followed.
        """
        if self._mode is Mode.OFF:
            tell(_OFF)
            start(lambda: True)
            state = attest.own_state()
            return {
                "enabled": False,
                "strict": False,
                "uid": state.uids[1],
                "capabilities": sorted(state.capabilities),
            }
        at = attest.targets(identity.home(os.environ.get("SUDO_UID") or str(os.getuid())))
        self._open_status()
        try:
            return self._enter(at, tell, start)
        finally:
            for fd in (at.namespace, self._status):
                if fd >= 0:
                    os.close(fd)

    def _enter(
        self, at: attest.Targets, tell: Callable[[str], None], start: Callable[[Callable[[], bool]], bool]
    ) -> dict[str, Any]:
        open_files = attest.descriptors()
        applied = confine(self._plan)
        user = applied.verdicts[Layer.USER]
        if self._asked_for_user and user.state is not State.ENFORCED:
            raise CommandError(f"--user: {user.detail}; run as root, or leave it out", Exit.PRIVILEGE)
        answers = attest.tries(at)
        lacking = missing(applied.verdicts)
        possible = [name for name, answer in answers.items() if answer == attest.POSSIBLE]
        problems = lacking + [f"still possible: {', '.join(possible)}"] * bool(possible)
        if self._mode is Mode.STRICT and problems:
            raise CommandError(f"--sandbox-strict: {'; '.join(problems)}", Exit.SANDBOX)
        if user.state is State.ABSENT:
            tell(f"sandbox: {_SUDO}: {user.detail}")
        for problem in problems:
            tell(f"sandbox: {problem}")
        self._is_proven()
        if not start(self._is_proven) and self._mode is Mode.STRICT:
            raise CommandError("--sandbox-strict: a thread is not confined as the others are", Exit.SANDBOX)
        return self._record(applied, answers, open_files, strict=not problems)

    def _open_status(self) -> None:
        try:
            self._status = os.open("/proc/self/status", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._status = -1  # no /proc: how many threads there are can't be told

    def _is_proven(self) -> bool:
        """Look at the calling thread; whether it is confined as the first one is, or need not be."""
        self._states.append(attest.own_state())
        return self._mode is not Mode.STRICT or self._states[-1] == self._states[0]

    def _record(
        self, applied: Applied, answers: dict[str, str], open_files: dict[str, int], *, strict: bool
    ) -> dict[str, Any]:
        first = self._states[0]
        alike = sum(state == first for state in self._states)
        verdicts = applied.verdicts
        reasons = {layer.value: verdicts[layer].detail for layer in Layer if verdicts[layer].detail}
        found: dict[str, Any] = {
            "enabled": True,
            "strict": strict and alike == len(self._states),
            "layers": {layer.value: verdicts[layer].state.value for layer in Layer},
            "landlock_abi": applied.landlock_abi,
            "uid": first.uids[1],
            "capabilities": sorted(first.capabilities),
            "threads": attest.threads(self._status) if self._status >= 0 else 0,
            "threads_confined": alike,
            "descriptors": open_files,
            "tries": answers,
        }
        return found | ({"reasons": reasons} if reasons else {})
