"""The confinement of the process of the figures: it replaces files in one directory, and nothing else is left."""

import functools
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.confine.forks import in_fork
from tracer.confine import attest, capabilities
from tracer.confine.apply import confine
from tracer.confine.expected import expected
from tracer.confine.landlock_rules import abi
from tracer.confine.plan import Layer, State
from tracer.confine.stats_file import stats_plan

pytestmark = pytest.mark.live

ABI = abi()


def inside(place: Path, function: Callable[[], object]) -> object:
    """What a function gives in a process that is confined as that of a stats file in that directory."""

    def ask() -> object:
        here, there = socket.socketpair()
        confine(stats_plan(place, here.fileno()))
        there.close()
        return function()

    return in_fork(ask)


def test_layers(tmp_path: Path) -> None:
    """All layers are on that this kernel has, but that it stays who it is."""
    told = in_fork(lambda: {layer: each.state for layer, each in confine(stats_plan(tmp_path, 0)).verdicts.items()})
    assert told == expected(ABI) | {Layer.USER: State.OFF}


def test_what_is_forbidden(tmp_path: Path) -> None:
    """Everything that a worker tries in vain is refused to it as well; reading, where there is Landlock."""

    def ask() -> dict[str, str]:
        at = attest.targets("/root")
        confine(stats_plan(tmp_path, 0))
        return attest.tries(at)

    told = in_fork(ask)
    possible = {name for name, answer in told.items() if answer == attest.POSSIBLE}
    assert possible == (set() if ABI else {"read_shadow", "read_home", "write_outside"})
    assert set(told.values()) <= {"EPERM", "EACCES", attest.POSSIBLE}


def test_capabilities(tmp_path: Path) -> None:
    """One is left, to write in what is another user's, also in the bounding set."""
    assert inside(tmp_path, lambda: capabilities.read().all) == {"CAP_DAC_OVERRIDE"}


def test_other_places(tmp_path: Path) -> None:
    """Files can be made, renamed and removed in the one directory, and not elsewhere; no link and no directory."""
    own, other = tmp_path / "own", tmp_path / "other"
    for place in (own, other):
        place.mkdir()
        (place / "there").write_text("as it was")
    fds = {place: os.open(place, os.O_PATH) for place in (own, other)}

    def attempt() -> list[str]:
        done = []
        for place, at in fds.items():
            attempts: dict[str, Callable[[], object]] = {
                "make": functools.partial(os.open, "made", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=at),
                "rename": functools.partial(os.rename, "made", "there", src_dir_fd=at, dst_dir_fd=at),
                "remove": functools.partial(os.unlink, "there", dir_fd=at),
                "link": functools.partial(os.symlink, "there", "linked", dir_fd=at),
                "directory": functools.partial(os.mkdir, "directory", dir_fd=at),
            }
            for name, act in attempts.items():
                with suppress(PermissionError, FileNotFoundError):
                    act()
                    done.append(f"{place.name} {name}")
        return done

    wanted = [f"own {name}" for name in ("make", "rename", "remove")]
    if not ABI:
        wanted += [f"other {name}" for name in ("make", "rename", "remove")]
    try:
        assert inside(own, attempt) == wanted
    finally:
        for fd in fds.values():
            os.close(fd)
