"""The trap corpus: what its numbers mean, where it lies, and a run of it in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, Self

from tracer.cli.errors import CommandError, Exit

__all__ = ["TITLES", "Corpus", "CorpusRun", "find_corpus", "patience", "settings"]

# Every trap that is known; those without a test are still to come.
TITLES: Final = {
    1: "the task a softirq interrupts",
    2: "accept on loopback, where the client is current",
    3: "prefork, SO_REUSEPORT, socket activation",
    4: "connects that succeed, fail, wait, are given up or reset",
    5: "the source port, unknown when the connect begins",
    6: "TCP Fast Open, where nobody calls connect",
    7: "IPv4-mapped IPv6",
    8: "UDP sent without a connect, one or many at a time",
    9: "UDP that is only received",
    10: "descriptors that are handed over, inherited or fetched",
    11: "bytes that are only looked at, errors that are read",
    12: "writes that take less than was asked",
    13: "sendfile, splice, recvmmsg, MSG_ZEROCOPY",
    14: "io_uring: connect, accept, send and receive",
    15: "sockets of the kernel itself",
    16: "packet sockets, raw ICMP, SCTP, raw IP",
    17: "Unix sockets and netlink, which share the hooks",
    18: "the same ports in two network namespaces",
    19: "pid namespaces, one in the other",
    20: "a pid used again",
    21: "threads",
    22: "names that processes give themselves",
    23: "exec by a thread that is not the leader",
    24: "execs that fail, or that seccomp kills",
    25: "arguments rewritten before and after the exec",
    26: "scripts, binfmt_misc, execveat, fexecve",
    27: "executables in memory, deleted, on an overlay",
    28: "processes that live a millisecond",
    29: "vfork, CLONE_PARENT, orphans and subreapers",
    30: "leaders that exit first, signals",
    31: "sockets that the end of a process closes",
    32: "shutdown, half-close, resets, TIME_WAIT",
    33: "socket memory used again",
    34: "a wall clock that is stepped, a machine that sleeps",
    35: "order across CPUs",
    36: "a burst beyond the buffer",
    37: "the tracer, and others of its kind, in its own stream",
    38: "32-bit system calls",
    39: "nested contexts and preemption",
    40: "hand-declared layouts of tracepoints",
    41: "accept by every call, whatever hook reports it",
    42: "names, paths and arguments that break parsers and terminals",
    43: "DNS over TCP, compression loops, truncated packets",
    44: "40,000 sockets, a million flows",
    45: "a connection that is idle",
    46: "a CPU that goes and comes back under load",
    47: "a fork bomb that would hide another's exec",
    48: "time namespaces, pids that wrap",
    49: "the tracer itself in a pid namespace",
    50: "the same ports of UDP in two network namespaces",
    51: "the first message of TLS, in pieces",
    52: "sockets that several processes use at the same time",
    53: "control groups: by exec, moved, born there, hidden, too deep",
}
_PACKAGE: Final = Path(__file__).resolve().parent.parent
_CHILD: Final = Path(__file__).with_name("corpus_child.py")
_END_WITHIN_S: Final = 30.0  # for the tests to take down what they put up, times the patience
_TOLD_MOST: Final = 2000  # characters of what a run that broke off said


def settings(backend: str, *, disruptive: bool) -> dict[str, str]:
    """The environment of a run: what tests/tracing.py reads, and nothing by which the user's pytest is set up."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "TRACER_TEST_")) and name != "TRACER_REQUIRE"
    }
    environment |= {"TRACER_TEST_BACKEND": backend, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    kept = ("TRACER_TEST_PATIENCE", "TRACER_TEST_SLEEP", "TRACER_TEST_FEW")
    environment |= {name: os.environ[name] for name in kept if name in os.environ}
    if disruptive or os.environ.get("TRACER_TEST_DISRUPTIVE") == "1":
        environment["TRACER_TEST_DISRUPTIVE"] = "1"
    return environment


def patience() -> float:
    """The factor on limits of waiting, of the environment variable TRACER_TEST_PATIENCE. Raises CommandError."""
    text = os.environ.get("TRACER_TEST_PATIENCE") or "1"
    try:
        factor = float(text)
    except ValueError:
        factor = 0.0
    if not 0 < factor <= 1000:
        raise CommandError(f"TRACER_TEST_PATIENCE={text!r}: give a factor from 1 to 1000", Exit.USAGE)
    return factor


class Corpus(NamedTuple):
    """The corpus: ``root`` holds the package ``tests``, ``modules`` are the tests by number of the trap."""

    root: Path
    modules: dict[int, list[Path]]
    compiled: bool  # the programs come as executables


def find_corpus() -> Corpus:
    """The checkout's tests, else those that came with the package. Raises CommandError when something is missing."""
    roots = (_PACKAGE.parent, _PACKAGE / "corpus")
    root = next((root for root in roots if (root / "tests/traps/conftest.py").exists()), None)
    if root is None:
        raise CommandError(
            "this installation has no trap corpus: install the wheel, or run it in a checkout", Exit.FAILURE
        )
    modules: dict[int, list[Path]] = {}
    for path in sorted((root / "tests/traps").glob("test_[0-9][0-9]_*.py")):
        modules.setdefault(int(path.name[5:7]), []).append(path)
    found = Corpus(root, modules, (root / "tests/traps/programs.tar.xz").exists())
    lacking = [name for name in ("pytest", "communityid") if importlib.util.find_spec(name) is None]
    if lacking:
        fix = "pip install 'tracer[selftest]'"
        raise CommandError(f"the self-test needs {' and '.join(lacking)}: {fix}", Exit.FAILURE)
    compiler = (shlex.split(os.environ.get("CC", "")) or ["gcc"])[0]
    if not found.compiled and shutil.which(compiler) is None:
        fix = "on Debian and Ubuntu: apt-get install gcc libc6-dev"
        raise CommandError(
            f"the programs of the corpus need a C compiler, and {compiler} is missing; {fix}", Exit.FAILURE
        )
    return found


class CorpusRun:
    """A run of tests in a session of its own, whose results are read as they come; a context manager that ends it."""

    def __init__(self, corpus: Corpus, modules: list[Path], environment: Mapping[str, str]) -> None:
        """Nothing runs before the block is entered. ``modules`` are run in the order given."""
        self._corpus = corpus
        self._modules = modules
        self._environment = environment
        self._patience = patience()

    def __enter__(self) -> Self:
        """Start it."""
        self._log: IO[bytes] = tempfile.TemporaryFile(prefix="selftest-")
        reader, writer = os.pipe()
        self._results = os.fdopen(reader, "rb")
        command = [sys.executable, "-P", str(_CHILD), str(writer), str(self._corpus.root), *map(str, self._modules)]
        try:
            # In a session of its own: Ctrl-C reaches this process alone, which ends that one in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                cwd=self._corpus.root,
                env=dict(self._environment),
                pass_fds=(writer,),
                start_new_session=True,
            )
        except BaseException:
            self._results.close()
            self._log.close()
            raise
        finally:
            os.close(writer)
        return self

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """What the run says, until it ends."""
        for line in self._results:
            yield json.loads(line)

    def ending(self) -> tuple[int, str]:
        """The exit code, and the last that the run wrote: to be told when a result is missing. Waits for the end."""
        code = self._process.wait()
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _TOLD_MOST))
        return code, self._log.read().decode(errors="backslashreplace").strip()

    def __exit__(self, *_: object) -> None:
        """Let the tests take down what they put up; whatever is left after that is killed."""
        try:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGINT)
                self._process.wait(_END_WITHIN_S * self._patience)
        except subprocess.TimeoutExpired:
            pass  # what comes next ends it
        finally:
            self._kill()
            self._results.close()
            self._log.close()

    def _kill(self) -> None:
        with suppress(ProcessLookupError):  # nobody of that session is left
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
