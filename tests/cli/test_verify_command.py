"""`tracer verify` and `tracer keygen` as people call them: what they say, where, and the code."""

import gzip
import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.cli.commands import DEADLINE, ROOT, TRACER, assert_refused, run, shell
from tests.integrity.written import Writer, lines_of, plain, stream
from tracer.cli.errors import Exit
from tracer.integrity.chain import Chain


@pytest.fixture(name="out")
def _out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_keys_are_made_once_for_their_owner(tmp_path: Path) -> None:
    """Stdout names both files and the public key; a second time nothing is written over."""
    made = run("keygen", tmp_path / "key")
    assert made.returncode == Exit.OK, made.stderr
    assert str(tmp_path / "key.pub") in made.stdout
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert_refused(run("keygen", tmp_path / "key"), Exit.FAILURE, "File exists", "name a file")
    assert_refused(run("keygen", tmp_path / "no/key"), Exit.FAILURE, "No such file")


def test_a_directory_is_verified(out: Path, tmp_path: Path) -> None:
    """With its rotated and compressed files, in their order; stdout says what is proven and what is not."""
    run("keygen", tmp_path / "key")
    files = stream(out, key=tmp_path / "key")
    files[0].with_name(files[0].name + ".gz").write_bytes(gzip.compress(files[0].read_bytes()))
    files[0].unlink()
    files[-1].rename(out / "events.jsonl")
    (out / "other.txt").write_text("not of the stream")
    told = run("verify", "--key", tmp_path / "key.pub", out)
    assert told.returncode == Exit.OK, told.stdout
    assert told.stderr == "", "no bar where there is no terminal"
    lines = told.stdout.splitlines()
    assert lines[0].startswith("4 files, ")
    assert lines[-1] == "ok"
    assert "chain: segments 0 to 3, 4 sealed, 4 signed" in told.stdout
    assert "(the key given)" in told.stdout
    assert "end: not provable" in told.stdout
    assert "not compared with yours" in run("verify", out).stdout


def test_the_first_bad_place_is_named(out: Path) -> None:
    """File, line and byte, and what is wrong there, with code 1; the same as JSON."""
    files = stream(out)
    lines = lines_of(files[1])
    files[1].write_bytes(b"".join([*lines[:3], *lines[4:]]))
    told = run("verify", *files)
    assert told.returncode == Exit.FAILURE
    byte = sum(map(len, lines[:3]))
    assert f"\nBAD: {files[1]}, line 4, byte {byte:,}: line 26 is missing before this one" in told.stdout
    as_json = run("verify", "--json", *files)
    assert as_json.returncode == Exit.FAILURE
    found = json.loads(as_json.stdout)
    assert found["ok"] is False
    assert (found["bad"]["file"], found["bad"]["line"], found["bad"]["byte"]) == (str(files[1]), 4, byte)


def test_a_head_is_kept_and_expected(out: Path, tmp_path: Path) -> None:
    """It may be read and written by one call; after a failure the old one stays."""
    writer = Writer(out, Chain())
    writer.begin()
    writer.events(20)
    head = tmp_path / "head"
    assert run("verify", out, "--write-head", head).returncode == Exit.OK
    writer.events(5)
    told = run("verify", out, "--expect-head", head, "--write-head", head)
    assert told.returncode == Exit.OK, told.stdout
    assert "end: all that the head tells of is there" in told.stdout
    kept = head.read_bytes()
    lines = lines_of(writer.files[0])
    writer.files[0].write_bytes(b"".join(lines[:-1]))
    assert run("verify", out).returncode == Exit.OK
    told = run("verify", out, "--expect-head", head, "--write-head", head)
    assert told.returncode == Exit.FAILURE
    assert "the end was removed" in told.stdout
    assert head.read_bytes() == kept


def test_a_plain_stream_says_what_can_not_be_proven(out: Path) -> None:
    """It has no chain, so no key and no head can be asked for."""
    file = plain(out)
    told = run("verify", file)
    assert told.returncode == Exit.OK, told.stdout
    assert "chain: none; not provable" in told.stdout
    assert_refused(run("verify", file, "--write-head", out / "head"), Exit.FAILURE, "no chain")
    assert not (out / "head").exists()


def test_wrong_use_is_one_line(out: Path, tmp_path: Path) -> None:
    """No file, a directory without a stream, a key and a head that are none: code 2, and what would be right."""
    assert_refused(run("verify"), Exit.USAGE, "missing argument")
    assert_refused(run("verify", out), Exit.USAGE, "has no events-*.jsonl")
    file = plain(out)
    assert_refused(run("verify", file, "--key", file), Exit.USAGE, "--key", ".pub file")
    for text in ("", "[]", "{}", '{"version":1}', '{"version":1,"segment":true}', "x" * 5000):
        (tmp_path / "head").write_text(text)
        assert_refused(run("verify", file, "--expect-head", tmp_path / "head"), Exit.USAGE, "--expect-head", "no head")
    assert_refused(run("verify", file, "--expect-head", tmp_path / "none"), Exit.USAGE, "can't read")


def test_hostile_names_and_files_end_in_one_place(tmp_path: Path) -> None:
    """A file that is not there, a link, and a name with an escape sequence, which is shown as text."""
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    odd = tmp_path / "\x1b[31mred\n"
    odd.write_bytes(b"junk\n")
    for path, what in (
        (tmp_path / "link", "symbolic link"),
        (tmp_path / "no", "No such file"),
        (odd, "no JSON object"),
    ):
        told = run("verify", path)
        assert told.returncode == Exit.FAILURE
        assert what in told.stdout
        assert "\x1b" not in told.stdout
        assert told.stderr == ""


def test_nobody_listens(out: Path) -> None:
    """A reader that is gone is a normal end."""
    assert shell('"$@" | true', "verify", plain(out)).returncode == Exit.OK


def test_a_terminal_has_a_bar(out: Path) -> None:
    """On stderr, and stdout stays as it is."""
    files = stream(out, events=3000)
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(
        [*TRACER, "verify", *map(str, files)], stdout=subprocess.PIPE, stderr=follower, cwd=ROOT, env=environment
    ) as command:
        os.close(follower)
        shown = b""
        while True:
            try:
                data = os.read(leader, 4096)
            except OSError:  # EIO: the other end is closed
                break
            if not data:
                break
            shown += data
        told, _ = command.communicate(timeout=DEADLINE)
    os.close(leader)
    assert command.returncode == Exit.OK
    assert b"MB" in shown
    assert told.splitlines()[-1] == b"ok"
