"""Secrets in arguments: found by every rule, in every output, marked; and what is no secret stays."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats import events
from tests.formats.events import NOW, OFFSET, SESSION
from tests.formats.ocsf_lines import assert_same, forget
from tracer.formats.ecs import Ecs
from tracer.formats.ocsf import Ocsf
from tracer.formats.pretty import Pretty
from tracer.formats.redact import NOTHING, Patterns, Redactor, RuleError, Rules, _hinted, read_rules
from tracer.model import Event, ExecFailed, Kind

GONE = "[redacted]"
SECRET = "hunter2zQ"  # noqa: S105  # of nobody
TOKEN = "0123456789abcdefABCDEF0123456789abcdef"  # noqa: S105


def told(*args: str, rules: Rules = NOTHING) -> list[str]:
    """Arguments as they are told."""
    raw = b"".join(arg.encode() + b"\0" for arg in args)
    return Redactor(rules).args(raw).decode().removesuffix("\0").split("\0")


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (["x", "--password", SECRET, "-v"], ["x", "--password", GONE, "-v"]),
        (["x", f"--password={SECRET}"], ["x", f"--password={GONE}"]),
        (["x", f"--db-password={SECRET} with blanks"], ["x", f"--db-password={GONE}"]),
        (["x", "--api-key", SECRET, "--token", SECRET], ["x", "--api-key", GONE, "--token", GONE]),
        (["x", "-password", SECRET], ["x", "-password", GONE]),
        (["x", "--client-secret", "-odd"], ["x", "--client-secret", GONE]),
        (["env", f"AWS_SECRET_ACCESS_KEY={SECRET}", "aws"], ["env", f"AWS_SECRET_ACCESS_KEY={GONE}", "aws"]),
        (["env", f"DB_PASS={SECRET}", f"MYSQL_PWD={SECRET}"], ["env", f"DB_PASS={GONE}", f"MYSQL_PWD={GONE}"]),
        (["mysql", "-uroot", f"-p{SECRET}", "db"], ["mysql", "-uroot", f"-p{GONE}", "db"]),
        (["sudo", "/usr/bin/mysqldump", f"-p{SECRET}", "db"], ["sudo", "/usr/bin/mysqldump", f"-p{GONE}", "db"]),
        (["sshpass", "-p", SECRET, "ssh", "host"], ["sshpass", "-p", GONE, "ssh", "host"]),
        (["redis-cli", "-a", SECRET, "PING"], ["redis-cli", "-a", GONE, "PING"]),
        (["docker", "login", "-u", "me", "-p", SECRET], ["docker", "login", "-u", "me", "-p", GONE]),
        (["curl", "-u", f"me:{SECRET}", "http://h/"], ["curl", "-u", f"me:{GONE}", "http://h/"]),
        (["curl", f"-ume:{SECRET}", "h"], ["curl", f"-ume:{GONE}", "h"]),
        (["env", f"SSHPASS={SECRET}", f"DBPASS={SECRET}"], ["env", f"SSHPASS={GONE}", f"DBPASS={GONE}"]),
        (["java", f"-Ddb.password={SECRET}", "A"], ["java", f"-Ddb.password={GONE}", "A"]),
        (["kubectl", f"--from-literal=password={SECRET}"], ["kubectl", f"--from-literal=password={GONE}"]),
        (["env", f"PRIVATE_KEY={SECRET}"], ["env", f"PRIVATE_KEY={GONE}"]),
        (["npm", f"--//r/:_auth={SECRET}"], ["npm", f"--//r/:_auth={GONE}"]),
        (["curl", f"--user=me:{SECRET}"], ["curl", f"--user=me:{GONE}"]),
        (["curl", "-H", f"Authorization: Bearer {SECRET}"], ["curl", "-H", f"Authorization: Bearer {GONE}"]),
        (["curl", "-H", f"authorization: {SECRET} x"], ["curl", "-H", f"authorization: {GONE}"]),
        (["curl", "-H", f"X-Api-Key: {SECRET}"], ["curl", "-H", f"X-Api-Key: {GONE}"]),
        (["curl", "-H", f"Cookie: a={SECRET}; b=c"], ["curl", "-H", f"Cookie: {GONE}"]),
        (["curl", f"https://me:{SECRET}@host/p"], ["curl", f"https://me:{GONE}@host/p"]),
        (["psql", f"postgresql://me:a@{SECRET}@h/db"], ["psql", f"postgresql://me:{GONE}@h/db"]),
        (["curl", f"https://h/?a=b&token={SECRET}&c=d"], ["curl", f"https://h/?a=b&token={GONE}&c=d"]),
        (["curl", f"https://h/?X-Amz-Signature={SECRET}"], ["curl", f"https://h/?X-Amz-Signature={GONE}"]),
        (["x", "AKIAIOSFODNN7EXAMPLE"], ["x", GONE]),
        (["x", f"ghp_{TOKEN}", f"(glpat-{TOKEN})"], ["x", GONE, f"({GONE})"]),
        (["x", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2ln"], ["x", GONE]),
        (["x", "-----BEGIN RSA PRIVATE KEY-----\nMII\n"], ["x", f"-----BEGIN RSA PRIVATE KEY-----{GONE}"]),
        (["openssl", "-passin", f"pass:{SECRET}"], ["openssl", "-passin", f"pass:{GONE}"]),
        (["sh", "-c", f"A_TOKEN={SECRET} run it"], ["sh", "-c", f"A_TOKEN={GONE} run it"]),
        (["sh", "-c", f"mysql -p{SECRET} -h x"], ["sh", "-c", f"mysql -p{GONE} -h x"]),
        (["sh", "-c", f"x --password {SECRET} y"], ["sh", "-c", f"x --password {GONE} y"]),
        (["sh", "-c", f"curl -u me:{SECRET} h"], ["sh", "-c", f"curl -u me:{GONE} h"]),
    ],
)
def test_secrets_are_taken_out(given: list[str], wanted: list[str]) -> None:
    """What each rule finds is replaced, and nothing beside it."""
    assert told(*given) == wanted


@pytest.mark.parametrize(
    "line",
    [
        "ssh -p 22 host",
        "docker run -p 80:80 nginx",
        "cp -p a b",
        "tool --password-file /etc/x --token-file=/y --passive --pass-through a",
        "env PWD=/root OLDPWD=/tmp make",
        "git commit -m tokenizer",
        "tool --bypass a --no-auth b --compass=c --private-key /k --signature f.sig",
        "curl -s http://127.0.0.1:8080/a@b?monkey=1&sign=2",
        "keyctl show",
        "passwd root",
        "curl --user me http://h",
        "http://host:8080/x",
        "mysql -p db",
        "AKIA sk-1 eyJ.eyJ. ghp_x",
    ],
)
def test_what_is_no_secret_stays(line: str) -> None:
    """Ports, paths, names and what only looks alike are left; the arguments are the same object."""
    raw = line.replace(" ", "\0").encode() + b"\0"
    redactor = Redactor()
    assert redactor.args(raw) is raw
    assert redactor.args(raw) is raw  # as kept


def test_a_quoted_secret_in_a_command_line() -> None:
    """A value in quotes is gone whole, blanks and all."""
    for line in (f"x --password '{SECRET} {SECRET}' y", f'x --pass="{SECRET} {SECRET}" y', f"x TOKEN='{SECRET} a' y"):
        (shown,) = told("sh", "-c", line)[2:]
        assert SECRET not in shown
        assert shown.startswith("x ")
        assert shown.endswith(" y")
    (body,) = told("curl", "-d", f'{{"password": "{SECRET} x", "user": "me"}}')[2:]
    assert SECRET not in body
    assert '"user": "me"' in body


NAMES = st.sampled_from(["--password", "--db-passwd", "--auth-token", "--api-key", "--client_secret", "--pass"])
PLAIN = st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=12)


@given(st.lists(PLAIN, max_size=4), NAMES, st.booleans(), st.lists(PLAIN, max_size=4))
def test_whatever_stands_around(before: list[str], name: str, glued: bool, after: list[str]) -> None:
    """A secret behind its option is gone whatever the other arguments are, and their number stays."""
    # An option before it would take the name for its value, and say nothing of what follows.
    before = [arg for arg in before if not arg.startswith("-")]
    given = [*before, *([f"{name}={SECRET}"] if glued else [name, SECRET]), *after]
    shown = told("x", *given)
    assert len(shown) == len(given) + 1
    assert SECRET not in "".join(shown)


@given(st.binary(max_size=200))
def test_any_bytes(raw: bytes) -> None:
    """Any bytes are taken, the number of arguments stays, and a second time nothing more is found."""
    redactor = Redactor()
    once = redactor.args(raw)
    assert once.count(b"\0") == raw.count(b"\0")
    assert redactor.args(once).count(b"[redacted]") <= once.count(b"[redacted]") + once.count(b"\0")


PIECES = st.lists(
    st.sampled_from(["-p", "-a", "-w", "--x", "mysql", "curl", "a", "=", ":", "/", " ", "1", "X", "_", "-", "."]),
    max_size=12,
)


@given(PIECES)
def test_what_is_not_looked_into_has_nothing(pieces: list[str]) -> None:
    """Where the quick look finds no hint, the rules find nothing."""
    raw = "".join(pieces).encode()
    if not _hinted(raw.decode()):
        assert b"\0".join(Redactor()._list(raw.split(b"\0"), words=False)) == raw


def repeats(parsed: Any) -> list[tuple[str, int]]:
    """Every repetition in a parsed pattern, at any depth: its kind and its bound."""
    found = []
    for code, value in parsed:
        name = str(code)
        if name.endswith("REPEAT"):
            found.append((name, int(value[1])))
        stack = [value]
        while stack:
            part = stack.pop()
            if type(part).__name__ == "SubPattern":
                found += repeats(part)
            elif isinstance(part, tuple | list):
                stack += part
    return found


def test_no_rule_tries_again_without_bound() -> None:
    """What a rule repeats without a bound it never gives back, and every other repetition is short: time is linear."""
    parser: Any = re._parser  # type: ignore[attr-defined]
    rules = Rules((b"pin",), frozenset({b"-k"}), (b"corp-",))
    patterns = Patterns(rules)
    compiled = [patterns.ends, patterns.spaces, patterns.shell, *(step for step, _ in patterns.steps)]
    assert len(compiled) == 10
    for pattern in compiled:
        for kind, most in repeats(parser.parse(pattern.pattern)):
            assert kind == "POSSESSIVE_REPEAT" or most <= 80, (pattern, kind, most)


@pytest.mark.parametrize(
    "unit",
    [b"eyJ", b"://", b"@", b"password", b"--token ", b"\"'", b"://a:", b"bearer ", b"authorization:", b"sk-", b"_pass"],
)
def test_hostile_arguments_end(unit: bytes) -> None:
    """As much of one thing as the kernel side keeps is gone through, ten times over."""
    raw = (unit * 12_288)[:12_288]
    for number in range(10):
        assert isinstance(Redactor().args(b"%dpass" % number + raw), bytes)


def lines(*args: bytes) -> dict[str, bytes]:
    """An exec, a failed exec and a session's start, in every format."""
    raw = b"".join(arg + b"\0" for arg in args)
    some: list[Event] = [
        events.executed(events.image(*args)),
        ExecFailed(Kind.EXEC_FAILED, NOW, False, events.process(), 5, 2, b"/no", raw, 0),
        events.notice("tracer-session-start", session={"command_line": [arg.decode(errors="replace") for arg in args]}),
    ]
    found = {}
    redactor = Redactor()
    for name, form in (
        ("ecs", Ecs(SESSION, redactor)),
        ("ocsf", Ocsf(SESSION, redactor)),
        ("pretty", Pretty(SESSION, colour=False, width=None, redactor=redactor)),
    ):
        for event in some:
            forget(event)
        found[name] = b"".join(form.lines(some, OFFSET, 0))
    return found


def test_in_every_format_and_marked() -> None:
    """No format tells the secret, not in base64 either; JSON names the fields that something was taken out of."""
    shown = lines(b"curl", b"--password", SECRET.encode(), b"\xff")
    for text in shown.values():
        assert SECRET.encode() not in text
        assert GONE.encode() in text
    ecs = [json.loads(line)["tracer"] for line in shown["ecs"].splitlines()]
    assert [each["redacted"] for each in ecs] == [
        ["process.args", "process.command_line"],
        ["tracer.exec.args"],
        ["tracer.session.command_line"],
    ]
    assert "aHVudGVyMnpR" not in json.dumps(ecs)  # the secret in base64
    ocsf = [json.loads(line)["unmapped"]["tracer"] for line in shown["ocsf"].splitlines()]
    assert [each["redacted"] for each in ocsf] == [
        ["process.cmd_line", "unmapped.tracer.process.args"],
        ["unmapped.tracer.exec.args"],
        ["unmapped.tracer.session.command_line"],
    ]
    for of_ocsf, of_ecs in zip(shown["ocsf"].splitlines(), shown["ecs"].splitlines(), strict=True):
        assert "tracer.redacted" in assert_same(json.loads(of_ocsf), json.loads(of_ecs))
    for text in lines(b"curl", b"-s", b"http://h/").values():
        assert b"redacted" not in text


def test_rules_of_ones_own() -> None:
    """Names, options and beginnings of words from a file work beside what is built in."""
    rules = read_rules(["# ours", "", "name pin  # of cards", "option -k", "option --door", "word corp-"])
    given = ["x", "--pin", "1", "card_pin=2", "-k", "3", "-k4", "--door", "5", "--door=6", "a corp-7 b", "--password=8"]
    assert told(*given, rules=rules) == [
        *("x", "--pin", GONE, f"card_pin={GONE}", "-k", GONE, f"-k{GONE}", "--door", GONE, f"--door={GONE}"),
        *(f"a {GONE} b", f"--password={GONE}"),
    ]
    assert told("x", "--pin", "1", "-k", "3") == ["x", "--pin", "1", "-k", "3"]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("regex .*", "give name NAME, option --NAME or word BEGINNING"),
        ("name", "give name NAME"),
        ("name a b", "give name NAME"),
        ("name a*", "letters, digits"),
        ("option k", "with its dashes"),
        ("word ab", "three characters"),
        ("word " + "a" * 129, "at most 128"),
        ("word \u00e4\u00f6\u00fc", "ASCII"),
    ],
)
def test_bad_rules(line: str, wanted: str) -> None:
    """A line that is no rule is named by its number, with what would be one."""
    with pytest.raises(RuleError, match=rf"^line 2: .*{wanted}"):
        read_rules(["name fine", line])


def test_the_file_of_rules_in_the_documents_is_one(tmp_path: Path) -> None:
    """The example of docs/privacy.md is a file of rules."""
    text = (Path(__file__).parents[2] / "docs/privacy.md").read_text()
    example = text.partition("```text\n")[2].partition("```")[0]
    rules = read_rules(example.splitlines())
    assert rules.names
    assert rules.options
    assert rules.words
