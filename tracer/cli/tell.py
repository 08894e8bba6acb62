"""What a command says of itself while it runs: a line on stderr."""

from __future__ import annotations

import sys

from tracer.formats.text import visible

__all__ = ["tell"]


def tell(line: str) -> None:
    """Say a line, to whoever listens."""
    try:
        if sys.stderr is not None:  # None where it was closed at the start, as by 2>&-
            sys.stderr.write(f"tracer: {visible(line)}\n")
            sys.stderr.flush()
    except OSError:
        pass  # nobody does; the command goes on
