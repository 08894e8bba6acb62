"""`tracer pid`: what there is now, then the tree as it goes on; and what it answers where that can't be."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from tests.formats.schemas import faults
from tests.investigate.known import Known
from tests.live.test_cli import FAILURE, NOBODY, OK, PRIVILEGE, TRACER, USAGE, as_user, assert_refused, run
from tests.tracing import END_WITHIN_S, READY, READY_WITHIN_S, assert_complete, find

pytestmark = pytest.mark.live

PID = (str(TRACER), "pid")


class Following:
    """A `tracer pid` around a block, which begins when it watches, and is left when it has ended."""

    def __init__(self, *args: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed when the block is left
        self._process = subprocess.Popen([*PID, *args], stdout=subprocess.PIPE, stderr=self._errors, text=True)
        self.wrote: str = ""

    def _said(self) -> str:
        self._errors.seek(0)
        return str(self._errors.read())

    def __enter__(self) -> Self:
        deadline = time.monotonic() + READY_WITHIN_S
        while READY not in self._said():
            assert time.monotonic() < deadline, self._said()
            assert self._process.poll() is None, self._said()
            time.sleep(0.05)
        return self

    def __exit__(self, *_: object) -> None:
        """End it as Ctrl-C does, and take what it wrote."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self.wrote = self._process.communicate(timeout=END_WITHIN_S)[0]
        finally:
            self._process.kill()
            self._process.wait()
        said = self._said()
        self._errors.close()
        assert self._process.returncode == 0, said

    @property
    def events(self) -> list[dict[str, Any]]:
        """The lines of JSON."""
        return [json.loads(line) for line in self.wrote.splitlines()]


BUSY = """
import subprocess
server = socket.create_server(("127.0.0.1", 0))
ready(port=server.getsockname()[1])
client = socket.create_connection(server.getsockname())
subprocess.run(["/bin/sh", "-c", "/bin/true; /bin/false"])
client.close()
"""


def test_bundle_then_events_of_the_tree() -> None:
    """The first line is the bundle, the numbers go on from there, and what follows is the tree's alone, whole."""
    with Known(BUSY) as known, Known(BUSY) as stranger, Following(str(known.pid), "--json") as following:
        stranger.go_on()
        known.go_on()
    events = following.events
    assert [event["event"]["sequence"] for event in events] == list(range(len(events)))
    first = events[0]
    assert first["event"]["action"] == "tracer-bundle"
    bundle = first["tracer"]["bundle"]
    assert bundle["target"] == {
        "pid": known.pid,
        "entity_id": bundle["process"]["entity_id"],
        "asked": str(known.pid),
    }
    assert [each["local"]["port"] for each in bundle["listeners"]] == [known.facts["port"]]
    executed = find(events, "process-executed")
    assert [event["process"]["args"] for event in executed] == [
        ["/bin/sh", "-c", "/bin/true; /bin/false"],
        ["/bin/true"],
        ["/bin/false"],
    ]
    assert executed[0]["process"]["parent"]["entity_id"] == bundle["process"]["entity_id"]
    exited = find(events, "process-exited", known.pid)
    assert [event["process"]["entity_id"] for event in exited] == [bundle["process"]["entity_id"]]
    assert find(events, "connection-opened", known.pid, destination__port=known.facts["port"])
    assert not find(events, pid=stranger.pid)
    running = find(events, "process-running")
    assert [event["process"]["entity_id"] for event in running] == [bundle["process"]["entity_id"]]
    assert_complete(events[-1]["tracer"]["ledger"])
    assert [event["event"]["action"] for event in events[1:4]] == [
        "tracer-coverage",
        "tracer-session-start",
        "tracer-confinement",
    ]
    confinement = events[3]["tracer"]["confinement"]
    assert confinement["enabled"]
    assert not [name for name, answer in confinement["tries"].items() if answer == "possible"]
    for event in events:
        assert faults(event, "ecs", closed=False) == []


def test_bundle_has_the_process_as_events_have_it() -> None:
    """The process of the bundle, read from /proc, is the one that the kernel's own snapshot tells."""
    with Known("ready()", args=["a", "b c"]) as known, Following(str(known.pid), "--json") as following:
        pass
    bundle = following.events[0]["tracer"]["bundle"]
    (running,) = find(following.events, "process-running")
    there = {name: part for name, part in running["process"].items() if name not in ("thread", "start")}
    assert {name: part for name, part in bundle["process"].items() if name != "start"} == there
    assert bundle["process"]["start"][:19] in (running["process"]["start"][:19], bundle["process"]["start"][:19])


def test_page_then_lines() -> None:
    """For people the page comes first, then lines of the tree, without what the page has said already."""
    with Known(BUSY) as known, Following(str(known.pid)) as following:
        known.go_on()
    page, _, lines = following.wrote.partition("\nTIME ")
    assert page.startswith("process ")
    assert f"127.0.0.1:{known.facts['port']} LISTEN" in page
    assert "\x1b" not in following.wrote
    assert "/bin/true" in lines
    assert " running " not in lines
    assert lines.rstrip().splitlines()[-1].endswith("0 lost")


def test_page_is_there_before_anything_is_loaded() -> None:
    """The page is written before the probes are loaded, so that no slow start holds it back."""
    with Known("ready()") as known:
        command = [*PID, str(known.pid), "--duration", "1"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline().startswith("process ")
            wrote, said = tracer.communicate(timeout=END_WITHIN_S)
    assert READY in said
    assert "ledger: " in wrote
    assert tracer.returncode == OK


def test_output_goes_to_a_file(tmp_path: Path) -> None:
    """With --output the file has all of it, for programs and for people, and stdout nothing."""
    with Known("ready()") as known:
        for json_lines in (True, False):
            file = tmp_path / f"out-{json_lines}"
            done = run([*PID, str(known.pid), "--output", str(file), "--duration", "1", *["--json"] * json_lines])
            assert done.returncode == OK, done.stderr
            assert done.stdout == ""
            text = file.read_text()
            if json_lines:
                actions = [json.loads(line)["event"]["action"] for line in text.splitlines()]
                assert (actions[0], actions[-1]) == ("tracer-bundle", "tracer-ledger")
            else:
                assert text.startswith("process ")
                assert text.rstrip().splitlines()[-1].endswith("0 lost")


def now(*args: str) -> dict[str, Any]:
    """The bundle that `tracer pid --now --json` writes, its only line."""
    done = run([*PID, *args, "--now", "--json"])
    assert done.returncode == OK, done.stderr
    (line,) = done.stdout.splitlines()
    event = json.loads(line)
    assert faults(event, "ecs", closed=False) == []
    found: dict[str, Any] = event["tracer"]["bundle"]
    return found


def test_only_now() -> None:
    """With --now there is the bundle or the page, and nothing is followed."""
    with Known("ready()") as known:
        assert now(str(known.pid))["target"]["pid"] == known.pid
        done = run([*PID, str(known.pid), "--now"])
        assert done.returncode == OK
        assert done.stdout.startswith("process ")
        assert "TIME " not in done.stdout
        assert done.stderr == ""


def test_environment_is_shown_on_request_without_secrets() -> None:
    """Values come with --show-env alone, secrets never, but with --redact none."""
    given = {"PATH": os.environ["PATH"], "DB_PASSWORD": "hunter2hunter2", "SHOWN": "value"}
    with Known("ready()", env=given) as known:
        pid = str(known.pid)
        assert "values" not in now(pid)["environment"]
        told = now(pid, "--show-env")["environment"]["values"]
        assert (told["SHOWN"], told["DB_PASSWORD"]) == ("value", "[redacted]")
        assert "hunter2" not in run([*PID, pid, "--now", "--show-env"]).stdout
        assert now(pid, "--show-env", "--redact", "none")["environment"]["values"] == given


def test_names(tmp_path: Path) -> None:
    """A name finds its process; of a family the first; one that fits several lists them, and one of none is told."""
    program = tmp_path / "pid-test-named"
    program.symlink_to("/bin/sleep")
    sleeping = ["pid-test-named", "60"]
    with subprocess.Popen(sleeping, executable=program) as one:
        try:
            assert now("pid-test-named")["target"] == {
                **now(str(one.pid))["target"],
                "asked": "pid-test-named",
            }
            with subprocess.Popen(sleeping, executable=program) as other:
                try:
                    done = run([*PID, "pid-test-named"])
                finally:
                    other.kill()
            assert_refused(done, USAGE, "fits 2 processes", f"{one.pid} pid-test-named 60", str(other.pid))
        finally:
            one.kill()
    assert_refused(run([*PID, "pid-test-named"]), FAILURE, "no process is called")


HOSTILE = """
with open("/proc/self/comm", "wb") as name:
    name.write(b"<b>\\x1b[2J\\n")
ready()
"""


def test_hostile_names() -> None:
    """A process whose name and arguments would drive a terminal or a page is told, with nothing of that at work."""
    argument = "<script>alert(1)</script>\x1b]0;x\x07\r\n\u202e"
    with Known(HOSTILE, args=[argument]) as known:
        done = run([*PID, str(known.pid), "--now"])
        told = now(str(known.pid))["process"]
    assert done.returncode == OK
    assert told["name"] == "<b>\x1b[2J\n"
    assert told["args"][-1] == argument
    assert done.stdout.startswith("process      <b>\\x1b[2J\\n ")
    assert "<script>alert(1)</script>" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\r", "\x07", "\u202e"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["0"], USAGE, ["pid from 1"]),
        (["99999999"], USAGE, ["pid from 1"]),
        (["4194304"], FAILURE, ["no process 4194304"]),
        ([""], USAGE, ["give a pid"]),
        (["no-such-program-anywhere"], FAILURE, ["no process is called"]),
        (["1", "--pidns", "none"], USAGE, ["--pidns", "lsns"]),
        (["x", "--pidns", "4026531836"], USAGE, ["--pidns"]),
        (["4194304", "--pidns", "4026531836"], FAILURE, ["4194304", "pid namespace"]),
        (["1", "--duration", "soon"], USAGE, ["--duration"]),
        (["1", "--redact", "/nonexistent/file"], USAGE, ["--redact"]),
        ([], USAGE, ["name a process"]),
    ],
)
def test_bad_input(arguments: list[str], code: int, words: Sequence[str]) -> None:
    """Each is answered by one line with what would be right, and its code."""
    assert_refused(run([*PID, *arguments]), code, *words)


def test_thread_is_refused() -> None:
    """The pid of a thread is answered by whose it is."""
    start = "thread = __import__('threading').Thread(target=lambda: time.sleep(60), daemon=True)\nthread.start()\n"
    with Known(f"{start}ready(tid=thread.native_id)") as known:
        done = run([*PID, str(known.facts["tid"])])
        assert_refused(done, USAGE, f"thread of process {known.pid}")


def test_zombie_is_told_and_not_followed() -> None:
    """Of a zombie there is a page, which says what it is and whose; that is the end, and no failure."""
    with subprocess.Popen([sys.executable, "-c", "pass"]) as ended:
        os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)
        done = run([*PID, str(ended.pid)])
        assert done.returncode == OK
        assert f"waits for its parent {os.getpid()}" in done.stdout
        assert "nothing to follow" in done.stderr
        assert now(str(ended.pid))["state"] == "zombie"


def test_kernel_thread() -> None:
    """A thread of the kernel is told as one, and can be followed."""
    done = run([*PID, "2", "--duration", "1"])
    assert done.returncode == OK
    assert done.stdout.startswith("process      kthreadd 2 (kernel thread)")
    assert READY in done.stderr


def test_pid_inside_a_namespace() -> None:
    """With --pidns a pid is one of that namespace; followed is the process by the machine's pid."""
    with subprocess.Popen(["unshare", "--pid", "--fork", "sleep", "60"]) as outer:
        try:
            deadline = time.monotonic() + END_WITHIN_S
            while not (found := [each for each in psutil.Process(outer.pid).children() if each.name() == "sleep"]):
                assert time.monotonic() < deadline
                time.sleep(0.02)
            told = now("1", "--pidns", f"/proc/{found[0].pid}/ns/pid")
            assert told["target"]["pid"] == found[0].pid
            assert told["process"]["vpid"] == 1
        finally:
            for child in psutil.Process(outer.pid).children():
                child.kill()


def test_from_inside_a_namespace() -> None:
    """Inside a pid namespace there is the page, and the line that nothing can be followed from there, with code 4."""
    done = run(["unshare", "--pid", "--fork", "--mount-proc", *PID, "1"])
    assert done.returncode == 4
    assert done.stdout.startswith("process ")
    assert "inside a pid namespace" in done.stderr


def test_another_users_process() -> None:
    """Who may not look at a process is told what may be known, what was refused, and the fix."""
    with Known("ready()") as known:
        done = as_user([], ["pid", str(known.pid), "--now"])
    assert done.returncode == OK, done.stderr
    assert done.stdout.startswith("process ")
    (refused,) = [line for line in done.stdout.splitlines() if line.startswith("denied ")]
    assert {"files", "executable", "environment"} <= set(refused.replace(",", "").replace(":", "").split())
    assert refused.endswith("run it with sudo to see more")
    assert NOBODY == 65534


def test_backend_without_privilege() -> None:
    """A backend that was asked for by name and is not for this user is code 3, behind the page."""
    with Known("ready()") as known:
        done = as_user([], ["pid", str(known.pid), "--backend", "core"])
    assert done.returncode == PRIVILEGE
    assert done.stdout.startswith("process ")


def test_process_that_ends_meanwhile() -> None:
    """One that ends as soon as it is looked at: the page, then an end in order at the time that was asked for."""
    command = [*PID, "PID", "--duration", "2"]
    with Known("ready()") as known:
        command[2] = str(known.pid)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline().startswith("process ")
            known.go_on()
            rest, _ = tracer.communicate(timeout=END_WITHIN_S)
    assert tracer.returncode == OK
    assert rest.rstrip().splitlines()[-1].endswith("0 lost")


STORM = """
ready()
while True:
    for _ in range(1000):
        if os.fork() == 0:
            os.execv("/bin/true", ["true"])
    for _ in range(1000):
        os.wait()
"""


def test_while_it_forks_a_thousand() -> None:
    """Of a process whose children come and go by the thousand each look gives a whole page, and its own facts."""
    with Known(STORM) as known:
        known.go_on(wait=False)
        for _ in range(3):
            told = now(str(known.pid))
            assert told["process"]["pid"] == known.pid
            assert told["process"]["name"] == psutil.Process(known.pid).name()
            assert {each["pid"] for each in told["lineage"]} >= {os.getpid()}
            assert not {"ended", "mixed"} & told.keys()


FORKS = """
for number in range(1000):
    if os.fork() == 0:
        time.sleep(100)
        os._exit(0)
ready()
"""


def test_a_thousand_children() -> None:
    """All of them are in the bundle, and each is followed: the end of any of them is told."""
    with Known(FORKS) as known, Following(str(known.pid), "--json", "--event", "exit") as following:
        children = psutil.Process(known.pid).children()
        for child in children[::100]:
            child.kill()
            os.kill(known.pid, signal.SIGCONT)
        time.sleep(0.5)
    bundle = following.events[0]["tracer"]["bundle"]
    assert len(bundle["children"]) == len(children) == 1000
    assert {each["pid"] for each in bundle["children"]} == {child.pid for child in children}
    ended = {event["process"]["pid"] for event in find(following.events, "process-exited")}
    assert ended == {child.pid for child in children[::100]}
