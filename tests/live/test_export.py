"""`tracer export`: rotated files that together are one stream, over restarts, signals, and what disks and people do."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zstandard

from tests.tracing import BACKEND, END_WITHIN_S, PATIENCE, READY, READY_WITHIN_S, find
from tracer.cli.errors import Exit

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
BACKENDS = [BACKEND] if BACKEND else ["core", "procfs"]
DAEMON = 1  # a user of every distribution
DONE = re.compile(r"events-(\d{20})\.jsonl(\.gz|\.zst)?")
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".zst": lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data),
}
Lines = list[dict[str, Any]]
# What a small queue makes of a full disk: lost lines.
SMALL_QUEUE = "import functools, tracer.cli.kept as k; k.Durable = functools.partial(k.Durable, queue_most=20_000)"


class Agent:
    """A `tracer export` under way."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path, errors: Path) -> None:
        self.process = process
        self.output = output
        self._errors = errors

    def told(self) -> str:
        """What it has said on stderr."""
        return self._errors.read_text()

    def wait_for(self, what: Callable[[], object], seconds: float = END_WITHIN_S) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.01)

    def says(self, text: str) -> None:
        """Wait until it has said that."""
        self.wait_for(lambda: text in self.told())

    def hang_up(self) -> None:
        """Send SIGHUP."""
        self.process.send_signal(signal.SIGHUP)

    def tells_of(self, pid: int) -> None:
        """Wait until a process is told of in any file that is not compressed."""
        needle = f'"pid":{pid},'.encode()
        place = self.output if self.output.is_dir() else self.output.parent
        self.wait_for(
            lambda: any(needle in path.read_bytes() for path in place.iterdir() if path.suffix not in _UNPACK)
        )

    def end(self, code: int = Exit.OK) -> None:
        """Send SIGTERM, and wait for the end."""
        self.process.terminate()
        assert self.process.wait(END_WITHIN_S) == code, self.told()

    def kill(self) -> None:
        """Kill it, and whatever worker it has, which could else end in order."""
        children = _below(self.process.pid)
        self.process.kill()
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        self.process.wait(END_WITHIN_S)
        self.wait_for(lambda: not any(map(_lives, children)))


def _lives(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@contextmanager
def agent(
    output: Path, *arguments: str, backend: str = BACKENDS[0], prefix: Sequence[str] = (), before: str = ""
) -> Iterator[Agent]:
    """An agent that is ready; it is killed at the end if it still runs. ``before`` is code that runs in it."""
    program = [sys.executable, "-c", f"{before}\nfrom tracer.cli.entry import run\nrun()"]
    command = [*prefix, *program, "export", "--backend", backend, "--no-snapshot", "--output", str(output), *arguments]
    errors = output.with_name(f"{output.name}.errors")
    with errors.open("wb") as file:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    with process:
        started = Agent(process, output, errors)
        try:
            started.wait_for(lambda: READY in started.told() or process.poll() is not None, READY_WITHIN_S)
            assert process.poll() is None, started.told()
            yield started
        finally:
            process.kill()


def refused(output: Path, *arguments: str, prefix: Sequence[str] = ()) -> tuple[int, str]:
    """The code and the line of an agent that does not start."""
    command = [
        *prefix,
        sys.executable,
        "-m",
        "tracer",
        "export",
        "--output",
        str(output),
        "--duration",
        "1",
        *arguments,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60 * PATIENCE)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.returncode, done.stderr


def run(seconds: str = "0") -> int:
    """A process that lives so long, has ended, and whose pid this is."""
    with subprocess.Popen(["/bin/sleep", seconds]) as child:
        assert child.wait(60) == 0
    return child.pid


def files(output: Path) -> list[Path]:
    """The files of a directory in the order of their lines; the last one is that which is written."""
    return sorted(path for path in output.iterdir() if DONE.fullmatch(path.name))


def lines(path: Path) -> Lines:
    """The lines of a file, which are whole."""
    data = _UNPACK.get(path.suffix, bytes)(path.read_bytes())
    assert not data or data.endswith(b"\n"), data[-200:]
    return [json.loads(line) for line in data.splitlines()]


def stream(output: Path) -> Lines:
    """All lines of a directory; each file is named after its first one, and the group may read it, others nothing."""
    found: Lines = []
    for path in files(output):
        part = lines(path)
        assert path.stat().st_mode & 0o7777 == 0o640
        named = DONE.fullmatch(path.name)
        assert named is not None
        assert not part or int(named[1]) == part[0]["event"]["sequence"]
        found += part
    return found


def assert_unbroken(events: Lines, begin: int = 0) -> None:
    """The lines have all numbers from ``begin`` on, once each and in order."""
    numbers = [event["event"]["sequence"] for event in events]
    assert numbers == list(range(begin, begin + len(numbers)))


def last_ledger(events: Lines) -> dict[str, Any]:
    """The ledger that the last line is but for the one that ends the file; it balances."""
    assert events[-1]["event"]["action"] == "tracer-segment-end"
    ledger: dict[str, Any] = events[-2]["tracer"]["ledger"]
    assert (ledger["final"], ledger["balanced"]) == (True, True), ledger
    assert not ledger["total"]["in_flight"]
    return ledger


def sequences(events: Lines) -> list[int]:
    """The numbers of the lines."""
    return [event["event"]["sequence"] for event in events]


@pytest.mark.parametrize("sandbox", [(), ("--no-sandbox",)], ids=["confined", "not confined"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_rotation_by_size(tmp_path: Path, backend: str, sandbox: tuple[str, ...]) -> None:
    """1,009 processes in files of 64 KiB: named after their first lines, and together one stream without a loss.

    Each file is told apart from all others by its first 1,024 bytes.
    """
    output = tmp_path / "log"
    with agent(output, "--rotate-size", "64K", "--keep", "0", *sandbox, backend=backend) as exporter:
        pids = [subprocess.Popen(["/bin/true"]) for _ in range(1009)]
        for each in pids:
            each.wait(60)
        last = run("1")
        exporter.tells_of(last)
        exporter.end()
    assert output.stat().st_mode & 0o7777 == 0o750
    events = stream(output)
    assert_unbroken(events)
    last_ledger(events)
    if backend == "core":  # others may miss them
        assert len(files(output)) > 3
        assert {each.pid for each in pids} <= {event["process"]["pid"] for event in find(events, "process-exited")}
    begins = [path.read_bytes()[:1024] for path in files(output)]
    assert len(set(begins)) == len(begins)


def test_rotation_by_age(tmp_path: Path) -> None:
    """A file that is a second old is done, if there is anything in it."""
    output = tmp_path / "log"
    with agent(output, "--rotate-size", "0", "--rotate-age", "1s") as exporter:
        exporter.wait_for(lambda: len(files(output)) > 1)
        exporter.tells_of(run())
        exporter.wait_for(lambda: len(files(output)) > 2)
        exporter.end()
    events = stream(output)
    assert_unbroken(events)
    last_ledger(events)


def test_opener_that_takes_its_time(tmp_path: Path) -> None:
    """While no file can be had everything goes on; the next is called by its first line, whenever it comes."""
    output = tmp_path / "log"
    with agent(output, "--rotate-size", "64K", "--event", "exec,exit") as exporter:
        (opener,) = (
            pid for pid in _below(exporter.process.pid) if Path(f"/proc/{pid}/comm").read_text() == "tracer_opener\n"
        )
        os.kill(opener, signal.SIGSTOP)
        try:
            for _ in range(211):
                run()
            last = run("1")
        finally:
            os.kill(opener, signal.SIGCONT)
        exporter.tells_of(last)
        exporter.end()
        assert exporter.told().count("\n") == 1, exporter.told()
    assert len(files(output)) > 1
    events = stream(output)
    assert_unbroken(events)
    assert last_ledger(events)["complete"] or BACKENDS[0] != "core"


def test_opener_that_hangs_at_the_end(tmp_path: Path) -> None:
    """Where no other file can be had until the end the one that is there is gone on with: nothing is lost."""
    output = tmp_path / "log"
    with agent(output, "--rotate-size", "64K", "--event", "exec,exit") as exporter:
        (opener,) = (
            pid for pid in _below(exporter.process.pid) if Path(f"/proc/{pid}/comm").read_text() == "tracer_opener\n"
        )
        os.kill(opener, signal.SIGSTOP)
        try:
            for _ in range(211):
                run()
            exporter.end()
        finally:
            os.kill(opener, signal.SIGCONT)
    # The one that was asked for may be made when nobody is left to write to it.
    (written,) = (path for path in files(output) if path.stat().st_size)
    assert written == files(output)[0]
    assert written.stat().st_size > 64 << 10
    events = stream(output)
    assert_unbroken(events)
    last_ledger(events)


@pytest.mark.parametrize(("how", "suffix"), [("gzip", ".gz"), ("zstd", ".zst")])
def test_keep_and_compress(tmp_path: Path, how: str, suffix: str) -> None:
    """The newest 3 that are done stay, and of them the newest is as it was; the others are compressed, and unlocked.

    A new start goes on behind them, and the whole of it is verified.
    """
    output = tmp_path / "log"
    arguments = ("--rotate-size", "64K", "--keep", "3", "--compress", how)

    def settled() -> bool:
        names = [path.suffix for path in files(output)]
        return names == [suffix, suffix, ".jsonl", ".jsonl"]

    with agent(output, *arguments) as exporter:
        for _ in range(600):
            run()
        exporter.wait_for(settled)
        exporter.end()
    found = sorted(path.name for path in output.iterdir())
    assert len(found) == 4, found
    events = stream(output)
    assert_unbroken(events, events[0]["event"]["sequence"])
    last_ledger(events)
    for path in files(output)[2:]:
        path.unlink()
    left = stream(output)[-1]["event"]["sequence"]
    with agent(output, *arguments) as exporter:
        exporter.end()
    newest = lines(files(output)[-1])
    assert newest[0]["event"]["sequence"] == left + 1
    assert find(newest, "tracer-gap")[0]["tracer"]["gap"]["sequence"] == left
    verify = [sys.executable, "-m", "tracer", "verify", str(output)]
    told = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert told.endswith("ok\n"), told


def test_processes_beside_it(tmp_path: Path) -> None:
    """Opener and packer are confined as the kernel shows it, are no news, and end when the tracer is killed."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        found = {}
        for pid in _below(exporter.process.pid):
            status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            found[status["Name"]] = pid
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2"), status
            assert int(status["CapPrm"], 16) == 1 << 1, status  # CAP_DAC_OVERRIDE
        assert set(found) == {"tracer_opener", "tracer_packer"}
        assert os.getpriority(os.PRIO_PROCESS, found["tracer_packer"]) == 19
        exporter.tells_of(run())
        excluded = find(stream(output), "tracer-coverage")[0]["tracer"]["coverage"]["excluded"]
        assert set(found.values()) <= set(excluded)
        exporter.process.kill()
        exporter.process.wait(END_WITHIN_S)
        exporter.wait_for(lambda: not any(map(_lives, found.values())))
    told = find(stream(output), "tracer-confinement")[0]["tracer"]["confinement"]
    assert told["strict"] or told.get("reasons")
    assert told["opener"]["capabilities"] == ["CAP_DAC_OVERRIDE"]


def _below(pid: int) -> list[int]:
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(each for child in children for each in _below(child))]


@pytest.mark.parametrize("backend", BACKENDS)
def test_restart(tmp_path: Path, backend: str) -> None:
    """The numbers go on; the second run says from when to when nobody looked, and nothing else is missing."""
    output = tmp_path / "log"
    with agent(output, backend=backend) as exporter:
        exporter.tells_of(run("1"))
        exporter.end()
    before = stream(output)
    with agent(output, backend=backend) as exporter:
        exporter.tells_of(run("1"))
        exporter.end()
    events = stream(output)
    assert_unbroken(events)
    (gap,) = find(events, "tracer-gap")
    told = gap["tracer"]["gap"]
    assert (told["reason"], told["exact"], told["sequence"]) == ("stopped", True, len(before) - 1)
    assert told["first"] == before[-1]["@timestamp"] < told["last"] <= events[len(before)]["@timestamp"]
    assert "gaps" not in last_ledger(events)["missed"]
    assert len(files(output)) == 2


@pytest.mark.parametrize("backend", BACKENDS)
def test_kill_and_restart(tmp_path: Path, backend: str) -> None:
    """After kill -9 all lines are whole, and the next run tells of a gap of which nobody knows what was in it."""
    output = tmp_path / "log"
    with agent(output, backend=backend) as exporter:
        exporter.tells_of(run("1"))
        exporter.kill()
    before = stream(output)
    with agent(output, backend=backend) as exporter:
        exporter.tells_of(run("1"))
        exporter.end()
    events = stream(output)
    assert_unbroken(events)
    (gap,) = find(events, "tracer-gap")
    told = gap["tracer"]["gap"]
    assert (told["reason"], told["exact"], told["sequence"]) == ("killed", False, len(before) - 1)
    assert told["first"] == before[-1]["@timestamp"]
    ledger = last_ledger(events)
    assert (ledger["missed"]["gaps"], ledger["complete"]) == (1, False)


def test_half_a_line_is_cut_off(tmp_path: Path) -> None:
    """What a crash has left of a line is cut off at the next start, which says so; the lines before stay."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        exporter.tells_of(run())
        exporter.kill()
    with files(output)[-1].open("ab") as file:
        file.write(b'{"@timestamp":"2026')
    with agent(output) as exporter:
        exporter.end()
        assert f"the newest file in {output} ended in half a line: its 19 bytes were cut off" in exporter.told()
    assert_unbroken(stream(output))


def test_worker_is_killed(tmp_path: Path) -> None:
    """Where there is a broker a fresh worker goes on with the numbers, in a file of its own."""
    output = tmp_path / "log"
    with agent(output, backend="procfs") as exporter:
        exporter.tells_of(run("1"))
        names = {Path(f"/proc/{pid}/comm").read_text().strip(): pid for pid in _below(exporter.process.pid)}
        (worker,) = (pid for name, pid in names.items() if not name.startswith("tracer_"))
        os.kill(worker, signal.SIGKILL)
        exporter.wait_for(lambda: exporter.told().count(READY) == 2)
        exporter.tells_of(run("1"))
        exporter.end()
    events = stream(output)
    assert_unbroken(events)
    assert find(events, "tracer-backend", tracer__change__state="restarted")
    assert not find(events, "tracer-gap")
    last_ledger(events)


def test_one_at_a_time(tmp_path: Path) -> None:
    """Two can't write to one directory: the second ends with one line, and the first goes on."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        code, line = refused(output)
        assert code == Exit.FAILURE
        assert line.startswith(f"tracer: another tracer export writes to {output}: ")
        exporter.tells_of(run())
        exporter.end()
    assert_unbroken(stream(output))


def test_logrotate_create(tmp_path: Path) -> None:
    """The real logrotate with create and a SIGHUP behind it, seven times under load: together they are the stream."""
    output = tmp_path / "log"
    output.mkdir()
    with agent(output / "events.jsonl", "--rotate-size", "0") as exporter:
        for _ in range(7):
            exporter.tells_of(run())
            after = f"postrotate\n  kill -HUP {exporter.process.pid}\nendscript"
            logrotate(tmp_path, output / "events.jsonl", "create 0640 root root", "rotate 20", after)
            exporter.wait_for(lambda: (output / "events.jsonl").stat().st_size > 0 or run())
        exporter.end()
        assert exporter.told().count("\n") == 1, exporter.told()
    parts = sorted(output.glob("events.jsonl.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
    assert len(parts) == 7
    events = [event for path in [*parts, output / "events.jsonl"] for event in lines(path)]
    assert_unbroken(events)
    assert last_ledger(events)["complete"]


def test_logrotate_copytruncate(tmp_path: Path) -> None:
    """copytruncate is found out and warned of, the stream says that lines may be missing, and everything goes on."""
    output = tmp_path / "log"
    output.mkdir()
    with agent(output / "events.jsonl", "--rotate-size", "0") as exporter:
        first = run()
        exporter.tells_of(first)
        logrotate(tmp_path, output / "events.jsonl", "copytruncate", "rotate 5")
        exporter.tells_of(run())
        exporter.says("was cut by somebody")
        exporter.end()
    events = lines(output / "events.jsonl.1") + lines(output / "events.jsonl")
    (gap,) = find(events, "tracer-gap")
    assert (gap["tracer"]["gap"]["reason"], gap["tracer"]["gap"]["exact"]) == ("truncated", False)
    ledger = last_ledger(events)
    assert (ledger["missed"]["gaps"], ledger["complete"]) == (1, False)


def logrotate(place: Path, path: Path, *directives: str) -> None:
    """Run it once on one file, with a state of its own."""
    config = place / "logrotate.conf"
    config.write_text("\n".join([f"{path} {{", "su root root", *directives, "}", ""]))
    config.chmod(0o644)
    subprocess.run(
        ["/usr/sbin/logrotate", "--force", "--state", str(place / "state"), str(config)], check=True, timeout=60
    )


def test_storm_of_signals(tmp_path: Path) -> None:
    """10,000 SIGHUPs while 101 processes run: one file, one stream."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        pids = []
        for _ in range(101):
            pids.append(run())
            for _ in range(99):
                exporter.hang_up()
        exporter.hang_up()
        exporter.tells_of(run())
        exporter.end()
        assert exporter.told().count("\n") == 1, exporter.told()
    assert len(files(output)) == 1
    events = stream(output)
    assert_unbroken(events)
    if BACKENDS[0] == "core":
        assert set(pids) <= {event["process"]["pid"] for event in find(events, "process-executed")}
    last_ledger(events)


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A tmpfs of that size on a directory of the test's own."""
    disk = place / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def remount(disk: Path, how: str) -> None:
    """Mount it again with other options."""
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


def test_disk_is_full_for_a_while(tmp_path: Path) -> None:
    """What does not fit on the disk waits until it does: told once, nothing is lost, and no line is torn."""
    with small_disk(tmp_path, "256k") as disk, agent(disk / "log", "--rotate-size", "0") as exporter:
        while "No space left on device" not in exporter.told():
            run()
        pids = [run() for _ in range(23)]
        remount(disk, "size=20m")
        exporter.says("can be written again")
        exporter.tells_of(pids[-1])
        exporter.end()
        assert exporter.told().count("No space left") == 1
        events = stream(disk / "log")
    assert_unbroken(events)
    ledger = last_ledger(events)
    assert not ledger["total"]["lost_by_stage"]["sink"]
    if BACKENDS[0] == "core":
        assert set(pids) <= {event["process"]["pid"] for event in find(events, "process-executed")}
        assert ledger["complete"]


def test_disk_is_full_for_longer(tmp_path: Path) -> None:
    """What there is no room for even in memory is lost, and counted to the event.

    The numbers that are missing from the files are as many as the ledger and the loss records say.
    """
    with (
        small_disk(tmp_path, "256k") as disk,
        agent(disk / "log", "--rotate-size", "0", "--event", "exec,exit", before=SMALL_QUEUE) as exporter,
    ):
        while "No space left on device" not in exporter.told():
            run()
        for _ in range(211):
            run()
        remount(disk, "size=20m")
        exporter.says("can be written again")
        exporter.tells_of(run())
        exporter.end()
        events = stream(disk / "log")
    numbers = sequences(events)
    assert numbers == sorted(set(numbers))
    ledger = last_ledger(events)
    lost = ledger["total"]["lost_by_stage"]["sink"]
    told = sum(each["tracer"]["loss"]["count"] for each in find(events, "tracer-loss", tracer__loss__stage="sink"))
    assert lost > 100
    assert told == lost
    kinds = ("process-executed", "process-exited")
    shown = sum(event["event"]["action"] in kinds for event in events)
    assert ledger["total"]["delivered"] == shown
    notices = numbers[-1] + 1 - lost - len(events)  # ledgers that found no room have a number, too
    assert 0 <= notices <= 10


def test_disk_is_full_until_the_end(tmp_path: Path) -> None:
    """Where it stays full the end is code 1 and the number of events; the next run has whole lines and the gap."""
    with small_disk(tmp_path, "256k") as disk:
        output = disk / "log"
        with agent(output, "--rotate-size", "0") as exporter:
            while "No space left on device" not in exporter.told():
                run()
            exporter.end(Exit.FAILURE)
            line = exporter.told().splitlines()[-1]
            assert re.search(r"No space left on device; make room there.*; [\d,]+ events that waited are lost", line)
        remount(disk, "size=20m")
        with agent(output, "--rotate-size", "0") as exporter:
            exporter.tells_of(run())
            exporter.end()
        events = stream(output)
    assert_unbroken(events)
    (gap,) = find(events, "tracer-gap")
    assert (gap["tracer"]["gap"]["reason"], gap["tracer"]["gap"]["exact"]) == ("killed", False)


def test_file_is_deleted(tmp_path: Path) -> None:
    """It is made anew, loudly, and the stream says that an unknown number of lines is gone."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        exporter.tells_of(run())
        files(output)[-1].unlink()
        exporter.says(f"the newest file in {output} was deleted, and with it what was in there; it is made anew")
        exporter.tells_of(run())
        exporter.end()
    events = stream(output)
    assert_unbroken(events, events[0]["event"]["sequence"])
    (gap,) = find(events, "tracer-gap")
    assert (gap["tracer"]["gap"]["reason"], gap["tracer"]["gap"]["exact"]) == ("deleted", False)
    assert last_ledger(events)["missed"]["gaps"] == 1


def test_directory_is_gone_and_comes_back(tmp_path: Path) -> None:
    """While file and directory are gone lines wait; they are written when the directory is there again."""
    output = tmp_path / "log"
    away = tmp_path / "away"
    with agent(output) as exporter:
        exporter.tells_of(run())
        output.rename(away)
        files(away)[-1].unlink()
        exporter.says("was deleted, and can't be made anew: No such file or directory")
        pids = [run() for _ in range(23)]
        away.rename(output)
        exporter.says("is there again, and what has waited is written")
        exporter.tells_of(pids[-1])
        exporter.end()
    events = stream(output)
    assert_unbroken(events, events[0]["event"]["sequence"])
    if BACKENDS[0] == "core":
        assert set(pids) <= {event["process"]["pid"] for event in find(events, "process-executed")}
    assert last_ledger(events)["missed"]["gaps"] == 1


def test_directory_is_removed(tmp_path: Path) -> None:
    """In another directory a confined process can't write: that is told, the end is code 1; the next start works."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        exporter.tells_of(run())
        shutil.rmtree(output)
        exporter.says("was deleted, and can't be made anew")
        output.mkdir()
        exporter.says("its directory is another one now")
        exporter.end(Exit.FAILURE)
        # What waited is told with its number, if anything did in that moment; what was deleted has none.
        assert re.search(r"events that waited are lost|with it lines were lost", exporter.told().splitlines()[-1])
    assert list(output.iterdir()) == []
    with agent(output) as exporter:
        exporter.tells_of(run())
        exporter.end()
    assert_unbroken(stream(output))


def test_link_in_its_place(tmp_path: Path) -> None:
    """A link in the place of the file is told and never followed; what was open is gone on with."""
    output = tmp_path / "log"
    output.mkdir()
    other = tmp_path / "other"
    with agent(output / "events.jsonl", "--rotate-size", "0") as exporter:
        exporter.tells_of(run())
        (output / "events.jsonl").rename(output / "old.jsonl")
        (output / "events.jsonl").symlink_to(other)
        exporter.says("it is a symbolic link; it goes on in the file that was open")
        pid = run()
        exporter.wait_for(lambda: f'"pid":{pid},' in (output / "old.jsonl").read_text())
        exporter.end()
    assert not other.exists()
    events = lines(output / "old.jsonl")
    assert_unbroken(events)
    last_ledger(events)


def test_directory_that_is_a_link(tmp_path: Path) -> None:
    """It is refused at the start, with one line."""
    (tmp_path / "real").mkdir()
    (tmp_path / "log").symlink_to(tmp_path / "real")
    code, line = refused(tmp_path / "log")
    assert code == Exit.FAILURE
    assert "it is a symbolic link; name a directory with --output" in line
    assert list((tmp_path / "real").iterdir()) == []


def test_read_only_from_the_start(tmp_path: Path) -> None:
    """A disk that can't be written to is one line and code 1."""
    with small_disk(tmp_path, "1m") as disk:
        (disk / "log").mkdir()
        remount(disk, "ro")
        code, line = refused(disk / "log")
        assert code == Exit.FAILURE
        assert f"can't open a file in {disk / 'log'}: Read-only file system" in line
        code, line = refused(disk / "other")
        assert code == Exit.FAILURE
        assert f"can't use {disk / 'other'}: Read-only file system" in line


@pytest.fixture(name="open_path")
def _open_path() -> Iterator[Path]:
    """A directory that everybody can come to; pytest closes its own when another one is started."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_directory_that_becomes_read_only(open_path: Path) -> None:
    """An ordinary user's file that can't be rotated goes on growing, which is told once, until it can be."""
    output = open_path / "log"
    output.mkdir()
    os.chown(output, DAEMON, DAEMON)
    output.chmod(0o555)
    prefix = ["setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", "--clear-groups"]
    code, line = refused(output, "--backend", "procfs", prefix=prefix)
    assert code == Exit.FAILURE
    assert "Permission denied" in line
    output.chmod(0o750)
    with agent(output, "--rotate-size", "0", "--rotate-age", "1s", backend="procfs", prefix=prefix) as exporter:
        output.chmod(0o555)
        exporter.says(f"can't rotate the newest file in {output}: Permission denied; it goes on in the file")
        count = len(files(output))
        output.chmod(0o750)
        exporter.wait_for(lambda: len(files(output)) > count)
        exporter.end()
        assert exporter.told().count("can't rotate") == 1
    events = stream(output)
    assert_unbroken(events)
    last_ledger(events)


def test_opener_is_killed(tmp_path: Path) -> None:
    """Without anybody to rotate it ends in order with code 1: who started it starts it again."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        exporter.tells_of(run())
        (opener,) = (
            pid for pid in _below(exporter.process.pid) if Path(f"/proc/{pid}/comm").read_text() == "tracer_opener\n"
        )
        os.kill(opener, signal.SIGKILL)
        assert exporter.process.wait(END_WITHIN_S) == Exit.FAILURE
        assert f"the process that keeps {output} is gone; start this again" in exporter.told()
    events = stream(output)
    assert_unbroken(events)
    last_ledger(events)


@pytest.mark.parametrize("policy", ["never", "rotate", "second", "batch"])
def test_fsync(tmp_path: Path, policy: str) -> None:
    """As strace sees it in the writing thread: never, at the end, and beside that each second or after each batch."""
    output, trace = tmp_path / "log", tmp_path / "trace"
    prefix = ["strace", "-f", "-e", "trace=fsync,writev", "-o", str(trace)]
    with agent(output, "--fsync", policy, "--no-sandbox", prefix=prefix) as exporter:
        pid, *beside = _below(exporter.process.pid)
        try:
            exporter.tells_of(run())
            exporter.wait_for(lambda: policy != "second" or trace.read_text().count("fsync(") > 1)
            before = trace.read_text().count("fsync(") - 1
        finally:
            os.kill(pid, signal.SIGTERM)
        assert exporter.process.wait(END_WITHIN_S) == Exit.OK, exporter.told()
    # Whatever the policy, the opener syncs the directory, so that a file does not lose its name.
    found = [(int(pid), call) for pid, call in re.findall(r"^(\d+) +(\w+)\(", trace.read_text(), re.MULTILINE)]
    assert any(who in beside and call == "fsync" for who, call in found)
    synced = [who for who, call in found if call == "fsync" and who not in beside]
    writes = [who for who, call in found if call == "writev"]
    if policy == "never":
        assert synced == []
    elif policy == "rotate":
        assert (before, len(synced)) == (0, 1)
    elif policy == "second":
        assert before >= 1
    else:
        assert len(synced) >= len(writes) > 0


def test_settings_change(tmp_path: Path) -> None:
    """SIGHUP takes what can change; what can't is refused by name, again each time, and keeps its value."""
    output, config = tmp_path / "log", tmp_path / "tracer.toml"
    config.write_text('rotate_size = "0"\nevent = ["exec", "exit"]\nbuffer = "4M"\n')
    with agent(output, "--config", str(config)) as exporter:
        exporter.tells_of(run())
        config.write_text('rotate_age = "1s"\nevent = ["exec"]\nbuffer = "8M"\nrotate_size = "0"\n')
        exporter.hang_up()
        exporter.says(f"{config}: changed event, rotate_age")
        assert f"{config}: buffer keeps its value: that takes a restart" in exporter.told()
        exporter.wait_for(lambda: len(files(output)) > 2)
        second = run()
        exporter.tells_of(second)
        config.write_text("rotate_age = 1s\n")
        exporter.hang_up()
        exporter.says(f"{config}, line 1: no TOML: ")
        config.write_text('event = ["connect"]\nrotate_age = "1s"\nrotate_size = "0"\nbuffer = "4M"\n')
        exporter.hang_up()
        exporter.says(f"{config}: event keeps its value: the kernel leaves out more since the start")
        config.unlink()
        exporter.hang_up()
        exporter.says(f"can't read {config}: No such file or directory; nothing is changed")
        exporter.tells_of(run())
        exporter.end()
    events = stream(output)
    assert_unbroken(events)
    said = [each["tracer"]["config"] for each in find(events, "tracer-config")]
    assert said == [
        {"changed": ["event", "rotate_age"], "refused": ["buffer"]},
        {"changed": [], "refused": ["event"]},
    ]
    if BACKENDS[0] == "core":
        assert not find(events, "process-exited", pid=second)
    last_ledger(events)


def test_command_line_is_stronger(tmp_path: Path) -> None:
    """What was typed is not changed by the file, at the start nor by a SIGHUP."""
    output, config = tmp_path / "log", tmp_path / "tracer.toml"
    config.write_text('event = ["exec"]\n')
    with agent(output, "--config", str(config), "--event", "exec,exit") as exporter:
        pid = run()
        exporter.wait_for(lambda: find(stream(output), "process-exited", pid=pid) or BACKENDS[0] != "core")
        config.write_text('event = ["exit"]\n')
        exporter.hang_up()
        exporter.says("event keeps its value: the command line says otherwise")
        exporter.tells_of(run())
        exporter.end()
    last_ledger(stream(output))


def test_rules_for_secrets_change(tmp_path: Path) -> None:
    """SIGHUP reads the file of --redact again: what is run then is told by the new rules; bad ones change nothing."""
    output, rules = tmp_path / "log", tmp_path / "rules"
    rules.write_text("word corp-\n")
    with agent(output, "--redact", str(rules), "--event", "exec") as exporter:

        def shown(*arguments: str) -> list[str]:
            with subprocess.Popen(["/bin/true", *arguments]) as child:
                child.wait(60)
            exporter.tells_of(child.pid)
            (told,) = find(stream(output), "process-executed", pid=child.pid)
            return [str(each) for each in told["process"]["args"][1:]]

        if BACKENDS[0] == "core":
            assert shown("corp-1", "acme-1") == ["[redacted]", "acme-1"]
        rules.write_text("word acme-\n")
        exporter.hang_up()
        exporter.says(f"{rules}: the rules are taken")
        if BACKENDS[0] == "core":
            assert shown("corp-2", "acme-2") == ["corp-2", "[redacted]"]
        rules.write_text("nonsense\n")
        exporter.hang_up()
        exporter.says(f"{rules}: line 1: give name NAME")
        if BACKENDS[0] == "core":
            assert shown("corp-3", "acme-3") == ["corp-3", "[redacted]"]
        exporter.end()
    events = stream(output)
    said = [each["tracer"]["config"] for each in find(events, "tracer-config")]
    assert said == [{"changed": ["redact"], "refused": []}]
    last_ledger(events)


def test_file_that_is_renamed(tmp_path: Path) -> None:
    """Somebody's new name for the file is no loss: it is gone on with in another file, which has its own number."""
    output = tmp_path / "log"
    with agent(output) as exporter:
        exporter.tells_of(run())
        (path,) = files(output)
        path.rename(tmp_path / "theirs")
        exporter.wait_for(lambda: len(files(output)) == 1)
        exporter.tells_of(run())
        exporter.end()
    (path,) = files(output)
    events = [*lines(tmp_path / "theirs"), *stream(output)]
    assert_unbroken(events)
    assert last_ledger(events)["complete"] or BACKENDS[0] != "core"


def test_one_file(tmp_path: Path) -> None:
    """With the name of a file that is written, and it is rotated under that name."""
    path = tmp_path / "place" / "agent.jsonl"
    path.parent.mkdir()
    with agent(path, "--rotate-age", "1s") as exporter:
        exporter.wait_for(lambda: len(list(path.parent.glob("agent-*.jsonl"))) > 0)
        exporter.end()
    parts = [*sorted(path.parent.glob("agent-*.jsonl")), path]
    assert_unbroken([event for part in parts for event in lines(part)])


def test_clock_steps_do_not_rotate(tmp_path: Path) -> None:
    """A file's age is measured by a clock that nobody sets: beside a wall clock of another year nothing happens."""
    output = tmp_path / "log"
    before = "import time; now = time.time_ns; time.time_ns = lambda: now() + 10**17"
    with agent(output, "--rotate-age", "1h", before=before) as exporter:
        exporter.tells_of(run())
        exporter.end()
    assert len(files(output)) == 1
    assert_unbroken(stream(output))
