"""The command line against bad input and bad surroundings: the documented exit code, one clear line, no traceback."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
TRACER = Path(sys.executable).with_name("tracer")
LIVE = (str(TRACER), "live", "--json")
NOBODY = 65534
DEADLINE = 60
MINUTE = timedelta(minutes=1)
OK, FAILURE, USAGE, PRIVILEGE, UNUSABLE = 0, 1, 2, 3, 4
MOUNTED = Path("/mnt")  # covered in a mount namespace of the test's own, so that nothing has to be made or removed

# Shell that makes a mount namespace have no tracefs, or one where it belongs.
NO_TRACEFS = "umount -q -l /sys/kernel/tracing /sys/kernel/debug/tracing /sys/kernel/debug || :"
TRACEFS = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs /sys/kernel/tracing"

Finished = subprocess.CompletedProcess[str]


def run(command: Sequence[str], **environment: str) -> Finished:
    """Runs a command to its end, within DEADLINE seconds."""
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=DEADLINE, env=os.environ | environment
    )


def in_mount_namespace(script: str, command: Sequence[str]) -> Finished:
    """Runs a command after a shell script that mounts and unmounts what only this command sees."""
    shell = ["sh", "-ec", f'{script}\nexec "$@"', "sh", *command]
    return run(["unshare", "--mount", "--propagation", "private", *shell])


def as_user(capabilities: Sequence[str], arguments: Sequence[str], mounts: str = ":") -> Finished:
    """Runs `tracer` with arguments as an ordinary user with just these capabilities, after a script of mounts.

    The checkout may lie where only root can go, so the user gets it mounted elsewhere.
    """
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    wanted = ",".join(["-all", *(f"+{name.lower().removeprefix('cap_')}" for name in capabilities)])
    drop += [f"--{which}={wanted}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    places = {MOUNTED / "checkout": ROOT, MOUNTED / "venv": Path(sys.prefix)}
    binds = [f"mkdir {there}; mount --bind '{here}' {there}" for there, here in places.items()]
    script = "\n".join([mounts, f"mount -t tmpfs tmpfs {MOUNTED}", *binds, "cd /"])
    tracer = ["env", f"PYTHONPATH={MOUNTED}/checkout", f"{MOUNTED}/venv/bin/python", "-m", "tracer"]
    return in_mount_namespace(script, [*drop, *tracer, *arguments])


def assert_refused(finished: Finished, code: int, *words: str) -> None:
    """Asserts the exit code and that stderr is one line, from the tracer, which has all of the words."""
    assert finished.returncode == code, finished.stderr
    assert finished.stderr.startswith("tracer: ")
    assert finished.stderr.count("\n") == 1, finished.stderr
    for word in words:
        assert word.lower() in finished.stderr.lower()


def actions(lines: Sequence[str]) -> list[str]:
    """The event.action of each line."""
    return [json.loads(line)["event"]["action"] for line in lines]


def own_record(line: str, name: str) -> dict[str, Any]:
    """What a line carries under tracer.NAME, such as a ledger."""
    found: dict[str, Any] = json.loads(line)["tracer"][name]
    return found


def test_closed_pipe_is_a_normal_end() -> None:
    """`tracer live --json | head -3` gives three whole lines, ends with 0 and says nothing that looks like an error."""
    with subprocess.Popen(LIVE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stdout is not None
        head = subprocess.Popen(["head", "-3"], stdin=tracer.stdout, stdout=subprocess.PIPE, text=True)
        tracer.stdout.close()
        lines, _ = head.communicate(timeout=DEADLINE)
        assert tracer.stderr is not None
        said = tracer.stderr.read()
        assert tracer.wait(DEADLINE) == OK
    assert len(actions(lines.splitlines())) == 3
    assert "Traceback" not in said
    assert "Broken pipe" not in said


@pytest.mark.parametrize("options", [(), ("--no-sandbox",)], ids=["confined", "not confined"])
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_drains_and_ends_with_the_ledger(
    ending: signal.Signals, options: tuple[str, ...], tmp_path: Path
) -> None:
    """What happened before a signal that ends it is all written, then the final ledger, then nothing; the code is 0."""
    output, said = tmp_path / "output", tmp_path / "stderr"
    begin = datetime.now(UTC)
    with output.open("w") as stdout, said.open("w") as stderr:
        tracer = subprocess.Popen([*LIVE, *options], stdout=stdout, stderr=stderr)
    try:
        deadline = time.monotonic() + DEADLINE
        while "tracer: ready" not in said.read_text():
            assert tracer.poll() is None, said.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        ran = [subprocess.Popen(["/bin/true", str(i)]) for i in range(7)]
        assert [child.wait(DEADLINE) for child in ran] == [0] * 7
        tracer.send_signal(ending)
        assert tracer.wait(DEADLINE) == OK, said.read_text()
    finally:
        tracer.kill()
        tracer.wait()
    events = [json.loads(line) for line in output.read_text().splitlines()]
    # The clock may be stepped a little while the test runs; what is looked for is another epoch.
    for event in events:
        time_of = datetime.fromisoformat(event["@timestamp"])
        assert begin - MINUTE < time_of < datetime.now(UTC) + MINUTE, event
    pids = {child.pid for child in ran}
    for action in ("process-executed", "process-exited"):
        seen = [event["process"]["pid"] for event in events if event["event"]["action"] == action]
        assert sorted(pid for pid in seen if pid in pids) == sorted(pids)
    ledgers = [i for i, event in enumerate(events) if event["event"]["action"] == "tracer-ledger"]
    assert ledgers[-1] == len(events) - 1
    ledger = events[-1]["tracer"]["ledger"]
    assert ledger["final"]
    assert ledger["balanced"]
    assert ledger["total"]["in_flight"] == 0
    assert "Traceback" not in said.read_text()


def test_ordinary_user_is_told_the_fix() -> None:
    """Without any privilege, `--backend core` ends with 3 and one line that names the way out."""
    assert_refused(as_user([], ["live", "--json", "--backend", "core"]), PRIVILEGE, "sudo")


def needed_capabilities(mounts: str) -> list[str]:
    """What doctor tells an ordinary user without any, where these mounts are."""
    told = as_user([], ["doctor", "--json"], mounts)
    capabilities = json.loads(told.stdout)["capabilities"]
    assert capabilities["missing"] == capabilities["needed"]
    needed: list[str] = capabilities["needed"]
    assert needed
    return needed


SHORT = ("live", "--json", "--backend", "core", "--duration", "300ms")


@pytest.mark.parametrize("mounts", [NO_TRACEFS, TRACEFS], ids=["without tracefs", "with tracefs"])
def test_ordinary_user_with_the_named_capabilities_sees_everything(mounts: str) -> None:
    """An ordinary user with exactly the capabilities that doctor names to it gets every hook and the whole stream."""
    finished = as_user(needed_capabilities(mounts), SHORT, mounts)
    assert finished.returncode == OK, finished.stderr
    lines = finished.stdout.splitlines()
    assert own_record(lines[0], "coverage").get("refused", {}).keys() <= {"fexit"}  # what takes its place is there
    assert "process-running" in actions(lines)
    ledger = own_record(lines[-1], "ledger")
    assert ledger["final"]
    assert ledger["complete"]


def test_no_named_capability_is_too_many() -> None:
    """With tracefs mounted, leaving out any capability that doctor names ends with 3 or leaves a hook refused."""
    needed = needed_capabilities(TRACEFS)
    for absent in needed:
        finished = as_user([name for name in needed if name != absent], SHORT, TRACEFS)
        if finished.returncode != PRIVILEGE:
            assert finished.returncode == OK, finished.stderr
            assert own_record(finished.stdout.splitlines()[0], "coverage")["refused"].keys() - {"fexit"}, absent


def test_full_disk_is_one_line() -> None:
    """An output that runs full ends the program with 1 and the system's reason."""
    mount = f"mount -t tmpfs -o size=8k tmpfs {MOUNTED}"
    finished = in_mount_namespace(mount, [*LIVE, "--output", f"{MOUNTED}/output", "--duration", "20"])
    assert finished.returncode == FAILURE
    assert "No space left on device" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_full_stdout_is_one_line() -> None:
    """The same on stdout."""
    with Path("/dev/full").open("w") as full:
        finished = subprocess.run(
            [*LIVE, "--duration", "20"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=DEADLINE
        )
    assert finished.returncode == FAILURE
    assert "No space left on device" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_read_only_disk_is_one_line() -> None:
    """An output that can't be created ends the program with 1 before any probe is loaded."""
    mount = f"mount -t tmpfs -o ro tmpfs {MOUNTED}"
    finished = in_mount_namespace(mount, [*LIVE, "--output", f"{MOUNTED}/output"])
    assert_refused(finished, FAILURE, "Read-only file system", f"{MOUNTED}/output")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--cidr", "foo"),
        ("--cidr", "10.0.0.0/33"),
        ("--port", "99999"),
        ("--port", "0"),
        ("--port", "http"),
        ("--uid", "nosuch"),
        ("--event", "bogus"),
        ("--netns", "x"),
        ("--pid", "0"),
        ("--pid", "-1"),
        ("--pid", "x"),
        ("--buffer", "lots"),
        ("--buffer", "-1"),
        ("--duration", "-1"),
        ("--count", "0"),
        ("--backend", "bogus"),
        ("--format", "bogus"),
        ("--bogus", "1"),
    ],
)
def test_unknown_value_is_a_usage_error(option: str, value: str) -> None:
    """A value that an option can't have, or an unknown option, ends with 2 and one line that names the option."""
    assert_refused(run([*LIVE, option, value]), USAGE, option)


def test_runs_without_tracefs() -> None:
    """Without tracefs and debugfs the probes that need neither still run, to a normal end."""
    finished = in_mount_namespace(NO_TRACEFS, [*LIVE, "--duration", "2"])
    assert finished.returncode == OK, finished.stderr
    lines = finished.stdout.splitlines()
    assert "process-running" in actions(lines)
    assert own_record(lines[-1], "ledger")["balanced"]


def test_missing_libbpf_is_one_line() -> None:
    """Without libbpf the core backend ends with 4 and names the library and where it looked."""
    absent = "/nonexistent/libbpf.so.1"
    assert_refused(run([*LIVE, "--backend", "core"], TRACER_LIBBPF=absent), UNUSABLE, "libbpf", absent)


def test_without_btf_and_headers(tmp_path: Path) -> None:
    """Without BTF auto goes on to bcc, and without headers to what takes no BPF, with a line and the fix for each step.

    The coverage record has the same reasons. bcc by itself ends with 4.
    """
    hide = f"mount --bind {tmp_path} /sys/kernel/btf; [ ! -d /lib/modules ] || mount -t tmpfs tmpfs /lib/modules"
    finished = in_mount_namespace(hide, [*LIVE, "--backend", "auto", "--duration", "0.5"])
    assert finished.returncode == OK, finished.stderr
    core, bcc, ready = finished.stderr.splitlines()
    assert "not with core" in core
    assert "BTF" in core
    assert "not with bcc" in bcc
    assert f"linux-headers-{os.uname().release}" in bcc
    assert "ready" in ready
    coverage = own_record(finished.stdout.splitlines()[0], "coverage")
    assert coverage["backend"] not in {"core", "bcc"}
    assert [f"tracer: not with {name}: {why}" for name, why in coverage["steps_down"].items()] == [core, bcc]
    refused = in_mount_namespace(hide, [*LIVE, "--backend", "bcc"])
    assert_refused(refused, UNUSABLE, f"linux-headers-{os.uname().release}")


def test_missing_btf_is_one_line(tmp_path: Path) -> None:
    """On a kernel without BTF the core backend ends with 4 and says so."""
    finished = in_mount_namespace(f"mount --bind {tmp_path} /sys/kernel/btf", [*LIVE, "--backend", "core"])
    assert_refused(finished, UNUSABLE, "BTF")
