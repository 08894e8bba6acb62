"""The second format, live: what trap programs do, valid in OCSF line by line, and the same facts as in ECS."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.formats.ocsf_lines import assert_same, check, read
from tests.formats.schemas import faults
from tests.tracing import Trace, assert_complete
from tests.traps.conftest import Run, _program, _run, _start  # noqa: F401  # the fixtures that run trap programs

pytestmark = pytest.mark.live

PROGRAMS = (
    "trap_02_accept",
    "trap_04_connect",
    "trap_16_families",
    "trap_24_failed_exec",
    "trap_30_exit",
    "trap_43_dns",
)
ROOT = Path(__file__).parents[2]
SECRET = "hunter2zQ"  # noqa: S105  # of nobody
EVENTS = "exec,exec-failed,fork,exit,connect,accept,listen,close,flow,owner,update,dns"


def replayed(recording: Path, form: str, output: Path) -> list[bytes]:
    """The lines of a recording in a format."""
    command = [sys.executable, "-m", "tracer", "replay", str(recording), "--format", form, "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return output.read_bytes().splitlines(keepends=True)


@contextmanager
def secret_keeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is there before the start, with a secret among its arguments."""
    with subprocess.Popen(["sh", "-c", "read line", "keeper", f"--password={SECRET}"], stdin=subprocess.PIPE) as keeper:
        yield keeper


def test_traps_in_ocsf(run: Run, tmp_path: Path) -> None:
    """Every line of what programs do is valid, and fits our schema; in ECS it has the same facts; a ledger ends it."""
    recording = tmp_path / "session.rec"
    options = ("--record", str(recording), "--event", EVENTS, "--update-every", "1s", "--buffer", "32M")
    with secret_keeper() as secret, Trace(*options, form="ocsf") as trace:
        for name in PROGRAMS:
            run(name)
    redacted = [line for line in trace.lines if json.loads(line).get("unmapped", {}).get("tracer", {}).get("redacted")]
    assert any(json.loads(line).get("process", {}).get("pid") == secret.pid for line in redacted)
    assert not [line for line in trace.lines if SECRET.encode() in line]
    documents = [read(line + b"\n") for line in trace.lines]
    classes = {document["class_name"] for document in documents}
    assert classes == {"Base Event", "Process Activity", "Network Activity", "DNS Activity"}
    for number, document in enumerate(documents):
        check(document)
        assert faults(document, "ocsf") == []
        assert document["metadata"]["sequence"] == number
    assert_complete(documents[-1]["unmapped"]["tracer"]["ledger"])
    codes = {document["metadata"]["event_code"] for document in documents}
    wanted = {"process-executed", "process-exec-failed", "process-forked", "process-exited", "process-running"}
    wanted |= {"connection-opened", "connection-accepted", "connection-failed", "connection-closed", "dns-answered"}
    assert codes >= wanted
    # A ledger counts what was delivered until then, which a replay does at another pace.
    in_ecs = [json.loads(line) for line in replayed(recording, "ecs", tmp_path / "ecs")]
    assert len(in_ecs) == len(documents)
    for ocsf, ecs in zip(documents, in_ecs, strict=True):
        assert faults(ecs, "ecs") == []
        if ecs["event"]["action"] not in {"tracer-ledger", "tracer-confinement"}:
            assert_same(ocsf, ecs)
    assert [line for line in replayed(recording, "ocsf", tmp_path / "ocsf") if b'"tracer-ledger"' not in line] == [
        line + b"\n" for line in trace.lines if b'"tracer-ledger"' not in line
    ]
