"""Landlock: the rights that are taken away, the few files that stay readable, and the pitfalls of the package."""

import ctypes
import errno
import os
import socket
from pathlib import Path

import pytest

from tests.confine.forks import in_fork
from tracer.confine import landlock_rules
from tracer.confine.landlock_rules import Rights

ABI = landlock_rules.abi()
pytestmark = [
    pytest.mark.live,
    pytest.mark.may_skip("Linux 5.10 has no Landlock"),
    pytest.mark.skipif(not ABI, reason="this kernel has no Landlock"),
]


def restricted(rights: Rights, *readable: Path) -> None:
    """Restrict this process, as unprivileged ones have to."""
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    landlock_rules.restrict(rights, readable)


def test_all_rights_of_this_kernel_are_offered() -> None:
    """As many as its version has: those of ABI 1, and what later ones brought."""
    found = landlock_rules.offered()
    assert found.files & landlock_rules.FILES == landlock_rules.FILES
    assert bool(found.files & 1 << 13) is (ABI >= 2)
    assert bool(found.files & 1 << 14) is (ABI >= 3)
    assert bool(found.files & 1 << 15) is (ABI >= 5)
    assert found.network & 0b11 == (0b11 if ABI >= 4 else 0)
    assert found.scopes & 0b11 == (0b11 if ABI >= 6 else 0)


def test_an_errno_from_before_is_no_failure() -> None:
    """The package takes a failure that ctypes remembers for one of its own; that is seen to."""
    ctypes.set_errno(errno.EIO)
    assert landlock_rules.abi() == ABI
    assert ctypes.get_errno() == 0


def test_what_is_listed_can_be_read(tmp_path: Path) -> None:
    """A file and what is in a directory that are listed can be read, not written; their neighbours can't be read."""
    file, directory, other = tmp_path / "file", tmp_path / "directory", tmp_path / "other"
    directory.mkdir()
    inside = directory / "inside"
    for path in (file, inside, other):
        path.write_text("x")

    def read() -> list[str]:
        restricted(landlock_rules.offered(), file, directory, tmp_path / "absent")
        found = []
        for path, flags in ((file, os.O_RDONLY), (inside, os.O_RDONLY), (file, os.O_WRONLY), (other, os.O_RDONLY)):
            try:
                os.close(os.open(path, flags))
                found.append("opened")
            except PermissionError:
                found.append("refused")
        return [*found, *os.listdir(directory)]  # noqa: PTH208  # what is tested

    assert in_fork(read) == ["opened", "opened", "refused", "refused", "inside"]


def test_only_the_network() -> None:
    """Where only the rights on the network are taken away, files stay as they are."""
    if ABI < 4:
        pytest.skip("this kernel has no rules on the network (Landlock ABI 4)")

    def bind() -> str:
        restricted(Rights(0, landlock_rules.NETWORK, 0))
        Path("/etc/passwd").read_bytes()
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
        return "bound"

    with pytest.raises(OSError, match="Permission denied") as refused:
        in_fork(bind)
    assert refused.value.errno == errno.EACCES
