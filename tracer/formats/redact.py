"""Take secrets out of arguments and command lines: passwords, tokens and keys by the names and forms they go by.

What a rule finds is replaced by ``[redacted]``, the rest stays. Every argument is walked through a fixed number of
times, whatever is in it: no part of a rule that has no bound gives back what it took, so hostile arguments cost little.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Final, NamedTuple

__all__ = ["NOTHING", "REDACTED", "Patterns", "Redactor", "RuleError", "Rules", "read_rules"]

REDACTED: Final = b"[redacted]"
_KEPT_MOST: Final = 4096  # answers kept; commands come again and again
_KEPT_BYTES_MOST: Final = 256  # of arguments that are kept with their answer

# The end of a name that means a secret. `pwd` by itself is where a shell is; a key has to be one of something.
_NAMES: Final = (
    rb"password|passwd|passphrase|passcode|secret|token|credentials?"
    rb"|(?:api|access|secret|auth|account|shared|encryption|license)[-_.]?key"
    rb"|(?<!by)(?<!com)pass|(?<=_)auth|(?<=[a-z0-9_.-])(?<!old)pwd"
)
_IN_TEXT: Final = rb"|private[-_.]?key|signature|(?<![a-z])sig"  # of options these are names of files
# What begins a word that is a secret by its form, and what else it must have.
_FORMS: Final = (
    rb"(?:AKIA|ASIA)[A-Z0-9]{16}+",  # access keys of AWS
    rb"gh[pousr]_[A-Za-z0-9]{20,}+",  # tokens of GitHub
    rb"github_pat_\w{20,}+",
    rb"glpat-[\w-]{16,}+",  # GitLab
    rb"xox[abeprs]-[\w-]{10,}+",  # Slack
    rb"[sr]k_(?:live|test)_\w{10,}+",  # Stripe
    rb"sk-[\w-]{20,}+",  # OpenAI and others
    rb"AIza[\w-]{30,}+",  # Google
    rb"ya29\.[\w-]{20,}+",
    rb"npm_\w{30,}+",
    rb"pypi-[\w-]{16,}+",
    rb"hf_\w{30,}+",
    rb"SG\.[\w-]{16,}+\.[\w-]{16,}+",  # SendGrid
    rb"eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]*+",  # JSON Web Tokens
)
_HEADER: Final = (
    rb"(?i)((?<![a-z])(?:proxy-)?authorization[\"']?\s{0,8}:\s{0,8}[\"']?"
    rb"(?:(?:basic|bearer|digest|negotiate|token|apikey)\s{1,8})?)([^\"'\r\n\0]++)"
)
_COOKIE: Final = rb"(?i)((?<![a-z])(?:set-)?cookie[\"']?\s{0,8}:\s{0,8}[\"']?)([^\"'\r\n\0]++)"
_BEARER: Final = rb"(?i)((?<![a-z])bearer\s{1,8})([\w.~+/=-]{8,}+)"
_PEM: Final = rb"(?s)(-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----).*+"
_AUTHORITY: Final = rb"://([^\s/?#\"'\0]++)"
_SPACES: Final = rb"(\s++)"
_SHELL: Final = rb"-[a-z]{0,6}c"  # what has a command line behind it
_VALUE: Final = rb"(\"[^\"\0]*+|'[^'\0]*+|[^\s\"'&;,|<>(){}\0]++)"

# Options of programs that have a secret behind them: by itself, glued, or (with a colon) behind the user's name.
_MYSQL: Final = ("mysql", "mysqldump", "mysqladmin", "mysqlimport", "mysqlshow", "mysqlcheck", "mysqlslap", "mysqlpump")
_MARIADB: Final = (
    "mariadb",
    "mariadb-dump",
    "mariadb-admin",
    "mariadb-import",
    "mariadb-check",
    "mycli",
    "mysqlbinlog",
)
_GLUED: Final = {
    **{
        name.encode(): (b"-p",)
        for name in (*_MYSQL, *_MARIADB, "7z", "7za", "sshpass", "mongo", "mongosh", "mongodump")
    }
}
_BEHIND: Final = {
    **dict.fromkeys((b"sshpass", b"mongo", b"mongosh", b"mongodump", b"useradd", b"usermod"), (b"-p",)),
    **dict.fromkeys((b"zip", b"unzip", b"sqlcmd", b"bcp", b"ipmitool", b"mosquitto_pub", b"mosquitto_sub"), (b"-P",)),
    **dict.fromkeys((b"ldapsearch", b"ldapadd", b"ldapmodify", b"ldapdelete", b"ldapwhoami"), (b"-w",)),
    b"redis-cli": (b"-a",),
    b"docker": (b"-p",),
    b"podman": (b"-p",),
}
_USER_AND: Final = {
    **dict.fromkeys((b"curl", b"curlie"), (b"-u", b"--user", b"-U", b"--proxy-user")),
    **dict.fromkeys((b"http", b"https", b"xh"), (b"-a", b"--auth")),
}
_LOGIN: Final = frozenset({b"docker", b"podman"})  # for which it is only that with `login`
_PROGRAMS: Final = frozenset(_GLUED) | frozenset(_BEHIND) | frozenset(_USER_AND)

_OF_PROGRAMS: Final = tuple(
    {name.decode() for name in _PROGRAMS if not any(other in name and other != name for other in _PROGRAMS)}
)
_UNDERLINED: Final = ("ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "k_live_", "k_test_", "npm_", "hf_")


def _hinted(text: str) -> bool:
    """Whether there may be anything for the rules that are built in. Most often not, and each command is asked about.

    That is said in full because a loop, or one pattern for all, takes three times as long. A single character is found
    four times as fast as two or three: what has a rare one is looked for where that is.
    """
    lower = text.lower()
    return (
        ("pass" in lower or "secret" in lower or "cred" in lower or "auth" in lower or "@" in text)
        or ("k" in lower and ("token" in lower or "key" in lower or "cookie" in lower or "sk-" in text))
        or ("w" in lower and "pwd" in lower)
        or ("g" in lower and ("sig" in lower or "glpat-" in text))
        or ("b" in lower and "bearer" in lower)
        or ("y" in lower and ("ya29." in text or "pypi-" in text or "eyJ" in text))
        or ("x" in text and "xox" in text)
        or ("A" in text and ("AKIA" in text or "ASIA" in text or "AIza" in text))
        or ("G" in text and "SG." in text)
        or ("_" in text and any(form in text for form in _UNDERLINED))
        or (
            ("-p" in lower or "-a" in lower or "-w" in lower or "-u" in lower)
            and any(name in text for name in _OF_PROGRAMS)
        )
    )


class RuleError(ValueError):
    """A line of a file of rules that says nothing that can be done."""


class Rules(NamedTuple):
    """Rules of somebody's own: ends of names, options (with their dashes), and beginnings of words."""

    names: tuple[bytes, ...] = ()
    options: frozenset[bytes] = frozenset()
    words: tuple[bytes, ...] = ()


NOTHING: Final = Rules()


def read_rules(lines: Iterable[str]) -> Rules:
    """Rules, one a line: ``name NAME``, ``option --NAME`` or ``word BEGINNING``; ``#`` begins a remark.

    Raises RuleError with the number of the line that is none.
    """
    found: dict[str, list[bytes]] = {"name": [], "option": [], "word": []}
    for number, line in enumerate(lines, 1):
        parts = line.split("#", 1)[0].split() if not line.strip().startswith("#") else []
        if not parts:
            continue
        if len(parts) != 2 or parts[0] not in found:
            raise RuleError(f"line {number}: give name NAME, option --NAME or word BEGINNING")
        kind, text = parts[0], parts[1]
        if len(text) > 128 or not text.isascii():
            raise RuleError(f"line {number}: {kind} takes at most 128 characters of ASCII")
        if kind == "name" and not re.fullmatch(r"[A-Za-z0-9_.-]+", text):
            raise RuleError(f"line {number}: a name has letters, digits, - _ and . alone")
        if kind == "option" and not re.fullmatch(r"-[A-Za-z0-9]|--?[A-Za-z0-9][A-Za-z0-9_.-]+", text):
            raise RuleError(f"line {number}: give an option with its dashes, such as -k or --pin")
        if kind == "word" and len(text) < 3:
            raise RuleError(f"line {number}: a word needs a beginning of three characters or more")
        found[kind].append(text.encode())
    return Rules(tuple(found["name"]), frozenset(found["option"]), tuple(found["word"]))


class Patterns:
    """The rules, compiled."""

    def __init__(self, rules: Rules) -> None:
        """With these beside those that are built in."""
        own = b"".join(b"|" + re.escape(name) for name in rules.names)
        names = b"(?:" + _NAMES + own + b")"
        words = b"".join(b"|" + re.escape(word) + rb"[^\s\"'&;,|<>(){}\0]*+" for word in rules.words)
        forms = rb"(?<![\w-])(?:" + b"|".join(_FORMS) + words + b")"
        # The end of a name that is looked at alone. With one dash there is no more than the name: -psecret is -p.
        self.ends = re.compile(rb"(?i)(?:--[a-z0-9_.-]{0,80}?|-|(?=[a-z_])[a-z0-9_.-]{0,80}?)" + names + rb"\Z")
        self.spaces = re.compile(_SPACES)
        self.shell = re.compile(_SHELL)
        named = rb"(?i)((?:" + _NAMES + _IN_TEXT + own + rb")[\"']?\s{0,8}[=:]\s{0,8})" + _VALUE
        # What is looked for in any text, and what comes in its place, in this order.
        self.steps: tuple[tuple[re.Pattern[bytes], bytes | Callable[[re.Match[bytes]], bytes]], ...] = tuple(
            (re.compile(pattern), told)
            for pattern, told in (
                (_PEM, _GROUP),
                (_HEADER, _GROUP),
                (_COOKIE, _GROUP),
                (_BEARER, _GROUP),
                (_AUTHORITY, _authority),
                (named, _GROUP),
                (forms, REDACTED),
            )
        )


class Redactor:
    """Takes secrets out of arguments. The answers for short ones are kept."""

    def __init__(self, rules: Rules = NOTHING) -> None:
        """With these rules beside those that are built in."""
        self.follow(rules)

    def follow(self, rules: Rules) -> None:
        """From now on with these rules beside those that are built in."""
        self.rules = rules
        self._options = rules.options
        own = [*rules.names, *rules.words, *rules.options]
        self._own = [each.decode().lower() for each in own]
        self._kept: dict[bytes, bytes] = {}
        self.__dict__.pop("patterns", None)

    @cached_property
    def patterns(self) -> Patterns:
        """Compiled when the first argument may have a secret, which takes milliseconds."""
        return Patterns(self.rules)

    def args(self, raw: bytes) -> bytes:
        """NUL-separated arguments without what is secret; the same object if that is nothing."""
        text = raw.decode("latin-1")
        if not _hinted(text) and not (self._own and any(map(text.lower().__contains__, self._own))):
            return raw
        found = self._kept.get(raw)
        if found is None:
            found = b"\0".join(self._list(raw.split(b"\0"), words=False))
            if len(raw) <= _KEPT_BYTES_MOST:
                if len(self._kept) >= _KEPT_MOST:
                    self._kept.clear()
                self._kept[raw] = found
        return raw if found == raw else found

    def texts(self, texts: list[str]) -> list[str]:
        """The same for a list of arguments as text."""
        raw = "\0".join(texts).encode("utf-8", "surrogateescape")
        found = self.args(raw)
        return texts if found is raw else found.decode("utf-8", "surrogateescape").split("\0")

    def _list(self, parts: list[bytes], *, words: bool) -> list[bytes]:
        """Arguments, or the words of one that is a command line itself, each with what is behind an option."""
        found: list[bytes] = []
        program = option = b""
        login = False
        quote = b""  # of a quoted value that goes on in the next word
        for part in parts:
            if words and (not part or part.isspace()):
                found.append(part)
                continue
            if quote:
                found.append(part[part.find(quote) :] if quote in part else b"")
                quote = b"" if quote in part else quote
                continue
            what, before = self._behind(program, option, login), option
            option = part.strip(b"\"'") if words else part
            if what and not (part.startswith(b"--") and what != _USER_PART):
                found.append(_without_password(part) if what == _USER_PART else REDACTED)
                if words and part[:1] in (b'"', b"'") and part.find(part[:1], 1) < 0:
                    quote = part[:1]
                option = b""
                continue
            name = part.rpartition(b"/")[2] if len(part) <= 256 else b""
            if name in _PROGRAMS:
                program, login = name, False
            login = login or part == b"login"
            found.append(self._one(part, before, program, words=words))
        return found

    def _behind(self, program: bytes, option: bytes, login: bool) -> str:
        """What the argument behind this option is: a secret, a user's name with one, or anything."""
        if not option.startswith(b"-") or b"=" in option or len(option) > 100:
            return ""
        if option in self._options:
            return _WHOLE
        if program:
            if option in _USER_AND.get(program, ()):
                return _USER_PART
            if option in _BEHIND.get(program, ()) and (login or program not in _LOGIN):
                return _WHOLE
        return _WHOLE if len(option) > 2 and self.patterns.ends.match(option) else ""

    def _one(self, part: bytes, before: bytes, program: bytes, *, words: bool) -> bytes:
        """One argument that is not behind an option."""
        told = self._glued(part, program) or self._assigned(part, before, program, words=words)
        if told is not None or words:
            return told or part
        for pattern, shown in self.patterns.steps:
            part = pattern.sub(shown, part)
        if self.patterns.spaces.search(part):
            part = b"".join(self._list(self.patterns.spaces.split(part), words=True))
        return part

    def _glued(self, part: bytes, program: bytes) -> bytes | None:
        """An option of one letter with a secret right behind it, or None."""
        option = part[:2]
        if len(part) == 2 or part[:1] != b"-" or option == b"--":
            return None
        if option in _GLUED.get(program, ()) or option in self._options:
            return option + REDACTED
        if option in _USER_AND.get(program, ()) and b":" in part:
            return option + _without_password(part[2:])
        return None

    def _assigned(self, part: bytes, before: bytes, program: bytes, *, words: bool) -> bytes | None:
        """An argument that gives something its value, if that is a secret; None if not, or if it is a command line."""
        name, equals, value = part.partition(b"=")
        if not equals or not value or len(name) > 100:
            return None
        named = name.lstrip(b"\"'") if words else name
        if named in self._options or self.patterns.ends.match(named):
            return name + equals + REDACTED if words or not self.patterns.shell.fullmatch(before) else None
        if named in _USER_AND.get(program, ()):
            return name + equals + _without_password(value)
        return None


_WHOLE: Final = "whole"  # the argument is a secret
_USER_PART: Final = "user"  # or has one behind a user's name
_GROUP: Final = rb"\1" + REDACTED


def _without_password(part: bytes) -> bytes:
    user, colon, password = part.partition(b":")
    return user + colon + REDACTED if password else part


def _authority(found: re.Match[bytes]) -> bytes:
    """The part of a URL that names the host, without the password in front of it."""
    user, at, host = found[1].rpartition(b"@")
    return b"://" + (_without_password(user) + at + host if at else host)
