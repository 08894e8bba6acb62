"""Whom the tracer becomes: users by name and number, who called sudo, and every id of the process."""

import os
from pathlib import Path

import pytest

from tests.confine.forks import in_fork
from tracer.confine import identity
from tracer.confine.identity import Identity, IdentityError

USERS = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001:Ann:/home/ann:/bin/sh\nbad:x:x:y\n7:x:8:9::/:/bin/sh\n"


@pytest.fixture(name="users")
def _users(tmp_path: Path) -> Path:
    path = tmp_path / "passwd"
    path.write_text(USERS)
    return path


@pytest.mark.parametrize(("text", "found"), [("ann", Identity(1000, 1001)), ("1000", Identity(1000, 1001))])
def test_named(users: Path, text: str, found: Identity) -> None:
    """A user is found by name and by number, with its group."""
    assert identity.named(text, users) == found


@pytest.mark.parametrize("text", ["", "nosuch", "4242", "bad", "-1"])
def test_unknown_user(users: Path, text: str) -> None:
    """Any other is a mistake that names the option and the file."""
    with pytest.raises(IdentityError, match=r"--user .*there is no such user.*/passwd"):
        identity.named(text, users)


def test_home(users: Path) -> None:
    """The home directory is that of the user file; without one it is the root."""
    assert identity.home("1000", users) == "/home/ann"
    assert identity.home("4242", users) == "/"
    assert identity.home("1000", users / "absent") == "/"


@pytest.mark.live
@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"SUDO_UID": "1000", "SUDO_GID": "1001"}, Identity(1000, 1001)),
        ({"SUDO_UID": "0", "SUDO_GID": "0"}, None),
        ({"SUDO_UID": "1000"}, None),
        ({"SUDO_UID": "-1", "SUDO_GID": "5"}, None),
        ({"SUDO_UID": "4294967295", "SUDO_GID": "5"}, None),
        ({"SUDO_UID": "1000\n", "SUDO_GID": "5"}, None),
        ({}, None),
    ],
)
def test_behind_sudo(environment: dict[str, str], found: Identity | None) -> None:
    """Root is whoever called sudo, if that was somebody else and both ids are ids."""
    assert identity.behind_sudo(environment) == found
    root = environment in ({}, {"SUDO_UID": "0", "SUDO_GID": "0"})
    assert identity.is_unclear(environment) is (found is None and not root)


@pytest.mark.live
def test_become_is_for_ever() -> None:
    """All ids change, there is no other group, and there is no way back."""

    def become() -> tuple[tuple[int, ...], tuple[int, ...], list[int], bool]:
        identity.become(Identity(1234, 2345))
        back = True
        try:
            os.setuid(0)
        except PermissionError:
            back = False
        return os.getresuid(), os.getresgid(), os.getgroups(), back

    assert in_fork(become) == ((1234,) * 3, (2345,) * 3, [], False)
