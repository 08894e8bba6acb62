"""The opener's own confinement: it opens files in one directory, and nothing else is left."""

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
from tracer.confine.opener import keeper_plan, opener_plan
from tracer.confine.plan import Layer, State
from tracer.fallback.opener import Opener
from tracer.sinks.output import open_again

pytestmark = pytest.mark.live

ABI = abi()


def inside(place: Path, function: Callable[[], object]) -> object:
    """What a function gives in a process that is confined as an opener of that directory."""

    def ask() -> object:
        here, there = socket.socketpair()
        confine(opener_plan(place, here.fileno()))
        there.close()
        return function()

    return in_fork(ask)


def test_layers(tmp_path: Path) -> None:
    """All layers are on that this kernel has, but that it stays who it is."""
    told = in_fork(lambda: {layer: each.state for layer, each in confine(opener_plan(tmp_path, 0)).verdicts.items()})
    assert told == expected(ABI) | {Layer.USER: State.OFF}


def test_what_is_forbidden(tmp_path: Path) -> None:
    """Everything that a worker tries in vain is refused to it as well; reading, where there is Landlock."""

    def ask() -> dict[str, str]:
        at = attest.targets("/root")
        confine(opener_plan(tmp_path, 0))
        return attest.tries(at)

    told = in_fork(ask)
    possible = {name for name, answer in told.items() if answer == attest.POSSIBLE}
    assert possible == (set() if ABI else {"read_home", "write_outside"})
    assert set(told.values()) <= {"EPERM", "EACCES", attest.POSSIBLE}


def test_capabilities(tmp_path: Path) -> None:
    """One is left, to open what is another user's, also in the bounding set."""
    assert inside(tmp_path, lambda: capabilities.read().all) == {"CAP_DAC_OVERRIDE"}


def test_other_places(tmp_path: Path) -> None:
    """Files can be made, read and written in the one directory; not elsewhere, and nothing can be removed anywhere."""
    log, other = tmp_path / "log", tmp_path / "other"
    for place in (log, other):
        place.mkdir()
        (place / "there").write_text("as it was")

    def attempt() -> list[str]:
        done = []
        for place in (log, other):
            there = place / "there"
            attempts: dict[str, Callable[[], object]] = {
                "make": functools.partial(os.open, place / "made", os.O_WRONLY | os.O_CREAT, 0o600),
                "write": functools.partial(os.open, there, os.O_WRONLY | os.O_APPEND),
                "read": functools.partial(os.open, there, os.O_RDONLY),
                "list": functools.partial(os.open, place, os.O_RDONLY | os.O_DIRECTORY),
                "remove": there.unlink,
                "rename": functools.partial(there.rename, place / "elsewhere"),
                "link": functools.partial((place / "linked").hardlink_to, there),
                "directory": (place / "directory").mkdir,
                "mode": functools.partial(there.chmod, 0o600),
            }
            for name, act in attempts.items():
                with suppress(PermissionError):
                    act()
                    done.append(f"{place.name} {name}")
        return done

    wanted = ["log make", "log write", "log read"]
    if not ABI:
        wanted += ["log list", "other make", "other write", "other read", "other list"]
    assert inside(log, attempt) == wanted


def test_keeper_of_a_directory(tmp_path: Path) -> None:
    """Who keeps a directory can rename, list, cut and remove there, and read the settings; elsewhere nothing."""
    log, other, settings = tmp_path / "log", tmp_path / "other", tmp_path / "etc"
    for place in (log, other, settings):
        place.mkdir()
        (place / "there").write_text("as it was")

    def attempt() -> list[str]:
        done = []
        for place in (log, other, settings):
            there = place / "there"
            attempts: dict[str, Callable[[], object]] = {
                "read": functools.partial(os.open, there, os.O_RDONLY),
                "list": functools.partial(os.open, place, os.O_RDONLY | os.O_DIRECTORY),
                "cut": functools.partial(_cut, there),
                "make": functools.partial(os.open, place / "made", os.O_WRONLY | os.O_CREAT, 0o600),
                "rename": functools.partial(os.rename, there, place / "renamed"),
                "remove": functools.partial(os.unlink, place / "renamed"),
                "directory": (place / "directory").mkdir,
                "link": functools.partial((place / "linked").hardlink_to, there),
            }
            for name, act in attempts.items():
                with suppress(PermissionError, FileNotFoundError):
                    act()
                    done.append(f"{place.name} {name}")
        return done

    def ask() -> object:
        confine(keeper_plan(log, reads=[settings / "tracer.toml"]))
        return attempt()

    wanted = [f"log {each}" for each in ("read", "list", "cut", "make", "rename", "remove")]
    wanted += ["etc read", "etc list"] if ABI else []
    if ABI:
        assert in_fork(ask) == wanted
        assert (other / "there").read_text() == (settings / "there").read_text() == "as it was"


def _cut(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.ftruncate(fd, 1)


def test_its_job_works(tmp_path: Path) -> None:
    """It opens the output again and again, one that was renamed, and one that another user has made."""
    path = tmp_path / "events"
    path.write_text("one\n")
    directory = os.open(tmp_path, os.O_PATH)
    asking = Opener.start(
        lambda current: open_again(path, directory, current),
        lambda fd: {"layers": [layer.value for layer in confine(opener_plan(tmp_path, fd)).verdicts]},
        [directory],
    )
    try:
        assert asking.confined()["layers"]
        for number in range(3):
            asking.ask()
            fd = asking.answer(30)
            assert fd is not None
            os.write(fd, b"two\n")
            os.close(fd)
            path.rename(tmp_path / f"events.{number}")
            if number == 1:
                path.write_text("")
                path.chmod(0o600)
                os.chown(path, 1, 1)
    finally:
        asking.close()
        os.close(directory)
        os.waitpid(asking.pid, 0)
    assert (tmp_path / "events.0").read_text() == "one\ntwo\n"
    assert [(tmp_path / f"events.{number}").read_text() for number in (1, 2)] == ["two\n"] * 2
