"""The command that boots a guest under QEMU."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from scripts.kernel_matrix.errors import MatrixError

MEMORY_MIB = {"core": 1024, "bcc": 3072}  # LLVM takes 200 MiB at its peak, the headers' pages and the tmpfs the rest
CPUS = 2  # order across CPUs is one of the traps


class Machine(NamedTuple):
    """How QEMU emulates an architecture: its program and package, machine, processor, console, kernel parameters."""

    program: str
    package: str
    machine: str
    cpu: str
    console: str
    told: str


MACHINES = {
    "amd64": Machine(
        "qemu-system-x86_64",
        "qemu-system-x86",
        "q35",
        # A guest of 6.12 in five ended in a double fault right behind the slab allocator's cmpxchg16b, with part of a
        # pointer in the flags (QEMU 7.2). Without that instruction the kernel takes another way: none of nine did.
        "max,-cx16",
        "ttyS0,115200",
        # The emulated counter is not the same on all processors, and the kernel takes seconds to find that out.
        "tsc=unstable",
    ),
    # The architected algorithm of pointer authentication is slow to emulate, and kernels use it in every function.
    "arm64": Machine("qemu-system-aarch64", "qemu-system-arm", "virt", "max,pauth-impdef=on", "ttyAMA0", ""),
}
# A panic reboots at once, which -no-reboot makes the end of QEMU; an oops is a panic. Mitigations protect nothing here.
_TOLD = "panic=-1 oops=panic quiet loglevel=4 mitigations=off"


class Drive(NamedTuple):
    """One of the guest's disks; what it writes goes nowhere."""

    name: str
    path: Path


class Guest(NamedTuple):
    """What to boot: architecture, kernel image, initramfs and disks, the memory, and the guest script's arguments."""

    arch: str
    image: Path
    initramfs: Path
    drives: tuple[Drive, ...]
    memory_mib: int
    arguments: tuple[str, ...]


def command(guest: Guest, console: Path, accel: str = "tcg") -> list[str]:
    """The command for a guest: results on its standard output, the console in a file.

    The results go through a virtio port, which the guest cannot outrun: what it wrote before it died has arrived. QEMU
    closes that port when its standard input ends, so the caller keeps that open. The kernel kills QEMU when the caller
    dies, by whatever.

    Raises MatrixError when QEMU is not installed.
    """
    machine = MACHINES[guest.arch]
    if shutil.which(machine.program) is None:
        raise MatrixError(f"{machine.program} is missing: apt-get install {machine.package}")
    # Both processors take turns in one thread of the host: two guests at once then fit a machine of two processors, and
    # no processor of a guest waits in vain for a lock of another that the host does not run.
    how = f"{accel},thread=single" if accel == "tcg" else accel
    cpu = machine.cpu if accel == "tcg" else "host"
    told = [f"console={machine.console}", _TOLD, machine.told, "--", *guest.arguments]
    line = ["setpriv", "--pdeathsig", "KILL", machine.program, "-nodefaults", "-no-user-config", "-no-reboot"]
    line += ["-accel", how, "-machine", machine.machine, "-cpu", cpu, "-smp", str(CPUS), "-m", str(guest.memory_mib)]
    line += ["-display", "none", "-monitor", "none", "-serial", f"file:{console}"]
    line += ["-kernel", str(guest.image), "-initrd", str(guest.initramfs), "-append", " ".join(filter(None, told))]
    line += ["-device", "virtio-rng-pci", "-device", "virtio-serial-pci", "-chardev", "stdio,id=results,signal=off"]
    line += ["-device", "virtserialport,chardev=results,name=results"]
    for name, path in guest.drives:
        line += ["-drive", f"if=none,id={name},format=raw,snapshot=on,cache=unsafe,file={_escaped(path)}"]
        line += ["-device", f"virtio-blk-pci,drive={name}"]
    return line


def _escaped(path: Path) -> str:
    return os.fspath(path).replace(",", ",,")
