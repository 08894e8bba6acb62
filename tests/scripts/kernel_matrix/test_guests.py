"""Guests that end, fail, are lost, hang or will not die, each played by a small program in place of the emulator."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from scripts.kernel_matrix.guests import Guests, Job, Limits, Line, Outcome, why_in

LIMITS = Limits(ready_s=20, silent_s=20, total_s=40)
READY = 'say(\'{"guest": "ready"}\');'
END = 'say(\'{"guest": "end", "code": 0}\');'
PANIC = "[    9.1] Kernel panic - not syncing: sysrq triggered crash"


def job(name: str, script: str, limits: Limits = LIMITS, memory_mib: int = 100) -> Job:
    """A job whose emulator is a line of Python; it finds the path of the console in `console`."""
    start = "import sys, time, os, pathlib; console = pathlib.Path(sys.argv[1]); "
    start += "say = lambda line: os.write(1, line.encode() + b'\\n'); "
    return Job(name, memory_mib, lambda console: [sys.executable, "-c", start + script, str(console)], limits)


class Watch:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, Line]] = []
        self.overs: list[tuple[str, str, bool]] = []

    def tell(self, told: Job, line: Line) -> None:
        """A line of a guest."""
        self.lines.append((told.name, line))

    def over(self, outcome: Outcome, again: bool) -> None:
        """A boot is over."""
        self.overs.append((outcome.name, outcome.lost, again))


def run(place: Path, *jobs: Job, slots: int = 2, memory_mib: int = 1000) -> tuple[list[Outcome], Watch]:
    """Run the jobs."""
    watch = Watch()
    with Guests(place, slots, memory_mib, watch.tell) as guests:
        return guests.run(jobs, watch.over), watch


def test_good_end(tmp_path: Path) -> None:
    """The lines come in order and as they are, signs of life apart; the guest is not lost."""
    script = READY + "say('{\"guest\": \"alive\"}'); say('{\"trap\": 1}'); say('no JSON'); say('[1]');" + END
    (outcome,), watch = run(tmp_path, job("6.1/core", script))
    lines = [{"guest": "ready"}, {"trap": 1}, {"guest": "end", "code": 0}]
    assert outcome.lines == lines
    assert watch.lines == [("6.1/core", line) for line in lines]
    assert (outcome.lost, outcome.boots, watch.overs) == ("", 1, [("6.1/core", "", False)])
    assert 0 < outcome.ready_s <= outcome.seconds


def test_panic(tmp_path: Path) -> None:
    """A guest that ends without its last line is lost; its console tells why, and is kept; it is not tried again."""
    script = READY + f"say('{{\"trap\": 1}}'); console.write_text('[    8.0] fine\\n{PANIC}\\n[    9.2] more\\n')"
    (outcome,), watch = run(tmp_path, job("a", script))
    assert outcome.lost == "Kernel panic - not syncing: sysrq triggered crash"
    assert outcome.console.splitlines()[1] == PANIC
    assert outcome.lines[-1] == {"trap": 1}
    assert watch.overs == [("a", outcome.lost, False)]


def test_half_line(tmp_path: Path) -> None:
    """A line that broke off with the guest is not taken for one."""
    (outcome,), _ = run(tmp_path, job("a", READY + 'os.write(1, b\'{"guest": "end"}\')'))
    assert outcome.lines == [{"guest": "ready"}]
    assert outcome.lost


@pytest.mark.parametrize(
    ("script", "limits", "why"),
    [
        ("time.sleep(60)", Limits(0.5, 20, 40), "it was not ready within 0 s"),
        (READY + "time.sleep(60)", Limits(20, 0.5, 40), "it gave no sign of life for 0 s"),
        (
            READY + '[(say(\'{"guest": "alive"}\'), time.sleep(0.05)) for _ in range(1200)]',
            Limits(20, 20, 1.0),
            "it did not end within 1 s",
        ),
    ],
)
def test_hang(tmp_path: Path, script: str, limits: Limits, why: str) -> None:
    """A guest that hangs is lost at its limit: while it boots, when it falls silent, and when it only lives on."""
    outcome, _ = run(tmp_path, job("a", "pathlib.Path(sys.argv[1]).touch();" + script, limits))
    assert outcome[0].lost == why


def test_lost_while_booting(tmp_path: Path) -> None:
    """What is lost before it was ready is booted again; the number of boots is told."""
    script = f"count = pathlib.Path('{tmp_path}/count'); tries = int(count.read_text()) if count.exists() else 0;"
    script += f"count.write_text(str(tries + 1)); tries >= 2 or sys.exit(1); {READY} {END}"
    (outcome,), watch = run(tmp_path, job("a", script))
    assert (outcome.lost, outcome.boots) == ("", 3)
    assert [again for _, _, again in watch.overs] == [True, True, False]


def test_run_again(tmp_path: Path) -> None:
    """A job that may be run again is, as often as it says, and the reasons are kept; the lines are of its last run."""
    script = f"count = pathlib.Path('{tmp_path}/count'); tries = int(count.read_text()) if count.exists() else 0;"
    script += f"count.write_text(str(tries + 1)); {READY} say('{{\"trap\": %d}}' % tries);"
    script += f"tries >= 2 or console.write_text('BUG: number %d' % tries) and sys.exit(1); {END}"
    (outcome,), watch = run(tmp_path, replace(job("a", script), reruns=2))
    assert (outcome.lost, outcome.crashes) == ("", ["BUG: number 0", "BUG: number 1"])
    assert outcome.lines == [{"guest": "ready"}, {"trap": 2}, {"guest": "end", "code": 0}]
    assert [again for _, _, again in watch.overs] == [True, True, False]
    (tmp_path / "count").unlink()
    (outcome,), _ = run(tmp_path, replace(job("b", script), reruns=1))
    assert (outcome.lost, outcome.crashes) == ("BUG: number 1", ["BUG: number 0"])


def test_never_boots(tmp_path: Path) -> None:
    """Five boots are enough; then the emulator's own complaint is the reason."""
    outcome, watch = run(tmp_path, job("a", "sys.exit('qemu: no such kernel')"))
    assert (outcome[0].lost, outcome[0].boots) == ("qemu: no such kernel", 5)
    assert len(watch.overs) == 5


def test_at_once(tmp_path: Path) -> None:
    """As many run at once as slots and memory allow, and every outcome is in the order of the jobs."""
    script = f"here = pathlib.Path('{tmp_path}') / f'run-{{os.getpid()}}'; here.touch(); time.sleep(0.3);"
    script += f"beside = len(list(pathlib.Path('{tmp_path}').glob('run-*'))); {READY}"
    script += "say('{\"beside\": %d}' % beside); time.sleep(0.3); here.unlink();" + END

    def most(slots: int, memory_mib: int, each: int) -> int:
        jobs = [job(str(number), script, memory_mib=each) for number in range(4)]
        outcomes, _ = run(tmp_path, *jobs, slots=slots, memory_mib=memory_mib)
        assert [outcome.name for outcome in outcomes] == ["0", "1", "2", "3"]
        return max(int(outcome.lines[1]["beside"]) for outcome in outcomes)

    assert most(slots=1, memory_mib=1000, each=100) == 1
    assert most(slots=4, memory_mib=200, each=100) <= 2
    assert most(slots=4, memory_mib=50, each=100) == 1


def test_killed_on_the_way_out(tmp_path: Path) -> None:
    """When a run is broken off, its emulators end, and what they started."""
    pids = tmp_path / "pids"
    script = f"import subprocess; child = subprocess.Popen(['sleep', '600']); p = pathlib.Path('{pids}.new');"
    script += f"p.write_text(f'{{os.getpid()}} {{child.pid}}'); p.rename('{pids}'); {READY} time.sleep(600)"

    def tell(_job: Job, _line: Line) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), Guests(tmp_path, 1, 1000, tell) as guests:
        guests.run([job("a", script)], lambda _outcome, _again: None)
    for pid in pids.read_text().split():
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and _runs(int(pid)):
            time.sleep(0.02)
        assert not _runs(int(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_dies_with_its_runner(tmp_path: Path) -> None:
    """An emulator under setpriv, as the real one is, does not outlive a runner that was killed."""
    place = tmp_path / "pid"
    command = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", f"echo $$ >{place}; exec sleep 600"]
    runner = f"import subprocess, os, pathlib, time; subprocess.Popen({command!r});\n"
    runner += (
        f"while not pathlib.Path('{place}').exists() or not pathlib.Path('{place}').read_text(): time.sleep(0.02)\n"
    )
    subprocess.run([sys.executable, "-c", runner + "os.kill(os.getpid(), 9)"], check=False, timeout=30)
    pid = int(place.read_text())
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(pid):
        time.sleep(0.02)
    assert not _runs(pid)


def test_will_not_switch_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest that said its last line and stays is no lost guest; its emulator is killed."""
    monkeypatch.setattr("scripts.kernel_matrix.guests.LAST_WORDS_S", 0.2)
    pid = tmp_path / "pid"
    outcome, _ = run(
        tmp_path, job("a", f"pathlib.Path('{pid}').write_text(str(os.getpid())); {READY}{END}time.sleep(60)")
    )
    assert not outcome[0].lost
    assert not _runs(int(pid.read_text()))


def test_why_in() -> None:
    """The first line that tells of a kernel's death is found, without its time; a quiet console has none."""
    assert why_in("[    1.0] fine\n[   12.5] BUG: unable to handle page fault\n" + PANIC) == (
        "BUG: unable to handle page fault"
    )
    assert why_in("[    1.0] fine\n") == ""
