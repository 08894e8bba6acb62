"""The command that boots a guest."""

from pathlib import Path

import pytest

from scripts.kernel_matrix import qemu
from scripts.kernel_matrix.errors import MatrixError

GUEST = qemu.Guest(
    "amd64",
    Path("/k/vmlinuz"),
    Path("/k/initramfs"),
    (qemu.Drive("userland", Path("/c/a,b")), qemu.Drive("program", Path("/c/p"))),
    1024,
    ("--backend", "core", "--run", "uname%20-a"),
)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")


def value(command: list[str], option: str) -> str:
    """What follows the only such option."""
    assert command.count(option) == 1
    return command[command.index(option) + 1]


def test_command() -> None:
    """It emulates, dies with its runner, never reboots, writes to no disk, and passes on the guest's arguments."""
    command = qemu.command(GUEST, Path("/w/console"))
    assert command[:4] == ["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"]
    assert value(command, "-accel").startswith("tcg")
    assert "-no-reboot" in command
    assert value(command, "-m") == "1024"
    assert value(command, "-serial") == "file:/w/console"
    drives = [part for part in command if part.startswith("if=none")]
    assert [part.rpartition("file=")[2] for part in drives] == ["/c/a,,b", "/c/p"]
    assert all("snapshot=on" in part for part in drives)
    assert value(command, "-chardev").startswith("stdio,id=results")
    told, _, arguments = value(command, "-append").partition(" -- ")
    assert "panic=-1" in told.split()
    assert "oops=panic" in told.split()
    assert arguments == "--backend core --run uname%20-a"


def test_arm() -> None:
    """Another architecture has its own emulator, machine and console."""
    command = qemu.command(GUEST._replace(arch="arm64"), Path("/w/console"))
    assert "qemu-system-aarch64" in command
    assert value(command, "-machine") == "virt"
    assert "console=ttyAMA0" in value(command, "-append").split()


def test_hypervisor() -> None:
    """Under a hypervisor the processor is the host's."""
    command = qemu.command(GUEST, Path("/w/console"), "kvm")
    assert (value(command, "-accel"), value(command, "-cpu")) == ("kvm", "host")


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the emulator the message names the package."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(MatrixError, match="apt-get install qemu-system-x86"):
        qemu.command(GUEST, Path("/w/console"))
