"""The exit codes, and the one exception that ends a command with a line and a code."""

from __future__ import annotations

import enum

__all__ = ["CommandError", "Exit"]


class Exit(enum.IntEnum):
    """What the program's exit code says; documented in the README."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    PRIVILEGE = 3
    UNSUPPORTED = 4
    LOSS = 5
    SANDBOX = 6


class CommandError(Exception):
    """Ends the command: one line for stderr, with the fix, and the exit code."""

    def __init__(self, message: str, code: Exit) -> None:
        """``message`` is what stands behind ``tracer: `` on stderr."""
        super().__init__(message)
        self.code = code
