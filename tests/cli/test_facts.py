"""What is said once of the machine and the run: true, bounded, and never a reason to fail."""

import json
import os
import platform
import re
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tracer
from tests.formats.events import SESSION
from tracer.cli import facts
from tracer.model import Host, Session


def test_session_is_this_machine() -> None:
    """Names and ids are those that the system gives."""
    found = facts.session("core")
    assert found.host.name == platform.node()
    assert found.host.kernel == platform.release()
    assert found.host.architecture == platform.machine()
    assert found.host.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip() == facts.boot_id()
    assert found.host.page_size == os.sysconf("SC_PAGE_SIZE")
    assert found.version == tracer.__version__
    assert found.backend == "core"
    assert found.users[0] == "root"
    assert found.groups[0] == "root"
    assert found.host.id


def test_agent_is_the_machine_and_the_run_is_new() -> None:
    """The agent's id is the same each time and hides the machine id; that of the run is another each time."""
    one, other = facts.session("core"), facts.session("core")
    assert one.agent_id == other.agent_id
    assert str(uuid.UUID(one.agent_id)) == one.agent_id
    assert one.host.id not in one.agent_id
    assert one.ephemeral_id != other.ephemeral_id
    uuid.UUID(one.ephemeral_id)


def test_boot_id_is_one() -> None:
    """The boot id is a UUID: entity ids are made of its bytes."""
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", facts.boot_id())


NAMES = st.dictionaries(st.integers(0, 2**32), st.text(), max_size=4)


@given(st.builds(Session, st.builds(Host), st.text(), st.text(), st.text(), st.text(), NAMES, NAMES, NAMES))
def test_session_survives_a_recording(session: Session) -> None:
    """What a recording keeps of a session, as JSON, makes the same one again."""
    kept = json.loads(json.dumps(facts.session_to_json(session)))
    assert facts.session_from_json(kept) == session


KEPT = facts.session_to_json(SESSION)


def test_recording_without_namespaces() -> None:
    """A recording from before the names of namespaces were kept has none."""
    kept = {name: value for name, value in KEPT.items() if name != "namespaces"}
    assert facts.session_from_json(kept) == SESSION._replace(namespaces={})


def _namespace(proc: Path, pid: str, name: str) -> int:
    """Make a file stand for a namespace; gives its inode."""
    path = proc / pid / "ns" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path.stat().st_ino


def test_names_of_network_namespaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of process 2 is the host's, if it is the machine's; of a directory each is named that is a namespace."""
    proc, kept = tmp_path / "proc", tmp_path / "netns"
    host = _namespace(proc, "2", "net")
    _namespace(proc, "self", "net")
    assert facts.network_namespaces(str(kept), str(proc)) == {}
    monkeypatch.setattr(facts, "_FIRST_PIDNS", _namespace(proc, "2", "pid"))
    assert facts.network_namespaces(str(kept), str(proc)) == {host: "host"}
    kept.mkdir()
    (kept / "blue").touch()
    os.link(kept / "blue", kept / "also-blue")
    os.link(proc / "2" / "ns" / "net", kept / "init")
    (kept / "gone").symlink_to("nowhere")
    os.mkfifo(kept / os.fsdecode(b"a\xff"))
    (kept / "left").symlink_to("/dev/null")  # on another file system: not a namespace
    assert facts.network_namespaces(str(kept), str(proc)) == {
        host: "host",
        (kept / "blue").stat().st_ino: "also-blue",
        (kept / os.fsdecode(b"a\xff")).stat().st_ino: r"a\xff",
    }


@pytest.mark.parametrize(
    "changed",
    [
        {},
        KEPT | {"host": {}},
        KEPT | {"host": 5},
        KEPT | {"host": {"id": 1, "extra": 2}},
        KEPT | {"users": {"x": "y"}},
        KEPT | {"users": 5},
        KEPT | {"namespaces": {"x": "y"}},
        {name: value for name, value in KEPT.items() if name != "agent_id"},
    ],
    ids=["empty", "host-empty", "host-number", "host-other", "user-name", "users-number", "namespace", "no-agent"],
)
def test_foreign_session_is_refused(changed: dict[str, Any]) -> None:
    """Anything else is an error that the replay knows."""
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        facts.session_from_json(changed)


def test_started_tells_who(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who started this, with what, and through sudo as whom."""
    monkeypatch.setattr(sys, "argv", ["tracer", "live", "--json"])
    monkeypatch.setenv("SUDO_UID", "1000")
    found = facts.started()
    assert (found["uid"], found["euid"], found["pid"]) == (os.getuid(), os.geteuid(), os.getpid())
    assert found["command_line"] == ["tracer", "live", "--json"]
    assert found["sudo_uid"] == 1000
    monkeypatch.delenv("SUDO_UID")
    assert "sudo_uid" not in facts.started()


@pytest.mark.parametrize("value", ["", "root", "-1", "\u00b2", "1e3", "9" * 5000])
def test_strange_sudo_uid_is_left_out(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """An environment variable that holds no user id is not believed, and no reason to fail."""
    monkeypatch.setenv("SUDO_UID", value)
    assert "sudo_uid" not in facts.started()


def test_command_line_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes of the command line that are no UTF-8 are told as escapes, since JSON in UTF-8 can't carry them."""
    monkeypatch.setattr(sys, "argv", ["tracer", os.fsdecode(b"a\xffb"), "ä"])
    found = facts.started()["command_line"]
    assert found == ["tracer", r"a\xffb", "ä"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("root:x:0:0::/root:/bin/sh\nroot2:x:0:0\nwww:x:33:33\n", {0: "root", 33: "www"}),
        ("", {}),
        ("broken\nalso:broken\nx:y:z:1\n:x:5:\n\u00b2:x:\u00b2:1\n", {5: ""}),
        ("bytes\udcff:x:7:7\n", {7: "bytes\ufffd"}),
    ],
)
def test_names_of_a_strange_file(tmp_path: Path, text: str, found: dict[int, str]) -> None:
    """The first name of each id; lines that are none are skipped, and bytes that are no text replaced."""
    path = tmp_path / "passwd"
    path.write_bytes(text.encode(errors="surrogateescape"))
    assert facts.names(str(path)) == found
    assert facts.names(str(tmp_path / "missing")) == {}
