"""Processes that know the truth about themselves, for the tests to look at."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import psutil

from tests.tracing import PATIENCE
from tracer.cli import facts
from tracer.cli.clock import offset_now
from tracer.formats.redact import Redactor
from tracer.investigate import bundle
from tracer.investigate.pinned import Pinned
from tracer.model import Session

__all__ = ["Known", "gathered", "session"]

START = """
import json, os, signal, socket, sys, time
def ready(**facts):
    print(json.dumps(facts), flush=True)
    sys.stdin.readline()
"""


class Known:
    """A Python program around a block: it says what it has with ready(), and waits there until the block is left."""

    def __init__(self, program: str, *, prefix: Sequence[str] = (), args: Sequence[str] = (), **options: Any) -> None:
        command = [*prefix, sys.executable, "-c", START + program, *args]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # else it has whatever the tests' own is
            text=True,
            **options,
        )
        self.facts: dict[str, Any] = {}

    @property
    def pid(self) -> int:
        """The process that was started."""
        return self._process.pid

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "it has ended before it was ready"
        self.facts = json.loads(line)
        deadline = time.monotonic() + 20 * PATIENCE
        while psutil.Process(self.pid).status() == psutil.STATUS_RUNNING and time.monotonic() < deadline:
            time.sleep(0.01)  # it is on its way to wait
        return self

    def go_on(self, *, wait: bool = True) -> None:
        """Let it go on behind ready()."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        if wait:
            self._process.wait(20 * PATIENCE)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        children: list[psutil.Process] = []
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)  # so that it makes no more of them
            children = psutil.Process(self.pid).children(recursive=True)
        self._process.kill()
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


def session() -> Session:
    """This machine."""
    return facts.session("procfs")


def gathered(pid: int, *, values: bool = False, redactor: Redactor | None = None) -> dict[str, Any]:
    """The bundle of a process."""
    with Pinned(pid) as process:
        return bundle.gather(
            process, session(), offset_now(), redactor=redactor or Redactor(), asked=str(pid), values=values
        )
