"""What SECURITY.md says that the tracer does not do, as its system calls show it."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tracing import BACKEND, PATIENCE

pytestmark = [pytest.mark.live, pytest.mark.may_skip("strace is not on every machine")]

COMMAND = [sys.executable, "-m", "tracer", "live", "--json", "--backend", BACKEND or "core", "--duration", "500ms"]
CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\) += (-?\d+|\?)")
Watch = Callable[..., list[tuple[str, str]]]


@pytest.fixture(name="watch")
def _watch(tmp_path: Path) -> Watch:
    """Runs the tracer under strace, and gives the calls of some kind that succeeded: name and arguments."""

    def watch(kind: str, *options: str) -> list[tuple[str, str]]:
        calls = tmp_path / "calls"
        strace = ["strace", "-f", "-o", str(calls), "-e", f"trace={kind}", "-s", "300"]
        with (tmp_path / "out").open("wb") as out:
            done = subprocess.run(
                [*strace, *COMMAND, *options], stdout=out, stderr=subprocess.PIPE, check=False, timeout=60 * PATIENCE
            )
        assert done.returncode == 0, done.stderr
        found = [match.groups() for line in calls.read_text().splitlines() if (match := CALL.match(line))]
        assert found, "strace saw nothing"
        return [(name, arguments) for name, arguments, result in found if result == "?" or int(result) >= 0]

    return watch


def test_no_connection(watch: Watch) -> None:
    """Of all calls about sockets only those succeed that try the probes, on two sockets of an empty namespace."""
    calls = watch("%network,unshare")
    names = [name for name, _ in calls]
    assert names[:4] == ["unshare", "socket", "socket", "bind"]
    assert calls[0][1] == "CLONE_NEWNET"
    assert "0.0.0.0" in calls[3][1]
    assert set(names[4:]) == {"listen", "shutdown"}


def test_no_other_program(watch: Watch) -> None:
    """The one program that is executed is the tracer itself."""
    ran = watch("execve,execveat")
    assert len(ran) == 1
    assert "tracer" in ran[0][1]


def test_opens_nothing_else_for_writing(watch: Watch, tmp_path: Path) -> None:
    """Of files, only the output and the recording are opened for writing."""
    output, recording = tmp_path / "output", tmp_path / "recording"
    options = ("--output", str(output), "--record", str(recording))
    opened = watch("open,openat,openat2,creat", *options)
    assert len(opened) > 10
    writing = [arguments for _, arguments in opened if re.search(r"O_WRONLY|O_RDWR|O_CREAT|O_TRUNC", arguments)]
    paths = {path for arguments in writing for path in re.findall(r'"([^"]+)"', arguments)}
    assert paths == {str(output), str(recording)}


def test_mounts_and_pins_nothing(watch: Watch) -> None:
    """Nothing is mounted where others see it, and no BPF object gets a name in a file system."""
    calls = watch("mount,move_mount,umount2,bpf")
    assert any(arguments.startswith("BPF_PROG_LOAD") for _, arguments in calls)
    assert [name for name, arguments in calls if name != "bpf" or arguments.startswith("BPF_OBJ_PIN")] == []
