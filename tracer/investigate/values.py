"""What the parts of a bundle have in common: bytes as text, lines of a status, and flags by name."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["device", "fields", "text"]


def text(raw: bytes) -> str:
    """The bytes as UTF-8, what isn't as backslash escapes, as every event has it."""
    return raw.decode("utf-8", "backslashreplace")


def fields(raw: bytes) -> Mapping[str, str]:
    """Lines of ``Name:<blanks>value``, as /proc/PID/status and fdinfo have them."""
    found = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name] = value.strip()
    return found


def device(number: int) -> str:
    """A device number of stat(2) as ``major:minor``."""
    return f"{os.major(number)}:{os.minor(number)}"
