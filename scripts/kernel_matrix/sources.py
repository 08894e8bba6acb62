"""Finds the Debian mirror that the system's own apt configuration names."""

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.kernel_matrix.errors import MatrixError

APT = Path("/etc/apt")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
VARIABLE = "TRACER_MATRIX_MIRROR"

_LINE = re.compile(r"\s*deb\s+(?:\[(?P<options>[^\]]*)\]\s+)?(?P<uri>\S+)\s")


class Source(NamedTuple):
    """One archive that apt knows: its address, and the file of its keys or an empty string."""

    uri: str
    keyring: str


def parse_list(text: str) -> Iterator[Source]:
    """The archives of binary packages in a file of the one-line format, see sources.list(5)."""
    for line in text.splitlines():
        match = _LINE.match(line)
        if match:
            options = dict(part.split("=", 1) for part in (match["options"] or "").split() if "=" in part)
            yield Source(match["uri"].rstrip("/"), options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """The archives of binary packages in a file of the deb822 format, see sources.list(5)."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields = _fields(stanza)
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        keys = fields.get("signed-by", "").split()
        # A key may also stand in the field itself, as a block; then the default keyring has to do.
        keyring = keys[0] if keys and keys[0].startswith("/") else ""
        for uri in fields.get("uris", "").split():
            yield Source(uri.rstrip("/"), keyring)


def _fields(stanza: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    name = ""
    for line in stanza.splitlines():
        if line.startswith("#"):
            continue
        if line[:1] in {" ", "\t"}:
            if name:
                fields[name] += f" {line.strip()}"
        elif ":" in line:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields


def find_mirror(sources: Iterable[Source]) -> Source:
    """The first archive that is a Debian mirror: one whose address ends in /debian.

    Raises MatrixError when there is none.
    """
    for source in sources:
        if source.uri.endswith("/debian"):
            return Source(source.uri, source.keyring or KEYRING)
    raise MatrixError(f"no Debian mirror among apt's sources: set {VARIABLE} to the address of one")


def system_mirror(apt: Path = APT) -> Source:
    """The Debian mirror of this machine: $TRACER_MATRIX_MIRROR, or what apt's configuration names.

    Raises MatrixError when there is none, or when the keys of Debian are not installed.
    """
    chosen = os.environ.get(VARIABLE, "")
    mirror = Source(chosen.rstrip("/"), KEYRING) if chosen else find_mirror(_system(apt))
    if not Path(mirror.keyring).exists():
        raise MatrixError(f"{mirror.keyring} is missing: apt-get install debian-archive-keyring")
    return mirror


def _system(apt: Path) -> Iterator[Source]:
    parts = sorted((apt / "sources.list.d").glob("*"))
    for path in (apt / "sources.list", *parts):
        if not path.is_file():
            continue
        if path.suffix == ".sources":
            yield from parse_deb822(path.read_text(errors="replace"))
        elif path.suffix == ".list":
            yield from parse_list(path.read_text(errors="replace"))
