"""Which process is meant: by name, by the first of a family, by a pid inside another pid namespace."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.investigate.known import Known
from tests.tracing import PATIENCE
from tracer.investigate import target


def test_names_that_fit(tmp_path: Path) -> None:
    """A name fits by comm, by the file that runs, and by the first argument; others' names do not."""
    program = tmp_path / "a-name-that-is-longer"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen([program, "60"]) as first, subprocess.Popen(["called-so", "60"], executable=program) as other:
        try:
            path = os.fsencode(program)
            for name in (b"a-name-that-is-longer", path, b"a-name-that-is-"):
                assert {each.pid for each in target.by_name(name)} == {first.pid, other.pid}, name
            assert [each.pid for each in target.by_name(b"called-so")] == [other.pid]
            assert [each.pid for each in target.by_name(path, without=[first.pid])] == [other.pid]
            assert target.by_name(b"a-name") == []
            assert target.by_name(b"") == []
        finally:
            first.kill()
            other.kill()


FAMILY = """
for _ in range(3):
    if os.fork() == 0:
        time.sleep(60)
time.sleep(0.3)
ready()
"""


def test_the_eldest_of_a_family() -> None:
    """Of processes of one name that descend from one of them that one is meant; of two families neither."""
    with Known(FAMILY, args=["family"]) as one, Known(FAMILY, args=["family"]) as other:
        found = target.by_name(os.fsencode(Path(psutil.Process(one.pid).exe()).resolve()))
        of_one = [each for each in found if one.pid in (each.pid, each.parent)]
        assert len(of_one) == 4
        first = target.eldest(of_one)
        assert first is not None
        assert first.pid == one.pid
        both = [each for each in found if {each.pid, each.parent} & {one.pid, other.pid}]
        assert len(both) == 8
        assert target.eldest(both) is None
        assert target.eldest([]) is None


def child_called(pid: int, name: str) -> int:
    """The child of a process, once it runs a program of this name."""
    deadline = time.monotonic() + 20 * PATIENCE
    while time.monotonic() < deadline:
        for child in psutil.Process(pid).children():
            if child.name() == name:
                return child.pid
        time.sleep(0.02)
    raise AssertionError(f"no {name}")


@pytest.mark.live
def test_pid_of_another_namespace() -> None:
    """A pid inside a pid namespace is found there, and in no other."""
    command = ["unshare", "--pid", "--fork", "sleep", "60"]
    with subprocess.Popen(command) as outer:
        try:
            inside = child_called(outer.pid, "sleep")
            namespace = Path(f"/proc/{inside}/ns/pid").stat().st_ino
            assert target.inside(1, namespace) == inside
            assert target.inside(4711, namespace) is None
            assert target.inside(os.getpid(), Path("/proc/self/ns/pid").stat().st_ino) == os.getpid()
        finally:
            for child in psutil.Process(outer.pid).children():
                child.kill()
