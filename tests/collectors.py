"""The real rsyslog and syslog-ng, following the files of a directory with the configurations that docs/fleet has."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tracing import END_WITHIN_S, PATIENCE

ROOT = Path(__file__).parents[1]
PLACE = ROOT / ".venv" / "collectors"
FLEET = ROOT / "docs" / "fleet"
NAMES = ("rsyslog", "syslog-ng")
_QUIET_S = 1.0 * PATIENCE  # nothing more comes when nothing came for so long


class Collector:
    """One that is following; what it has collected is in ``output``."""

    def __init__(self, process: subprocess.Popen[bytes], output: Path) -> None:
        self.process = process
        self.output = output

    def lines(self, wanted: int) -> list[bytes]:
        """What it has collected, in any order, once there are so many lines and no more come, or after a while."""
        deadline = time.monotonic() + END_WITHIN_S
        seen, quiet = -1, time.monotonic()
        while time.monotonic() < deadline:
            assert self.process.poll() is None
            size = self.output.stat().st_size if self.output.exists() else 0
            if size != seen:
                seen, quiet = size, time.monotonic()
            elif time.monotonic() > quiet + _QUIET_S and self._read().count(b"\n") >= wanted:
                break
            time.sleep(0.05)
        return self._read().splitlines(keepends=True)

    def _read(self) -> bytes:
        return self.output.read_bytes() if self.output.exists() else b""


@contextmanager
def following(name: str, directory: Path, place: Path) -> Iterator[Collector]:
    """Run a collector that follows ``directory``; it keeps what is its own in ``place``, which is empty."""
    for each in ("spool", "run"):
        (place / each).mkdir()
    told = (FLEET / f"{name}.conf").read_text()
    for path, here in (
        ("/var/log/tracer", directory),
        ("/var/log/collected.jsonl", place / "collected.jsonl"),
        ("/var/spool/rsyslog", place / "spool"),
    ):
        told = told.replace(path, str(here))
    configuration = place / "configuration"
    configuration.write_text(told)
    (libraries,) = (path for path in (PLACE / "usr/lib").glob("*-linux-gnu"))
    paths = [libraries, PLACE / "lib" / libraries.name, PLACE / "usr/lib/syslog-ng"]
    environment = os.environ | {"LD_LIBRARY_PATH": ":".join(map(str, paths))}
    run = place / "run"
    commands: dict[str, list[str | Path]] = {
        "rsyslog": ["rsyslogd", "-n", "-f", configuration, "-i", run / "pid", "-M", libraries / "rsyslog"],
        "syslog-ng": [
            *("syslog-ng", "-F", "-f", configuration, "--no-caps", "-R", run / "persist", "-c", run / "control"),
            f"--module-path={next((PLACE / 'usr/lib/syslog-ng').glob('[0-9]*'))}",
        ],
    }
    program, *arguments = commands[name]
    command = [PLACE / "usr/sbin" / program, *arguments]
    with (place / "errors").open("wb") as errors:
        process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
    with process:
        try:
            yield Collector(process, place / "collected.jsonl")
        finally:
            process.kill()
