"""Short addresses and pseudonyms of users, in every format: told as asked for, and nothing beside that tells more."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.formats import events
from tests.formats.ecs_lines import check, full_process, notices
from tests.formats.events import OFFSET, SESSION
from tests.formats.ocsf_lines import check as check_ocsf
from tests.formats.ocsf_lines import forget
from tracer.cli import options
from tracer.cli.errors import CommandError, Exit
from tracer.formats.discreet import Lines
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import Ocsf
from tracer.formats.pretty import Pretty
from tracer.formats.privacy import Privacy
from tracer.formats.redact import Redactor
from tracer.model import IDS, Event, Ids, Kind, Merged, Process, ProcessEvent, Resource
from tracer.pipeline import whose

KEY = b"k" * 32
SHORT = Privacy(Redactor(), truncate=True)
HASHED = Privacy(Redactor(), key=KEY)


def pseudonym(kind: str, number: int) -> int:
    """As docs/privacy.md has it: the first 32 bits of an HMAC with SHA-256 over the number."""
    digest = hmac.new(KEY, f"{kind}:{number}".encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[:4], "big") % 0xFFFFFFFF


def forms(privacy: Privacy) -> Iterator[Lines]:
    """Every format, with what is to be left out."""
    session = privacy.session(SESSION)
    yield privacy.form(Ecs(session, privacy.redactor))
    yield privacy.form(Ocsf(session, privacy.redactor))
    yield privacy.form(Pretty(session, colour=False, width=None, redactor=privacy.redactor))


def shown(privacy: Privacy, *some: Event) -> list[str]:
    """The lines of these events in every format."""
    found = []
    for form in forms(privacy):
        for event in some:
            forget(event)
        found.append(b"".join(form.lines(some, OFFSET, 0)).decode())
    for event in some:
        forget(event)
    return found


def read(text: str) -> list[dict[str, Any]]:
    """JSON Lines."""
    return [json.loads(line) for line in text.splitlines()]


def test_addresses_are_networks() -> None:
    """Wherever an address stands, the last 8 bits of IPv4 and 80 of IPv6 are zero; so there is no community id."""
    answers = (Resource(b"h.example", "A", "IN", 1, b"93.184.215.14"), Resource(b"h.example", "TXT", "IN", 1, b"x"))
    ecs, ocsf, pretty = shown(
        SHORT,
        events.socket(Kind.CLOSE),
        events.socket(Kind.CONNECT, local="2001:db8:1:2::7", remote="2001:db8:ffff:2::8", ipv6=True),
        events.answered(answers=answers),
        events.socket(Kind.UPDATE, transport="packet", protocol=0, local="", remote=""),
    )
    for text in (ecs, ocsf, pretty):
        assert "93.184.215.14" not in text
        assert "93.184.215.0" in text
        assert "2001:db8:ffff::" in text
        assert "community" not in text
    documents = read(ecs)
    for document in documents:
        check(document)
    assert documents[0]["related"]["ip"] == ["10.0.0.0", "93.184.215.0"]
    assert documents[1]["source"]["ip"] == "2001:db8:1::"
    assert documents[2]["dns"]["answers"][0]["data"] == "93.184.215.0"
    assert documents[2]["dns"]["answers"][1]["data"] == "x"
    assert documents[2]["dns"]["resolved_ip"] == ["93.184.215.0"]
    for document in read(ocsf):
        check_ocsf(document)


def of_user(uid: int) -> Process:
    """A process of a user who logged in through systemd."""
    made = full_process()
    made.uid = uid
    made.told = IDS.pack(*Ids(7, uid, uid, 0, 0, uid, 3, 100, 200, 1, 2))
    made.within = whose.read(b"/user.slice/user-%d.slice/user@%d.service/app.slice/x.service" % (uid, uid))
    return made


def test_users_are_pseudonyms() -> None:
    """Each id of a user or group is the HMAC's, the same for the same user; no name and no slice tells the number."""
    event = ProcessEvent(Kind.EXEC, events.NOW, False, of_user(4711), 5)
    ecs, ocsf, pretty = shown(HASHED, event, event)
    user, group = pseudonym("user", 4711), pseudonym("group", 4711)
    for text in (ecs, ocsf, pretty):
        assert "4711" not in text
        assert "root" not in text
        assert str(user) in text
    document = read(ecs)[0]
    check(document)
    assert document["process"]["user"] == {"id": str(user)}
    assert document["process"]["group"] == {"id": str(group)}
    own = document["tracer"]["process"]
    assert (own["euid"], own["loginuid"]) == (pseudonym("user", 0), user)
    path = f"/user.slice/user-{user}.slice/user@{user}.service/app.slice/x.service"
    assert document["tracer"]["cgroup"]["path"] == path
    check_ocsf(read(ocsf)[0])
    assert read(ocsf)[0]["process"]["auid"] == user


def test_users_of_the_tracer_itself() -> None:
    """Who started it, as whom it runs and whom it was asked about are pseudonyms too."""
    started = events.notice("tracer-session-start", session={"uid": 0, "euid": 0, "loginuid": 4711, "sudo_uid": 4711})
    coverage = events.notice("tracer-coverage", coverage={"filters": {"uid": [4711]}, "blind": []})
    confined = events.notice("tracer-confinement", confinement={"uid": 4711})
    documents = read(shown(HASHED, started, coverage, confined)[0])
    root, user = pseudonym("user", 0), pseudonym("user", 4711)
    assert documents[0]["tracer"]["session"] == {"uid": root, "euid": root, "loginuid": user, "sudo_uid": user}
    assert documents[1]["tracer"]["coverage"]["filters"] == {"uid": [user]}
    assert documents[2]["tracer"]["confinement"] == {"uid": user}


def test_users_of_floods_and_of_several_flows() -> None:
    """What was counted, and what is one record of several, has the same pseudonyms: of users, and in groups' paths."""
    told = {"uid": 4711, "cgroup": {"id": 5, "path": "/user.slice/user-4711.slice/x.scope"}}
    flood = events.notice("tracer-flood", flood=told)
    owner = of_user(4711)
    merged = Merged(23, events.NOW, events.NOW, 5, owner)
    several = events.socket(Kind.AGGREGATE, process=None, merged=merged, uid=4711)
    ecs, ocsf, pretty = shown(HASHED, flood, several)
    for text in (ecs, ocsf, pretty):
        assert "4711" not in text
    user = pseudonym("user", 4711)
    counted, joined = read(ecs)
    group = {"id": 5, "path": f"/user.slice/user-{user}.slice/x.scope"}
    assert counted["tracer"]["flood"] == {"uid": user, "cgroup": group}
    assert joined["process"]["user"] == {"id": str(user)}


def test_what_was_not_asked_for_stays() -> None:
    """Without these options a format is used as it is; notices that tell of no user are the same."""
    form = Ecs(SESSION)
    assert Privacy().form(form) is form
    assert Privacy().session(SESSION) is SESSION
    some: list[Event] = [event for event in notices() if "session" not in event.body]
    assert b"".join(HASHED.form(Ecs(SESSION)).lines(some, OFFSET, 0)) == b"".join(Ecs(SESSION).lines(some, OFFSET, 0))


def test_options(tmp_path: Path) -> None:
    """Secrets are taken out by default; `none` leaves them; rules and a key come from files."""
    assert options.privacy(None, truncate=False, key=None).redactor is not None
    assert options.privacy(Path("none"), truncate=False, key=None).redactor is None
    rules, key = tmp_path / "rules", tmp_path / "key"
    rules.write_text("word corp-\n")
    key.write_bytes(KEY)
    found = options.privacy(rules, truncate=True, key=key)
    assert found.redactor is not None
    assert found.redactor.args(b"corp-1\0") == b"[redacted]\0"
    assert (found.truncate, found.key) == (True, KEY)


@pytest.mark.parametrize(
    ("name", "content", "wanted"),
    [
        ("redact", b"name fine\nregex .*\n", "line 2: give name NAME"),
        ("redact", b"\xff\xfe\n", "line 1: give name NAME"),
        ("redact", b"name x\n" * 20_000, "at most 65,536 bytes"),
        ("redact", None, "no such file or directory"),
        ("key", b"short", "16 bytes or more"),
        ("key", b"x" * 5000, "at most 4,096 bytes"),
        ("key", None, "no such file or directory"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, content: bytes | None, wanted: str) -> None:
    """A file that can't be used ends the command with code 2 and says what is wrong, with the line of a bad rule."""
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CommandError, match=wanted) as failed:
        options.privacy(path if name == "redact" else None, truncate=False, key=path if name == "key" else None)
    assert failed.value.code == Exit.USAGE
    assert str(path) in str(failed.value)
