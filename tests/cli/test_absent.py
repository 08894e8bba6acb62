"""A filter for what is not there now is told; what can't be told is not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tracer.cli.absent import absent
from tracer.pipeline.view import Filters

NOBODY = 1 << 22  # one more than the highest pid of a 64-bit kernel
NO_NAMESPACE = 17


def told(pids: frozenset[int] = frozenset(), netns: frozenset[int] = frozenset()) -> list[str]:
    """What is said of filters."""
    return list(absent(Filters(pids=pids, netns=netns)))


@pytest.mark.live
def test_process() -> None:
    """Of a process that is there nothing is said, of others one line with each."""
    assert told(pids=frozenset({os.getpid(), 1})) == []
    with subprocess.Popen(["/bin/true"]) as child:
        child.wait(60)
    line = f"--pid: there is no process {child.pid}, {NOBODY} now; what gets that number later will be shown"
    assert told(pids=frozenset({os.getpid(), NOBODY, child.pid})) == [line]


@pytest.mark.live
def test_namespace() -> None:
    """A network namespace is there if a process is in it."""
    own = Path("/proc/self/ns/net").stat().st_ino
    assert told(netns=frozenset({own})) == []
    with subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"here\n")
        child.stdin.flush()
        child.stdout.readline()
        other = Path(f"/proc/{child.pid}/ns/net").stat().st_ino
        assert told(netns=frozenset({own, other})) == []
        child.communicate(timeout=60)
    line = f"--netns: no process is in network namespace {NO_NAMESPACE} now; what comes there will be shown"
    assert told(netns=frozenset({own, NO_NAMESPACE})) == [line]


def test_nothing_is_said_of_what_cannot_be_seen(tmp_path: Path) -> None:
    """Without a /proc, and in another pid namespace, nobody knows, so nothing is said."""
    wanted = Filters(pids=frozenset({NOBODY}), netns=frozenset({NO_NAMESPACE}))
    assert list(absent(wanted, tmp_path / "none")) == []
    (tmp_path / "self" / "ns").mkdir(parents=True)
    (tmp_path / "self" / "ns" / "pid").symlink_to("pid:[4026532000]")
    assert not any(line.startswith("--pid") for line in absent(wanted, tmp_path))


@pytest.mark.live
def test_command_says_it_and_goes_on() -> None:
    """The line comes on stderr, once, and the tracer watches on."""
    command = [sys.executable, "-m", "tracer", "live", "--json", "--pid", str(NOBODY), "--duration", "300ms"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"tracer: --pid: there is no process {NOBODY} now") == 1
