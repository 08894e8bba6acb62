"""`tracer schema`: print the JSON Schema of the lines that the other commands write."""

from __future__ import annotations

import sys
from importlib.resources import files

from tracer.cli.errors import CommandError, Exit

__all__ = ["schema"]


def schema(name: str) -> Exit:
    """Print the schema of a format. Raises CommandError."""
    if name not in ("ecs", "ocsf"):
        raise CommandError(f"--format {name!r}: give ecs or ocsf", Exit.USAGE)
    if sys.stdout is None:
        raise CommandError("stdout is closed", Exit.FAILURE)
    text = files("tracer.formats").joinpath(f"schema_{name}.json").read_text(encoding="utf-8")
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        return Exit.OK  # a normal end
    except OSError as error:
        raise CommandError(f"can't write stdout: {error.strerror}", Exit.FAILURE) from error
    return Exit.OK
