"""The stats file: replaced whole by a process of its own, confined, whatever its reader and its disk do."""

import os
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.tracing import PATIENCE
from tracer.cli.figures import render
from tracer.cli.sandbox import Mode, confine_opener
from tracer.confine.stats_file import stats_plan
from tracer.fallback.stats_file import CONTENT_MOST, StatsFile, StatsFileLostError


def started(path: Path, mode: Mode = Mode.BEST) -> tuple[StatsFile, dict[str, Any]]:
    """A file with its process, and how that is confined."""
    file = StatsFile.start(path, lambda fd: confine_opener(mode, stats_plan(path.parent, fd)), bytes)
    return file, file.confined()


def ended(file: StatsFile) -> None:
    """Let its process end, and take what is left of it."""
    file.close()
    os.waitpid(file.pid, 0)


def await_content(path: Path, content: bytes) -> None:
    """Wait until the file is this."""
    deadline = time.monotonic() + 20 * PATIENCE
    while path.read_bytes() != content and time.monotonic() < deadline:
        time.sleep(0.01)
    assert path.read_bytes() == content


def test_what_is_sent_is_in_the_file(tmp_path: Path) -> None:
    """Each content replaces the one before, whole, readable for all whatever the umask, and nothing else is left."""
    path = tmp_path / "t.prom"
    before = os.umask(0o077)
    try:
        file, _ = started(path)
    finally:
        os.umask(before)
    for content in (b"one\n", b"x" * (CONTENT_MOST - 1) + b"\n", b"two\n"):
        file.send(content)
        await_content(path, content)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    ended(file)
    assert [each.name for each in tmp_path.iterdir()] == ["t.prom"]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    """Who reads all the time sees whole contents alone, of either size."""
    path = tmp_path / "t.prom"
    file, _ = started(path)
    contents = {b"", b"a" * 100, b"b" * 50_000, b"the end"}
    seen: set[bytes] = set()
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        file.send(b"b" * 50_000 if number % 2 else b"a" * 100)
        time.sleep(0.001)
    deadline = time.monotonic() + 20 * PATIENCE
    while path.read_bytes() != b"the end" and time.monotonic() < deadline:
        file.send(b"the end")  # which is nothing while it is busy
        time.sleep(0.01)
    stop.set()
    reader.join()
    ended(file)
    assert path.read_bytes() == b"the end"
    assert seen <= contents
    assert len(seen) > 1


def test_its_process_is_confined(tmp_path: Path) -> None:
    """As the kernel shows it: no capability but CAP_DAC_OVERRIDE, no_new_privs, a filter; nothing is missing."""
    file, told = started(tmp_path / "t.prom")
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{file.pid}/status").read_text().splitlines() if ":\t" in line
    )
    assert status["Name"] == "tracer_stats"
    assert int(status["CapEff"], 16) & ~(1 << 1) == 0  # CAP_DAC_OVERRIDE is number 1
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert told["enabled"] is True
    assert told["layers"]["seccomp"] == told["layers"]["no_new_privileges"] == "enforced"
    ended(file)


def test_a_full_disk_or_a_lost_directory_is_survived(tmp_path: Path) -> None:
    """What can't be written leaves the file as it was, and what comes later is written when that is possible again."""
    place = tmp_path / "place"
    place.mkdir()
    path = place / "t.prom"
    file, _ = started(path)
    file.send(b"one\n")
    await_content(path, b"one\n")
    # A directory in place of the new file is what it can neither remove nor write.
    (place / ".t.prom.new").mkdir()
    file.send(b"two\n")
    file.send(b"three\n")
    time.sleep(0.2)
    assert path.read_bytes() == b"one\n"
    (place / ".t.prom.new").rmdir()
    file.send(b"four\n")
    await_content(path, b"four\n")
    ended(file)


def test_a_killed_process_is_told(tmp_path: Path) -> None:
    """When its process is killed, sending says so."""
    file, _ = started(tmp_path / "t.prom")
    os.kill(file.pid, 9)
    os.waitpid(file.pid, 0)
    with pytest.raises(StatsFileLostError):
        file.send(b"x")
    file.close()


def test_no_directory(tmp_path: Path) -> None:
    """Where there is no directory, or the file is one, it does not start."""
    for path in (tmp_path / "absent/t.prom", tmp_path):
        with pytest.raises(OSError, match=r"No such file|Is a directory|not empty|exists"):
            StatsFile.start(path, lambda _: {}, bytes)


def test_ends_with_its_asker(tmp_path: Path) -> None:
    """It ignores what a terminal or a service sends to all, and ends when nobody can send to it any more."""
    file, _ = started(tmp_path / "t.prom")
    for number in (1, 2, 15):
        os.kill(file.pid, number)
    file.send(b"still\n")
    await_content(tmp_path / "t.prom", b"still\n")
    file.close()
    assert os.waitpid(file.pid, 0)[1] == 0


@pytest.mark.parametrize("content", [b"x", b"[]", b"{}", b"1", b"\xff"])
def test_what_is_no_fact_ends_it(tmp_path: Path, content: bytes) -> None:
    """Whatever else it is sent ends it, and the file stays as it was."""
    file = StatsFile.start(tmp_path / "t.prom", lambda _: {}, render)
    file.confined()
    file.send(content)
    assert os.waitstatus_to_exitcode(os.waitpid(file.pid, 0)[1]) == 1
    assert (tmp_path / "t.prom").read_bytes() == b""
    file.close()
