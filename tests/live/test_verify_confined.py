"""`tracer verify` and `tracer status` confine themselves before they parse what may be hostile, and do their work."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from tests.cli.commands import DEADLINE, assert_refused
from tests.integrity.written import stream
from tests.live.test_confinement import ABI, DAEMON, NO_SECCOMP, WHOLE
from tracer.cli import figures, stats
from tracer.cli.errors import Exit
from tracer.confine.escapes import ESCAPES, KILLED
from tracer.integrity.keys import make_keys

pytestmark = pytest.mark.live

ROOT = Path(__file__).parents[2]
# Code inside that is not in the wheel: before the first line of a stream is parsed it tries every escape, and what
# else may be wanted of files that lie beside those that it may read.
INSIDE = """
import errno, functools, json, os, sys
from pathlib import Path
import tracer.cli.verify as verify
from tracer.confine.escapes import ESCAPES, KILLED
from tracer.confine.ground import ground
from tracer.cli.entry import run

stream, other = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
inner = verify.Verifier.run
def running(*arguments):
    attempts = {escape.name: functools.partial(escape.attempt, place) for escape in ESCAPES if escape.error != KILLED}
    for path in (stream, other):
        attempts |= {
            f"{path.name} read": functools.partial(os.open, path / "file", os.O_RDONLY),
            f"{path.name} list": functools.partial(os.listdir, path),
            f"{path.name} write": functools.partial(os.open, path / "file", os.O_WRONLY),
            f"{path.name} create": functools.partial(os.open, path / "new", os.O_WRONLY | os.O_CREAT, 0o600),
            f"{path.name} truncate": functools.partial(os.open, path / "file", os.O_RDONLY | os.O_TRUNC),
            f"{path.name} rename": functools.partial(os.rename, path / "file", path / "gone"),
            f"{path.name} remove": functools.partial(os.unlink, path / "file"),
        }
    found = {}
    for name, attempt in attempts.items():
        try:
            attempt()
            found[name] = "succeeded"
        except OSError as refused:
            found[name] = errno.errorcode[refused.errno]
    sys.stderr.write("FOUND " + json.dumps(found) + chr(10))
    return inner(*arguments)
verify.Verifier.run = running
with ground() as place:
    run()
"""
LATE = """
import sys
import tracer.cli.verify as verify
inner = verify.Verifier.run
def running(*arguments):
    known = set(sys.modules)
    result = inner(*arguments)
    sys.stderr.write(f"LATE {sorted(set(sys.modules) - known)}" + chr(10))
    return result
verify.Verifier.run = running
from tracer.cli.entry import run
run()
"""


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    """Four signed files, two of them compressed, in a directory of another user."""
    out = tmp_path / "out"
    out.mkdir()
    make_keys(tmp_path / "key")
    files = stream(out, key=tmp_path / "key")
    for file, pack, suffix in ((files[0], gzip.compress, ".gz"), (files[1], zstandard.compress, ".zst")):
        file.with_name(f"{file.name}{suffix}").write_bytes(pack(file.read_bytes()))
        file.unlink()
    for path in (*out.iterdir(), out):
        path.chmod(0o700 if path.is_dir() else 0o600)
        os.chown(path, DAEMON, DAEMON)
    return out


def tracer(*arguments: object, code: str | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, or a program that does."""
    begin = ["-m", "tracer"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, *begin, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
        cwd=ROOT,
        env=os.environ | environment,
    )


def test_it_does_its_work(out: Path, tmp_path: Path) -> None:
    """Whole, compressed and signed files of another user, by directory and by name, with all layers on: as without.

    A head is read and written in a directory of another user, too.
    """
    heads = tmp_path / "heads"
    heads.mkdir()
    os.chown(heads, DAEMON, DAEMON)
    head = heads / "box"
    key = ("--key", tmp_path / "key.pub")
    strict = ["--sandbox-strict"] if WHOLE else []
    done = tracer("verify", out, *key, "--write-head", head, *strict)
    assert (done.returncode, done.stderr if WHOLE else "") == (Exit.OK, ""), done.stdout + done.stderr
    done = tracer("verify", *out.iterdir(), *key, "--expect-head", head, "--write-head", head, *strict)
    assert (done.returncode, done.stderr if WHOLE else "") == (Exit.OK, ""), done.stdout + done.stderr
    assert "end: all that the head tells of is there" in done.stdout
    assert [path.name for path in heads.iterdir()] == ["box"]
    plain = tracer("verify", *out.iterdir(), *key, "--expect-head", head, "--no-sandbox")
    assert plain.stdout == done.stdout
    assert "not confined, as --no-sandbox asks" in plain.stderr
    assert "LATE []" in tracer("verify", out, *key, code=LATE).stderr


@pytest.mark.parametrize("head", [False, True], ids=["reads", "writes a head"])
def test_escapes_from_inside(out: Path, tmp_path: Path, head: bool) -> None:
    """Code that runs while the stream is parsed is refused every single escape.

    It can read and list the stream's directory, and change nothing there; where a head is written it can do that in
    the head's directory alone.
    """
    other, heads = tmp_path / "other", tmp_path / "heads"
    for path in (other, heads):
        path.mkdir()
    for path in (out, other):
        (path / "file").write_text("as it was")
    write = ["--write-head", heads / "box"] if head else []
    files = [path for path in out.iterdir() if path.name != "file"]
    done = tracer(out, other, "verify", *files, *write, code=INSIDE, TMPDIR=str(tmp_path))
    assert done.returncode == Exit.OK, done.stdout + done.stderr
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("FOUND "))
    found = json.loads(told.removeprefix("FOUND "))
    assert {escape.name for escape in ESCAPES if escape.error != KILLED} < set(found)
    if ABI:
        assert {name for name, answer in found.items() if answer == "succeeded"} == {"out read", "out list"}
    for path in (out, other):
        assert (path / "file").read_text() == "as it was"


def test_strict(out: Path) -> None:
    """With --sandbox-strict it ends with 6 where a layer is missing; else that is a warning, and the report follows."""
    done = tracer("verify", out, "--sandbox-strict", code=NO_SECCOMP)
    assert_refused(done, Exit.SANDBOX, "--sandbox-strict", "seccomp is absent")
    assert done.stdout == ""
    done = tracer("verify", out, code=NO_SECCOMP)
    assert done.returncode == Exit.OK, done.stderr
    assert "tracer: sandbox: seccomp is absent" in done.stderr
    assert done.stdout == tracer("verify", out, "--no-sandbox").stdout
    assert_refused(
        tracer("verify", out, "--sandbox-strict", "--no-sandbox"), Exit.USAGE, "--no-sandbox", "--sandbox-strict"
    )


def test_status_is_confined(tmp_path: Path) -> None:
    """It can open nothing more when it looks at what is in the file, and tells what it tells."""
    session = stats.Measured(version="1", backend="core", boot_id="x", hooks_refused=0, every_s=1.0)
    path = tmp_path / "tracer.prom"
    path.write_bytes(figures.render(session.facts(stats.NOTHING, events=23, lag_s=0.0, running=False)))
    code = """
import tracer.cli.status as status
inner = status._found
def finding(*arguments):
    state = dict(line.split(":", 1) for line in open(0).read().splitlines())
    try:
        open("/etc/passwd")
        state["passwd"] = "was read"
    except PermissionError:
        state["passwd"] = "refused"
    print("INSIDE", state["NoNewPrivs"].strip(), state["Seccomp"].strip(), state["passwd"])
    return inner(*arguments)
status._found = finding
import os
os.dup2(os.open("/proc/self/status", os.O_RDONLY), 0)
from tracer.cli.entry import run
run()
"""
    done = tracer("status", path, code=code)
    assert done.returncode == Exit.FAILURE, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "INSIDE 1 2 refused"
    assert rest[0].startswith("running    no more")
    assert done.stderr == ""
    assert tracer("status", path).stdout.splitlines() == rest
