"""Everything of one process: as psutil, the kernel and the process itself have it, and whatever it does meanwhile."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.investigate.known import Known, gathered, session
from tests.tracing import PATIENCE
from tracer.cli.clock import offset_now
from tracer.investigate import bundle, files, resources
from tracer.investigate.pinned import NotAProcessError, Pinned
from tracer.model import NS_PER_TICK, entity_id

NOBODY = 65534
HIDDEN = ["lineage.executable"]  # of process 1, on a machine that hides it from root too


def test_identity_is_as_psutil_has_it(tmp_path: Path) -> None:
    """Name, executable, arguments, user, parent, directory, threads and start are those that psutil reads."""
    with Known("ready()", args=["one", "two words"], cwd=tmp_path) as known:
        told = gathered(known.pid)
        seen = psutil.Process(known.pid)
        process = told["process"]
        assert process["pid"] == told["target"]["pid"] == known.pid
        assert process["name"] == seen.name()
        assert process["executable"] == told["executable"]["path"] == seen.exe()
        assert process["args"] == seen.cmdline()
        assert process["user"]["id"] == str(seen.uids().real)
        assert process["parent"]["pid"] == seen.ppid() == os.getpid()
        assert process["working_directory"] == told["working_directory"] == str(tmp_path)
        assert told["threads"] == seen.num_threads()
        assert told["state"] == seen.status() == "sleeping"
        assert told.get("login", {}).get("terminal") == seen.terminal()
        start = int(Path(f"/proc/{known.pid}/stat").read_text().rpartition(")")[2].split()[19]) * NS_PER_TICK
        boot = uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
        assert process["entity_id"] == told["target"]["entity_id"] == entity_id(boot, known.pid, start)
        assert "ended" not in told
        assert "mixed" not in told


def test_lineage_goes_up_to_the_first() -> None:
    """The lineage is psutil's list of parents, the nearest first, up to process 1."""
    with Known("ready()") as known:
        told = gathered(known.pid)
        parents = psutil.Process(known.pid).parents()
        assert [each["pid"] for each in told["lineage"]] == [each.pid for each in parents]
        assert told["lineage"][-1]["pid"] == 1
        assert told["lineage"][0]["entity_id"] == told["process"]["parent"]["entity_id"]


CHILDREN = """
def family(depth):
    for name in range(2 if depth else 0):
        if os.fork() == 0:
            family(depth - 1)
            time.sleep(60)
family(3)
time.sleep(0.5)
ready()
"""


def test_descendants_are_a_tree() -> None:
    """Of children three deep each is below its own parent, and there are as many as psutil finds."""
    with Known(CHILDREN) as known:
        told = gathered(known.pid)
        found: dict[int, int] = {}

        def walk(tree: list[dict[str, Any]], above: int) -> None:
            for each in tree:
                found[each["pid"]] = above
                walk(each.get("children", []), each["pid"])

        walk(told["children"], known.pid)
        seen = psutil.Process(known.pid).children(recursive=True)
        assert len(seen) == 14
        assert found == {each.pid: each.ppid() for each in seen}
        assert told["children"][0]["args"] == psutil.Process(known.pid).cmdline()


def test_memory_and_limits_are_exact() -> None:
    """Of a process that is stopped, memory is what psutil reads, and each limit is what prlimit(2) says."""
    with Known("import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (77, 99))\nready()") as known:
        os.kill(known.pid, signal.SIGSTOP)
        await_status(known.pid, psutil.STATUS_STOPPED)
        told = gathered(known.pid)
        seen = psutil.Process(known.pid).memory_full_info()
        assert (told["memory"]["rss"], told["memory"]["swap"]) == (seen.rss, seen.swap)
        # Its share of what others map too changes with them.
        assert told["memory"]["pss"] == pytest.approx(seen.pss, rel=0.1)
        assert told["state"] == "stopped"
        assert told["limits"]["nofile"] == [77, 99]
        names = [name for name in dir(resource) if name.startswith("RLIMIT_") and name != "RLIMIT_OFILE"]
        limits = {name[7:].lower(): resource.prlimit(known.pid, getattr(resource, name)) for name in names}
        assert {name: tuple(told["limits"][name]) for name in limits} == limits


def test_environment_without_secrets() -> None:
    """Names by themselves; with values those too, but of a secret only that there is one."""
    given = {"HOME": "/nowhere", "API_TOKEN": "hunter2hunter2", "EMPTY": "", "PATH": os.environ["PATH"]}
    with Known("ready()", env=given) as known:
        assert "values" not in gathered(known.pid)["environment"]
        told = gathered(known.pid, values=True)["environment"]
        assert sorted(told["names"]) == sorted(psutil.Process(known.pid).environ()) == sorted(given)
        assert told["values"] == given | {"API_TOKEN": "[redacted]"}
        assert "hunter2" not in json.dumps(told)


TITLE = """
import ctypes
start = int(open("/proc/self/stat").read().rpartition(")")[2].split()[45])
end = int(open("/proc/self/stat").read().rpartition(")")[2].split()[48])
title = b"a title" + bytes(end - start - 7 - len("WORD=hunter2\\0LAST=kept") - 1)
ctypes.memmove(start, title, len(title))
ready()
"""


def test_environment_under_a_title() -> None:
    """Of a program that has written its title over arguments and variables only what is left of these is told.

    The name of the first that is left may be the end of another, of a secret: its value is not told.
    """
    given = {"FIRST": "x" * 50, "PATH": os.environ["PATH"], "MY_PASSWORD": "hunter2", "LAST": "kept"}
    with Known(TITLE, env=given) as known:
        told = gathered(known.pid, values=True)
        raw = Path(f"/proc/{known.pid}/environ").read_bytes().removesuffix(b"\0").split(b"\0")
        assert told["environment"]["values"] == {"WORD": "[redacted]", "LAST": "kept"}
        assert told["environment"]["names"] == ["WORD", "LAST"]
        assert told["environment"]["overwritten"] == len(raw) - 2 > 50


def test_mappings_that_are_odd(tmp_path: Path) -> None:
    """Memory that is writable and executable, and a mapped file that is deleted, are told; nothing else is."""
    gone = tmp_path / "gone"
    gone.write_bytes(bytes(8192))
    program = """
import mmap
with open(sys.argv[1], "r+b") as file:
    kept = mmap.mmap(file.fileno(), 8192)
os.unlink(sys.argv[1])
both = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)
ready()
"""
    with Known(program, args=[str(gone)]) as known:
        told = gathered(known.pid)["mappings"]
        assert [(each["reason"], each.get("path")) for each in sorted(told, key=lambda each: each["reason"])] == [
            ("deleted", str(gone)),
            ("writable and executable", None),
        ]
        for each in told:
            assert any(
                line.startswith(each["range"]) for line in Path(f"/proc/{known.pid}/maps").read_text().split("\n")
            )
    with Known("ready()") as plain:
        assert gathered(plain.pid)["mappings"] == []


def during(monkeypatch: pytest.MonkeyPatch, module: Any, name: str, act: Callable[[], None]) -> None:
    """Do something each time that the look comes to this part."""
    original = getattr(module, name)

    def look(*args: Any, **options: Any) -> Any:
        act()
        return original(*args, **options)

    monkeypatch.setattr(module, name, look)


def test_death_during_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is reaped in the middle: what was read is told, with the word that it has ended; no error."""
    with Known("ready()") as known:
        during(monkeypatch, files, "look", known.go_on)
        told = gathered(known.pid)
        assert told["ended"] is True
        assert told["process"]["pid"] == known.pid
        assert "limits" in told
        assert "files" not in told
        assert told.get("denied", HIDDEN) == HIDDEN


@pytest.mark.parametrize("part", ["working_directory", "environment", "cgroup", "memory", "limits"])
def test_death_without_burial(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """One that is killed in the middle and not collected: wherever that is, it has ended, and nothing was refused."""
    with Known("ready()") as known:

        def kill() -> None:
            os.kill(known.pid, signal.SIGKILL)
            os.waitid(os.P_PID, known.pid, os.WEXITED | os.WNOWAIT)

        during(monkeypatch, resources, part, kill)
        told = gathered(known.pid)
        assert told["ended"] is True
        assert told["process"]["pid"] == known.pid
        assert "files" not in told or not told["files"]["open"]
        assert told.get("denied", HIDDEN) == HIDDEN


def test_exec_during_the_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that goes on to another program in the middle is looked at again: all is of the second program."""
    with Known("ready(); os.execv('/bin/sleep', ['sleep', '60'])") as known:
        acted: list[bool] = []

        def once() -> None:
            if not acted:
                acted.append(True)
                known.go_on(wait=False)
                await_program(known.pid, "sleep")

        during(monkeypatch, resources, "limits", once)
        told = gathered(known.pid)
        assert told["process"]["args"] == ["sleep", "60"]
        assert told["executable"]["path"] == str(Path("/bin/sleep").resolve())
        assert "mixed" not in told
        assert "ended" not in told


AGAIN = """
import os, sys
print("{}", flush=True)
sys.stdin.readline()
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1], sys.argv[1]])
"""


def test_exec_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that goes from program to program as long as it is looked at is told as mixed."""
    with Known("exec(sys.argv[1])", args=[AGAIN]) as known:

        def image() -> list[str]:
            return Path(f"/proc/{known.pid}/stat").read_text().rpartition(")")[2].split()[23:26]

        def each_time() -> None:
            before = image()
            known.go_on(wait=False)
            deadline = time.monotonic() + 20 * PATIENCE
            while (now := image()) == before or "0" in now:
                assert time.monotonic() < deadline
                time.sleep(0.02)

        during(monkeypatch, resources, "limits", each_time)
        assert gathered(known.pid)["mixed"] is True


def await_status(pid: int, status: str) -> None:
    """Wait until a process is in this state."""
    deadline = time.monotonic() + 20 * PATIENCE
    while psutil.Process(pid).status() != status:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def await_program(pid: int, name: str) -> None:
    """Wait until a process runs a program of this name."""
    deadline = time.monotonic() + 20 * PATIENCE
    while psutil.Process(pid).name() != name:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_zombie() -> None:
    """Of one that has ended and was not collected the name, the parent and the state are told, and that is no error."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        told = gathered(ended.pid)
        assert told["state"] == "zombie"
        assert told["process"]["pid"] == ended.pid
        assert told["process"]["name"] == psutil.Process(ended.pid).name()
        assert told["lineage"][0]["pid"] == os.getpid()
        assert not {"executable", "files", "mappings", "memory"} & told.keys()
        assert told.get("denied", HIDDEN) == HIDDEN


def test_kernel_thread() -> None:
    """A thread of the kernel has no program and no files, which is not taken for a refusal."""
    told = gathered(2)
    assert told["kernel_thread"] is True
    assert told["process"]["name"] == "kthreadd"
    assert not {"executable", "files", "environment", "mappings"} & told.keys()


def test_thread_is_not_taken_for_a_process() -> None:
    """The number of a thread is refused, and whose it is is told."""
    start = "thread = __import__('threading').Thread(target=lambda: time.sleep(60), daemon=True)\nthread.start()\n"
    with Known(f"{start}ready(tid=thread.native_id)") as known:
        with pytest.raises(NotAProcessError) as refused:
            Pinned(known.facts["tid"])
        assert refused.value.process == known.pid


def test_nobody_there() -> None:
    """A pid that no process has is ProcessLookupError."""
    with subprocess.Popen(["true"]) as ended:
        pass
    with pytest.raises(ProcessLookupError):
        Pinned(ended.pid)


@pytest.mark.live
def test_refusals_are_named() -> None:
    """To a user who may not look at it a process is told in part, and each part that was refused is named."""
    with Known("ready()") as known:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setgroups([])
                os.setresuid(NOBODY, NOBODY, NOBODY)
                os.write(writing, json.dumps(gathered(known.pid)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as pipe:
            told = json.load(pipe)
        os.waitpid(child, 0)
    refused = {"executable", "environment", "files", "sockets", "listeners", "mappings", "memory", "namespaces"}
    assert refused | {"working_directory"} <= set(told["denied"])
    assert not (refused - {"memory"}) & told.keys()
    assert told["process"]["name"]
    assert told["capabilities"]["effective"]


REUSED = """
import json, os, signal, sys, time
from tracer.cli.clock import offset_now
from tracer.formats.redact import Redactor
from tracer.investigate import bundle, files
from tracer.investigate.pinned import Pinned
from tests.investigate.known import session

def child(name):
    pid = os.fork()
    if pid == 0:
        os.execvp("sleep", [name, "60"])
    while open(f"/proc/{pid}/cmdline").read().split("\\0")[0] != name:
        time.sleep(0.01)
    return pid

first = child("first")
again = []

def replace():
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)
    for _ in range(50):
        with open("/proc/sys/kernel/ns_last_pid", "w") as last:
            last.write(str(first - 1))
        pid = child("second")
        if pid == first:
            again.append(pid)
            return
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

look = files.look
def looking(process):
    replace()
    return look(process)
files.look = looking
with Pinned(first) as process:
    told = bundle.gather(process, session(), offset_now(), redactor=Redactor())
    try:
        after = process.read("cmdline").decode()
    except ProcessLookupError:
        after = "ESRCH"
    ended = process.ended()
second = open(f"/proc/{first}/cmdline").read()
print(json.dumps({"told": told, "again": again, "pid": first, "after": after, "ended": ended, "second": second}))
"""


@pytest.mark.live
def test_reused_pid_never_mixes_two() -> None:
    """In a pid namespace whose next pid is chosen the pid is given again in the middle: nothing is of the second."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", REUSED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    assert found["again"] == [found["pid"]], "the pid did not come again"
    assert found["second"].startswith("second\0")
    told = found["told"]
    assert told["process"]["args"] == ["first", "60"]
    assert told["ended"] is True
    assert found["after"] == "ESRCH"
    assert found["ended"] is True
    assert "second" not in json.dumps(told)
    assert "files" not in told


def test_offset_is_of_now() -> None:
    """The time of a bundle is this moment's, in UTC."""
    before = time.time()
    with Pinned(os.getpid()) as process:
        told = bundle.gather(process, session(), offset_now())
    made = datetime.fromisoformat(told["made"]).timestamp()
    assert before - 1 < made < time.time() + 1
