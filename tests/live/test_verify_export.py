"""What `tracer export` writes is proven by `tracer verify`, and so is whatever is done to it afterwards."""

import gzip
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import ROOT, TRACER
from tests.live.test_export import BACKENDS, agent, files, refused, run
from tracer.cli.errors import Exit
from tracer.integrity.files import listed
from tracer.integrity.head import Head
from tracer.integrity.keys import make_keys, read_public
from tracer.integrity.verify import Report, Verifier

pytestmark = pytest.mark.live


@pytest.fixture(name="key")
def _key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "key")
    return tmp_path / "key"


def verified(output: Path, key: Path, head: Head | None = None) -> Report:
    """The report of a directory, which must be under this key."""
    return Verifier([read_public(key.with_name("key.pub"))], head).run(listed(output))


def traffic(connections: int = 101, programs: int = 53) -> None:
    """Connections on loopback, and programs."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for _ in range(connections):
                taken, _ = server.accept()
                with taken:
                    taken.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        for _ in range(connections):
            with socket.create_connection(server.getsockname()) as client:
                client.send(b"x")
                client.recv(1)
        thread.join()
    for _ in range(programs):
        subprocess.run(["/bin/true"], check=True)


@pytest.mark.parametrize("form", ["ecs", "ocsf"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_written_is_proven(tmp_path: Path, key: Path, backend: str, form: str) -> None:
    """Over rotations and compression; each ledger tells of as many lines of each kind as there are."""
    output = tmp_path / "log"
    arguments = ("--sign", str(key), "--rotate-size", "64K", "--keep", "0", "--compress", "gzip", "--format", form)
    with agent(output, *arguments, backend=backend) as exporter:
        traffic()
        last = run("1")
        exporter.wait_for(lambda: f'"pid":{last},'.encode() in _everything(output))
        exporter.end()
    report = verified(output, key)
    assert report.right, report.what
    assert report.ended
    assert report.first == 0
    assert report.sealed == report.signed == len(files(output))
    assert report.lines == _everything(output).count(b"\n")


@pytest.mark.parametrize("form", ["ecs", "ocsf"])
def test_what_is_counted_or_put_together_is_proven(tmp_path: Path, key: Path, form: str) -> None:
    """With flows that are one record of several, and a storm of which most is only counted."""
    output = tmp_path / "log"
    arguments = ("--sign", str(key), "--format", form, "--aggregate", "1s", "--flood-budget", "150")
    with agent(output, *arguments) as exporter:
        traffic(programs=211)
        exporter.end()
    everything = _everything(output)
    assert b'"connection-aggregated"' in everything
    assert b'"tracer-flood"' in everything
    report = verified(output, key)
    assert report.right, report.what
    assert report.ended
    assert report.lines == everything.count(b"\n")


def _everything(output: Path) -> bytes:
    found = b""
    for path in files(output):
        try:
            data = path.read_bytes()
        except FileNotFoundError:  # compressed or rotated since it was listed
            return b""
        found += gzip.decompress(data) if path.suffix == ".gz" else data
    return found


def test_a_chain_goes_on_over_signals_restarts_and_kills(tmp_path: Path, key: Path) -> None:
    """Renamed by another, ended and killed, with what is not sealed told by the next start."""
    output = tmp_path / "log"
    arguments = ("--sign", str(key), "--rotate-size", "64K", "--keep", "0")
    with agent(output, *arguments) as exporter:
        traffic()
        exporter.hang_up()
        exporter.tells_of(run())
        newest = files(output)[-1]
        newest.rename(output / "events.jsonl.1")
        exporter.wait_for(lambda: files(output)[-1] > newest)
        exporter.tells_of(run())
        exporter.end()
    with agent(output, "--sign", str(key), "--keep", "0") as exporter:
        traffic()
        exporter.tells_of(run())
        exporter.kill()
    with agent(output, *arguments) as exporter:
        exporter.tells_of(run())
        exporter.end()
    report = verified(output, key)
    assert report.right, report.what
    assert report.sessions == 3
    assert report.open_ended == 1
    assert len(report.unsealed) == 1
    assert report.gaps == 1
    assert report.lines == report.last + 1


def test_what_is_being_written_can_be_verified(tmp_path: Path, key: Path) -> None:
    """Twenty looks while files grow, are rotated and compressed: no false alarm, and no head is missed."""
    output, head = tmp_path / "log", tmp_path / "head"
    arguments = ("--sign", str(key), "--rotate-size", "64K", "--keep", "0", "--compress", "gzip")
    with agent(output, *arguments) as exporter:
        busy = threading.Thread(target=traffic, args=(404, 212))
        busy.start()
        for number in range(20):
            expected = ["--expect-head", str(head)] if number else []
            command = ["verify", str(output), "--key", f"{key}.pub", *expected, "--write-head", str(head)]
            done = subprocess.run([*TRACER, *command], cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == Exit.OK, done.stdout + done.stderr
        busy.join()
        exporter.end()
    assert verified(output, key, Head.load(head)).tail


def test_a_file_that_is_never_rotated_holds_a_chain(tmp_path: Path, key: Path) -> None:
    """Each session's segment follows the one before in the same file."""
    output = tmp_path / "one.jsonl"
    for _ in range(3):
        with agent(output, "--sign", str(key), "--rotate-size", "0") as exporter:
            pid = run()
            exporter.wait_for(lambda pid=pid: f'"pid":{pid},'.encode() in output.read_bytes())  # type: ignore[misc]
            exporter.end()
    report = Verifier([read_public(tmp_path / "key.pub")]).run([output])
    assert report.right, report.what
    assert (report.sessions, report.segments, report.sealed) == (3, [0, 2], 3)


def test_whatever_is_done_to_it_is_found(tmp_path: Path, key: Path) -> None:
    """A line removed, swapped or cut, a byte changed, a file removed or doubled, the end removed."""
    output = tmp_path / "log"
    with agent(output, "--sign", str(key), "--rotate-size", "64K", "--keep", "0") as exporter:
        for _ in range(20):  # one turn's lines go into one file, however many they are
            traffic()
            exporter.tells_of(run())
            if len(files(output)) > 3:
                break
        exporter.end()
    report = verified(output, key)
    assert report.right, report.what
    head = report.head
    names = [path.name for path in files(output)]
    assert len(names) > 3

    def change(number: int, make: Callable[[list[bytes]], list[bytes]]) -> Callable[[Path], None]:
        def changed(place: Path) -> None:
            path = place / names[number]
            path.write_bytes(b"".join(make(path.read_bytes().splitlines(keepends=True))))

        return changed

    done: dict[str, Callable[[Path], object]] = {
        "removed": change(1, lambda lines: lines[:5] + lines[6:]),
        "swapped": change(1, lambda lines: [*lines[:5], lines[6], lines[5], *lines[7:]]),
        "byte": change(2, lambda lines: [*lines[:9], lines[9].replace(b'"backend":"', b'"backenD":"'), *lines[10:]]),
        "cut": change(-1, lambda lines: [*lines[:-1], lines[-1][:-7]]),
        "file": lambda place: (place / names[1]).unlink(),
        "double": lambda place: shutil.copy(place / names[1], place / f"{names[1]}.gz"),
    }
    for name, damage in done.items():
        copy = tmp_path / name
        shutil.copytree(output, copy)
        damage(copy)
        found = verified(copy, key)
        assert not found.right, name
        assert found.bad is not None
        assert found.bad.file, name
        assert ("cut short" in found.what) == (name == "cut")
    copy = tmp_path / "end"
    shutil.copytree(output, copy)
    (copy / names[-1]).unlink()
    assert not verified(copy, key).right, "the last record says that another file follows"
    assert "the end was removed" in verified(copy, key, head).what


def test_without_a_chain_there_is_none(tmp_path: Path) -> None:
    """--no-chain leaves out its records; with --sign that is a contradiction."""
    output = tmp_path / "log"
    with agent(output, "--no-chain") as exporter:
        exporter.tells_of(run())
        exporter.end()
    report = Verifier().run(files(output))
    assert report.right, report.what
    assert not report.chain
    assert report.ended
    code, told = refused(output, "--no-chain", "--sign", str(tmp_path / "key"))
    assert code == Exit.USAGE
    assert "contradict" in told
    code, told = refused(output, "--sign", str(tmp_path / "nothing"))
    assert code == Exit.FAILURE
    assert "--sign" in told
