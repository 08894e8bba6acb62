"""`tracer live` confines itself: the record, every thread as the kernel shows it, escapes from inside, both ways."""

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import assert_refused
from tests.tracing import BACKEND, PATIENCE, READY, Event, Trace, find, one
from tracer.cli.errors import Exit
from tracer.confine.attest import TRIES
from tracer.confine.escapes import ESCAPES, KILLED
from tracer.confine.expected import expected
from tracer.confine.landlock_rules import abi
from tracer.confine.plan import STRICT, State

pytestmark = pytest.mark.live

ABI = abi()
WHOLE = all(expected(ABI)[layer] is State.ENFORCED for layer in STRICT)
COMMAND = [sys.executable, "-m", "tracer", "live", "--json", *(["--backend", BACKEND] if BACKEND else [])]
SHORT = ["--no-snapshot", "--duration", "300ms"]
DAEMON = 1  # a user of every distribution

# Code inside the worker that is not in the wheel: it tries every escape in the thread that reads and in the one that
# writes, once both are confined, and tells on stderr.
INSIDE = """
import errno, json, sys, threading
import tracer.cli.live as live
import tracer.sinks.output as output
from tracer.confine.escapes import ESCAPES, KILLED
from tracer.confine.ground import ground
from tracer.cli.entry import run

loop, write, found = live.Live._loop, output.Output._write, {}

def try_all():
    answers = {}
    for escape in ESCAPES:
        if escape.error == KILLED:
            continue
        try:
            escape.attempt(place)
            answers[escape.name] = "succeeded"
        except OSError as refused:
            answers[escape.name] = errno.errorcode[refused.errno]
    found[threading.current_thread().name] = answers

def writing(self, lines):
    if "output" not in found:
        try_all()
    write(self, lines)

def looping(self, *arguments):
    try_all()
    result = loop(self, *arguments)
    sys.stderr.write("FOUND " + json.dumps(found) + chr(10))
    return result

live.Live._loop, output.Output._write = looping, writing
with ground() as place:
    run()
"""
# A machine without libseccomp's binding.
NO_SECCOMP = """
import sys
sys.modules["seccomp"] = None
from tracer.cli.entry import run
run()
"""


def run(*arguments: str, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `tracer live` to its end, or a program that does."""
    command = COMMAND if code is None else [sys.executable, "-c", code, *COMMAND[3:]]
    return subprocess.run(
        [*command, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60 * PATIENCE,
        env=os.environ | environment,
    )


def record(events: list[Event]) -> dict[str, Any]:
    """The confinement record, which is the third line."""
    found = one(events, "tracer-confinement")
    assert events.index(found) == 2
    body: dict[str, Any] = found["tracer"]["confinement"]
    return body


def events_of(text: str) -> list[Event]:
    """The lines of a stream."""
    return [json.loads(line) for line in text.splitlines()]


def status(path: Path) -> dict[str, str]:
    """The fields of a status file of /proc."""
    return dict(line.split(":\t", 1) for line in path.read_text().splitlines() if ":\t" in line)


def test_record_tells_what_this_kernel_can() -> None:
    """The layers are as the table of kernels has them, no capability is left, and every try was refused."""
    done = run(*SHORT)
    assert done.returncode == Exit.OK, done.stderr
    found = record(events_of(done.stdout))
    assert found["enabled"] is True
    assert found["layers"] == expected(ABI)
    assert found["landlock_abi"] == ABI
    assert found["capabilities"] == []
    assert found["tries"].keys() == TRIES.keys()
    assert set(found["tries"].values()) == {"EPERM"}  # seccomp comes first
    assert found["threads"] == found["threads_confined"] == 2
    assert found["descriptors"]["perf_event"] >= 2
    assert found["strict"] is WHOLE
    warned = [line for line in done.stderr.splitlines() if line.startswith("tracer: sandbox: ")]
    assert len(warned) == sum(state is not State.ENFORCED for state in list(expected(ABI).values())[1:])


def test_every_thread_as_the_kernel_shows_it() -> None:
    """Each task of the running tracer has no capability in any set, no_new_privs and a filter."""
    shown: list[dict[str, str]] = []
    with Trace("--no-snapshot") as trace:
        deadline = time.monotonic() + 30 * PATIENCE
        while len(shown) != 2:  # a third one tries the probes now and then
            assert time.monotonic() < deadline, shown
            with suppress(FileNotFoundError, ProcessLookupError):
                shown = [status(task / "status") for task in Path(f"/proc/{trace.pid}/task").iterdir()]
    for each in shown:
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(each[name], 16) == 0, (name, each)
        assert each["NoNewPrivs"] == "1"
        assert each["Seccomp"] == "2"


def test_escapes_from_inside_the_worker(tmp_path: Path) -> None:
    """Code that runs in the confined tracer itself, in either thread, is refused every single escape."""
    done = run(*SHORT, code=INSIDE, TMPDIR=str(tmp_path))
    assert done.returncode == Exit.OK, done.stderr
    told = next(line for line in done.stderr.splitlines() if line.startswith("FOUND "))
    found = json.loads(told.removeprefix("FOUND "))
    assert set(found) == {"MainThread", "output"}
    for answers in found.values():
        assert set(answers) == {escape.name for escape in ESCAPES if escape.error != KILLED}
        assert len(answers) > 30
        assert [name for name, answer in answers.items() if answer == "succeeded"] == []


def test_escapes_from_inside_work_without_the_sandbox(tmp_path: Path) -> None:
    """The same code gets through most of it with --no-sandbox, so it is the sandbox that refuses."""
    harmless = "ESCAPES = [each for each in ESCAPES if each.name in NAMES]"
    names = ("open", "connect", "bind", "udp", "netlink", "raw", "packet", "code", "kill", "bpf", "perf", "key")
    code = INSIDE.replace("loop, write", f"NAMES = {names!r}\n{harmless}\nloop, write", 1)
    done = run(*SHORT, "--no-sandbox", code=code, TMPDIR=str(tmp_path))
    assert done.returncode == Exit.OK, done.stderr
    told = next(line for line in done.stderr.splitlines() if line.startswith("FOUND "))
    found = json.loads(told.removeprefix("FOUND "))
    assert found == dict.fromkeys(("MainThread", "output"), dict.fromkeys(names, "succeeded"))


def test_strict_runs_where_all_is_there() -> None:
    """--sandbox-strict runs where every layer is enforced, else it ends with 6 before the first event."""
    done = run("--sandbox-strict", *SHORT)
    if WHOLE:
        assert done.returncode == Exit.OK, done.stderr
        assert record(events_of(done.stdout))["strict"] is True
        return
    assert_refused(done, Exit.SANDBOX, "--sandbox-strict", "landlock")
    assert done.stdout == ""


def test_strict_ends_before_the_first_event() -> None:
    """A layer that is missing ends --sandbox-strict with 6 and one line; nothing has been written."""
    done = run("--sandbox-strict", *SHORT, code=NO_SECCOMP)
    assert_refused(done, Exit.SANDBOX, "--sandbox-strict", "seccomp is absent", "python3-seccomp")
    assert done.stdout == ""


def test_missing_layer_is_a_warning() -> None:
    """Without strict it is a warning, the record has the reason, and what is possible then is told, too."""
    done = run(*SHORT, code=NO_SECCOMP)
    assert done.returncode == Exit.OK, done.stderr
    assert "tracer: sandbox: seccomp is absent: " in done.stderr
    found = record(events_of(done.stdout))
    assert found["strict"] is False
    assert found["layers"]["seccomp"] == "absent"
    assert "python3-seccomp" in found["reasons"]["seccomp"]
    assert found["tries"]["send_udp"] == "possible"
    assert "send_udp" in done.stderr
    assert found["tries"]["mount"] == "EPERM"  # by the capabilities alone


# What a container's own filter may refuse: calls, and the layers that are gone then.
IN_CONTAINERS = [
    ("landlock_create_ruleset", {"landlock_files", "landlock_network", "landlock_scopes"}),
    ("landlock_restrict_self", {"landlock_files", "landlock_network", "landlock_scopes"}),
    ("seccomp prctl", {"capabilities", "no_new_privileges", "seccomp"}),
    ("capset", {"capabilities"}),
    ("seccomp", set[str]()),
]


@pytest.mark.parametrize(("refused", "gone"), IN_CONTAINERS, ids=lambda value: value if isinstance(value, str) else "")
def test_in_a_container_with_a_filter_of_its_own(refused: str, gone: set[str]) -> None:
    """What a filter from outside refuses is a layer less, said on stderr and in the record; the others are on."""
    code = f"""
import errno, os, seccomp, sys
outer = seccomp.SyscallFilter(seccomp.ALLOW)
for name in {refused.split()}:
    outer.add_rule(seccomp.ERRNO(errno.EPERM), name)
outer.load()
os.execv(sys.executable, [sys.executable, "-m", "tracer", *sys.argv[1:]])
"""
    done = run(*SHORT, code=code)
    assert done.returncode == Exit.OK, done.stderr
    assert "Traceback" not in done.stderr
    found = record(events_of(done.stdout))
    possible = {layer.value for layer, state in expected(ABI).items() if state is State.ENFORCED}
    assert {layer for layer, state in found["layers"].items() if state == "enforced"} == possible - gone
    for layer in gone & possible:
        assert f"tracer: sandbox: {layer} is absent: " in done.stderr
    if gone & possible:
        assert_refused(run("--sandbox-strict", *SHORT, code=code), Exit.SANDBOX, "--sandbox-strict")


def test_no_sandbox_is_said() -> None:
    """--no-sandbox keeps everything, and says so on stderr and in the record."""
    done = run("--no-sandbox", *SHORT)
    assert done.returncode == Exit.OK, done.stderr
    assert "not confined, as --no-sandbox asks" in done.stderr
    found = record(events_of(done.stdout))
    assert (found["enabled"], found["strict"], found["uid"]) == (False, False, 0)
    assert "CAP_SYS_ADMIN" in found["capabilities"]
    assert "layers" not in found


@pytest.mark.parametrize("other", [["--sandbox-strict"], ["--user", "root"]], ids=["strict", "user"])
def test_contradictions(other: list[str]) -> None:
    """--no-sandbox goes with nothing that asks for a sandbox."""
    assert_refused(run("--no-sandbox", *other), Exit.USAGE, "--no-sandbox", other[0])


def test_user_behind_sudo() -> None:
    """Under sudo it becomes the caller when only stdout is written, and says who started it."""
    done = run(*SHORT, SUDO_UID=str(DAEMON), SUDO_GID=str(DAEMON))
    assert done.returncode == Exit.OK, done.stderr
    events = events_of(done.stdout)
    found = record(events)
    assert (found["uid"], found["layers"]["user"]) == (DAEMON, "enforced")
    session = one(events, "tracer-session-start")["tracer"]["session"]
    assert (session["uid"], session["sudo_uid"]) == (0, DAEMON)
    assert session["command_line"][1:3] == ["live", "--json"]


def test_user_that_sudo_does_not_tell() -> None:
    """Where sudo does not tell for whom it runs it stays root, and says so once, with the fix."""
    done = run(*SHORT, SUDO_UID="nobody knows")
    assert done.returncode == Exit.OK, done.stderr
    assert record(events_of(done.stdout))["uid"] == 0
    (line,) = (line for line in done.stderr.splitlines() if "stays root" in line)
    assert "SUDO_UID" in line
    assert "--user" in line


def test_user_stays_where_files_are_written(tmp_path: Path) -> None:
    """Where a file is written it stays who it was, unless --user names somebody; never nobody."""
    output = tmp_path / "output"
    done = run(*SHORT, "--output", str(output), SUDO_UID=str(DAEMON), SUDO_GID=str(DAEMON))
    assert done.returncode == Exit.OK, done.stderr
    assert record(events_of(output.read_text()))["uid"] == 0
    done = run(*SHORT, "--output", str(output), "--user", "daemon")
    assert done.returncode == Exit.OK, done.stderr
    assert record(events_of(output.read_text()))["uid"] == DAEMON
    assert_refused(run("--output", str(output), "--user", "nobody"), Exit.USAGE, "nobody")
    assert_refused(run("--user", "no such user"), Exit.USAGE, "--user", "passwd")


def test_user_as_the_kernel_shows_it() -> None:
    """With --user every id of every thread is that user's, and there is no other group."""
    with Trace("--no-snapshot", "--user", "daemon") as trace:
        shown = [status(task / "status") for task in Path(f"/proc/{trace.pid}/task").iterdir()]
    for each in shown:
        assert each["Uid"].split() == each["Gid"].split() == [str(DAEMON)] * 4
        assert each["Groups"].split() == []


def test_memory_is_not_for_others_of_the_user() -> None:
    """Another process of its user can't read the tracer's memory: it holds what everybody runs."""
    with Trace("--no-snapshot", "--user", "daemon") as trace:
        look = f"open('/proc/{trace.pid}/mem', 'rb')"
        code = f"import os; os.setgroups([]); os.setgid({DAEMON}); os.setuid({DAEMON}); {look}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "PermissionError" in done.stderr


@pytest.fixture(name="both", scope="module", params=[(), ("--no-sandbox",)], ids=["confined", "not confined"])
def _both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A session with everything in it, confined or not: files, a recording, connects, a pending one, a signal."""
    place = tmp_path_factory.mktemp("both")
    output, recording, errors = place / "output", place / "recording", place / "errors"
    command = [*COMMAND, *request.param, "--output", str(output), "--record", str(recording)]
    with errors.open("wb") as stderr, subprocess.Popen(command, stderr=stderr) as tracer:
        deadline = time.monotonic() + 30 * PATIENCE
        while READY not in errors.read_text():
            assert tracer.poll() is None, errors.read_text()
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.02)
        ran = [subprocess.Popen(["/bin/true", str(number)]) for number in range(101)]
        assert [child.wait(60) for child in ran] == [0] * 101
        tracer.terminate()
        assert tracer.wait(40 * PATIENCE) == Exit.OK, errors.read_text()
    return {
        "pids": {child.pid for child in ran},
        "lines": output.read_text(),
        "recording": recording,
        "confined": not request.param,
    }


def test_stream_is_the_same_both_ways(both: dict[str, Any]) -> None:
    """Confined or not: all 101 processes with both their ends, what was there before, and a complete last ledger."""
    events = events_of(both["lines"])
    for action in ("process-executed", "process-exited"):
        seen = Counter(event["process"]["pid"] for event in find(events, action))
        assert {pid: seen[pid] for pid in both["pids"]} == dict.fromkeys(both["pids"], 1)
    assert find(events, "process-running")
    ledger = events[-1]["tracer"]["ledger"]
    assert (ledger["final"], ledger["balanced"], ledger["complete"]) == (True, True, True)
    assert ledger["total"]["in_flight"] == 0
    assert record(events)["enabled"] is both["confined"]


def test_replay_is_the_same_both_ways(both: dict[str, Any]) -> None:
    """The recording gives the very same lines again, the confinement among them."""
    command = [sys.executable, "-m", "tracer", "replay", str(both["recording"]), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == both["lines"]


def test_children_are_followed_before_it_is_confined() -> None:
    """With --children the descendants that are there already are followed, though later no map can be changed."""
    with subprocess.Popen(["sh", "-c", "sh -c 'read line; /bin/true inner'; true"], stdin=subprocess.PIPE) as shell:
        with Trace("--pid", str(shell.pid), "--children") as trace:
            assert shell.stdin is not None
            shell.stdin.write(b"go\n")
            shell.stdin.close()
            shell.wait(60)
        assert any(event["process"].get("args") == ["/bin/true", "inner"] for event in trace.find("process-executed"))


def test_terminal_is_followed_while_confined() -> None:
    """On a terminal lines fit its width, also after it has changed, and the view says that it is confined."""
    main, other = os.openpty()
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    # Little enough for the terminal to hold while nobody reads.
    command = [sys.executable, "-m", "tracer", "live", "--no-snapshot", "--comm", "true", *COMMAND[5:]]
    tracer = subprocess.Popen(command, stdout=other, stderr=subprocess.DEVNULL)
    seen = b""
    deadline = time.monotonic() + 30 * PATIENCE
    while b"confined as user 0" not in seen:
        assert time.monotonic() < deadline
        seen += os.read(main, 65536)
    fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    tracer.send_signal(signal.SIGWINCH)
    time.sleep(0.3)
    subprocess.run(["/bin/true", "x" * 300], check=True)
    tracer.terminate()
    assert tracer.wait(30 * PATIENCE) == Exit.OK
    os.close(other)
    after = b""
    try:
        while chunk := os.read(main, 65536):
            after += chunk
    except OSError:
        pass  # the other end is closed
    os.close(main)
    lines = [line for line in after.decode().splitlines() if "xxx" in line]
    assert lines
    assert all(len(line) < 100 for line in lines), lines


def test_nothing_is_imported_once_it_is_confined() -> None:
    """No module is looked for between the confinement and the end, in either format: it could not be opened."""
    code = """
import sys
import tracer.cli.live as live
loop, finish, known = live.Live._loop, live.Live._finish, set()

def looping(self, *arguments):
    known.update(sys.modules)
    return loop(self, *arguments)

def finishing(self, *arguments):
    result = finish(self, *arguments)
    sys.stderr.write(f"LATE {sorted(set(sys.modules) - known)}" + chr(10))
    return result

live.Live._loop, live.Live._finish = looping, finishing
from tracer.cli.entry import run
run()
"""
    for form in ("ecs", "pretty"):
        command = [sys.executable, "-c", code, "live", "--format", form, "--duration", "500ms", *COMMAND[5:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60 * PATIENCE)
        assert done.returncode == Exit.OK, done.stderr
        assert "LATE []\n" in done.stderr
