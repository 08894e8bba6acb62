"""SIGHUP: logrotate's rename and signal, confined and not, and what comes of it where nothing can be opened."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.tracing import BACKEND, END_WITHIN_S, PATIENCE, READY, READY_WITHIN_S, find
from tracer.cli.errors import Exit

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
BACKENDS = [BACKEND] if BACKEND else ["core", "netlink", "procfs"]
SANDBOX = pytest.mark.parametrize("sandbox", [(), ("--no-sandbox",)], ids=["confined", "not confined"])
PROCESSES = 1009
TURNS = 7
DAEMON = 1  # a user of every distribution
Lines = list[dict[str, Any]]


class Session:
    """A `tracer live --output` under way."""

    def __init__(self, process: subprocess.Popen[bytes], place: Path, backend: str) -> None:
        self.process = process
        self.backend = backend
        self.output = place / "log" / "events"
        self._errors = place / "errors"
        self._turned = 0

    def told(self) -> str:
        """What it has said on stderr."""
        return self._errors.read_text()

    def wait_for(self, what: Callable[[], object], seconds: float = END_WITHIN_S) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.01)

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def turn(self) -> Path:
        """Rename the output and send SIGHUP, as logrotate does, and wait for the next one; what the old is called."""
        self._turned += 1
        old = self.output.with_name(f"events.{self._turned}")
        self.output.rename(old)
        self.hang_up()
        self.wait_for(self._writes_to_output)
        return old

    def _writes_to_output(self) -> bool:
        """Whether the file was handed to who writes it; its opener has it a moment before."""
        writers = [self.process.pid, *(pid for name, pid in self.children.items() if name != "tracer_opener")]
        return any(str(self.output) in _held(pid) for pid in writers)

    def tells_of(self, pid: int, path: Path) -> None:
        """Wait until a process is told of in a file."""
        self.wait_for(lambda: f'"pid":{pid},' in path.read_text())

    @property
    def children(self) -> dict[str, int]:
        """The pids of the opener and the others, by name."""
        found = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return {Path(f"/proc/{pid}/comm").read_text().strip(): int(pid) for pid in found}

    def end(self, code: int = Exit.OK) -> None:
        """Send SIGTERM, and wait for the end."""
        self.process.terminate()
        assert self.process.wait(END_WITHIN_S) == code, self.told()


@contextmanager
def live(
    place: Path, *arguments: str, backend: str = BACKENDS[0], form: str = "ecs", prefix: Sequence[str] = ()
) -> Iterator[Session]:
    """A session that is ready; it is killed at the end if it still runs."""
    (place / "log").mkdir(exist_ok=True)
    command = [*prefix, sys.executable, "-m", "tracer", "live", "--format", form, "--backend", backend]
    command += ["--output", str(place / "log" / "events"), *arguments]
    with (place / "errors").open("wb") as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    with process:
        session = Session(process, place, backend)
        try:
            session.wait_for(lambda: READY in session.told(), READY_WITHIN_S)
            yield session
        finally:
            process.kill()


def run(seconds: str) -> int:
    """A process that lives so long, has ended, and whose pid this is."""
    with subprocess.Popen(["/bin/sleep", seconds]) as child:
        assert child.wait(60) == 0
    return child.pid


def lines(path: Path) -> Lines:
    """The lines of a file, which are whole; there are none where nothing happened between two turns."""
    data = path.read_bytes()
    assert not data or data.endswith(b"\n"), data[-200:]
    return [json.loads(line) for line in data.splitlines()]


def assert_one_stream(parts: Sequence[Lines]) -> Lines:
    """The files are one session from its first line to its last ledger: nothing is lost or doubled."""
    events = [event for part in parts for event in part]
    assert [event["event"]["sequence"] for event in events] == list(range(len(events)))
    assert len({event["agent"]["ephemeral_id"] for event in events}) == 1
    ledger = events[-1]["tracer"]["ledger"]
    assert (ledger["final"], ledger["balanced"]) == (True, True), ledger
    assert not ledger["total"]["lost_by_stage"]["sink"], ledger
    return events


@SANDBOX
@pytest.mark.parametrize("backend", BACKENDS)
def test_rename_and_signal_under_load(tmp_path: Path, backend: str, sandbox: tuple[str, ...]) -> None:
    """1,009 processes while the output is renamed and reopened 7 times: eight files, and together they are the stream.

    The old file gets all up to then in whole lines, the new one all after it, with the mode of the first. A recording
    is one file, and its replay what is in all of them.
    """
    record = tmp_path / "record"
    with live(tmp_path, "--record", str(record), *sandbox, backend=backend) as session:
        code = f"import subprocess\nfor _ in range({PROCESSES}):\n print(subprocess.Popen(['/bin/true']).pid)\n"
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as load:
            files = []
            for _ in range(TURNS):
                files.append(session.turn())
                time.sleep(0.1)
            told, _ = load.communicate(timeout=60 * PATIENCE)
        session.end()
        said = session.told().splitlines()
    files.append(session.output)
    assert len(said) == 1 + bool(sandbox), said
    parts = [lines(path) for path in files]
    events = assert_one_stream(parts)
    pids = told.split()
    assert len(pids) == PROCESSES
    if backend != "procfs":  # which may miss them
        for action in ("process-executed", "process-exited"):
            seen = Counter(event["process"]["pid"] for event in find(events, action))
            assert {pid: seen[int(pid)] for pid in pids} == dict.fromkeys(pids, 1)
        assert sum(bool(find(part, "process-executed")) for part in parts) > 1
    if backend in ("core", "bcc"):
        assert events[-1]["tracer"]["ledger"]["complete"]
    assert len({(path.stat().st_mode, path.stat().st_uid) for path in files}) == 1
    replay = [sys.executable, "-m", "tracer", "replay", str(record)]
    replayed = subprocess.run(replay, cwd=ROOT, capture_output=True, check=True, timeout=60 * PATIENCE).stdout
    assert replayed == b"".join(path.read_bytes() for path in files)


@SANDBOX
def test_storm_of_signals(tmp_path: Path, sandbox: tuple[str, ...]) -> None:
    """A thousand SIGHUPs without a rename, while 101 processes run: the file goes on as it would have without."""
    with live(tmp_path, *sandbox) as session:
        pids = []
        for _ in range(101):
            pids.append(run("0"))
            for _ in range(10):
                session.hang_up()
        last = run("0")
        session.tells_of(last, session.output)
        session.end()
        assert "can't" not in session.told()
    events = assert_one_stream([lines(session.output)])
    seen = Counter(event["process"]["pid"] for event in find(events, "process-executed"))
    assert {pid: seen[pid] for pid in pids} == dict.fromkeys(pids, 1)


@SANDBOX
def test_signal_just_before_the_end(tmp_path: Path, sandbox: tuple[str, ...]) -> None:
    """A rename and SIGHUP with SIGTERM right behind: the last ledger is in the new file."""
    with live(tmp_path, *sandbox) as session:
        old = session.output.with_name("events.1")
        session.output.rename(old)
        session.hang_up()
        session.end()
    assert_one_stream([lines(old), lines(session.output)])


def _link(log: Path) -> None:
    (log / "events").symlink_to(log / "other")


def _pipe(log: Path) -> None:
    os.mkfifo(log / "events")


def _directory(log: Path) -> None:
    (log / "events").mkdir()


def _gone(log: Path) -> None:
    log.rename(log.with_name("away"))


def _other(log: Path) -> None:
    _gone(log)
    log.mkdir()


@SANDBOX
@pytest.mark.parametrize(
    ("prepare", "why"),
    [
        (_link, "it is a symbolic link"),
        (_pipe, "it is no regular file"),
        (_directory, "Is a directory"),
        (_gone, "No such file or directory"),
        (_other, "its directory is another one now"),
    ],
    ids=["link", "pipe", "directory", "gone", "other"],
)
def test_output_that_cannot_be_reopened(
    tmp_path: Path, prepare: Callable[[Path], None], why: str, sandbox: tuple[str, ...]
) -> None:
    """One line on stderr says why, everything goes on where it went; and the next SIGHUP may do better."""
    log = tmp_path / "log"
    with live(tmp_path, *sandbox) as session:
        old = log / "events.1"
        session.output.rename(old)
        prepare(log)
        session.hang_up()
        session.wait_for(lambda: "can't reopen" in session.told())
        line = f"tracer: can't reopen {session.output}: {why}; it goes on in the file that was open"
        assert line in session.told().splitlines()
        if not old.exists():
            shutil.rmtree(log, ignore_errors=True)
            log.with_name("away").rename(log)
        session.tells_of(run("0"), old)
        for each in log.iterdir():
            if each != old:
                each.rmdir() if each.is_dir() else each.unlink()
        session.hang_up()
        session.wait_for(session.output.exists)
        last = run("0")
        session.tells_of(last, session.output)
        session.end()
        assert session.told().count("can't reopen") == 1
    first, second = lines(old), lines(session.output)
    assert_one_stream([first, second])
    assert not find(first, pid=last)


@SANDBOX
def test_directory_of_an_ordinary_user(tmp_path: Path, sandbox: tuple[str, ...]) -> None:
    """An ordinary user's tracer reopens its output, too; in a directory that it may not write to any more it can't."""
    prefix = ["setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", "--clear-groups"]
    tmp_path.chmod(0o755)
    for above in tmp_path.parents:
        if above.name.startswith("pytest-"):
            above.chmod(0o755)
    (tmp_path / "log").mkdir()
    os.chown(tmp_path / "log", DAEMON, DAEMON)
    with live(tmp_path, *sandbox, backend="procfs", prefix=prefix) as session:
        first = session.turn()
        session.tells_of(run("1"), session.output)
        second = session.output.with_name("events.2")
        session.output.rename(second)
        session.output.parent.chmod(0o555)
        session.hang_up()
        session.wait_for(lambda: "can't reopen" in session.told())
        assert f"can't reopen {session.output}: Permission denied; it goes on in the file" in session.told()
        session.tells_of(run("1"), second)
        session.end()
    assert_one_stream([lines(first), lines(second)])


def test_unfinished_line_is_ended(tmp_path: Path) -> None:
    """Behind what somebody else has put in its place, the stream begins on a line of its own."""
    with live(tmp_path) as session:
        old = session.output.with_name("events.1")
        session.output.rename(old)
        session.output.write_text("half a line")
        session.hang_up()
        session.wait_for(lambda: session.output.stat().st_size > len("half a line"))
        session.tells_of(run("0"), session.output)
        session.end()
    head, rest = session.output.read_bytes().split(b"\n", 1)
    assert head == b"half a line"
    assert_one_stream([lines(old), [json.loads(line) for line in rest.splitlines()]])


def test_people_get_their_titles_again(tmp_path: Path) -> None:
    """In the format for people each file begins with the titles of the columns; one that goes on has them once."""
    with live(tmp_path, form="pretty") as session:
        old = session.turn()
        session.hang_up()
        pid = run("0")
        session.wait_for(lambda: f" {pid} " in session.output.read_text())
        session.end()
    for path in (old, session.output):
        text = path.read_text()
        assert text.startswith("TIME ")
        assert text.count("DETAIL") == 1


def test_another_user(tmp_path: Path) -> None:
    """With --user the next file is made by who started the tracer, as the first was, not by whom it became."""
    with live(tmp_path, "--user", "daemon") as session:
        old = session.turn()
        session.tells_of(run("0"), session.output)
        status = Path(f"/proc/{session.process.pid}/status").read_text()
        session.end()
    assert f"\nUid:\t{DAEMON}\t{DAEMON}\t" in status or session.backend in ("netlink", "procfs")
    assert [(path.stat().st_uid, path.stat().st_mode) for path in (old,)] == [
        (session.output.stat().st_uid, session.output.stat().st_mode)
    ]
    assert session.output.stat().st_uid == 0


@SANDBOX
@pytest.mark.parametrize("backend", BACKENDS)
def test_opener_is_killed(tmp_path: Path, backend: str, sandbox: tuple[str, ...]) -> None:
    """Without its opener the tracer goes on, says at the next SIGHUP that it can't reopen, and tells nothing of it."""
    with live(tmp_path, *sandbox, backend=backend) as session:
        opener = session.children["tracer_opener"]
        os.kill(opener, signal.SIGKILL)
        session.hang_up()
        session.wait_for(lambda: "can't reopen" in session.told())
        assert "the process that opens it is gone, so start this again" in session.told()
        session.tells_of(run("1"), session.output)
        session.end()
    events = assert_one_stream([lines(session.output)])
    assert find(events, pid=opener) == []
    assert opener in find(events, "tracer-coverage")[0]["tracer"]["coverage"]["excluded"]


def test_opener_ends_with_the_tracer(tmp_path: Path) -> None:
    """When the tracer is killed its opener ends; signals to all of a terminal or a service do not end it before."""
    with live(tmp_path) as session:
        opener = session.children["tracer_opener"]
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            os.kill(opener, number)
        session.turn()
        session.tells_of(run("0"), session.output)
        session.process.kill()
        session.process.wait(END_WITHIN_S)
        session.wait_for(lambda: not Path(f"/proc/{opener}").exists() or "\nState:\tZ" in _status(opener))


def _status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return ""


def test_opener_is_confined(tmp_path: Path) -> None:
    """The record tells of its layers; as the kernel shows it, one capability at most and a filter are left."""
    with live(tmp_path) as session:
        told = dict(line.split(":\t", 1) for line in _status(session.children["tracer_opener"]).splitlines())
        session.end()
    found = find(lines(session.output), "tracer-confinement")[0]["tracer"]["confinement"]
    worker = {layer: state for layer, state in found["layers"].items() if layer != "user"}
    assert found["opener"] == {"enabled": True, "layers": worker, "capabilities": ["CAP_DAC_OVERRIDE"]}
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(told[name], 16) == 1 << 1, told  # CAP_DAC_OVERRIDE
    for name in ("CapInh", "CapAmb"):
        assert int(told[name], 16) == 0, told
    assert (told["NoNewPrivs"], told["Seccomp"]) == ("1", "2")


# A machine without libseccomp's binding; and one where the opener ends before it has confined itself.
NO_SECCOMP = "import sys; sys.modules['seccomp'] = None"
NO_OPENER = "import os, tracer.cli.rotation as r; r.confine_opener = lambda *_: os._exit(1)"


@pytest.mark.parametrize("backend", BACKENDS)
def test_missing_layer_of_the_opener(tmp_path: Path, backend: str) -> None:
    """It is one line and in the record; with --sandbox-strict it is the end, with code 6 and nothing written."""
    done = _short(tmp_path, NO_SECCOMP, "--backend", backend)
    assert done.returncode == Exit.OK, done.stderr
    assert f"tracer: sandbox of the opener of {tmp_path / 'events'}: seccomp is absent: " in done.stderr
    found = find(lines(tmp_path / "events"), "tracer-confinement")[0]["tracer"]["confinement"]
    assert found["opener"]["layers"]["seccomp"] == "absent"
    done = _short(tmp_path, NO_SECCOMP, "--backend", backend, "--sandbox-strict")
    assert done.returncode == Exit.SANDBOX, done.stderr
    assert (tmp_path / "events").read_bytes() == b""


@pytest.mark.parametrize("backend", BACKENDS)
def test_opener_that_does_not_begin(tmp_path: Path, backend: str) -> None:
    """Where it ends at once a line says so, and the tracer does its work; with --sandbox-strict the code is 6."""
    done = _short(tmp_path, NO_OPENER, "--backend", backend)
    assert done.returncode == Exit.OK, done.stderr
    assert f"SIGHUP will do nothing: the process that is to reopen {tmp_path / 'events'} has ended" in done.stderr
    assert_one_stream([lines(tmp_path / "events")])
    done = _short(tmp_path, NO_OPENER, "--backend", backend, "--sandbox-strict")
    assert done.returncode == Exit.SANDBOX, done.stderr
    assert (tmp_path / "events").read_bytes() == b""


def _short(place: Path, before: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A short session of a program that does something before."""
    code = f"{before}\nfrom tracer.cli.entry import run\nrun()"
    command = [sys.executable, "-c", code, "live", "--json", "--duration", "300ms", "--output", str(place / "events")]
    return subprocess.run(
        [*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60 * PATIENCE
    )


def _held(pid: int) -> Iterator[str]:
    """The files that a process holds open, but for what it closes in this very moment."""
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield str(fd.readlink())


@SANDBOX
def test_worker_is_killed_after_a_turn(tmp_path: Path, sandbox: tuple[str, ...]) -> None:
    """A fresh worker goes on in the file that is there, and nobody keeps the first one, which may be deleted."""
    with live(tmp_path, *sandbox, backend="procfs") as session:
        old = session.turn()
        session.tells_of(run("1"), session.output)
        (worker,) = (pid for name, pid in session.children.items() if name != "tracer_opener")
        os.kill(worker, signal.SIGKILL)
        session.wait_for(lambda: session.told().count(READY) == 2)
        pid = run("1")
        session.tells_of(pid, session.output)
        pids = [session.process.pid, *session.children.values()]
        held = {name for each in pids for name in _held(each)}
        assert str(session.output) in held
        assert str(old) not in held
        next_ = session.turn()
        session.end()
    sessions: dict[str, Lines] = {}
    for event in lines(old) + lines(next_) + lines(session.output):
        sessions.setdefault(event["agent"]["ephemeral_id"], []).append(event)
    first, second = sessions.values()
    assert [event["event"]["sequence"] for event in first] == list(range(len(first)))
    assert_one_stream([second])
    assert find(second, pid=pid)


def test_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """Who starts it with SIGHUP ignored, as nohup does, has it ignored: no end, and no new file."""
    prefix = [
        sys.executable,
        "-c",
        "import os, signal, sys; signal.signal(1, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])",
    ]
    for number, backend in enumerate(BACKENDS):
        place = tmp_path / str(number)
        place.mkdir()
        with live(place, prefix=prefix, backend=backend) as session:
            old = session.output.with_name("events.1")
            session.output.rename(old)
            session.hang_up()
            session.tells_of(run("1"), old)
            assert not session.output.exists()
            session.end()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ["stdout", "pipe", "device"])
def test_without_a_file_it_ends(tmp_path: Path, kind: str, backend: str) -> None:
    """Where the output is no file SIGHUP ends it in order, as before: there is nothing to reopen."""
    path = {"stdout": Path("-"), "pipe": tmp_path / "pipe", "device": Path("/dev/null")}[kind]
    reader = subprocess.DEVNULL
    if kind == "pipe":
        os.mkfifo(path)
    errors = tmp_path / "errors"
    command = [sys.executable, "-m", "tracer", "live", "--json", "--backend", backend, "--output", str(path)]
    drain = os.open(path, os.O_RDONLY | os.O_NONBLOCK) if kind == "pipe" else -1
    try:
        with errors.open("wb") as stderr, subprocess.Popen(command, cwd=ROOT, stdout=reader, stderr=stderr) as process:
            deadline = time.monotonic() + READY_WITHIN_S
            while READY not in errors.read_text():
                assert time.monotonic() < deadline, errors.read_text()
                time.sleep(0.02)
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            assert "tracer_opener\n" not in {Path(f"/proc/{pid}/comm").read_text() for pid in children}
            if drain >= 0:
                os.close(drain)
                drain = -1
            process.send_signal(signal.SIGHUP)
            assert process.wait(END_WITHIN_S) == Exit.OK, errors.read_text()
    finally:
        if drain >= 0:
            os.close(drain)


@SANDBOX
@pytest.mark.parametrize("backend", BACKENDS)
def test_terminal_is_closed(tmp_path: Path, backend: str, sandbox: tuple[str, ...]) -> None:
    """A person who closes the terminal ends the tracer in order, also if it writes to a file."""
    output, errors = tmp_path / "events", tmp_path / "errors"
    command = [
        sys.executable,
        "-m",
        "tracer",
        "live",
        "--json",
        "--backend",
        backend,
        "--output",
        str(output),
        *sandbox,
    ]
    pid, terminal = pty.fork()
    if not pid:
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT, 0o600), 2)
        os.chdir(ROOT)
        os.execv(sys.executable, command)  # noqa: S606  # no shell is wanted
    try:
        deadline = time.monotonic() + READY_WITHIN_S
        while not errors.exists() or READY not in errors.read_text():
            assert time.monotonic() < deadline, errors.read_text()
            time.sleep(0.02)
        os.kill(pid, signal.SIGHUP)  # by hand: the terminal is there, so it goes on
        first = run("1")
        while f'"pid":{first},' not in output.read_text():
            assert time.monotonic() < deadline + END_WITHIN_S, errors.read_text()
            time.sleep(0.02)
    finally:
        os.close(terminal)
    deadline = time.monotonic() + END_WITHIN_S
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            pytest.fail(f"it has not ended: {errors.read_text()}")
        time.sleep(0.05)
    assert os.waitstatus_to_exitcode(ended[1]) == Exit.OK, errors.read_text()
    assert_one_stream([lines(output)])
